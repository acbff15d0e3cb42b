"""Set-up: what it needs and says, when it works and when it has nothing to do; the lock file; the import contracts.

`docker/setup.sh` runs on a copy in a temporary folder, with a stand-in for Python that plays venv and pip: nothing is
downloaded, and what the script asked of pip is on record.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
TOOLS = (
    *("bash", "dirname", "cat", "sha256sum", "cut", "mkdir", "mktemp", "rm", "tail", "awk", "nproc", "find", "grep"),
    *("flock", "gcc", "g++", "make"),
)

# Plays Python 3.11: answers the script's questions with the real one, makes a "venv" of copies of itself, and as pip
# writes its arguments (and the names in the file of packages it is given) down. FAKE_FAIL makes the pip call with that
# word in its arguments fail.
STAND_IN = """#!{bash}
case "$1 $2 $3" in
"-m venv "*)
    mkdir -p "$3/bin" && cp "$0" "$3/bin/python" && touch "$3/pyvenv.cfg"
    echo "VIRTUAL_ENV=$3" >"$3/bin/activate" && echo venv >>"{record}" ;;
"-m pip "*)
    echo "noise on stdout from pip"; echo "noise on stderr from pip" >&2
    args="$*"; file=${{args##*-r }}
    names=$([ -f "$file" ] && grep -o '^[a-z0-9-]*==' "$file" | tr '\\n' ' ')
    echo "pip ${{args##*version-check }} $names${{HOROVOD_GPU_OPERATIONS:+ for $HOROVOD_GPU_OPERATIONS}}" >>"{record}"
    for folder in ${{LD_LIBRARY_PATH:-}}; do ls "$folder" >>"{record}.driver"; done
    if [ -n "$FAKE_FAIL" ] && [[ "$args" == *"$FAKE_FAIL"* ]]; then echo "no route to index" >&2; exit 7; fi
    sleep "${{FAKE_SLEEP:-0}}"
    if [[ "$args" == *--editable* ]]; then cp "$0" "$(dirname "$0")/duplet"; fi ;;
"-c import pip"*) ;;
"-P -m pipeline.models.kernel.build") touch "{record}.layers"; [ -z "$FAKE_NO_LAYERS" ] ;;
*) exec "{python}" "$@" ;;
esac
"""


class Checkout:
    """A copy of the files that set-up reads, and a PATH of only the tools it may use."""

    def __init__(self, folder: Path) -> None:
        self.root, self.tools, self.record = folder / "check out", folder / "tools", folder / "record"
        (self.root / "docker").mkdir(parents=True)
        for name in ("docker/setup.sh", "pyproject.toml", "Makefile"):
            shutil.copy(REPOSITORY / name, self.root / name)
        self.requirements = self.root / "requirements.txt"
        self.requirements.write_text(
            "mxnet==1.9.1 \\\n    --hash=sha256:aa\nhorovod==0.28.1 \\\n    --hash=sha256:bb\n"
        )
        self.tools.mkdir()
        for name in (*TOOLS, "cp", "touch", "tr", "sleep"):  # the last four are the stand-in's
            found = shutil.which(name)
            assert found, f"this machine has no {name}"
            (self.tools / name).symlink_to(found)
        self.python = self.stand_in()

    @property
    def venv(self) -> Path:
        return self.root / ".venv"

    def script(self, name: str, text: str) -> Path:
        path = self.tools / name
        path.write_text(text)
        path.chmod(0o755)
        return path

    def stand_in(self, answer: str = "") -> Path:
        """Puts the stand-in on PATH as python3.11, with one more case of its own."""
        text = STAND_IN.replace('"-c import pip"*) ;;', f'"-c import pip"*) ;;\n{answer}')
        python = os.path.realpath(sys.executable)
        return self.script("python3.11", text.format(bash=self.tools / "bash", record=self.record, python=python))

    def command(self, *arguments: str) -> list[str]:
        return [str(self.tools / "bash"), str(self.root / "docker" / "setup.sh"), *arguments]

    def environment(self, **extra: str) -> dict[str, str]:
        return {"PATH": str(self.tools), "HOME": str(self.root), **extra}

    def setup(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*arguments), capture_output=True, text=True, timeout=60, cwd="/",
            env=self.environment(**environment),
        )  # fmt: skip

    def asked(self) -> list[str]:
        """What the stand-in was asked for since the last call."""
        lines = self.record.read_text().splitlines() if self.record.exists() else []
        self.record.unlink(missing_ok=True)
        return [line.strip() for line in lines]


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


def assert_refused(checkout: Checkout, done: subprocess.CompletedProcess[str], *words: str) -> None:
    """Exit 2, one sentence with these words on stderr, and nothing made or downloaded."""
    assert done.returncode == 2 and done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("setup: ") and line.endswith(".") and all(word in line for word in words)
    assert checkout.asked() == [] and not checkout.venv.exists()


# --- what is missing --------------------------------------------------------------------------------------------------
def test_no_python_at_all(checkout: Checkout) -> None:
    checkout.python.unlink()
    assert_refused(
        checkout, checkout.setup(), "no Python 3.11", "'python3.11'", "apt-get install python3.11", "DUPLET_PYTHON"
    )


def test_a_python_of_another_version(checkout: Checkout) -> None:
    code = "import sys; sys.version_info = (3, 12, 1); exec(sys.argv[1])"
    other = checkout.script("python3.12", f'#!{checkout.tools}/bash\nexec "{sys.executable}" -c "{code}" "$2"\n')
    assert_refused(checkout, checkout.setup(DUPLET_PYTHON=str(other)), "no Python 3.11", str(other))
    broken = checkout.script("broken", f"#!{checkout.tools}/bash\necho 'shim: not found' >&2; exit 127\n")
    assert_refused(checkout, checkout.setup(DUPLET_PYTHON=str(broken)), "no Python 3.11")


def test_python_without_venv(checkout: Checkout) -> None:
    checkout.stand_in('"-c import ensurepip"*) exit 1 ;;')
    assert_refused(checkout, checkout.setup(), "lacks venv", "python3.11-venv")


def test_python_without_headers(checkout: Checkout) -> None:
    checkout.stand_in(f'"-c import sysconfig"*) echo "{checkout.tools}" ;;')
    assert_refused(checkout, checkout.setup(), "headers", "python3.11-dev")


@pytest.mark.parametrize("tool", ["gcc", "g++", "make"])
def test_no_compiler(checkout: Checkout, tool: str) -> None:
    (checkout.tools / tool).unlink()
    assert_refused(checkout, checkout.setup(), f"no {tool} found", "apt-get install build-essential")


def test_make_passes_the_sentence_on_and_does_not_go_further(checkout: Checkout) -> None:
    (checkout.tools / "g++").unlink()
    done = subprocess.run(
        [str(checkout.tools / "make"), "--no-print-directory", "demo"],
        cwd=checkout.root, capture_output=True, text=True, env=checkout.environment(),
    )  # fmt: skip
    assert done.returncode == 2 and done.stderr.splitlines()[0].startswith("setup: no g++ found")
    assert done.stdout == "" and not checkout.venv.exists()


# --- when it works, and when there is nothing to do -------------------------------------------------------------------
def test_wheels_first_then_sdists_and_pips_noise_only_in_the_log(checkout: Checkout) -> None:
    done = checkout.setup()
    assert done.returncode == 0, done.stderr
    made, wheels, sdists, own = checkout.asked()
    assert made == "venv"
    assert "--require-hashes --only-binary :all:" in wheels and wheels.endswith("mxnet==")
    assert "--require-hashes --no-build-isolation" in sdists and sdists.endswith("horovod==")
    assert own.endswith("install --no-deps --no-build-isolation --editable .")
    assert done.stdout == "" and all(line.startswith("setup: ") for line in done.stderr.splitlines())
    assert "noise on stdout" in (checkout.venv / "setup.log").read_text()


def test_recurrent_layers_that_cannot_be_built_are_no_failure(checkout: Checkout) -> None:
    done = checkout.setup(FAKE_NO_LAYERS="1")
    assert done.returncode == 0 and Path(f"{checkout.record}.layers").exists()
    said = done.stderr.splitlines()
    assert said[-1] == "setup: done"
    assert "recurrent layers could not be built, MXNet's are used" in said[-2] and "setup.log" in said[-2]
    assert "recurrent layers" not in checkout.setup().stderr


def test_a_second_call_does_nothing_and_needs_nothing(checkout: Checkout) -> None:
    assert checkout.setup().returncode == 0 and len(checkout.asked()) == 4
    checkout.python.unlink()
    for tool in ("gcc", "g++", "make"):
        (checkout.tools / tool).unlink()
    done = checkout.setup()
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert checkout.asked() == []


@pytest.mark.parametrize("name", ["requirements.txt", "pyproject.toml", "docker/setup.sh"])
def test_a_changed_file_brings_the_environment_up_to_date(checkout: Checkout, name: str) -> None:
    checkout.setup()
    checkout.asked()
    with (checkout.root / name).open("a") as file:
        file.write("# changed\n")
    done = checkout.setup()
    assert "up to date" in done.stderr and len(checkout.asked()) == 4
    checkout.setup()
    assert checkout.asked() == []


def test_a_failure_is_told_below_pips_last_words_and_the_next_call_goes_on(checkout: Checkout) -> None:
    done = checkout.setup(FAKE_FAIL="--only-binary")
    assert done.returncode == 1
    *_, said, ours = done.stderr.splitlines()
    assert said == "no route to index"
    assert ours.startswith("setup: installing packages failed") and "setup.log" in ours
    assert len(checkout.asked()) == 2  # no sdist was tried
    assert checkout.setup().returncode == 0 and len(checkout.asked()) == 4


def test_an_update_that_fails_does_not_pass_for_done(checkout: Checkout) -> None:
    checkout.setup()
    before = checkout.requirements.read_text()
    checkout.requirements.write_text(before + "scipy==1.15.3\n")
    assert checkout.setup(FAKE_FAIL="--no-build-isolation -r").returncode == 1
    checkout.requirements.write_text(before)  # back again, but the environment is half of the other
    checkout.asked()
    assert checkout.setup().returncode == 0 and len(checkout.asked()) == 4


def test_an_environment_that_was_moved_or_lost_its_python_is_made_anew(checkout: Checkout) -> None:
    checkout.setup()
    (checkout.venv / "leftover").write_text("")
    checkout.root.rename(checkout.root.with_name("moved"))
    checkout.root = checkout.root.with_name("moved")
    checkout.asked()
    assert "building" in checkout.setup().stderr and len(checkout.asked()) == 4
    assert not (checkout.venv / "leftover").exists()
    (checkout.venv / "bin" / "python").unlink()
    (checkout.venv / "bin" / "python").symlink_to("/nonexistent/python3.11")
    assert "building" in checkout.setup().stderr and len(checkout.asked()) == 4
    assert checkout.setup().returncode == 0 and checkout.asked() == []


def test_another_folder_by_its_full_path_is_no_place_for_clearing(checkout: Checkout, tmp_path: Path) -> None:
    other = tmp_path / "other env"
    other.mkdir()
    (other / "mine").write_text("kept")
    assert checkout.setup(str(other)).returncode == 0
    assert (other / "bin" / "duplet").exists() and not checkout.venv.exists()
    assert (other / "mine").read_text() == "kept"


def test_two_calls_at_once_do_the_work_once(checkout: Checkout) -> None:
    both = [
        subprocess.Popen(
            checkout.command(), env=checkout.environment(FAKE_SLEEP="0.3"), stderr=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    said = [process.communicate(timeout=60)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert len(checkout.asked()) == 4
    assert sorted("setup: done" in text for text in said) == [False, True]


# --- for GPUs ---------------------------------------------------------------------------------------------------------
@pytest.fixture
def toolkit(checkout: Checkout) -> Path:
    """A folder like CUDA 11's, with NCCL; all libraries but the driver's can be loaded."""
    shutil.copy(REPOSITORY / "docker" / "requirements-gpu.txt", checkout.root / "docker")
    folder = checkout.root / "cuda"
    for name in ("bin/nvcc", "include/nccl.h", "lib64/stubs/libcuda.so"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text('#!/bin/sh\necho "Cuda compilation tools, release 11.7, V11.7.99"\n')
    (folder / "include" / "nccl.h").write_text("")
    (folder / "bin" / "nvcc").chmod(0o755)
    for name in ("ln", "ls"):
        (checkout.tools / name).symlink_to(str(shutil.which(name)))
    checkout.stand_in('"-c import ctypes"*) [[ "$2" != *libcuda.so* && "$2" != *"${{FAKE_LACKS:-none}}"* ]] ;;')
    return folder


@pytest.mark.parametrize("cuda", ["cu112", "cu117"])
def test_for_gpus_mxnet_is_another_and_horovod_is_built_with_nccl(checkout: Checkout, toolkit: Path, cuda: str) -> None:
    given = {"DUPLET_MXNET": cuda, "CUDA_HOME": str(toolkit)}
    done = checkout.setup(".venv-gpu", **given)
    assert done.returncode == 0, done.stderr
    _, wheels, sdists, _ = checkout.asked()
    assert wheels.endswith(f"mxnet-{cuda}==")
    assert sdists.endswith("horovod==  for NCCL")
    # Horovod's build imports MXNet, on hosts without a driver too; nothing of that stays
    assert Path(f"{checkout.record}.driver").read_text().split() == ["libcuda.so.1"] * 2
    assert checkout.setup(".venv-gpu", **given).stderr == "" and checkout.asked() == []
    other = "cu112" if cuda == "cu117" else "cu117"
    assert checkout.setup(".venv-gpu", **given | {"DUPLET_MXNET": other}).returncode == 0
    assert checkout.asked()[1].endswith(f"mxnet-{other}==")


@pytest.mark.parametrize(
    ("lacking", "environment", "words"),
    [
        ("", {"DUPLET_MXNET": "cu121"}, ["DUPLET_MXNET=cu121", "cu112 and cu117"]),
        ("bin/nvcc", {}, ["no compiler of CUDA", "bin/nvcc", "CUDA_HOME"]),
        ("include/nccl.h", {}, ["headers of NCCL 2", "HOROVOD_NCCL_HOME"]),
        ("", {"FAKE_LACKS": "libcudnn.so.8"}, ["libcudnn.so.8 cannot be loaded", "LD_LIBRARY_PATH"]),
        ("lib64/stubs/libcuda.so", {}, ["neither a driver", "stubs/libcuda.so"]),
    ],
)
def test_what_gpus_need_and_is_not_there_is_said_before_anything_is_made(
    checkout: Checkout, toolkit: Path, lacking: str, environment: dict[str, str], words: list[str]
) -> None:
    if lacking:
        (toolkit / lacking).unlink()
    done = checkout.setup(**{"DUPLET_MXNET": "cu117", "CUDA_HOME": str(toolkit), **environment})
    assert_refused(checkout, done, *words)


def test_another_cuda_is_refused(checkout: Checkout, toolkit: Path) -> None:
    (toolkit / "bin" / "nvcc").write_text('#!/bin/sh\necho "release 12.4, V12.4.99"\n')
    done = checkout.setup(DUPLET_MXNET="cu117", CUDA_HOME=str(toolkit))
    assert_refused(checkout, done, "not CUDA 11", str(toolkit))


# --- the peer's environment, and continuous integration ---------------------------------------------------------------
def test_the_peers_environment_is_made_once(checkout: Checkout) -> None:
    (checkout.root / "benchmarks").mkdir()
    shutil.copy(REPOSITORY / "benchmarks" / "setup_peer.sh", checkout.root / "benchmarks")
    command = [str(checkout.tools / "bash"), str(checkout.root / "benchmarks" / "setup_peer.sh")]
    run = lambda **extra: subprocess.run(command, capture_output=True, text=True, env=checkout.environment(**extra))
    failed = run(FAKE_FAIL="torch")
    assert failed.returncode == 1 and failed.stderr.splitlines()[-1].startswith("setup_peer: pip failed")
    checkout.asked()
    assert run().returncode == 0
    assert any("torch==2.13.0 " in line for line in checkout.asked())
    again = run()
    assert (again.returncode, again.stdout, again.stderr, checkout.asked()) == (0, "", "", [])
    assert run(DUPLET_PYTHON="/nonexistent").returncode == 0
    shutil.rmtree(checkout.root / ".peer")
    missing = run(DUPLET_PYTHON="/nonexistent")
    assert missing.returncode == 2 and len(missing.stderr.splitlines()) == 1 and checkout.asked() == []


class Ci:
    """A folder with .ci/run, a stand-in for make whose tests fail, and one for the program that makes the null GPU."""

    def __init__(self, folder: Path, null_gpu: int = 0, tests: int = 2) -> None:
        self.root = folder / "repository"
        (self.root / ".ci").mkdir(parents=True)
        shutil.copy(REPOSITORY / ".ci" / "run", self.root / ".ci")
        make = (
            'echo "make $2 in $PWD with ${DUPLET_DATA-none}"',
            "[ $2 = test ] || exit 0",
            'echo "1 failed, 9 passed in 75.31s (0:01:15)"',
            f'[ {tests} = 0 ] || echo "make: *** [Makefile:1: test] Error {tests}" >&2',
            f"exit {tests}",
        )
        python = (f'[ "$*" = "tests/null_gpu/build.py --seconds 300" ] && exit {null_gpu}',)
        for path, lines in ((folder / "make", make), (self.root / ".venv" / "bin" / "python", python)):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("\n".join(["#!/bin/sh", *lines, ""]))
            path.chmod(0o755)
        self.environment = {"PATH": f"{folder}:{os.environ['PATH']}"}

    def run(self) -> tuple[int, list[str]]:
        done = subprocess.run([str(self.root / ".ci" / "run")], capture_output=True, text=True, env=self.environment)
        return done.returncode, done.stdout.splitlines()


@pytest.mark.parametrize("data", ["beside", "given", "absent"])
def test_ci_finds_the_data_and_ends_with_pytests_closing_line(tmp_path: Path, data: str) -> None:
    ci = Ci(tmp_path)
    if data == "given":
        ci.environment["DUPLET_DATA"] = "/given"
    if data != "absent":
        (tmp_path / "shared" / "data").mkdir(parents=True)
    code, (*first, _, last) = ci.run()
    value = {"beside": str(tmp_path / "shared" / "data"), "given": "/given", "absent": "none"}[data]
    targets = ("check", "test-jobs", "test-null-gpu", "test")
    assert first[:4] == [f"make {target} in {ci.root} with {value}" for target in targets]
    assert last == "1 failed, 9 passed in 75.31s (0:01:15)" and code == 2


@pytest.mark.parametrize(("null_gpu", "said"), [(3, ["The tests over the null GPU did not run."]), (1, [])])
def test_ci_goes_on_without_the_null_gpu(tmp_path: Path, null_gpu: int, said: list[str]) -> None:
    """3: MXNet's wheel cannot be had, which is no failure; 1: the null GPU cannot be made of it, which is one."""
    code, (*first, last) = Ci(tmp_path, null_gpu, tests=0).run()
    targets = [line.split(" in ")[0] for line in first if line.startswith(("make ", "The "))]
    assert targets == ["make check", "make test-jobs", *said, "make test"]
    assert last == "1 failed, 9 passed in 75.31s (0:01:15)" and code == (0 if said else 1)


# --- the lock file ----------------------------------------------------------------------------------------------------
def locked() -> dict[str, tuple[str, list[str]]]:
    """name -> (version, hashes) of requirements.txt."""
    text = (REPOSITORY / "requirements.txt").read_text().replace("\\\n", " ")
    found = {}
    for line in text.splitlines():
        match = re.fullmatch(r"([a-z0-9-]+)==(\S+)((?: +; [^-]+)?)((?: +--hash=sha256:[0-9a-f]{64})*) *", line)
        assert match, f"no pinned requirement: {line[:80]}"
        found[match[1]] = (match[2], match[4].split())
    return found


def test_every_package_is_pinned_with_hashes_and_no_index_is_named() -> None:
    packages = locked()
    assert len(packages) > 50 and all(hashes for _, hashes in packages.values())
    text = (REPOSITORY / "requirements.txt").read_text()
    assert not re.search(r"https?:|file:|--(extra-)?index-url|--find-links|--trusted-host|^-", text, re.MULTILINE)


def test_the_lock_holds_what_pyproject_pins() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    packages = locked()
    extras = [
        line for name in ("serve", "search", "train", "teach", "dev") for line in project["optional-dependencies"][name]
    ]
    for line in [*project["dependencies"], *(line for line in extras if not line.startswith("duplet["))]:
        match = re.fullmatch(r"([A-Za-z0-9-]+)(?:\[\w+\])?(?:(==)([\w.]+)|[<>].*)?", line)
        assert match, line
        assert match[1].lower() in packages, f"{line} is not locked: run `make lock`"
        assert match[2] is None or packages[match[1].lower()][0] == match[3], f"{line} changed: run `make lock`"


# --- the import contracts ---------------------------------------------------------------------------------------------
def lint_imports(root: Path) -> dict[str, bool]:
    """Contract -> kept, of the code under `root`."""
    lint = Path(sysconfig.get_path("scripts")) / "lint-imports"
    done = subprocess.run(
        [str(lint), "--no-cache"],
        cwd=root,
        capture_output=True,
        text=True,
        env={**os.environ, "NO_COLOR": "1", "COLUMNS": "200"},
    )
    found = re.findall(r"^(.+?) (KEPT|BROKEN)\b", done.stdout, re.MULTILINE)
    assert found, done.stdout + done.stderr
    return {name: state == "KEPT" for name, state in found}


def test_each_import_contract_breaks_when_it_is_violated(tmp_path: Path) -> None:
    for name in ("pipeline", "jobs"):
        shutil.copytree(REPOSITORY / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(REPOSITORY / "pyproject.toml", tmp_path)
    whole = lint_imports(tmp_path)
    assert len(whole) == 6 and all(whole.values()), json.dumps(whole, indent=1)
    for place, line in (
        ("pipeline/core/atomic_files.py", "import pipeline.ingest"),
        ("pipeline/core/errors.py", "import jobs"),
        ("pipeline/cli/diagnostics.py", "import mlflow"),
        ("pipeline/core/manifest.py", "import horovod.mxnet"),
        ("pipeline/ingest/rows.py", "def late():\n    from mxnet import nd"),
        ("jobs/__init__.py", "import mxnet"),
    ):
        path = tmp_path / place
        path.write_text(path.read_text() + f"\n{line}\n")
    assert not any(lint_imports(tmp_path).values())


# --- images -----------------------------------------------------------------------------------------------------------
def test_an_image_has_nothing_that_only_developing_needs(tmp_path: Path) -> None:
    """`docker/prune.sh` on a stand-in for an environment, whose packages are those of this one."""
    venv, asked = tmp_path / "venv", tmp_path / "asked"
    (venv / "bin").mkdir(parents=True)
    for name, text in (("python", f'exec {sys.executable} "$@"'), ("pip", f'echo "$*" >>{asked}')):
        (venv / "bin" / name).write_text(f"#!/bin/sh\n{text}\n")
        (venv / "bin" / name).chmod(0o755)
    subprocess.run(["bash", "docker/prune.sh", venv], cwd=REPOSITORY, check=True, timeout=60)
    [removed] = [line.partition("--yes ")[2].split() for line in asked.read_text().splitlines() if "uninstall" in line]
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    named = {re.split(r"[\[<>=]", line)[0].lower() for line in project["optional-dependencies"].pop("dev")}
    assert named - set(removed) == {"setuptools"}  # which GluonNLP and jieba import
    assert {"execnet", "pluggy", "coverage"} < set(removed)  # of pytest's
    needed = [project["dependencies"], *project["optional-dependencies"].values()]
    others = {re.split(r"[\[<>=]", line)[0].lower() for lines in needed for line in lines}
    assert not set(removed) & {
        *others,
        "boto3",
        "botocore",
        "packaging",
        "requests",
        "jinja2",
        "werkzeug",
        "flask",
        "pip",
    }
