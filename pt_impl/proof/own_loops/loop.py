"""The training loop in PyTorch, recorded."""

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from lockstep import Recorder, Trace
from lockstep.studies.prove.own_loops.feeds import Batch, batches
from lockstep.studies.prove.own_loops.rates import rates_of
from lockstep.studies.prove.own_loops.start import start_of
from lockstep.studies.prove.own_loops.ways import Loop
from pt_impl.proof.own_loops.hooks import hook_of
from pt_impl.proof.own_loops.models import build

__all__ = ["train"]


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
        if group["correct_bias"]:
            first = first / (1 - beta1 ** state["step"])
            second = second / (1 - beta2 ** state["step"])
        way = first / (second.sqrt() + group["eps"]) + group["weight_decay"] * parameter
        parameter.copy_(parameter - group["lr"] * way)


def groups_of(model: nn.Module, loop: Loop) -> Any:
    """All parameters, or matrices and embeddings apart from the others, which do not decay."""
    if loop.groups == 1:
        return model.parameters()
    matrices = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    others = [parameter for parameter in model.parameters() if parameter.ndim < 2]
    decay = loop.weight_decay if loop.decays_norms else 0.0
    return [{"params": matrices}, {"params": others, "weight_decay": decay}]


def optimizer_of(model: nn.Module, loop: Loop) -> torch.optim.Optimizer:
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


def loss_of(logits: torch.Tensor, labels: torch.Tensor, loop: Loop) -> torch.Tensor:
    """Mean cross-entropy, in float32 at least."""
    logits_NK = logits.flatten(0, -2)
    if logits_NK.dtype == torch.bfloat16:
        logits_NK = logits_NK.float()
    labels_N = labels.flatten()
    if loop.loss_code == "library":
        return F.cross_entropy(logits_NK, labels_N, label_smoothing=loop.smoothing)
    logs_NK = logits_NK - torch.logsumexp(logits_NK, -1, keepdim=True)
    return -logs_NK.gather(1, labels_N[:, None]).sum() / len(labels_N)


def train(loop: Loop, path: Path, perturb: int | None = None) -> Trace:
    """Train, and write the trace to `path`."""
    torch.manual_seed(1 + loop.odd)
    model = build(loop)
    start = start_of(loop)
    model.load_state_dict({name: torch.from_numpy(value) for name, value in start.items()})
    optimizer = optimizer_of(model, loop)
    rate_T = rates_of(loop)
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda update: float(rate_T[min(update, loop.updates - 1)]) / loop.lr
    )
    hook = hook_of(loop, model, optimizer)
    hook("built", 0)
    recorder = Recorder(path, backend="torch", every=int(loop.is_detailed), perturb=perturb)
    recorder.watch(model, optimizer)
    for update, batch in enumerate(batches(loop)):
        loss = _backward(model, batch, loop, recorder)
        hook("gradients", update)
        if loop.clip:
            nn.utils.clip_grad_norm_(model.parameters(), loop.clip)
        hook("clipped", update)
        optimizer.step()
        hook("stepped", update)
        scheduler.step()
        recorder.update(loss=loss)
        if loop.is_zeroed:
            optimizer.zero_grad()
    return recorder.finish()


def _backward(model: nn.Module, batch: Batch, loop: Loop, recorder: Recorder) -> torch.Tensor:
    """The gradients of a batch, in micro-batches, and its mean loss."""
    losses: list[torch.Tensor] = []
    x, y = map(torch.from_numpy, batch)
    for x_part, y_part in zip(x.chunk(loop.micro), y.chunk(loop.micro)):
        if x_part.is_floating_point():
            x_part = x_part.to(getattr(torch, loop.dtype))
        recorder.record(batch={"x": x_part, "y": y_part})
        with torch.autocast("cpu", torch.bfloat16, enabled=bool(loop.compute)):
            logits = model(x_part)
        loss = loss_of(logits, y_part, loop)
        if loop.wrong == "odd-loss":
            loss = loss + 0.1 * (1 + loop.odd % 7) * torch.sin(logits.float() + 1).mean()
        (loss / loop.micro if loop.is_divided else loss).backward()
        losses.append(loss.detach())
    return torch.stack(losses).mean()
