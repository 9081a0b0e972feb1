"""The ported nets of examples/: every step of the stories on their pages, by the commands that the
pages give.
"""

import importlib.util
import re
import runpy
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import pytest

from lockstep.cli import main

EXAMPLES = Path(__file__).parents[2] / "examples"
CAUSES = {
    "convnet": (
        "b's conv2 pads 0 before and 1 after, a's 1 before and 1 after",
        "b's flatten takes the features of pool in the order (H, W, C), a's (C, H, W)",
        "b's norm1.running_mean moves 0.1 times as far as a's: another momentum",
        "b's norm1.running_var takes in variances over n, a's over n - 1; n is 2048",
        "verdict: rounding",
    ),
    "transformer": (
        "at norm1 b adds an eps of 1e-06, a 1e-05: 0.1 times a's",
        "attention",
        "attention",
        "b's gelu is gelu_tanh, a's gelu",
        "weight decay 0.01 in a and 0.0001 in b",
        "verdict: rounding",
    ),
    "huggingface": (
        "b's transformer.h.0.mlp.act is gelu, a's gelu_tanh",
        "stage loss",
        "verdict: rounding",
    ),
}
NEEDS = {"huggingface": "transformers"}
"""Example -> the package without which it is left out."""
NUMBER = re.compile(r"-?\d+(\.\d+)?(e[-+]\d+)?")


def is_runnable(example: str) -> bool:
    package = NEEDS.get(example, "lockstep")
    return importlib.util.find_spec(package) is not None


class Step(NamedTuple):
    """Commands of a page, and what it shows of their output."""

    commands: list[list[str]]
    output: list[str]


def steps_of(example: str) -> list[Step]:
    text = (EXAMPLES / example / "README.md").read_text()
    blocks = re.findall(r"```sh\n(.*?)```(?:\n+```\n(.*?)```)?", text, re.DOTALL)
    return [
        Step([shlex.split(line) for line in code.splitlines()], output.splitlines())
        for code, output in blocks
    ]


def run(command: list[str], folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a command of a page in this process and in another folder."""
    program, *arguments = command
    monkeypatch.chdir(folder)
    if program == "lockstep":
        with pytest.raises(SystemExit):
            main(arguments)
        return
    monkeypatch.setattr(sys, "argv", arguments)
    runpy.run_path(str(EXAMPLES / folder.name / arguments[0]), run_name="__main__")


def with_names(commands: list[list[str]], before: list[Step], folder: Path) -> list[list[str]]:
    """The commands, with the one of an earlier step that writes the map which they need."""
    used = {command[-1] for command in commands if "--names" in command}
    written = {command[-1] for command in commands if command[1] == "names"}
    missing = {file for file in used - written if not (folder / file).exists()}
    earlier = [command for step in before for command in step.commands if command[-1] in missing]
    writes = [command for command in earlier if command[1] == "names"]
    return [commands[0], *writes, *commands[1:]]


@pytest.fixture(autouse=True)
def jax_settings() -> Iterator[None]:
    before = jax.config.jax_enable_x64
    yield
    jax.config.update("jax_enable_x64", before)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder for each example, with its PyTorch side recorded."""
    recorded = {}
    for example in filter(is_runnable, CAUSES):
        recorded[example] = tmp_path_factory.mktemp("examples", numbered=True) / example
        recorded[example].mkdir()
        with pytest.MonkeyPatch.context() as monkeypatch:
            for command in steps_of(example)[0].commands:
                run(command, recorded[example], monkeypatch)
    return recorded


def cases() -> Iterator[Any]:
    for example, causes in CAUSES.items():
        for place in range(len(causes)):
            # the port as it was first written and as it is in the end; what lies between takes long
            marks = [] if place in (0, len(causes) - 1) else [pytest.mark.sweep]
            if not is_runnable(example):
                marks.append(pytest.mark.skip(reason=f"needs {NEEDS[example]}"))
            yield pytest.param(example, place, marks=marks, id=f"{example}-{place}")


@pytest.mark.slow
@pytest.mark.parametrize(("example", "place"), [*cases()])
def test_the_story_is_true(
    example: str,
    place: int,
    folders: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder, story = folders[example], steps_of(example)[1:]
    assert len(story) == len(CAUSES[example])
    commands, output = story[place]
    commands = with_names(commands, story[:place], folder)
    for command in commands:
        capsys.readouterr()
        run(command, folder, monkeypatch)
    printed = capsys.readouterr().out
    assert CAUSES[example][place] in " ".join(printed.split())
    lines = {NUMBER.sub("#", line).strip() for line in printed.splitlines()}
    assert {NUMBER.sub("#", line).strip() for line in output} <= lines, printed
    assert len(output) >= 1


def test_every_step_of_a_story_ends_with_a_verdict() -> None:
    for example in CAUSES:
        for step in steps_of(example)[1:]:
            assert [command[0] for command in step.commands][-1] == "lockstep"
            assert step.output[-1].startswith("verdict: ")
