"""The page on one's own loop is true: its code runs, and its commands end as it says."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from lockstep.cli import main

PAGE = Path(__file__).parents[2] / "docs" / "own_loop.md"


def blocks(text: str) -> list[tuple[str, str]]:
    """The language and the text of each block of code on a page, in order."""
    return re.findall(r"^```(\w+)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def command(line: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    with pytest.raises(SystemExit) as end:
        main(shlex.split(line)[1:])
    return int(end.value.code or 0), capsys.readouterr().out


@pytest.mark.slow
def test_the_page_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    text = PAGE.read_text()
    namespace: dict[str, Any] = {"__name__": "own_loop"}
    statuses, outputs = [], []
    for language, code in blocks(text):
        if language == "python":
            exec(compile(code, str(PAGE), "exec"), namespace)
        elif language == "sh":
            status, out = command(code.strip(), capsys)
            statuses.append(status)
            outputs.append(out)
        else:
            lines = re.findall(r'"[^"]+" = [^#\n]+', code.partition("[forward]")[0])
            written = Path("names.toml").read_text()
            assert len(lines) == 4
            assert all(line.strip() in written for line in lines)
            assert 'layout = "transpose"' in written
    assert statuses == [0, 1, 0, 0]
    assert "First at update 0, update, update_norm" in outputs[1]
    assert "no noise was measured" in outputs[2]
    assert "no noise" not in outputs[3]
    assert all("verdict: rounding" in out for out in outputs[2:])
