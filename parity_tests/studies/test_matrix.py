"""The parity matrix leaves nothing out. It does not hold where a twin is wrong or nothing is
compared.
"""

import re
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest

import lockstep.run.oracles
import lockstep.studies.matrix
from lockstep.cli import main
from lockstep.data_prep import prepare
from lockstep.oracle.train import train as train_oracle
from lockstep.recipe import KNOBS, OPTIONS, field_infos, variants_of
from lockstep.schedules.formulas import learning_rates
from lockstep.studies.matrix import Row, measure
from lockstep.studies.matrix_entries import Entry, entries

EVERY = entries()
PAGE = Path(__file__).parents[2] / "docs" / "matrix.md"


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert isinstance(ended.value.code, int)
    return ended.value.code


def measured(chosen: list[Entry]) -> list[Row]:
    return measure(chosen, device="cpu", report=lambda backend, updates, total: None)


def named(group: str, name: str) -> Entry:
    return next(entry for entry in EVERY if (entry.group, entry.name) == (group, name))


@pytest.mark.parametrize(
    "section", ["model", "loss", "gradient", "optimizer", "average", "schedule"]
)
def test_every_choice_of_the_recipe_is_a_row(section: str) -> None:
    values_of: dict[str, set[Any]] = {field: set() for field in field_infos(section)}
    for entry in EVERY:
        for field, value in asdict(getattr(entry.recipe, section)).items():
            values_of[field].add(value)
    # an option is not set unless it is given, and has no row: it reaches the twins in the table of
    # rates
    options = set().union(*OPTIONS.get(section, {}).values())
    knobs = set().union(*KNOBS.get(section, {}).values())
    for field, info in field_infos(section).items():
        if field in options - knobs:
            continue
        if field == "name" and variants_of(section):
            assert values_of[field] == set(variants_of(section))
        elif get_origin(info.annotation) is Literal:
            assert set(get_args(info.annotation)) <= values_of[field], field
        elif info.annotation is bool:
            assert {True, False} <= values_of[field], field


@pytest.mark.parametrize("section", KNOBS)
def test_every_name_has_a_row_of_its_own_and_one_for_each_choice_of_its_knobs(section: str) -> None:
    for name, knobs in KNOBS[section].items():
        of_section = [entry for entry in EVERY if entry.group == section]
        of_name = [entry for entry in of_section if entry.name.split(",")[0] == name]
        rows = [getattr(entry.recipe, section) for entry in of_name]
        assert rows
        assert {row.name for row in rows} == {name}
        for knob in knobs:
            choices: Any = field_infos(section)[knob].annotation
            wanted = {True, False} if choices is bool else set(get_args(choices))
            if choices is bool or get_origin(choices) is Literal:
                assert {getattr(row, knob) for row in rows} >= wanted, (name, knob)


def test_rows_have_names_of_their_own() -> None:
    names = [(entry.group, entry.name) for entry in EVERY]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("group", dict.fromkeys(entry.group for entry in EVERY))
def test_every_row_has_data_with_and_without_its_choice(group: str) -> None:
    for entry in EVERY:
        if entry.group == group:
            prepare(entry.recipe)
            prepare(entry.without)


def test_every_choice_of_a_schedule_changes_a_rate() -> None:
    for entry in EVERY:
        if entry.group == "schedule":
            rates_T = learning_rates(entry.recipe, 3)
            assert (rates_T != learning_rates(entry.without, 3)).any(), entry.name


def check_page(text: str) -> None:
    """The page has rows of the matrix in its order, as many as it says, and in every cell a figure
    that holds. `make docs` asks for the rows that were added since it was measured.
    """
    rows = []
    for part in text.split("\n## ")[1:]:
        group, *lines = part.splitlines()
        for line in lines[3:]:
            if line:
                _, name, *cells, _ = (cell.strip() for cell in line.split("|"))
                rows.append(((group, name), cells))
    written = dict(rows)
    chosen = [entry for entry in EVERY if (entry.group, entry.name) in written]
    assert [row for row, _ in rows] == [(entry.group, entry.name) for entry in chosen]
    assert f"{len(rows)} of {len(rows)} hold." in text
    for (row, cells), entry in zip(rows, chosen):
        if entry.recipe.training.compute == "same":
            assert all(float(cell) <= 1e-12 for cell in cells[:2]), row
        else:
            assert cells[:2] == ["", ""], row
        for cell in cells[2:]:
            rounding, share = cell.removesuffix(")").split(" (")
            assert float(rounding) > 0, row
            assert float(share) <= 1, row


def test_every_row_of_the_page_holds() -> None:
    check_page(PAGE.read_text())


@pytest.mark.parametrize(
    ("pattern", "planted"),
    [
        (r"\| sgd, nesterov true .*\n", ""),
        (r"\| sgd, nesterov true \|", "| sgd, nesterov maybe |"),
        (r"\| sgd, nesterov true \| \S+", "| sgd, nesterov true | 2e-12"),
        (r"\| sgd, nesterov true \| \S+", "| sgd, nesterov true | -"),
        (r"(\| sgd, nesterov true .*)\(\d", r"\1(9"),
        (r"(\d) hold\.", r"\1 hold; 1 do not."),
    ],
)
def test_a_page_with_a_hole_is_none(pattern: str, planted: str) -> None:
    text, times = re.subn(pattern, planted, PAGE.read_text())
    assert times == 1
    with pytest.raises((AssertionError, ValueError)):
        check_page(text)


def test_a_row_is_printed_and_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "matrix.md"
    assert run("matrix", "optimizer", "nesterov true", "sgd", "--out", str(out)) == 0
    printed = capsys.readouterr().out
    assert "sgd, nesterov true" in printed
    assert "1 of 1 hold" in printed
    lines = out.read_text().splitlines()
    (row,) = [line for line in lines if line.startswith("| sgd, nesterov true |")]
    torch64, jax64 = (float(cell) for cell in row.split("|")[2:4])
    assert 0 < torch64 < 1e-12
    assert 0 < jax64 < 1e-12


def test_no_row_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("matrix", "no such thing") == 2
    error = capsys.readouterr().err
    assert "no such thing: no row of the matrix holds that" in error
    assert "optimizer" in error


def test_a_twin_that_differs_does_not_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = named("optimizer", "sgd, nesterov true")

    def train_another(recipe: Any, data: Any, **options: Any) -> Any:
        momentum = recipe.optimizer.momentum + 1e-9
        optimizer = replace(recipe.optimizer, momentum=momentum)
        return train_oracle(replace(recipe, optimizer=optimizer), data, **options)

    monkeypatch.setattr(lockstep.run.oracles, "train", train_another)
    monkeypatch.setattr("lockstep.diagnose.compare.refuse_different_runs", lambda *_: None)
    (row,) = measured([entry])
    assert not row.holds
    for cell in row.cells.values():
        assert cell.fault.startswith("float64: at update 0, update")


def test_a_choice_that_changes_nothing_does_not_hold() -> None:
    entry = named("optimizer", "sgd, nesterov true")
    (row,) = measured([replace(entry, without=entry.recipe)])
    assert not row.holds
    assert all("changes nothing" in cell.fault for cell in row.cells.values())


def test_a_twin_that_dies_leaves_a_hole_and_the_rest_is_measured(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    entry = named("optimizer", "sgd, nesterov true")
    save = lockstep.studies.matrix.PreparedData.save

    def save_or_damage(data: Any, path: Path) -> None:
        save(data, path)
        if path.name == "0.data":
            path.write_bytes(path.read_bytes()[:-1])

    monkeypatch.setattr(lockstep.studies.matrix.PreparedData, "save", save_or_damage)
    broken, whole = measured([entry, named("optimizer", "sgd, momentum 0.8")])
    assert not broken.holds
    assert "perhaps truncated" in broken.cells["torch"].fault
    assert whole.holds
