"""What other versions of the frameworks change: record and judge each combination, and find the
release at fault."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TypeVar

from lockstep.data_prep import prepare
from lockstep.errors import InputError
from lockstep.golden import Golden
from lockstep.recipe import Recipe
from lockstep.run.workers import Interpreter, Report
from lockstep.studies.atlas.check import (
    Check,
    check_case,
    check_elsewhere,
    describe_check,
    installed_versions,
    run_apart,
)
from lockstep.studies.atlas.figures import Code
from lockstep.studies.atlas.pages import Page
from lockstep.studies.upgrade.bless import record
from lockstep.studies.upgrade.compare_releases import Change, Finding, judge
from lockstep.studies.upgrade.environments import Combination, environment, releases

__all__ = ["Examine", "Origin", "Row", "bisect", "examiner", "find_origins", "golden_of"]

State = TypeVar("State")


@dataclass(frozen=True)
class Row:
    """One combination: what it changes, or why it cannot be installed or imported (`fault`)."""

    combination: Combination
    findings: tuple[Finding, ...] = ()
    fault: str = ""

    @property
    def change(self) -> Change:
        """The worst of all."""
        return max((finding.change for finding in self.findings), default=Change.FAILS)

    @property
    def stages(self) -> dict[str, Change]:
        """Stage -> the worst of all recipes."""
        found = {"training": Change.FAILS} if self.fault else {}
        for finding in self.findings:
            found[finding.stage] = max(finding.change, found.get(finding.stage, Change.IDENTICAL))
        return found

    @property
    def recipes(self) -> dict[str, Change]:
        """Recipe -> the worst of its stages."""
        found: dict[str, Change] = {}
        for finding in self.findings:
            if finding.recipe:
                found[finding.recipe] = max(
                    finding.change, found.get(finding.recipe, Change.IDENTICAL)
                )
        return found


@dataclass(frozen=True)
class Origin:
    """The two combinations between which a change of a recipe begins. `untried` are those in
    between that could not be installed or imported."""

    recipe: str
    change: Change
    without: Combination
    with_it: Combination
    untried: tuple[Combination, ...] = ()

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
        InputError: it cannot be installed, imported or trained.
    """
    data = {name: prepare(recipe) for name, recipe in recipes.items()}
    traces = record(recipes, data, ["oracle"], device="cpu", report=report).traces
    for combination in first:
        with environment(combination, keep) as interpreter:
            found = record(
                recipes,
                data,
                [combination.backend],
                device="cpu",
                report=report,
                interpreter=interpreter,
            )
        for key, fault in found.faults.items():
            raise InputError(
                f"{combination.label}: {key.recipe} cannot be trained, to compare with: {fault}"
            )
        traces |= found.traces
    return Golden(recipes, data, traces, {})


def examiner(
    golden: Golden, keep: Path | None, report: Report, pages: Sequence[Page] = ()
) -> Examine:
    """A function that examines a combination against golden traces and pages of the atlas, each
    once."""
    check_traps = trap_checker(pages, report) if pages else None

    @cache
    def examine(combination: Combination) -> Row:
        backend = combination.backend
        try:
            with environment(combination, keep) as interpreter:
                found = record(
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
        return Row(combination, (*judge(golden, found, backend), *traps))

    return examine


def trap_checker(
    pages: Sequence[Page], report: Report
) -> Callable[[str, Interpreter | None], list[Finding]]:
    """A function that runs the code of pages for one backend in another environment; None is the
    present one.

    Pages are taken as they are for the versions here, so that a trap that moves is reported even
    if its page knows of it. A page that cannot run here is left out.
    """
    versions = installed_versions()
    pairs = [(page, page.case_with(versions)) for page in pages]
    cases = [(page, case) for page, case in pairs if case is not None]
    codes = [[Code(part.variable, part.code) for part in case.snippets] for _, case in cases]

    def tell(done: int) -> None:
        report("atlas", done, len(cases))

    outcomes = run_apart(codes, tell)
    here = [check_case(page, case, *known) for (page, case), known in zip(cases, outcomes)]

    def check(backend: str, interpreter: Interpreter | None) -> list[Finding]:
        there = (
            here
            if interpreter is None
            else check_elsewhere(cases, outcomes, backend, interpreter.python, tell)
        )
        return [_trap(check, backend) for check, known in zip(there, here) if not known.fault]

    return check


def _trap(check: Check, backend: str) -> Finding:
    change = {"holds": Change.IDENTICAL, "moved": Change.SEMANTICS, "cannot run": Change.FAILS}[
        check.status
    ]
    note = "; ".join(describe_check(check))
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
    found: set[Origin] = set()
    explained: set[tuple[str, Change, str, str]] = set()
    for recipe, good, row in sorted(
        _pairs(rows, least), key=lambda pair: _apart(pair[1], pair[2].combination)
    ):
        change, with_it = row.recipes[recipe], row.combination
        if any(
            (recipe, change, package, number) in explained for package, number in with_it.versions
        ):
            continue
        origin = _find_origin(recipe, good, with_it, examine, change, list_releases)
        if len(origin.packages) == 1 and not origin.untried:
            ((package, _, _),) = origin.packages
            explained.add((recipe, change, package, dict(with_it.versions)[package]))
        if origin not in found:
            found.add(origin)
            yield origin


def _pairs(rows: Sequence[Row], least: Change) -> Iterator[tuple[str, Combination, Row]]:
    """Each changed recipe of each row, after the nearest combination of the same backend that
    changes it less.
    """
    for row in rows:
        for recipe, change in row.recipes.items():
            good = [
                other.combination
                for other in rows
                if other.combination.backend == row.combination.backend
                and _is_changed(other, recipe, change) is False
            ]
            if change >= least and good:
                yield recipe, min(good, key=lambda other: _apart(other, row.combination)), row


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
        if steps[-1].with_version(package, number) != steps[-1]:
            steps.append(steps[-1].with_version(package, number))
    low, *untried, high = bisect(steps, changed)
    origin = Origin(recipe, least, low, high)
    if len(origin.packages) == 1:
        ((package, before, after),) = origin.packages
        numbers = _between(list_releases(package), before, after)
        low, *untried, high = bisect(
            [low.with_version(package, number) for number in numbers], changed
        )
    return Origin(recipe, examine(high).recipes[recipe], low, high, tuple(untried))


def bisect(states: Sequence[State], changed: Callable[[State], bool | None]) -> Sequence[State]:
    """The fewest states between whose first and last a change lies; whether those in between have
    it is unknown.

    Args:
        states: the first is without it, the last has it.
        changed: whether a state has it; None if that is unknown, and the state is left out.
    """
    low, high = 0, len(states) - 1
    left_out: set[int] = set()
    while between := [i for i in range(low + 1, high) if i not in left_out]:
        middle = between[len(between) // 2]
        found = changed(states[middle])
        if found is None:
            left_out.add(middle)
        elif found:
            high = middle
        else:
            low = middle
    return states[low : high + 1]


def _is_changed(row: Row, recipe: str, least: Change) -> bool | None:
    """Whether a recipe is changed there; None if the environment could not train it."""
    return row.recipes[recipe] >= least if recipe in row.recipes else None


def _apart(a: Combination, b: Combination) -> int:
    return sum(x != y for x, y in zip(a.versions, b.versions))


def _between(numbers: Sequence[str], before: str, after: str) -> list[str]:
    """The releases from one to the other, both included, in either order."""
    if before not in numbers or after not in numbers:
        return [before, after]
    first, last = numbers.index(before), numbers.index(after)
    return (
        list(numbers[first : last + 1]) if first < last else list(numbers[last : first + 1])[::-1]
    )
