"""Gathers once, from traces and data, everything that the terminal and the HTML page show."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import Any

import numpy as np

from lockstep.data_prep import PreparedData, Table, initial_statistics
from lockstep.diagnose.verdict import Check, Verdict
from lockstep.errors import InputError
from lockstep.numbers import difference, name, number, ratio, several
from lockstep.recipe import Recipe
from lockstep.records.trace import Trace, metric_names
from lockstep.report.run.charts import Chart, build_charts
from lockstep.report.run.quiz import Question, build_quiz
from lockstep.report.run.summary import versions
from lockstep.report.run.targets import (
    LISTED,
    Score,
    describe_loss,
    describe_targets,
    final_error,
    first_target,
    predict,
    predicted_sentence,
    score_of,
    target_before_and_after,
    target_in_short,
)
from lockstep.schedules.formulas import learning_rates

__all__ = [
    "Check",
    "EffectRow",
    "EpochRow",
    "Fact",
    "LayerRow",
    "Prediction",
    "Stage",
    "Story",
    "Verdict",
    "WarmupEffect",
    "build_story",
    "select_rows",
]

ACTIVATIONS = {
    "relu": "ReLU",
    "leaky_relu": "LeakyReLU(0.01)",
    "tanh": "Tanh",
    "sigmoid": "Sigmoid",
    "silu": "SiLU",
    "gelu": "GELU",
    "gelu_tanh": "GELU(tanh)",
    "elu": "ELU",
    "softplus": "Softplus",
    "mish": "Mish",
}
DRAWN = {
    "torch": "uniformly within 1/sqrt(inputs)",
    "flax": "from a normal distribution of variance 1/inputs, cut off at 2 deviations",
    "xavier_uniform": "uniformly within sqrt(6/(inputs + outputs))",
    "xavier_normal": "from a normal distribution of variance 2/(inputs + outputs)",
    "kaiming_uniform": "uniformly within sqrt(6/inputs)",
    "kaiming_normal": "from a normal distribution of variance 2/inputs",
    "orthogonal": "uniformly from the orthogonal matrices",
    "zeros": "all 0",
}


NOTED = 12
"""Lines on how a table was read that a report shows."""


@dataclass(frozen=True)
class Fact:
    """One line of a stage."""

    label: str
    value: str


@dataclass(frozen=True)
class Stage:
    """One stage of the pipeline."""

    name: str
    what: str
    facts: tuple[Fact, ...]


@dataclass(frozen=True)
class EpochRow:
    """One epoch; each metric is a pair (torch, jax). `lr` is that of the epoch's last update, a score the accuracy or
    R^2."""

    epoch: int
    lr: float
    train_loss: tuple[float, float]
    train_score: tuple[float, float]
    held_out_loss: tuple[float, float]
    held_out_score: tuple[float, float]
    difference: float
    observation: str


@dataclass(frozen=True)
class LayerRow:
    """What one layer gave for the sample."""

    layer: str
    torch: tuple[float, ...]
    jax: tuple[float, ...]
    difference: float


@dataclass(frozen=True)
class Prediction:
    """One held-out sample through the trained model: each layer, what it means in both, and the truth."""

    layers: tuple[LayerRow, ...]
    predicted: str
    true: str


@dataclass(frozen=True)
class EffectRow:
    """One number with and without warmup; each a pair (torch, jax)."""

    what: str
    with_warmup: tuple[float, float]
    without: tuple[float, float]


@dataclass(frozen=True)
class WarmupEffect:
    """Warmup against none: which run is the contrast, the numbers, and what they say."""

    note: str
    rows: tuple[EffectRow, ...]
    sentence: str


@dataclass(frozen=True)
class Story:
    """Everything that is shown."""

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
    """Gather everything that is shown.

    Args:
        data: what was trained on.
        raw: the rows before split and scaling.
        traces: "torch", "jax" and "oracle" of the recipe.
        contrast: the same three without warmup, or with one where the recipe has none.
        verdict: what the comparison came to.
    """
    for backend in ("torch", "jax"):
        if backend not in traces or backend not in contrast:
            raise InputError(f"report: needs a trace of {backend}, with and without warmup")
    recipe = traces["torch"].recipe
    with_warmup, without = (traces, contrast) if recipe.warmup else (contrast, traces)
    effect = _warmup_effect(recipe, with_warmup, without)
    return Story(
        title="One recipe, two frameworks",
        subtitle=_subtitle(recipe, data),
        verdict=verdict,
        verdict_sentence=verdict.sentence,
        pipeline=(
            _data_loading(data, raw),
            _preprocessing(data, raw),
            _initialisation(recipe, traces),
            _schedule(recipe, traces, contrast),
            _training(recipe, data, traces),
        ),
        score=score_of(recipe.loss),
        training=_epoch_rows(recipe, traces),
        final_error=final_error(data, traces),
        prediction=_prediction(recipe, data, traces),
        warmup=effect,
        quiz=build_quiz(recipe, traces, with_warmup, without),
        insight=_insight(traces, with_warmup, without, verdict),
        charts=build_charts(traces, with_warmup, without),
        recipe_hash=str(traces["torch"].header["recipe_hash"]),
        data_hash=str(traces["torch"].header["data_hash"]),
        versions=versions(traces),
    )


def select_rows(rows: Sequence[EpochRow], limit: int) -> list[EpochRow]:
    """At most `limit` epochs: the first and last, those where something happens, and some evenly between."""
    if len(rows) <= limit:
        return list(rows)
    kept = {0, 1, 2, len(rows) - 2, len(rows) - 1}
    turns = [i for i in range(1, len(rows)) if rows[i].observation != rows[i - 1].observation]
    kept |= set(turns[: limit // 3])
    spread = np.linspace(0, len(rows) - 1, max(limit - len(kept), 2), dtype=int)
    kept |= {int(i) for i in spread}
    return [rows[i] for i in sorted(kept)[:limit]]


def _pair(traces: Mapping[str, Trace], metric: str, epoch: int) -> tuple[float, float]:
    return float(traces["torch"].metric(metric)[epoch]), float(traces["jax"].metric(metric)[epoch])


def _subtitle(recipe: Recipe, data: PreparedData) -> str:
    rows, features = data.train_x_ND.shape
    return (
        f"{rows} rows, {features} features, {target_in_short(data)}; {_optimizer(recipe)}; "
        f"{recipe.training.epochs} epochs in {recipe.training.precision}"
    )


def _cells(columns: Sequence[str], values: Any, limit: int = 4) -> str:
    texts = [name(value, 24) if isinstance(value, str) else number(value) for value in values[:limit]]
    shown = [f"{name(column, 24)} = {text}" for column, text in zip(columns, texts)]
    return ", ".join(shown + ["..."] * (len(columns) > limit))


def _data_loading(data: PreparedData, raw: Table) -> Stage:
    rows, features = data.train_x_ND.shape
    facts = (
        Fact("to train on", f"{rows} rows x {features} features"),
        Fact("held out in addition", f"{len(data.held_out_y_N)} rows"),
        *(Fact(*described) for described in describe_targets(data)),
        Fact("first row", _cells(raw.columns, raw.row(0))),
        Fact(*first_target(raw)),
    )
    return Stage("Data loading", "The rows are read and split once; both frameworks are fed the same bits.", facts)


def _preprocessing(data: PreparedData, raw: Table) -> Stage:
    x_ND = np.asarray(data.train_x_ND, dtype=np.float64)
    std_D = x_ND.std(axis=0)
    facts = [
        *(Fact(name(label), name(value, 240)) for label, value in data.notes[:NOTED]),
        Fact("shape in, out", f"{(len(x_ND), len(raw.columns))} -> {x_ND.shape}"),
        Fact("before", _cells(raw.columns, raw.row(data.first_row))),
        Fact("after", _cells(data.columns, x_ND[0])),
        Fact("mean achieved", f"at most {number(np.abs(x_ND.mean(axis=0)).max(), 2)} away from 0 in any column"),
        Fact("deviation achieved", f"{number(std_D.min(), 6)} to {number(std_D.max(), 6)}"),
        *(Fact(*described) for described in target_before_and_after(data)),
    ]
    facts += [Fact("warning", name(warning, 120)) for warning in data.warnings[:3]]
    if len(data.warnings) > 3:
        facts.append(Fact("warnings", f"{len(data.warnings) - 3} more of this kind"))
    brought = "Each column is" if data.classes else "The target and each column are"
    what = f"{brought} brought to mean 0 and variance 1 with the training rows' mean and deviation."
    return Stage("Preprocessing", what, tuple(facts))


def _initialisation(recipe: Recipe, traces: Mapping[str, Trace]) -> Stage:
    torch, jax = traces["torch"].parameters(0), traces["jax"].parameters(0)
    statistics = initial_statistics(recipe.model).keys()
    kernels = sum(key.startswith("linear") and key.endswith(".weight") for key in torch)
    weights = [f"linear{i}.weight" for i in range(1, kernels + 1)]
    between = [ACTIVATIONS[recipe.model.activation]]
    if recipe.model.norm != "none":
        between.insert(0, {"layer": "LayerNorm", "batch": "BatchNorm"}[recipe.model.norm])
    if recipe.model.dropout:
        between.append(f"Dropout({recipe.model.dropout:g})")
    layers, counts = [], []
    for i, key in enumerate(weights, start=1):
        inputs, outputs = torch[key].shape
        layers.append(f"Linear({inputs}\u2192{outputs})")
        plus, size = (f" + {outputs}", (inputs + 1) * outputs) if recipe.model.bias else ("", inputs * outputs)
        counts.append(f"linear{i} {inputs} x {outputs}{plus} = {size}")
        if f"norm{i}.weight" in torch:
            counts.append(f"norm{i} 2 x {outputs} = {2 * outputs}")
    chain = [part for layer in layers for part in (layer, *between)][: -len(between)]
    total = sum(array.size for key, array in torch.items() if key not in statistics)
    same = all(np.array_equal(torch[key], jax[key], equal_nan=True) for key in torch)
    first = weights[0]
    facts = (
        Fact("layers", ", ".join(_cut(chain, 2 * LISTED))),
        Fact("parameters by layer", "; ".join(_cut(counts, LISTED))),
        Fact("parameters in all", str(total)),
        Fact(f"{first}[0]", several(torch[first][0])),
        Fact("same bits in both", "yes" if same else "no"),
    )
    drawn, biases = DRAWN[recipe.model.init], " and biases" if recipe.model.bias else ""
    if recipe.model.init != "torch" and recipe.model.bias:
        drawn, biases = f"{drawn}, biases are 0", ""
    what = f"Weights{biases} are drawn once, {drawn}, and handed to both frameworks."
    if recipe.model.init == "zeros":
        what = f"Weights{' and biases' if recipe.model.bias else ''} are 0 in both frameworks."
    return Stage("Model initialisation", what, facts)


def _cut(items: list[str], limit: int) -> list[str]:
    return items if len(items) <= limit else [*items[: limit - 1], f"... {len(items) - limit} more ...", items[-1]]


def _schedule(recipe: Recipe, traces: Mapping[str, Trace], contrast: Mapping[str, Trace]) -> Stage:
    schedule = recipe.schedule
    peak, rates = number(schedule.peak), _epoch_rates(traces["torch"])
    facts = []
    if recipe.warmup:
        shape = RISES[schedule.warmup_form]
        to = "towards" if "exponential" in schedule.warmup_shape else "to"
        what = f"The learning rate rises {shape} {to} {peak} and then {FOLLOWS[schedule.name]}."
        facts.append(Fact("formula", _formula(recipe)))
        facts.append(Fact("before training", "learning rate 0: nothing has been updated"))
    else:
        what = f"This recipe has no warmup; its learning rate is {peak} from the first update"
        what += "." if schedule.name == "constant" else f", then {FOLLOWS[schedule.name]}."
        if schedule.name == "one_cycle":
            what = f"The learning rate rises to {peak} and falls again, in one cycle."
    varies = bool((np.ptp(_by_epoch(traces["torch"]), axis=1) > 0).any())
    facts.append(Fact("at each epoch's end" if varies else "in each epoch", _runs(rates, "epoch", 1)))
    facts.append(Fact("recorded by both", "the same values" if _same_rates(traces) else "the values differ"))
    facts += _other_unit(recipe, traces["torch"])
    if not recipe.warmup:
        other = contrast["torch"]
        facts.append(Fact("the contrast has", _formula(other.recipe)))
        facts.append(Fact("its learning rate", _runs(_epoch_rates(other), "epoch", 1)))
    return Stage("Warmup schedule", what, tuple(facts))


def _formula(recipe: Recipe) -> str:
    schedule = recipe.schedule
    ramp = schedule.ramp if schedule.warmup_top is None else "t/(W-1)"
    done, _, length = ramp.rpartition("/")
    shapes = {
        "linear": ramp,
        "cosine": f"(1 - cos(pi {ramp})) / 2",
        "exponential": "(1 - exp(-(t+1)/W))",
        "1-sqrt": f"(1 - sqrt(1 - {ramp}))",
        "log": f"log({done.strip('()')}) / log({length.strip('()')})",
        "constant": "0",
    }
    ramp = shapes[schedule.warmup_form]
    if schedule.warmup_start:
        ramp = f"({schedule.warmup_start:g} + {1 - schedule.warmup_start:g} {ramp})"
    top = schedule.peak * (schedule.first if schedule.name == "one_cycle" else 1)
    if schedule.warmup_curve == "constant":
        return f"{number(top * schedule.warmup_start)} until t = W = {_span(recipe)}, counted from 0"
    return f"{number(top)} x {ramp} with W = {_span(recipe)} and t = the {schedule.unit}, counted from 0"


def _span(recipe: Recipe) -> str:
    return f"{recipe.warmup} {recipe.schedule.unit}{'' if recipe.warmup == 1 else 's'}"


RISES = {
    "linear": "in a straight line",
    "cosine": "along half a cosine",
    "exponential": "as 1 - exp(-(t+1)/W)",
    "1-sqrt": "ever faster, as 1 - sqrt(1 - r),",
    "log": "ever slower, with the logarithm of the time,",
    "constant": "in one step",
}
FOLLOWS = {
    "constant": "stays there",
    "linear": "falls in a straight line",
    "polynomial": "falls as a power of what is left",
    "cosine": "falls along a cosine",
    "inverse_sqrt": "falls with the inverse square root of the time",
    "exponential": "falls exponentially",
    "step": "falls in equal steps",
    "multistep": "falls at its milestones",
    "wsd": "stays there until it decays at the end",
    "one_cycle": "goes through one cycle, up and down again",
    "cosine_restarts": "falls along cosines, each from the top again",
}


def _other_unit(recipe: Recipe, trace: Trace) -> Iterator[Fact]:
    """What the same warmup gives when it counts updates in place of epochs, or the reverse."""
    schedule = recipe.schedule
    lengths = schedule.length or schedule.name not in ("constant", "linear", "polynomial", "cosine")
    if not recipe.warmup or lengths or schedule.warmup_shape.startswith("untuned"):
        return
    length = int(trace.header["updates_per_epoch"])
    unit, span = "update", recipe.warmup * length
    if recipe.schedule.unit == "update":
        unit, span = "epoch", min(max(1, round(recipe.warmup / length)), recipe.training.epochs)
    other = recipe.with_values({"schedule.unit": unit, "schedule.warmup": span})
    rates = learning_rates(other, length)
    label = f"counted in {unit}s"
    if unit == "epoch":
        yield Fact(label, f"W = {span}: {_runs(rates[length - 1 :: length], 'epoch', 1)}")
        return
    shown = sorted({0, 1, span // 4, span // 2, span - 1, span, len(rates) - 1} & set(range(len(rates))))
    yield Fact(label, f"W = {span}: " + ", ".join(f"{number(rates[i])} (update {i})" for i in shown))


def _by_epoch(trace: Trace) -> Any:
    rates = np.asarray(trace.series("lr"))
    return rates.reshape(-1, int(trace.header["updates_per_epoch"]))


def _epoch_rates(trace: Trace) -> Any:
    return _by_epoch(trace)[:, -1]


def _same_rates(traces: Mapping[str, Trace]) -> bool:
    return bool(np.array_equal(traces["torch"].series("lr"), traces["jax"].series("lr")))


def _runs(rates: Any, unit: str, first: int) -> str:
    """0.002 (epoch 1), 0.004 (2), ..., 0.01 (5 to 10)."""
    runs, at = [], first
    for value, group in groupby(number(rate) for rate in rates):
        end = at + len(list(group)) - 1
        runs.append((value, f"{at}" if end == at else f"{at} to {end}"))
        at = end + 1
    texts = [f"{value} ({unit + ' ' if i == 0 else ''}{where})" for i, (value, where) in enumerate(runs)]
    return ", ".join(_cut(texts, LISTED + 2))


def _optimizer(recipe: Recipe) -> str:
    """sgd (momentum 0.9, weight decay 0): what is not off, and always momentum and weight decay."""
    knobs = asdict(recipe.optimizer)
    kind = knobs.pop("name")
    shown = []
    for key, value in knobs.items():
        if isinstance(value, bool) or value is None:
            shown += [key] if value else []
        elif isinstance(value, tuple):
            shown += [f"{key} {', '.join(f'{factor:g}' for factor in value)}"] if value else []
        elif isinstance(value, str):
            shown += [f"{key} {value}"] if value not in ("off", "none", "all") else []
        elif value or key in ("momentum", "weight_decay"):
            shown.append(f"{key} {value:g}")
    return f"{kind} ({', '.join(shown).replace('_', ' ')})"


def _accumulation(recipe: Recipe, data: PreparedData) -> tuple[Fact, ...]:
    if data.accumulate == 1:
        return ()
    weighed = "by their rows" if recipe.gradient.accumulate_mean == "rows" else "alike"
    return (Fact("batches in an update", f"{data.accumulate}, weighed {weighed}"),)


def _clipping(recipe: Recipe) -> tuple[Fact, ...]:
    gradient = recipe.gradient
    if gradient.clip == "none":
        return ()
    how = {"norm": f"all together, to a norm of {gradient.clip_at:g}", "value": f"each to +-{gradient.clip_at:g}"}
    eps = f", eps {gradient.clip_eps:g}" if gradient.clip == "norm" else ""
    return (Fact("gradients clipped", how[gradient.clip] + eps),)


def _average(recipe: Recipe) -> tuple[Fact, ...]:
    average = recipe.average
    if average.decay == 0:
        return ()
    start = "a copy of the initial parameters" if average.start == "copy" else "0"
    return (Fact("average kept", f"decay {average.decay:g}, from {start}" + ", debiased" * average.debias),)


def _engines(traces: Mapping[str, Trace]) -> tuple[Fact, ...]:
    used = {name: traces[backend].engine for backend, name in (("torch", "PyTorch"), ("jax", "JAX"))}
    said = [f"{name} {engine}" for name, engine in used.items() if engine]
    return (Fact("engine", ", ".join(said)),) if said else ()


def _training(recipe: Recipe, data: PreparedData, traces: Mapping[str, Trace]) -> Stage:
    last = int(data.batches(0).count_T[-1])
    rows, length = len(data.train_y_N), data.updates_per_epoch
    note = f"{last} rows" if last != data.batch else f"{last} rows, as the others"
    if data.drop_last and rows % data.batch:
        note += f"; {rows % data.batch} rows are left out of each epoch"
    facts = (
        Fact("epochs", str(data.epochs)),
        Fact("rows in a batch", str(data.batch)),
        Fact("last batch of an epoch", note),
        *_accumulation(recipe, data),
        Fact("updates in an epoch", str(length)),
        Fact("updates in all", f"{data.epochs} x {length} = {data.updates}"),
        Fact("loss", describe_loss(recipe.loss)),
        *_clipping(recipe),
        Fact("optimizer", _optimizer(recipe)),
        *_average(recipe),
        Fact("precision", recipe.training.precision),
        *_engines(traces),
    )
    return Stage("Training", "Both frameworks see the same batches in the same order.", facts)


def _epoch_rows(recipe: Recipe, traces: Mapping[str, Trace]) -> tuple[EpochRow, ...]:
    rates = _epoch_rates(traces["torch"])
    observations, score = _observations(recipe, traces), score_of(recipe.loss).key
    rows = []
    for epoch, (rate, observation) in enumerate(zip(rates, observations)):
        pairs = {metric: _pair(traces, metric, epoch) for metric in metric_names(recipe.loss)}
        apart = difference([pair[0] for pair in pairs.values()], [pair[1] for pair in pairs.values()])
        train, held_out = ((pairs[f"{part}_loss"], pairs[f"{part}_{score}"]) for part in ("train", "held_out"))
        rows.append(EpochRow(epoch + 1, float(rate), *train, *held_out, difference=apart, observation=observation))
    return tuple(rows)


def _observations(recipe: Recipe, traces: Mapping[str, Trace]) -> list[str]:
    """A few words an epoch (at most 12 characters), from the numbers alone."""
    rates_ET = _by_epoch(traces["torch"])
    at_peak = np.flatnonzero(rates_ET.ravel() >= recipe.schedule.peak * (1 - 1e-6))
    peak = int(at_peak[0]) if len(at_peak) else int(rates_ET.argmax())
    if not len(at_peak) and peak >= rates_ET.size - rates_ET.shape[1]:
        peak = rates_ET.size  # still rising at the end
    start, stop = np.arange(len(rates_ET)) * rates_ET.shape[1], (np.arange(len(rates_ET)) + 1) * rates_ET.shape[1]
    losses = np.array(
        [[*_pair(traces, "train_loss", e), *_pair(traces, "held_out_loss", e)] for e in range(len(start))]
    )
    before, best = float(traces["torch"].series("loss")[0]), math.inf
    observations = []
    for epoch, row in enumerate(losses):
        train, held_out = float(row[0]), float(row[2])
        if np.isnan(row).any():
            found = "not a number"
        elif np.isinf(row).any():
            found = "infinite"
        elif peak >= stop[epoch]:
            found = "warming up"
        elif peak >= start[epoch] and peak > 0:
            found = "peak reached"
        elif train > 1.01 * before:
            found = "loss rises"
        elif held_out > 1.01 * best and train < before:
            found = "overfitting"
        else:
            found = "converging" if train < 0.99 * before else "steady"
        observations.append(found)
        before, best = train, min(best, held_out)
    return observations


def _prediction(recipe: Recipe, data: PreparedData, traces: Mapping[str, Trace]) -> Prediction:
    torch, jax = traces["torch"].prediction, traces["jax"].prediction
    layers = [
        LayerRow(
            layer,
            tuple(float(value) for value in np.ravel(torch[layer])),
            tuple(float(value) for value in np.ravel(jax[layer])),
            difference(torch[layer], jax[layer]),
        )
        for layer in torch
    ]
    found = [predict(recipe, data, layers[-1].torch), predict(recipe, data, layers[-1].jax)]
    return Prediction(tuple(layers), *predicted_sentence(recipe, data, *zip(*found)))


def _warmup_effect(recipe: Recipe, with_warmup: Mapping[str, Trace], without: Mapping[str, Trace]) -> WarmupEffect:
    warm = with_warmup["torch"].recipe
    span = _span(warm)
    if recipe.warmup:
        note = f"The recipe has a warmup of {span}; the contrast is the same recipe without it."
    else:
        note = f"The recipe has no warmup; the contrast is the same recipe with one of {span}."
    length = int(with_warmup["torch"].header["updates_per_epoch"])

    def updates(what: str, reduce: Any) -> EffectRow:
        found = []
        for side in (with_warmup, without):
            norms = [np.asarray(side[key].series("update_norm")[:length], dtype=np.float64) for key in ("torch", "jax")]
            found.append((float(reduce(norms[0])), float(reduce(norms[1]))))
        return EffectRow(what, *found)

    def metric(what: str, key: str, epoch: int) -> EffectRow:
        return EffectRow(what, _pair(with_warmup, key, epoch), _pair(without, key, epoch))

    rows = (
        updates("size of the first update", lambda norms: norms[0]),
        updates("mean size, first epoch", np.mean),
        updates("largest, first epoch", np.max),
        metric("train loss, epoch 1", "train_loss", 0),
        metric("train loss, end", "train_loss", -1),
        metric("held-out loss, epoch 1", "held_out_loss", 0),
        metric("held-out loss, end", "held_out_loss", -1),
    )
    return WarmupEffect(note, rows, _effect_sentence(rows, with_warmup, without))


def _effect_sentence(rows: Sequence[EffectRow], with_warmup: Mapping[str, Trace], without: Mapping[str, Trace]) -> str:
    if np.array_equal(with_warmup["torch"].series("lr"), without["torch"].series("lr")):
        return "Both runs have the same learning rate at every update, so this warmup changes nothing."
    first, early, late = rows[0], rows[5], rows[6]
    return (
        f"{_first_update(first.with_warmup[0], first.without[0])} "
        f"After epoch 1 the held-out loss {_compared(early)}; at the end it {_compared(late)}."
    )


def _first_update(warm: float, cold: float) -> str:
    if not math.isfinite(warm) or not math.isfinite(cold):
        return f"The first update had size {number(warm)} with warmup and {number(cold)} without."
    if warm == 0:
        return f"With warmup the first update left the parameters as they were; without, it had size {number(cold)}."
    if abs(cold - warm) <= 0.01 * warm:
        return f"The first update had the same size with warmup as without ({number(warm)})."
    factor = ratio(cold, warm) + " as large" if cold > warm else ratio(warm, cold) + " smaller"
    return f"Without warmup the first update was {factor} ({number(cold)} against {number(warm)})."


def _compared(row: EffectRow) -> str:
    """The with side of a row against the other, in words, each printed as far as it is told apart."""
    warm, cold = row.with_warmup[0], row.without[0]
    numbers = f"({number(warm)} with, {number(cold)} without)"
    if not math.isfinite(warm) or not math.isfinite(cold):
        which = "neither" if not math.isfinite(warm) and not math.isfinite(cold) else "only one"
        return f"was a finite number in {which} of the two {numbers}"
    if warm == cold:
        return f"was the same {numbers}"
    word = "lower" if warm < cold else "higher"
    share = abs(warm - cold) / abs(cold) if cold else math.inf
    size = f"{100 * share:.2g} % " if 0 < share < 1 else ""
    return f"was {size}{word} with warmup {numbers}"


def _insight(
    traces: Mapping[str, Trace], with_warmup: Mapping[str, Trace], without: Mapping[str, Trace], verdict: Verdict
) -> str:
    updates = traces["torch"].header["updates"]
    apart = verdict.max_difference.get("parameters", math.nan)
    agreement = f"After {updates} updates no parameter of the two frameworks is further apart than {number(apart, 2)}"
    if math.isnan(apart):
        agreement = "The parameters of the two frameworks cannot be compared in full, as some are not a number"
    elif apart == 0:
        agreement = f"Over {updates} updates every recorded parameter is the same, bit for bit, in both frameworks"
    if np.array_equal(with_warmup["torch"].series("lr"), without["torch"].series("lr")):
        return f"This warmup leaves every learning rate as it is. {agreement}."
    warm, cold = (float(side["torch"].series("update_norm")[0]) for side in (with_warmup, without))
    ends = [float(side["torch"].metric("held_out_loss")[-1]) for side in (with_warmup, without)]
    score = score_of(traces["torch"].recipe.loss)
    scored = [score.text(float(side["torch"].metric(f"held_out_{score.key}")[-1])) for side in (with_warmup, without)]
    ended = (
        f"The run ended at a held-out loss of {number(ends[0])} ({scored[0]}) with warmup "
        f"and {number(ends[1])} ({scored[1]}) without."
    )
    return f"{_first_update(warm, cold)} {ended} {agreement}."
