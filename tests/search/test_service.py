"""The page's server: what it answers, what it refuses, and many at once, with the real uvicorn where that matters."""

import asyncio
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient

from pipeline.core.errors import InputError
from pipeline.evaluation.confidence import Answering
from pipeline.search import index_store, server
from pipeline.search.documents import Document
from pipeline.search.searcher import Searcher
from pipeline.serving.second_stage import Rerank
from tests.search.conftest import Indexed, topical
from tests.search.double import WordEncoder

Make = Callable[..., Indexed]
HEADERS = ("content-security-policy", "x-content-type-options", "referrer-policy", "x-frame-options")


@pytest.fixture
def index(indexed: Make) -> Indexed:
    return indexed(
        [*topical(12), Document("html", "<b>bold</b>", "<script>alert(1)</script> & wing")],
        "late_interaction",
        document=30,
    )


@pytest.fixture
def client(index: Indexed) -> TestClient:
    return TestClient(server.application(index.folder, index.open), raise_server_exceptions=False)


def test_search_and_explain(index: Indexed, client: TestClient) -> None:
    found = client.post("/api/search", json={"query": "wing lift", "k": 3}).json()
    assert [r["id"] for r in found["results"]] == index.ids("wing lift", 3)
    first = found["results"][0]
    assert {first["passage"][s:e] for s, e in first["marks"]} <= {"wing", "lift"} and first["marks"]
    asked = {"query": "wing lift", "generation": found["generation"], "passage_row": first["passage_row"]}
    why = client.post("/api/explain", json=asked).json()
    assert why["kind"] == "alignment" and len(why["links"]) == 2
    assert len(why["links"][0]) == len(why["document"]["pieces"])
    assert client.get("/health").json()["documents"] == 13


def test_markup_stays_text(client: TestClient) -> None:
    found = client.post("/api/search", json={"query": "<script>alert(1)</script>", "mode": "words"})
    assert found.headers["content-type"] == "application/json"
    assert found.json()["results"][0]["passage"] == "<script>alert(1)</script> & wing"
    assert "innerHTML" not in server.PAGE.read_text() and "insertAdjacentHTML" not in server.PAGE.read_text()


@pytest.mark.parametrize(
    ("body", "status", "sentence"),
    [
        ({"query": ""}, 422, "the query is empty: give at least a word"),
        ({"query": "   "}, 422, "the query is empty: give at least a word"),
        ({"query": "x" * 2001}, 422, "the query is too long: at most 2,000 characters"),
        ({"query": "word " * 100_000}, 413, "the request is too large: a query has at most 2,000 characters"),
        ({"query": "x", "k": 0}, 422, "k: Input should be greater than or equal to 1"),
        ({"query": "x", "mode": "magic"}, 422, "mode: Input should be 'model', 'hybrid' or 'words'"),
        ({"query": "x", "more": 1}, 422, "more: Extra inputs are not permitted"),
        ({}, 422, "query: Field required"),
    ],
)
def test_bad_requests_get_a_sentence(client: TestClient, body: dict[str, Any], status: int, sentence: str) -> None:
    answer = client.post("/api/search", json=body)
    assert (answer.status_code, answer.json()) == (status, {"error": sentence})
    assert all(name in answer.headers for name in HEADERS)


@pytest.mark.parametrize(
    "asked", [{"content": b'{"query": "wing"'}, {"content": b"wing"}, {"data": {"query": "wing"}}, {"json": []}, {}]
)
def test_a_body_that_is_no_json_object_is_told_what_to_send(client: TestClient, asked: dict[str, Any]) -> None:
    answer = client.post("/api/search", **asked)
    assert answer.status_code == 422
    assert answer.json()["error"].startswith(
        "the body is not a JSON object of the type application/json: send such as {"
    )


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/api/search", 405), ("GET", "/search", 404)])
def test_an_address_that_is_not_served_is_told(client: TestClient, method: str, path: str, status: int) -> None:
    answer = client.request(method, path)
    assert answer.status_code == status
    assert answer.json()["error"].startswith(f"{method} {path} is not served here: there are GET /")


def test_a_body_without_a_length_is_counted(client: TestClient) -> None:
    def pieces() -> Iterator[bytes]:
        yield from [b"x" * 1000] * 40

    assert client.post("/api/search", content=pieces()).status_code == 413


def test_headers_are_on_every_answer(client: TestClient) -> None:
    for path, status in (("/", 200), ("/health", 200), ("/nowhere", 404), ("/docs", 404), ("/openapi.json", 404)):
        answer = client.get(path)
        assert answer.status_code == status and all(name in answer.headers for name in HEADERS), path
    content_policy = client.get("/").headers["content-security-policy"]
    assert "unsafe" not in content_policy and "frame-ancestors 'none'" in content_policy
    assert content_policy.count("'sha256-") == 2
    page = client.get("/").text
    assert " style=" not in page and " onclick=" not in page and "http" not in page.replace("https://schema", "")


def test_other_names_than_its_own_are_refused(index: Indexed) -> None:
    app = server.application(index.folder, index.open, server.hosts_of("127.0.0.1"))
    for host, status in (
        ("127.0.0.1:8765", 200),
        ("localhost", 200),
        ("[::1]:80", 200),
        ("evil.example", 421),
        ("", 421),
    ):
        assert TestClient(app).get("/health", headers={"host": host}).status_code == status, host
    assert server.hosts_of("0.0.0.0") is None and "search.example" in (server.hosts_of("search.example") or ())


def test_a_stale_passage_is_told(index: Indexed, client: TestClient) -> None:
    generation = client.get("/health").json()["generation"]
    index.update([Document("d0", "", "zebra")])
    for asked in ({"generation": generation, "passage_row": 1}, {"generation": generation + 1, "passage_row": 10**9}):
        answer = client.post("/api/explain", json={"query": "wing", **asked})
        assert answer.status_code == 422 and "search again" in answer.json()["error"]


def test_a_new_generation_is_served_without_a_restart(index: Indexed, client: TestClient) -> None:
    ask = lambda: [
        r["id"] for r in client.post("/api/search", json={"query": "zebra", "mode": "words"}).json()["results"]
    ]
    assert ask() == []
    index.update([Document("new", "", "zebra crossing")])
    assert ask() == ["new"]
    (index.folder / "index.json").write_text("half")
    assert ask() == ["new"]


def test_a_new_generation_keeps_the_second_model(indexed: Make) -> None:
    """And with it what judges the first document; an index that names another second model is opened anew."""
    scales = {
        "weight": 0.5,
        "model_scale": 0.3,
        "words_scale": 1.5,
        "answering": Answering(1.5, -4.0, 0.9, 0.6, 0.5, 0.9),
    }
    index = indexed(topical(40), rerank=Rerank("k2", "/second", 6, 0.7, 5.0, 2.0), **scales)
    second, opened = WordEncoder("dot", document=30), []
    whole = lambda: Searcher(index_store.open_snapshot(index.folder), index.encoder, None, second)

    def open_counted() -> Searcher:
        opened.append(whole())
        return opened[-1]

    client = TestClient(server.application(index.folder, open_counted))

    def check(times_opened: int) -> None:
        found, expected = client.post("/api/search", json={"query": "wing own3 lift"}).json(), whole()
        answer = expected.search("wing own3 lift")
        assert [row["id"] for row in found["results"]] == [result.document.id for result in answer.results]
        assert found["index"] == expected.snapshot.state.id
        assert found["generation"] == expected.snapshot.state.generation
        assert found["sure"] == answer.sure is not None
        assert len(opened) == times_opened

    check(1)
    index.update([Document("new", "", "zebra crossing")])
    check(1)
    shutil.rmtree(index.folder)
    index.settings = replace(index.settings, rerank=Rerank("k3", "/third", 6, 0.7, 5.0, 2.0))
    index.update(topical(40))
    check(2)


def test_who_finds_the_line_full_is_told_to_come_again(index: Indexed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "MAX_WAITING", 3)
    hold, searching = threading.Event(), threading.Semaphore(0)
    encode = index.encoder.encode

    def slow(*arguments: Any) -> Any:
        searching.release()
        assert hold.wait(60)
        return encode(*arguments)

    app = server.application(index.folder, index.open)
    monkeypatch.setattr(index.encoder, "encode", slow)
    with TestClient(app) as client, ThreadPoolExecutor(8) as pool:
        first = [pool.submit(client.post, "/api/search", json={"query": "wing"}) for _ in range(server.AT_ONCE)]
        for _ in first:
            assert searching.acquire(timeout=60)
        rest = [pool.submit(client.post, "/api/search", json={"query": "wing"}) for _ in range(4)]
        refused = next(answer for answer in _as_they_end(rest))
        assert refused.status_code == 503 and refused.headers["retry-after"] == "1"
        assert "try again" in refused.json()["error"]
        hold.set()
        assert [answer.result().status_code for answer in first] == [200] * server.AT_ONCE
        assert sorted(answer.result().status_code for answer in rest) == [200, 200, 200, 503]


def _as_they_end(futures: list[Any]) -> Iterator[Any]:
    from concurrent.futures import as_completed

    yield from (future.result() for future in as_completed(futures, timeout=60))


# --- the real server --------------------------------------------------------------------------------------------------
SERVE = """
import sys
from pathlib import Path
from pipeline.search import index_store, server
from pipeline.search.searcher import Searcher
from tests.search.double import WordEncoder
index = Path(sys.argv[1])
server.serve(index, "127.0.0.1", 0, lambda line: print(line, flush=True),
              lambda: Searcher(index_store.open_snapshot(index), WordEncoder("late_interaction", document=30)))
"""


@pytest.fixture
def address(index: Indexed) -> Iterator[str]:
    """Of a server in a process of its own."""
    yield from served(index, silent=False)


def ask(address: str, body: bytes, path: str = "api/search") -> tuple[int, dict[str, Any]]:
    request = urllib.request.Request(address + path, body, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def test_two_hundred_requests_at_once_are_all_answered(address: str) -> None:
    async def one(number: int) -> int:
        host, port = address.removeprefix("http://").rstrip("/").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        body = json.dumps({"query": f"wing own{number}", "mode": "hybrid"}).encode()
        writer.write(b"POST /api/search HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                     b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(body) + body)  # fmt: skip
        answer = await asyncio.wait_for(reader.read(), 120)
        writer.close()
        head, _, content = answer.partition(b"\r\n\r\n")
        status = int(head.split()[1])
        assert status == 200 or (status == 503 and b"retry-after" in head.lower())
        assert status == 503 or len(json.loads(content)["results"]) == 10
        return status

    async def all_of_them() -> list[int]:
        return await asyncio.gather(*(one(number) for number in range(200)))

    assert asyncio.run(all_of_them()).count(200) >= 100


def test_the_real_server_survives_what_is_no_request(address: str) -> None:
    host, port = address.removeprefix("http://").rstrip("/").split(":")
    post = b"POST /api/search HTTP/1.1\r\nHost: localhost\r\nContent-Length: "
    for bad in (
        b"GET /" + b"x" * 200_000 + b" HTTP/1.1\r\n\r\n",
        b"\0\1\2\3\r\n\r\n",
        post + b"5\r\n\r\n{{{{{",
        post + b"999999999\r\n\r\n",  # and nothing follows
    ):
        with socket.create_connection((host, int(port)), timeout=30) as connection:
            connection.sendall(bad)
            assert connection.recv(100).startswith(b"HTTP/1.1 4")
    status, found = ask(address, b'{"query": "<img src=x onerror=alert(1)> \\u0000 wing"}')
    assert status == 200 and found["results"]
    assert ask(address, b'{"query": "' + b"word " * 100_000 + b'"}')[0] == 413
    assert ask(address, b'{"query": "\\ud800 wing"}')[0] in (200, 422)


def test_an_address_in_use_is_told(index: Indexed) -> None:
    from pipeline.core.errors import InputError

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=f"cannot listen on 127.0.0.1:{port}"):
            server.serve(index.folder, "127.0.0.1", port, print, index.open)
    with pytest.raises(InputError, match=r"cannot listen on .*:99999"):
        server.serve(index.folder, "127.0.0.1", 99999, print, index.open)


# --- an index that is built anew, damaged or cut while it is served ---------------------------------------------------
def test_an_index_that_was_removed_and_built_anew_is_served(index: Indexed, client: TestClient) -> None:
    asked = {"query": "wing lift", "mode": "words"}
    first = client.post("/api/search", json=asked).json()
    shutil.rmtree(index.folder)
    index.update([Document("new", "", "wing lift of the new index")])
    rest = {"query": "wing", "passage_row": 0}
    for known in ({"index": first["index"]}, {}):  # its generation is 1 again
        why = client.post("/api/explain", json={**rest, **known, "generation": first["generation"]})
        assert (why.status_code, why.json()["error"]) == (422, "the index has changed since this search: search again")
    second = client.post("/api/search", json=asked).json()
    assert [result["id"] for result in second["results"]] == ["new"]
    assert second["index"] != first["index"] and second["generation"] == first["generation"] == 1
    known = {"index": second["index"], "generation": second["generation"]}
    assert (
        client.post("/api/explain", json={**rest, **known}).json()["document"]["text"] == "wing lift of the new index"
    )
    assert client.get("/health").json()["index"] == second["index"]


@pytest.mark.parametrize(
    ("files", "mode"),
    [("segments/*/vectors.npy", "model"), ("segments/*/vectors.npy", "hybrid"),
     ("generations/*/bm25-data.npy", "words"), ("generations/*/bm25-data.npy", "hybrid")],
)  # fmt: skip
def test_scores_that_are_not_finite_are_an_error(files: str, mode: str, index: Indexed, client: TestClient) -> None:
    for path in index.folder.glob(files):
        numbers = np.load(path)
        numbers[:] = np.nan
        np.save(path, numbers)
    app = TestClient(server.application(index.folder, index.open), raise_server_exceptions=False)
    answer = app.post("/api/search", json={"query": "wing", "mode": mode})
    assert answer.status_code == 422 and "a score is not a finite number" in answer.json()["error"]


def test_a_model_that_gives_nan_makes_no_index(indexed: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    index = indexed()
    monkeypatch.setattr("tests.search.double.vector_of", lambda word: np.full(16, np.nan))
    with pytest.raises(InputError, match="its vectors are not finite numbers"):
        index.update(topical(3))
    assert not index.folder.exists()


def test_a_file_that_is_cut_while_it_is_served_is_told(
    index: Indexed, client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "LOOK_S", 0.0)
    assert client.post("/api/search", json={"query": "wing"}).status_code == 200
    path = min(index.folder.glob("segments/*/vectors.npy"))
    os.truncate(path, 128)
    for answer in (client.post("/api/search", json={"query": "wing"}), client.get("/health")):
        assert answer.status_code == 422 and f"{path} was cut short while it was in use" in answer.json()["error"]


# --- bodies and answers of every size ---------------------------------------------------------------------------------
@pytest.mark.parametrize("body", [b"[" * 20_000, b'{"query": "\xff"}', b'{"k": ' + b"9" * 5000 + b"}"])
def test_a_body_that_cannot_be_read_is_told_so(client: TestClient, body: bytes) -> None:
    answer = client.post("/api/search", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code in (400, 422)
    assert "the body " in answer.json()["error"] and 'send such as {"query"' in answer.json()["error"]


def test_a_query_of_the_most_characters_may_be_written_in_escapes(client: TestClient) -> None:
    body = b'{"mode": "words", "query": "' + b"\\ud83d\\ude00" * server.MAX_QUERY_CHARACTERS + b'"}'
    answer = client.post("/api/search", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 200, answer.text


def test_an_answer_is_bounded_whatever_the_documents(indexed: Make) -> None:
    huge = [Document(f"h{i}", "t" * 100_000, f"wing{'x' * 500_000}") for i in range(3)]
    index = indexed([*huge, Document("small", "", "wing " + "y" * 100_000)])
    client = TestClient(server.application(index.folder, index.open))
    answer = client.post("/api/search", json={"query": "wing", "k": 100})
    found = answer.json()["results"]
    assert {result["id"] for result in found} == {"h0", "h1", "h2", "small"}
    assert all(len(result["passage"]) <= 20_000 and len(result["title"]) <= 1000 for result in found)
    assert found[0]["characters"] > 100_000 and len(answer.content) < 4 * 22_000


# --- connections that never end their request -------------------------------------------------------------------------
HALVES = (
    b"",
    b"GET /health HTTP/1.1\r\nHost: localhost\r\n",
    b"POST /api/search HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n{",
)


def served(index: Indexed, constants: str = "", silent: bool = True) -> Iterator[str]:
    code = SERVE.replace("index = Path", f"from pipeline.search import connections\n{constants}\nindex = Path")
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(index.folder)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )  # fmt: skip
    assert process.stdout is not None
    try:
        yield process.stdout.readline().split()[0]
    finally:
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=30)
        assert process.returncode == 0 and not (silent and said), said


@pytest.fixture
def hasty(index: Indexed) -> Iterator[str]:
    """Of a server that gives a request a tenth of a second."""
    yield from served(index, "connections.REQUEST_S = 0.1")


@pytest.fixture
def small(index: Indexed) -> Iterator[str]:
    """Of a server that holds eight connections, for as long as they like."""
    yield from served(index, "connections.MAX_CONNECTIONS = 8; connections.REQUEST_S = 3600.0")


def connected(address: str, begun: bytes) -> socket.socket:
    host, port = address.removeprefix("http://").rstrip("/").split(":")
    connection = socket.create_connection((host, int(port)), timeout=60)
    connection.sendall(begun)
    return connection


@pytest.mark.parametrize("begun", HALVES)
def test_a_request_that_is_never_whole_is_ended_at_its_deadline(hasty: str, begun: bytes) -> None:
    with connected(hasty, begun) as connection, contextlib.suppress(ConnectionResetError):
        assert connection.recv(1) == b""  # closed from there; without a deadline this waits until it times out
    assert ask(hasty, b'{"query": "wing"}')[0] == 200


@pytest.mark.parametrize("begun", HALVES)
def test_half_requests_shut_nobody_out(small: str, begun: bytes) -> None:
    held = [connected(small, begun) for _ in range(40)]
    assert ask(small, b'{"query": "wing"}')[0] == 200
    held += [connected(small, begun) for _ in range(40)]
    assert ask(small, b'{"query": "wing"}')[0] == 200
    ended = 0
    for connection in held[:40]:
        connection.settimeout(60)
        with contextlib.suppress(ConnectionResetError):
            assert connection.recv(1) == b""
        ended += 1
    assert ended == 40
    for connection in held:
        connection.close()


def test_a_connection_that_is_kept_is_answered_twice(hasty: str) -> None:
    whole = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with connected(hasty, whole + whole) as connection:
        answers = b""
        while answers.count(b'"status":"ok"') < 2:
            answers += connection.recv(1 << 16)
        assert answers.count(b"HTTP/1.1 200") == 2


def test_fields_are_shown_filtered_and_linked(indexed: Make) -> None:
    addresses = ("https://example.org/a", "javascript:alert(1)", "", "http://example.org/d")
    documents = [
        Document(
            f"d{i}", f"About wing {i}", "wing <b>lift</b>", json.dumps({"url": url, "language": "en" if i else "zh"})
        )
        for i, url in enumerate(addresses)
    ]
    index = indexed(documents, "late_interaction")
    client = TestClient(server.application(index.folder, index.open), base_url="http://localhost")
    about = client.get("/api/about").json()
    assert about["choices"]["language"] == [["en", 3], ["zh", 1]] and about["documents"] == 4
    assert about["examples"] == ["About wing 0"] and about["best"] == "model", "of titles that differ in numbers, one"
    found = client.post("/api/search", json={"query": "wing", "where": "lang=en"}).json()
    assert {r["id"]: r["link"] for r in found["results"]} == {"d1": None, "d2": None, "d3": "http://example.org/d"}
    place = {"index": found["index"], "generation": found["generation"], "passage_row": 1}
    whole = client.get("/document", params=place)
    assert whole.text == "About wing 0\n\nwing <b>lift</b>"
    assert whole.headers["content-type"].startswith("text/plain") and "content-security-policy" in whole.headers
    assert client.get("/document", params=place | {"generation": 9}).status_code == 422
    assert client.get("/document", params=place | {"passage_row": 99}).status_code == 422
    refused = client.post("/api/search", json={"query": "wing", "where": "colour=red"})
    assert refused.status_code == 422 and "no document has a field 'colour'" in refused.json()["error"]
