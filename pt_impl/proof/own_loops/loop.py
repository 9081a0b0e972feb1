"""The training loop in PyTorch, recorded."""

from pathlib import Path

import torch
from torch import nn

from lockstep import Recorder, Trace
from lockstep.studies.prove.own_loops.feeds import Batch, batches
from lockstep.studies.prove.own_loops.rates import rates_of
from lockstep.studies.prove.own_loops.start import start_of
from lockstep.studies.prove.own_loops.ways import Loop
from pt_impl.proof.own_loops.hooks import hook_of
from pt_impl.proof.own_loops.losses import logged, loss_of
from pt_impl.proof.own_loops.models import build
from pt_impl.proof.own_loops.optimizers import clip, optimizer_of

__all__ = ["train"]


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
            clip(model, loop)
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
        recorder.record(batch=_as_recorded(x_part, y_part, loop))
        if loop.twist == "labels-not-shifted":
            y_part = x_part
        with torch.autocast("cpu", torch.bfloat16, enabled=bool(loop.compute)):
            logits = model(x_part)
        loss = loss_of(logits, y_part, loop)
        if loop.twist == "penalty":
            loss = loss + 0.01 * sum(one.pow(2).sum() for one in model.parameters())
        (loop.loss_scale * (loss / loop.micro if loop.is_divided else loss)).backward()
        losses.append(loss.detach())
    return logged(torch.stack(losses).mean(), len(x), loop)


def _as_recorded(x: torch.Tensor, y: torch.Tensor, loop: Loop) -> dict[str, torch.Tensor]:
    if loop.is_whole_text:
        return {"text": torch.cat([x, y[:, -1:]], dim=1)}
    return {"x": x, "y": y}
