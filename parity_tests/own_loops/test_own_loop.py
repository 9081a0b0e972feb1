"""The page on one's own loop is true: its code runs, and its commands end as it says."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from lockstep.cli import main

PAGE = Path(__file__).parents[2] / "docs" / "own_loop.md"


NUMBER = re.compile(r"-?\d+(\.\d+)?(e[-+]\d+)?")


def blocks(text: str) -> list[tuple[str, str]]:
    """The language and the text of each block of code on a page, in order; what a command prints
    has none.
    """
    return re.findall(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def lines_of(text: str) -> set[str]:
    """The lines of an output, with any number for each number."""
    return {" ".join(NUMBER.sub("#", line).split()) for line in text.splitlines()}


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
        elif language == "toml":
            written = Path("names.toml").read_text()
            assert len(code.splitlines()) == 5
            assert all(line in written for line in code.splitlines())
        else:
            assert lines_of(code) <= lines_of(outputs[-1]), outputs[-1]
    assert statuses == [0, 1, 0, 0, 1]
    compared, measured, listed = outputs[2:]
    assert "no noise was measured" in compared
    assert "no noise" not in measured
    assert "verdict: rounding" in compared
    assert "verdict: rounding" in measured
    operation = " ".join(listed.partition("first operation")[2].split())
    assert operation.count("in forward (aten.gelu)") == 2
    assert "what they read agrees" in operation
