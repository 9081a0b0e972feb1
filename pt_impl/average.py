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
    """The average before the first update; None if the recipe has none."""
    if average.decay == 0:
        return None
    running = AveragedModel(
        parameters,
        device=None,
        avg_fn=None,
        multi_avg_fn=get_ema_multi_avg_fn(average.decay),
        use_buffers=False,
    )
    # at 0 the first update would replace the initial parameters; at 1 it is averaged with them
    running.n_averaged.fill_(1)
    if average.start == "zero":
        for parameter in running.parameters():
            parameter.zero_()
    return running


def update_average(
    average: Average, running: AveragedModel | None, parameters: MLP
) -> AveragedModel | None:
    """decay * running + (1 - decay) * parameters, the parameters after the update; in place."""
    if running is not None:
        running.update_parameters(parameters)
    return running


def export_average(average: Average, running: AveragedModel | None, updates: int) -> Parameters:
    """The average to read after that many updates, as canonical arrays; empty if there is none."""
    parameters = {} if running is None else export_parameters(cast(MLP, running.module))
    # not left to the framework: PyTorch has no bias correction, and 1 - decay^updates cancels in
    # float32
    weight = 1 - average.decay**updates if average.debias and updates else 1.0
    # its running statistics are those of the model, and not averaged
    return {
        name: array / weight
        for name, array in parameters.items()
        if not name.endswith((".mean", ".var"))
    }
