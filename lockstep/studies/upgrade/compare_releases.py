"""Golden traces against a run in another environment: whether it changed, and how."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from enum import IntEnum
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lockstep.data_prep import PreparedData, prepare
from lockstep.diagnose.compare import SEMANTICS, Bounds, Comparison, Difference, bounds_of, compare
from lockstep.diagnose.exact import DeriveBounds, compare_exactly, float64_bounds
from lockstep.diagnose.verdict import describe_limit, settles
from lockstep.errors import InputError
from lockstep.golden import Golden, Key
from lockstep.records.trace import Trace
from lockstep.run.workers import Report
from lockstep.studies.upgrade.bless import EVERY, Recording, is_installed, record

__all__ = ["Change", "Finding", "Upgrade", "changed_settings", "check_upgrade", "judge"]

MODES = {
    "matmul_bits": "products of float32 matrices keep {} bits of the significand, and kept {}",
    "subnormals": "products below the smallest normal number are {}, and were {}",
}
"""Probed setting -> how a change of it reads."""
JUDGED = ("updates/", "epochs/", "parameters/", "average/")
"""Beginnings of the names of the arrays that are judged."""


class Change(IntEnum):
    """What an upgrade changed, the worst last."""

    IDENTICAL = 0
    """The same bits."""
    ROUNDING = 1
    """Within the derived bounds in float32, and within 1e-12 in float64."""
    MODE = 2
    """float32 is computed in another precision than before, and float64 agrees."""
    INCONCLUSIVE = 3
    """Nothing is wrong, but from some update on nothing can be judged."""
    SEMANTICS = 4
    """The training means something else."""
    FAILS = 5
    """It does not run."""

    @property
    def words(self) -> str:
        """The change in words."""
        return (
            "identical",
            "rounding only",
            "numeric mode changed",
            "inconclusive",
            "semantics changed",
            "fails",
        )[self]

    @property
    def holds(self) -> bool:
        """Whether the training means the same."""
        return self <= Change.ROUNDING

    @property
    def exit_status(self) -> int:
        """The exit status of a command whose worst change this is."""
        if self.holds:
            return 0
        return 3 if self is Change.INCONCLUSIVE else 1


@dataclass(frozen=True)
class Finding:
    """One stage of one recipe in one backend."""

    backend: str
    recipe: str
    stage: str
    change: Change
    dtype: str = ""
    """The precision that decided."""
    worst: Difference | None = None
    """The difference that decided, with the golden trace as a; None where there is none, or where
    the training fails."""
    first: Difference | None = None
    """Where the recipe first parts in that precision, if that is in this stage."""
    nearer: str = ""
    """Which of the two runs agrees with the oracle: "golden", "present", "both" or "neither"; ""
    where nothing parts."""
    note: str = ""


@dataclass(frozen=True)
class Upgrade:
    """The result of a check."""

    findings: tuple[Finding, ...]
    settings: dict[str, dict[str, tuple[Any, Any]]]
    """Backend -> each setting that differs, as blessed and as it is now."""
    skipped: tuple[str, ...]
    """The golden backends that are not installed."""

    @property
    def change(self) -> Change:
        """The worst change of all findings."""
        return max(finding.change for finding in self.findings)

    @property
    def backends(self) -> list[str]:
        """What was checked, "data" first."""
        return list(dict.fromkeys(finding.backend for finding in self.findings))

    def stages(self, backend: str) -> dict[str, Change]:
        """Stage -> the worst change over all recipes."""
        changes: dict[str, Change] = {}
        for finding in self.findings:
            if finding.backend == backend:
                known = changes.get(finding.stage, Change.IDENTICAL)
                changes[finding.stage] = max(finding.change, known)
        return changes


def check_upgrade(
    golden: Golden, backends: Collection[str], *, device: str, report: Report
) -> Upgrade:
    """Train every golden recipe in the present environment, from the golden data, and judge it.

    Args:
        golden: the golden folder.
        backends: some of its backends; none for all.
        device: "cpu", "gpu" or "auto".
        report: told of each backend's progress.

    Raises:
        InputError: there is nothing to check, data cannot be prepared again, or a twin cannot be
            imported.
    """
    for backend in backends:
        if backend not in golden.backends:
            raise InputError(
                f"--backend {backend}: no golden traces of it "
                f"(there are: {', '.join(golden.backends)})"
            )
    chosen = [backend for backend in golden.backends if backend in backends or not backends]
    present = [backend for backend in chosen if is_installed(backend)]
    skipped = tuple(backend for backend in chosen if backend not in present)
    if not set(present) - {"oracle"} and skipped:
        raise InputError(f"{', '.join(skipped)}: not installed, and there is nothing else to check")
    findings = [_judge_data(name, data, golden) for name, data in golden.data.items()]
    recording = record(golden.recipes, golden.data, present, device=device, report=report)
    settings = {}
    for backend in present:
        findings += judge(golden, recording, backend)
        settings[backend] = changed_settings(golden, recording, backend)
    return Upgrade(tuple(findings), settings, skipped)


def changed_settings(
    golden: Golden, recording: Recording, backend: str
) -> dict[str, tuple[Any, Any]]:
    """Version or setting -> its old and its new value, if they differ."""
    before = golden.environment(backend)
    traces = [trace for key, trace in recording.traces.items() if key.backend == backend]
    after = traces[0].header["environment"] if traces else before
    changed = {}
    for name in dict.fromkeys([*before, *after]):
        if before.get(name) != after.get(name):
            changed[name] = (before.get(name), after.get(name))
    return changed


def judge(golden: Golden, recording: Recording, backend: str) -> list[Finding]:
    """What changed for a backend's golden traces: its numeric mode, and each stage of each recipe.

    Raises:
        InputError: traces cannot be compared, or a golden recipe has no rounding bounds.
    """
    modes = _changed_modes(golden, recording, backend)
    note = "; ".join(dict.fromkeys(chain.from_iterable(modes.values())))
    mode_change = Change.MODE if note else Change.IDENTICAL
    findings = [Finding(backend, "", "numeric mode", mode_change, note=note)]
    for name in golden.recipes:
        faults = [
            f"{key.dtype}: {fault}"
            for key, fault in recording.faults.items()
            if (key.recipe, key.backend) == (name, backend)
        ]
        if faults:
            findings.append(Finding(backend, name, "training", Change.FAILS, note=faults[0]))
        else:
            findings += _judge_recipe(golden, recording, backend, name, modes)
    return findings


def _changed_modes(golden: Golden, recording: Recording, backend: str) -> dict[str, list[str]]:
    """Precision of a recipe -> how its arithmetic has changed, as probed and as recorded."""
    words = {True: "kept", False: "flushed to 0"}
    modes: dict[str, list[str]] = {"float64": [], "float32": []}
    for name, (before, after) in changed_settings(golden, recording, backend).items():
        if name in MODES:
            text = MODES[name].format(words.get(after, after), words.get(before, before))
            modes["float32"].append(text)
    for key, trace in recording.traces.items():
        if key.backend != backend:
            continue
        before = golden.traces[key].series("loss").dtype.name
        after = trace.series("loss").dtype.name
        if before != after:
            modes[key.dtype].append(f"{key.dtype} is computed in {after}, and was in {before}")
    return modes


def _judge_recipe(
    golden: Golden, recording: Recording, backend: str, name: str, modes: Mapping[str, list[str]]
) -> list[Finding]:
    recipe = golden.recipes[name]
    bounds = bounds_of(golden.traces[Key(name, "float32", "oracle")])
    if bounds is None:
        raise InputError(
            f"golden recipe {name}: its oracle's trace has no rounding bounds; bless again"
        )
    exact = float64_bounds(recipe.with_dtype("float64"), golden.data[name], parameters_every=EVERY)
    compared: dict[str, Comparison] = {}
    for dtype in recipe.forms:
        if backend == "oracle" and dtype != "float64":
            continue  # the oracle computes in float64 whatever the recipe's dtype
        key = Key(name, dtype, backend)
        _refuse_missing(name, golden.traces[key], recording.traces[key])
        compared[dtype] = _compare(golden.traces[key], recording.traces[key], bounds, exact)
    nearer = ""
    if any(comparison.first is not None for comparison in compared.values()):
        key = Key(name, next(iter(compared)), backend)
        nearer = _nearer(golden, recording, key, bounds, exact)
    stages = chain.from_iterable(comparison.worst for comparison in compared.values())
    findings = [
        replace(_judge_stage(compared, stage, modes, nearer), backend=backend, recipe=name)
        for stage in dict.fromkeys(stages)
    ]
    for dtype, comparison in compared.items():
        if comparison.limit is None:
            continue
        exact_limits = []
        if dtype == "float32" and "float64" in compared:
            exact_limits.append(compared["float64"].limit)
        is_settled = settles(comparison.limit, *exact_limits)
        change = Change.ROUNDING if is_settled else Change.INCONCLUSIVE
        note = describe_limit(comparison.limit)
        findings.append(Finding(backend, name, "horizon", change, dtype, note=note))
    return findings


def _compare(a: Trace, b: Trace, bounds: Bounds, exact: DeriveBounds) -> Comparison:
    if a.recipe.training.dtype == "float64":
        return compare_exactly(a, b, exact)
    return compare(a, b, bounds)


def _judge_stage(
    compared: Mapping[str, Comparison], stage: str, modes: Mapping[str, list[str]], nearer: str
) -> Finding:
    worst = {dtype: comparison.worst[stage] for dtype, comparison in compared.items()}
    beyond = [dtype for dtype, difference in worst.items() if not difference.ratio <= 1]
    if not beyond:
        dtype = max(worst, key=lambda dtype: worst[dtype].ratio)
        if all(difference.difference == 0 for difference in worst.values()):
            return Finding("", "", stage, Change.IDENTICAL)
        return Finding("", "", stage, Change.ROUNDING, dtype, worst[dtype])
    unexplained = [dtype for dtype in beyond if not modes[dtype]]
    dtype = (unexplained or beyond)[0]
    first = compared[dtype].first
    note = ""
    if unexplained and "float64" in worst and beyond == ["float32"]:
        note = "in float32 alone: float64 agrees"
    return Finding(
        backend="",
        recipe="",
        stage=stage,
        change=Change.SEMANTICS if unexplained else Change.MODE,
        dtype=dtype,
        worst=worst[dtype],
        first=first if first is not None and first.stage == stage else None,
        nearer=nearer,
        note=note,
    )


def _nearer(
    golden: Golden, recording: Recording, key: Key, bounds: Bounds, exact: DeriveBounds
) -> str:
    """Which run agrees with the golden oracle: "golden", "present", "both" or "neither"."""
    truth = golden.traces[key._replace(backend="oracle")]
    golden_agrees = _compare(golden.traces[key], truth, bounds, exact).first is None
    present_agrees = _compare(recording.traces[key], truth, bounds, exact).first is None
    if golden_agrees and present_agrees:
        return "both"
    if golden_agrees:
        return "golden"
    return "present" if present_agrees else "neither"


def _refuse_missing(name: str, before: Trace, after: Trace) -> None:
    for array in before.arrays:
        if array.startswith(JUDGED) and array not in after.arrays:
            raise InputError(
                f"golden recipe {name}: {array} is no longer recorded by this lockstep; bless again"
            )


def _judge_data(name: str, blessed: PreparedData, golden: Golden) -> Finding:
    """Whether the data are prepared as before: bit for bit, or up to rounding."""
    try:
        fresh = prepare(golden.recipes[name])
    except InputError as error:
        raise InputError(
            f"golden recipe {name}: its data cannot be prepared again: {error}"
        ) from None
    if fresh.hash == blessed.hash:
        return Finding("data", name, "data", Change.IDENTICAL)
    largest = 0.0
    for part in ("train_x_ND", "train_y_N", "held_out_x_ND", "held_out_y_N"):
        largest = max(largest, _apart(getattr(blessed, part), getattr(fresh, part)))
    for tensor, array in blessed.parameters.items():
        largest = max(largest, _apart(array, fresh.parameters.get(tensor, np.zeros(0))))
    for epoch in range(blessed.epochs):
        largest = max(largest, _apart(blessed.batches(epoch).rows_TB, fresh.batches(epoch).rows_TB))
    change = Change.ROUNDING if largest <= SEMANTICS else Change.SEMANTICS
    note = (
        f"prepared otherwise than before: apart by {largest:.2g}, relative; the golden data are "
        "used"
    )
    return Finding("data", name, "data", change, note=note)


def _apart(a: NDArray[Any], b: NDArray[Any]) -> float:
    """The largest difference over the largest value of a; infinite if shapes, dtypes or whole
    numbers differ.
    """
    if a.shape != b.shape or a.dtype != b.dtype:
        return float("inf")
    if a.dtype.kind != "f":
        return 0.0 if np.array_equal(a, b) else float("inf")
    size = float(np.abs(a).max(initial=0.0))
    difference = float(np.abs(a - b).max(initial=0.0))
    return difference / size if size else difference
