"""What other versions of the frameworks change: each combination is recorded and judged, and the
release at fault is found.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple, TypeVar

from lockstep.data_prep import prepare
from lockstep.errors import InputError
from lockstep.golden import Golden
from lockstep.recipe import Recipe
from lockstep.run.workers import Interpreter, Report
from lockstep.studies.atlas.check import (
    Check,
    check_case,
    check_elsewhere,
    codes_of,
    describe_check,
    installed_versions,
    run_apart,
)
from lockstep.studies.atlas.pages import Page
from lockstep.studies.upgrade.bless import record
from lockstep.studies.upgrade.compare_releases import Change, Finding, judge
from lockstep.studies.upgrade.environments import Combination, environment, releases

__all__ = ["Examine", "Origin", "Row", "bisect", "examiner", "find_origins", "golden_of"]

State = TypeVar("State")
CHANGES = {"holds": Change.IDENTICAL, "moved": Change.SEMANTICS, "cannot run": Change.FAILS}
"""Status of a page of the atlas -> what has changed."""


@dataclass(frozen=True)
class Row:
    """One combination, and what it changes."""

    combination: Combination
    findings: tuple[Finding, ...] = ()
    fault: str = ""
    """Why the combination cannot be installed or imported."""

    @property
    def change(self) -> Change:
        """The worst change of all findings."""
        return max((finding.change for finding in self.findings), default=Change.FAILS)

    @property
    def stages(self) -> dict[str, Change]:
        """Stage -> the worst change over all recipes."""
        changes = {"training": Change.FAILS} if self.fault else {}
        for finding in self.findings:
            known = changes.get(finding.stage, Change.IDENTICAL)
            changes[finding.stage] = max(finding.change, known)
        return changes

    @property
    def recipes(self) -> dict[str, Change]:
        """Recipe -> the worst change over its stages."""
        changes: dict[str, Change] = {}
        for finding in self.findings:
            if finding.recipe:
                known = changes.get(finding.recipe, Change.IDENTICAL)
                changes[finding.recipe] = max(finding.change, known)
        return changes


@dataclass(frozen=True)
class Origin:
    """The two combinations between which a change of a recipe begins."""

    recipe: str
    change: Change
    without: Combination
    with_it: Combination
    untried: tuple[Combination, ...] = ()
    """Combinations between the two that could not be installed or imported."""

    @property
    def packages(self) -> list[tuple[str, str, str]]:
        """Each package in which the two differ, with its version without the change and with it."""
        pairs = zip(self.without.versions, self.with_it.versions)
        return [(name, before, after) for (name, before), (_, after) in pairs if before != after]


Examine = Callable[[Combination], Row]
"""Records a combination and judges it."""


def golden_of(
    recipes: dict[str, Recipe], first: Sequence[Combination], keep: Path | None, report: Report
) -> Golden:
    """The traces of the first combination of each backend, in place of golden ones.

    Raises:
        InputError: a combination cannot be installed, imported or trained.
    """
    data = {name: prepare(recipe) for name, recipe in recipes.items()}
    traces = record(recipes, data, ["oracle"], device="cpu", report=report).traces
    for combination in first:
        with environment(combination, keep) as interpreter:
            recording = record(
                recipes,
                data,
                [combination.backend],
                device="cpu",
                report=report,
                interpreter=interpreter,
            )
        for key, fault in recording.faults.items():
            raise InputError(
                f"{combination.label}: {key.recipe} cannot be trained, to compare with: {fault}"
            )
        traces |= recording.traces
    return Golden(recipes, data, traces, {})


def examiner(
    golden: Golden, keep: Path | None, report: Report, pages: Sequence[Page] = ()
) -> Examine:
    """A function that examines a combination against golden traces and pages of the atlas.

    It examines each combination once.
    """
    check_traps = trap_checker(pages, report) if pages else None

    @cache
    def examine(combination: Combination) -> Row:
        backend = combination.backend
        try:
            with environment(combination, keep) as interpreter:
                recording = record(
                    golden.recipes,
                    golden.data,
                    [backend],
                    device="cpu",
                    report=report,
                    interpreter=interpreter,
                )
                traps = check_traps(backend, interpreter) if check_traps else []
        except InputError as error:
            return Row(combination, fault=str(error))
        return Row(combination, (*judge(golden, recording, backend), *traps))

    return examine


def trap_checker(
    pages: Sequence[Page], report: Report
) -> Callable[[str, Interpreter | None], list[Finding]]:
    """A function that runs the code of pages for one backend in another environment.

    The environment None is the present one. Pages are taken as they are for the versions here, so
    that a trap that moves is reported even if its page knows of it. A page that cannot run here is
    left out.
    """
    versions = installed_versions()
    pairs = [(page, page.case_with(versions)) for page in pages]
    cases = [(page, case) for page, case in pairs if case is not None]

    def report_pages(count: int) -> None:
        report("atlas", count, len(cases))

    outcomes = run_apart([codes_of(case) for _, case in cases], report_pages)
    here = [check_case(page, case, *values) for (page, case), values in zip(cases, outcomes)]

    def check_traps(backend: str, interpreter: Interpreter | None) -> list[Finding]:
        there = here
        if interpreter is not None:
            there = check_elsewhere(cases, outcomes, backend, interpreter.python, report_pages)
        pairs = zip(here, there)
        return [_trap(check, backend) for check_here, check in pairs if not check_here.fault]

    return check_traps


def _trap(check: Check, backend: str) -> Finding:
    note = "; ".join(describe_check(check))
    change = CHANGES[check.status]
    return Finding(backend, f"atlas {check.page.slug}", "atlas", change, note=note)


def find_origins(
    rows: Sequence[Row],
    examine: Examine,
    *,
    least: Change = Change.MODE,
    list_releases: Callable[[str], Sequence[str]] = releases,
) -> Iterator[Origin]:
    """Find the package and the release behind each change of a recipe.

    Each search starts from the nearest combination that changes the recipe less. It replaces one
    package after another by the changed combination's, by bisection; then it bisects the releases
    of that package. A combination that has the version at fault of an earlier search, with the
    same change, is not searched again.

    Args:
        rows: the examined combinations.
        examine: examines another combination.
        least: the least change that counts.
        list_releases: package -> its releases, the oldest first.

    Yields:
        each origin once.
    """
    origins: set[Origin] = set()
    explained: set[tuple[str, Change, str, str]] = set()
    for pair in sorted(_pairs(rows, least), key=lambda pair: _apart(pair.without, pair.with_it)):
        recipe, change, without, with_it = pair
        causes = {(recipe, change, package, number) for package, number in with_it.versions}
        if causes & explained:
            continue
        origin = _find_origin(recipe, without, with_it, examine, change, list_releases)
        if len(origin.packages) == 1 and not origin.untried:
            ((package, _, _),) = origin.packages
            explained.add((recipe, change, package, dict(with_it.versions)[package]))
        if origin not in origins:
            origins.add(origin)
            yield origin


class _Pair(NamedTuple):
    """A changed recipe, and two combinations between which the change begins."""

    recipe: str
    change: Change
    without: Combination
    with_it: Combination


def _pairs(rows: Sequence[Row], least: Change) -> Iterator[_Pair]:
    """Each changed recipe of each row, and the nearest combination that changes it less."""
    for row in rows:
        same_backend = [
            other for other in rows if other.combination.backend == row.combination.backend
        ]
        for recipe, change in row.recipes.items():
            good = [
                other.combination
                for other in same_backend
                if _is_changed(other, recipe, change) is False
            ]
            if change >= least and good:
                nearest = min(good, key=lambda other: _apart(other, row.combination))
                yield _Pair(recipe, change, nearest, row.combination)


def _find_origin(
    recipe: str,
    without: Combination,
    with_it: Combination,
    examine: Examine,
    least: Change,
    list_releases: Callable[[str], Sequence[str]],
) -> Origin:
    def changed(combination: Combination) -> bool | None:
        return _is_changed(examine(combination), recipe, least)

    steps = [without]
    for package, number in with_it.versions:
        step = steps[-1].with_version(package, number)
        if step != steps[-1]:
            steps.append(step)
    low, *untried, high = bisect(steps, changed)
    origin = Origin(recipe, least, low, high)
    if len(origin.packages) == 1:
        ((package, before, after),) = origin.packages
        numbers = _between(list_releases(package), before, after)
        combinations = [low.with_version(package, number) for number in numbers]
        low, *untried, high = bisect(combinations, changed)
    return Origin(recipe, examine(high).recipes[recipe], low, high, tuple(untried))


def bisect(states: Sequence[State], changed: Callable[[State], bool | None]) -> Sequence[State]:
    """The fewest states that a change lies between: the first is without it, and the last has it.

    Of the states between these two it is unknown whether they have the change.

    Args:
        states: the first is without the change, and the last has it.
        changed: whether a state has the change; None if that is unknown.
    """
    low = 0
    high = len(states) - 1
    unknown: set[int] = set()
    while True:
        between = [i for i in range(low + 1, high) if i not in unknown]
        if not between:
            return states[low : high + 1]
        middle = between[len(between) // 2]
        has_change = changed(states[middle])
        if has_change is None:
            unknown.add(middle)
        elif has_change:
            high = middle
        else:
            low = middle


def _is_changed(row: Row, recipe: str, least: Change) -> bool | None:
    """Whether a row changes a recipe; None if its environment could not train the recipe."""
    return row.recipes[recipe] >= least if recipe in row.recipes else None


def _apart(a: Combination, b: Combination) -> int:
    """How many packages have other versions."""
    return sum(x != y for x, y in zip(a.versions, b.versions))


def _between(numbers: Sequence[str], before: str, after: str) -> list[str]:
    """The releases from one to the other, both included, in either order."""
    if before not in numbers or after not in numbers:
        return [before, after]
    first = numbers.index(before)
    last = numbers.index(after)
    if first < last:
        return list(numbers[first : last + 1])
    return list(numbers[last : first + 1])[::-1]
