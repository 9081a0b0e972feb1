"""The five stages from rows to updates, each with what it did to this run's numbers."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lockstep.data_prep import PreparedData, Table, initial_statistics
from lockstep.numbers import name, number, several
from lockstep.recipe import Recipe
from lockstep.recipe.activations import ACTIVATIONS
from lockstep.records.trace import Trace
from lockstep.report.run.schedule_stage import describe_schedule
from lockstep.report.run.stage import Fact, Stage, cut
from lockstep.report.run.targets import (
    LISTED,
    describe_loss,
    describe_targets,
    first_target,
    target_before_and_after,
)

__all__ = ["describe_optimizer", "describe_pipeline"]


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


def describe_pipeline(
    data: PreparedData, raw: Table, traces: Mapping[str, Trace], contrast: Mapping[str, Trace]
) -> tuple[Stage, ...]:
    """Every stage, in the order in which the data passes them.

    Args:
        data: what was trained on.
        raw: the rows before split and scaling.
        traces: "torch", "jax" and "oracle" of the recipe.
        contrast: the same three without warmup, or with one where the recipe has none.
    """
    recipe = traces["torch"].recipe
    return (
        _data_loading(data, raw),
        _preprocessing(data, raw),
        _initialisation(recipe, traces),
        describe_schedule(recipe, traces, contrast),
        _training(recipe, data, traces),
    )


def describe_optimizer(recipe: Recipe) -> str:
    """sgd (momentum 0.9, weight decay 0): what is not off, and always momentum and weight decay."""
    optimizer, shown = recipe.optimizer, []
    for key in optimizer.field_names():
        value = getattr(optimizer, key)
        if key == "name":
            continue
        if isinstance(value, bool) or value is None:
            shown += [key] if value else []
        elif isinstance(value, tuple):
            shown += [f"{key} {', '.join(f'{factor:g}' for factor in value)}"] if value else []
        elif isinstance(value, str):
            shown += [f"{key} {value}"] if value not in ("off", "none", "all") else []
        elif value or key in ("momentum", "weight_decay"):
            shown.append(f"{key} {value:g}")
    return f"{optimizer.name} ({', '.join(shown).replace('_', ' ')})"


def _cells(columns: Sequence[str], values: Any, limit: int = 4) -> str:
    texts = [
        name(value, 24) if isinstance(value, str) else number(value) for value in values[:limit]
    ]
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
    return Stage(
        "Data loading",
        "The rows are read and split once; both frameworks are fed the same bits.",
        facts,
    )


def _preprocessing(data: PreparedData, raw: Table) -> Stage:
    x_ND = np.asarray(data.train_x_ND, dtype=np.float64)
    std_D = x_ND.std(axis=0)
    facts = [
        *(Fact(name(label), name(value, 240)) for label, value in data.notes[:NOTED]),
        Fact("shape in, out", f"{(len(x_ND), len(raw.columns))} -> {x_ND.shape}"),
        Fact("before", _cells(raw.columns, raw.row(data.first_row))),
        Fact("after", _cells(data.columns, x_ND[0])),
        Fact(
            "mean achieved",
            f"at most {number(np.abs(x_ND.mean(axis=0)).max(), 2)} away from 0 in any column",
        ),
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
    between = [ACTIVATIONS[recipe.model.activation].title]
    if recipe.model.norm != "none":
        between.insert(0, {"layer": "LayerNorm", "batch": "BatchNorm"}[recipe.model.norm])
    if recipe.model.dropout:
        between.append(f"Dropout({recipe.model.dropout:g})")
    layers, counts = [], []
    for i, key in enumerate(weights, start=1):
        inputs, outputs = torch[key].shape
        layers.append(f"Linear({inputs}\u2192{outputs})")
        plus, size = (
            (f" + {outputs}", (inputs + 1) * outputs)
            if recipe.model.bias
            else ("", inputs * outputs)
        )
        counts.append(f"linear{i} {inputs} x {outputs}{plus} = {size}")
        if f"norm{i}.weight" in torch:
            counts.append(f"norm{i} 2 x {outputs} = {2 * outputs}")
    chain = [part for layer in layers for part in (layer, *between)][: -len(between)]
    total = sum(array.size for key, array in torch.items() if key not in statistics)
    same = all(np.array_equal(torch[key], jax[key], equal_nan=True) for key in torch)
    first = weights[0]
    facts = (
        Fact("layers", ", ".join(cut(chain, 2 * LISTED))),
        Fact("parameters by layer", "; ".join(cut(counts, LISTED))),
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


def _accumulation(recipe: Recipe, data: PreparedData) -> tuple[Fact, ...]:
    if data.accumulate == 1:
        return ()
    weighed = "by their rows" if recipe.gradient.accumulate_mean == "rows" else "alike"
    return (Fact("batches in an update", f"{data.accumulate}, weighed {weighed}"),)


def _clipping(recipe: Recipe) -> tuple[Fact, ...]:
    gradient = recipe.gradient
    if gradient.clip == "none":
        return ()
    how = {
        "norm": f"all together, to a norm of {gradient.clip_at:g}",
        "value": f"each to +-{gradient.clip_at:g}",
    }
    eps = f", eps {gradient.clip_eps:g}" if gradient.clip == "norm" else ""
    return (Fact("gradients clipped", how[gradient.clip] + eps),)


def _average(recipe: Recipe) -> tuple[Fact, ...]:
    average = recipe.average
    if average.decay == 0:
        return ()
    start = "a copy of the initial parameters" if average.start == "copy" else "0"
    return (
        Fact(
            "average kept", f"decay {average.decay:g}, from {start}" + ", debiased" * average.debias
        ),
    )


def _engines(traces: Mapping[str, Trace]) -> tuple[Fact, ...]:
    used = {
        name: traces[backend].engine for backend, name in (("torch", "PyTorch"), ("jax", "JAX"))
    }
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
        Fact("optimizer", describe_optimizer(recipe)),
        *_average(recipe),
        Fact("precision", recipe.training.precision),
        *_engines(traces),
    )
    return Stage("Training", "Both frameworks see the same batches in the same order.", facts)
