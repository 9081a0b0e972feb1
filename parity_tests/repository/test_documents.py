"""The commands, links and examples in the documents work."""

import ast
import re
import runpy
import shlex
from pathlib import Path
from textwrap import dedent

import click
import pytest

import lockstep
from lockstep.cli import cli
from lockstep.data_prep import prepare
from lockstep.recipe import load_recipe

ROOT = Path(__file__).parents[2]
DOCUMENTS = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *(ROOT / "docs").glob("*.md"),
    *(ROOT / "examples").glob("*/*.md"),
]


def test_every_command_in_the_documents_exists() -> None:
    texts = [path.read_text() for path in DOCUMENTS]
    lines = [line for text in texts for line in re.findall(r"`(lockstep [^`]+)`", text)]
    assert len(lines) >= 7
    for line in lines:
        words = shlex.split(re.sub(r"\[[A-Z]+\]", "seed", line))[1:]
        command = cli.get_command(click.Context(cli), words[0])
        assert command is not None, line
        if isinstance(command, click.Group):
            command = command.get_command(click.Context(command), words.pop(1))
        assert command is not None, line
        parser = command.make_parser(click.Context(command))
        parser.parse_args(words[1:])  # raises for an unknown option


def test_every_link_leads_somewhere() -> None:
    for path in DOCUMENTS:
        for target in re.findall(r"\]\(([^)#]+)\)", path.read_text()):
            assert target.startswith("https://") or (path.parent / target).exists(), (path, target)


def test_every_make_target_in_the_documents_exists() -> None:
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for path in DOCUMENTS:
        for target in re.findall(r"`?make ([a-z]+)", path.read_text()):
            assert target in targets, (path, target)


def test_the_example_runs(capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(ROOT / "examples" / "from_python.py"), run_name="__main__")
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in lines] == ["torch", "jax"]
    assert all(line.endswith("against the oracle: rounding") for line in lines)


def test_the_output_in_the_readme_is_of_the_recipe_as_it_is() -> None:
    recipe = load_recipe("seed")
    data = prepare(recipe)
    for path in (ROOT / "README.md", ROOT / "docs" / "start.md"):
        text = path.read_text()
        assert f"same data, batches and initial parameters: hash {data.hash[:12]} " in text
        assert f"same learning rate, bit for bit: {data.updates} updates " in text


def test_the_page_on_python_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    page = (ROOT / "docs" / "python.md").read_text()
    blocks = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    assert len(blocks) == 2
    exec("\n".join(blocks), {})
    accuracy, story = capsys.readouterr().out.splitlines()
    assert accuracy.startswith("held-out accuracy ")
    assert story.startswith("update 0, lr, lr: ")


def test_the_optimizer_that_contributing_walks_through_is_the_real_one() -> None:
    _, _, section = (ROOT / "CONTRIBUTING.md").read_text().partition("## Add an optimizer\n")
    paths = re.findall(r"^\| `(\S+\.py)` \|", section, re.MULTILINE)
    texts = [_unindented((ROOT / path).read_text()) for path in paths]
    blocks = re.findall(r"^ *```python\n(.*?)^ *```", section, re.MULTILINE | re.DOTALL)
    assert (len(paths), len(blocks)) == (5, 5)
    for block in blocks:
        assert any(_unindented(block) in text for text in texts), block


def _unindented(code: str) -> str:
    return "\n".join(line.strip() for line in code.strip().splitlines())


def test_the_page_on_python_names_the_whole_face() -> None:
    page = (ROOT / "docs" / "python.md").read_text()
    missing = {name for name in lockstep.__all__ if f"`{name}" not in page}
    assert missing <= {"__version__"}


@pytest.mark.parametrize(("twin", "function"), [("pt_impl", "update"), ("jax_impl", "step")])
def test_the_updates_in_the_readme_are_those_of_the_twins(twin: str, function: str) -> None:
    source = (ROOT / twin / "update.py").read_text()
    functions = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef)]
    (chosen,) = [node for node in functions if node.name == function]
    code = ast.get_source_segment(source, chosen, padded=True)
    assert code
    block = (
        f"<!-- the update of {twin}: {function} -->\n\n```python\n{dedent(code).rstrip()}\n```\n"
    )
    assert block in (ROOT / "README.md").read_text()
