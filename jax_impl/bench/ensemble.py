"""The ensemble as a contender, with all members' batches loaded before the clock starts."""

from collections.abc import Sequence
from typing import Any

from lockstep.bench.prepared import Prepared, members_of
from lockstep.data_prep import PreparedData
from lockstep.recipe import Recipe
from lockstep.records.ensemble import blocks_of, default_chunk, stack, stretches

__all__ = ["many_seeds"]


def many_seeds(
    recipe: Recipe, members: Sequence[PreparedData], device: str, threads: int
) -> Prepared:
    """JAX, `vmap` over members, and blocks of members on each local device."""
    from concurrent.futures import ThreadPoolExecutor

    import jax

    from jax_impl.fast import ensemble
    from jax_impl.fast import train as fast
    from jax_impl.io import device as devices

    place = devices.select_device(device)
    local = jax.local_devices(backend=place.platform)
    double = recipe.training.dtype == "float64"
    blocks = blocks_of(members, default_chunk(members, ensemble.CHUNK), len(local))
    segment = ensemble.make_segment(recipe.update_rule)
    pool = ThreadPoolExecutor(len(local))
    last: list[Any] = []
    with jax.enable_x64(double):
        stacked = [(stack(recipe, block), local[i % len(local)]) for i, block in enumerate(blocks)]
        loaded = []
        for (data, own), block in zip(stacked, blocks):
            parts = [(batches, masks) for batches, masks, _ in stretches(block)]
            loaded.append([ensemble.load_batches(recipe, data, *part, own) for part in parts])

    def train(first: int) -> None:
        with jax.enable_x64(double), jax.default_device(local[first]):
            for i in range(first, len(loaded), len(local)):
                for part in loaded[i]:
                    last[i], _ = segment(last[i], part)
                devices.synchronise(last[i])

    def reset() -> None:
        with jax.enable_x64(double):
            last[:] = [ensemble.initial_state(recipe, data, own) for data, own in stacked]
        devices.synchronise(last)

    def run() -> None:
        list(pool.map(train, range(len(local))))

    def exported() -> list[dict[str, Any]]:
        return members_of([fast.parameters_of(recipe, state) for state in last], len(members))

    environment = devices.describe_environment(place) | {
        "members at once": len(blocks[0]),
        "devices": len(local),
    }
    return Prepared(reset, run, exported, environment, trained=len(members))
