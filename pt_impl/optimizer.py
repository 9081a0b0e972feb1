"""The recipe's optimizer with its learning-rate schedule; every hyperparameter passed
explicitly.
"""

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
    """The optimizer, and the scheduler that sets its learning rates (base rate 1, times the
    schedule).

    Args:
        optimizer: its hyperparameters.
        schedules: 0 -> the schedule; with multipliers also layer -> the layer's.
        parameters: by canonical name.
    """
    # the first group's rate is the schedule's, and is reported: with multipliers it has no
    # parameters
    members: dict[tuple[int, bool], list[torch.nn.Parameter]] = (
        {(0, True): []} if optimizer.multipliers else {}
    )
    for name, parameter in parameters.items():
        members.setdefault((rate_of(optimizer, name), decays(optimizer, name)), []).append(
            parameter
        )
    groups = [
        {"params": list(members[key]), "lr": 1.0, "weight_decay": optimizer.decay_rate * key[1]}
        for key in members
    ]
    made = MAKERS[optimizer.name](optimizer, groups)
    return made, LambdaLR(made, [schedules[rate] for rate, _ in members])
