"""What `duplet search --serve` bears: `make load-search`.

A server over 300 documents, with a model of one layer and 1,024 open files (the usual limit), gets REQUESTS requests by
16 at once; then, while HALF half requests are held open, one after the other. Prints how many were answered, how long
they took and the server's memory; ends with 1 where one failed, one beside half requests took over a second, or memory
grew by a tenth.
"""

import argparse
import asyncio
import json
import re
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from tests.search.conftest import topical, write_lines
from tests.search.models import model_folder

MODES = ("model", "hybrid", "words")
AT_ONCE = 16
FILES = 1024
BESIDE = 40  # requests while half ones are held
REOPEN_S = 10.0  # until a half request that was closed is begun anew
LIMIT_S = 1.0
HALVES = (
    b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n",
    b"POST /api/search HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n{",
)


def started(home: Path) -> tuple[subprocess.Popen[str], int]:
    """The server and its port."""
    model = model_folder(home / "model", [f"own{i}" for i in range(300)], embedding=16, hidden=8)
    documents = write_lines(home / "docs.jsonl", (document._asdict() for document in topical(300)))
    duplet = [sys.executable, "-P", "-m", "pipeline.cli"]
    index = str(home / "index")
    subprocess.run([*duplet, "index", str(model), "--documents", str(documents), "--output", index], check=True)
    limit = lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (FILES, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    server = subprocess.Popen(
        [*duplet, "search", index, "--serve", "--port", "0"], stderr=subprocess.PIPE, text=True, preexec_fn=limit
    )
    assert server.stderr is not None
    found = re.search(r":(\d+)/", server.stderr.readline())
    assert found is not None
    return server, int(found[1])


async def request(port: int, number: int) -> float:
    """Seconds until a search was answered; negative where it was not, or wrongly."""
    began = time.monotonic()
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        body = json.dumps({"query": f"wing own{number % 300}", "mode": MODES[number % 3]}).encode()
        head = (
            b"POST /api/search HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nConnection: close\r\n"
        )
        writer.write(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        answer = await asyncio.wait_for(reader.read(), 60)
        writer.close()
        right = answer.startswith(b"HTTP/1.1 200") and len(json.loads(answer.partition(b"\r\n\r\n")[2])["results"])
    except (OSError, ValueError, TimeoutError, asyncio.IncompleteReadError):
        right = False
    seconds = time.monotonic() - began
    return seconds if right else -seconds


async def many(port: int, count: int) -> list[float]:
    """So many requests, AT_ONCE at once."""
    numbers, taken = iter(range(count)), []

    async def client() -> None:
        for number in numbers:
            taken.append(await request(port, number))

    await asyncio.gather(*(client() for _ in range(AT_ONCE)))
    return taken


async def beside(port: int, half: int) -> list[float]:
    """BESIDE requests, one after the other, while `half` half ones are open, each opened anew when it is closed."""

    async def hold(number: int) -> None:
        while True:
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(HALVES[number % len(HALVES)])
                await reader.read()
                writer.close()
            except OSError:
                pass
            await asyncio.sleep(REOPEN_S)

    holders = [asyncio.create_task(hold(number)) for number in range(half)]
    await asyncio.sleep(3)
    taken = [await request(port, number) for number in range(BESIDE)]
    for holder in holders:
        holder.cancel()
    await asyncio.gather(*holders, return_exceptions=True)
    return taken


def told(what: str, taken: list[float], memory: float) -> None:
    ordered = sorted(map(abs, taken))
    at = lambda share: 1000 * ordered[int(share * (len(ordered) - 1))]
    failed = sum(seconds < 0 for seconds in taken)
    print(f"{what}: {len(taken):,} requests, {failed} failed; p50 {at(0.5):.0f} ms, p99 {at(0.99):.0f} ms, "
          f"longest {at(1):.0f} ms; the server holds {memory:.0f} MB", flush=True)  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--half", type=int, default=2_000)
    args = parser.parse_args()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, args.half + 1000)), hard))
    with tempfile.TemporaryDirectory(prefix="server-load-") as home:
        server, port = started(Path(home))
        memory = lambda: psutil.Process(server.pid).memory_info().rss / 1e6
        try:
            warm = asyncio.run(many(port, 500))
            before = memory()
            told("warm-up", warm, before)
            load = asyncio.run(many(port, args.requests))
            after = memory()
            told(f"{AT_ONCE} at once", load, after)
            slow = asyncio.run(beside(port, args.half))
            told(f"beside {args.half:,} half requests", slow, memory())
        finally:
            server.terminate()
            _, said = server.communicate(timeout=60)
    print(f"the server ended with {server.returncode} and said {said.strip() or 'nothing'!r:.300}")
    bad = min(load) < 0 or min(slow) < 0 or max(slow) > LIMIT_S or after > 1.1 * before or server.returncode != 0
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
