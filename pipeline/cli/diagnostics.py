"""What `duplet doctor` looks at: whether this machine and this environment can train, and what mends what cannot.

The `check_…` functions judge what was found and is given to them (only the disk and the MLflow address they try
themselves); `examine` does the looking. MXNet and Horovod are asked in a process of their own, so that a build that
aborts on import gives a line of the table and not an abort.
"""

import base64
import http.client
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any, Literal, NamedTuple

from rich.table import Table
from rich.text import Text

from pipeline.core.errors import one_line

# Compute capabilities that the CUDA wheels of MXNet 1.9.1 (mxnet-cu112, mxnet-cu117) hold machine code for; they hold
# no PTX, so nothing can be compiled for newer devices when they are met.
WHEEL_CAPABILITIES = ((5, 0), (6, 0), (7, 0), (8, 0), (8, 6))
MXNET_WHEELS = ("mxnet", "mxnet-cu112", "mxnet-cu117")
SHOWN_PACKAGES = ("mxnet", "gluonnlp", "horovod", "mlflow", "numpy", "pyarrow")  # a row each; the others share one
WARN_FREE_GB, FAIL_FREE_GB = 5.0, 1.0
REBUILD = "delete .venv and run `make setup`"

State = Literal["ok", "warning", "failed"]


class Check(NamedTuple):
    """One row: what was looked at, how it is, what was found, and what mends it (empty when ok)."""

    name: str
    state: State
    found: str
    fix: str


def examine(root: Path, tracking_uri: str | None, workers: int = 2) -> list[Check]:
    """Looks at everything; never raises for what it finds. Takes a few seconds, as MXNet and Horovod are started once.

    Args:
        root: where stage folders go; need not exist yet.
        tracking_uri: the configuration's MLflow address; None: MLFLOW_TRACKING_URI, else the local default.
        workers: how many a training on this machine would start.
    """
    probe = probe_build()
    return [
        check_python(sys.version_info[:3]),
        *check_packages(required_packages(), installed_versions()),
        check_mxnet(probe),
        check_horovod(probe),
        check_recurrent(probe),
        check_threads(len(os.sched_getaffinity(0)), workers, os.environ.get("OMP_NUM_THREADS")),
        *check_gpus(query_gpus(), probe),
        check_root(root),
        check_tracking(tracking_uri or os.environ.get("MLFLOW_TRACKING_URI") or None, root),
    ]


def table(checks: list[Check]) -> Table:
    """The checks for a terminal. Texts are taken as they are: square brackets in them are no markup."""
    colours = {"ok": "green", "warning": "yellow", "failed": "red"}
    table = Table("check", "state", "found", "what to do", title="duplet doctor", title_justify="left")
    for check in checks:
        table.add_row(Text(check.name), Text(check.state, colours[check.state]), Text(check.found), Text(check.fix))
    return table


# --- Python and packages ----------------------------------------------------------------------------------------------
def check_python(version: tuple[int, ...]) -> Check:
    """3.11 is the newest Python that MXNet, GluonNLP, Horovod and MLflow share."""
    shown = ".".join(map(str, version))
    if tuple(version[:2]) == (3, 11):
        return Check("Python", "ok", shown, "")
    return Check("Python", "failed", f"{shown}, need 3.11", "install Python 3.11, delete .venv and run `make setup`")


def required_packages() -> dict[str, str | None]:
    """What Duplet requires, from its own metadata: name -> pinned version (None: any). Empty if not installed."""
    try:
        lines = importlib.metadata.requires("duplet") or []
    except importlib.metadata.PackageNotFoundError:
        return {}
    matches = [re.fullmatch(r"([\w.-]+?)(?:==([\w.+]+))?", line) for line in lines]
    return {_canonical(match[1]): match[2] for match in matches if match}


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def installed_versions() -> dict[str, str]:
    """Name -> version of every distribution of this environment, names in small letters with hyphens."""
    return {
        _canonical(name): distribution.version
        for distribution in importlib.metadata.distributions()
        if (name := distribution.metadata["Name"])
    }


def check_packages(required: dict[str, str | None], installed: dict[str, str]) -> list[Check]:
    """A row for each of SHOWN_PACKAGES and one for all others; a CUDA wheel of MXNet counts as MXNet."""
    if not required:
        return [Check("packages", "failed", "duplet is not installed in this Python", "run `make setup`")]
    rows: list[Check] = []
    others: list[Check] = []
    for name in sorted({*required, *SHOWN_PACKAGES}, key=[*SHOWN_PACKAGES, *required].index):
        wheels = MXNET_WHEELS if name == "mxnet" else (name,)
        row = _check_package(name, {w: installed[w] for w in wheels if w in installed}, required.get(name))
        (rows if name in SHOWN_PACKAGES else others).append(row)
    broken = [f"{row.name} {row.found}" for row in others if row.state != "ok"]
    if broken:
        return [*rows, Check("other packages", "failed", "; ".join(broken), "run `make setup`")]
    return [*rows, Check("other packages", "ok", f"all {len(others)} present", "")]


def _check_package(name: str, wheels: dict[str, str], pin: str | None) -> Check:
    if not wheels:
        return Check(name, "failed", "not installed", "run `make setup`")
    wheel, version = next(iter(wheels.items()))
    shown = version if wheel == name else f"{version} ({wheel})"
    if len(wheels) > 1:
        return Check(name, "failed", " and ".join(wheels) + " are both installed", REBUILD)
    if pin is None or version == pin:
        return Check(name, "ok", shown, "")
    reason = " (MXNet uses np.bool, gone in numpy 1.24)" if name == "numpy" else ""
    return Check(name, "failed", f"{shown}, need {pin}{reason}", "run `make setup`")


# --- how MXNet and Horovod were built ---------------------------------------------------------------------------------
PROBE = """
import json
found = {}
try:
    import mxnet
    found["features"] = [f.name for f in mxnet.runtime.feature_list() if f.enabled]
except BaseException as error:
    found["mxnet_error"] = f"{type(error).__name__}: {error}"
try:
    from horovod.common.util import extension_available
    found["extension"] = bool(extension_available("mxnet"))
    import horovod.mxnet as hvd
    found["gloo"], found["mpi"], found["nccl"] = bool(hvd.gloo_built()), bool(hvd.mpi_built()), bool(hvd.nccl_built())
except BaseException as error:
    found["horovod_error"] = f"{type(error).__name__}: {error}"
try:
    from pipeline.models.kernel import operator
    found["recurrent"] = operator.told()
except BaseException as error:
    found["recurrent_error"] = f"{type(error).__name__}: {error}"
print("\\n" + json.dumps(found))
"""


def probe_build(python: str = sys.executable, timeout_s: float = 120) -> dict[str, Any]:
    """Imports MXNet and Horovod in a new process of `python`, and loads our recurrent layers.

    Returns:
        `features` (list of MXNet's enabled features) or `mxnet_error`; `extension`, `gloo`, `mpi`, `nccl` (bools) or
        `horovod_error`; `recurrent` (what runs recurrent layers) or `recurrent_error`; or, when the process itself came
        to grief, the first two errors with the same sentence.
    """
    try:
        done = subprocess.run(
            [python, "-P", "-c", PROBE],
            capture_output=True, text=True, errors="replace", timeout=timeout_s,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        if done.returncode == 0:
            return dict(json.loads(done.stdout.splitlines()[-1]))
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        problem = f"the import ended with exit code {done.returncode}: {last}"
    except subprocess.TimeoutExpired:
        problem = f"the import took longer than {timeout_s:g} s"
    except (OSError, ValueError, IndexError) as error:
        problem = f"the import could not be tried: {error}"
    return {"mxnet_error": problem, "horovod_error": problem}


def check_mxnet(probe: dict[str, Any]) -> Check:
    """Whether MXNet can be imported, and what it was built with."""
    if "mxnet_error" in probe:
        fix = "run `make setup`"
        if re.search(r"lib(cuda|cudnn|nccl|cublas|cufft|cusolver|curand|nvrtc)", probe["mxnet_error"]):
            fix = "install CUDA 11, cuDNN 8 and NCCL 2, or the CPU wheel with `make setup`"
        return Check("MXNet build", "failed", one_line(probe["mxnet_error"], 200), fix)
    features = probe.get("features", [])
    extras = [shown for name, shown in (("MKLDNN", "oneDNN"), ("OPENMP", "OpenMP")) if name in features]
    build = ", ".join(["CUDA" if "CUDA" in features else "CPU only", *extras])
    if "CUDA" in features or len(extras) == 2:
        return Check("MXNet build", "ok", build, "")
    return Check("MXNet build", "warning", f"{build}: training will be slow without oneDNN and OpenMP", REBUILD)


def check_horovod(probe: dict[str, Any]) -> Check:
    """Workers need Horovod's MXNet extension and one way to talk: Gloo or MPI; GPUs also want NCCL."""
    if "mxnet_error" in probe:
        return Check("Horovod build", "failed", "cannot be checked until MXNet can be imported", "mend MXNet first")
    if probe.get("extension") is False:
        return Check("Horovod build", "failed", "built without its MXNet extension", REBUILD)
    if "horovod_error" in probe:
        return Check("Horovod build", "failed", one_line(probe["horovod_error"], 200), REBUILD)
    parts = [f"{shown} {'yes' if probe.get(key) else 'no'}" for key, shown in _TRANSPORTS]
    build = f"MXNet yes, {', '.join(parts)}"
    if not (probe.get("gloo") or probe.get("mpi")):
        return Check("Horovod build", "failed", f"{build}: workers cannot talk to each other", REBUILD)
    if "CUDA" in probe.get("features", []) and not probe.get("nccl"):
        fix = "use the environment of `make setup-gpu`, whose Horovod has NCCL"
        return Check("Horovod build", "warning", f"{build}: GPUs will exchange gradients through the CPU", fix)
    return Check("Horovod build", "ok", build, "")


def check_recurrent(probe: dict[str, Any]) -> Check:
    """What can run recurrent layers on the CPU: our own library, or MXNet alone."""
    name, message = "recurrent layers", probe.get("recurrent", "")
    if "mxnet_error" in probe:
        return Check(name, "failed", "cannot be checked until MXNet can be imported", "mend MXNet first")
    if message.startswith("Duplet's own"):
        return Check(name, "ok", message, "")
    message = message or one_line(probe.get("recurrent_error", "nothing was said"), 200)
    fix = "training works, more slowly; if you can, install g++ and run `python -m pipeline.models.kernel.build`"
    return Check(name, "warning", message, fix)


_TRANSPORTS = (("gloo", "Gloo"), ("mpi", "MPI"), ("nccl", "NCCL"))


# --- cores, GPUs, disk ------------------------------------------------------------------------------------------------
def check_threads(cores: int, workers: int, omp: str | None) -> Check:
    """cores // workers threads each; more is far slower (eight threads on two cores: a step takes 6.6 times as long).

    Args:
        omp: OMP_NUM_THREADS as it is set, None when it is not.
    """
    threads = max(1, cores // workers)
    share = f"{threads} per worker ({workers} workers, {cores} cores)"
    if workers > cores:
        return Check("threads", "warning", f"{share}: workers share cores", f"use at most {cores} workers")
    if omp is not None and omp != str(threads):
        return Check("threads", "warning", f"{share}, but OMP_NUM_THREADS={omp}", f"`export OMP_NUM_THREADS={threads}`")
    return Check("threads", "ok", share, "")


def query_gpus() -> str | None:
    """One line of `name, compute capability` per GPU; None without nvidia-smi; its complaint where it fails."""
    command = ["nvidia-smi", "--query-gpu=name,compute_cap", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=20)
    except FileNotFoundError:
        return None
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"nvidia-smi does not run: {type(error).__name__}"
    return done.stdout.strip() or done.stderr.strip() or f"nvidia-smi ended with exit code {done.returncode}"


def check_gpus(answer: str | None, probe: dict[str, Any]) -> list[Check]:
    """A row per GPU that `query_gpus` told of, and one where it told of none."""
    if answer is None:
        return [Check("GPU", "ok", "no GPU, training runs on the CPU", "")]
    matches = [re.fullmatch(r"\s*(.+?)\s*,\s*(\d+)\.(\d+)\s*", line) for line in answer.splitlines()]
    devices = [(match[1], (int(match[2]), int(match[3]))) for match in matches if match]
    if not devices or len(devices) < len(matches):
        fix = "repair the NVIDIA driver until `nvidia-smi` lists the GPUs with their compute_cap; the CPU works without"
        return [Check("GPU", "warning", one_line(answer, 200), fix)]
    return [
        _check_gpu(f"GPU {i}", name, capability, "CUDA" in probe.get("features", []))
        for i, (name, capability) in enumerate(devices)
    ]


def runs_on(capability: tuple[int, int]) -> tuple[int, int] | None:
    """The newest machine code of the wheel that a GPU of this compute capability runs, None for none.

    Machine code for X.y runs on X.z with z >= y and on no other X: CUDA C++ Programming Guide, "Binary Compatibility".

    >>> runs_on((7, 5)), runs_on((8, 9)), runs_on((9, 0))
    ((7, 0), (8, 6), None)
    """
    fitting = [code for code in WHEEL_CAPABILITIES if code[0] == capability[0] and code[1] <= capability[1]]
    return max(fitting, default=None)


def _check_gpu(row: str, name: str, capability: tuple[int, int], cuda_build: bool) -> Check:
    code = runs_on(capability)
    sentence = f"{name} has compute capability {capability[0]}.{capability[1]}"
    if code is None:
        return Check(
            row, "failed", f"{sentence}, and no MXNet wheel has code for it",
            "train on the CPU, or on a GPU of compute capability 5.0 to 8.9",
        )  # fmt: skip
    sentence += f", runs the wheel's {code[0]}.{code[1]} code"
    if not cuda_build:
        fix = "use the environment of `make setup-gpu`, whose MXNet has CUDA"
        return Check(row, "warning", f"{sentence}, but MXNet is a CPU build", fix)
    return Check(row, "ok", sentence, "")


def check_root(root: Path) -> Check:
    """Whether stage folders can be written there, and how much space is left."""
    folder = _nearest_folder(root)
    if not _writable(folder):
        return Check("disk", "failed", f"{root} cannot be written", "set root=FOLDER to one that can")
    return check_free(root, shutil.disk_usage(folder).free)


def check_free(root: Path, free_bytes: int) -> Check:
    """Judges the free space (bytes, reported in GB of 10^9) on the disk that holds `root`."""
    free_gb = free_bytes / 1e9
    space = f"{free_gb:.1f} GB free under {root}"
    fix = f"free some space, or set root=FOLDER on a disk with more than {WARN_FREE_GB:g} GB"
    if free_gb < FAIL_FREE_GB:
        return Check("disk", "failed", space, fix)
    return Check("disk", "warning", space, fix) if free_gb < WARN_FREE_GB else Check("disk", "ok", space, "")


# --- MLflow -----------------------------------------------------------------------------------------------------------
def without_password(uri: str) -> str:
    """The address as it may be shown: without user, password, query or fragment (which may hold a token).

    Everything up to the last @ goes, so that no part of a password is shown that itself holds / ? # or @ unencoded.

    >>> without_password("https://ada:secret@mlflow.example.org:5000/base?token=1")
    'https://mlflow.example.org:5000/base'
    """
    scheme, separator, rest = uri.partition("://")
    return re.split(r"[?#]", f"{scheme}{separator}{rest.rpartition('@')[2]}")[0]


def check_tracking(uri: str | None, root: Path, timeout_s: float = 3) -> Check:
    """Whether the MLflow address would take runs. Databases other than SQLite are not tried."""
    if uri is None:
        return Check("MLflow", "ok", f"the local default, SQLite under {root}", "")
    shown = without_password(uri)
    if uri.startswith(("http://", "https://")):
        return _check_server(uri, shown, timeout_s)
    if uri.startswith("sqlite:"):  # sqlite:///beside.db, sqlite:////from/the/top.db
        return _check_file(Path(re.sub(r"^sqlite:(///)?", "", uri.partition("?")[0])))
    if uri.startswith("file:") or "://" not in uri:  # MLflow's folders of files
        return _check_file(Path(urllib.parse.unquote(re.sub(r"^file:(//)?", "", uri))) / "meta.yaml")
    fix = "only http, https and sqlite addresses are tried here: a run will tell"
    return Check("MLflow", "warning", f"{shown} was not tried", fix)


def _check_server(uri: str, shown: str, timeout_s: float) -> Check:
    fix = "start the server, or set tracking.uri (or MLFLOW_TRACKING_URI) to one that answers, or to none"
    try:
        parts = urllib.parse.urlsplit(uri)
        user, at, host = parts.netloc.rpartition("@")
        if "@" in parts.path + parts.query + parts.fragment:  # else half a password would be taken for the host
            raise ValueError
        request = urllib.request.Request(f"{parts.scheme}://{host}{parts.path.rstrip('/')}/health")
        if at:
            token = base64.b64encode(urllib.parse.unquote(user).encode()).decode()
            request.add_unredirected_header("Authorization", f"Basic {token}")
        with urllib.request.urlopen(request, timeout=timeout_s):
            return Check("MLflow", "ok", f"{shown} answers", "")
    except (ValueError, http.client.InvalidURL):  # their messages quote parts of the address, maybe of its password
        return Check(
            "MLflow",
            "failed",
            f"{shown} is not a valid address",
            "write it as http://HOST:PORT, any @ / ? # of a password as %40 %2F %3F %23",
        )
    except urllib.error.HTTPError as error:
        return Check("MLflow", "failed", f"{shown} answers /health with status {error.code}", fix)
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        message = "timed out" if isinstance(reason, TimeoutError) else getattr(reason, "strerror", None) or str(reason)
        return Check("MLflow", "failed", f"{shown} does not answer: {one_line(message, 200)}", fix)


def _check_file(path: Path) -> Check:
    folder = _nearest_folder(path.parent)
    if path.is_dir() or not _writable(folder) or (path.exists() and not os.access(path, os.W_OK)):
        return Check("MLflow", "failed", f"{path} cannot be written", "set tracking.uri to a file in a folder that can")
    return Check("MLflow", "ok", f"{path} can be written", "")


# --- small helpers ----------------------------------------------------------------------------------------------------
def _nearest_folder(path: Path) -> Path:
    """The path itself or the first of its parents that exists (maybe a file, which `_writable` then refuses)."""
    path = path.absolute()
    return next(p for p in (path, *path.parents) if p.exists())


def _writable(folder: Path) -> bool:
    return folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)
