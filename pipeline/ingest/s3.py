"""S3 by the client that is within Arrow: an address `s3://…` needs no driver. Where s3fs is installed, that is used.

Credentials, region and endpoint come from the environment or the machine's role, as for any tool of AWS. An answer that
is an error of the server's, late or cut off is asked for again.
"""

import functools
import os
import re
from typing import IO, Any

import pyarrow.fs
from fsspec.implementations.arrow import ArrowFSWrapper

SCHEMES = ("s3", "s3a")
_ATTEMPTS = 8
_CONNECT_S, _ANSWER_S = 10, 30
_READ_BYTES = 8 << 20
CREDENTIALS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
_ENDPOINT, _REGION = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"), ("AWS_REGION", "AWS_DEFAULT_REGION")


class S3(ArrowFSWrapper):
    """Files of buckets. Of one that is being written, a kill leaves nothing; an exception may leave an empty one."""

    cachable = False

    def _open(self, path: str, mode: str = "rb", *given: Any, **more: Any) -> IO[bytes]:
        if mode == "wb":
            return self.fs.open_output_stream(path, compression=None)
        return self.fs.open_input_stream(path, compression=None, buffer_size=_READ_BYTES)

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        """Nothing: a bucket has no folders."""

    def info(self, path: str, **more: Any) -> dict[str, Any]:
        entry = super().info(path, **more)
        if entry["type"] == "file":
            with self.fs.open_input_file(self._strip_protocol(path)) as file:
                entry["etag"] = file.metadata().get("ETag", b"").decode()
        return entry


def file_system(address: str) -> tuple[S3, str]:
    """The file system of an address, and the path on it."""
    path = address.partition("://")[2]
    endpoint, region = (next(filter(None, map(os.environ.get, names)), None) for names in (_ENDPOINT, _REGION))
    if region is None and endpoint is None:
        region = pyarrow.fs.resolve_s3_region(path.partition("/")[0])
    credentials = tuple(
        os.environ.get(f"AWS_{name}") for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "SESSION_TOKEN")
    )
    return _made(endpoint, region, credentials), path


def refused(error: str) -> bool:
    """Whether an error says that the credentials are at fault."""
    return bool(re.search(r"ACCESS_DENIED|HTTP status 40[013]|Expired|InvalidAccessKey|SignatureDoesNotMatch", error))


def hint(error: str) -> str:
    """What an error says, with what to do where it tells no more than a number."""
    if refused(error):
        names = ", ".join(CREDENTIALS)
        return f"the credentials ({names}, or the machine's role) are missing, expired, or may not use it; {error}"
    return error


@functools.lru_cache(maxsize=8)
def _made(endpoint: str | None, region: str | None, credentials: tuple[str | None, ...]) -> S3:
    """`credentials`: of the environment, which Arrow reads itself; others are another client."""
    scheme, _, host = (endpoint or "").rpartition("://")
    client = pyarrow.fs.S3FileSystem(
        endpoint_override=host or None, scheme=scheme or "https", region=region or "us-east-1",
        connect_timeout=_CONNECT_S, request_timeout=_ANSWER_S,
        retry_strategy=pyarrow.fs.AwsStandardS3RetryStrategy(max_attempts=_ATTEMPTS),
    )  # fmt: skip
    return S3(client)
