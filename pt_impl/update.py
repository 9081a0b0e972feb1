"""One update: what a batch makes of the state."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor as Array
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import AveragedModel

from lockstep.recipe import Recipe

from .average import update_average
from .gradient import clip, norm
from .loss import mean_loss
from .model import MLP

__all__ = ["Batch", "Scalars", "State", "make_update"]


class State(NamedTuple):
    """What an update changes, here in place.

    `loss` is the sum over the update's batches so far; None before the first.
    """

    model: MLP
    optimizer: torch.optim.Optimizer
    scheduler: LambdaLR
    loss: Array | None
    average: AveragedModel | None


class Batch(NamedTuple):
    """The rows of a batch, of which the first `used` count, and a dropout mask a hidden layer.

    `share` is the weight of its loss in the update, and `last` says that it completes the update.
    """

    x_BD: Array
    y_B: Array
    used: int
    share: float
    last: bool
    masks: list[Array]


class Scalars(NamedTuple):
    """Numbers of an update, or vectors of them by batch; 0 where a batch completes no update."""

    lr: Array | float
    loss: Array
    grad_norm: Array
    update_norm: Array


def make_update(recipe: Recipe) -> Callable[[State, Batch], tuple[State, Scalars]]:
    """A batch of the recipe and, with the last batch of an update, the update."""

    def update(state: State, batch: Batch) -> tuple[State, Scalars]:
        model, optimizer, scheduler = state.model, state.optimizer, state.scheduler
        if state.loss is None:
            optimizer.zero_grad(set_to_none=True)
        outputs_BK = model(batch.x_BD, batch.masks)
        loss = mean_loss(recipe.loss, outputs_BK, batch.y_B, batch.used) * batch.share
        loss.backward()
        loss = loss.detach() if state.loss is None else state.loss + loss.detach()
        if not batch.last:
            return state._replace(loss=loss), Scalars(*[torch.zeros_like(loss)] * 4)

        parameters = list(model.parameters())
        before = [parameter.detach().clone() for parameter in parameters]
        lr = optimizer.param_groups[0]["lr"]
        grad_norm = norm([parameter.grad for parameter in parameters])
        clip(recipe.gradient, parameters)
        optimizer.step()
        scheduler.step()
        average = update_average(recipe.average, state.average, model)
        changes = [after.detach() - parameter for after, parameter in zip(parameters, before)]
        scalars = Scalars(lr, loss, grad_norm, norm(changes))
        return state._replace(loss=None, average=average), scalars

    return update
