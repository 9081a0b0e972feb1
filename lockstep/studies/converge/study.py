"""A study trains many seeds in both frameworks, with own draws and with shared ones, and judges."""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import NamedTuple

from scipy import stats

from lockstep.backends import BACKENDS
from lockstep.data_prep import PreparedData, prepare
from lockstep.errors import InputError
from lockstep.recipe import Recipe
from lockstep.records.ensemble import Ensemble
from lockstep.run.everywhere import contrast_schedule
from lockstep.run.team import Team
from lockstep.run.workers import Job, Report
from lockstep.studies.converge.controls import Control, controls
from lockstep.studies.converge.judge import Judgement, judge, overall
from lockstep.studies.converge.measure import METRICS, margins, measure

__all__ = ["Pilot", "Study", "check_declared", "converge", "file_of", "pilot"]

PILOT_SEEDS = 10**6
"""The first seed of a pilot; studies begin at 0."""

Key = tuple[str, str]
"""A set-up, and the backend that trains it."""


class SetUp(NamedTuple):
    """What an ensemble is trained on."""

    recipe: Recipe
    seeds: tuple[int, int]
    """The first seed, and the last (exclusive)."""
    own: bool
    """Whether the backend draws by itself."""


SetUps = Mapping[Key, SetUp]


@dataclass(frozen=True)
class Study:
    """The ensembles of a study, and its judgements."""

    recipe: Recipe
    seeds: int
    first_seed: int
    ensembles: dict[Key, Ensemble]
    """The set-ups are "own", "shared" and "contrast"; in jax also each control, with own and with
    shared draws."""
    own: tuple[Judgement, ...]
    """jax against torch, each with its own draws."""
    paired: tuple[Judgement, ...]
    """jax against torch, with shared draws."""
    controls: tuple[tuple[Control, tuple[Judgement, ...]], ...]
    """Each control in jax against torch, first with own draws and then with shared ones."""
    repeats: tuple[tuple[str, tuple[Judgement, ...]], ...]
    """Each framework, and its judgements against itself."""

    @property
    def word(self) -> str:
        """The verdict over all metrics, with own draws and with shared ones."""
        return overall([*self.own, *self.paired])

    @property
    def missed(self) -> list[Control]:
        """The controls that were not found different."""
        return [
            control for control, judgements in self.controls if overall(judgements) != "different"
        ]


@dataclass(frozen=True)
class Pilot:
    """The proposal of a pilot."""

    recipe: Recipe
    """The recipe with the proposed section."""
    effects: dict[str, dict[str, float]]
    """Metric -> text of each control -> what the control changes."""
    decided: dict[str, tuple[float, float]]
    """Metric -> the margins that as many seeds decide with the declared power, with own draws and
    with pairs."""


def check_declared(recipe: Recipe) -> None:
    """Raise InputError if a margin or the target is not declared."""
    for field in fields(recipe.convergence):
        if not getattr(recipe.convergence, field.name):
            raise InputError(
                f"convergence.{field.name}: not declared; lockstep converge --pilot proposes it, "
                "to be put into the recipe before the study"
            )


def converge(
    recipe: Recipe,
    seeds: int,
    *,
    first_seed: int = 0,
    with_controls: bool = False,
    repeats: int = 0,
    device: str = "cpu",
    engine: str = "auto",
    report: Report,
) -> Study:
    """Train a study and judge it.

    Args:
        recipe: what to train, with the margins and the target that it declares.
        seeds: S, how many seeds each set-up trains.
        first_seed: the first seed.
        with_controls: whether the controls are trained in jax too.
        repeats: how many studies of a framework against itself, each with other seeds; the first
            half of them in torch.
        device: "cpu", "gpu" or "auto".
        engine: "auto" for many members at once, "plain" for one after another as people write it.
        report: told of each backend's progress.

    Raises:
        InputError: a margin or the target is not declared, or a framework is not installed.
    """
    check_declared(recipe)
    planted = list(controls(recipe)) if with_controls else []
    data = prepare(recipe)
    contrast = replace(recipe, schedule=contrast_schedule(recipe, data.updates_per_epoch))
    span = (first_seed, first_seed + seeds)
    set_ups = _set_ups(recipe, contrast, planted, span)
    in_torch = (repeats + 1) // 2
    repeated = ["torch"] * in_torch + ["jax"] * (repeats - in_torch)
    for i, backend in enumerate(repeated):
        for half in (0, 1):
            begin = first_seed + seeds * (1 + 2 * i + half)
            set_ups[f"repeat-{i}-{half}", backend] = SetUp(recipe, (begin, begin + seeds), own=True)
    ensembles = _train(set_ups, data, device, engine, report)

    def judged(a: Key, b: Key) -> tuple[Judgement, ...]:
        return _judge(recipe, ensembles[a], ensembles[b], paired=a[0] == "shared")

    judged_controls = []
    for control in planted:
        own = judged(("own", "torch"), (control.key, "jax"))
        shared = judged(("shared", "torch"), (f"{control.key}-shared", "jax"))
        judged_controls.append((control, own + shared))
    judged_repeats = [
        (backend, judged((f"repeat-{i}-0", backend), (f"repeat-{i}-1", backend)))
        for i, backend in enumerate(repeated)
    ]
    return Study(
        recipe,
        seeds,
        first_seed,
        {key: each for key, each in ensembles.items() if not key[0].startswith("repeat")},
        own=judged(("own", "torch"), ("own", "jax")),
        paired=judged(("shared", "torch"), ("shared", "jax")),
        controls=tuple(judged_controls),
        repeats=tuple(judged_repeats),
    )


def _set_ups(
    recipe: Recipe, contrast: Recipe, planted: Sequence[Control], span: tuple[int, int]
) -> dict[Key, SetUp]:
    """The set-ups of a study, but its repeats."""
    set_ups: dict[Key, SetUp] = {}
    for backend in BACKENDS:
        set_ups["own", backend] = SetUp(recipe, span, own=True)
        set_ups["shared", backend] = SetUp(recipe, span, own=False)
        set_ups["contrast", backend] = SetUp(contrast, span, own=True)
    for control in planted:
        set_ups[control.key, "jax"] = SetUp(control.recipe, span, own=True)
        set_ups[f"{control.key}-shared", "jax"] = SetUp(control.recipe, span, own=False)
    return set_ups


def pilot(
    recipe: Recipe, seeds: int, *, device: str = "cpu", engine: str = "auto", report: Report
) -> Pilot:
    """Propose margins and a target, in torch, from seeds that no study uses and shared draws.

    margin = max(half the smallest effect of any control, the smallest margin that as many seeds
    decide with the declared power). Every control is then off by at least twice the margin. Seeds
    decide a margin if samples of their spread and without a difference are called equivalent
    within it, in all metrics together. The spread is that between seeds; for pairs, that of the
    change. The target is half-way from the first epoch's mean held-out loss to the last's. A run
    still falls there, so that a slower one shows.
    """
    data = prepare(recipe)
    span = (PILOT_SEEDS, PILOT_SEEDS + seeds)
    planted = list(controls(recipe))
    set_ups = {("right", "torch"): SetUp(recipe, span, own=False)}
    for control in planted:
        set_ups[control.key, "torch"] = SetUp(control.recipe, span, own=False)
    ensembles = _train(set_ups, data, device, engine, report)
    mean_E = ensembles["right", "torch"].held_out["loss"].mean(axis=0)
    target = float(f"{(mean_E[0] + mean_E[-1]) / 2:.3g}")
    with_target = recipe.with_values({"convergence.target": target})
    right = measure(with_target, ensembles["right", "torch"])
    wrong = {
        control.text: measure(with_target, ensembles[control.key, "torch"]) for control in planted
    }
    effects = {}
    decided = {}
    chosen = {}
    for metric in METRICS:
        changes = {text: values[metric] - right[metric] for text, values in wrong.items()}
        effects[metric] = {text: float(change_S.mean()) for text, change_S in changes.items()}
        least_S = min(changes.values(), key=lambda change_S: abs(change_S.mean()))
        decided[metric] = (
            _decided(right[metric].std(ddof=1) * 2**0.5, 2 * (seeds - 1), seeds, recipe),
            _decided(least_S.std(ddof=1), seeds - 1, seeds, recipe),
        )
        half = _half_of_least(effects[metric])
        for kind, decided_margin in zip(("", "paired_"), decided[metric]):
            margin = float(f"{max(half, decided_margin):.2g}")
            chosen[f"convergence.{kind}{metric}_margin"] = margin
    return Pilot(with_target.with_values(chosen), effects, decided)


def _half_of_least(effects: Mapping[str, float]) -> float:
    return min(abs(effect) for effect in effects.values()) / 2


def _decided(deviation: float, freedom: int, seeds: int, recipe: Recipe) -> float:
    """The smallest margin within which samples of this deviation, without a difference, are called
    equivalent in all metrics together, with at least the declared power.
    """
    declared = recipe.convergence
    each = 1 - (1 - declared.power) / len(METRICS)
    t = stats.t.isf(declared.alpha, freedom) + stats.t.ppf((1 + each) / 2, freedom)
    return float(t * deviation / seeds**0.5)


def _judge(recipe: Recipe, a: Ensemble, b: Ensemble, *, paired: bool) -> tuple[Judgement, ...]:
    declared = recipe.convergence
    values_a = measure(recipe, a)
    values_b = measure(recipe, b)
    return tuple(
        judge(
            metric,
            values_a[metric],
            values_b[metric],
            margin,
            alpha=declared.alpha,
            power=declared.power,
            together=2 * len(METRICS),  # own draws and pairs
            paired=paired,
        )
        for metric, margin in margins(recipe, paired=paired).items()
    )


def _train(
    set_ups: SetUps, data: PreparedData, device: str, engine: str, report: Report
) -> dict[Key, Ensemble]:
    """An ensemble for each set-up, trained by one process for each backend."""
    used = {backend for _, backend in set_ups}
    backends = [backend for backend in BACKENDS if backend in used]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        data.save(folder / "data")
        jobs = {backend: list(_jobs(set_ups, backend, folder)) for backend in backends}
        with Team(backends, device, members=True, engine=engine) as team:
            team.train(jobs, report)
        return {key: Ensemble.load(folder / file_of(key)) for key in set_ups}


def _jobs(set_ups: SetUps, backend: str, folder: Path) -> Iterator[Job]:
    for key, (recipe, seeds, own) in set_ups.items():
        if key[1] == backend:
            yield Job(recipe, folder / "data", folder / file_of(key), seeds=seeds, own=own)


def file_of(key: Key) -> str:
    """The file name of an ensemble."""
    return ".".join((*key, "ensemble"))
