"""Connections that are slow or too many: each has a deadline for its whole request, and their number has a bound."""

import asyncio
import resource

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

REQUEST_S = 10.0  # for a whole request, headers and body; also how long a connection may wait for its next one
WRITE_S = 60.0  # for the reader of an answer to take what the system does not hold for it
MAX_CONNECTIONS = 384
BACKLOG = 256  # connections that the system keeps for us, and that asyncio accepts in one go
OTHER_FILES = 128  # file descriptors that are left to all else


class Connection(H11Protocol):
    """uvicorn's, with deadlines. At the bound, the one that has kept us waiting longest makes room for a new one.

    So half requests, however many, shut nobody out: they are closed at their deadline, or for others' sake before.
    """

    _timer: asyncio.TimerHandle | None = None  # None: it is our turn
    _since = 0.0  # when its deadline began

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > most():
            slow = [
                connection
                for connection in self.connections
                if isinstance(connection, Connection) and connection._timer is not None
            ]
            longest = min(slow, key=lambda connection: connection._since, default=self)
            self.connections.discard(longest)
            longest.transport.abort()
        self._give_time(REQUEST_S)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._end_time_of_whole_request()

    def on_response_complete(self) -> None:
        if not self.flow.write_paused:
            self._give_time(REQUEST_S)
        super().on_response_complete()
        self._end_time_of_whole_request()  # of one that came right behind

    def connection_lost(self, exc: Exception | None) -> None:
        self._give_time(None)
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        self._give_time(WRITE_S)
        super().pause_writing()

    def resume_writing(self) -> None:
        self._give_time(REQUEST_S if self.cycle is None or self.cycle.response_complete else None)
        super().resume_writing()

    def _end_time_of_whole_request(self) -> None:
        if self.conn.their_state not in (h11.IDLE, h11.SEND_BODY) and not self.flow.write_paused:
            self._give_time(None)

    def _give_time(self, seconds: float | None) -> None:
        """Ends the connection after so long; None: not, as its request is being answered."""
        if self._timer is not None:
            self._timer.cancel()
        self._since = self.loop.time()
        self._timer = None if seconds is None else self.loop.call_later(seconds, self.transport.abort)


def most() -> int:
    """How many connections are held at once: MAX_CONNECTIONS, or as many as the process may have files open.

    Beside them there may be as many as are accepted in one go, and as many that are just being closed.
    """
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if allowed == resource.RLIM_INFINITY:
        return MAX_CONNECTIONS
    return max(8, min(MAX_CONNECTIONS, allowed - OTHER_FILES - 2 * BACKLOG))
