"""The atlas: every page's code runs and gives the figures on it; pages are found and printed."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import pytest

from lockstep.atlas import GROUPS, Page, atlas_folder, find_pages, index_of, load_atlas, parse_page
from lockstep.cli import cli, main
from lockstep.errors import InputError
from lockstep.recipe import SECTIONS
from parity_tests.run_atlas import SMALLEST, distance, measure, states, with_figures

PAGES = load_atlas()
FIELDS = {f"{section}.{field}" for section, kind in SECTIONS.items() for field in kind.__dataclass_fields__}
MODEL = next(page for page in PAGES if page.slug == "adamw-default-weight-decay")
FIGURE = re.compile(r"0|\d\.\de[-+]\d\d|below 1e-\d\d|not finite|raises \w+")


def check_figures(page: Page) -> None:
    """The page says what its code gives, and the naive port is a trap while the right one is none."""
    divergence, residual = measure(page)
    assert states(page.divergence, divergence), f"{page.slug}: divergence {page.divergence}, found {divergence}"
    assert states(page.residual, residual), f"{page.slug}: residual {page.residual}, found {residual}"
    assert isinstance(residual, float), residual
    if isinstance(divergence, float):
        assert divergence >= max(1e-9, 100 * residual)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.slug)
def test_figures(page: Page) -> None:
    check_figures(page)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.slug)
def test_structure(page: Page) -> None:
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", page.slug)
    assert len(page.slug) <= 40, "the list must fit 80 columns"
    assert FIGURE.fullmatch(page.divergence)
    assert FIGURE.fullmatch(page.residual)
    assert set(page.knobs) <= FIELDS | {f"lockstep {name}" for name in cli.commands}
    for text, address in page.threads:
        thread = re.fullmatch(r"([\w.-]+/[\w.-]+)#(\d+)", text)
        if thread:
            assert re.fullmatch(rf"https://github\.com/{thread[1]}/(issues|pull|discussions)/{thread[2]}", address)
        else:
            assert address.startswith("https://")
    imported = r"^(?:import|from) (torch|jax|optax|flax)\b"
    for snippet in page.snippets:
        assert len(snippet.code.splitlines()) <= 30, snippet.heading
        assert re.search(rf"^\s*{snippet.variable}\b", snippet.code, re.MULTILINE), snippet.heading
        assert re.search(imported, snippet.code, re.MULTILINE), snippet.heading
    sides = {"PyTorch": {"torch"}, "JAX": {"jax", "optax", "flax"}}[re.split(r"\W", page.reference.heading)[0]]
    assert set(re.findall(imported, page.reference.code, re.MULTILINE)) <= sides
    assert all(len(line) <= 120 for line in page.text.splitlines() if not line.startswith("**Group**"))
    assert page.text.endswith("\n")


def test_every_title_is_used_once() -> None:
    assert len({page.title for page in PAGES}) == len(PAGES)


def test_the_index_is_current() -> None:
    assert (atlas_folder() / "README.md").read_text() == index_of(PAGES), "run `make atlas`"


# --- the checks check


def wrong(figure: str) -> str:
    digit = re.search(r"[1-9]", figure)
    assert digit
    return figure[: digit.start()] + str(int(digit[0]) % 9 + 1) + figure[digit.end() :]


@pytest.mark.parametrize("label", ["Divergence", "Residual"])
def test_a_wrong_figure_fails(label: str) -> None:
    figure = {"Divergence": MODEL.divergence, "Residual": MODEL.residual}[label]
    planted = "2.0e-05" if label == "Residual" else wrong(figure)
    page = parse_page(MODEL.slug, MODEL.text.replace(f"{label}: {figure}", f"{label}: {planted}"))
    with pytest.raises(AssertionError, match=f"{label.lower()} {planted}"):
        check_figures(page)


def test_changed_code_fails() -> None:
    page = replace(MODEL, right=replace(MODEL.right, code=MODEL.right.code.replace("1e-2", "2e-2")))
    with pytest.raises(AssertionError, match="residual"):
        check_figures(page)


def test_a_trap_that_closes_fails() -> None:
    page = replace(MODEL, naive=replace(MODEL.right, variable="right"), divergence="0")
    with pytest.raises(AssertionError):
        check_figures(page)


def test_wrong_figures_are_rewritten() -> None:
    page = parse_page(MODEL.slug, MODEL.text.replace(f": {MODEL.divergence}\n", ": 7.7e+00\n"))
    assert with_figures(page, measure(page)) == MODEL


@pytest.mark.parametrize(
    ("figure", "found", "expected"),
    [
        ("2.0e-03", 2.04e-3, True),
        ("2.0e-03", 2.05001e-3, True),  # the edge of two figures
        ("2.1e-03", 2.05001e-3, True),
        ("2.0e-03", 2.06e-3, False),
        ("2.0e-03", 2.04e-4, False),
        ("below 1e-12", 3e-16, True),
        ("below 1e-12", 0.0, True),
        ("0", 0.0, True),
        ("0", 3e-16, False),
        ("3.0e-16", 3e-16, False),  # would differ elsewhere
        ("below 1e-06", 3e-7, True),
        ("below 1e-06", 3e-6, False),
        ("below 1e-06", 3e-10, False),
        ("below 1e-06", 0.0, False),
        ("not finite", "not finite", True),
        ("not finite", 1.0, False),
        ("raises ValueError", "raises ValueError", True),
        ("raises ValueError", "raises TypeError", False),
    ],
)
def test_what_a_figure_states(figure: str, found: float | str, expected: bool) -> None:
    assert states(figure, found) is expected


def test_distance() -> None:
    import numpy as np

    nan, inf = np.nan, np.inf
    assert distance(np.array([1.0, 3.0]), np.array([1.0, 4.0])) == 0.25
    assert distance(np.array([1e-3]), np.array([0.0])) == 1e-3
    assert distance(np.array([1.0, nan]), np.array([1.0, 4.0])) == "not finite"
    assert distance(np.array([1.0, 4.0]), np.array([1.0, inf])) == "not finite"
    assert distance(np.array([2.0, inf]), np.array([1.0, inf])) == 1
    assert distance("raises ValueError", np.array([1.0])) == "raises ValueError"
    with pytest.raises(AssertionError, match="shape"):
        distance(np.zeros(2), np.zeros((2, 1)))
    assert SMALLEST == 1e-12


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("# AdamW", "AdamW", "title"),
        ("**Group** optimizer", "**Group** optimiser", "facts"),
        ("`optimizer.weight_decay`", "decay", "knob"),
        ("[google-deepmind/optax#417]", "google-deepmind/optax#417 ", "threads"),
        ("## The naive port", "## A naive port", "sections"),
        ("## PyTorch", "## Pytorch", "sections"),
        ("Divergence: ", "Distance: ", "The naive port"),
        ("```python\nimport jax", "```\nimport jax", "The naive port"),
        (MODEL.why, "", "Why"),
    ],
)
def test_a_page_of_another_shape_is_refused(old: str, new: str, message: str) -> None:
    assert old in MODEL.text
    with pytest.raises(InputError, match=f"^adamw-default-weight-decay: {message}|must begin with a {message}"):
        parse_page(MODEL.slug, MODEL.text.replace(old, new, 1))


def test_no_pages_is_no_atlas(tmp_path: Path) -> None:
    assert load_atlas(tmp_path) == ()


# --- the command


def atlas(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as end:
        main(["atlas", *words])
    out, err = capsys.readouterr()
    return int(end.value.code or 0), out, err


def test_without_a_word_all_pages_are_listed_by_group(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = atlas(capsys)
    assert (status, err) == (0, "")
    firsts = [line.split()[0] for line in out.splitlines() if line.strip() and line[0] != " "]  # no wrapped titles
    shown = [first for first in firsts if first in {page.slug for page in PAGES}]
    assert shown == [page.slug for page in PAGES]
    groups = [group for group in GROUPS if any(page.group == group for page in PAGES)]
    assert [first for first in firsts if first in GROUPS] == groups


@pytest.mark.parametrize(
    "word", ["adamw-default-weight-decay", "adamw_default weight-decay", "ADAMW-default-weight-decay"]
)
def test_a_name_prints_its_page(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = atlas(capsys, *word.split())
    assert status == 0
    for expected in (MODEL.title, "optax.adamw(1e-3, b1=0.9", f"Divergence: {MODEL.divergence}", "Residual:"):
        assert expected in out


def test_an_unknown_word_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = atlas(capsys, "optimiser")
    assert (status, out) == (2, "")
    assert err == "lockstep: atlas: no page on 'optimiser'; did you mean optimizer?\n"
    status, out, err = atlas(capsys, "zzzzqqqq")
    assert (status, out, err.count("\n")) == (2, "", 1)


def test_search_ranks_knob_then_title_then_text() -> None:
    def page(slug: str, **values: Any) -> Page:
        return replace(MODEL, slug=slug, **{"knobs": (), "title": "", "lead": "", "text": "", **values})

    pages = [
        page("d", text="on weight_decay"),
        page("c", lead="Weight decay"),
        page("b", title="Weight  decay"),
        page("a", knobs=("optimizer.weight_decay",)),
        page("e"),
    ]
    assert [found.slug for found in find_pages(pages, ["weight-decay"])] == ["a", "b", "c", "d"]
    assert [found.slug for found in find_pages(pages, ["optimizer.weight_decay"])] == ["a"]
    assert [found.slug for found in find_pages(pages, ["on", "weight decay"])] == ["d"]
    assert len(find_pages(pages, ["optimizer"])) == 5  # the group


def test_every_group_has_its_pages_under_its_name() -> None:
    for group in {page.group for page in PAGES}:
        assert {page for page in PAGES if page.group == group} <= set(find_pages(PAGES, [group]))


def test_the_command_is_in_the_help() -> None:
    assert cli.get_command(click.Context(cli), "atlas") is not None
