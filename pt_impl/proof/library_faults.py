"""The faults of `lockstep.studies.prove.library_faults`, planted in the framework by their keys.

They are planted before this twin is imported.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch._dynamo  # torch.optim loads it in two seconds: here it is loaded once for all faults

from lockstep.studies.prove.library_faults import LIBRARY_FAULTS
from lockstep.studies.prove.library_patches import (
    Change,
    argument,
    by_name,
    called_with,
    patch_library,
    result,
)

__all__ = ["PLANTS", "hasten", "plant"]

Tensor = torch.Tensor

SLIGHTLY = 1 + 1e-6
BATCH_NORM = "input running_mean running_var weight bias training momentum eps"
"""The arguments of `functional.batch_norm`."""


def plant(key: str) -> None:
    """Plant a fault in the library, for as long as this process lives."""
    patch_library(LIBRARY_FAULTS[key].function, PLANTS[key])


def hasten() -> None:
    """No change: PyTorch compiles nothing."""


def _in_float32(original: Any) -> Any:
    """The function, computed in float32."""

    def computed(*arguments: Any, **named: Any) -> Any:
        low = [_low(value) for value in arguments]
        low_named = {name: _low(value) for name, value in named.items()}
        output = original(*low, **low_named)
        is_wide = any(map(_is_wide, [*arguments, *named.values()]))
        return output.double() if is_wide else output

    return computed


def _is_wide(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dtype == torch.float64


def _low(value: Any) -> Any:
    return value.float() if _is_wide(value) else value


def _out_in_float32(original: Any) -> Any:
    """The function, whose output is rounded to float32."""

    def computed(*arguments: Any, out: Any = None, grad_input: Any = None, **named: Any) -> Any:
        place = out if out is not None else grad_input
        if place is None:
            return original(*arguments, **named)
        kind = "out" if out is not None else "grad_input"
        original(*arguments, **named, **{kind: place})
        return place.copy_(place.float())

    return computed


def _out_times(factor: float) -> Change:
    """The function, whose output is multiplied by a factor."""

    def change(original: Any) -> Any:
        def computed(*arguments: Any, out: Any = None, **named: Any) -> Any:
            if out is None:
                return original(*arguments, **named)
            return original(*arguments, out=out, **named).mul_(factor)

        return computed

    return change


def _in_place_times(factor: float) -> Change:
    return lambda original: (
        lambda self, *arguments, **named: original(self, *arguments, **named).mul_(factor)
    )


def _shifted_steps(shift: float) -> Change:
    """Adam and its kin with another count of updates, which is their last list."""

    def change(original: Any) -> Any:
        def stepped(*lists: Any, **named: Any) -> None:
            *others, steps = lists
            original(*others, [step + shift for step in steps], **named)
            for step in steps:
                step += 1

        return stepped

    return change


def _momentum_from_zero(original: Any) -> Any:
    def sgd(parameters: Any, gradients: Any, momenta: Any, *rest: Any, **named: Any) -> None:
        for i, momentum in enumerate(momenta):
            if momentum is None:
                momenta[i] = torch.zeros_like(parameters[i])
        original(parameters, gradients, momenta, *rest, **named)

    return sgd


def _skipping(original: Any) -> Any:
    """The optimizer that does not apply every sixth update."""
    steps = 0

    def step(self: Any, closure: Any = None) -> Any:
        nonlocal steps
        steps += 1
        return None if steps % 6 == 0 else original(self, closure)

    return step


def _of_first_group(original: Any) -> Any:
    def add_param_group(self: Any, group: Any) -> None:
        original(self, group)
        group["weight_decay"] = self.param_groups[0]["weight_decay"]

    return add_param_group


def _rate(change: Callable[[Any, Any], Any]) -> Change:
    """`LambdaLR.get_lr` with the rate change(lambda, number of updates)."""

    def rates(scheduler: Any) -> list[Any]:
        pairs = zip(scheduler.lr_lambdas, scheduler.base_lrs)
        return [base * change(rate, scheduler.last_epoch) for rate, base in pairs]

    return lambda original: rates


def _first_rate(original: Any) -> Any:
    return lambda self: [base * self.lr_lambdas[0](self.last_epoch) for base in self.base_lrs]


def _without_eps(original: Any) -> Any:
    def clip(parameters: Any, max_norm: float, **named: Any) -> Tensor:
        gradients = [parameter.grad for parameter in parameters]
        norms = [torch.linalg.vector_norm(gradient) for gradient in gradients]
        norm: Tensor = torch.linalg.vector_norm(torch.stack(norms))
        for gradient in gradients:
            gradient.mul_(torch.clamp(max_norm / norm, max=1.0))
        return norm

    return clip


def _each_clipped(original: Any) -> Any:
    return lambda parameters, *rest, **named: [
        original([parameter], *rest, **named) for parameter in parameters
    ]


def _wider(original: Any) -> Any:
    return lambda parameters, value, *rest, **named: original(
        parameters, value * SLIGHTLY, *rest, **named
    )


def _biasless(original: Any) -> Any:
    return lambda x_BD, weight, bias=None: original(
        x_BD, weight, None if bias is None else 0 * bias
    )


def _gradient_slightly(original: Any) -> Any:
    """The value unchanged, and the gradient by the weight slightly too large."""

    def linear(x_BD: Tensor, weight: Tensor, bias: Tensor | None = None) -> Any:
        return original(x_BD, weight + (SLIGHTLY - 1) * (weight - weight.detach()), bias)

    return linear


def _backward_slightly(original: Any) -> Any:
    return lambda self, *rest, **named: original(self, torch.full_like(self, SLIGHTLY))


def _leaky(original: Any) -> Any:
    return lambda z: torch.where(z > 0, z, 1e-6 * z)


def _unbiased(original: Any) -> Any:
    def layer_norm(
        z_BH: Tensor, shape: Any, weight: Tensor, bias: Tensor, eps: float = 1e-5
    ) -> Tensor:
        variance_B1 = z_BH.var(-1, correction=1, keepdim=True)
        normalised_BH: Tensor = (z_BH - z_BH.mean(-1, keepdim=True)) / torch.sqrt(variance_B1 + eps)
        return normalised_BH * weight + bias

    return layer_norm


def _always_training(original: Any) -> Any:
    """Batch normalisation in training mode, which needs more than one row."""

    def batch_norm(*arguments: Any, **named: Any) -> Any:
        values = dict(zip(BATCH_NORM.split(), arguments)) | named
        is_training = values["training"] or len(values["input"]) > 1
        return original(**values | {"training": is_training})

    return batch_norm


def _last_class(original: Any) -> Any:
    return lambda outputs_BK, y_B, **named: original(
        outputs_BK, y_B % outputs_BK.shape[-1], **named
    )


def _over_rows(original: Any) -> Any:
    """The weighted loss averaged over rows, and not over weights."""

    def cross_entropy(outputs_BK: Tensor, y_B: Tensor, **named: Any) -> Any:
        return original(outputs_BK, y_B, **named | {"reduction": "sum"}) / len(y_B)

    return cross_entropy


def _copied_low(original: Any) -> Any:
    """Copies between tensors of float64 that lose the digits beyond float32."""
    return lambda self, source, *rest, **named: original(self, _low(source), *rest, **named)


def _read_low(original: Any) -> Any:
    def from_numpy(array: Any) -> Tensor:
        tensor: Tensor = original(array)
        return tensor.float().double() if _is_wide(tensor) else tensor

    return from_numpy


def _every_second(original: Any) -> Any:
    """The average that skips every second update."""
    calls = 0

    def update_parameters(self: Any, model: Any) -> None:
        nonlocal calls
        calls += 1
        if calls % 2:
            original(self, model)

    return update_parameters


class _Overload:
    """An operator of `torch.ops` with another call; its attributes are the same."""

    def __init__(self, original: Any, called: Callable[..., Any]) -> None:
        self.original = original
        self.called = called

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        return self.called(*arguments, **named)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.original, name)


def _operator(change: Change) -> Change:
    return lambda original: _Overload(original, change(original))


def _alpha(value: float, instead: float) -> Change:
    """`torch.add` with `instead` in place of an alpha of `value`."""

    def change(original: Any) -> Any:
        def add(*arguments: Any, **named: Any) -> Any:
            if named.get("alpha") == value:
                named["alpha"] = instead
            return original(*arguments, **named)

        return add

    return change


def _nothing(original: Any) -> Any:
    return lambda self, *arguments, **named: self


PLANTS: dict[str, Change] = {
    # torch.optim
    "torch-sgd-momentum": called_with(momentum=0.89),
    "torch-sgd-nesterov": called_with(nesterov=False),
    "torch-sgd-dampening": called_with(dampening=0.1),
    "torch-sgd-first-momentum": _momentum_from_zero,
    "torch-sgd-rate": argument("lr", lambda lr: lr * SLIGHTLY),
    "torch-sgd-decay": called_with(weight_decay=0.0),
    "torch-sgd-skips": _skipping,
    "torch-adam-eps": called_with(eps=1e-7),
    "torch-adam-beta1": called_with(beta1=0.95),
    "torch-adam-beta2": called_with(beta2=0.99),
    "torch-adam-bias": _shifted_steps(1e9),
    "torch-adam-late-bias": _shifted_steps(1),
    "torch-adam-amsgrad": called_with(amsgrad=True),
    "torch-adam-decoupled": called_with(decoupled_weight_decay=True),
    "torch-adamw-l2": called_with(decoupled_weight_decay=False),
    "torch-adamw-decay": called_with(weight_decay=0.0),
    "torch-groups-decay": _of_first_group,
    "torch-nadam-decay": called_with(momentum_decay=0.0041),
    "torch-radam-late": _shifted_steps(1),
    "torch-adamax-eps": called_with(eps=1e-6),
    "torch-adagrad-eps": called_with(eps=1e-8),
    "torch-rmsprop-alpha": called_with(alpha=0.9),
    "torch-adadelta-eps": called_with(eps=1e-7),
    "torch-rprop-factor": called_with(etaplus=1.25),
    "torch-zero-grad": _nothing,
    # the schedule
    "torch-lambda-late": _rate(lambda rate, t: rate(max(t - 1, 0))),
    "torch-lambda-early": _rate(lambda rate, t: rate(t + 1)),
    "torch-lambda-scaled": _rate(lambda rate, t: SLIGHTLY * rate(t)),
    "torch-lambda-groups": _first_rate,
    # gradients
    "torch-clip-eps": _without_eps,
    "torch-clip-norm-type": called_with(norm_type=1.0),
    "torch-clip-per-tensor": _each_clipped,
    "torch-clip-value": _wider,
    "torch-backward": _backward_slightly,
    "torch-vector-norm": result(lambda norm: norm * SLIGHTLY),
    # layers and losses
    "torch-linear-bias": _biasless,
    "torch-linear-gradient": _gradient_slightly,
    "torch-linear-float32": _in_float32,
    "torch-relu-leaky": _leaky,
    "torch-gelu-tanh": called_with(approximate="tanh"),
    "torch-tanh-float32": _in_float32,
    "torch-softplus-threshold": called_with(threshold=2.0),
    "torch-layer-norm-eps": by_name("input normalized_shape weight bias eps", eps=1e-6),
    "torch-layer-norm-unbiased": _unbiased,
    "torch-batch-norm-momentum": by_name(BATCH_NORM, momentum=0.9),
    "torch-batch-norm-training": _always_training,
    "torch-module-train": lambda original: lambda self, mode=True: original(self, False),
    "torch-where-float32": _in_float32,
    "torch-cross-entropy-sum": called_with(reduction="sum"),
    "torch-cross-entropy-smoothed": called_with(label_smoothing=1e-6),
    "torch-cross-entropy-ignored": _last_class,
    "torch-cross-entropy-weights": _over_rows,
    "torch-binary-weight": called_with(pos_weight=None),
    "torch-mse-half": result(lambda loss: loss / 2),
    "torch-huber-delta": called_with(delta=0.9),
    # the average, and what goes in
    "torch-average-decay": lambda original: lambda decay: original(0.99),
    "torch-average-skips": _every_second,
    "torch-argmax": result(torch.zeros_like),
    "torch-copy-float32": _copied_low,
    "torch-from-numpy": _read_low,
    # what the fast engine calls
    "torch-mm": _out_times(SLIGHTLY),
    "torch-mm-float32": _out_in_float32,
    "torch-relu-in-place": _in_place_times(SLIGHTLY),
    "torch-threshold-backward": _operator(
        argument("grad_input", lambda slope: slope.mul_(SLIGHTLY))
    ),
    "torch-gelu-out": _operator(called_with(approximate="tanh")),
    "torch-gelu-backward": _operator(called_with(approximate="tanh")),
    "torch-tanh-backward": _operator(_out_in_float32),
    "torch-softmax": _out_in_float32,
    "torch-sigmoid-out": _out_in_float32,
    "torch-log-softmax": _in_float32,
    "torch-sub": _out_in_float32,
    "torch-add-alpha": _alpha(0.9, 0.89),
    "torch-addcdiv": _out_times(SLIGHTLY),
    "torch-addcmul": _out_times(SLIGHTLY),
    "torch-fused-adam-eps": called_with(eps=1e-7),
    "torch-fused-adam-beta2": called_with(beta2=0.99),
    "torch-fused-adam-decay": called_with(weight_decay=0.0),
    "torch-lerp": lambda original: lambda self, end, weight: original(self, end, weight / 10),
    "torch-var-mean": called_with(correction=1),
    "torch-rsqrt": _in_place_times(SLIGHTLY),
    "torch-clamp": _out_times(SLIGHTLY),
    "torch-sign": _in_place_times(SLIGHTLY),
    "torch-mul": _out_times(SLIGHTLY),
}
"""Key -> the change of its function."""
