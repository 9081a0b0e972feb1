"""The engines as contenders: each trains a whole run, with everything on the device already."""

from collections.abc import Sequence
from operator import itemgetter
from typing import Any

from lockstep.bench.prepared import Prepared
from lockstep.data_prep import PreparedData
from lockstep.recipe import Recipe

__all__ = ["compiled", "fast", "steps", "unrecorded"]

Members = Sequence[PreparedData]


def steps(recipe: Recipe, members: Members, device: str, threads: int) -> Prepared:
    """JAX, one jitted update after the other."""
    import jax

    from jax_impl.update import Batch, State, make_update

    def run_from(state: State, batches: list[Batch]) -> State:
        for batch in batches:
            state, _ = update(state, batch)
        return state

    def split(batches: Batch) -> list[Batch]:
        return [jax.tree.map(itemgetter(t), batches) for t in range(len(batches.used))]

    update = jax.jit(make_update(recipe))
    return _plain(recipe, members, device, run_from, split)


def compiled(recipe: Recipe, members: Members, device: str, threads: int) -> Prepared:
    """JAX, the whole run in one jitted scan."""
    from jax_impl.train import make_segment

    segment = make_segment(recipe.update_rule)
    return _plain(
        recipe,
        members,
        device,
        lambda state, batches: segment(state, batches)[0],
        lambda batches: batches,
    )


def fast(recipe: Recipe, members: Members, device: str, threads: int) -> Prepared:
    """JAX, the fast engine: the whole run in one jitted scan."""
    from jax_impl.fast import train as engine

    return _fast(recipe, members, device, engine.make_segment(recipe.update_rule))


def unrecorded(recipe: Recipe, members: Members, device: str, threads: int) -> Prepared:
    """JAX, the fast engine's updates without the loss and norms of each."""
    from jax_impl.fast import train as engine

    return _fast(recipe, members, device, engine.make_segment(recipe.update_rule, ("lr",)))


def _fast(recipe: Recipe, members: Members, device: str, segment: Any) -> Prepared:
    import jax
    import jax.numpy as jnp
    import numpy as np

    from jax_impl.fast import train as engine
    from jax_impl.fast.batches import load_batches
    from jax_impl.io import device as devices

    place = devices.select_device(device)
    double = recipe.training.dtype == "float64"
    data = members[0].cast(recipe.dtype)
    with jax.enable_x64(double):
        epochs = []
        for epoch in range(data.epochs):
            batches = data.batches(epoch)
            epochs.append(load_batches(recipe, data, batches, data.masks(epoch), place))
        whole = jax.tree.map(lambda *arrays: jax.device_put(np.concatenate(arrays), place), *epochs)
        start = engine.initial_state(recipe, data, place)
        devices.synchronise((whole, start))
    last: list[engine.State] = []

    def reset() -> None:
        with jax.enable_x64(double):
            # an update takes the memory of its state
            last[:] = [jax.tree.map(jnp.copy, start)]
        devices.synchronise(last)

    def run() -> None:
        with jax.enable_x64(double):
            last[:] = [segment(last[0], whole)[0]]
        devices.synchronise(last)

    return Prepared(
        reset,
        run,
        lambda: [engine.parameters_of(recipe, last[0])],
        devices.describe_environment(place),
    )


def _plain(recipe: Recipe, members: Members, device: str, run_from: Any, split: Any) -> Prepared:
    import jax
    import numpy as np

    from jax_impl import model, train
    from jax_impl.io import device as devices
    from jax_impl.update import State

    place = devices.select_device(device)
    double = recipe.training.dtype == "float64"
    data = members[0].cast(recipe.dtype)
    with jax.enable_x64(double):
        epochs = [train.load_batches(data, epoch, place) for epoch in range(data.epochs)]
        whole = jax.tree.map(lambda *arrays: jax.device_put(np.concatenate(arrays), place), *epochs)
        batches = split(whole)
        start = train.initial_state(recipe, data, place)
        devices.synchronise((batches, start))
    last: list[State] = []

    def reset() -> None:
        # an update changes nothing in place
        last[:] = [start]

    def run() -> None:
        with jax.enable_x64(double):
            state = run_from(last[0], batches)
        devices.synchronise(state)
        last[:] = [state]

    return Prepared(
        reset,
        run,
        lambda: [model.export_parameters(last[0].parameters)],
        devices.describe_environment(place),
    )
