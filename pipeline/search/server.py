"""The search page's server: one HTML file and three answers in JSON. Listens on loopback unless told otherwise."""

import asyncio
import base64
import contextlib
import hashlib
import ipaddress
import re
import signal
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

import uvicorn
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException

from pipeline.core.errors import DupletError, InputError, TryAgain
from pipeline.core.progress import Say
from pipeline.search import index_store
from pipeline.search.connections import BACKLOG, Connection
from pipeline.search.explain import Explanation, Side, by_words, explain
from pipeline.search.result_format import as_json
from pipeline.search.searcher import Searcher
from pipeline.search.where import MAX_CHARACTERS

MAX_QUERY_CHARACTERS = 2_000
MAX_BODY_BYTES = (
    12 * (MAX_QUERY_CHARACTERS + MAX_CHARACTERS) + 4096
)  # JSON may write a character as two escapes of six letters
MAX_RESULTS = 100
AT_ONCE = 2  # queries answered at the same time
MAX_WAITING = 256  # more are told to come again
WAIT_S = 30.0
RETRY_AFTER_S = 1
LOOK_S = 1.0  # how often the files of the index that is open are looked at
CHANGED = "the index has changed since this search: search again"
EXAMPLE = 'send such as {"query": "sort a list", "k": 10, "mode": "hybrid"}'
SERVED = "there are GET /, /health, /api/about and /document, POST /api/search and /api/explain"
EXAMPLES = 5  # queries on the empty page
PAGE = Path(__file__).with_name("page.html")

T = TypeVar("T")
Scope = dict[str, Any]
App = Callable[[Scope, Callable[[], Awaitable[Any]], Callable[[Any], Awaitable[None]]], Awaitable[None]]


class Asked(BaseModel):
    model_config = ConfigDict(extra="forbid")

    query: str = Field(min_length=1, max_length=MAX_QUERY_CHARACTERS)
    k: int = Field(10, ge=1, le=MAX_RESULTS)
    mode: Literal["model", "hybrid", "words"] | None = None  # None: the one that validation found best
    where: str | None = Field(None, max_length=MAX_CHARACTERS)


class AskedWhy(BaseModel):
    model_config = ConfigDict(extra="forbid")

    query: str = Field(min_length=1, max_length=MAX_QUERY_CHARACTERS)
    index: str | None = Field(None, max_length=100)  # the id in the search's answer
    generation: int
    passage_row: int = Field(ge=0)


class Desk:
    """The searcher of the newest generation, and a bounded line of those who wait for an answer.

    Args:
        open_searcher: opens the index and its model; called again when the index has a new generation.
    """

    def __init__(self, index: Path, open_searcher: Callable[[], Searcher]) -> None:
        self._index, self._open = index, open_searcher
        self._searcher = open_searcher()
        self._changing = threading.Lock()
        self._other_indexes = 0  # the highest generation of indexes that lay here before, removed and built anew
        self._looked = time.monotonic()
        self._places = asyncio.Semaphore(AT_ONCE)
        self._waiting = 0

    @property
    def searcher(self) -> Searcher:
        """The newest generation's; the one before while that cannot be read, or belongs to another model.

        Raises:
            InputError: a file of what is open was cut short in its place: to read it would end the process.
        """
        if not self._is_current() and self._changing.acquire(blocking=False):
            try:
                before, snapshot = self._searcher.snapshot.state, index_store.open_snapshot(self._index)
                same = _models_of(snapshot.state) == _models_of(before)
                self._searcher = self._searcher.over(snapshot) if same else self._open()
                if self._searcher.snapshot.state.id != before.id:
                    self._other_indexes = max(self._other_indexes, before.generation)
            except DupletError:
                pass  # being replaced, or gone: what is open still answers
            finally:
                self._changing.release()
        searcher = self._searcher
        if time.monotonic() - self._looked > LOOK_S:
            searcher.snapshot.check_files()
            self._looked = time.monotonic()
        return searcher

    def _is_current(self) -> bool:
        try:
            return index_store.read_state(self._index).version == self._searcher.snapshot.state.version
        except InputError:
            return True

    def check(self, searcher: Searcher, index: str | None, generation: int) -> None:
        """Raises InputError unless rows of that generation of that index are rows of the searcher's.

        Without the index's id, a generation that another index has had here too may be that one's.
        """
        state, other = searcher.snapshot.state, index is None and generation <= self._other_indexes
        if other or generation != state.generation or index not in (None, state.id):
            raise InputError(CHANGED)

    async def serve(self, work: Callable[[Searcher], T]) -> T:
        """Runs `work` in a thread when it is its turn. Raises TryAgain when the line is too long."""
        if self._waiting >= MAX_WAITING:
            raise TryAgain("too many queries at once: try again in a moment")
        self._waiting += 1
        try:
            await asyncio.wait_for(self._places.acquire(), WAIT_S)
        except TimeoutError:
            raise TryAgain("too many queries at once: try again in a moment") from None
        finally:
            self._waiting -= 1
        try:
            return await asyncio.to_thread(lambda: work(self.searcher))
        finally:
            self._places.release()


def _models_of(state: index_store.State) -> tuple[Any, ...]:
    """What a searcher is opened with beside the index; without a model, what cuts texts into words is of its own."""
    return state.model, state.settings.tokens, state.settings.rerank


def application(index: Path, open_searcher: Callable[[], Searcher], hosts: frozenset[str] | None = None) -> App:
    """The ASGI application.

    Args:
        hosts: names that a request's Host header may give, so that a page elsewhere cannot reach it through a name of
            its own that it points here; None: any.
    """
    desk = Desk(index, open_searcher)
    page = PAGE.read_text(encoding="utf-8")
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)

    @app.get("/")
    async def home() -> Response:
        return HTMLResponse(page)

    @app.get("/health")
    async def health() -> dict[str, Any]:
        searcher = await asyncio.to_thread(lambda: desk.searcher)  # it may open a new generation
        state = searcher.snapshot.state
        head = state.model.head if state.model else None
        return {
            "status": "ok", "index": state.id, "name": state.name,
            "generation": state.generation, "documents": state.counts["documents"],
            "model": state.model.key if state.model else None, "head": head,
            "aligned": searcher.encoder.config.model.scored_by.index == "tokens", "best": searcher.best_mode,
        }  # fmt: skip

    @app.get("/api/about")
    async def about() -> dict[str, Any]:
        return await desk.serve(_about)

    @app.get("/document")
    async def document(index: str, generation: int, passage_row: int) -> PlainTextResponse:
        text = await desk.serve(lambda searcher: _document(desk, searcher, index, generation, passage_row))
        return PlainTextResponse(text)

    @app.post("/api/search")
    async def search(asked: Asked) -> dict[str, Any]:
        return await desk.serve(lambda searcher: _search(searcher, asked))

    @app.post("/api/explain")
    async def why(asked: AskedWhy) -> dict[str, Any]:
        return await desk.serve(lambda searcher: _explain(desk, searcher, asked))

    @app.exception_handler(RequestValidationError)
    async def refused(_: Request, error: RequestValidationError) -> JSONResponse:
        return JSONResponse({"error": _sentence(error)}, 422)

    @app.exception_handler(HTTPException)
    async def not_served(request: Request, error: HTTPException) -> JSONResponse:
        where = f"{request.method} {request.url.path[:100]}"
        told = f"{where} is not served here: {SERVED}"
        if error.status_code not in (404, 405):  # of a body that cannot be read: too deep, no UTF-8, a vast number
            told = f"the body cannot be read as JSON: {EXAMPLE}"
        return JSONResponse({"error": told}, error.status_code, error.headers)

    @app.exception_handler(DupletError)
    async def failed(_: Request, error: DupletError) -> JSONResponse:
        busy = isinstance(error, TryAgain)
        headers = {"Retry-After": str(RETRY_AFTER_S)} if busy else None
        return JSONResponse({"error": str(error)}, 503 if busy else 422, headers)

    return Guard(app, policy(page), hosts)


def _search(searcher: Searcher, asked: Asked) -> dict[str, Any]:
    answer = searcher.search(asked.query, asked.k, asked.mode, asked.where)
    state = searcher.snapshot.state
    return {"index": state.id, "generation": state.generation, **as_json(answer)}


def _about(searcher: Searcher) -> dict[str, Any]:
    """What the page says before a query is asked."""
    state = searcher.snapshot.state
    return {
        "name": state.name, "documents": state.counts["documents"], "model": state.model is not None,
        "best": searcher.best_mode, "evaluated": state.settings.model_scale is not None,
        "choices": searcher.fields.choices(), "examples": searcher.examples(EXAMPLES),
    }  # fmt: skip


def _document(desk: Desk, searcher: Searcher, index: str, generation: int, passage_row: int) -> str:
    """The whole document of a passage, below its title."""
    desk.check(searcher, index, generation)
    document = searcher.document_of(passage_row)
    return f"{document.title}\n\n{document.text}" if document.title else document.text


def _explain(desk: Desk, searcher: Searcher, asked: AskedWhy) -> dict[str, Any]:
    desk.check(searcher, asked.index, asked.generation)
    text, snapshot = searcher.passage_text(asked.passage_row), searcher.snapshot
    if snapshot.state.model is None:
        return explanation_json(by_words(snapshot.words, searcher.encoder, asked.query, text))
    return explanation_json(explain(searcher.encoder, asked.query, text))


def explanation_json(explanation: Explanation) -> dict[str, Any]:
    """Links to three digits: a quarter of the bytes, and all that a picture shows."""
    side_json = lambda side: {
        "text": side.text,
        "pieces": [list(piece) for piece in side.pieces],
        "weights": side.weights,
    }
    query: Side = explanation.query
    return {
        "kind": explanation.kind, "score": explanation.score,
        "query": side_json(query), "document": side_json(explanation.document),
        "links": [[round(float(value), 3) for value in row] for row in explanation.links],
    }  # fmt: skip


def _sentence(error: RequestValidationError) -> str:
    """What is wrong with a request, without its content."""
    first = error.errors()[0]
    if first["type"] == "json_invalid" or first["loc"] == ("body",):
        return f"the body is not a JSON object of the type application/json: {EXAMPLE}"
    name = str(first["loc"][-1]) if first["loc"] else "request"
    if name == "query" and first["type"] == "string_too_long":
        return f"the query is too long: at most {MAX_QUERY_CHARACTERS:,} characters"
    if name == "query" and first["type"] == "string_too_short":
        return "the query is empty: give at least a word"
    return f"{name}: {first['msg']}"


# --- what holds for every request -------------------------------------------------------------------------------------
def policy(page: str) -> str:
    """The Content-Security-Policy: the page's own script and style by their hashes, its own answers, nothing else."""
    hashed = lambda tag: " ".join(
        f"'sha256-{base64.b64encode(hashlib.sha256(part.encode()).digest()).decode()}'"
        for part in re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
    )
    return (
        f"default-src 'none'; script-src {hashed('script')}; style-src {hashed('style')}; connect-src 'self'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


class Guard:
    """Security headers on every answer; requests with a foreign Host or too large a body are refused."""

    def __init__(self, app: Any, content_policy: str, hosts: frozenset[str] | None) -> None:
        self._app, self._hosts = app, hosts
        headers = {
            "Content-Security-Policy": content_policy,
            "X-Content-Type-Options": "nosniff",
            "X-Frame-Options": "DENY",
            "Referrer-Policy": "no-referrer",
            "Cross-Origin-Opener-Policy": "same-origin",
            "Cross-Origin-Resource-Policy": "same-origin",
            "Cache-Control": "no-store",
        }
        self._headers = [(name.lower().encode(), value.encode()) for name, value in headers.items()]

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Any) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", []), *self._headers]}
            await send(message)

        headers = dict(scope["headers"])
        if self._hosts is not None and _host(headers) not in self._hosts:
            await _refuse(421, "this name is not served here: open the address that duplet search printed")(
                scope, receive, send_with_headers
            )
            return
        body = await _body(headers, receive)
        if body is None:
            text = f"the request is too large: a query has at most {MAX_QUERY_CHARACTERS:,} characters"
            await _refuse(413, text)(scope, receive, send_with_headers)
            return
        await self._app(scope, _replayed(body, receive), send_with_headers)


def _host(headers: Mapping[bytes, bytes]) -> str:
    """The Host header's name, without its port and the brackets of IPv6."""
    return re.sub(r":\d+$", "", headers.get(b"host", b"").decode("latin-1")).strip("[]").lower()


async def _body(headers: Mapping[bytes, bytes], receive: Any) -> bytes | None:
    """The whole body; None where it is over the limit, of which no more than that is held."""
    declared = headers.get(b"content-length", b"0")
    if not declared.isdigit() or int(declared) > MAX_BODY_BYTES:
        return None
    body, more = b"", True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            break
        body += message.get("body", b"")
        more = message.get("more_body", False)
        if len(body) > MAX_BODY_BYTES:
            return None
    return body


def _replayed(body: bytes, receive: Any) -> Callable[[], Awaitable[Any]]:
    body_read = False

    async def again() -> Any:
        nonlocal body_read
        if body_read:
            return await receive()
        body_read = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


def _refuse(status: int, sentence: str) -> Any:
    return JSONResponse({"error": sentence}, status, {"Connection": "close"} if status == 413 else None)


# --- running ----------------------------------------------------------------------------------------------------------
def hosts_of(host: str) -> frozenset[str] | None:
    """The names under which a server bound to `host` is called; None (any) where it listens on all addresses."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return frozenset({host.lower(), "localhost", "127.0.0.1", "::1"})
    if address.is_unspecified:
        return None
    return frozenset({str(address), *({"localhost", "127.0.0.1", "::1"} if address.is_loopback else ())})


def serve(index: Path, host: str, port: int, say: Say, open_searcher: Callable[[], Searcher]) -> None:
    """Serves until SIGINT or SIGTERM. Raises InputError where the address cannot be listened on."""
    app = application(index, open_searcher, hosts_of(host))
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listener = socket.socket(family)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
    except (OSError, OverflowError) as error:
        raise InputError(
            f"cannot listen on {host}:{port} ({error}): give another --port (0: any free one) or --host"
        ) from None
    bound = listener.getsockname()[1]
    shown = f"[{host}]" if ":" in host else host
    config = uvicorn.Config(
        app, http=Connection, ws="none", log_level="warning", access_log=False, server_header=False,
        timeout_keep_alive=10, timeout_graceful_shutdown=5, backlog=BACKLOG,
    )  # fmt: skip
    _Server(config, say, f"http://{shown}:{bound}/ (Ctrl-C ends it)").run(sockets=[listener])


class _Server(uvicorn.Server):
    """Says where it listens once it does, and ends quietly."""

    def __init__(self, config: uvicorn.Config, say: Say, announced: str) -> None:
        super().__init__(config)
        self._say, self._announced, self._told = say, announced, False

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """As uvicorn's, but a server that was asked to stop and did has not failed: the signal is not raised again."""
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        asyncio.get_running_loop().set_exception_handler(self._tell)
        self._say(self._announced)

    def _tell(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """asyncio tells of each connection that cannot be accepted, hundreds of times a second; once is enough."""
        if "accept" not in str(context.get("message")):
            loop.default_exception_handler(context)
        elif not self._told:
            self._told = True
            self._say(f"new connections wait: {context.get('exception')}; raise the limit of open files (ulimit -n)")
