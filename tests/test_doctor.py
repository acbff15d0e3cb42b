"""`duplet doctor`: every row ok, warned and failed, with stand-ins for nvidia-smi, real HTTP servers and processes."""

import base64
import io
import json
import re
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from pipeline.cli import diagnostics
from pipeline.models.kernel import library

CPU_BUILD = {"features": ["MKLDNN", "OPENMP"], "extension": True, "gloo": True, "mpi": False, "nccl": False}
CUDA_BUILD = {**CPU_BUILD, "features": ["CUDA", "MKLDNN", "OPENMP"], "nccl": True}


def script(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


# --- the whole, on this machine ---------------------------------------------------------------------------------------
def test_this_environment_has_no_failed_row_and_the_rows_are_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))  # no nvidia-smi, whatever this machine has
    checks = diagnostics.examine(tmp_path / "runs", None, workers=1)
    by_name = {check.name: check for check in checks}
    ours = {name: check for name, check in by_name.items() if name != "disk"}
    assert not [check for check in ours.values() if check.state == "failed"]
    assert "Gloo yes" in by_name["Horovod build"].found and by_name["numpy"].found == "1.23.5"
    assert by_name["GPU"].found == "no GPU, training runs on the CPU"
    assert by_name["recurrent layers"].found.startswith(("Duplet's own (AVX", "MXNet's ("))
    assert not (tmp_path / "runs").exists()  # looking makes nothing
    assert len(json.loads(json.dumps([check._asdict() for check in checks]))) == len(checks)


def test_examine_goes_on_past_everything_broken_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    script(tmp_path, "nvidia-smi", "#!/bin/sh\necho 'NVIDIA H100 PCIe, 9.0'\n")
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://ada:s3cret@127.0.0.1:1/")
    monkeypatch.setenv("OMP_NUM_THREADS", "64")
    monkeypatch.setattr(diagnostics, "probe_build", lambda: {"mxnet_error": "broken", "horovod_error": "broken"})
    monkeypatch.setattr(diagnostics, "required_packages", dict)
    checks = diagnostics.examine(tmp_path / "file" / "runs", None)
    assert {check.name: check.state for check in checks} == {
        "Python": "ok", "packages": "failed", "MXNet build": "failed", "Horovod build": "failed",
        "recurrent layers": "failed",
        "threads": "warning", "GPU 0": "failed", "disk": "failed", "MLflow": "failed",
    }  # fmt: skip
    assert all(bool(check.fix) == (check.state != "ok") for check in checks)
    assert "s3cret" not in repr(checks)


def test_table_shows_each_word_and_takes_brackets_as_they_are() -> None:
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(diagnostics.table([diagnostics.Check("GPU 0", "warning", "Tesla [bold]X[/bold]", "mend [it]")]))
    text = console.export_text()
    for word in ("GPU 0", "warning", "Tesla [bold]X[/bold]", "mend [it]"):
        assert word in text


# --- Python and packages ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("version", "state"), [((3, 11, 9), "ok"), ((3, 10, 12), "failed"), ((3, 12, 0), "failed")])
def test_python(version: tuple[int, ...], state: str) -> None:
    assert diagnostics.check_python(version).state == state


def rows_of(installed: dict[str, str]) -> dict[str, diagnostics.Check]:
    required = {"mxnet": "1.9.1", "numpy": "1.23.5", "pyarrow": None, "scipy": "1.15.3", "rich": None}
    return {check.name: check for check in diagnostics.check_packages(required, installed)}


GOOD = {
    "mxnet": "1.9.1", "gluonnlp": "0.10.0", "horovod": "0.28.1", "mlflow": "3.17.2", "numpy": "1.23.5",
    "pyarrow": "25.0.1", "scipy": "1.15.3", "rich": "15.0.0",
}  # fmt: skip


def test_a_newer_numpy_fails_with_make_setup() -> None:
    assert {check.state for check in rows_of(GOOD).values()} == {"ok"}
    row = rows_of(GOOD | {"numpy": "2.1.0"})["numpy"]
    assert row.state == "failed" and "2.1.0" in row.found and "1.23.5" in row.found and "make setup" in row.fix


def test_missing_and_wrong_packages() -> None:
    rows = rows_of({name: version for name, version in GOOD.items() if name not in ("pyarrow", "rich")})
    assert rows["pyarrow"] == diagnostics.Check("pyarrow", "failed", "not installed", "run `make setup`")
    assert rows["other packages"].state == "failed" and rows["other packages"].found == "rich not installed"
    assert "scipy 1.16.0, need 1.15.3" in rows_of(GOOD | {"scipy": "1.16.0"})["other packages"].found


def test_a_cuda_wheel_counts_as_mxnet_but_two_wheels_do_not() -> None:
    cuda = {("mxnet-cu117" if name == "mxnet" else name): version for name, version in GOOD.items()}
    assert rows_of(cuda)["mxnet"] == diagnostics.Check("mxnet", "ok", "1.9.1 (mxnet-cu117)", "")
    assert rows_of(GOOD | {"mxnet-cu112": "1.9.1"})["mxnet"].state == "failed"


def test_pins_come_from_the_packages_own_metadata() -> None:
    required = diagnostics.required_packages()
    assert required["numpy"] == "1.23.5" and required["pyarrow"] is None
    assert "pytest" not in required  # an extra


# --- builds -----------------------------------------------------------------------------------------------------------
def test_a_build_that_aborts_gives_rows(tmp_path: Path) -> None:
    dies = script(tmp_path, "python", "#!/bin/sh\necho 'undefined symbol: mx' >&2\nkill -ABRT $$\n")
    probe = diagnostics.probe_build(str(dies))
    for check in (diagnostics.check_mxnet(probe), diagnostics.check_horovod(probe)):
        assert check.state == "failed" and check.fix
    assert "undefined symbol: mx" in diagnostics.check_mxnet(probe).found
    assert "exit code -6" in diagnostics.check_mxnet(probe).found


def test_a_probe_that_hangs_or_talks_nonsense_or_is_absent_gives_rows(tmp_path: Path) -> None:
    slow = script(tmp_path, "slow", "#!/bin/sh\nexec sleep 60\n")
    odd = script(tmp_path, "odd", "#!/bin/sh\necho hello\n")
    mute = script(tmp_path, "mute", "#!/bin/sh\n")
    assert "longer than 0.3 s" in diagnostics.check_mxnet(diagnostics.probe_build(str(slow), 0.3)).found
    for python in (odd, mute, tmp_path / "none"):
        assert diagnostics.check_mxnet(diagnostics.probe_build(str(python))).state == "failed"


def test_an_import_error_inside_the_probe_is_told(tmp_path: Path) -> None:
    (tmp_path / "mxnet.py").write_text("raise OSError('libcudart.so.11.0: cannot open shared object file')")
    wrapper = script(tmp_path, "python", f'#!/bin/sh\nPYTHONPATH={tmp_path} exec {sys.executable} "$@"\n')
    row = diagnostics.check_mxnet(diagnostics.probe_build(str(wrapper)))
    assert row.state == "failed" and "libcudart.so.11.0" in row.found and "CUDA 11" in row.fix


def test_horovod_builds() -> None:
    assert diagnostics.check_horovod(CPU_BUILD).found == "MXNet yes, Gloo yes, MPI no, NCCL no"
    assert diagnostics.check_horovod(CPU_BUILD | {"gloo": False}).state == "failed"
    assert diagnostics.check_horovod(CPU_BUILD | {"gloo": False, "mpi": True}).state == "ok"
    without = diagnostics.check_horovod(
        {"features": [], "extension": False, "horovod_error": "ImportError: no extension"}
    )
    assert without.state == "failed" and without.found == "built without its MXNet extension"
    assert diagnostics.check_horovod({"features": [], "horovod_error": "a\n b"}).found == "a b"
    assert diagnostics.check_horovod(CUDA_BUILD).state == "ok"
    assert diagnostics.check_horovod(CUDA_BUILD | {"nccl": False}).state == "warning"


def test_mxnet_builds() -> None:
    assert diagnostics.check_mxnet(CPU_BUILD).found == "CPU only, oneDNN, OpenMP"
    assert diagnostics.check_mxnet(CUDA_BUILD).found.startswith("CUDA,")
    assert diagnostics.check_mxnet({"features": ["OPENMP"]}).state == "warning"


def test_recurrent_layers() -> None:
    assert diagnostics.check_recurrent({"recurrent": "Duplet's own (AVX512, float32)"}).state == "ok"
    without = diagnostics.check_recurrent({"recurrent": "MXNet's (the processor has no AVX2, which its own need)"})
    assert without.state == "warning" and "no AVX2" in without.found and without.fix
    crashed = diagnostics.check_recurrent({"recurrent_error": "ImportError: x"})
    assert crashed.state == "warning" and "ImportError: x" in crashed.found


def test_the_probe_tells_of_the_layers_that_really_load(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "SSE41")
    found = diagnostics.check_recurrent(diagnostics.probe_build())
    assert found.state == "warning"
    if library.location().exists():
        assert found.found == "MXNet's (ONEDNN_MAX_CPU_ISA=SSE41 forbids AVX2, which its own need)"
    else:
        assert library.BUILD in found.found


# --- threads ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("cores", "workers", "omp", "state"),
    [
        (8, 2, None, "ok"), (8, 2, "4", "ok"), (8, 2, "8", "warning"), (8, 2, "1", "warning"),
        (2, 4, None, "warning"), (8, 3, "2", "ok"), (8, 2, "", "warning"), (8, 2, "4,2", "warning"),
    ],
)  # fmt: skip
def test_threads(cores: int, workers: int, omp: str | None, state: str) -> None:
    check = diagnostics.check_threads(cores, workers, omp)
    assert check.state == state
    if omp is not None and state == "warning":
        assert check.fix == f"`export OMP_NUM_THREADS={cores // workers}`" and f"OMP_NUM_THREADS={omp}" in check.found


# --- GPUs -------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("capability", "code"),
    [
        ((5, 2), (5, 0)), ((6, 1), (6, 0)), ((7, 0), (7, 0)), ((7, 5), (7, 0)), ((8, 0), (8, 0)), ((8, 6), (8, 6)),
        ((8, 9), (8, 6)), ((3, 7), None), ((9, 0), None), ((10, 0), None), ((12, 0), None),
    ],
)  # fmt: skip
def test_machine_code_runs_on_equal_or_higher_minor_of_the_same_major(
    capability: tuple[int, int], code: tuple[int, int] | None
) -> None:
    assert diagnostics.runs_on(capability) == code


@pytest.fixture
def nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], list[diagnostics.Check]]:
    """Puts a fake nvidia-smi with this body on PATH and returns the rows it leads to, with a CUDA build of MXNet."""

    def rows(body: str) -> list[diagnostics.Check]:
        script(tmp_path, "nvidia-smi", f"#!/bin/sh\n{body}\n")
        monkeypatch.setenv("PATH", str(tmp_path))
        return diagnostics.check_gpus(diagnostics.query_gpus(), CUDA_BUILD)

    return rows


def test_gpus_of_all_ages(nvidia_smi: Callable[[str], list[diagnostics.Check]]) -> None:
    rows = nvidia_smi("printf '%s\\n' 'Tesla T4, 7.5' 'NVIDIA L4, 8.9' 'NVIDIA H100 PCIe, 9.0' 'Tesla K80, 3.7'")
    assert [row.state for row in rows] == ["ok", "ok", "failed", "failed"]
    assert [row.name for row in rows] == ["GPU 0", "GPU 1", "GPU 2", "GPU 3"]
    assert "7.0 code" in rows[0].found and "8.6 code" in rows[1].found
    assert rows[2].found == "NVIDIA H100 PCIe has compute capability 9.0, and no MXNet wheel has code for it"
    assert rows[2].fix


def test_nvidia_smi_gets_the_question_it_understands(nvidia_smi: Callable[[str], list[diagnostics.Check]]) -> None:
    rows = nvidia_smi('[ "$*" = "--query-gpu=name,compute_cap --format=csv,noheader" ] && echo "Tesla T4, 7.5"')
    assert [row.state for row in rows] == ["ok"]


@pytest.mark.parametrize(
    ("body", "shown"),
    [
        ("echo 'NVIDIA-SMI has failed because it could not communicate with the NVIDIA driver.'; exit 9", "has failed"),
        ("echo 'Tesla T4, [N/A]'", "[N/A]"),
        ("echo 'Field \"compute_cap\" is not a valid field to query.' >&2; exit 2", "not a valid field"),
        ("exit 3", "exit code 3"),
        ("echo 'No devices were found'; exit 6", "No devices"),
    ],
)
def test_nvidia_smi_in_trouble_is_a_warning_with_its_words(
    nvidia_smi: Callable[[str], list[diagnostics.Check]], body: str, shown: str
) -> None:
    (row,) = nvidia_smi(body)
    assert row.state == "warning" and shown in row.found and row.fix


def test_all_pages_name_the_same_gpus() -> None:
    """The oldest and the newest of them have code in the wheel, and what is just older or newer has none."""
    for name in ("pipeline/cli/diagnostics.py", "docs/tutorials/gpus.md", "docker/Dockerfile.gpu"):
        text = (Path(__file__).resolve().parents[1] / name).read_text(encoding="utf-8")
        assert re.findall(r"capability (\d\.\d) to (\d\.\d)", text) == [("5.0", "8.9")], name
    assert diagnostics.runs_on((5, 0)) and diagnostics.runs_on((8, 9))
    assert not diagnostics.runs_on((3, 7)) and not diagnostics.runs_on((9, 0))


def test_a_gpu_beside_a_cpu_build() -> None:
    (row,) = diagnostics.check_gpus("Tesla T4, 7.5", CPU_BUILD)
    assert row.state == "warning" and "CPU build" in row.found and "make setup-gpu" in row.fix
    (row,) = diagnostics.check_gpus("NVIDIA H200, 9.0", CPU_BUILD)
    assert row.state == "failed"


# --- disk -------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("free_bytes", "state"),
    [(0, "failed"), (10**9 - 1, "failed"), (10**9, "warning"), (5 * 10**9 - 1, "warning"), (5 * 10**9, "ok")],
)
def test_free_space(free_bytes: int, state: str) -> None:
    check = diagnostics.check_free(Path("runs"), free_bytes)
    assert check.state == state and bool(check.fix) == (state != "ok")


def test_a_root_below_a_file_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    row = diagnostics.check_root(tmp_path / "file" / "deep" / "runs")
    assert row.state == "failed" and "cannot be written" in row.found
    assert "cannot be written" not in diagnostics.check_root(tmp_path / "not" / "yet").found


# --- MLflow -----------------------------------------------------------------------------------------------------------
class Server:
    """An HTTP server on the loopback that answers /health with `status` after `delay_s`, keeping what it was asked."""

    def __init__(self, status: float = 200, delay_s: float = 0) -> None:
        self.asked: list[tuple[str, str | None]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.asked.append((self.path, self.headers.get("Authorization")))
                time.sleep(delay_s)
                self.send_response(int(status) if self.path.endswith("/health") else 404)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Server]]:
    monkeypatch.setenv("no_proxy", "*")
    made: list[Server] = []

    def start(**how: float) -> Server:
        made.append(Server(**how))
        return made[-1]

    yield start
    for server in made:
        server.http.shutdown()
        server.http.server_close()


def test_a_server_that_answers(serve: Callable[..., Server]) -> None:
    server = serve()
    row = diagnostics.check_tracking(f"http://{server.address}/", Path("runs"))
    assert row == diagnostics.Check("MLflow", "ok", f"http://{server.address}/ answers", "")
    assert diagnostics.check_tracking(f"http://{server.address}/base", Path("runs")).state == "ok"
    assert server.asked == [("/health", None), ("/base/health", None)]


def test_a_server_that_answers_500_is_told_with_its_status(serve: Callable[..., Server]) -> None:
    row = diagnostics.check_tracking(f"http://{serve(status=500).address}", Path("runs"))
    assert row.state == "failed" and "status 500" in row.found and row.fix


def test_a_server_that_is_too_slow(serve: Callable[..., Server]) -> None:
    row = diagnostics.check_tracking(f"http://{serve(delay_s=1).address}", Path("runs"), timeout_s=0.2)
    assert row.state == "failed" and "timed out" in row.found


def test_nobody_listening(serve: Callable[..., Server]) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))  # bound, so that nobody else takes it, and not listening
        row = diagnostics.check_tracking(f"http://127.0.0.1:{free.getsockname()[1]}", Path("runs"))
    assert row.state == "failed" and "refused" in row.found and row.fix


def test_something_else_listening(serve: Callable[..., Server]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:

        def answer() -> None:
            connection, _ = other.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(b"SSH-2.0-what\r\n")

        threading.Thread(target=answer, daemon=True).start()
        row = diagnostics.check_tracking(f"http://127.0.0.1:{other.getsockname()[1]}", Path("runs"))
    assert row.state == "failed" and "does not answer" in row.found


def test_the_password_is_sent_and_never_shown(serve: Callable[..., Server]) -> None:
    server = serve()
    row = diagnostics.check_tracking(f"http://ada:p%40ss@{server.address}", Path("runs"))
    assert row.state == "ok" and "p%40ss" not in repr(row) and "ada" not in repr(row)
    assert server.asked == [("/health", "Basic " + base64.b64encode(b"ada:p@ss").decode())]


def test_half_a_password_is_not_taken_for_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnostics.urllib.request, "urlopen", lambda *_, **__: pytest.fail("something was asked"))
    row = diagnostics.check_tracking("http://ada:one@two/three@mlflow.example.org:5000", Path("runs"))
    assert (
        row.state == "failed"
        and "%40" in row.fix
        and row.found == "http://mlflow.example.org:5000 is not a valid address"
    )


PASSWORD = st.text("pqrstuvwxyz/?#@:[]% é", min_size=1, max_size=12).map(lambda text: f"SE{text}CRET")


@settings(max_examples=50, deadline=None)
@given(
    scheme=st.sampled_from(["http", "https", "postgresql", "mysql+pymysql", "databricks"]),
    password=PASSWORD,
    tail=st.sampled_from(["", "/", "/base", "/db?sslmode=require"]),
)
def test_no_password_of_any_shape_is_shown(scheme: str, password: str, tail: str) -> None:
    row = diagnostics.check_tracking(f"{scheme}://ada:{password}@127.0.0.1:1{tail}", Path("runs"), timeout_s=0.2)
    assert row.state in ("failed", "warning")
    assert not any(part in repr(row) for part in ("SE", "CRET", "ada:", password))


def test_sqlite_and_folders_of_files(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert diagnostics.check_tracking(None, tmp_path) == diagnostics.Check(
        "MLflow", "ok", f"the local default, SQLite under {tmp_path}", ""
    )
    assert diagnostics.check_tracking(f"sqlite:///{tmp_path}/new/mlflow.db", tmp_path).state == "ok"
    for bad in (f"sqlite:///{tmp_path}/file/mlflow.db", f"sqlite:///{tmp_path}", f"file://{tmp_path}/file"):
        row = diagnostics.check_tracking(bad, tmp_path)
        assert row.state == "failed" and "cannot be written" in row.found and row.fix
    assert diagnostics.check_tracking(f"file://{tmp_path}/mlruns", tmp_path).state == "ok"
    assert diagnostics.check_tracking(str(tmp_path / "mlruns"), tmp_path).state == "ok"
    assert not (tmp_path / "new").exists()


def test_the_doctor_itself_needs_neither_mxnet_nor_horovod_nor_mlflow() -> None:
    code = "import sys, pipeline.cli.diagnostics; print({'mxnet', 'horovod', 'mlflow', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
