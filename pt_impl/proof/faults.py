"""The faults of `lockstep.studies.prove.faults`, planted in this twin's code by their keys."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pkgutil import resolve_name
from typing import Any
from unittest.mock import patch

import numpy as np
import torch

from lockstep.recipe.optimizers.adam import Adam
from lockstep.recipe.optimizers.sgd import Sgd
from pt_impl.model import MLP
from pt_impl.optimizers.from_rule import Groups, from_rule
from pt_impl.predict import Rows

__all__ = ["PLANTS", "planted"]

Change = Callable[[Any], Any]
"""The original of a name -> its replacement."""

BATCH = 32


@contextmanager
def planted(key: str) -> Iterator[None]:
    """The twin with a fault in it until the block ends; without one if `PLANTS` lacks the key."""
    changes = PLANTS.get(key, {})
    with ExitStack() as stack:
        for target, change in changes.items():
            stack.enter_context(
                patch(f"pt_impl.{target}", change(resolve_name(f"pt_impl.{target}")))
            )
        yield


def _transposed(original: Any) -> Any:
    return lambda layer, x_BD: x_BD @ layer.weight + layer.bias


def _biasless(original: Any) -> Any:
    return lambda layer, x_BD: original(layer, x_BD) - layer.bias


def _nudged(original: Any) -> Any:
    """0 becomes 1e-20; no other number changes."""
    return lambda *arguments: original(*arguments) + 1e-20


def _relu_passing_at_0(z: torch.Tensor) -> torch.Tensor:
    """ReLU with the slope 1 at 0, by a comparison: the slope of `clamp` depends on the release."""
    return torch.where(z >= 0, z, torch.zeros_like(z))


def _masked_by(change: Callable[[torch.Tensor], torch.Tensor]) -> Change:
    """The forward pass with other dropout masks than those recorded."""

    def changed(original: Any) -> Any:
        def outputs(self: Any, x_BD: Any, masks: Any = (), *rest: Any) -> Any:
            return original(self, x_BD, [change(mask) for mask in masks], *rest)

        return outputs

    return changed


class _LowProduct(torch.autograd.Function):
    """x @ weight, (B, in) and (in, out), with factors in bfloat16, forward and backward."""

    @staticmethod
    def forward(ctx: Any, x_BD: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """The product of the rounded factors."""
        ctx.save_for_backward(_low(x_BD), _low(weight))
        return _low(x_BD) @ _low(weight)

    @staticmethod
    def backward(ctx: Any, *slopes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The gradients by both factors."""
        x_BD, weight = ctx.saved_tensors
        (slope,) = slopes
        return _low(slope) @ weight.T, x_BD.T @ _low(slope)


def _low(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.to(torch.bfloat16).to(tensor.dtype)


def _in_bfloat16(original: Any) -> Any:
    product: Any = _LowProduct.apply
    return lambda layer, x_BD: product(x_BD, layer.weight.T) + layer.bias


def _traced(original: Any) -> Any:
    """Layers that compute with their first parameters; gradients pass as with the present ones."""
    first: dict[Any, tuple[torch.Tensor, torch.Tensor]] = {}

    def stale(parameter: torch.Tensor, old: torch.Tensor) -> torch.Tensor:
        return parameter + (old - parameter).detach()

    def linear(layer: Any, x_BD: torch.Tensor) -> torch.Tensor:
        if layer not in first:
            first[layer] = layer.weight.detach().clone(), layer.bias.detach().clone()
        weight, bias = first[layer]
        return torch.nn.functional.linear(
            x_BD, stale(layer.weight, weight), stale(layer.bias, bias)
        )

    return linear


def _unbiased(original: Any) -> Any:
    def forward(self: Any, z_BH: torch.Tensor) -> torch.Tensor:
        centred_BH = z_BH - z_BH.mean(-1, keepdim=True)
        variance_B1 = z_BH.var(-1, correction=1, keepdim=True)
        normalised_BH = centred_BH / torch.sqrt(variance_B1 + self.eps)
        outputs_BH: torch.Tensor = normalised_BH * self.weight + self.bias
        return outputs_BH

    return forward


def _evaluating(original: Any) -> Any:
    def make(*arguments: Any) -> Any:
        norm = original(*arguments).eval()
        norm.train = lambda mode=True: norm
        return norm

    return make


def _loss_times(factor: Callable[[Any], Any]) -> Change:
    """The mean loss times factor(rows that count)."""
    return lambda original: (
        lambda loss, outputs_BK, y_B, count: original(loss, outputs_BK, y_B, count) * factor(count)
    )


def _gradient_times(factor: float) -> Change:
    """The mean loss unchanged, and its gradient times a factor."""

    def change(original: Any) -> Any:
        def mean_loss(*arguments: Any) -> torch.Tensor:
            loss: torch.Tensor = original(*arguments)
            return loss.detach() + factor * (loss - loss.detach())

        return mean_loss

    return change


def _by_rows(original: Any) -> Any:
    """The weighted loss averaged over rows, and not over weights."""

    def mean_loss(loss: Any, outputs_BK: torch.Tensor, y_B: torch.Tensor, count: int) -> Any:
        weight_B = outputs_BK.new_tensor(loss.class_weights)[y_B[:count]]
        return original(loss, outputs_BK, y_B, count) * weight_B.sum() / count

    return mean_loss


def _last_class(original: Any) -> Any:
    return lambda loss, outputs_BK, y_B, count: original(
        loss, outputs_BK, y_B % outputs_BK.shape[-1], count
    )


def _cut_off(activations: Any) -> Any:
    return activations | {"relu": lambda z: torch.relu(z).detach() + 0 * z}


def _clipped_as(**other: Any) -> Change:
    return lambda original: (
        lambda gradient, parameters: original(replace(gradient, **other), parameters)
    )


def _each_clipped(original: Any) -> Any:
    return lambda gradient, parameters: [
        original(gradient, [parameter]) for parameter in parameters
    ]


def _shifted(shift: Callable[[Any], Any]) -> Change:
    """The schedule at another update."""

    def change(original: Any) -> Any:
        def make_schedule(table_T: Any) -> Any:
            schedule = original(table_T)
            return lambda update: schedule(shift(update))

        return make_schedule

    return change


def _rounded(original: Any) -> Any:
    return lambda *arguments: {
        layer: table_T.astype(np.float32).astype(table_T.dtype)
        for layer, table_T in original(*arguments).items()
    }


def _half_applied(original: Any) -> Any:
    def make_optimizer(*arguments: Any) -> Any:
        optimizer, scheduler = original(*arguments)
        group = optimizer.param_groups[0]
        optimizer.register_step_pre_hook(lambda *_: group.update(lr=group["lr"] / 2))
        optimizer.register_step_post_hook(lambda *_: group.update(lr=group["lr"] * 2))
        return optimizer, scheduler

    return make_optimizer


def _sgd(rule: Callable[..., Any]) -> Change:
    """SGD by a rule: (optimizer, lr, update, parameter, gradient, momentum) -> step, momentum."""

    def start(optimizer: Sgd, parameter: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"momentum": torch.zeros_like(parameter)}

    def step(
        optimizer: Sgd, lr: Any, update: Any, parameter: Any, gradient: Any, moments: Any
    ) -> Any:
        change, momentum = rule(optimizer, lr, update, parameter, gradient, moments["momentum"])
        return change, {"momentum": momentum}

    def make(optimizer: Sgd, groups: Groups) -> Any:
        return from_rule(optimizer, groups, start, step)

    return lambda makers: makers | {"sgd": make}


def _ascending(
    optimizer: Sgd, lr: Any, update: Any, parameter: Any, gradient: Any, before: Any
) -> Any:
    momentum = optimizer.momentum * before + gradient
    return -lr * momentum, momentum


def _forgetting(
    optimizer: Sgd, lr: Any, update: Any, parameter: Any, gradient: Any, before: Any
) -> Any:
    momentum = optimizer.momentum * before * (update % 3 != 0) + gradient
    return lr * momentum, momentum


def _skipping(
    optimizer: Sgd, lr: Any, update: Any, parameter: Any, gradient: Any, before: Any
) -> Any:
    momentum = optimizer.momentum * before + gradient
    return lr * momentum * (update != 5), momentum


def _not_a_number(
    optimizer: Sgd, lr: Any, update: Any, parameter: Any, gradient: Any, before: Any
) -> Any:
    momentum = optimizer.momentum * before + gradient
    return lr * momentum + torch.where(torch.tensor(update == 5), torch.nan, 0.0), momentum


def _decaying_late(
    optimizer: Sgd, lr: Any, update: Any, parameter: Any, gradient: Any, before: Any
) -> Any:
    # the gradient has the decay in it already
    decay = optimizer.weight_decay * parameter
    momentum = optimizer.momentum * before + (gradient - decay)
    return lr * (momentum + decay), momentum


def _uncorrected(makers: Any) -> Any:
    """Adam without bias correction."""

    def start(optimizer: Adam, parameter: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"first": torch.zeros_like(parameter), "second": torch.zeros_like(parameter)}

    def step(
        optimizer: Adam, lr: Any, update: Any, parameter: Any, gradient: Any, moments: Any
    ) -> Any:
        first = optimizer.beta1 * moments["first"] + (1 - optimizer.beta1) * gradient
        second = optimizer.beta2 * moments["second"] + (1 - optimizer.beta2) * gradient**2
        return lr * first / (torch.sqrt(second) + optimizer.eps), {"first": first, "second": second}

    def make(optimizer: Adam, groups: Groups) -> Any:
        return from_rule(optimizer, groups, start, step)

    return makers | {"adam": make}


def _in_training_mode(original: Any) -> Any:
    def evaluate(*arguments: Any) -> Any:
        with patch.object(MLP, "eval", lambda self: self):
            return original(*arguments)

    return evaluate


def _mean_of_means(original: Any) -> Any:
    def evaluate(loss: Any, model: MLP, rows: Rows) -> Any:
        parts = []
        for i in range(0, len(rows.y_N), BATCH):
            batch = Rows(rows.x_ND[i : i + BATCH], rows.y_N[i : i + BATCH])
            parts.append(original(loss, model, batch))
        means = {}
        for name in parts[0]:
            means[name] = sum(part[name] for part in parts) / len(parts)
        return means

    return evaluate


def _above_half(original: Any) -> Any:
    return lambda loss, outputs_NK, y_N: original(loss, outputs_NK - 0.5, y_N)


def _of_loss(change: Change) -> dict[str, Change]:
    """A change of the mean loss, in training and in evaluation."""
    return {"update.mean_loss": change, "predict.mean_loss": change}


PLANTS: dict[str, dict[str, Change]] = {
    "kernel-transposed": {"model._Linear.forward": _transposed},
    "bias-missing": {"model._Linear.forward": _biasless},
    "activation-leaky": {"model.ACTIVATIONS": lambda every: every | {"relu": every["leaky_relu"]}},
    "activation-gelu-tanh": {
        "model.ACTIVATIONS": lambda every: every | {"gelu": every["gelu_tanh"]}
    },
    "activation-silu": {"model.ACTIVATIONS": lambda every: every | {"gelu": every["silu"]}},
    "norm-unbiased": {"norm.nn.LayerNorm.forward": _unbiased},
    "norm-evaluating": {"model.make_norm": _evaluating},
    "dropout-missing": {"model.MLP.outputs": _masked_by(torch.ones_like)},
    "dropout-inverted": {"model.MLP.outputs": _masked_by(torch.logical_not)},
    "products-in-bfloat16": {"model._Linear.forward": _in_bfloat16},
    "parameters-stale": {"model._Linear.forward": _traced},
    "loss-sum": _of_loss(_loss_times(lambda count: count)),
    "loss-full-size": _of_loss(_loss_times(lambda count: count / BATCH)),
    "loss-half": _of_loss(_loss_times(lambda count: 0.5)),
    "loss-weighted-by-rows": _of_loss(_by_rows),
    "loss-ignored-counts": _of_loss(_last_class),
    "gradients-doubled": _of_loss(_gradient_times(2.0)),
    "gradients-negated": _of_loss(_gradient_times(-1.0)),
    "gradients-missing": {"model.ACTIVATIONS": _cut_off},
    "gradients-summed": _of_loss(_gradient_times(2.0)),
    "gradients-not-cleared": {
        "update.torch.optim.SGD.zero_grad": lambda original: lambda self, set_to_none: None
    },
    "gradients-at-the-kink": {
        "model.ACTIVATIONS": lambda every: every | {"relu": _relu_passing_at_0}
    },
    "gradients-relu-flipped": {"model._Linear.forward": _nudged},
    "clip-missing": {"update.clip": _clipped_as(clip="none")},
    "clip-by-value": {"update.clip": _clipped_as(clip="value")},
    "clip-per-tensor": {"update.clip": _each_clipped},
    "lr-late": {"train.make_schedule": _shifted(lambda update: update - (update > 0))},
    "lr-early": {"train.make_schedule": _shifted(lambda update: update + 1)},
    "lr-rounded": {"train.rate_tables": _rounded},
    "lr-half-applied": {"train.make_optimizer": _half_applied},
    "momentum-forgotten": {"optimizer.MAKERS": _sgd(_forgetting)},
    "update-ascends": {"optimizer.MAKERS": _sgd(_ascending)},
    "update-skipped": {"optimizer.MAKERS": _sgd(_skipping)},
    "update-not-a-number": {"optimizer.MAKERS": _sgd(_not_a_number)},
    "decay-after-momentum": {"optimizer.MAKERS": _sgd(_decaying_late)},
    "adam-no-bias-correction": {"optimizer.MAKERS": _uncorrected},
    "metrics-in-training-mode": {"io.view.evaluate": _in_training_mode},
    "metrics-mean-of-means": {"io.view.evaluate": _mean_of_means},
    "metrics-threshold": {"predict.sums": _above_half},
}
"""Key -> name in the twin -> its change."""
