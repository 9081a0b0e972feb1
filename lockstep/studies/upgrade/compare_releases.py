"""Compare golden traces with a run in another environment: identical, rounding only, or changed,
and how."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Any

import numpy as np

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
JUDGED = ("updates/", "epochs/", "parameters/", "average/")


class Change(IntEnum):
    """What an upgrade changed, the worst last."""

    IDENTICAL = 0
    """The same bits."""
    ROUNDING = 1
    """Within the derived bounds in float32, and within 1e-12 in float64."""
    MODE = 2
    """float32 is computed in another precision than it was; float64 agrees."""
    INCONCLUSIVE = 3
    """Nothing is wrong, but from some update on nothing can be judged."""
    SEMANTICS = 4
    """Another meaning."""
    FAILS = 5
    """It does not run."""

    @property
    def words(self) -> str:
        """The words for people."""
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
        """Whether the upgrade is safe in this respect."""
        return self <= Change.ROUNDING

    @property
    def exit_status(self) -> int:
        """The exit status of a command for which this is the worst change."""
        if self.holds:
            return 0
        return 3 if self is Change.INCONCLUSIVE else 1


@dataclass(frozen=True)
class Finding:
    """One stage of one recipe in one backend.

    `worst` is the difference that decided, in `dtype`, the golden trace being a; None where there
    is none, or where it fails. `first` is where the recipe first parts in that dtype, on its
    stage's finding alone. `nearer` says which of the two runs agrees with the oracle: "golden",
    "present", "both", "neither", or "" where nothing parts.
    """

    backend: str
    recipe: str
    stage: str
    change: Change
    dtype: str = ""
    worst: Difference | None = None
    first: Difference | None = None
    nearer: str = ""
    note: str = ""


@dataclass(frozen=True)
class Upgrade:
    """The result of a check. `settings` has, for each backend, the settings that differ: as blessed
    and as they are now. `skipped` are golden backends that are not installed."""

    findings: tuple[Finding, ...]
    settings: dict[str, dict[str, tuple[Any, Any]]]
    skipped: tuple[str, ...]

    @property
    def change(self) -> Change:
        """The worst of all."""
        return max(finding.change for finding in self.findings)

    @property
    def backends(self) -> list[str]:
        """What was checked, "data" first."""
        return list(dict.fromkeys(finding.backend for finding in self.findings))

    def stages(self, backend: str) -> dict[str, Change]:
        """Stage -> the worst of all recipes."""
        found: dict[str, Change] = {}
        for finding in self.findings:
            if finding.backend == backend:
                found[finding.stage] = max(
                    finding.change, found.get(finding.stage, Change.IDENTICAL)
                )
        return found


def check_upgrade(
    golden: Golden, backends: Collection[str], *, device: str, report: Report
) -> Upgrade:
    """Train every golden recipe in the present environment, from the golden data, and judge it.

    Args:
        golden: the golden folder.
        backends: some of its backends; none named: all.
        device: "cpu", "gpu" or "auto".
        report: told of each backend's progress.

    Raises:
        InputError: nothing to check, data that cannot be prepared again, or a twin that cannot be
        imported.
    """
    for backend in backends:
        if backend not in golden.backends:
            raise InputError(
                f"--backend {backend}: no golden traces of it (there are: "
                f"{', '.join(golden.backends)})"
            )
    chosen = [backend for backend in golden.backends if backend in backends or not backends]
    present = [backend for backend in chosen if is_installed(backend)]
    skipped = tuple(backend for backend in chosen if backend not in present)
    if not set(present) - {"oracle"} and skipped:
        raise InputError(f"{', '.join(skipped)}: not installed, and there is nothing else to check")
    findings = [_judge_data(name, data, golden) for name, data in golden.data.items()]
    found = record(golden.recipes, golden.data, present, device=device, report=report)
    settings = {}
    for backend in present:
        findings += judge(golden, found, backend)
        settings[backend] = changed_settings(golden, found, backend)
    return Upgrade(tuple(findings), settings, skipped)


def changed_settings(golden: Golden, found: Recording, backend: str) -> dict[str, tuple[Any, Any]]:
    """Version or setting -> its old and its new value, if they differ."""
    before = golden.environment(backend)
    after = next(
        (
            trace.header["environment"]
            for key, trace in found.traces.items()
            if key.backend == backend
        ),
        before,
    )
    names = list(dict.fromkeys([*before, *after]))
    return {n: (before.get(n), after.get(n)) for n in names if before.get(n) != after.get(n)}


def judge(golden: Golden, found: Recording, backend: str) -> list[Finding]:
    """What changed for a backend's golden traces: its numeric mode, and each stage of each recipe.

    Raises:
        InputError: traces that cannot be compared, or golden ones without rounding bounds.
    """
    modes = _changed_modes(golden, found, backend)
    note = "; ".join(dict.fromkeys(text for texts in modes.values() for text in texts))
    findings = [
        Finding(backend, "", "numeric mode", Change.MODE if note else Change.IDENTICAL, note=note)
    ]
    for name in golden.recipes:
        faults = [
            f"{k.dtype}: {fault}"
            for k, fault in found.faults.items()
            if (k.recipe, k.backend) == (name, backend)
        ]
        if faults:
            findings.append(Finding(backend, name, "training", Change.FAILS, note=faults[0]))
        else:
            findings += _judge_recipe(golden, found, backend, name, modes)
    return findings


def _changed_modes(golden: Golden, found: Recording, backend: str) -> dict[str, list[str]]:
    """Precision of a recipe -> how its arithmetic has changed: as probed, and as recorded."""
    words = {True: "kept", False: "flushed to 0"}
    modes: dict[str, list[str]] = {"float64": [], "float32": []}
    for name, (before, after) in changed_settings(golden, found, backend).items():
        if name in MODES:
            modes["float32"].append(
                MODES[name].format(words.get(after, after), words.get(before, before))
            )
    for key, trace in found.traces.items():
        if key.backend == backend:
            before, after = (t.series("loss").dtype.name for t in (golden.traces[key], trace))
            if before != after:
                modes[key.dtype].append(f"{key.dtype} is computed in {after}, and was in {before}")
    return modes


def _judge_recipe(
    golden: Golden, found: Recording, backend: str, name: str, modes: Mapping[str, list[str]]
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
        if (
            backend != "oracle" or dtype == "float64"
        ):  # it computes in float64 whatever the recipe's dtype
            key = Key(name, dtype, backend)
            _refuse_missing(name, golden.traces[key], found.traces[key])
            compared[dtype] = _compare(golden.traces[key], found.traces[key], bounds, exact)
    nearer = ""
    if any(comparison.first is not None for comparison in compared.values()):
        nearer = _nearer(golden, found, Key(name, next(iter(compared)), backend), bounds, exact)
    stages = dict.fromkeys(stage for comparison in compared.values() for stage in comparison.worst)
    findings = [
        replace(_judge_stage(compared, stage, modes, nearer), backend=backend, recipe=name)
        for stage in stages
    ]
    for dtype, comparison in compared.items():
        if comparison.limit is not None:
            of_float64 = (
                [compared["float64"].limit] if dtype == "float32" and "float64" in compared else []
            )
            change = (
                Change.ROUNDING if settles(comparison.limit, *of_float64) else Change.INCONCLUSIVE
            )
            note = describe_limit(comparison.limit)
            findings.append(Finding(backend, name, "horizon", change, dtype, note=note))
    return findings


def _compare(a: Trace, b: Trace, bounds: Bounds, exact: DeriveBounds) -> Comparison:
    return (
        compare_exactly(a, b, exact)
        if a.recipe.training.dtype == "float64"
        else compare(a, b, bounds)
    )


def _judge_stage(
    compared: Mapping[str, Comparison], stage: str, modes: Mapping[str, list[str]], nearer: str
) -> Finding:
    worst = {dtype: comparison.worst[stage] for dtype, comparison in compared.items()}
    beyond = [dtype for dtype, found in worst.items() if not found.ratio <= 1]
    if not beyond:
        dtype = max(worst, key=lambda dtype: worst[dtype].ratio)
        if all(found.difference == 0 for found in worst.values()):
            return Finding("", "", stage, Change.IDENTICAL)
        return Finding("", "", stage, Change.ROUNDING, dtype, worst[dtype])
    unexplained = [dtype for dtype in beyond if not modes[dtype]]
    dtype = (unexplained or beyond)[0]
    first = compared[dtype].first
    return Finding(
        backend="",
        recipe="",
        stage=stage,
        change=Change.SEMANTICS if unexplained else Change.MODE,
        dtype=dtype,
        worst=worst[dtype],
        first=first if first is not None and first.stage == stage else None,
        nearer=nearer,
        note="in float32 alone: float64 agrees"
        if unexplained and "float64" in worst and beyond == ["float32"]
        else "",
    )


def _nearer(golden: Golden, found: Recording, key: Key, bounds: Bounds, exact: DeriveBounds) -> str:
    """Which run agrees with the golden oracle: the golden one, the present one, both or neither."""
    truth = golden.traces[key._replace(backend="oracle")]
    agreeing = [
        word
        for word, traces in (("golden", golden.traces), ("present", found.traces))
        if _compare(traces[key], truth, bounds, exact).first is None
    ]
    return "both" if len(agreeing) == 2 else "".join(agreeing) or "neither"


def _refuse_missing(name: str, before: Trace, after: Trace) -> None:
    missing = [n for n in before.arrays if n.startswith(JUDGED) and n not in after.arrays]
    if missing:
        raise InputError(
            f"golden recipe {name}: {missing[0]} is no longer recorded by this lockstep; "
            "bless again"
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
    same = largest <= SEMANTICS
    note = (
        f"prepared otherwise than before: apart by {largest:.2g}, relative; the golden data are "
        "used"
    )
    return Finding("data", name, "data", Change.ROUNDING if same else Change.SEMANTICS, note=note)


def _apart(a: Any, b: Any) -> float:
    """The largest difference over the largest value; infinite if shapes, kinds or whole numbers
    differ."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return float("inf")
    if a.dtype.kind != "f":
        return 0.0 if np.array_equal(a, b) else float("inf")
    size = float(np.abs(a).max(initial=0.0))
    return (
        float(np.abs(a - b).max(initial=0.0)) / size if size else float(np.abs(b).max(initial=0.0))
    )
