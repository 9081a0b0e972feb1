"""Names and messages of others are shown and never obeyed, on the terminal, in JUnit's XML and in
HTML.
"""

import ast
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import lockstep
from lockstep.cli import main
from lockstep.parity import assert_parity
from lockstep.printable import printable

ROOT = Path(__file__).parents[2]
HOSTILE = {
    "title": "w\x1b]0;owned\x07",
    "colour": "w\x1b[31mred",
    "C1": "w\x9b2J",
    "carriage": "w\rverdict: identical",
    "line": "w\nverdict: identical",
    "bidi": "w\u202eevil",
    "isolate": "w\u2066evil\u2069",
    "separator": "w\u2028evil",
    "markup": "w[red]evil[/red][/b]",
}
READABLE = ("Größe", "重み", "вес", "क्\u200dष", "w.0/β₁", "🙂")


def record(path: Path, name: str, rate: float = 0.05) -> None:
    """A small regression by hand, whose only parameter has that name."""
    rng = np.random.default_rng(4)
    w_DK = np.ones((3, 2))
    recorder = lockstep.Recorder(path, backend=path.stem, settings={name: rate})
    recorder.start({name: w_DK})
    for _ in range(3):
        x_BD = rng.standard_normal((5, 3))
        gradient = x_BD.T @ (x_BD @ w_DK) / 5
        w_DK = w_DK - rate * gradient
        loss = float((x_BD @ w_DK).mean())
        recorder.update(loss=loss, gradients={name: gradient}, lr=rate, parameters={name: w_DK})
    recorder.finish()


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    """The exit status and both streams."""
    with pytest.raises(SystemExit) as end:
        main([str(argument) for argument in arguments])
    streams = capsys.readouterr()
    return int(end.value.code or 0), streams.out + streams.err


def obeyed(text: str) -> list[str]:
    """The characters that do not print, without line breaks and joiners."""
    joiners = "\n\t\u200c\u200d"
    return [
        character for character in text if not character.isprintable() and character not in joiners
    ]


@given(st.text(st.characters(codec=None)))
def test_what_is_printable_holds_only_what_prints_and_stays_as_it_is(text: str) -> None:
    safe = printable(text)
    assert not [c for c in obeyed(safe) or safe if c in "\n\t"]
    assert not obeyed(safe)
    assert printable(safe) == safe


@pytest.mark.parametrize("text", READABLE)
def test_letters_of_every_script_stay_readable(text: str) -> None:
    assert printable(text) == text


@pytest.mark.parametrize("name", HOSTILE.values(), ids=HOSTILE)
@pytest.mark.parametrize("command", ["compare", "diagnose", "names"])
def test_names_in_traces_are_shown(
    command: str,
    name: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    for side, rate in (("a", 0.05), ("b", 0.25)):
        record(tmp_path / f"{side}.trace", name, rate)
    paths = tmp_path / "a.trace", tmp_path / "b.trace"
    more = ["--out", tmp_path / "names.toml"] if command == "names" else []
    status, text = run(capsys, command, *paths, *more)
    assert status == (0 if command == "names" else 1)
    assert not obeyed(text)
    assert not [line for line in text.splitlines() if line.startswith("verdict: identical")]
    if command != "names":
        assert printable(name) in text


@pytest.mark.parametrize("name", HOSTILE.values(), ids=HOSTILE)
def test_paths_in_error_lines_are_shown_in_one_line(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in (
        ["compare", name, name],
        ["recipe", "check", name],
        ["record", "--backend", "oracle", "--out", name, "--set", f"{name}=1"],
        ["bench", "--compare", name, name],
        ["upgrade-check", name],
    ):
        status, text = run(capsys, *command)
        assert status == 2, command
        assert text.count("\n") == 1, text
        assert not obeyed(text)


@pytest.mark.parametrize("name", HOSTILE.values(), ids=HOSTILE)
def test_junit_holds_text_that_prints(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for side, rate in (("a", 0.05), ("b", 0.25)):
        record(tmp_path / f"{side}.trace", name, rate)
    out = tmp_path / "out.xml"
    run(capsys, "compare", tmp_path / "a.trace", tmp_path / "b.trace", "--junit", out)
    tree = ET.fromstring(out.read_bytes())
    values = [element.text or "" for element in tree.iter()]
    values += [value for element in tree.iter() for value in element.attrib.values()]
    assert not [value for value in values if obeyed(value)]
    assert [value for value in values if "w" in value]


@pytest.mark.parametrize("name", HOSTILE.values(), ids=HOSTILE)
def test_pages_hold_text_that_prints(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = Path(name.replace("/", "") + ".toml")
    recipe.write_text("[schedule]\nwarmup = 1\n")
    status, text = run(capsys, "curve", recipe, "--out", "out.html", "--set", "training.epochs=2")
    assert status == 0
    assert not obeyed(text)
    page = Path("out.html").read_text()
    parts = page.split("</script>")
    assert not obeyed(parts[0][:2000] + parts[-2] + parts[-1])


@pytest.mark.parametrize("name", HOSTILE.values(), ids=HOSTILE)
def test_a_report_of_pytest_holds_text_that_prints(name: str) -> None:
    def loop(rate: float) -> lockstep.parity.Loop:
        def train(recorder: lockstep.Recorder) -> None:
            w = recorder.start({name: np.ones(3)})[name]
            for _ in range(2):
                recorder.update(
                    loss=1.0, gradients={name: w}, lr=rate, parameters={name: w - rate * w}
                )
                w = w - rate * w

        return train

    with pytest.raises(lockstep.errors.ParityError) as caught:
        assert_parity(loop(0.1), loop(0.3))
    assert not obeyed(str(caught.value))


def test_a_name_that_no_encoding_holds_is_shown(tmp_path: Path) -> None:
    lost = b"\xff\x1b.trace"
    command = [sys.executable, "-m", "lockstep", "compare", lost, lost]
    process = subprocess.run(command, cwd=tmp_path, capture_output=True, check=False)
    assert process.returncode == 2
    assert process.stderr.startswith(rb"lockstep: \udcff\x1b.trace: ")


def test_every_module_writes_through_the_same_doors() -> None:
    doors = {ROOT / "lockstep/printable.py", ROOT / "lockstep/report/console.py"}
    for room in ("lockstep", "benchmarks"):
        for path in (ROOT / room).rglob("*.py"):
            tree = ast.parse(path.read_text())
            nodes = list(ast.walk(tree))
            calls = {ast.unparse(node.func) for node in nodes if isinstance(node, ast.Call)}
            imported = {node.module for node in nodes if isinstance(node, ast.ImportFrom)}
            assert path in doors or not calls & {"click.echo", "click.secho", "Console"}, path
            assert "rich.markup" not in imported, path
