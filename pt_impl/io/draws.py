"""The draws of the framework itself: a member's initial parameters, order and dropout masks."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from lockstep.data_prep import OwnDraws, Parameters, PreparedData, layer_sizes
from lockstep.data_prep.initialise import TRUNCATED
from lockstep.recipe import Recipe

__all__ = ["INITIALISERS", "draw_member"]


def _flax(weight: torch.Tensor, generator: torch.Generator) -> None:
    deviation = weight.shape[1] ** -0.5 / TRUNCATED
    bound = 2 * deviation
    nn.init.trunc_normal_(weight, 0.0, deviation, -bound, bound, generator=generator)


INITIALISERS: dict[str, Callable[..., Any]] = {
    # what nn.Linear calls
    "torch": lambda weight, generator: nn.init.kaiming_uniform_(
        weight, a=5**0.5, generator=generator
    ),
    "flax": _flax,
    "xavier_uniform": lambda weight, generator: nn.init.xavier_uniform_(
        weight, generator=generator
    ),
    "xavier_normal": lambda weight, generator: nn.init.xavier_normal_(weight, generator=generator),
    "kaiming_uniform": lambda weight, generator: nn.init.kaiming_uniform_(
        weight, nonlinearity="relu", generator=generator
    ),
    "kaiming_normal": lambda weight, generator: nn.init.kaiming_normal_(
        weight, nonlinearity="relu", generator=generator
    ),
    "orthogonal": lambda weight, generator: nn.init.orthogonal_(weight, generator=generator),
    "zeros": lambda weight, generator: nn.init.zeros_(weight),
}
"""`model.init` -> the framework's initialiser; the formulas: `lockstep.data_prep.initialise`."""


def draw_member(recipe: Recipe, data: PreparedData, seed: int) -> PreparedData:
    """The rows of `data` with initial parameters, order and masks drawn by the framework.

    Each of the three has its own stream of random numbers.
    """
    model = recipe.model
    parameters: Parameters = {}
    generator = _generator(seed, 0)
    layers = layer_sizes(len(data.columns), model.hidden, data.outputs)
    for i, (name, fan_in, fan_out) in enumerate(layers, start=1):
        weight = torch.empty(fan_out, fan_in)
        bias = torch.zeros(fan_out)
        INITIALISERS[model.init](weight, generator)
        if model.init == "torch":
            nn.init.uniform_(bias, -(fan_in**-0.5), fan_in**-0.5, generator=generator)
        # [out, in] -> [in, out]
        parameters[f"{name}.weight"] = weight.numpy().T.astype(np.float64)
        if model.bias:
            parameters[f"{name}.bias"] = bias.numpy().astype(np.float64)
        if model.norm != "none" and i <= len(model.hidden):
            parameters[f"norm{i}.weight"] = np.ones(fan_out)
            parameters[f"norm{i}.bias"] = np.zeros(fan_out)
    generator = _generator(seed, 1)
    rows = len(data.train_y_N)
    orders = [torch.randperm(rows, generator=generator).numpy() for _ in range(data.epochs)]

    def draw_masks(epoch: int) -> list[NDArray[np.bool_]]:
        of_epoch = _generator(seed, 2 + epoch)
        sizes = [(data.batches_per_epoch, data.batch, units) for units in model.hidden]
        return [(torch.rand(size, generator=of_epoch) >= model.dropout).numpy() for size in sizes]

    return OwnDraws.of(
        data, parameters=parameters, seed=seed, orders_EN=np.stack(orders), draw_masks=draw_masks
    )


def _generator(seed: int, stream: int) -> torch.Generator:
    (state,) = np.random.SeedSequence((seed, stream)).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state >> np.uint64(1)))
