"""Commands that sentences tell a person to run: a shell reads them as they are meant, whatever a path holds."""

import re
import shlex
from pathlib import Path

import pytest
import yaml

from pipeline.core.errors import InputError
from pipeline.registry import resolve_run
from pipeline.search import index_store
from tests.conftest import small_configuration


def test_a_shell_reads_a_printed_command_as_it_is_meant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "p.tsv").write_text("query\tdocument\na b\tc d\n")
    given, override = "my $(touch mark).yaml", "name=a b?"
    source = {"format": "tsv", "path": "p.tsv"}
    Path(given).write_text(yaml.safe_dump(small_configuration(tmp_path, ingest={"source": source})))

    def printed(ask: object, *arguments: object) -> list[str]:
        with pytest.raises(InputError) as raised:
            ask(*arguments)  # type: ignore[operator]
        (command,) = re.findall("`(duplet .*?)`", str(raised.value))
        return shlex.split(command)

    assert printed(resolve_run.model, given, tmp_path, None) == ["duplet", "run", given]
    assert printed(resolve_run._of_configuration, given, [override], None, None) == ["duplet", "run", given, override]
    index = Path("an index; touch mark")
    assert printed(index_store.read_state, index)[-2:] == ["--output", str(index)]
