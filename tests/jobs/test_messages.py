"""Messages to real servers on the loopback: ones that take them, refuse, hang, and drip."""

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult

from jobs import clock, messages, nights
from jobs import schedule as schedules
from jobs.commands import schedule as verb
from jobs.nights import Verdict
from jobs.schedule import Schedule
from jobs.spec import JobSpec
from pipeline.config import MessagesConfig
from pipeline.core.errors import DupletError, InputError
from pipeline.tracking import channels
from pipeline.tracking.channels import Message

MESSAGE = Message("faq", "2026-11-24T02:00", 3, "not promoted: <worse> & older", "duplet ui 1a", "/runs/log", "here")


class Hook(ThreadingHTTPServer):
    """A server that keeps what is posted; `answer`: the code, or "hang", "drip", "elsewhere"."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.daemon_threads = True
        self.answer: int | str = 200
        self.got: list[tuple[str, str, Any]] = []
        self.over = threading.Event()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/services/T0/B0/hidden"


class _Handler(BaseHTTPRequestHandler):
    server: Hook

    def log_message(self, *_: Any) -> None:
        pass

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.got.append((self.command, self.path, json.loads(body) if body else None))
        if self.server.answer == "hang":
            self.server.over.wait(60)
        elif self.server.answer == "drip":
            while not self.server.over.wait(0.2):
                self.wfile.write(b"X-More: again\r\n" if self.requestline == "" else b"HTTP/1.1 200 OK\r\nX: y\r\n")
                self.requestline = ""
        elif self.server.answer == "elsewhere":
            self.send_response(302)
            self.send_header("Location", "/other")
            self.end_headers()
        else:
            self.send_response(int(self.server.answer))
            self.end_headers()

    do_GET = do_POST


@pytest.fixture
def hook() -> Iterator[Hook]:
    server = Hook()
    yield server
    server.over.set()
    server.shutdown()
    server.server_close()


class Mails:
    """A mail server's handler that keeps what comes; `refusal`: what it says instead."""

    def __init__(self) -> None:
        self.got: list[Any] = []
        self.refusal = ""

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        if self.refusal:
            return self.refusal
        self.got.append(envelope)
        return "250 taken"


def mail_server(handler: Mails, **options: Any) -> Controller:
    """A mail server that listens; aiosmtpd wants to know its port before."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = Controller(handler, hostname="127.0.0.1", port=port, **options)
    server.start()
    return server


@pytest.fixture
def mails() -> Iterator[tuple[Mails, dict[str, Any]]]:
    """The handler, and the settings that lead to it."""
    handler = Mails()
    server = mail_server(handler)
    yield handler, {"host": "127.0.0.1", "port": server.port, "security": "none", "to": ["a@b.c", "d@e.f"]}
    server.stop()


@pytest.fixture
def nightly(job_spec: Callable[..., JobSpec], tmp_path: Path) -> Schedule:
    made = schedules.check({
        "name": "faq", "cron": "0 2 * * *", "target": "cron", "zone": "UTC", "created": "2026-11-20T12:00+00:00",
        "job": job_spec(root=str(tmp_path / "runs"), overrides=[]).model_dump(mode="json"),
    })  # fmt: skip
    schedules.save(made)
    return made


def way(name: str, **settings: Any) -> Callable[[Message], None]:
    return dict(channels.named(MessagesConfig(**settings)))[name]


# --- ways -------------------------------------------------------------------------------------------------------------
def test_slack_and_plain_forms(hook: Hook) -> None:
    assert channels.send(way("slack", slack=hook.address), MESSAGE) is None
    assert channels.send(way("webhook", webhook=hook.address), MESSAGE) is None
    (_, path, slack), (_, _, plain) = hook.got
    assert path == "/services/T0/B0/hidden" and list(slack) == ["text"]
    assert slack["text"] == (
        "*Duplet faq 2026-11-24T02:00: exit 3*\nnot promoted: &lt;worse&gt; &amp; older\nrun: duplet ui 1a\n"
        "log: here:/runs/log"
    )
    assert plain == {
        "schedule": "faq", "due": "2026-11-24T02:00", "exit_code": 3, "reason": "not promoted: <worse> & older",
        "run": "duplet ui 1a", "log": "/runs/log", "host": "here",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (500, "answers 500"),
        (404, "answers 404"),
        ("elsewhere", "answers 302"),
        ("hang", "does not answer (TimeoutError"),
    ],
)
def test_an_endpoint_that_fails_is_a_word_and_never_shows_its_secret(
    hook: Hook, monkeypatch: pytest.MonkeyPatch, answer: int | str, problem: str
) -> None:
    monkeypatch.setattr(channels, "ANSWER_S", 0.5)
    hook.answer = answer
    said = channels.send(way("slack", slack=hook.address), MESSAGE)
    assert said is not None and problem in said and "hidden" not in said
    assert [command for command, *_ in hook.got] == ["POST"]  # nothing was asked of the other address


def test_an_endpoint_that_drips_is_left(hook: Hook, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channels, "WHOLE_S", 1.0)
    hook.answer = "drip"
    assert channels.send(way("webhook", webhook=hook.address), MESSAGE) == "did not end within 1 s"


def test_nobody_listens() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{taken.getsockname()[1]}/x"
        assert "does not answer (ConnectionRefusedError" in (
            channels.send(way("webhook", webhook=address), MESSAGE) or ""
        )


def test_mail(mails: tuple[Mails, dict[str, Any]]) -> None:
    handler, settings = mails
    assert channels.send(way("mail", mail=settings), MESSAGE._replace(reason="worse: ü")) is None
    [envelope] = handler.got
    assert (envelope.mail_from, envelope.rcpt_tos) == ("a@b.c", ["a@b.c", "d@e.f"])
    text = envelope.content.decode()
    assert "Subject: Duplet faq 2026-11-24T02:00: exit 3" in text and "duplet ui 1a" in text
    handler.refusal = "550 no mail from you"
    said = channels.send(way("mail", mail=settings), MESSAGE)
    assert said == f"mail server 127.0.0.1:{settings['port']} refuses (550 no mail from you)"


def test_a_mail_server_without_the_safety_that_is_asked_for(mails: tuple[Mails, dict[str, Any]]) -> None:
    handler, settings = mails
    said = channels.send(way("mail", mail={**settings, "security": "starttls", "user": "ann"}), MESSAGE) or ""
    assert "cannot be used (SMTPNotSupportedError" in said and not handler.got


def test_a_password_comes_from_its_variable_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that takes a login without TLS stands in for one with it."""
    seen: list[Any] = []

    def login(_: Any, session: Any, envelope: Any, mechanism: str, data: Any) -> AuthResult:
        seen.append((data.login, data.password))
        return AuthResult(success=data.password == b"open sesame", handled=False)

    handler = Mails()
    server = mail_server(handler, authenticator=login, auth_require_tls=False)
    try:
        monkeypatch.setattr(channels.smtplib.SMTP, "starttls", lambda self, context: None)
        ours = way("mail", mail={"host": "127.0.0.1", "port": server.port, "to": ["a@b.c"], "user": "ann"})
        monkeypatch.delenv(channels.PASSWORD, raising=False)
        assert channels.PASSWORD in (channels.send(ours, MESSAGE) or "")
        monkeypatch.setenv(channels.PASSWORD, "shut")
        assert "refuses (535" in (channels.send(ours, MESSAGE) or "")
        monkeypatch.setenv(channels.PASSWORD, "open sesame")
        assert channels.send(ours, MESSAGE) is None
    finally:
        server.stop()
    assert {*seen} == {(b"ann", b"shut"), (b"ann", b"open sesame")}  # a refusal is met with another form of login
    assert len(handler.got) == 1


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"slack": "hooks.slack.com/x"}, "must be an address"),
        ({"mail": {"host": "h"}}, "to must name an address"),
        ({"mail": {"host": "h", "to": ["ann"]}}, "'ann' is not a mail address"),
        ({"mail": {"host": "h", "to": ["a@b.c"], "user": "ann", "security": "none"}}, "in the clear"),
        ({"verdict_by": "8:00"}, "must be a time such as 08:00"),
    ],
)
def test_settings_that_make_no_sense(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        MessagesConfig.model_validate(settings)


# --- the spool --------------------------------------------------------------------------------------------------------
def test_a_date_has_one_message_and_each_way_gets_it_once(nightly: Schedule, hook: Hook) -> None:
    said: list[str] = []
    both = MessagesConfig(slack=hook.address, webhook=hook.address)
    assert messages.add(nightly, "2026-11-23T02:00", 75, "no data", nightly.job, None)
    assert not messages.add(nightly, "2026-11-23T02:00", 2, "another word", nightly.job, None)
    hook.answer = 500
    assert messages.send(nightly, both, said.append) == 1
    assert len(said) == 2 and "slack does not take messages (127.0.0.1" in said[0]
    assert messages.add(nightly, "2026-11-24T02:00", 3, "worse", nightly.job, None)
    asked = len(hook.got)
    assert messages.send(nightly, both, said.append) == 2
    assert len(hook.got) == asked + 2  # one try for each way: the second message does not wait for it again
    hook.answer, hook.got = 200, []
    assert messages.send(nightly, both, said.append) == 0
    assert messages.send(nightly, both, said.append) == 0
    assert len(hook.got) == 4 and {body.get("due") for *_, body in hook.got} == {
        None, "2026-11-23T02:00", "2026-11-24T02:00",
    }  # fmt: skip


def test_after_a_week_a_message_is_left(nightly: Schedule, hook: Hook, monkeypatch: pytest.MonkeyPatch) -> None:
    messages.add(nightly, "2026-11-23T02:00", 75, "no data", nightly.job, None)
    later = time.time() + messages.LASTS_S + 1
    monkeypatch.setattr(clock, "seconds", lambda: later)
    assert messages.send(nightly, MessagesConfig(webhook=hook.address), pytest.fail) == 0 and not hook.got


def test_only_nights_that_were_not_normal(nightly: Schedule, hook: Hook, monkeypatch: pytest.MonkeyPatch) -> None:
    ends = {21: (0, 0), 22: (3, 0), 23: (0, 1), 24: (75, 0)}

    def one(_: Schedule, when: datetime, began: Verdict, patient: bool, say: object) -> Verdict:
        code, restarts = ends.get(when.day, (0, 0))
        return began._replace(exit_code=code, reason="so it was", restarts=restarts)

    monkeypatch.setattr(nights, "_one", one)
    for day in range(21, 27):
        monkeypatch.setattr(Schedule, "now", lambda _, day=day: datetime(2026, 11, day, 2, 0, 1))
        with contextlib.suppress(DupletError):
            nights.run(nightly, None, lambda _: None)
        messages.send(nightly, MessagesConfig(webhook=hook.address), pytest.fail)
    told = [(body["due"][8:10], body["exit_code"], body["reason"]) for *_, body in hook.got]
    assert told == [
        ("22", 3, "so it was"), ("23", 0, "so it was; the training was started again 1 times"), ("24", 75, "so it was"),
    ]  # fmt: skip


# --- the dead man's switch --------------------------------------------------------------------------------------------
def test_no_verdict_by_eight(
    nightly: Schedule, hook: Hook, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = nightly.job.config_text + f"nights: {{messages: {{webhook: '{hook.address}', verdict_by: '08:00'}}}}\n"
    found = nightly.model_copy(update={"job": nightly.job.model_copy(update={"config_text": text})})
    schedules.save(found)
    arguments = ["schedule", "check", "faq", "--root", nightly.job.root]
    monkeypatch.setattr(Schedule, "now", lambda _: datetime(2026, 11, 24, 8, 0))
    from pipeline.cli.main import main

    nights.note(found.folder, Verdict("2026-11-23T02:00", "j", 0, "", 1.0, {}))
    assert main(arguments) == 1
    assert "no verdict by 08:00: the night did not begin" in capsys.readouterr().out
    [(_, _, body)] = hook.got
    assert (body["due"], body["exit_code"]) == ("2026-11-24T02:00", 1)
    assert main(arguments) == 1 and len(hook.got) == 1  # once
    nights.note(found.folder, Verdict("2026-11-24T02:00", "j", 75, nights.BEGAN, 1.0, {}))
    assert main(arguments) == 1 and "began, and was killed" in capsys.readouterr().out
    nights.note(found.folder, Verdict("2026-11-24T02:00", "j", 75, "no data", 1.0, {}))
    assert main(arguments) == 0
    monkeypatch.setattr(Schedule, "now", lambda _: datetime(2026, 11, 20, 13, 0))
    assert main(arguments) == 0  # no date was due yet


def test_a_monitor_is_told_of_a_verdict_and_of_nothing_else(
    nightly: Schedule, hook: Hook, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = nightly.job.config_text + f"nights: {{messages: {{ping: '{hook.address}'}}}}\n"
    found = nightly.model_copy(update={"job": nightly.job.model_copy(update={"config_text": text})})
    monkeypatch.setattr(Schedule, "now", lambda _: datetime(2026, 11, 24, 2, 5))
    nights.note(found.folder, Verdict("2026-11-24T02:00", "j", 75, nights.BEGAN, 1.0, {}))
    verb._send(found, pytest.fail)
    assert not hook.got
    nights.note(found.folder, Verdict("2026-11-24T02:00", "j", 3, "worse", 1.0, {}))
    verb._send(found, pytest.fail)
    assert [(command, path) for command, path, _ in hook.got] == [("GET", "/services/T0/B0/hidden")]
    hook.answer, said = 500, list[str]()
    verb._send(found, said.append)
    assert len(said) == 1 and "was not told: 127.0.0.1" in said[0]


def test_the_addresses_are_in_no_settings_that_are_shown() -> None:
    from pipeline.config import check_config

    given = {"name": "x", "ingest": {"source": {"format": "tsv", "path": "x"}}}
    settings = {"slack": "https://hooks.slack.com/services/T/B/xyzzy", "ping": "https://hc.example.com/xyzzy"}
    shown = check_config({**given, "nights": {"messages": settings}}, "x").shown
    assert "xyzzy" not in json.dumps(shown)
    assert check_config(shown, "as it was kept").nights.messages.slack == "https://hooks.slack.com/***"
    with pytest.raises(InputError):
        check_config({**given, "nights": {"messages": {"slack": "x"}}}, "x")
