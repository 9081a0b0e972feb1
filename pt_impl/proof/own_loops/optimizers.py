"""The optimizers and the clipping of the loops in PyTorch, rightly or as their `twist` says."""

from typing import Any

import torch
from torch import nn

from lockstep.studies.prove.own_loops.ways import Loop

__all__ = ["clip", "optimizer_of"]


class WrittenAdam(torch.optim.Optimizer):
    """AdamW, or Adam where there is no decay, as it is written by hand."""

    def __init__(self, groups: Any, loop: Loop) -> None:
        settings = {
            "lr": loop.lr,
            "betas": (loop.beta1, loop.beta2),
            "eps": loop.adam_eps,
            "weight_decay": loop.weight_decay,
            "correct_bias": loop.is_bias_corrected,
        }
        self.twist = loop.twist
        super().__init__(groups, settings)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override] # no result
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._move(parameter, group)

    def _move(self, parameter: torch.Tensor, group: dict[str, Any]) -> None:
        beta1, beta2 = group["betas"]
        state = self.state[parameter]
        if not state:
            state["step"] = 0
            state["exp_avg"] = torch.zeros_like(parameter)
            state["exp_avg_sq"] = torch.zeros_like(parameter)
        state["step"] += 1
        gradient = parameter.grad
        assert gradient is not None
        first = state["exp_avg"] = beta1 * state["exp_avg"] + (1 - beta1) * gradient
        second = state["exp_avg_sq"] = beta2 * state["exp_avg_sq"] + (1 - beta2) * gradient**2
        if self.twist == "moments-rounded":
            for slot in ("exp_avg", "exp_avg_sq"):
                state[slot] = state[slot].to(torch.bfloat16).to(parameter.dtype)
            first, second = state["exp_avg"], state["exp_avg_sq"]
        count = state["step"] + (self.twist == "count-one-ahead")
        if group["correct_bias"]:
            first = first / (1 - beta1**count)
            second = second / (1 - beta2**count)
        if self.twist == "eps-in-the-root":
            step = first / (second + group["eps"]).sqrt()
        else:
            step = first / (second.sqrt() + group["eps"])
        if self.twist == "decay-after-step":
            parameter.copy_(parameter - group["lr"] * step)
            parameter.mul_(1 - group["lr"] * group["weight_decay"])
            return
        rate = 1.0 if self.twist == "decay-without-rate" else group["lr"]
        decay = rate * group["weight_decay"] * parameter
        parameter.copy_(parameter - group["lr"] * step - decay)


def groups_of(model: nn.Module, loop: Loop) -> Any:
    """All parameters, or matrices and embeddings apart from the others, which do not decay."""
    if loop.groups == 1:
        return model.parameters()
    matrices = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    others = [parameter for parameter in model.parameters() if parameter.ndim < 2]
    decay = loop.weight_decay if loop.decays_norms else 0.0
    return [{"params": matrices}, {"params": others, "weight_decay": decay}]


def optimizer_of(model: nn.Module, loop: Loop) -> torch.optim.Optimizer:
    """The optimizer that the loop names."""
    groups = groups_of(model, loop)
    if loop.optimizer_code == "written":
        return WrittenAdam(groups, loop)
    kinds: dict[str, Any] = {
        "adamw": torch.optim.AdamW,
        "adam": torch.optim.Adam,
        "adamax": torch.optim.Adamax,
        "rmsprop": torch.optim.RMSprop,
        "sgd": torch.optim.SGD,
    }
    settings: dict[str, Any] = {
        "lr": loop.lr,
        "weight_decay": loop.weight_decay,
        "foreach": loop.optimizer_code == "foreach",
    }
    if loop.optimizer == "sgd":
        settings |= {"momentum": loop.momentum, "nesterov": loop.is_nesterov}
        settings |= {"dampening": loop.dampening}
    elif loop.optimizer == "rmsprop":
        settings |= {"alpha": loop.decay, "eps": loop.adam_eps}
    else:
        settings |= {"betas": (loop.beta1, loop.beta2), "eps": loop.adam_eps}
    if loop.optimizer in ("adam", "adamw"):
        settings["amsgrad"] = loop.is_amsgrad
    optimizer: torch.optim.Optimizer = kinds[loop.optimizer](groups, **settings)
    return optimizer


def clip(model: nn.Module, loop: Loop) -> None:
    """Clip the gradients by their norm, as `clip_grad_norm_` does, or as the twist says."""
    gradients = [one.grad for one in model.parameters() if one.grad is not None]
    if loop.twist == "clip-by-value":
        nn.utils.clip_grad_value_(model.parameters(), loop.clip)
    elif loop.twist == "clip-each-tensor":
        for parameter in model.parameters():
            nn.utils.clip_grad_norm_([parameter], loop.clip)
    elif loop.twist == "clip-of-0":
        norm = torch.stack([gradient.norm() for gradient in gradients]).norm()
        for gradient in gradients:
            gradient.mul_(loop.clip / norm)
    elif loop.twist == "clip-without-eps":
        norm = torch.stack([gradient.norm() for gradient in gradients]).norm()
        for gradient in gradients:
            gradient.mul_((loop.clip / norm).clamp(max=1.0))
    else:
        nn.utils.clip_grad_norm_(model.parameters(), loop.clip)
