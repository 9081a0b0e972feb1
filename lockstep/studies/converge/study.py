"""A study: train many seeds in both frameworks, with their own draws and with shared ones, and
judge.
"""

import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path

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
"""A set-up and the backend that trains it."""
Setups = Mapping[Key, tuple[Recipe, tuple[int, int], bool]]
"""Of each what is trained, the first seed and the last (exclusive), and whether the backend draws
by itself.
"""


@dataclass(frozen=True)
class Study:
    """The ensembles of a study, and its judgements.

    `ensembles` has the keys (set-up, backend). The set-ups are "own", "shared" and "contrast",
    and, in jax, each control with own and with shared draws. `own` and `paired` are judgements of
    jax against torch. `controls` are those of each control against torch, own draws and then
    pairs. `repeats` are those of a framework against itself, with its name.
    """

    recipe: Recipe
    seeds: int
    first_seed: int
    ensembles: dict[Key, Ensemble]
    own: tuple[Judgement, ...]
    paired: tuple[Judgement, ...]
    controls: tuple[tuple[Control, tuple[Judgement, ...]], ...]
    repeats: tuple[tuple[str, tuple[Judgement, ...]], ...]

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
    """The proposal of a pilot: the section to put into the recipe; for each metric the effect of
    each control; and the margins that as many seeds decide with the declared power, with own
    draws and with pairs."""

    recipe: Recipe
    effects: dict[str, dict[str, float]]
    decided: dict[str, tuple[float, float]]


def check_declared(recipe: Recipe) -> None:
    """Raise InputError if a margin or the target is not declared."""
    missing = [
        field.name
        for field in fields(recipe.convergence)
        if not getattr(recipe.convergence, field.name)
    ]
    if missing:
        raise InputError(
            f"convergence.{missing[0]}: not declared; lockstep converge --pilot proposes "
            "it, to be put into the recipe "
            "before the study"
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
    """Train and judge.

    Args:
        recipe: what to train, with the margins and the target that it declares.
        seeds: S, how many of each set-up.
        first_seed: the first of them.
        with_controls: train the controls in jax too.
        repeats: how many studies of a framework against itself, with other seeds each, the first
        half in torch.
        device: "cpu", "gpu" or "auto".
        engine: "auto" for many members at once, "plain" for one after another as people write it.
        report: told of each backend's progress.

    Raises:
        InputError: a margin or target that is not declared; a framework that is not installed.
    """
    check_declared(recipe)
    planted = list(controls(recipe)) if with_controls else []
    data = prepare(recipe)
    contrast = replace(recipe, schedule=contrast_schedule(recipe, data.updates_per_epoch))
    span = (first_seed, first_seed + seeds)
    jobs: dict[Key, tuple[Recipe, tuple[int, int], bool]] = {}
    for backend in BACKENDS:
        jobs["own", backend] = recipe, span, True
        jobs["shared", backend] = recipe, span, False
        jobs["contrast", backend] = contrast, span, True
    for control in planted:
        jobs[control.key, "jax"] = control.recipe, span, True
        jobs[f"{control.key}-shared", "jax"] = control.recipe, span, False
    identical = [BACKENDS[0] if i < (repeats + 1) // 2 else BACKENDS[1] for i in range(repeats)]
    for i, backend in enumerate(identical):
        for half in (0, 1):
            begin = first_seed + seeds * (1 + 2 * i + half)
            jobs[f"repeat-{i}-{half}", backend] = recipe, (begin, begin + seeds), True
    ensembles = _train(jobs, data, device, engine, report)

    def judged(a: Key, b: Key) -> tuple[Judgement, ...]:
        return _judge(recipe, ensembles[a], ensembles[b], paired=a[0] == "shared")

    return Study(
        recipe,
        seeds,
        first_seed,
        {key: found for key, found in ensembles.items() if not key[0].startswith("repeat")},
        own=judged(("own", "torch"), ("own", "jax")),
        paired=judged(("shared", "torch"), ("shared", "jax")),
        controls=tuple(
            (
                control,
                judged(("own", "torch"), (control.key, "jax"))
                + judged(("shared", "torch"), (f"{control.key}-shared", "jax")),
            )
            for control in planted
        ),
        repeats=tuple(
            (backend, judged((f"repeat-{i}-0", backend), (f"repeat-{i}-1", backend)))
            for i, backend in enumerate(identical)
        ),
    )


def pilot(
    recipe: Recipe, seeds: int, *, device: str = "cpu", engine: str = "auto", report: Report
) -> Pilot:
    """Propose margins and a target, from seeds that no study uses, in torch, from shared draws.

    margin = max(half the smallest effect of any control, the smallest margin that as many seeds
    decide with the declared power). Every control is then off by at least twice the margin. Seeds
    decide a margin if samples of their spread and without a difference are called equivalent
    within it, in all metrics together. The spread is that between seeds; for pairs, that of the
    change. The target is half-way from the first epoch's mean held-out loss to the last's: a run
    still falls there, so that a slower one shows.
    """
    data, span = prepare(recipe), (PILOT_SEEDS, PILOT_SEEDS + seeds)
    planted = list(controls(recipe))
    jobs = {("right", "torch"): (recipe, span, False)}
    jobs |= {(control.key, "torch"): (control.recipe, span, False) for control in planted}
    found = _train(jobs, data, device, engine, report)
    mean_E = found["right", "torch"].held_out["loss"].mean(axis=0)
    given = recipe.with_values({"convergence.target": float(f"{(mean_E[0] + mean_E[-1]) / 2:.3g}")})
    right = measure(given, found["right", "torch"])
    changes = {control: measure(given, found[control.key, "torch"]) for control in planted}
    effects, decided = {}, {}
    for metric in METRICS:
        each = {control.text: values[metric] - right[metric] for control, values in changes.items()}
        effects[metric] = {text: float(change_S.mean()) for text, change_S in each.items()}
        least_S = min(each.values(), key=lambda change_S: abs(change_S.mean()))
        decided[metric] = (
            _decided(right[metric].std(ddof=1) * 2**0.5, 2 * (seeds - 1), seeds, recipe),
            _decided(least_S.std(ddof=1), seeds - 1, seeds, recipe),
        )
    chosen = {
        f"convergence.{kind}{metric}_margin": float(
            f"{max(_half_of_least(effects[metric]), decided[metric][i]):.2g}"
        )
        for i, kind in enumerate(("", "paired_"))
        for metric in METRICS
    }
    return Pilot(given.with_values(chosen), effects, decided)


def _half_of_least(effects: Mapping[str, float]) -> float:
    return min(abs(effect) for effect in effects.values()) / 2


def _decided(deviation: float, freedom: int, seeds: int, recipe: Recipe) -> float:
    """The smallest margin within which samples of this deviation, without a difference, are called
    equivalent in all metrics together, with at least the declared power."""
    declared = recipe.convergence
    each = 1 - (1 - declared.power) / len(METRICS)
    t = stats.t.isf(declared.alpha, freedom) + stats.t.ppf((1 + each) / 2, freedom)
    return float(t * deviation / seeds**0.5)


def _judge(recipe: Recipe, a: Ensemble, b: Ensemble, *, paired: bool) -> tuple[Judgement, ...]:
    declared, of_a, of_b = recipe.convergence, measure(recipe, a), measure(recipe, b)
    return tuple(
        judge(
            metric,
            of_a[metric],
            of_b[metric],
            margin,
            alpha=declared.alpha,
            power=declared.power,
            together=2 * len(METRICS),  # own draws and pairs
            paired=paired,
        )
        for metric, margin in margins(recipe, paired=paired).items()
    )


def _train(
    jobs: Setups, data: PreparedData, device: str, engine: str, report: Report
) -> dict[Key, Ensemble]:
    """An ensemble for each set-up, trained by one process for each backend."""
    backends = [backend for backend in BACKENDS if any(key[1] == backend for key in jobs)]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        data.save(folder / "data")
        with Team(backends, device, members=True, engine=engine) as team:
            team.train(
                {backend: list(_jobs(jobs, backend, folder)) for backend in backends}, report
            )
        return {key: Ensemble.load(folder / file_of(key)) for key in jobs}


def _jobs(jobs: Setups, backend: str, folder: Path) -> Iterator[Job]:
    for key, (recipe, seeds, own) in jobs.items():
        if key[1] == backend:
            yield Job(recipe, folder / "data", folder / file_of(key), seeds=seeds, own=own)


def file_of(key: Key) -> str:
    """The file name of an ensemble."""
    return ".".join((*key, "ensemble"))
