"""The cause finder: planted alternatives are found with their numbers, and what has no known cause
has none.
"""

import ast
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

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
    recipe, `patch` changes the oracle while it trains, `fed` changes its data, `edit` what it
    recorded."""

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
    """The right trace, and the one with the fault: it has the right one's recipe in its header."""
    recipe = small_recipe(training__dtype="float64", **fault.recipe)
    data, truth = prepared(recipe), right(recipe)
    other = recipe.with_values(
        {name.replace("__", "."): value for name, value in fault.values.items()}
    )
    with monkeypatch.context() as patched:
        if fault.patch is not None:
            fault.patch(patched)
        trace = recorded(other, fault.fed(data) if fault.fed is not None else data)
    arrays = {
        name.replace(
            f"forward/{other.model.activation}", f"forward/{recipe.model.activation}"
        ): array
        for name, array in trace.arrays.items()
    }
    if fault.edit is not None:
        fault.edit(arrays)
    header = trace.header | {
        key: truth.header[key] for key in ("recipe", "recipe_hash", "data_hash")
    }
    return Trace(truth.header, truth.arrays), Trace(header | {"backend": "torch"}, arrays)


def first(
    stage: str, update: int = 0, tensor: str = "", a: float = 1.0, b: float = 2.0
) -> Difference:
    return Difference(stage, tensor, update, (), a, b, abs(a - b), 0.0, np.inf)


# ---- ways to plant


def instead(name: str, make: Callable[[Any], Any], module: Any = trajectory) -> Patch:
    """Another function in the place of one that the oracle trains by."""
    return lambda patched: patched.setattr(module, name, make(getattr(module, name)))


def passed(change: Callable[..., Any]) -> Patch:
    """`change(recipe, parameters, x, y, arithmetic, masks)` in the place of a batch's loss,
    gradients and pass.
    """
    return instead(
        "loss_and_gradients",
        lambda _: (
            lambda recipe, parameters, x, y, exact, *, masks=(): change(
                recipe, parameters, x, y, exact, masks
            )
        ),
    )


def scaled(factor: Callable[[int], float], loss: bool = True, gradient: bool = True) -> Patch:
    def change(recipe: Recipe, parameters: Any, x: Any, y: Any, exact: Exact, masks: Any) -> Any:
        mean, gradients, found = loss_and_gradients(recipe, parameters, x, y, exact, masks=masks)
        c = factor(len(y))
        return (
            mean * c if loss else mean,
            {k: c * g if gradient else g for k, g in gradients.items()},
            found,
        )

    return passed(change)


def transposed(recipe: Recipe, parameters: Any, x: Any, y: Any, exact: Exact, masks: Any) -> Any:
    turned = parameters | {"linear1.weight": parameters["linear1.weight"].T}
    mean, gradients, found = loss_and_gradients(recipe, turned, x, y, exact, masks=masks)
    return mean, gradients | {"linear1.weight": gradients["linear1.weight"].T}, found


def without_bias(recipe: Recipe, parameters: Any, x: Any, y: Any, exact: Exact, masks: Any) -> Any:
    bare = parameters | {"linear2.bias": 0 * parameters["linear2.bias"]}
    mean, gradients, found = loss_and_gradients(recipe, bare, x, y, exact, masks=masks)
    return mean, gradients | {"linear2.bias": 0 * gradients["linear2.bias"]}, found


def stale(pick: Callable[[list[Any]], Any]) -> Patch:
    """A pass with parameters that `pick` takes from all there have been."""

    def make(patched: pytest.MonkeyPatch) -> None:
        seen: list[Any] = []

        def change(
            recipe: Recipe, parameters: Any, x: Any, y: Any, exact: Exact, masks: Any
        ) -> Any:
            seen.append(parameters)
            return loss_and_gradients(recipe, pick(seen), x, y, exact, masks=masks)

        passed(change)(patched)

    return make


def summed(patched: pytest.MonkeyPatch) -> None:
    """Gradients that are never set to zero."""
    total: dict[str, Any] = {}

    def change(recipe: Recipe, parameters: Any, x: Any, y: Any, exact: Exact, masks: Any) -> Any:
        mean, gradients, found = loss_and_gradients(recipe, parameters, x, y, exact, masks=masks)
        total.update({name: gradient + total.get(name, 0) for name, gradient in gradients.items()})
        return mean, dict(total), found

    passed(change)(patched)


def model_of(change: Callable[[Any, Any], tuple[Any, Any]]) -> Patch:
    """A pass of another model, and other masks."""

    def act(recipe: Recipe, parameters: Any, x: Any, y: Any, exact: Exact, masks: Any) -> Any:
        model, kept = change(recipe.model, masks)
        return loss_and_gradients(replace(recipe, model=model), parameters, x, y, exact, masks=kept)

    return passed(act)


def evaluated(recipe: Recipe, parameters: Any, x: Any, y: Any, exact: Exact, masks: Any) -> Any:
    _, gradients, found = loss_and_gradients(recipe, parameters, x, y, exact, masks=masks)
    known = {
        f"norm{i}.{kind}": np.full((1, units), value)
        for i, units in enumerate(recipe.model.hidden, start=1)
        for kind, value in (("mean", 0.0), ("var", 1.0))
    }
    outputs = network.forward(recipe.model, parameters, x, exact, statistics=known).outputs
    *_, logits = outputs.values()
    return (
        loss_and_slope(recipe.loss, logits, y, exact)[0],
        gradients,
        found._replace(outputs=outputs),
    )


def unbiased(original: Any) -> Any:
    """Normalises by the variance over n - 1."""

    def normalise(
        model: Any,
        i: int,
        parameters: Any,
        z: Any,
        statistics: Any,
        inner: dict[str, Any],
        exact: Exact,
    ) -> Any:
        original(model, i, parameters, z, statistics, inner, exact)
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
        jacobian = np.einsum("bi,ij->bij", share, np.eye(share.shape[-1])) - np.einsum(
            "bi,bj->bij", share, share
        )
        return mean, np.einsum("bij,bj->bi", jacobian, slope)

    return loss


def broadcast(original: Any) -> Any:
    def loss(loss: Any, outputs: Any, y: Any, exact: Exact) -> Any:
        error = outputs - y[None, :]  # (B, B)
        return np.asarray((error**2).mean()), 2 * error.mean(axis=1, keepdims=True) / len(y)

    return loss


def updated(change: Callable[..., Any]) -> Patch:
    """`change(name, optimizer, lr, update, parameter, gradient, moments, exact)` in the place of an
    update.
    """
    return instead("update_parameter", lambda _: change)


def without_correction(
    name: str,
    optimizer: Any,
    lr: float,
    update: int,
    parameter: Any,
    gradient: Any,
    moments: Any,
    exact: Exact,
) -> Any:
    first_moment = moments["first"] = (
        optimizer.beta1 * moments.get("first", 0) + (1 - optimizer.beta1) * gradient
    )
    second = moments["second"] = (
        optimizer.beta2 * moments.get("second", 0) + (1 - optimizer.beta2) * gradient**2
    )
    return parameter - lr * first_moment / (np.sqrt(second) + optimizer.eps)


def late_decay(
    name: str,
    optimizer: Any,
    lr: float,
    update: int,
    parameter: Any,
    gradient: Any,
    moments: Any,
    exact: Exact,
) -> Any:
    """SGD with its weight decay after the momentum."""
    moments["momentum"] = optimizer.momentum * moments.get("momentum", 0) + gradient
    return parameter - lr * (moments["momentum"] + optimizer.weight_decay * parameter)


def decoupled(
    name: str,
    optimizer: Any,
    lr: float,
    update: int,
    parameter: Any,
    gradient: Any,
    moments: Any,
    exact: Exact,
) -> Any:
    bare = replace(optimizer, weight_decay=0.0)
    after = update_parameter(name, bare, lr, update, parameter, gradient, moments, exact)
    return after - lr * optimizer.weight_decay * parameter


def forgetful(at: int) -> Patch:
    def change(
        name: str,
        optimizer: Any,
        lr: float,
        update: int,
        p: Any,
        g: Any,
        moments: Any,
        exact: Exact,
    ) -> Any:
        if update == at:
            moments.clear()
        return update_parameter(name, optimizer, lr, update, p, g, moments, exact)

    return updated(change)


def applied(rate: Callable[[float, int], float]) -> Patch:
    def change(
        name: str,
        optimizer: Any,
        lr: float,
        update: int,
        p: Any,
        g: Any,
        moments: Any,
        exact: Exact,
    ) -> Any:
        return update_parameter(name, optimizer, rate(lr, update), update, p, g, moments, exact)

    return updated(change)


def skipping(which: Callable[[str, int], bool]) -> Patch:
    def change(
        name: str,
        optimizer: Any,
        lr: float,
        update: int,
        p: Any,
        g: Any,
        moments: Any,
        exact: Exact,
    ) -> Any:
        after = update_parameter(name, optimizer, lr, update, p, g, moments, exact)
        return p if which(name, update) else after

    return updated(change)


def rates(change: Callable[[NDArray[Any]], NDArray[Any]]) -> Patch:
    return instead(
        "rate_tables",
        lambda original: lambda *a: {layer: change(t) for layer, t in original(*a).items()},
    )


def clipped(change: Callable[[Any, Any, Exact], Any]) -> Patch:
    return instead("clip", lambda _: change)


def each_alone(rule: Any, gradients: Any, exact: Exact) -> Any:
    return {name: clip(rule, {name: array}, exact)[name] for name, array in gradients.items()}


def each_batch(recipe: Recipe, parameters: Any, x: Any, y: Any, exact: Exact, masks: Any) -> Any:
    mean, gradients, found = loss_and_gradients(recipe, parameters, x, y, exact, masks=masks)
    return mean, clip(recipe.gradient, gradients, exact), found


def put(
    change: Callable[[str, NDArray[Any]], NDArray[Any]], *prefixes: str
) -> Callable[[Arrays], None]:
    """Another array in the place of every one below the prefixes."""

    def edit(arrays: Arrays) -> None:
        arrays.update(
            {
                name: change(name, array)
                for name, array in arrays.items()
                if name.startswith(prefixes)
            }
        )

    return edit


def measured(change: Callable[..., Any]) -> Patch:
    return instead("evaluate", lambda original: lambda *a: change(original, *a), oracle)


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
    Planted(
        "other-rows", "other rows of the training part", "batch", fed=lambda d: replace(d, seed=7)
    ),
    Planted(
        "dropped-last-batch",
        "short last batch",
        "batch",
        2,
        fed=lambda d: replace(d, drop_last=True),
    ),
    Planted(
        "other-order", "another order", "batch", edit=put(lambda n, v: v[::-1], "detail/0/batch/")
    ),
    Planted(
        "other-order",
        "rows of update 3",
        "batch",
        edit=lambda arrays: arrays.update(
            {
                k.replace("/3/", "/0/"): v
                for k, v in list(arrays.items())
                if k.startswith("detail/3/batch")
            }
        ),
    ),
    Planted(
        "padded-batch",
        "with 6 rows of zeros",
        "batch",
        2,
        edit=put(lambda n, v: np.concatenate([v, np.zeros((6, *v.shape[1:]))]), "detail/2/batch/"),
    ),
    Planted(
        "labels-shifted",
        "shifted against the rows by 1",
        "batch",
        edit=put(lambda n, v: np.roll(v, 1), "detail/0/batch/y"),
    ),
    Planted(
        "features-scaled",
        "not standardised",
        "batch",
        fed=lambda d: replace(d, train_x_ND=d.train_x_ND * d.scale_D + d.mean_D),
    ),
    Planted(
        "features-scaled",
        "scaled by 1.5",
        "batch",
        fed=lambda d: replace(d, train_x_ND=d.train_x_ND * 1.5),
    ),
    Planted(
        "features-rounded",
        "rounded to float32",
        "batch",
        fed=lambda d: replace(d, train_x_ND=d.train_x_ND.astype(np.float32).astype(float)),
    ),
    Planted(
        "other-mask",
        "drops the units that should stay",
        "batch",
        recipe=DROPOUT,
        edit=put(lambda n, v: ~v, "detail/0/batch/mask"),
    ),
    # initial parameters
    Planted(
        "init-transposed",
        "linear1.weight transposed",
        "init",
        -1,
        edit=put(lambda n, v: v.T, "parameters/0/linear1.weight"),
    ),
    Planted(
        "init-scaled",
        "linear2.weight by 1.414",
        "init",
        -1,
        edit=put(lambda n, v: v * np.sqrt(2), "parameters/0/linear2.weight"),
    ),
    Planted(
        "init-rounded",
        "rounded to float32",
        "init",
        -1,
        edit=put(lambda n, v: v.astype(np.float32).astype(float), "parameters/0/"),
    ),
    Planted(
        "other-init",
        "as flax",
        "init",
        -1,
        values={"model__init": "flax"},
        fed=lambda d: prepared(small_recipe(training__dtype="float64", model__init="flax")),
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
        edit=lambda arrays: [arrays.pop(k) for k in list(arrays) if "/gradients/" in k] and None,
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
            lambda m, masks: (replace(m, dropout=0.0), [np.ones_like(mask) for mask in masks])
        ),
    ),
    Planted(
        "dropout-scale",
        "does not scale",
        "forward",
        recipe=DROPOUT,
        patch=model_of(lambda m, masks: (replace(m, dropout=0.0), masks)),
    ),
    Planted(
        "dropout-scale",
        "as for a rate of 0.4",
        "forward",
        recipe=DROPOUT,
        patch=model_of(lambda m, masks: (replace(m, dropout=0.4), masks)),
    ),
    Planted(
        "other-mask",
        "other units than its mask",
        "forward",
        recipe=DROPOUT,
        patch=model_of(lambda m, masks: (m, [np.roll(mask, 1, 0) for mask in masks])),
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
        patch=stale(lambda seen: seen[-2:][0]),
    ),
    Planted("stale-parameters", "of the start", "forward", 2, patch=stale(lambda seen: seen[0])),
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
        edit=put(lambda n, v: 0 * v, "detail/0/gradients/linear1.bias"),
    ),
    Planted(
        "accumulation-sum",
        "2 batches",
        "loss",
        recipe=TWO,
        patch=instead(
            "accumulate",
            lambda f: (
                lambda so_far, terms, share, exact: (
                    f(so_far, terms, 1.0, exact)
                    if not so_far
                    else {k: so_far[k] + v for k, v in terms.items()}
                )
            ),
        ),
    ),
    Planted(
        "accumulation-mean",
        "by rows",
        "loss",
        1,
        recipe=TWO | {"training__batch": 25},
        values={"gradient__accumulate_mean": "rows"},
        fed=lambda d: replace(d, accumulate_mean="rows"),
    ),
    Planted(
        "l2-in-gradient",
        "weight decay of 0.05",
        "gradients",
        recipe=DECAYED,
        edit=lambda arrays: arrays.update(
            {
                k: v + 0.05 * arrays[k.replace("detail/0/gradients", "parameters/0")]
                for k, v in arrays.items()
                if k.startswith("detail/0/gradients")
            }
        ),
    ),
    # the clip
    Planted(
        "clip-missing",
        "does not clip",
        "clip",
        recipe=CLIP,
        patch=clipped(lambda rule, g, exact: g),
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
    Planted("lr-late", "one update late", "lr", 3, patch=rates(lambda t: np.append(t[0], t[:-1]))),
    Planted(
        "lr-early", "one update early", "lr", 2, patch=rates(lambda t: np.append(t[1:], t[-1]))
    ),
    Planted(
        "lr-rounded",
        "rounded to float32",
        "lr",
        patch=rates(lambda t: t.astype(np.float32).astype(float)),
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
        patch=updated(
            lambda n, o, lr, u, p, g, m, e: update_parameter(
                n, replace(o, weight_decay=0.0), lr, u, p, g + o.weight_decay * p, m, e
            )
        ),
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
        patch=updated(
            lambda n, o, lr, u, p, g, m, e: (
                update_parameter(n, replace(o, weight_decay=0.0), lr, u, p, g, m, e)
                - o.weight_decay * p
            )
        ),
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
        patch=updated(
            lambda n, o, lr, u, p, g, m, e: update_parameter(n, o, lr, u % 3, p, g, m, e)
        ),
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
        patch=updated(
            lambda n, o, lr, u, p, g, m, e: update_parameter(n, o, lr, u, p, 0.25 * g, m, e)
        ),
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
        patch=clipped(lambda rule, g, exact: g),
        edit=lambda arrays: arrays.update({k: 0.5 * v for k, v in arrays.items() if "/clip/" in k}),
    ),
    Planted(
        "moments-rounded",
        "bfloat16",
        "moments",
        edit=lambda arrays: arrays.update(
            {
                k: trajectory._to_bfloat16(v)
                for k, v in arrays.items()
                if k.startswith("detail/0/moments")
            }
        ),
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
        patch=measured(lambda f, p, s, *rest: f(p, None, *rest)),
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
        edit=put(lambda n, v: 100 * v, "epochs/train_accuracy", "epochs/held_out_accuracy"),
    ),
    Planted(
        "mean-of-means",
        "updates' losses",
        "metrics",
        2,
        "train_loss",
        edit=lambda arrays: arrays.update(
            {"epochs/train_loss": arrays["updates/loss"].reshape(-1, 3).mean(axis=1)}
        ),
    ),
]


def stale_metrics() -> Arrays:
    recipe = small_recipe(training__dtype="float64")
    trace, data = right(recipe), prepared(recipe)
    rows = trajectory.rows_of(recipe, data)
    found: Arrays = {}
    for part, x, y in (
        ("train", rows.train_x_ND, rows.train_y_N),
        ("held_out", rows.held_out_x_ND, rows.held_out_y_N),
    ):
        values = trajectory.evaluate(
            {k: np.atleast_2d(v) for k, v in trace.parameters(2).items()}, {}, x, y, recipe, Exact()
        )[0]
        found |= {
            f"epochs/{part}_{name}": np.full(4, float(value)) for name, value in values.items()
        }
    return found


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
    """Both alternatives are within the tolerance: the nearer one is the cause."""
    fault = Planted(
        "other-decay", "", "update", recipe=ADAMW, values={"optimizer__weight_decay": 1e-4}
    )
    truth, trace = planted(fault, monkeypatch)
    narrow = Trace(
        trace.header | {"dtype": "float32"},
        {k: rounded(v, "float32") for k, v in trace.arrays.items()},
    )
    cause = find_cause(first("update"), truth, narrow)
    assert cause is not None
    assert cause.key == "other-decay"
    assert "weight_decay = 0.0001" in cause.text


def named_pages() -> set[str]:
    """The third argument of every alternative that is written as one in the package, and the pages
    of its tables.
    """
    calls = [
        node
        for path in Path(causes.__path__[0]).glob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("Alternative", "fitted")
    ]
    written = [call.args[2].value for call in calls if isinstance(call.args[2], ast.Constant)]
    assert len(written) > 50
    return {
        str(page) for page in (*written, *knobs.PAGES.values(), *relations.PAGES.values()) if page
    }


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
STAGES = [
    "init",
    "batch",
    "forward",
    "loss",
    "gradients",
    "clip",
    "lr",
    "moments",
    "update",
    "average",
    "metrics",
]


@pytest.mark.parametrize("values", NULLS, ids=str)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_a_right_run_has_no_cause(values: dict[str, Any], dtype: str) -> None:
    truth = right(small_recipe(training__dtype=dtype, **values))
    trace = Trace(
        truth.header | {"backend": "torch", "dtype": dtype},
        {k: rounded(v, dtype) for k, v in truth.arrays.items()},
    )
    for stage in STAGES:
        for update in (0, 2):
            assert find_cause(first(stage, update), truth, trace) is None, (stage, update)


# ---- in a lower precision than the run's


LOWER = ("float32", "float16", "bfloat16")


def low(format_name: str) -> Callable[[Any], Any]:
    """A function that takes and gives its arrays in a lower precision."""

    def make(original: Any) -> Any:
        def computed(*values: Any) -> Any:
            args = [
                rounded_to(format_name, v)
                if isinstance(v, np.ndarray) and v.dtype.kind == "f"
                else v
                for v in values
            ]
            result = original(*args)
            parts = [rounded_to(format_name, np.asarray(part)) for part in np.atleast_1d(result)]
            return np.stack(parts) if isinstance(result, np.ndarray) and result.ndim else parts[0]

        return computed

    return make


def products_in(format_name: str) -> Patch:
    """Matrix products of the forward and backward pass; biases are added in the run's precision."""

    class Low(Exact):
        def dot(self, a: Any, b: Any) -> Any:
            return rounded_to(
                format_name, super().dot(rounded_to(format_name, a), rounded_to(format_name, b))
            )

    return instead("Exact", lambda _: Low, oracle)


def loss_in(format_name: str) -> Patch:
    def make(original: Any) -> Any:
        def loss(rule: Any, outputs: Any, y: Any, exact: Exact) -> Any:
            mean, slope = original(rule, rounded_to(format_name, outputs), y, exact)
            return rounded_to(format_name, np.asarray(mean)), rounded_to(format_name, slope)

        return loss

    return instead("loss_and_slope", make, network)


def reported_in(format_name: str) -> Patch:
    def change(recipe: Recipe, parameters: Any, x: Any, y: Any, exact: Exact, masks: Any) -> Any:
        mean, gradients, found = loss_and_gradients(recipe, parameters, x, y, exact, masks=masks)
        return rounded_to(format_name, np.asarray(mean)), gradients, found

    return passed(change)


def stepped_in(format_name: str, *, stored: bool) -> Patch:
    """An optimizer that computes in a lower precision and adds its step to float64 parameters, or
    stores those.
    """

    def change(
        name: str,
        optimizer: Any,
        lr: float,
        update: int,
        p: Any,
        g: Any,
        moments: Any,
        exact: Exact,
    ) -> Any:
        narrow = rounded_to(format_name, p)
        after = update_parameter(name, optimizer, lr, update, narrow, g, moments, exact)
        step = rounded_to(format_name, after - narrow)
        return rounded_to(format_name, narrow + step) if stored else p + step

    return updated(change)


def remembered_in(format_name: str) -> Patch:
    """Moments that are computed in a lower precision, not only stored in it."""

    def change(
        name: str,
        optimizer: Any,
        lr: float,
        update: int,
        p: Any,
        g: Any,
        moments: Any,
        exact: Exact,
    ) -> Any:
        for slot, array in moments.items():
            moments[slot] = rounded_to(format_name, array)
        after = update_parameter(
            name, optimizer, lr, update, p, rounded_to(format_name, g), moments, exact
        )
        for slot, array in moments.items():
            moments[slot] = rounded_to(format_name, array)
        return after

    return updated(change)


def gradients_in(format_name: str) -> Patch:
    def change(recipe: Recipe, parameters: Any, x: Any, y: Any, exact: Exact, masks: Any) -> Any:
        narrow = {name: rounded_to(format_name, array) for name, array in parameters.items()}
        mean, _, found = loss_and_gradients(recipe, parameters, x, y, exact, masks=masks)
        gradients = loss_and_gradients(recipe, narrow, x, y, exact, masks=masks)[1]
        return (
            mean,
            {name: rounded_to(format_name, array) for name, array in gradients.items()},
            found,
        )

    return passed(change)


ACTIVATIONS = (
    "leaky_relu",
    "tanh",
    "sigmoid",
    "silu",
    "gelu",
    "gelu_tanh",
    "elu",
    "softplus",
    "mish",
    "relu",
)
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


def rounded(array: NDArray[Any], dtype: str) -> NDArray[Any]:
    return array.astype(dtype) if array.dtype.kind == "f" else array


# ---- without a recipe


def loop(gradients: Arrays, update: int = 0, family: str = "gradients", **more: Any) -> Trace:
    """A trace of somebody's loop with these tensors at an update."""
    arrays = {f"detail/{update}/{family}/{name}": array for name, array in gradients.items()}
    return Trace(
        {"kind": "loop", "backend": "torch", "settings": more.pop("settings", {})}, arrays | more
    )


def normal(*shape: int, seed: int = 0) -> NDArray[Any]:
    return np.random.default_rng((seed, *shape)).standard_normal(shape)


W, V = normal(6, 6), normal(6, 6, seed=1)
KERNEL = normal(3, 3, 2, 4)
RELATIONS: list[tuple[str, str, NDArray[Any], NDArray[Any]]] = [
    ("kernel-transposed", "transposed", W, W.T),
    (
        "axes",
        "axes in the order (3, 2, 0, 1)",
        normal(3, 3, 3, 3),
        normal(3, 3, 3, 3).transpose(3, 2, 0, 1),
    ),
    ("flipped", "both axes (0, 1) reversed", KERNEL, KERNEL[::-1, ::-1]),
    ("permuted", "another order along its last axis", W, W[:, [2, 0, 1, 5, 3, 4]]),
    ("gradient-sign", "other sign", W, -W),
    ("gradient-missing", "is 0", W, 0 * W),
    ("gradient-scaled", "32 times a's: batch", W, 32 * W),
    ("gradient-scaled", "0.37 times a's", W, 0.37 * W),
    ("rounded", "rounded to bfloat16", W, trajectory._to_bfloat16(W)),
    ("rounded", "rounded to float32", W, W.astype(np.float32).astype(float)),
    ("rounded", "rounded to float16", W, W.astype(np.float16).astype(float)),
]


@pytest.mark.parametrize(
    ("key", "says", "mine", "its"), RELATIONS, ids=[f"{key}: {says}" for key, says, *_ in RELATIONS]
)
def test_a_relation_of_two_loops_is_found(
    key: str, says: str, mine: NDArray[Any], its: NDArray[Any]
) -> None:
    a, b = (loop({"conv.weight": array}, settings={"batch": 32}) for array in (mine, its))
    cause = find_cause(first("gradients", tensor="conv.weight"), a, b)
    assert cause is not None
    assert (cause.key, cause.side) == (key, ""), cause
    assert says in cause.text, cause
    # with an oracle it is known who is off
    known = find_cause(first("gradients", tensor="conv.weight"), b, a, oracle=a)
    assert known is not None
    assert (known.key, known.side) == (key, "a"), known


@pytest.mark.parametrize(("before", "its"), [(V, V), (V, V + W)], ids=["late", "summed"])
def test_a_stale_gradient_of_a_loop_is_found(before: NDArray[Any], its: NDArray[Any]) -> None:
    a, b = (loop({"w": array}, update=1, **{"detail/0/gradients/w": before}) for array in (W, its))
    cause = find_cause(first("gradients", 1, "w"), a, b)
    assert cause is not None
    assert cause.key == "gradient-stale"
    assert "update before" in cause.text


def test_a_decay_that_one_loop_has_is_found_and_measured() -> None:
    rate, decay = 0.1, 0.02
    a, b = (
        loop({"w": V}, **{"parameters/0/w": W, "parameters/1/w": W - rate * (V + wd * W)})
        for wd in (0.0, decay)
    )
    cause = find_cause(first("parameters", 0, "w"), a, b)
    assert cause is not None
    assert cause.key == "other-decay"
    assert "plus -0.002 times the parameter" in cause.text


def test_a_loop_that_declares_its_optimizer_is_recomputed() -> None:
    """No name of a recipe, no oracle's trace: the settings and the detail are enough to say which
    side is off.
    """
    header = {
        "optimizer": {"name": "adamw", "beta2": 0.95, "weight_decay": 0.1, "lr": 0.01},
        "batch": 8,
    }
    tensors = {"Dense_0/kernel": W, "Dense_0/bias": normal(6)}
    gradients = {name: normal(*array.shape, seed=3) for name, array in tensors.items()}

    def run(decay: float) -> Trace:
        optimizer = Recipe.from_dict(
            {"optimizer": {"name": "adamw", "beta2": 0.95, "weight_decay": decay}}
        ).optimizer
        arrays: Arrays = {"updates/lr": np.array([0.01])}
        for name, array in tensors.items():
            moments: dict[str, Any] = {}
            after = update_parameter(
                "linear1.weight", optimizer, 0.01, 0, array, gradients[name], moments, Exact()
            )
            arrays |= {f"parameters/0/{name}": array, f"parameters/1/{name}": after}
            arrays |= {f"detail/0/moments/{slot}/{name}": value for slot, value in moments.items()}
        return loop(gradients, settings=header, **arrays)

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
    row, unit = map(
        int, np.argwhere((z > 0) & (z == np.where(z > 0, z, np.inf).min(axis=1, keepdims=True)))[0]
    )
    weight = {name: np.atleast_2d(array) for name, array in truth.parameters(0).items()}

    class Flipped(Exact):
        def positive(self, z: Any) -> Any:
            passes = z > 0
            if z.shape[-1] == recipe.model.hidden[0]:
                passes[row, unit] = False
            return passes

    x, y = (truth.arrays[f"detail/0/batch/{name}"] for name in "xy")
    gradients = trajectory.canonical(loss_and_gradients(recipe, weight, x, y, Flipped())[1])
    near, below = z.copy(), z.copy()
    near[row, unit], below[row, unit] = 1e-9, -1e-9  # what rounding left of 0 on either side
    header = truth.header | {"backend": "torch", "dtype": "float32"}
    a = Trace(header, truth.arrays | {"detail/0/forward/linear1": near})
    b = Trace(
        header,
        truth.arrays
        | {"detail/0/forward/linear1": below}
        | {f"detail/0/gradients/{name}": array for name, array in gradients.items()},
    )
    cause = find_cause(first("gradients", 0, "linear1.weight"), a, b)
    assert cause is not None
    assert cause.key == "relu-flip"
    assert f"unit {unit} of linear1 in row {row}" in cause.text


def test_a_rate_off_by_its_last_bit_is_rounding() -> None:
    truth = right(small_recipe())
    rates = truth.arrays["updates/lr"].astype(np.float32)
    a, b = (
        Trace(
            truth.header | {"backend": name, "dtype": "float32"},
            truth.arrays | {"updates/lr": array},
        )
        for name, array in (("torch", rates), ("jax", np.nextafter(rates, np.float32(1))))
    )
    cause = find_cause(first("lr", 0, "lr"), a, b)
    assert cause is not None
    assert (cause.key, cause.side) == ("lr-rounded", "b")
    assert find_cause(first("lr", 0, "lr"), a, a) is None


def test_what_is_no_number_is_named() -> None:
    truth = right(small_recipe(training__dtype="float64"))
    broken = Trace(
        truth.header | {"backend": "jax"},
        truth.arrays | {"updates/loss": np.full_like(truth.arrays["updates/loss"], np.nan)},
    )
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
    a, b = (
        loop(
            {name: generator.standard_normal(shape).astype(dtype) for name in ("v", "w")},
            1,
            family,
            **{
                f"detail/0/{family}/w": generator.standard_normal(shape).astype(dtype),
                "parameters/1/w": generator.standard_normal(shape).astype(dtype),
            },
        )
        for _ in range(2)
    )
    assert find_cause(first(family, 1, "w"), a, b) is None
