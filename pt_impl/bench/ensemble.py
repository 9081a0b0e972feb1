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
    """PyTorch, products of many members at once, and a thread for each block of members."""
    from concurrent.futures import ThreadPoolExecutor

    import torch

    from pt_impl.fast import ensemble
    from pt_impl.fast import train as fast
    from pt_impl.io import device as devices

    place = devices.select_device(device)
    workers = ensemble.THREADS if place.type == "cpu" else 1
    blocks = blocks_of(members, default_chunk(members, ensemble.CHUNK), workers)
    stacked = [stack(recipe, block) for block in blocks]
    loaded = []
    for data, block in zip(stacked, blocks):
        parts = [(batches, masks) for batches, masks, _ in stretches(block)]
        loaded.append([ensemble.load_batches(recipe, data, *part, place) for part in parts])
    segment = ensemble.make_segment(recipe.update_rule)
    pool = ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,))
    last: list[Any] = []

    def train(pair: Any) -> None:
        state, batches = pair
        for part in batches:
            state, _ = segment(state, part)

    def reset() -> None:
        last[:] = [ensemble.initial_state(recipe, data, place) for data in stacked]

    def run() -> None:
        list(pool.map(train, zip(last, loaded)))
        devices.synchronise(last)

    def exported() -> list[dict[str, Any]]:
        return members_of([fast.parameters_of(recipe, state) for state in last], len(members))

    environment = devices.describe_environment(place) | {
        "members at once": len(blocks[0]),
        "workers": workers,
    }
    return Prepared(reset, run, exported, environment, trained=len(members))
