"""Sources on an S3 server of moto's: the same bytes whatever goes wrong on the way, or a sentence."""

import gzip
import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.config import SPLITS, check_config
from pipeline.core.errors import InputError, TryAgain
from pipeline.ingest import listing, places, records, s3, stage
from tests.buckets import Server, cut, failing, late, reached, slow

ROWS = [(f"query {n % 50}", f"document {n}") for n in range(400)]


@pytest.fixture(scope="module")
def started() -> Iterator[Server]:
    made = Server()
    made.put("bucket")
    tsv = [
        ("query\tdocument\n" + "".join(f"{q}\t{d}\n" for q, d in part)).encode() for part in (ROWS[:250], ROWS[250:])
    ]
    made.put("bucket/logs/a.tsv", tsv[0])
    made.put("bucket/logs/b/c.tsv.gz", gzip.compress(tsv[1]))
    made.put("bucket/logs/_SUCCESS")
    pq.write_table(pa.table(dict(zip(("query", "document"), zip(*ROWS)))), sink := pa.BufferOutputStream())
    made.put("bucket/pairs.parquet", sink.getvalue().to_pybytes())
    yield made
    made.close()


@pytest.fixture
def bucket(started: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    with reached(started, monkeypatch) as served:
        yield served


LOGS = {"format": "tsv", "path": "s3://bucket/logs", "marker": "_SUCCESS"}
PARQUET = {"format": "parquet", "path": "s3://bucket/pairs.parquet"}


def ingest(folder: Path, source: dict[str, Any], work: Path | None = None) -> dict[str, str]:
    """The digests of what is written."""
    folder.mkdir()
    config = check_config({"name": "t", "ingest": {"source": source}, "execution": {"workers": 1}}, "test")
    stage.run(config, folder, stage.parts(config).inputs, work)
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


FAULTS = {
    "500": failing("500 Internal Server Error", "InternalError", 2), "503": failing("503 Slow Down", "SlowDown", 2),
    "cut": cut, "slow": slow, "late": late,
}  # fmt: skip


@pytest.mark.parametrize("source", [LOGS, PARQUET], ids=["logs", "parquet"])
@pytest.mark.parametrize("fault", FAULTS)
def test_what_goes_wrong_on_the_way_changes_no_byte(
    fault: str, source: dict[str, Any], bucket: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = ingest(tmp_path / "expected", source)
    rows = {(row["query"], row["document"]) for split in SPLITS
            for row in pq.read_table(tmp_path / "expected" / f"records-{split}.parquet").to_pylist()}  # fmt: skip
    assert rows == set(ROWS)
    undisturbed = len(bucket.asked)
    monkeypatch.setattr(s3, "_ANSWER_S", 1)
    s3._made.cache_clear()
    bucket.asked = []
    bucket.fault = FAULTS[fault]
    assert ingest(tmp_path / "made", source) == expected
    assert len(bucket.asked) > undisturbed or fault == "slow"


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (failing("500 Internal Server Error", "InternalError", 10**6), ["cannot be"]),
        (failing("400 Bad Request", "ExpiredToken", 10**6), ["credentials", "AWS_SESSION_TOKEN", "expired"]),
        (failing("403 Forbidden", "AccessDenied", 10**6), ["credentials", "may not use it"]),
    ],
)
def test_what_does_not_pass_is_said(
    fault: Any, words: list[str], bucket: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3, "_ATTEMPTS", 2)
    bucket.fault = fault
    with pytest.raises(InputError) as error:
        ingest(tmp_path / "made", LOGS)
    for word in ["s3://bucket/logs", *words]:
        assert word in str(error.value)
    assert "of-a-test" not in str(error.value) and "\n" not in str(error.value)


def test_a_credential_that_expires_meanwhile_costs_no_part_that_is_done(
    bucket: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = ingest(tmp_path / "expected", LOGS)

    def expires(served: Server, number: int, request: dict[str, Any], start: Any) -> Iterable[bytes] | None:
        if request["REQUEST_METHOD"] == "GET" and request["PATH_INFO"].endswith("c.tsv.gz"):
            return failing("400 Bad Request", "ExpiredToken", 10**6)(served, number, request, start)  # type: ignore[no-any-return]
        return None

    bucket.fault = expires
    with pytest.raises(InputError, match="expired"):
        ingest(tmp_path / "made", LOGS, tmp_path / "work")
    bucket.fault = None
    read: list[str] = []
    real = records._read
    monkeypatch.setattr(records, "_read", lambda work: read.append(work.part.name) or real(work))
    assert ingest(tmp_path / "again", LOGS, tmp_path / "work") == expected
    assert read == ["c.tsv.gz"]


def test_a_file_that_is_written_anew_meanwhile_is_seen(bucket: Server, tmp_path: Path) -> None:
    """Of the same size, within the same second: its ETag tells."""

    def at_one_time(served: Server, number: int, request: dict[str, Any], start: Any) -> Iterable[bytes]:
        status, headers, content = served.whole(request)
        start(status, [*(told for told in headers if told[0].lower() != "last-modified"),
                       ("Last-Modified", "Mon, 30 Nov 2026 20:00:00 GMT")])  # fmt: skip
        return [content]

    def write(content: bytes) -> None:
        with places.file_system("s3://bucket/one.tsv")[0].fs.open_output_stream("bucket/one.tsv") as file:
            file.write(content)

    write(b"query\tdocument\na\tb\n")
    source = {"format": "tsv", "path": "s3://bucket/one.tsv"}
    config = check_config({"name": "t", "ingest": {"source": source}}, "test")
    bucket.fault = at_one_time
    inputs = stage.parts(config).inputs
    write(b"query\tdocument\na\tc\n")
    with pytest.raises(TryAgain, match="was changed while it was read"):
        stage.run(config, tmp_path, inputs)


def test_folders_and_patterns_of_a_bucket(bucket: Server) -> None:
    assert listing.files("s3://bucket/logs", "_SUCCESS") == ["s3://bucket/logs/a.tsv", "s3://bucket/logs/b/c.tsv.gz"]
    assert listing.files("s3://bucket/logs/*.tsv") == ["s3://bucket/logs/a.tsv"]
    assert places.size_of("s3://bucket/logs/a.tsv") == len(b"query\tdocument\n") + sum(
        len(f"{q}\t{d}\n") for q, d in ROWS[:250]
    )
    with pytest.raises(TryAgain, match="has no file DONE"):
        listing.files("s3://bucket/logs", "DONE")
    with pytest.raises(InputError, match=r"no file matches s3://bucket/logs/\*\.csv"):
        listing.files("s3://bucket/logs/*.csv")
