"""The story of a run: everything that the terminal and the HTML page show."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from lockstep.backends import BACKENDS
from lockstep.data_prep import PreparedData, Table
from lockstep.diagnose.verdict import Verdict
from lockstep.errors import InputError
from lockstep.numbers import number
from lockstep.recipe import Recipe
from lockstep.records.trace import Trace
from lockstep.report.package_versions import versions
from lockstep.report.run.charts import Chart, build_charts
from lockstep.report.run.epochs import EpochRow, epoch_rows
from lockstep.report.run.pipeline import describe_optimizer, describe_pipeline
from lockstep.report.run.prediction import Prediction, predict_first_held_out
from lockstep.report.run.quiz import Question, build_quiz
from lockstep.report.run.stage import Stage
from lockstep.report.run.targets import Score, final_error, score_of, target_in_short
from lockstep.report.run.warmup_effect import WarmupEffect, first_update, warmup_effect

__all__ = ["Story", "build_story"]


@dataclass(frozen=True)
class Story:
    """Everything that a report of a run shows."""

    title: str
    subtitle: str
    verdict: Verdict
    verdict_sentence: str
    pipeline: tuple[Stage, ...]
    score: Score
    training: tuple[EpochRow, ...]
    final_error: str
    prediction: Prediction
    warmup: WarmupEffect
    quiz: tuple[Question, ...]
    insight: str
    charts: tuple[Chart, ...]
    recipe_hash: str
    data_hash: str
    versions: dict[str, str]


def build_story(
    data: PreparedData,
    raw: Table,
    traces: Mapping[str, Trace],
    contrast: Mapping[str, Trace],
    verdict: Verdict,
) -> Story:
    """Gather everything that a report shows.

    Args:
        data: what was trained on.
        raw: the rows before split and scaling.
        traces: the traces "torch", "jax" and "oracle" of the recipe.
        contrast: the same three without warmup, or with one where the recipe has none.
        verdict: the verdict on the traces.

    Raises:
        InputError: a trace of torch or jax is missing.
    """
    for backend in BACKENDS:
        if backend not in traces or backend not in contrast:
            raise InputError(f"report: needs a trace of {backend}, with and without warmup")
    recipe = traces["torch"].recipe
    with_warmup, without = (traces, contrast) if recipe.warmup else (contrast, traces)
    return Story(
        title="One recipe, two frameworks",
        subtitle=_subtitle(recipe, data),
        verdict=verdict,
        verdict_sentence=verdict.sentence,
        pipeline=describe_pipeline(data, raw, traces, contrast),
        score=score_of(recipe.loss),
        training=epoch_rows(recipe, traces),
        final_error=final_error(data, traces),
        prediction=predict_first_held_out(recipe, data, traces),
        warmup=warmup_effect(recipe, with_warmup, without),
        quiz=build_quiz(recipe, traces, with_warmup, without),
        insight=_insight(traces, with_warmup, without, verdict),
        charts=build_charts(traces, with_warmup, without),
        recipe_hash=str(traces["torch"].header["recipe_hash"]),
        data_hash=str(traces["torch"].header["data_hash"]),
        versions=versions(traces),
    )


def _subtitle(recipe: Recipe, data: PreparedData) -> str:
    rows, features = data.train_x_ND.shape
    return (
        f"{rows} rows, {features} features, {target_in_short(data)}; {describe_optimizer(recipe)}; "
        f"{recipe.training.epochs} epochs in {recipe.training.precision}"
    )


def _insight(
    traces: Mapping[str, Trace],
    with_warmup: Mapping[str, Trace],
    without: Mapping[str, Trace],
    verdict: Verdict,
) -> str:
    agreement = _agreement(traces["torch"].header["updates"], verdict)
    warm = with_warmup["torch"]
    cold = without["torch"]
    if np.array_equal(warm.series("lr"), cold.series("lr")):
        return f"This warmup leaves every learning rate as it is. {agreement}."
    first = first_update(float(warm.series("update_norm")[0]), float(cold.series("update_norm")[0]))
    ends = f"{_end(warm)} with warmup and {_end(cold)} without"
    return f"{first} The run ended at a held-out loss of {ends}. {agreement}."


def _agreement(updates: int, verdict: Verdict) -> str:
    """How far apart the parameters of the two frameworks are."""
    apart = verdict.max_difference.get("parameters", math.nan)
    if math.isnan(apart):
        return (
            "The parameters of the two frameworks cannot be compared in full, as some are not a "
            "number"
        )
    if apart == 0:
        return (
            f"Over {updates} updates every recorded parameter is the same, bit for bit, in both "
            "frameworks"
        )
    return (
        f"After {updates} updates no parameter of the two frameworks is further apart than "
        f"{number(apart, 2)}"
    )


def _end(trace: Trace) -> str:
    """The last held-out loss, and the score in brackets."""
    score = score_of(trace.recipe.loss)
    loss = float(trace.metric("held_out_loss")[-1])
    text = score.text(float(trace.metric(f"held_out_{score.key}")[-1]))
    return f"{number(loss)} ({text})"
