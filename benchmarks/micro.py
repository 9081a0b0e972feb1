"""Parts of an update alone, as the plain engines have them: a call of each for every batch of the
run.

`rate` looks up the learning rate; `forward` is the network in training; `gradient` is forward, loss
and backward; `step` is the optimizer's, with the gradients at hand.
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
    """What prepares a part of PyTorch's update."""
    return partial(_torch, part)


def jax_part(part: str) -> Callable[..., Prepared]:
    """What prepares a part of JAX's update, a jitted call of its own."""
    return partial(_jax, part)


def _torch(
    part: str, recipe: Recipe, members: Sequence[PreparedData], device: str, threads: int
) -> Prepared:
    from pt_impl import train
    from pt_impl.io import device as devices
    from pt_impl.loss import mean_loss

    place = devices.select_device(device)
    data = members[0].cast(recipe.dtype)
    state = train.initial_state(recipe, data, place)
    batches = [
        batch for epoch in range(data.epochs) for batch in train.load_batches(data, epoch, place)
    ]

    def forward(t: int, batch: Any) -> Any:
        *_, outputs_BK = state.model.outputs(batch.x_BD, batch.masks).values()
        return outputs_BK

    def gradient(t: int, batch: Any) -> None:
        state.optimizer.zero_grad(set_to_none=True)
        mean_loss(recipe.loss, forward(t, batch), batch.y_B, batch.used).backward()

    def step(t: int, batch: Any) -> None:
        state.optimizer.step()

    def rate(t: int, batch: Any) -> Any:
        return state.scheduler.lr_lambdas[0](t)

    call = {"rate": rate, "forward": forward, "gradient": gradient, "step": step}[part]
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
    epochs = [train.load_batches(data, epoch, place) for epoch in range(data.epochs)]
    batches = [
        (t, jax.tree.map(itemgetter(t), epoch)) for epoch in epochs for t in range(len(epoch.used))
    ]
    schedules = {layer: make_schedule(table_T) for layer, table_T in state.tables.items()}
    transformation, _ = make_optimizer(recipe.optimizer, schedules, state.parameters)

    def forward(parameters: Any, t: Any, batch: Any) -> Any:
        model = nnx.merge(state.graph, parameters, state.statistics, copy=True)
        *_, outputs_BK = model.outputs(batch.x_BD, batch.masks, batch.used).values()
        return outputs_BK

    def loss(parameters: Any, t: Any, batch: Any) -> Any:
        return mean_loss(recipe.loss, forward(parameters, t, batch), batch.y_B, batch.used)

    def step(parameters: Any, t: Any, batch: Any) -> Any:
        # the parameters in place of their gradient: a step costs the same for any numbers
        steps, optimizer = transformation.update(parameters, state.optimizer, parameters)
        return optax.apply_updates(parameters, steps), optimizer

    def rate(parameters: Any, t: Any, batch: Any) -> Any:
        return schedules[0](t)

    call = jax.jit(
        {"rate": rate, "forward": forward, "gradient": jax.value_and_grad(loss), "step": step}[part]
    )

    def run() -> None:
        found: Any = None
        for t, batch in batches:
            found = call(state.parameters, t, batch)
        devices.synchronise(found)

    return Prepared(lambda: None, run, None, devices.describe_environment(place))
