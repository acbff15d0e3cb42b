"""Makes the null GPU: MXNet's own CUDA wheel, over libraries of ours in the place of NVIDIA's.

MXNet's wheel is downloaded once (0.5 GB; its hash is locked in docker/requirements-gpu.txt) and unpacked beside the
libraries, 1 GB. What the wheel asks of CUDA's libraries is read from it, so that nothing is answered that it does not
ask for: by our C where an answer is looked at, by what stands in ANSWERS where a call only computes or only sets
something, and else by ending the process with the function's name.

    python tests/null_gpu/build.py [--folder .null_gpu] [--seconds 300]

Exit codes: 0 made, or current; 3 the wheel cannot be had, or not in time; 1 anything else.
"""

import argparse
import collections
import hashlib
import re
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
FOLDER = HERE.parents[1] / ".null_gpu"
LOCKS = (HERE.parents[1] / "docker" / "requirements-gpu.txt", HERE / "requirements.txt")
WHEELS = ("mxnet-cu117", "nvidia-cuda-runtime-cu11")
SOURCES = ("runtime.c", "libraries.c")
NOT_TO_BE_HAD = 3

# Which functions are answered without C of their own, and how.
ANSWERS = {
    "handle": r"(cublas|cudnn|curand|cusolverDn)Create\w*",
    "nothing": r"(cublas|cudnn|curand|cusolverDn)(Destroy|Set)\w*|cudnnRNNSet\w*|cudnnRestoreDropoutDescriptor|nvtx\w+",
    "computed": r"cublas[SDH]\w+|cublasGemm\w*|cudnn\w+(Forward|Backward)\w*|cudnnAddTensor|curandGenerate\w*",
}
BODIES = {
    "handle": "int {name}(void **handle) {{ *handle = calloc(1, 256); return 0; }}",
    "nothing": "int {name}() {{ return 0; }}",
    "computed": "int {name}() {{ null_gpu_count(LIBRARY_CALLS, 1); return 0; }}",
    "": 'int {name}() {{ null_gpu_unanswered("{name}"); return 1; }}',
}
# Of CUDA 11's compiler, which CUDA's headers include and no package of PyPI brings.
HOST_DEFINES = "".join(
    f"#define {name}\n" for name in ("__host__", "__device__", "__device_builtin__", "__cudart_builtin__", "CUDARTAPI",
                                     "CUDARTAPI_CDECL", "__inline_hint__", "__device_builtin_texture_type__",
                                     "__device_builtin_surface_type__")
) + "#define __align__(n) __attribute__((aligned(n)))\n#define __builtin_align__(n) __align__(n)\n"  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=FOLDER)
    parser.add_argument("--seconds", type=float, help="for downloading and unpacking the wheel")
    arguments = parser.parse_args()
    folder: Path = arguments.folder
    stamp, wanted = folder / "stamp", _stamp()
    if stamp.exists() and stamp.read_text() == wanted:
        return 0
    stamp.unlink(missing_ok=True)
    if message := wheels(folder / "site", arguments.seconds):
        print(f"null GPU: MXNet's CUDA wheel cannot be had ({message})", file=sys.stderr)
        return NOT_TO_BE_HAD
    libraries(folder / "site", folder / "lib")
    stamp.write_text(wanted)
    return 0


def _stamp() -> str:
    """What the null GPU is made from."""
    digest = hashlib.sha256()
    for path in (*LOCKS, Path(__file__), HERE / "null_gpu.h", *(HERE / name for name in SOURCES)):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def wheels(site: Path, seconds: float | None) -> str:
    """Unpacks the locked wheels into `site`, where they are not there yet; returns why that failed, or nothing."""
    blocks = re.findall(r"^[a-z].*\\\n(?:    .*\n)+", "".join(path.read_text() for path in LOCKS), re.MULTILINE)
    locked = "".join(block for block in blocks if block.split("==")[0] in WHEELS)
    stamp = site / "locked"
    if stamp.exists() and stamp.read_text() == locked:
        return ""
    shutil.rmtree(site, ignore_errors=True)
    site.mkdir(parents=True)
    wanted = site / "wanted"
    wanted.write_text(locked)
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps",
               "--no-compile", "--require-hashes", "--only-binary", ":all:", "--target", str(site),
               "-r", str(wanted)]  # fmt: skip
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds)
    except subprocess.TimeoutExpired:
        return f"not within {seconds:.0f} s"
    if done.returncode:
        return (done.stderr.strip().splitlines() or ["pip failed"])[-1]
    wanted.rename(stamp)
    return ""


def asked(library: Path) -> dict[str, list[str]]:
    """What a library asks of CUDA's libraries: soname -> functions."""
    needed = re.findall(r"\(NEEDED\).*\[(.+)\]", _printed("readelf", "-d", library))
    cuda = re.compile(r"lib(cuda|cudart|cudnn|cublas\w*|curand|cusolver|cusparse|cufft|nvrtc|nvToolsExt|nccl)\.so")
    found: dict[str, list[str]] = {name: [] for name in needed if cuda.match(name)}
    # without a version where NVIDIA's library has none
    bare = {"nccl": "libnccl.so", "cu[A-Z]": "libcuda.so", "cudnn": "libcudnn.so"}
    for name, version in re.findall(r" U (\w+)(?:@(\S+))?", _printed("nm", "-D", "--undefined-only", library)):
        if version in found:
            found[version].append(name)
        elif not version:
            for prefix, stem in bare.items():
                if re.match(prefix, name):
                    found[next(soname for soname in found if soname.startswith(stem))].append(name)
    return found


def _printed(*command: str | Path) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def libraries(site: Path, lib: Path) -> None:
    """Compiles one library that bears the names of all of CUDA's, with the versions that MXNet asks for."""
    shutil.rmtree(lib, ignore_errors=True)
    (lib / "crt").mkdir(parents=True)
    (lib / "crt" / "host_defines.h").write_text(HOST_DEFINES)
    functions = asked(site / "mxnet" / "libmxnet.so")
    library = lib / "libnull_gpu.so"
    include = [f"-I{HERE}", f"-I{lib}", f"-I{site / 'nvidia' / 'cuda_runtime' / 'include'}"]
    compiler = [
        "gcc",
        "-O1",
        "-fPIC",
        "-std=gnu11",
        "-Wall",
        "-Wno-unused",
        "-Wno-builtin-declaration-mismatch",
        *include,
    ]
    own = set()
    for name in SOURCES:
        out = lib / f"{name}.o"
        subprocess.run([*compiler, "-c", "-o", out, HERE / name], check=True)
        own |= set(re.findall(r" T (\w+)", _printed("nm", out)))
    kinds: dict[str, str] = collections.defaultdict(str)
    for name in {name for names in functions.values() for name in names} - own:
        kinds[name] = next((kind for kind, pattern in ANSWERS.items() if re.fullmatch(pattern, name)), "")
    lines = ["#include <stdlib.h>", '#include "null_gpu.h"']
    lines += [BODIES[kind].format(name=name) for name, kind in sorted(kinds.items())]
    (lib / "answers.c").write_text("\n".join(lines) + "\n")
    versions = {soname: names for soname, names in functions.items() if names}
    script = lib / "versions"
    script.write_text("".join(f"{soname} {{ global: {'; '.join(names)}; }};\n" for soname, names in versions.items()))
    subprocess.run(
        [
            *compiler,
            "-shared",
            f"-Wl,--version-script={script}",
            "-o",
            library,
            lib / "answers.c",
            *lib.glob("*.o"),
            "-lpthread",
        ],
        check=True,
    )
    for soname in functions:
        (lib / soname).symlink_to(library.name)


if __name__ == "__main__":
    sys.exit(main())
