"""Builds the library of recurrent layers into this environment: `python -m pipeline.models.kernel.build`, by set-up.

The compiler is g++, or what CXX names. A failure is no error of set-up: its reason is kept for `duplet doctor`, and
MXNet's own layers are used.
"""

import contextlib
import importlib.util
import os
import platform
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

from pipeline.models.kernel import library

COMMON = ("-O3", "-std=c++14", "-fPIC", "-fopenmp", "-fno-gnu-unique")
# What MXNet and `library` look for; all else stays inside. Horovod makes libmxnet's symbols global, among them those of
# its own build of lib_api, which would take the place of ours.
EXPORTS = (
    "{ global: initialize; duplet_instruction_set; duplet_no_bfloat16; _op*; _part*; _pass*; _msg*; local: *; };\n"
)
ARITHMETIC = {
    "avx512": ("-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mfma", "-mprefer-vector-width=512"),
    "avx2": ("-mavx2", "-mfma"),
}
BFLOAT16 = (*ARITHMETIC["avx512"], "-mavx512bf16")
TIMEOUT_S = 600


class NotBuilt(Exception):
    """Why there is no library, in words for `duplet doctor`."""


def build() -> Path:
    """Makes the library where there is none yet; its path. Raises NotBuilt."""
    target = library.location()
    if library.whole():
        return target
    if platform.machine() not in ("x86_64", "AMD64"):
        raise NotBuilt(f"its own are for x86-64 only, this is {platform.machine()}")
    package = importlib.util.find_spec("mxnet")
    if package is None or not package.submodule_search_locations:
        raise NotBuilt("MXNet is not installed")
    mxnet = Path(package.submodule_search_locations[0])
    shipped = mxnet / "src" / "lib_api.cc"
    if not shipped.exists() or not (mxnet / "include" / "mxnet" / "lib_api.h").exists():
        raise NotBuilt("the MXNet that is installed ships no lib_api for extension libraries")
    include = (f"-I{mxnet / 'include'}",)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".duplet-build-") as folder:
        objects = [_compile(library.HERE / "recurrent_isa.cc", Path(folder) / f"{name}.o", flags)
                for name, flags in ARITHMETIC.items()]  # fmt: skip
        operator: tuple[str, ...] = include
        try:
            objects.append(_compile(library.HERE / "recurrent_isa.cc", Path(folder) / "avx512_bf16.o", BFLOAT16))
            operator = (*include, "-DDUPLET_BF16")
        except NotBuilt as error:  # a compiler of before 2020
            print(f"recurrent layers: no bfloat16, as {error}", file=sys.stderr)
        objects.append(_compile(library.HERE / "recurrent_op.cc", Path(folder) / "op.o", operator))
        objects.append(_compile(shipped, Path(folder) / "api.o", (*include, "-w")))
        exports = Path(folder) / "exports.map"
        exports.write_text(EXPORTS, encoding="ascii")
        linked = Path(folder) / target.name
        _run("-shared", "-fopenmp", f"-Wl,--version-script={exports}", "-o", str(linked), *objects)
        digest = Path(folder) / "checksum"
        digest.write_text(library.sha256(linked), encoding="ascii")
        os.replace(digest, library.checksum())
        os.replace(linked, target)
    for old in target.parent.glob("duplet_recurrent_*"):
        if old.stem != target.stem:
            old.unlink(missing_ok=True)
    return target


def _compile(source: Path, target: Path, flags: tuple[str, ...]) -> str:
    _run(*COMMON, *flags, "-c", str(source), "-o", str(target))
    return str(target)


def _run(*arguments: str) -> None:
    compiler = shlex.split(os.environ.get("CXX") or "g++")
    try:
        done = subprocess.run(
            [*compiler, *arguments], capture_output=True, text=True, errors="replace", timeout=TIMEOUT_S
        )
    except FileNotFoundError:
        raise NotBuilt(f"its own are not built: no {compiler[0]} found") from None
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NotBuilt(f"its own are not built: {compiler[0]} does not run: {type(error).__name__}") from None
    if done.returncode:
        print(done.stderr, file=sys.stderr)
        errors = [line for line in done.stderr.splitlines() if "error" in line] or [f"exit code {done.returncode}"]
        raise NotBuilt(f"its own are not built: {compiler[0]} failed: {' '.join(errors[0].split())[:200]}")


def main() -> None:
    """Builds, or keeps the reason why not; ends with 0 in both cases."""
    reason = library.complaint()
    try:
        build()
        reason.unlink(missing_ok=True)
    except (NotBuilt, OSError) as error:
        print(f"recurrent layers: MXNet's are used, as {error}", file=sys.stderr)
        with contextlib.suppress(OSError):
            reason.write_text(f"{error}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
