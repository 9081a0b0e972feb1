"""The five stages from rows to updates, and what each did to this run's numbers."""

from collections.abc import Mapping, Sequence
from itertools import starmap
from typing import Any

import numpy as np

from lockstep.data_prep import Parameters, PreparedData, Table, initial_statistics
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
"""Scheme of initialisation -> how the weights are drawn."""
NOTED = 12
"""The most lines on how a table was read that a report shows."""


def describe_pipeline(
    data: PreparedData, raw: Table, traces: Mapping[str, Trace], contrast: Mapping[str, Trace]
) -> tuple[Stage, ...]:
    """Every stage, in the order in which the data pass them.

    Args:
        data: what was trained on.
        raw: the rows before split and scaling.
        traces: the traces "torch", "jax" and "oracle" of the recipe.
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
    """The optimizer as "sgd (momentum 0.9, weight decay 0)".

    Knobs that are off are left out, but momentum and weight decay always stand.
    """
    optimizer = recipe.optimizer
    keys = [key for key in optimizer.field_names() if key != "name"]
    knobs = [_knob(key, getattr(optimizer, key)) for key in keys]
    listed = ", ".join(knob for knob in knobs if knob)
    return f"{optimizer.name} ({listed.replace('_', ' ')})"


def _knob(key: str, value: Any) -> str:
    """A knob of an optimizer with its value; "" where it is off."""
    if isinstance(value, bool) or value is None:
        return key if value else ""
    if isinstance(value, tuple):
        return f"{key} {', '.join(f'{factor:g}' for factor in value)}" if value else ""
    if isinstance(value, str):
        return "" if value in ("off", "none", "all") else f"{key} {value}"
    return f"{key} {value:g}" if value or key in ("momentum", "weight_decay") else ""


def _cells(columns: Sequence[str], values: Any, limit: int = 4) -> str:
    """The first values of a row, each as "column = value"."""
    cells = []
    for column, value in zip(columns, values[:limit]):
        text = name(value, 24) if isinstance(value, str) else number(value)
        cells.append(f"{name(column, 24)} = {text}")
    if len(columns) > limit:
        cells.append("...")
    return ", ".join(cells)


def _data_loading(data: PreparedData, raw: Table) -> Stage:
    rows, features = data.train_x_ND.shape
    facts = (
        Fact("to train on", f"{rows} rows x {features} features"),
        Fact("held out in addition", f"{len(data.held_out_y_N)} rows"),
        *starmap(Fact, describe_targets(data)),
        Fact("first row", _cells(raw.columns, raw.row(0))),
        Fact(*first_target(raw)),
    )
    what = "The rows are read and split once; both frameworks are fed the same bits."
    return Stage("Data loading", what, facts)


def _preprocessing(data: PreparedData, raw: Table) -> Stage:
    x_ND = np.asarray(data.train_x_ND, dtype=np.float64)
    std_D = x_ND.std(axis=0)
    furthest = number(np.abs(x_ND.mean(axis=0)).max(), 2)
    facts = [
        *(Fact(name(label), name(value, 240)) for label, value in data.notes[:NOTED]),
        Fact("shape in, out", f"{(len(x_ND), len(raw.columns))} -> {x_ND.shape}"),
        Fact("before", _cells(raw.columns, raw.row(data.first_row))),
        Fact("after", _cells(data.columns, x_ND[0])),
        Fact("mean achieved", f"at most {furthest} away from 0 in any column"),
        Fact("deviation achieved", f"{number(std_D.min(), 6)} to {number(std_D.max(), 6)}"),
        *starmap(Fact, target_before_and_after(data)),
    ]
    facts += [Fact("warning", name(warning, 120)) for warning in data.warnings[:3]]
    if len(data.warnings) > 3:
        facts.append(Fact("warnings", f"{len(data.warnings) - 3} more of this kind"))
    columns = "Each column is" if data.classes else "The target and each column are"
    what = f"{columns} brought to mean 0 and variance 1 with the training rows' mean and deviation."
    return Stage("Preprocessing", what, tuple(facts))


def _initialisation(recipe: Recipe, traces: Mapping[str, Trace]) -> Stage:
    torch = traces["torch"].parameters(0)
    jax = traces["jax"].parameters(0)
    statistics = initial_statistics(recipe.model).keys()
    shapes = _layer_shapes(torch)
    total = sum(array.size for key, array in torch.items() if key not in statistics)
    same = all(np.array_equal(torch[key], jax[key], equal_nan=True) for key in torch)
    facts = (
        Fact("layers", ", ".join(cut(_layer_chain(recipe, shapes), 2 * LISTED))),
        Fact("parameters by layer", "; ".join(cut(_layer_sizes(recipe, torch), LISTED))),
        Fact("parameters in all", str(total)),
        Fact("linear1.weight[0]", several(torch["linear1.weight"][0])),
        Fact("same bits in both", "yes" if same else "no"),
    )
    return Stage("Model initialisation", _how_drawn(recipe), facts)


def _layer_shapes(parameters: Parameters) -> list[tuple[int, int]]:
    """Inputs and outputs of each linear layer."""
    count = sum(key.startswith("linear") and key.endswith(".weight") for key in parameters)
    shapes = []
    for i in range(1, count + 1):
        inputs, outputs = parameters[f"linear{i}.weight"].shape
        shapes.append((inputs, outputs))
    return shapes


def _layer_chain(recipe: Recipe, shapes: Sequence[tuple[int, int]]) -> list[str]:
    """The layers from input to output: Linear(20\u219232), ReLU, Linear(32\u21922)."""
    model = recipe.model
    between = [ACTIVATIONS[model.activation].title]
    if model.norm != "none":
        between.insert(0, {"layer": "LayerNorm", "batch": "BatchNorm"}[model.norm])
    if model.dropout:
        between.append(f"Dropout({model.dropout:g})")
    chain: list[str] = []
    for inputs, outputs in shapes:
        chain += [f"Linear({inputs}\u2192{outputs})", *between]
    return chain[: -len(between)]


def _layer_sizes(recipe: Recipe, parameters: Parameters) -> list[str]:
    """How many parameters each layer has: "linear1 20 x 32 + 32 = 672"."""
    sizes = []
    for i, (inputs, outputs) in enumerate(_layer_shapes(parameters), start=1):
        if recipe.model.bias:
            sizes.append(f"linear{i} {inputs} x {outputs} + {outputs} = {(inputs + 1) * outputs}")
        else:
            sizes.append(f"linear{i} {inputs} x {outputs} = {inputs * outputs}")
        if f"norm{i}.weight" in parameters:
            sizes.append(f"norm{i} 2 x {outputs} = {2 * outputs}")
    return sizes


def _how_drawn(recipe: Recipe) -> str:
    """The sentence on how the initial parameters are drawn."""
    model = recipe.model
    biases = " and biases" if model.bias else ""
    if model.init == "zeros":
        return f"Weights{biases} are 0 in both frameworks."
    drawn = DRAWN[model.init]
    if model.bias and model.init != "torch":
        biases = ""
        drawn = f"{drawn}, biases are 0"
    return f"Weights{biases} are drawn once, {drawn}, and handed to both frameworks."


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
    debiased = ", debiased" if average.debias else ""
    return (Fact("average kept", f"decay {average.decay:g}, from {start}{debiased}"),)


def _engines(traces: Mapping[str, Trace]) -> tuple[Fact, ...]:
    engines = {"PyTorch": traces["torch"].engine, "JAX": traces["jax"].engine}
    listed = [f"{framework} {engine}" for framework, engine in engines.items() if engine]
    return (Fact("engine", ", ".join(listed)),) if listed else ()


def _training(recipe: Recipe, data: PreparedData, traces: Mapping[str, Trace]) -> Stage:
    last = int(data.batches(0).count_T[-1])
    rows = len(data.train_y_N)
    length = data.updates_per_epoch
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
