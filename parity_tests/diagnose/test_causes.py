"""The cause finder: it finds planted alternatives with their numbers, and names no cause where it
knows none.
"""

import ast
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import lockstep.oracle.network as network
import lockstep.oracle.train as oracle
import lockstep.oracle.trajectory as trajectory
from lockstep.data_prep import PreparedData
from lockstep.diagnose import causes
from lockstep.diagnose.causes import find_cause, knobs, needed_detail, relations
from lockstep.diagnose.causes.precision import rounded_to
from lockstep.diagnose.compare import Difference
from lockstep.oracle.arithmetic import Exact
from lockstep.oracle.gradient import clip
from lockstep.oracle.loss import loss_and_slope
from lockstep.oracle.network import loss_and_gradients
from lockstep.oracle.optimizer import update_parameter
from lockstep.recipe import Recipe
from lockstep.records.run_recorder import Watch
from lockstep.records.trace import Trace
from lockstep.studies.atlas.pages import atlas_folder
from parity_tests.shared.recipes import prepared, small_recipe

DETAIL = range(5)
Patch = Callable[[pytest.MonkeyPatch], None]
Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Planted:
    """A fault: the key and words of its cause, and where the traces part. `values` trains another
    recipe, `patch` changes the oracle while it trains, `fed` changes its data, and `edit` changes
    what it recorded.
    """

    key: str
    says: str
    stage: str
    update: int = 0
    tensor: str = ""
    recipe: dict[str, Any] = field(default_factory=dict)
    values: dict[str, Any] = field(default_factory=dict)
    patch: Patch | None = None
    fed: Callable[[PreparedData], PreparedData] | None = None
    edit: Callable[[Arrays], None] | None = None


def recorded(recipe: Recipe, data: PreparedData) -> Trace:
    updates = [update for update in DETAIL if update < data.updates]
    return oracle.train(recipe, data, watch=Watch(parameters_every=1, detail=updates), bounds=False)


@cache
def right(recipe: Recipe) -> Trace:
    return recorded(recipe, prepared(recipe))


def planted(fault: Planted, monkeypatch: pytest.MonkeyPatch) -> tuple[Trace, Trace]:
    """The right trace, and the one with the fault, in whose header is the right one's recipe."""
    recipe = small_recipe(training__dtype="float64", **fault.recipe)
    data, truth = prepared(recipe), right(recipe)
    values = {name.replace("__", "."): value for name, value in fault.values.items()}
    other = recipe.with_values(values)
    with monkeypatch.context() as patched:
        if fault.patch is not None:
            fault.patch(patched)
        trace = recorded(other, fault.fed(data) if fault.fed is not None else data)
    theirs, ours = f"forward/{other.model.activation}", f"forward/{recipe.model.activation}"
    arrays = {name.replace(theirs, ours): array for name, array in trace.arrays.items()}
    if fault.edit is not None:
        fault.edit(arrays)
    identity = {key: truth.header[key] for key in ("recipe", "recipe_hash", "data_hash")}
    header = trace.header | identity
    return Trace(truth.header, truth.arrays), Trace(header | {"backend": "torch"}, arrays)


def first(
    stage: str, update: int = 0, tensor: str = "", a: float = 1.0, b: float = 2.0
) -> Difference:
    return Difference(stage, tensor, update, (), a, b, abs(a - b), 0.0, np.inf)


# ---- ways to plant


def instead(name: str, make: Callable[[Any], Any], module: Any = trajectory) -> Patch:
    """Put another function in the place of one that the oracle trains by."""
    return lambda patched: patched.setattr(module, name, make(getattr(module, name)))


class Pass(NamedTuple):
    """The arguments of a batch's loss, gradients and forward pass."""

    recipe: Recipe
    parameters: Any
    x: Any
    y: Any
    exact: Exact
    masks: Any

    def run(self, **changes: Any) -> Any:
        """The loss, gradients and pass, with some arguments changed."""
        *arguments, masks = self._replace(**changes)
        return loss_and_gradients(*arguments, masks=masks)


def passed(change: Callable[[Pass], Any]) -> Patch:
    """`change` in the place of a batch's loss, gradients and pass."""

    def make(_: Any) -> Any:
        return lambda *arguments, masks=(): change(Pass(*arguments, masks))

    return instead("loss_and_gradients", make)


def scaled(factor: Callable[[int], float], loss: bool = True, gradient: bool = True) -> Patch:
    """Multiply a batch's loss, its gradients or both by a factor of the number of its rows."""

    def change(batch: Pass) -> Any:
        mean, gradients, outputs = batch.run()
        times = factor(len(batch.y))
        if gradient:
            gradients = {name: times * array for name, array in gradients.items()}
        return mean * times if loss else mean, gradients, outputs

    return passed(change)


def transposed(batch: Pass) -> Any:
    turned = batch.parameters | {"linear1.weight": batch.parameters["linear1.weight"].T}
    mean, gradients, outputs = batch.run(parameters=turned)
    return mean, gradients | {"linear1.weight": gradients["linear1.weight"].T}, outputs


def without_bias(batch: Pass) -> Any:
    bare = batch.parameters | {"linear2.bias": 0 * batch.parameters["linear2.bias"]}
    mean, gradients, outputs = batch.run(parameters=bare)
    return mean, gradients | {"linear2.bias": 0 * gradients["linear2.bias"]}, outputs


def stale(pick: Callable[[list[Any]], Any]) -> Patch:
    """A pass with parameters that `pick` takes from all there have been."""

    def make(patched: pytest.MonkeyPatch) -> None:
        history: list[Any] = []

        def change(batch: Pass) -> Any:
            history.append(batch.parameters)
            return batch.run(parameters=pick(history))

        passed(change)(patched)

    return make


def summed(patched: pytest.MonkeyPatch) -> None:
    """Gradients that are never set to zero."""
    total: dict[str, Any] = {}

    def change(batch: Pass) -> Any:
        mean, gradients, outputs = batch.run()
        for name, gradient in gradients.items():
            total[name] = gradient + total.get(name, 0)
        return mean, dict(total), outputs

    passed(change)(patched)


def model_of(change: Callable[[Any, Any], tuple[Any, Any]]) -> Patch:
    """A pass of another model, and other masks."""

    def act(batch: Pass) -> Any:
        model, masks = change(batch.recipe.model, batch.masks)
        return batch.run(recipe=replace(batch.recipe, model=model), masks=masks)

    return passed(act)


def evaluated(batch: Pass) -> Any:
    """A forward pass as in evaluation, by running statistics of mean 0 and variance 1."""
    _, gradients, outputs = batch.run()
    model = batch.recipe.model
    known = {}
    for i, units in enumerate(model.hidden, start=1):
        known[f"norm{i}.mean"] = np.zeros((1, units))
        known[f"norm{i}.var"] = np.ones((1, units))
    layers = network.forward(
        model, batch.parameters, batch.x, batch.exact, statistics=known
    ).outputs
    *_, logits = layers.values()
    mean, _ = loss_and_slope(batch.recipe.loss, logits, batch.y, batch.exact)
    return mean, gradients, outputs._replace(outputs=layers)


def unbiased(original: Any) -> Any:
    """Normalise by the variance over n - 1."""

    def normalise(model: Any, i: int, parameters: Any, z: Any, *rest: Any) -> Any:
        original(model, i, parameters, z, *rest)
        deviation = np.sqrt(z.var(axis=-1, ddof=1, keepdims=True) + model.norm_eps)
        normal = (z - z.mean(axis=-1, keepdims=True)) / deviation
        return normal * parameters[f"norm{i}.weight"] + parameters[f"norm{i}.bias"]

    return normalise


class Bfloat16(Exact):
    """Factors of products cut to the upper half of a float32, rounded to nearest."""

    def dot(self, a: Any, b: Any) -> Any:
        return super().dot(trajectory._to_bfloat16(a), trajectory._to_bfloat16(b))


def squashed(original: Any) -> Any:
    """Cross entropy of a softmax of the outputs."""

    def loss(loss: Any, logits: Any, y: Any, exact: Exact) -> Any:
        share = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
        mean, slope = original(loss, share, y, exact)
        diagonal = np.einsum("bi,ij->bij", share, np.eye(share.shape[-1]))
        jacobian = diagonal - np.einsum("bi,bj->bij", share, share)
        return mean, np.einsum("bij,bj->bi", jacobian, slope)

    return loss


def broadcast(original: Any) -> Any:
    def loss(loss: Any, outputs: Any, y: Any, exact: Exact) -> Any:
        error = outputs - y[None, :]  # (B, B)
        return np.asarray((error**2).mean()), 2 * error.mean(axis=1, keepdims=True) / len(y)

    return loss


class Step(NamedTuple):
    """The arguments of the update of a parameter."""

    name: str
    optimizer: Any
    lr: float
    update: int
    parameter: Any
    gradient: Any
    moments: Any
    exact: Exact

    def run(self, **changes: Any) -> Any:
        """The parameter after the update, with some arguments changed."""
        return update_parameter(*self._replace(**changes))

    def without_decay(self) -> Any:
        return replace(self.optimizer, weight_decay=0.0)


def updated(change: Callable[[Step], Any]) -> Patch:
    """`change` in the place of the update of a parameter."""
    return instead("update_parameter", lambda _: lambda *arguments: change(Step(*arguments)))


def without_correction(step: Step) -> Any:
    """Adam without its bias correction."""
    beta1, beta2 = step.optimizer.beta1, step.optimizer.beta2
    first_moment = beta1 * step.moments.get("first", 0) + (1 - beta1) * step.gradient
    second_moment = beta2 * step.moments.get("second", 0) + (1 - beta2) * step.gradient**2
    step.moments.update(first=first_moment, second=second_moment)
    return step.parameter - step.lr * first_moment / (np.sqrt(second_moment) + step.optimizer.eps)


def late_decay(step: Step) -> Any:
    """SGD with its weight decay after the momentum."""
    momentum = step.optimizer.momentum * step.moments.get("momentum", 0) + step.gradient
    step.moments["momentum"] = momentum
    return step.parameter - step.lr * (momentum + step.optimizer.weight_decay * step.parameter)


def decoupled(step: Step) -> Any:
    after = step.run(optimizer=step.without_decay())
    return after - step.lr * step.optimizer.weight_decay * step.parameter


def decayed_at_full_rate(step: Step) -> Any:
    after = step.run(optimizer=step.without_decay())
    return after - step.optimizer.weight_decay * step.parameter


def decayed_as_l2(step: Step) -> Any:
    gradient = step.gradient + step.optimizer.weight_decay * step.parameter
    return step.run(optimizer=step.without_decay(), gradient=gradient)


def forgetful(at: int) -> Patch:
    def change(step: Step) -> Any:
        if step.update == at:
            step.moments.clear()
        return step.run()

    return updated(change)


def applied(rate: Callable[[float, int], float]) -> Patch:
    return updated(lambda step: step.run(lr=rate(step.lr, step.update)))


def skipping(which: Callable[[str, int], bool]) -> Patch:
    def change(step: Step) -> Any:
        after = step.run()
        return step.parameter if which(step.name, step.update) else after

    return updated(change)


def rates(change: Callable[[NDArray[Any]], NDArray[Any]]) -> Patch:
    def make(original: Any) -> Any:
        def rate_tables(*arguments: Any) -> Any:
            return {layer: change(rates_T) for layer, rates_T in original(*arguments).items()}

        return rate_tables

    return instead("rate_tables", make)


def clipped(change: Callable[[Any, Any, Exact], Any]) -> Patch:
    return instead("clip", lambda _: change)


def each_alone(rule: Any, gradients: Any, exact: Exact) -> Any:
    return {name: clip(rule, {name: array}, exact)[name] for name, array in gradients.items()}


def each_batch(batch: Pass) -> Any:
    mean, gradients, outputs = batch.run()
    return mean, clip(batch.recipe.gradient, gradients, batch.exact), outputs


Edit = Callable[[Arrays], None]


def put(change: Callable[[NDArray[Any]], NDArray[Any]], *prefixes: str) -> Edit:
    """Put another array in the place of every one below the prefixes."""

    def edit(arrays: Arrays) -> None:
        for name in [name for name in arrays if name.startswith(prefixes)]:
            arrays[name] = change(arrays[name])

    return edit


def batch_of_update_3(arrays: Arrays) -> None:
    for name in [name for name in arrays if name.startswith("detail/3/batch")]:
        arrays[name.replace("/3/", "/0/")] = arrays[name]


def without_gradients(arrays: Arrays) -> None:
    for name in [name for name in arrays if "/gradients/" in name]:
        del arrays[name]


def with_decay_in_gradients(arrays: Arrays) -> None:
    for name in [name for name in arrays if name.startswith("detail/0/gradients")]:
        parameter = arrays[name.replace("detail/0/gradients", "parameters/0")]
        arrays[name] = arrays[name] + 0.05 * parameter


def half_the_clipped(arrays: Arrays) -> None:
    for name in [name for name in arrays if "/clip/" in name]:
        arrays[name] = 0.5 * arrays[name]


def mean_of_losses(arrays: Arrays) -> None:
    arrays["epochs/train_loss"] = arrays["updates/loss"].reshape(-1, 3).mean(axis=1)


def to_float32(array: NDArray[Any]) -> NDArray[Any]:
    return array.astype(np.float32).astype(float)


def with_six_zeros(array: NDArray[Any]) -> NDArray[Any]:
    return np.concatenate([array, np.zeros((6, *array.shape[1:]))])


def with_data(**values: Any) -> Callable[[PreparedData], PreparedData]:
    return lambda data: replace(data, **values)


def summed_batches(original: Any) -> Any:
    """Add up batches' gradients as they are, but for the share of the first."""

    def accumulate(so_far: Any, terms: Any, share: Any, exact: Exact) -> Any:
        if not so_far:
            return original(so_far, terms, 1.0, exact)
        return {name: so_far[name] + array for name, array in terms.items()}

    return accumulate


def measured(change: Callable[..., Any]) -> Patch:
    def make(original: Any) -> Any:
        return lambda *arguments: change(original, *arguments)

    return instead("evaluate", make, oracle)


ADAM = {"optimizer__name": "adam"}
ADAMW = {"optimizer__name": "adamw", "optimizer__weight_decay": 0.05}
DECAYED = {"optimizer__weight_decay": 0.05}
DROPOUT = {"model__dropout": 0.3}
BATCHNORM = {"model__norm": "batch"}
LAYERNORM = {"model__norm": "layer"}
NUMBER = {"loss__name": "mse"}
CLIP = {"gradient__clip": "norm", "gradient__clip_at": 0.1}
TWO = {"gradient__accumulate": 2}
BINARY = {"loss__name": "binary_cross_entropy", "data__classes": 2}

FAULTS = [
    # rows
    Planted("other-rows", "other rows of the training part", "batch", fed=with_data(seed=7)),
    Planted(
        "dropped-last-batch",
        "short last batch",
        "batch",
        2,
        fed=with_data(drop_last=True),
    ),
    Planted(
        "other-order",
        "another order",
        "batch",
        edit=put(lambda array: array[::-1], "detail/0/batch/"),
    ),
    Planted(
        "other-order",
        "rows of update 3",
        "batch",
        edit=batch_of_update_3,
    ),
    Planted(
        "padded-batch",
        "with 6 rows of zeros",
        "batch",
        2,
        edit=put(with_six_zeros, "detail/2/batch/"),
    ),
    Planted(
        "labels-shifted",
        "shifted against the rows by 1",
        "batch",
        edit=put(lambda array: np.roll(array, 1), "detail/0/batch/y"),
    ),
    Planted(
        "features-scaled",
        "not standardised",
        "batch",
        fed=lambda data: replace(data, train_x_ND=data.train_x_ND * data.scale_D + data.mean_D),
    ),
    Planted(
        "features-scaled",
        "scaled by 1.5",
        "batch",
        fed=lambda data: replace(data, train_x_ND=data.train_x_ND * 1.5),
    ),
    Planted(
        "features-rounded",
        "rounded to float32",
        "batch",
        fed=lambda data: replace(data, train_x_ND=to_float32(data.train_x_ND)),
    ),
    Planted(
        "other-mask",
        "drops the units that should stay",
        "batch",
        recipe=DROPOUT,
        edit=put(np.logical_not, "detail/0/batch/mask"),
    ),
    # initial parameters
    Planted(
        "init-transposed",
        "linear1.weight transposed",
        "init",
        -1,
        edit=put(np.transpose, "parameters/0/linear1.weight"),
    ),
    Planted(
        "init-scaled",
        "linear2.weight by 1.414",
        "init",
        -1,
        edit=put(lambda array: array * np.sqrt(2), "parameters/0/linear2.weight"),
    ),
    Planted(
        "init-rounded",
        "rounded to float32",
        "init",
        -1,
        edit=put(to_float32, "parameters/0/"),
    ),
    Planted(
        "other-init",
        "as flax",
        "init",
        -1,
        values={"model__init": "flax"},
        fed=lambda data: prepared(small_recipe(training__dtype="float64", model__init="flax")),
    ),
    # the forward pass
    Planted("kernel-transposed", "linear1.weight transposed", "forward", patch=passed(transposed)),
    Planted("bias-missing", "leaves out linear2.bias", "forward", patch=passed(without_bias)),
    Planted("other-activation", "activation tanh", "forward", values={"model__activation": "tanh"}),
    Planted(
        "gelu-approximation",
        "activation gelu_tanh",
        "forward",
        recipe={"model__activation": "gelu"},
        values={"model__activation": "gelu_tanh"},
    ),
    Planted(
        "norm-eps", "an eps of 0.001", "forward", recipe=LAYERNORM, values={"model__norm_eps": 1e-3}
    ),
    Planted(
        "norm-variance",
        "over n - 1",
        "forward",
        recipe=LAYERNORM,
        patch=instead("_normalise", unbiased, network),
        edit=without_gradients,
    ),
    Planted(
        "norm-evaluation-mode",
        "running statistics",
        "forward",
        recipe=BATCHNORM,
        patch=passed(evaluated),
    ),
    Planted(
        "dropout-missing",
        "drops no unit",
        "forward",
        recipe=DROPOUT,
        patch=model_of(
            lambda model, masks: (
                replace(model, dropout=0.0),
                [np.ones_like(mask) for mask in masks],
            )
        ),
    ),
    Planted(
        "dropout-scale",
        "does not scale",
        "forward",
        recipe=DROPOUT,
        patch=model_of(lambda model, masks: (replace(model, dropout=0.0), masks)),
    ),
    Planted(
        "dropout-scale",
        "as for a rate of 0.4",
        "forward",
        recipe=DROPOUT,
        patch=model_of(lambda model, masks: (replace(model, dropout=0.4), masks)),
    ),
    Planted(
        "other-mask",
        "other units than its mask",
        "forward",
        recipe=DROPOUT,
        patch=model_of(lambda model, masks: (model, [np.roll(mask, 1, 0) for mask in masks])),
    ),
    Planted(
        "low-precision-matmul",
        "in bfloat16",
        "forward",
        patch=instead("Exact", lambda _: Bfloat16, oracle),
    ),
    Planted(
        "stale-parameters",
        "of the update before",
        "forward",
        2,
        patch=stale(lambda history: history[-2:][0]),
    ),
    Planted(
        "stale-parameters", "of the start", "forward", 2, patch=stale(lambda history: history[0])
    ),
    # the loss
    Planted("sum-for-mean", "sums the loss", "loss", patch=scaled(float)),
    Planted("full-size-mean", "full size of 32", "loss", 2, patch=scaled(lambda count: count / 32)),
    Planted("mean-over-elements", "3 outputs", "loss", patch=scaled(lambda count: 1 / 3)),
    Planted(
        "half-loss", "half of the loss", "loss", recipe=NUMBER, patch=scaled(lambda count: 0.5)
    ),
    Planted(
        "label-smoothing", "label_smoothing = 0.001", "loss", values={"loss__label_smoothing": 1e-3}
    ),
    Planted(
        "label-smoothing",
        "leaves out",
        "loss",
        recipe={"loss__label_smoothing": 0.1},
        values={"loss__label_smoothing": 0.0},
    ),
    Planted(
        "label-smoothing",
        "K - 1",
        "loss",
        recipe={"loss__label_smoothing": 0.1},
        values={"loss__label_smoothing": 0.15},
    ),
    Planted(
        "weighted-mean",
        "leaves out the class weights",
        "loss",
        recipe={"loss__class_weights": (1.0, 2.0, 3.0)},
        values={"loss__class_weights": ()},
    ),
    Planted(
        "other-loss",
        "positive_weight = 2",
        "loss",
        recipe=BINARY,
        values={"loss__positive_weight": 2.0},
    ),
    Planted(
        "other-loss",
        "has the loss mse",
        "loss",
        recipe={"loss__name": "huber"},
        values={"loss__name": "mse"},
    ),
    Planted(
        "other-loss",
        "delta = 0.7",
        "loss",
        recipe={"loss__name": "huber"},
        values={"loss__delta": 0.7},
    ),
    Planted(
        "softmax-twice",
        "softmax before a loss",
        "loss",
        patch=instead("loss_and_slope", squashed, network),
    ),
    Planted(
        "mse-broadcast",
        "every target",
        "loss",
        recipe=NUMBER,
        patch=instead("loss_and_slope", broadcast, network),
    ),
    Planted("loss-reported", "reports the sum", "loss", patch=scaled(float, gradient=False)),
    # gradients
    Planted(
        "gradient-scaled",
        "multiplied by 1024",
        "gradients",
        patch=scaled(lambda count: 1024.0, loss=False),
    ),
    Planted(
        "gradient-scaled", "1 / 32", "gradients", patch=scaled(lambda count: 1 / count, loss=False)
    ),
    Planted(
        "gradient-sign", "wrong sign", "gradients", patch=scaled(lambda count: -1.0, loss=False)
    ),
    Planted("gradient-stale", "of the update before", "gradients", 1, patch=summed),
    Planted(
        "gradient-missing",
        "no gradient for linear1.bias",
        "gradients",
        edit=put(np.zeros_like, "detail/0/gradients/linear1.bias"),
    ),
    Planted(
        "accumulation-sum",
        "2 batches",
        "loss",
        recipe=TWO,
        patch=instead("accumulate", summed_batches),
    ),
    Planted(
        "accumulation-mean",
        "by rows",
        "loss",
        1,
        recipe=TWO | {"training__batch": 25},
        values={"gradient__accumulate_mean": "rows"},
        fed=with_data(accumulate_mean="rows"),
    ),
    Planted(
        "l2-in-gradient",
        "weight decay of 0.05",
        "gradients",
        recipe=DECAYED,
        edit=with_decay_in_gradients,
    ),
    # the clip
    Planted(
        "clip-missing",
        "does not clip",
        "clip",
        recipe=CLIP,
        patch=clipped(lambda rule, gradients, exact: gradients),
    ),
    Planted("clip-eps", "adds 1e-06", "clip", recipe=CLIP, values={"gradient__clip_eps": 1e-6}),
    Planted(
        "other-clip", "clip_eps = 0.003", "clip", recipe=CLIP, values={"gradient__clip_eps": 0.003}
    ),
    Planted(
        "clip-by-value", "clip = value", "clip", recipe=CLIP, values={"gradient__clip": "value"}
    ),
    Planted("clip-per-tensor", "each tensor", "clip", recipe=CLIP, patch=clipped(each_alone)),
    Planted("other-clip", "clip_at = 0.2", "clip", recipe=CLIP, values={"gradient__clip_at": 0.2}),
    # the rate
    Planted(
        "lr-late",
        "one update late",
        "lr",
        3,
        patch=rates(lambda rates_T: np.append(rates_T[0], rates_T[:-1])),
    ),
    Planted(
        "lr-early",
        "one update early",
        "lr",
        2,
        patch=rates(lambda rates_T: np.append(rates_T[1:], rates_T[-1])),
    ),
    Planted(
        "lr-rounded",
        "rounded to float32",
        "lr",
        patch=rates(to_float32),
    ),
    Planted("lr-scaled", "peak = 0.06", "lr", values={"schedule__peak": 0.06}),
    Planted("other-ramp", "ramp = t/W", "lr", values={"schedule__ramp": "t/W"}),
    Planted("other-schedule", "no warmup", "lr", values={"schedule__warmup": 0}),
    Planted(
        "other-schedule",
        "schedule.warmup = 3",
        "lr",
        recipe={"schedule__name": "cosine"},
        values={"schedule__warmup": 3},
    ),
    Planted(
        "other-schedule",
        "the schedule cosine",
        "lr",
        recipe={"training__epochs": 6},
        values={"schedule__name": "cosine"},
    ),
    Planted(
        "other-schedule",
        "floor = 0.1",
        "lr",
        recipe={"schedule__name": "cosine"},
        values={"schedule__floor": 0.1},
    ),
    # moments and the update
    Planted(
        "other-momentum", "momentum = 0.89", "moments", 1, values={"optimizer__momentum": 0.89}
    ),
    Planted(
        "momentum-complement", "momentum = 0.1", "moments", 1, values={"optimizer__momentum": 0.1}
    ),
    Planted("nesterov", "nesterov = true", "update", values={"optimizer__nesterov": True}),
    Planted("dampening", "dampening = 0.5", "moments", 1, values={"optimizer__dampening": 0.5}),
    Planted(
        "other-decay",
        "weight_decay = 0.01",
        "update",
        recipe=ADAMW,
        values={"optimizer__weight_decay": 0.01},
    ),
    Planted(
        "other-decay", "weight_decay = 0.0001", "moments", values={"optimizer__weight_decay": 1e-4}
    ),
    Planted(
        "decay-missing", "0.05", "update", recipe=ADAMW, values={"optimizer__weight_decay": 0.0}
    ),
    Planted(
        "l2-for-decoupled",
        "L2",
        "moments",
        recipe=ADAMW,
        patch=updated(decayed_as_l2),
    ),
    Planted(
        "decoupled-for-l2", "decoupled", "moments", recipe=ADAM | DECAYED, patch=updated(decoupled)
    ),
    Planted(
        "decay-after-momentum",
        "after the momentum",
        "moments",
        recipe=DECAYED,
        patch=updated(late_decay),
    ),
    Planted(
        "decay-on-bias",
        "only the weights",
        "update",
        recipe=ADAMW,
        values={"optimizer__decay_on": "weights"},
    ),
    Planted(
        "decay-without-rate",
        "without the learning rate",
        "update",
        recipe=ADAMW,
        patch=updated(decayed_at_full_rate),
    ),
    Planted("other-eps", "eps = 1e-05", "update", recipe=ADAM, values={"optimizer__eps": 1e-5}),
    Planted("other-eps", "eps = 0.00037", "update", recipe=ADAM, values={"optimizer__eps": 3.7e-4}),
    Planted(
        "eps-in-root",
        "eps_in_root = true",
        "update",
        recipe=ADAM,
        values={"optimizer__eps_in_root": True},
    ),
    Planted(
        "other-beta", "beta2 = 0.99", "moments", recipe=ADAMW, values={"optimizer__beta2": 0.99}
    ),
    # 0.99 is also the decay of Adan's second moment
    Planted(
        "other-beta", "beta2 = 0.99", "moments", recipe=ADAM, values={"optimizer__beta2": 0.99}
    ),
    Planted("other-beta", "beta1 = 0.8", "moments", recipe=ADAMW, values={"optimizer__beta1": 0.8}),
    Planted(
        "momentum-complement",
        "beta1 = 0.1",
        "moments",
        recipe=ADAMW,
        values={"optimizer__beta1": 0.1},
    ),
    Planted(
        "amsgrad", "amsgrad = raw", "moments", 0, recipe=ADAM, values={"optimizer__amsgrad": "raw"}
    ),
    Planted(
        "no-bias-correction",
        "start at 0 (beta1 and beta2)",
        "update",
        recipe=ADAM,
        patch=updated(without_correction),
    ),
    Planted("state-forgotten", "forgot", "moments", 3, patch=forgetful(3)),
    Planted(
        "state-forgotten",
        "counts this update as its first",
        "update",
        3,
        recipe=ADAM,
        patch=updated(lambda step: step.run(update=step.update % 3)),
    ),
    Planted(
        "update-skipped",
        "does not apply",
        "update",
        2,
        patch=skipping(lambda name, update: update == 2),
    ),
    Planted(
        "update-skipped",
        "does not train linear1.bias",
        "update",
        patch=skipping(lambda name, update: name == "linear1.bias"),
    ),
    Planted("ascent", "climbs", "update", patch=applied(lambda lr, update: -lr)),
    Planted(
        "lr-not-applied",
        "of the update before",
        "update",
        3,
        patch=applied(lambda lr, update: lr / 2 if update == 3 else lr),
    ),
    Planted("lr-not-applied", "0.3 times", "update", patch=applied(lambda lr, update: 0.3 * lr)),
    Planted(
        "gradient-scaled",
        "0.25 times the gradient",
        "moments",
        patch=updated(lambda step: step.run(gradient=0.25 * step.gradient)),
    ),
    Planted(
        "other-optimizer",
        "updates by adagrad",
        "update",
        recipe={"optimizer__name": "rmsprop"},
        values={"optimizer__name": "adagrad"},
    ),
    Planted(
        "clip-missing",
        "before clipping",
        "moments",
        recipe=CLIP,
        patch=clipped(lambda rule, gradients, exact: gradients),
        edit=half_the_clipped,
    ),
    Planted(
        "moments-rounded",
        "bfloat16",
        "moments",
        edit=put(trajectory._to_bfloat16, "detail/0/moments"),
    ),
    # what is read off
    Planted(
        "other-norm-momentum",
        "norm_momentum = 0.2",
        "parameters",
        0,
        "norm1.mean",
        recipe=BATCHNORM,
        values={"model__norm_momentum": 0.2},
    ),
    Planted(
        "momentum-complement",
        "replaces",
        "parameters",
        0,
        "norm1.mean",
        recipe=BATCHNORM,
        values={"model__norm_momentum": 0.9},
    ),
    Planted(
        "norm-variance",
        "norm_variance = biased",
        "parameters",
        0,
        "norm1.var",
        recipe=BATCHNORM,
        values={"model__norm_variance": "biased"},
    ),
    Planted(
        "average-decay",
        "keeps 0.8",
        "average",
        1,
        recipe={"average__decay": 0.9},
        values={"average__decay": 0.8},
    ),
    Planted(
        "average-start",
        "start = zero",
        "average",
        -1,
        recipe={"average__decay": 0.9},
        values={"average__start": "zero"},
    ),
    Planted(
        "metrics-in-training-mode",
        "training mode",
        "metrics",
        2,
        "train_loss",
        recipe=BATCHNORM,
        patch=measured(
            lambda evaluate, parameters, statistics, *rest: evaluate(parameters, None, *rest)
        ),
    ),
    Planted(
        "metrics-stale",
        "before the last update",
        "metrics",
        2,
        "train_loss",
        edit=lambda arrays: arrays.update(stale_metrics()),
    ),
    Planted(
        "accuracy-other",
        "in per cent",
        "metrics",
        2,
        "train_accuracy",
        edit=put(lambda array: 100 * array, "epochs/train_accuracy", "epochs/held_out_accuracy"),
    ),
    Planted(
        "mean-of-means",
        "updates' losses",
        "metrics",
        2,
        "train_loss",
        edit=mean_of_losses,
    ),
]


def stale_metrics() -> Arrays:
    recipe = small_recipe(training__dtype="float64")
    trace, data = right(recipe), prepared(recipe)
    rows = trajectory.rows_of(recipe, data)
    parameters = {name: np.atleast_2d(array) for name, array in trace.parameters(2).items()}
    metrics: Arrays = {}
    for part, x, y in (
        ("train", rows.train_x_ND, rows.train_y_N),
        ("held_out", rows.held_out_x_ND, rows.held_out_y_N),
    ):
        values, _ = trajectory.evaluate(parameters, {}, x, y, recipe, Exact())
        for name, value in values.items():
            metrics[f"epochs/{part}_{name}"] = np.full(4, float(value))
    return metrics


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: f"{fault.key}: {fault.says}")
def test_a_planted_cause_is_found(fault: Planted, monkeypatch: pytest.MonkeyPatch) -> None:
    truth, trace = planted(fault, monkeypatch)
    cause = find_cause(first(fault.stage, fault.update, fault.tensor), truth, trace)
    assert cause is not None
    assert (cause.key, cause.side) == (fault.key, "b"), cause
    assert fault.says in cause.text, cause
    assert 100 * cause.residual <= cause.null_residual
    assert "{" not in cause.text
    assert not cause.page or (atlas_folder() / f"{cause.page}.md").is_file()
    # the other way round the same side is off
    swapped = find_cause(first(fault.stage, fault.update, fault.tensor), trace, truth)
    assert swapped is not None
    assert (swapped.key, swapped.side) == (fault.key, "a")


def test_in_float32_a_small_decay_is_told_from_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both alternatives are within the tolerance, so the nearer one is the cause."""
    fault = Planted(
        "other-decay", "", "update", recipe=ADAMW, values={"optimizer__weight_decay": 1e-4}
    )
    truth, trace = planted(fault, monkeypatch)
    narrow = all_rounded(trace, "float32")
    cause = find_cause(first("update"), truth, narrow)
    assert cause is not None
    assert cause.key == "other-decay"
    assert "weight_decay = 0.0001" in cause.text


def named_pages() -> set[str]:
    """The pages of the package's tables, and the third argument of each alternative in its code."""
    calls = [
        node
        for path in Path(causes.__path__[0]).glob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("Alternative", "fitted")
    ]
    written = [call.args[2].value for call in calls if isinstance(call.args[2], ast.Constant)]
    assert len(written) > 50
    pages = (*written, *knobs.PAGES.values(), *relations.PAGES.values())
    return {str(page) for page in pages if page}


def test_every_page_that_a_cause_names_is_in_the_atlas() -> None:
    there = {path.stem for path in atlas_folder().glob("*.md")}
    assert named_pages() <= there


NULLS: list[dict[str, Any]] = [
    {},
    ADAMW | CLIP | TWO,
    DROPOUT | BATCHNORM | {"average__decay": 0.9},
    LAYERNORM | {"optimizer__name": "rmsprop"},
    NUMBER | {"schedule__name": "cosine"},
    BINARY | {"optimizer__name": "nadam"},
    {"loss__label_smoothing": 0.1, "optimizer__name": "muon"},
    {"average__decay": 0.9, "average__start": "zero"},
]
STAGES = ["init", "batch", "forward", "loss", "gradients", "clip", "lr"]
STAGES += ["moments", "update", "average", "metrics"]


@pytest.mark.parametrize("values", NULLS, ids=str)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_a_right_run_has_no_cause(values: dict[str, Any], dtype: str) -> None:
    truth = right(small_recipe(training__dtype=dtype, **values))
    trace = all_rounded(truth, dtype)
    trace.header["backend"] = "torch"
    for stage in STAGES:
        for update in (0, 2):
            assert find_cause(first(stage, update), truth, trace) is None, (stage, update)


# ---- in a lower precision than the run's


LOWER = ("float32", "float16", "bfloat16")


def low(format_name: str) -> Callable[[Any], Any]:
    """Let a function take and give its arrays in a lower precision."""

    def narrowed(value: Any) -> Any:
        if isinstance(value, np.ndarray) and value.dtype.kind == "f":
            return rounded_to(format_name, value)
        return value

    def make(original: Any) -> Any:
        def computed(*values: Any) -> Any:
            result = original(*map(narrowed, values))
            parts = [rounded_to(format_name, np.asarray(part)) for part in np.atleast_1d(result)]
            return np.stack(parts) if isinstance(result, np.ndarray) and result.ndim else parts[0]

        return computed

    return make


def products_in(format_name: str) -> Patch:
    """Take matrix products in a lower precision; biases are added in the run's."""

    class Low(Exact):
        def dot(self, a: Any, b: Any) -> Any:
            product = super().dot(rounded_to(format_name, a), rounded_to(format_name, b))
            return rounded_to(format_name, product)

    return instead("Exact", lambda _: Low, oracle)


def loss_in(format_name: str) -> Patch:
    def make(original: Any) -> Any:
        def loss(rule: Any, outputs: Any, y: Any, exact: Exact) -> Any:
            mean, slope = original(rule, rounded_to(format_name, outputs), y, exact)
            return rounded_to(format_name, np.asarray(mean)), rounded_to(format_name, slope)

        return loss

    return instead("loss_and_slope", make, network)


def reported_in(format_name: str) -> Patch:
    def change(batch: Pass) -> Any:
        mean, gradients, outputs = batch.run()
        return rounded_to(format_name, np.asarray(mean)), gradients, outputs

    return passed(change)


def stepped_in(format_name: str, *, stored: bool) -> Patch:
    """Let the optimizer compute in a lower precision, and store its parameters there or add its
    step to float64 ones.
    """

    def change(step: Step) -> Any:
        narrow = rounded_to(format_name, step.parameter)
        moved = rounded_to(format_name, step.run(parameter=narrow) - narrow)
        return rounded_to(format_name, narrow + moved) if stored else step.parameter + moved

    return updated(change)


def remembered_in(format_name: str) -> Patch:
    """Compute moments in a lower precision, and not only store them in it."""

    def round_moments(moments: Any) -> None:
        for slot, array in moments.items():
            moments[slot] = rounded_to(format_name, array)

    def change(step: Step) -> Any:
        round_moments(step.moments)
        after = step.run(gradient=rounded_to(format_name, step.gradient))
        round_moments(step.moments)
        return after

    return updated(change)


def gradients_in(format_name: str) -> Patch:
    def narrowed(arrays: Any) -> Any:
        return {name: rounded_to(format_name, array) for name, array in arrays.items()}

    def change(batch: Pass) -> Any:
        mean, _, outputs = batch.run()
        _, gradients, _ = batch.run(parameters=narrowed(batch.parameters))
        return mean, narrowed(gradients), outputs

    return passed(change)


ACTIVATIONS = ("leaky_relu", "tanh", "sigmoid", "silu", "gelu", "gelu_tanh")
ACTIVATIONS += ("elu", "softplus", "mish", "relu")
LOW = [
    Planted(
        "low-precision",
        f"{name}1 is computed in {format_name}",
        "forward",
        0,
        f"{name}1",
        recipe={"model__activation": name},
        patch=instead("activate", low(format_name), network),
    )
    for name in ACTIVATIONS
    for format_name in LOWER
]
REST = "linear1.bias and 4 more is computed in"
LOW += [
    fault
    for name in LOWER
    for fault in (
        Planted(
            "low-precision",
            f"linear1 is computed in {name}",
            "forward",
            0,
            "linear1",
            patch=products_in(name),
        ),
        Planted(
            "low-precision",
            f"norm1 is computed in {name}",
            "forward",
            0,
            "norm1",
            recipe=LAYERNORM,
            patch=instead("_normalise", low(name), network),
        ),
        Planted(
            "low-precision", f"loss is computed in {name}", "loss", 0, "loss", patch=loss_in(name)
        ),
        Planted(
            "low-precision",
            f"loss is reported in {name}",
            "loss",
            2,
            "loss",
            patch=reported_in(name),
        ),
        Planted(
            "low-precision",
            f"optimizer's step of linear1.bias, linear1.weight and 4 more is computed in {name}",
            "update",
            2,
            "update_norm",
            patch=stepped_in(name, stored=False),
        ),
        Planted(
            "low-precision",
            f"update of linear1.bias, linear1.weight and 4 more is computed in {name}",
            "update",
            0,
            "update_norm",
            patch=stepped_in(name, stored=True),
        ),
        Planted(
            "low-precision",
            f"momentum/linear3.weight, momentum/{REST} {name}",
            "moments",
            1,
            "momentum/linear3.weight",
            patch=remembered_in(name),
        ),
        Planted(
            "low-precision",
            f"gradient of linear3.weight, {REST} {name}",
            "gradients",
            1,
            "linear3.weight",
            patch=gradients_in(name),
        ),
    )
]


@pytest.mark.slow
@pytest.mark.parametrize("fault", LOW, ids=lambda fault: fault.says)
def test_a_lower_precision_is_told_by_its_digits(
    fault: Planted, monkeypatch: pytest.MonkeyPatch
) -> None:
    truth, trace = planted(fault, monkeypatch)
    at = first(fault.stage, fault.update, fault.tensor)
    for pair, side in (((truth, trace), "b"), ((trace, truth), "a")):
        cause = find_cause(at, *pair)
        assert cause is not None
        assert (cause.key, cause.side) == (fault.key, side), cause
        assert fault.says in cause.text, cause
        assert "digits" in cause.text


def all_rounded(trace: Trace, dtype: str) -> Trace:
    """The trace as a run in this dtype would hold it."""
    arrays = dict(trace.arrays)
    for name, array in arrays.items():
        if array.dtype.kind == "f":
            arrays[name] = array.astype(dtype)
    return Trace(trace.header | {"dtype": dtype}, arrays)


# ---- without a recipe


def loop(gradients: Arrays, update: int = 0, family: str = "gradients", **more: Any) -> Trace:
    """A trace of somebody's loop with these tensors at an update."""
    header = {"kind": "loop", "backend": "torch", "settings": more.pop("settings", {})}
    arrays = {f"detail/{update}/{family}/{name}": array for name, array in gradients.items()}
    return Trace(header, arrays | more)


def normal(*shape: int, seed: int = 0) -> NDArray[Any]:
    return np.random.default_rng((seed, *shape)).standard_normal(shape)


WEIGHT, OTHER = normal(6, 6), normal(6, 6, seed=1)
CUBE = normal(3, 3, 3, 3)
KERNEL = normal(3, 3, 2, 4)
RELATIONS: list[tuple[str, str, NDArray[Any], NDArray[Any]]] = [
    ("kernel-transposed", "transposed", WEIGHT, WEIGHT.T),
    (
        "axes",
        "axes in the order (3, 2, 0, 1)",
        CUBE,
        CUBE.transpose(3, 2, 0, 1),
    ),
    ("flipped", "both axes (0, 1) reversed", KERNEL, KERNEL[::-1, ::-1]),
    ("permuted", "another order along its last axis", WEIGHT, WEIGHT[:, [2, 0, 1, 5, 3, 4]]),
    ("gradient-sign", "other sign", WEIGHT, -WEIGHT),
    ("gradient-missing", "is 0", WEIGHT, 0 * WEIGHT),
    ("gradient-scaled", "32 times a's: batch", WEIGHT, 32 * WEIGHT),
    ("gradient-scaled", "0.37 times a's", WEIGHT, 0.37 * WEIGHT),
    ("rounded", "rounded to bfloat16", WEIGHT, trajectory._to_bfloat16(WEIGHT)),
    ("rounded", "rounded to float32", WEIGHT, to_float32(WEIGHT)),
    ("rounded", "rounded to float16", WEIGHT, WEIGHT.astype(np.float16).astype(float)),
]


@pytest.mark.parametrize(
    ("key", "says", "mine", "its"), RELATIONS, ids=[f"{key}: {says}" for key, says, *_ in RELATIONS]
)
def test_a_relation_of_two_loops_is_found(
    key: str, says: str, mine: NDArray[Any], its: NDArray[Any]
) -> None:
    a = loop({"conv.weight": mine}, settings={"batch": 32})
    b = loop({"conv.weight": its}, settings={"batch": 32})
    cause = find_cause(first("gradients", tensor="conv.weight"), a, b)
    assert cause is not None
    assert (cause.key, cause.side) == (key, ""), cause
    assert says in cause.text, cause
    # with an oracle it is known who is off
    known = find_cause(first("gradients", tensor="conv.weight"), b, a, oracle=a)
    assert known is not None
    assert (known.key, known.side) == (key, "a"), known


@pytest.mark.parametrize(
    ("before", "its"), [(OTHER, OTHER), (OTHER, OTHER + WEIGHT)], ids=["late", "summed"]
)
def test_a_stale_gradient_of_a_loop_is_found(before: NDArray[Any], its: NDArray[Any]) -> None:
    a = loop({"w": WEIGHT}, update=1, **{"detail/0/gradients/w": before})
    b = loop({"w": its}, update=1, **{"detail/0/gradients/w": before})
    cause = find_cause(first("gradients", 1, "w"), a, b)
    assert cause is not None
    assert cause.key == "gradient-stale"
    assert "update before" in cause.text


def test_a_decay_that_one_loop_has_is_found_and_measured() -> None:
    rate = 0.1

    def decayed(decay: float) -> Trace:
        after = WEIGHT - rate * (OTHER + decay * WEIGHT)
        return loop({"w": OTHER}, **{"parameters/0/w": WEIGHT, "parameters/1/w": after})

    a, b = decayed(0.0), decayed(0.02)
    cause = find_cause(first("parameters", 0, "w"), a, b)
    assert cause is not None
    assert cause.key == "other-decay"
    assert "plus -0.002 times the parameter" in cause.text


def test_a_loop_that_declares_its_optimizer_is_recomputed() -> None:
    """Without a recipe's names and an oracle's trace, the settings and the detail say which side is
    off.
    """
    declared = {"name": "adamw", "beta2": 0.95, "weight_decay": 0.1, "lr": 0.01}
    tensors = {"Dense_0/kernel": WEIGHT, "Dense_0/bias": normal(6)}
    gradients = {name: normal(*array.shape, seed=3) for name, array in tensors.items()}

    def run(decay: float) -> Trace:
        knobs = {"name": "adamw", "beta2": 0.95, "weight_decay": decay}
        optimizer = Recipe.from_dict({"optimizer": knobs}).optimizer
        arrays: Arrays = {"updates/lr": np.array([0.01])}
        for name, array in tensors.items():
            moments: dict[str, Any] = {}
            gradient = gradients[name]
            after = update_parameter(
                "linear1.weight", optimizer, 0.01, 0, array, gradient, moments, Exact()
            )
            arrays |= {f"parameters/0/{name}": array, f"parameters/1/{name}": after}
            arrays |= {f"detail/0/moments/{slot}/{name}": value for slot, value in moments.items()}
        return loop(gradients, settings={"optimizer": declared, "batch": 8}, **arrays)

    cause = find_cause(first("parameters", 0, "Dense_0/kernel"), run(1e-4), run(0.1))
    assert cause is not None
    assert (cause.key, cause.side) == ("other-decay", "a")
    assert "optimizer.weight_decay = 0.0001" in cause.text
    assert find_cause(first("parameters", 0, "Dense_0/kernel"), run(0.1), run(0.1)) is None


def test_flipped_units_are_recognised() -> None:
    """A unit whose input lies within rounding of 0 falls to one side on a and to the other on b."""
    recipe = small_recipe()
    truth = right(recipe)
    z = truth.arrays["detail/0/forward/linear1"]
    smallest = np.where(z > 0, z, np.inf).min(axis=1, keepdims=True)
    row, unit = map(int, np.argwhere((z > 0) & (z == smallest))[0])
    weight = {name: np.atleast_2d(array) for name, array in truth.parameters(0).items()}

    class Flipped(Exact):
        def positive(self, z: Any) -> Any:
            passes = z > 0
            if z.shape[-1] == recipe.model.hidden[0]:
                passes[row, unit] = False
            return passes

    x, y = truth.arrays["detail/0/batch/x"], truth.arrays["detail/0/batch/y"]
    _, gradients, _ = loss_and_gradients(recipe, weight, x, y, Flipped())
    flipped = {
        f"detail/0/gradients/{name}": array
        for name, array in trajectory.canonical(gradients).items()
    }
    near, below = z.copy(), z.copy()
    near[row, unit], below[row, unit] = 1e-9, -1e-9  # what rounding left of 0 on either side
    header = truth.header | {"backend": "torch", "dtype": "float32"}
    a = Trace(header, truth.arrays | {"detail/0/forward/linear1": near})
    b = Trace(header, truth.arrays | {"detail/0/forward/linear1": below} | flipped)
    cause = find_cause(first("gradients", 0, "linear1.weight"), a, b)
    assert cause is not None
    assert cause.key == "relu-flip"
    assert f"unit {unit} of linear1 in row {row}" in cause.text


def test_a_rate_off_by_its_last_bit_is_rounding() -> None:
    truth = right(small_recipe())
    rates = truth.arrays["updates/lr"].astype(np.float32)
    header = truth.header | {"dtype": "float32"}
    a = Trace(header | {"backend": "torch"}, truth.arrays | {"updates/lr": rates})
    above = np.nextafter(rates, np.float32(1))
    b = Trace(header | {"backend": "jax"}, truth.arrays | {"updates/lr": above})
    cause = find_cause(first("lr", 0, "lr"), a, b)
    assert cause is not None
    assert (cause.key, cause.side) == ("lr-rounded", "b")
    assert find_cause(first("lr", 0, "lr"), a, a) is None


def test_what_is_no_number_is_named() -> None:
    truth = right(small_recipe(training__dtype="float64"))
    loss_T = np.full_like(truth.arrays["updates/loss"], np.nan)
    arrays = truth.arrays | {"updates/loss": loss_T}
    broken = Trace(truth.header | {"backend": "jax"}, arrays)
    cause = find_cause(first("loss", 0, "loss", b=np.nan), truth, broken)
    assert cause is not None
    assert (cause.key, cause.side) == ("not-a-number", "b")


def test_detail_that_is_missing_is_asked_for() -> None:
    truth = right(small_recipe(training__dtype="float64"))
    assert needed_detail(first("moments", 2), truth, truth) == ()
    assert needed_detail(first("moments", 9), truth, truth) == (8, 9)
    assert needed_detail(first("loss", 9), truth, truth) == (9,)
    assert needed_detail(first("lr", 9), truth, truth) == ()
    assert find_cause(first("moments", 9), truth, truth) is None


@settings(deadline=None, max_examples=60)
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([(4,), (5, 3), (4, 4), (2, 3, 3)]),
    st.sampled_from(["gradients", "forward", "moments", "clip"]),
    st.sampled_from(["float32", "float64"]),
)
def test_tensors_that_have_nothing_to_do_with_each_other_have_no_cause(
    seed: int, shape: tuple[int, ...], family: str, dtype: str
) -> None:
    generator = np.random.default_rng(seed)

    def drawn() -> NDArray[Any]:
        return generator.standard_normal(shape).astype(dtype)

    def drawn_loop() -> Trace:
        others = {f"detail/0/{family}/w": drawn(), "parameters/1/w": drawn()}
        return loop({"v": drawn(), "w": drawn()}, 1, family, **others)

    assert find_cause(first(family, 1, "w"), drawn_loop(), drawn_loop()) is None
