"""The exponential moving average of the parameters."""

from typing import cast

import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from lockstep.data_prep import Parameters
from lockstep.recipe import Average

from .model import MLP, export_parameters

__all__ = ["export_average", "start_average", "update_average"]


@torch.no_grad()
def start_average(average: Average, parameters: MLP) -> AveragedModel | None:
    """The average before the first update; None where the recipe keeps none."""
    if average.decay == 0:
        return None
    kept = AveragedModel(
        parameters,
        device=None,
        avg_fn=None,
        multi_avg_fn=get_ema_multi_avg_fn(average.decay),
        use_buffers=False,
    )
    kept.n_averaged.fill_(
        1
    )  # the copy of the initial parameters counts: the first update is averaged with it
    if average.start == "zero":
        for parameter in kept.parameters():
            parameter.zero_()
    return kept


def update_average(
    average: Average, kept: AveragedModel | None, parameters: MLP
) -> AveragedModel | None:
    """decay * average + (1 - decay) * parameters, with those that the update has just made; here in
    place.
    """
    if kept is not None:
        kept.update_parameters(parameters)
    return kept


def export_average(average: Average, kept: AveragedModel | None, updates: int) -> Parameters:
    """The average to read after that many updates, in canonical names and layout; empty where none
    is kept.
    """
    found = {} if kept is None else export_parameters(cast(MLP, kept.module))
    # not left to the framework: PyTorch has no bias correction, and 1 - decay^updates cancels in
    # float32
    weight = 1 - average.decay**updates if average.debias and updates else 1.0
    # the model in it has running statistics too: those of the model, not averaged
    return {
        name: array / weight
        for name, array in found.items()
        if not name.endswith((".mean", ".var"))
    }
