"""The atlas: the code of every page gives the figures on it, and pages are found and printed."""

import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest

import lockstep.studies.atlas.pages
from lockstep.cli import cli, main
from lockstep.errors import InputError
from lockstep.recipe import SECTIONS, field_infos
from lockstep.studies.atlas.check import Fault, check_elsewhere, installed_versions, run_apart
from lockstep.studies.atlas.figures import SMALLEST, Code, distance, run_code, states
from lockstep.studies.atlas.pages import (
    FRAMEWORKS,
    GROUPS,
    Case,
    Page,
    atlas_folder,
    describe_versions,
    find_pages,
    index_of,
    load_atlas,
    parse_page,
)
from lockstep.studies.upgrade.compare_releases import Change
from lockstep.studies.upgrade.matrix import trap_checker
from tools.atlas import MovedError, measure, with_figures

PAGES = load_atlas()
HERE = installed_versions()
FIELDS = {f"{section}.{field}" for section in SECTIONS for field in field_infos(section)}
MODEL = next(page for page in PAGES if page.slug == "adamw-default-weight-decay")
(MODEL_CASE,) = MODEL.cases
FIGURE = re.compile(r"0|\d\.\de[-+]\d\d|below 1e-\d\d|not finite|raises \w+")


def check_figures(page: Page) -> None:
    """The page says what its code gives. The naive port is a trap, and the right one is none."""
    case = page.case_with(HERE)
    assert case is not None
    divergence, residual = measure(case)
    message = f"{page.slug}: divergence {case.divergence}, found {divergence}"
    assert states(case.divergence, divergence), message
    message = f"{page.slug}: residual {case.residual}, found {residual}"
    assert states(case.residual, residual), message
    assert isinstance(residual, float), residual
    if isinstance(divergence, float):
        assert divergence >= max(1e-9, 100 * residual)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.slug)
def test_figures(page: Page) -> None:
    check_figures(page)


def imported(code: str) -> set[str]:
    return set(re.findall(rf"^\s*(?:import|from) ({'|'.join(FRAMEWORKS)})\b", code, re.MULTILINE))


def check_case_structure(case: Case) -> None:
    assert FIGURE.fullmatch(case.divergence)
    assert FIGURE.fullmatch(case.residual)
    for snippet in case.snippets:
        assert len(snippet.code.splitlines()) <= 30, snippet.heading
        assert re.search(rf"^\s*{snippet.variable}\b", snippet.code, re.MULTILINE), snippet.heading
        sides = {"torch" if name == "torch" else "jax" for name in imported(snippet.code)}
        message = f"{snippet.heading}: each side runs alone, in an environment of its own"
        assert len(sides) == 1, message
    framework = re.split(r"\W", case.reference.heading)[0]
    packages = {"PyTorch": {"torch"}, "JAX": {"jax", "optax", "flax"}}[framework]
    assert imported(case.reference.code) <= packages


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.slug)
def test_structure(page: Page) -> None:
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", page.slug)
    assert len(page.slug) <= 40, "the list must fit 80 columns"
    assert set(page.knobs) <= FIELDS | {f"lockstep {name}" for name in cli.commands}
    for text, address in page.threads:
        thread = re.fullmatch(r"([\w.-]+/[\w.-]+)#(\d+)", text)
        if thread:
            repository, number = thread.groups()
            kinds = "(issues|pull|discussions)"
            assert re.fullmatch(rf"https://github\.com/{repository}/{kinds}/{number}", address)
        else:
            assert address.startswith("https://")
    for case in page.cases:
        check_case_structure(case)
    snippets = [snippet for case in page.cases for snippet in case.snippets]
    used = set().union(*(imported(snippet.code) for snippet in snippets))
    if used & {"flax", "optax"}:
        used.add("jax")
    assert set(page.measured) == used
    lines = [line for line in page.text.splitlines() if not line.startswith("**Group**")]
    assert max(map(len, lines)) <= 120
    assert page.text.endswith("\n")


def test_every_title_is_used_once() -> None:
    assert len({page.title for page in PAGES}) == len(PAGES)


def test_the_index_is_current() -> None:
    assert (atlas_folder() / "README.md").read_text() == index_of(PAGES), "run `make atlas`"


# --- the checks check


def measured_with(page: Page, versions: dict[str, str]) -> Page:
    """The page as if its figures had been measured with these versions alone."""
    own = describe_versions({package: [versions[package]] for package in page.measured})
    return parse_page(page.slug, page.text.replace(describe_versions(page.measured), own, 1))


def wrong(figure: str) -> str:
    digit = re.search(r"[1-9]", figure)
    assert digit
    return figure[: digit.start()] + str(int(digit[0]) % 9 + 1) + figure[digit.end() :]


@pytest.mark.parametrize("label", ["Divergence", "Residual"])
def test_a_wrong_figure_fails(label: str) -> None:
    figure = {"Divergence": MODEL_CASE.divergence, "Residual": MODEL_CASE.residual}[label]
    planted = "2.0e-05" if label == "Residual" else wrong(figure)
    page = parse_page(MODEL.slug, MODEL.text.replace(f"{label}: {figure}", f"{label}: {planted}"))
    with pytest.raises(AssertionError, match=f"{label.lower()} {planted}"):
        check_figures(page)


def test_changed_code_fails() -> None:
    right = replace(MODEL_CASE.right, code=MODEL_CASE.right.code.replace("1e-2", "2e-2"))
    page = replace(MODEL, cases=(replace(MODEL_CASE, right=right),))
    with pytest.raises(AssertionError, match="residual"):
        check_figures(page)


def test_a_trap_that_closes_fails() -> None:
    case = replace(MODEL_CASE, naive=replace(MODEL_CASE.right, variable="right"), divergence="0")
    page = replace(MODEL, cases=(case,))
    with pytest.raises(AssertionError):
        check_figures(page)


def test_wrong_figures_are_rewritten() -> None:
    page = measured_with(MODEL, HERE)
    spoilt = parse_page(page.slug, page.text.replace(f": {MODEL_CASE.divergence}\n", ": 7.7e+00\n"))
    assert with_figures(spoilt, measure(MODEL_CASE), HERE) == page


@pytest.mark.parametrize(
    ("figure", "value", "expected"),
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
def test_what_a_figure_states(figure: str, value: float | str, expected: bool) -> None:
    assert states(figure, value) is expected


def test_distance() -> None:
    nan, inf = np.nan, np.inf
    assert distance(np.array([1.0, 3.0]), np.array([1.0, 4.0])) == 0.25
    assert distance(np.array([1e-3]), np.array([0.0])) == 1e-3
    assert distance(np.array([1.0, nan]), np.array([1.0, 4.0])) == "not finite"
    assert distance(np.array([1.0, 4.0]), np.array([1.0, inf])) == "not finite"
    assert distance(np.array([2.0, inf]), np.array([1.0, inf])) == 1
    assert distance("raises ValueError", np.array([1.0])) == "raises ValueError"
    assert distance(np.zeros(2), np.zeros((2, 1))) == "shape (2,), the reference has (2, 1)"
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
        (" · **Measured**", " · **Tried**", "facts"),
        ("**Measured** torch", "**Measured** pytorch", "measured"),
        ("**Measured** torch ", "**Measured** torch 99.0 and ", "measured"),
        ("## The right port", "## The right port (torch<1.0)", "0 cases"),
        ("## The naive port", "## The naive port (optax==0.2.7)", "0 cases"),
        (MODEL.why, "", "Why"),
    ],
)
def test_a_page_of_another_shape_is_refused(old: str, new: str, message: str) -> None:
    assert old in MODEL.text
    line = f"^adamw-default-weight-decay: {message}|must begin with a {message}"
    with pytest.raises(InputError, match=line):
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
    # a line that begins with a space goes on with a title
    lines = [line for line in out.splitlines() if line.strip() and line[0] != " "]
    firsts = [line.split()[0] for line in lines]
    slugs = [page.slug for page in PAGES]
    assert [first for first in firsts if first in slugs] == slugs
    groups = [group for group in GROUPS if any(page.group == group for page in PAGES)]
    assert [first for first in firsts if first in GROUPS] == groups


@pytest.mark.parametrize(
    "word",
    ["adamw-default-weight-decay", "adamw_default weight-decay", "ADAMW-default-weight-decay"],
)
def test_a_name_prints_its_page(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = atlas(capsys, *word.split())
    assert status == 0
    assert MODEL.title in out
    assert "optax.adamw(1e-3, b1=0.9" in out
    assert f"Divergence: {MODEL_CASE.divergence}" in out
    assert "Residual:" in out


def test_an_unknown_word_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = atlas(capsys, "optimiser")
    assert (status, out) == (2, "")
    assert err == "lockstep: atlas: no page on 'optimiser'; did you mean optimizer?\n"
    status, out, err = atlas(capsys, "zzzzqqqq")
    assert (status, out, err.count("\n")) == (2, "", 1)


def test_search_ranks_knob_then_title_then_text() -> None:
    empty = replace(MODEL, knobs=(), title="", lead="", text="")

    def page(slug: str, **values: Any) -> Page:
        return replace(empty, slug=slug, **values)

    def slugs(words: list[str]) -> list[str]:
        return [page.slug for page in find_pages(pages, words)]

    pages = [
        page("d", text="on weight_decay"),
        page("c", lead="Weight decay"),
        page("b", title="Weight  decay"),
        page("a", knobs=("optimizer.weight_decay",)),
        page("e"),
    ]
    assert slugs(["weight-decay"]) == ["a", "b", "c", "d"]
    assert slugs(["optimizer.weight_decay"]) == ["a"]
    assert slugs(["on", "weight decay"]) == ["d"]
    assert len(find_pages(pages, ["optimizer"])) == 5  # the group


def test_every_group_has_its_pages_under_its_name() -> None:
    for group in {page.group for page in PAGES}:
        assert {page for page in PAGES if page.group == group} <= set(find_pages(PAGES, [group]))


def test_the_command_is_in_the_help() -> None:
    assert cli.get_command(click.Context(cli), "atlas") is not None


# --- versions: a page may say other things for other releases

TRAP = """# A trap

**Group** loss · **Knob** - · **Threads** - · **Measured** jax 0.9.2 and 0.10.2

What goes wrong.

## JAX
```python
import numpy

reference = numpy.ones(2)
```

## The naive port
```python
import numpy

naive = numpy.array([1.0, 1.5])
```
Divergence: 5.0e-01

## The right port (jax<0.10)
```python
right = [1.0, 1.0]
```
Residual: 0

## The right port (jax>=0.10)
```python
right = [1.0, 1.25]
```
Residual: 2.5e-01 (jax>=0.10)

## Why
Because.
"""
RIGHT = TRAP.replace(
    TRAP[TRAP.index("## The right port (jax<0.10)") : TRAP.index("## Why")],
    "## The right port\n```python\nright = [1.0, 1.0]\n```\nResidual: 0\n\n",
)


def test_each_version_has_the_case_that_holds_for_it() -> None:
    page = parse_page("trap", TRAP)
    assert page.measured == {"jax": ("0.9.2", "0.10.2")}
    old, new = page.case_with({"jax": "0.8.1"}), page.case_with({"jax": "0.11.0rc1"})
    assert old is not None
    assert new is not None
    assert (old.versions, old.divergence, old.residual) == ("jax<0.10", "5.0e-01", "0")
    assert (new.versions, new.divergence, new.residual) == ("jax>=0.10", "5.0e-01", "2.5e-01")
    assert old.naive is new.naive
    assert page.case_with({}) is None, "jax is not installed"


def test_a_figure_may_be_another_for_the_same_code() -> None:
    two = "Divergence: 5.0e-01 (jax<0.10)\nDivergence: 0 (jax>=0.10)"
    page = parse_page("trap", RIGHT.replace("Divergence: 5.0e-01", two))
    figures = {case.versions: (case.divergence, case.residual) for case in page.cases}
    assert figures == {"jax<0.10": ("5.0e-01", "0"), "jax>=0.10": ("0", "0")}


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("(jax<0.10)", "(jax<=0.10.2)", "2 cases for jax 0.10.2"),
        ("(jax<0.10)", "(jax<0.9)", "0 cases for jax 0.9.2"),
        ("0.9.2 and 0.10.2", "0.10.2 and 0.9.2", "measured: .*the oldest first"),
        ("## The right port (jax<0.10)", "## The right port", "The right port: must be there once"),
        (
            "Divergence: 5.0e-01",
            "Divergence: 5.0e-01\nDivergence: 0",
            "The naive port: two figures",
        ),
        (
            "Divergence: 5.0e-01",
            "Divergence: 5.0e-01 (jax<0.10)",
            "The naive port: .*with its figure",
        ),
    ],
)
def test_versions_that_do_not_fit_are_refused(old: str, new: str, message: str) -> None:
    assert old in TRAP
    with pytest.raises(InputError, match=f"^trap: {message}"):
        parse_page("trap", TRAP.replace(old, new, 1))


def test_the_index_has_a_row_for_each_case() -> None:
    lines = index_of([parse_page("trap", TRAP)]).splitlines()
    rows = [line for line in lines if "trap.md" in line]
    assert rows == [
        "| [A trap](trap.md), jax<0.10 |  | 5.0e-01 | 0 |",
        "| [A trap](trap.md), jax>=0.10 |  | 5.0e-01 | 2.5e-01 |",
    ]


def test_a_figure_of_other_versions_is_not_overwritten() -> None:
    page = measured_with(MODEL, dict.fromkeys(FRAMEWORKS, "0.1"))
    page = replace(page, cases=(replace(MODEL_CASE, divergence="1.0e-03"),))
    now = with_figures(page, (1e-3, 0.0), HERE)
    assert now.measured == {package: ("0.1", HERE[package]) for package in page.measured}
    with pytest.raises(MovedError, match=r"divergence 2\.0e-03, recorded 1\.0e-03: write by hand"):
        with_figures(page, (2e-3, 0.0), HERE)


def test_every_page_names_the_versions_that_it_was_measured_with(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert all(page.measured for page in PAGES)
    assert {number for page in PAGES for number in page.measured.get("jax", ())} == {"0.10.2"}
    _, out, _ = atlas(capsys, "clip-gradient-at-the-bound")
    text = " ".join(out.split())
    assert "Measured torch 2.13.0 and 2.14.1, jax 0.10.2" in text
    assert "The right port (torch>=2.14)" in text


# --- the check: every page in a process of its own


def write_pages(folder: Path, monkeypatch: pytest.MonkeyPatch, **texts: str) -> None:
    folder.mkdir()
    for slug, text in texts.items():
        (folder / f"{slug}.md").write_text(text)
    monkeypatch.setattr(lockstep.studies.atlas.pages, "atlas_folder", lambda: folder)
    monkeypatch.setattr(lockstep.studies.atlas.check, "version", {"jax": "0.10.2"}.__getitem__)
    monkeypatch.setattr(lockstep.studies.atlas.check, "PackageNotFoundError", KeyError)


def test_pages_that_hold_are_counted(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = atlas(capsys, "--check", "adamw-default-weight-decay")
    assert (status, err) == (0, "")
    assert out.splitlines()[-1] == "1 as recorded"
    assert all(f"{package} {number}" in " ".join(out.split()) for package, number in HERE.items())


def test_traps_that_moved_are_named_with_both_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    off = TRAP.replace("right = [1.0, 1.25]", "right = [1.0, 1.5]")
    closed = RIGHT.replace("naive = numpy.array([1.0, 1.5])", "naive = numpy.ones(2)")
    shaped = RIGHT.replace("right = [1.0, 1.0]", "right = [[1.0, 1.0]]")
    write_pages(tmp_path / "pages", monkeypatch, holds=TRAP, off=off, closed=closed, shaped=shaped)
    status, out, err = atlas(capsys, "--check")
    assert (status, err) == (1, "")
    text = " ".join(out.split())
    assert "off residual 5.0e-01, recorded 2.5e-01: the right port is off" in text
    assert "closed divergence below 1e-12, recorded 5.0e-01: the naive port is right now" in text
    assert "shaped residual shape (1, 2), the reference has (2,), recorded 0" in text
    assert out.splitlines()[-1] == "1 as recorded, 3 moved"
    assert "two digits" in text


def test_a_page_that_cannot_run_says_why_and_stops_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def page(code: str) -> str:
        return RIGHT.replace("right = [1.0, 1.0]", f"{code}\nright = [1.0, 1.0]")

    texts = {
        "gone": page("import jaxx"),
        "dies": page("import os\nos.kill(os.getpid(), 9)"),
        "leaves": page("import os\nos._exit(7)"),
        "prints": page("print('noise' * 1000)"),
    }
    write_pages(tmp_path / "pages", monkeypatch, **texts)
    status, out, err = atlas(capsys, "--check")
    assert (status, err) == (2, "")
    text = " ".join(out.split())
    assert "gone ModuleNotFoundError: No module named 'jaxx'" in text
    assert "dies ended by SIGKILL" in text
    assert "leaves ended with exit status 7" in text
    assert "1 as recorded, 3 cannot run" in text


def test_a_page_has_a_time_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    hangs = RIGHT.replace("right = [1.0, 1.0]", "while True:\n    right = [1.0, 1.0]")
    write_pages(tmp_path / "pages", monkeypatch, hangs=hangs)
    monkeypatch.setattr(lockstep.studies.atlas.check, "LIMIT_S", 3)
    status, out, _ = atlas(capsys, "--check")
    assert status == 2
    assert "hangs took more than 3 s" in " ".join(out.split())


def test_what_moved_decides_where_another_page_cannot_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    moved, gone = RIGHT.replace("5.0e-01", "4.0e-01"), RIGHT.replace("right =", "right")
    write_pages(tmp_path / "pages", monkeypatch, moved=moved, gone=gone)
    assert atlas(capsys, "--check")[0] == 1


def test_a_release_with_which_no_page_was_measured_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_pages(tmp_path / "pages", monkeypatch, holds=TRAP)
    monkeypatch.setattr(lockstep.studies.atlas.check, "version", {"jax": "0.11.0"}.__getitem__)
    status, out, _ = atlas(capsys, "--check")
    assert status == 0
    sentence = "No page was measured with jax 0.11.0; the last version recorded is 0.10.2."
    assert sentence in " ".join(out.split())


@pytest.mark.parametrize("columns", [80, 120])
def test_a_check_fits_the_terminal(
    columns: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    far = RIGHT.replace("right = [1.0, 1.0]", "raise ValueError('word ' * 50)\nright = [1.0, 1.0]")
    write_pages(tmp_path / "pages", monkeypatch, far=far, holds=TRAP)
    _, out, _ = atlas(capsys, "--check")
    assert max(map(len, out.splitlines())) <= columns
    assert out.count("word") == 50


def test_code_imports_nothing_from_the_present_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "random.py").write_text("raise SystemExit(3)")
    (tmp_path / "trap_here.py").write_text("right = [1.0]")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", "")
    codes = [
        Code("right", "import random\nright = [2.0]"),
        Code("right", "from trap_here import right"),
    ]
    ((value, fault),) = run_apart([codes], lambda pages: None)
    assert isinstance(value, np.ndarray)
    assert value == [2.0]
    assert fault == Fault("ModuleNotFoundError: No module named 'trap_here'")


def test_settings_of_one_section_do_not_reach_the_next() -> None:
    reference = "import jax\njax.config.update('jax_enable_x64', True)\nreference = [1.0]"
    right = "import jax.numpy as jnp\nright = jnp.ones(1).dtype.itemsize"
    codes = [Code("reference", reference), Code("right", right)]
    ((_, size),) = run_apart([codes], lambda pages: None)
    assert isinstance(size, np.ndarray)
    assert size == 4


def test_what_is_going_away_is_refused_on_a_page_and_ignored_in_a_check() -> None:
    code = Code("naive", "import warnings\nwarnings.warn('old', DeprecationWarning)\nnaive = [1.0]")
    assert run_code(code, strict=True) == "raises DeprecationWarning"
    assert run_code(code) == [1.0]


# --- other versions


def test_a_trap_that_moves_with_other_versions_is_a_change_of_meaning(tmp_path: Path) -> None:
    """The page is that of the clamp, and its torch has the other slope at the bounds."""
    page = next(page for page in PAGES if page.slug == "clip-gradient-at-the-bound")
    case = page.case_with(HERE)
    assert case is not None
    slope = 0.0 if case.versions == "torch>=2.14" else 1.0
    here = [[np.array([0.0, slope, 1.0, slope, 0.0]), np.array([0.0, 0.5, 1.0, 0.5, 0.0])]]
    here[0].append(here[0][0])
    code = f"import torch\nreference = [0.0, {1 - slope}, 1.0, {1 - slope}, 0.0]"
    changed = replace(case, reference=replace(case.reference, code=code))
    python = Path(sys.executable)
    (check,) = check_elsewhere([(page, changed)], here, "torch", python, lambda pages: None)
    assert [(moved.label, moved.now) for moved in check.moved] == [("residual", "1.0e+00")]


def test_traps_of_the_present_environment_are_as_they_are() -> None:
    pages = [
        parse_page("trap", RIGHT),
        parse_page("gone", RIGHT.replace("right =", "import jaxx\nright =")),
    ]
    checker = trap_checker(pages, lambda *_: None)
    (finding,) = checker("jax", None)
    assert (finding.recipe, finding.stage) == ("atlas trap", "atlas")
    assert finding.change == Change.IDENTICAL
