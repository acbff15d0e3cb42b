"""`duplet ask` with a language model's server of our own: what it is sent, what it may answer, and when it does not."""

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from pipeline.search import answers
from pipeline.search.documents import Document
from tests.conftest import last_json
from tests.search.test_commands import run
from tests.search.test_words_alone import put


class Language:
    """A server that answers /v1/chat/completions by `answer`, and keeps what it was sent."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, Any], str | None]] = []
        self.answer: Callable[[BaseHTTPRequestHandler], None] = lambda _: None
        language = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                language.asked.append((self.path, body, self.headers.get("Authorization")))
                language.answer(self)

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.address = f"http://127.0.0.1:{self.server.server_port}/v1"

    def says(self, text: Any, status: int = 200) -> None:
        content = json.dumps({"choices": [{"message": {"role": "assistant", "content": text}}]}).encode()
        self.sends(content, status)

    def sends(self, content: bytes, status: int = 200, **headers: str) -> None:
        def answer(handler: BaseHTTPRequestHandler) -> None:
            handler.send_response(status)
            for name, value in {"Content-Length": str(len(content)), **headers}.items():
                handler.send_header(name, value)
            handler.end_headers()
            handler.wfile.write(content)

        self.answer = answer


@pytest.fixture
def language(monkeypatch: pytest.MonkeyPatch) -> Iterator[Language]:
    for name in ("DUPLET_LLM_ADDRESS", "DUPLET_LLM_MODEL", "DUPLET_LLM_KEY"):
        monkeypatch.delenv(name, raising=False)
    made = Language()
    yield made
    made.server.shutdown()
    made.server.server_close()


@pytest.fixture
def index(tmp_path: Path) -> Path:
    put(tmp_path / "index", [
        Document("moon", "Tides", "The moon makes the tide."), Document("wing", "", "A wing makes lift."),
        Document("tide", "", "A tide table tells when the tide is high."),
    ])  # fmt: skip
    return tmp_path / "index"


def test_without_a_language_model_the_passages_are_the_answer(index: Path, language: Language) -> None:
    done = run("ask", index, "what makes the tide")
    assert done.returncode == 0 and "The moon makes the tide." in done.stdout and done.stderr == ""
    assert language.asked == []


def test_an_answer_cites_the_passages_it_was_sent(
    index: Path, language: Language, monkeypatch: pytest.MonkeyPatch
) -> None:
    language.says("The moon [1], twice a day [7].")
    monkeypatch.setenv("DUPLET_LLM_ADDRESS", language.address + "/")
    monkeypatch.setenv("DUPLET_LLM_KEY", "s3cret")
    done = run("ask", index, "what makes the tide", "--llm-model", "small", "--k", 2)
    assert done.returncode == 0
    assert done.stdout.startswith(
        "The moon [1], twice a day [7].\n(it cites [7], of which there is no passage)\n\n  1 "
    )
    [(path, body, key)] = language.asked
    assert (path, body["model"], key) == ("/v1/chat/completions", "small", "Bearer s3cret")
    asked = body["messages"][1]["content"]
    assert "[1] Tides\nThe moon makes the tide." in asked and "[2] tide\nA tide table" in asked and "[3]" not in asked
    assert asked.endswith("Question: what makes the tide")
    found = last_json(run("ask", index, "what makes the tide", "--llm", language.address, "--json"))
    assert found["answer"] == {"text": "The moon [1], twice a day [7].", "cited": [1], "unknown": [7]}
    language.says("No idea.")
    assert "(it cites no passage: check it)" in run("ask", index, "the tide", "--llm", language.address).stdout


def test_a_language_model_that_fails_leaves_the_passages(index: Path, language: Language) -> None:
    cases: list[tuple[Callable[[], None], str]] = [
        (lambda: language.says("x", 500), "refused with status 500"),
        (lambda: language.says("  "), "gave an empty answer"),
        (lambda: language.says(["a"]), "gave an empty answer"),
        (lambda: language.sends(b"<html>"), "gave an answer of another form"),
        (lambda: language.sends(b'{"choices": []}'), "gave an answer of another form"),
        (lambda: language.sends(b"[" * 100_000), "gave an answer of another form"),
        (lambda: language.sends(b"x" * (2 << 20)), "answers with more than 1 MiB"),
        (lambda: language.sends(b"", 302, Location="http://127.0.0.1:9/steal"), "refused with status 302"),
        (lambda: setattr(language, "answer", lambda _: time.sleep(2)), "did not answer within 0.3 s"),
        (lambda: setattr(language, "answer", drips), "did not answer within 0.3 s"),
        (lambda: setattr(language, "answer", lambda h: h.wfile.write(b"HELLO\r\n\r\n")), "gave an answer of another"),
        (lambda: language.sends(b'{"choices', **{"Content-Length": "99"}), "gave an answer of another form"),
        (
            lambda: setattr(language, "answer", lambda h: h.wfile.write(b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 200)),
            "gave an answer of another form",
        ),
    ]
    for prepare, sentence in cases:
        prepare()
        wait = 0.3 if "did not answer" in sentence else 30
        done = run("ask", index, "what makes the tide", "--llm", language.address, "--timeout", wait)
        assert done.returncode == 0 and "The moon makes the tide." in done.stdout, sentence
        assert sentence in done.stderr and "here are the passages alone" in done.stderr, done.stderr


def drips(handler: BaseHTTPRequestHandler) -> None:
    """A byte in time for every single read, for two seconds."""
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    for _ in range(20):
        handler.wfile.write(b" ")
        time.sleep(0.1)


@pytest.mark.parametrize(("key", "sent"), [(" s3cret-key\n", "Bearer s3cret-key"), ("", None), ("  ", None)])
def test_a_key_is_sent_without_the_blanks_around_it(
    key: str, sent: str | None, index: Path, language: Language, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DUPLET_LLM_KEY", key)
    language.says("The moon [1].")
    assert run("ask", index, "the tide", "--llm", language.address).returncode == 0
    assert language.asked[0][2] == sent


@pytest.mark.parametrize("key", ["s3cret\nkey", "s3cret key", "s3crét-key", "s3cret\x7fkey"])
def test_a_key_that_no_header_can_hold_is_refused_and_not_shown(
    key: str, index: Path, language: Language, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DUPLET_LLM_KEY", key)
    done = run("ask", index, "the tide", "--llm", language.address)
    assert done.returncode == 2 and "the language model's key holds a blank" in done.stderr
    assert "s3cr" not in done.stdout + done.stderr and language.asked == []


def test_neither_key_nor_password_is_shown(index: Path, language: Language, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DUPLET_LLM_KEY", "s3cret-key")

    def repeats(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(401, f"bad {handler.headers['Authorization']}")
        handler.end_headers()

    language.answer = repeats
    done = run("ask", index, "the tide", "--llm", language.address, "--json")
    assert "refused with status 401 (bad Bearer ***)" in done.stderr and "s3cret" not in done.stdout + done.stderr
    done = run("ask", index, "the tide", "--llm", "http://ann:s3cret-word@127.0.0.1:9/v1")
    assert done.returncode == 0 and "http://***@127.0.0.1:9/v1" in done.stderr and "s3cret" not in done.stderr


def test_one_that_is_not_there_is_told(index: Path, language: Language) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    done = run("ask", index, "the tide", "--llm", f"http://127.0.0.1:{port}/v1", "--json")
    found = last_json(done)
    assert found["answer"] is None and "cannot be reached" in found["problem"] and found["results"]
    assert "cannot be reached" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--llm", "ftp://x"), "must begin with http:// or https://"),
        (("--timeout", "0"), "--timeout 0 must be above 0"),
        (("--timeout", "nan"), "--timeout nan must be above 0 and at most 3600"),
        (("--timeout", "inf"), "--timeout inf must be above 0 and at most 3600"),
        (("--timeout", "1e300"), "must be above 0 and at most 3600"),
        (("--where", "nothing=1"), "no document has a field 'nothing'"),
    ],
)
def test_mistakes_are_told(index: Path, arguments: tuple[str, ...], sentence: str) -> None:
    done = run("ask", index, "the tide", *arguments)
    assert done.returncode == 2 and sentence in done.stderr


def test_a_long_passage_is_sent_where_its_words_stand() -> None:
    from pipeline.search.searcher import Result
    from pipeline.tokenization.passages import Span

    text = "x " * 3000 + "needle" + " y" * 3000
    result = Result(1, 1.0, Document("a", "T", text), 0, Span(0, len(text)), [Span(6000, 6006)])
    [sent] = answers.passages_of([result])
    assert "needle" in sent and len(sent) <= answers.PASSAGE_CHARACTERS + 2
