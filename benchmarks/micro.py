"""Parts of an update of the plain engines, each called alone for every batch of the run.

`rate` looks up the learning rate; `forward` is the network in training; `gradient` is forward, loss
and backward; `step` is the optimizer's step, with the gradients at hand.
"""

from collections.abc import Callable, Sequence
from functools import partial
from operator import itemgetter
from typing import Any

from lockstep.bench.prepared import Prepared
from lockstep.data_prep import PreparedData
from lockstep.recipe import Recipe

__all__ = ["jax_part", "torch_part"]


def torch_part(part: str) -> Callable[..., Prepared]:
    """The function that prepares a part of PyTorch's update."""
    return partial(_torch, part)


def jax_part(part: str) -> Callable[..., Prepared]:
    """The function that prepares a part of JAX's update, which is jitted by itself."""
    return partial(_jax, part)


def _torch(
    part: str, recipe: Recipe, members: Sequence[PreparedData], device: str, threads: int
) -> Prepared:
    import torch

    from pt_impl import train
    from pt_impl.io import device as devices
    from pt_impl.loss import mean_loss
    from pt_impl.update import Batch

    place = devices.select_device(device)
    data = members[0].cast(recipe.dtype)
    state = train.initial_state(recipe, data, place)
    batches: list[Batch] = []
    for epoch in range(data.epochs):
        batches += train.load_batches(data, epoch, place)

    def forward(t: int, batch: Batch) -> torch.Tensor:
        *_, outputs_BK = state.model.outputs(batch.x_BD, batch.masks).values()
        return outputs_BK

    def gradient(t: int, batch: Batch) -> None:
        state.optimizer.zero_grad(set_to_none=True)
        mean_loss(recipe.loss, forward(t, batch), batch.y_B, batch.used).backward()

    def step(t: int, batch: Batch) -> None:
        state.optimizer.step()

    def rate(t: int, batch: Batch) -> Any:
        return state.scheduler.lr_lambdas[0](t)

    parts: dict[str, Callable[[int, Batch], Any]] = {
        "rate": rate,
        "forward": forward,
        "gradient": gradient,
        "step": step,
    }
    call = parts[part]
    gradient(0, batches[0])

    def run() -> None:
        for t, batch in enumerate(batches):
            call(t, batch)
        devices.synchronise(state)

    return Prepared(lambda: None, run, None, devices.describe_environment(place))


def _jax(
    part: str, recipe: Recipe, members: Sequence[PreparedData], device: str, threads: int
) -> Prepared:
    import jax
    import optax
    from flax import nnx

    from jax_impl import train
    from jax_impl.io import device as devices
    from jax_impl.loss import mean_loss
    from jax_impl.optimizer import make_optimizer
    from jax_impl.schedule import make_schedule

    place = devices.select_device(device)
    data = members[0].cast(recipe.dtype)
    state = train.initial_state(recipe, data, place)
    batches = []
    for epoch in range(data.epochs):
        stacked = train.load_batches(data, epoch, place)
        batches += [(t, jax.tree.map(itemgetter(t), stacked)) for t in range(len(stacked.used))]
    schedules = {layer: make_schedule(table_T) for layer, table_T in state.tables.items()}
    transformation, _ = make_optimizer(recipe.optimizer, schedules, state.parameters)

    def forward(parameters: Any, t: Any, batch: Any) -> Any:
        model = nnx.merge(state.graph, parameters, state.statistics, copy=True)
        *_, outputs_BK = model.outputs(batch.x_BD, batch.masks, batch.used).values()
        return outputs_BK

    def loss(parameters: Any, t: Any, batch: Any) -> Any:
        return mean_loss(recipe.loss, forward(parameters, t, batch), batch.y_B, batch.used)

    def step(parameters: Any, t: Any, batch: Any) -> Any:
        # the parameters stand in for their gradient: a step costs the same for any numbers
        steps, optimizer = transformation.update(parameters, state.optimizer, parameters)
        return optax.apply_updates(parameters, steps), optimizer

    def rate(parameters: Any, t: Any, batch: Any) -> Any:
        return schedules[0](t)

    parts: dict[str, Callable[..., Any]] = {
        "rate": rate,
        "forward": forward,
        "gradient": jax.value_and_grad(loss),
        "step": step,
    }
    call = jax.jit(parts[part])

    def run() -> None:
        last: Any = None
        for t, batch in batches:
            last = call(state.parameters, t, batch)
        devices.synchronise(last)

    return Prepared(lambda: None, run, None, devices.describe_environment(place))
