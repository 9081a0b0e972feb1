"""The recipe's optimizer with its learning-rate schedule; all hyperparameters are explicit."""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

import torch
from torch.optim.lr_scheduler import LambdaLR

from lockstep.recipe import Optimizer
from lockstep.schedules.rate_tables import decays, rate_of

from .optimizers.from_rule import Groups

__all__ = ["MAKERS", "make_optimizer"]

MAKERS: dict[str, Callable[[Any, Groups], torch.optim.Optimizer]] = {
    name: import_module(f"pt_impl.optimizers.{kind.file_name()}").make
    for name, kind in Optimizer.variants.items()
}
"""Optimizer -> (its hyperparameters, groups of parameters) -> the framework's optimizer."""


def make_optimizer(
    optimizer: Optimizer,
    schedules: Mapping[int, Callable[[int], float]],
    parameters: Mapping[str, torch.nn.Parameter],
) -> tuple[torch.optim.Optimizer, LambdaLR]:
    """The optimizer, and the scheduler that sets its rates (base rate 1, times the schedule).

    Args:
        optimizer: its hyperparameters.
        schedules: 0 -> the schedule; with multipliers also layer -> the layer's.
        parameters: by canonical name.
    """
    members: dict[tuple[int, bool], list[torch.nn.Parameter]] = {}
    if optimizer.multipliers:
        # the first group's rate is reported: the schedule's own, for no parameter
        members[0, True] = []
    for name, parameter in parameters.items():
        key = rate_of(optimizer, name), decays(optimizer, name)
        members.setdefault(key, []).append(parameter)
    groups = []
    for (_, is_decayed), group in members.items():
        decay = optimizer.decay_rate * is_decayed
        groups.append({"params": group, "lr": 1.0, "weight_decay": decay})
    torch_optimizer = MAKERS[optimizer.name](optimizer, groups)
    return torch_optimizer, LambdaLR(torch_optimizer, [schedules[rate] for rate, _ in members])
