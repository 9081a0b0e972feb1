"""The page on logs is true: its code runs, and its command ends as it says."""

import re
import shlex
from pathlib import Path

import pytest

from lockstep.cli import main

PAGE = Path(__file__).parents[2] / "docs" / "logs.md"


def test_the_page_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    (_, code), (_, command), (_, shown), (_, record) = blocks
    exec(compile(code, str(PAGE), "exec"), {})
    with pytest.raises(SystemExit) as end:
        main(shlex.split(command)[1:])
    assert end.value.code == 1
    out = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    for line in shown.splitlines():
        assert " ".join(line.split()) in out
    for line in record.splitlines():
        assert any(line in shown for shown in out)
