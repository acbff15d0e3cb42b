"""The commit in a manifest is that of Duplet's own checkout."""

import shutil
import subprocess
import sys
from pathlib import Path

from pipeline.core import manifest


def test_a_repository_around_an_environment_is_not_taken_for_duplets(tmp_path: Path) -> None:
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "of the project"], check=True)
    site = tmp_path / ".venv" / "site-packages"
    shutil.copytree(Path(manifest.__file__).parents[1], site / "pipeline", ignore=shutil.ignore_patterns("__pycache__"))
    code = "import sys; sys.path.insert(0, sys.argv[1]); from pipeline.core import manifest as m; print(m.git_commit())"
    told = subprocess.run([sys.executable, "-P", "-c", code, str(site)], capture_output=True, text=True, check=True)
    assert told.stdout == "None\n"
    subprocess.run([*git, "add", "-A"], check=True)
    subprocess.run([*git, "commit", "-q", "-m", "Duplet itself"], check=True)
    head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout
    told = subprocess.run([sys.executable, "-P", "-c", code, str(site)], capture_output=True, text=True, check=True)
    assert told.stdout == head
