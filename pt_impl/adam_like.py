"""SGD, Adam and their kin: the library's where it has the knobs, else by hand."""

from collections.abc import Callable
from typing import Any

import torch

from lockstep.recipe import Optimizer

__all__ = ["MAKERS"]

Groups = list[dict[str, Any]]
Tensor = torch.Tensor
State = dict[str, Any]

# what no recipe chooses
HOW: dict[str, Any] = {"maximize": False, "foreach": False, "differentiable": False}


def _sgd(optimizer: Optimizer, groups: Groups) -> torch.optim.Optimizer:
    rule: dict[str, Any] = {"momentum": optimizer.momentum, "dampening": optimizer.dampening}
    rule["nesterov"] = optimizer.nesterov
    return torch.optim.SGD(groups, lr=1.0, weight_decay=0.0, **rule, **HOW, fused=False)


def _adam(optimizer: Optimizer, groups: Groups) -> torch.optim.Optimizer:
    if optimizer.eps_in_root or optimizer.amsgrad == "corrected" or optimizer.decay_form == "step":
        return _Stepper(optimizer, groups, _adam_direction)
    kind = torch.optim.AdamW if optimizer.name == "adamw" else torch.optim.Adam
    rule: dict[str, Any] = {"betas": (optimizer.beta1, optimizer.beta2), "eps": optimizer.eps}
    rule["amsgrad"] = optimizer.amsgrad == "raw"
    return kind(groups, lr=1.0, weight_decay=0.0, **rule, **HOW, capturable=False, fused=False)


def _nadam(optimizer: Optimizer, groups: Groups) -> torch.optim.Optimizer:
    if optimizer.decay_form == "step":
        return _Stepper(optimizer, groups, _nadam_direction)
    rule: dict[str, Any] = {"betas": (optimizer.beta1, optimizer.beta2), "eps": optimizer.eps}
    # 0.96^1e9 is 0: a ramp that is over at once
    rule["momentum_decay"] = optimizer.momentum_decay if optimizer.momentum_ramp else 1e9
    rule["decoupled_weight_decay"] = optimizer.name == "nadamw"
    made = torch.optim.NAdam(groups, lr=1.0, weight_decay=0.0, **rule, **HOW, capturable=False)
    for parameter in (parameter for group in groups for parameter in group["params"]):
        # PyTorch would keep the product of the momenta in float32, 7e-10 off after 200 updates in float64
        product = torch.ones((), dtype=parameter.dtype)
        zeros = {"exp_avg": torch.zeros_like(parameter), "exp_avg_sq": torch.zeros_like(parameter)}
        made.state[parameter] = {"step": torch.tensor(0.0), "mu_product": product, **zeros}
    return made


def _radam(optimizer: Optimizer, groups: Groups) -> torch.optim.Optimizer:
    if optimizer.eps_corrected:
        return _Stepper(optimizer, groups, _radam_direction)
    rule: dict[str, Any] = {"betas": (optimizer.beta1, optimizer.beta2), "eps": optimizer.eps}
    rule["decoupled_weight_decay"] = False
    return torch.optim.RAdam(groups, lr=1.0, weight_decay=0.0, **rule, **HOW, capturable=False)


def _adamax(optimizer: Optimizer, groups: Groups) -> torch.optim.Optimizer:
    rule: dict[str, Any] = {"betas": (optimizer.beta1, optimizer.beta2), "eps": optimizer.eps}
    return torch.optim.Adamax(groups, lr=1.0, weight_decay=0.0, **rule, **HOW, capturable=False)


def _lamb(optimizer: Optimizer, groups: Groups) -> torch.optim.Optimizer:
    return _Stepper(optimizer, groups, _lamb_direction)


def _lion(optimizer: Optimizer, groups: Groups) -> torch.optim.Optimizer:
    return _Stepper(optimizer, groups, _lion_direction)


class _Stepper(torch.optim.Optimizer):
    """parameter <- parameter - lr direction; weight decay is in the gradient or in the direction.

    The state of a parameter has the canonical names: first, second, largest_second, momentum_product; and `step`.
    """

    def __init__(self, optimizer: Optimizer, groups: Groups, direction: Callable[..., Tensor]) -> None:
        super().__init__(groups, {"lr": 1.0, "weight_decay": 0.0})
        self.rule, self.direction = optimizer, direction

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override] # without a result: no closure is asked for
        """One update of every parameter that has a gradient."""
        for group in self.param_groups:
            for parameter in (parameter for parameter in group["params"] if parameter.grad is not None):
                state = self.state[parameter]
                state["step"] = state.get("step", torch.zeros(())) + 1
                direction = self.direction(self.rule, state, parameter, parameter.grad, group["weight_decay"])
                parameter.sub_(group["lr"] * direction)


def _adam_direction(rule: Optimizer, state: State, parameter: Tensor, gradient: Tensor, decay: float) -> Tensor:
    gradient = gradient if rule.name == "adamw" else gradient + decay * parameter
    first, second, bias1, bias2 = _two_moments(rule, state, gradient)
    if rule.amsgrad != "off":
        second = second if rule.amsgrad == "raw" else second / bias2
        second = state["largest_second"] = torch.maximum(state.get("largest_second", second), second)
        second = second / bias2 if rule.amsgrad == "raw" else second
    else:
        second = second / bias2
    root = (second + rule.eps).sqrt() if rule.eps_in_root else second.sqrt() + rule.eps
    direction: Tensor = first / bias1 / root
    return direction.add(parameter, alpha=decay) if rule.name == "adamw" else direction


def _nadam_direction(rule: Optimizer, state: State, parameter: Tensor, gradient: Tensor, decay: float) -> Tensor:
    first, second, _, bias2 = _two_moments(rule, state, gradient)
    pace = rule.momentum_decay if rule.momentum_ramp else 1e9
    t = int(state["step"])
    now, following = (rule.beta1 * (1 - 0.5 * 0.96 ** (u * pace)) for u in (t, t + 1))
    product = state["momentum_product"] = state.get("momentum_product", first.new_ones(())) * now
    ahead = following / (1 - product * following) * first + (1 - now) / (1 - product) * gradient
    direction: Tensor = ahead / ((second / bias2).sqrt() + rule.eps) + decay * parameter
    return direction


def _radam_direction(rule: Optimizer, state: State, parameter: Tensor, gradient: Tensor, decay: float) -> Tensor:
    first, second, bias1, bias2 = _two_moments(rule, state, gradient + decay * parameter)
    longest = 2 / (1 - rule.beta2) - 1
    length = longest - 2 * int(state["step"]) * (1 - bias2) / bias2
    direction: Tensor = first / bias1
    if length > 5:
        shrunk = (length - 4) * (length - 2) * longest / ((longest - 4) * (longest - 2) * length)
        direction = shrunk**0.5 * direction / ((second / bias2).sqrt() + rule.eps)
    return direction


def _lamb_direction(rule: Optimizer, state: State, parameter: Tensor, gradient: Tensor, decay: float) -> Tensor:
    first, second, bias1, bias2 = _two_moments(rule, state, gradient)
    direction: Tensor = first / bias1 / ((second / bias2).sqrt() + rule.eps) + decay * parameter
    long, wide = parameter.norm(), direction.norm()
    return direction.mul_(torch.where((long > 0) & (wide > 0), long / wide, 1.0))


def _lion_direction(rule: Optimizer, state: State, parameter: Tensor, gradient: Tensor, decay: float) -> Tensor:
    before = state.get("first", torch.zeros_like(gradient))
    state["first"] = rule.beta2 * before + (1 - rule.beta2) * gradient
    direction: Tensor = (rule.beta1 * before + (1 - rule.beta1) * gradient).sign() + decay * parameter
    return direction


def _two_moments(rule: Optimizer, state: State, gradient: Tensor) -> tuple[Tensor, Tensor, Any, Any]:
    """Both moving averages, and what they lack for having begun at 0."""
    for name, beta, value in (("first", rule.beta1, gradient), ("second", rule.beta2, gradient.square())):
        state[name] = beta * state.get(name, torch.zeros_like(value)) + (1 - beta) * value
    t = int(state["step"])
    return state["first"], state["second"], 1 - rule.beta1**t, 1 - rule.beta2**t


MAKERS: dict[str, Callable[..., Any]] = {
    "sgd": _sgd,
    "adam": _adam,
    "adamw": _adam,
    "nadam": _nadam,
    "nadamw": _nadam,
    "radam": _radam,
    "adamax": _adamax,
    "lamb": _lamb,
    "lion": _lion,
}
