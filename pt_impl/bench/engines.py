"""The engines as contenders: each trains a whole run, with everything on the device already."""

from collections.abc import Sequence
from functools import partial
from itertools import chain
from typing import Any

from lockstep.bench.prepared import Prepared, Unable
from lockstep.data_prep import Parameters, PreparedData
from lockstep.recipe import Gradient, Loss, Recipe
from lockstep.recipe.optimizers.adam import Adam, AdamW
from lockstep.recipe.optimizers.sgd import Sgd
from lockstep.schedules.formulas import learning_rates

__all__ = ["compiled", "fast", "graph", "steps", "unrecorded"]

Members = Sequence[PreparedData]

UPDATES_A_GRAPH = 8
"""Updates of one graph; with more, PyTorch takes longer to compile and runs no faster."""


def steps(recipe: Recipe, members: Members, device: str, threads: int) -> Prepared:
    """PyTorch, one eager update after the other."""
    from pt_impl import model, train
    from pt_impl.io import device as devices
    from pt_impl.update import State, make_update

    place = devices.select_device(device)
    data = members[0].cast(recipe.dtype)
    epochs = [train.load_batches(data, epoch, place) for epoch in range(data.epochs)]
    batches = list(chain(*epochs))
    update = make_update(recipe)
    last: list[State] = []

    def reset() -> None:
        last[:] = [train.initial_state(recipe, data, place)]
        devices.synchronise(last)

    def run() -> None:
        state = last[0]
        for batch in batches:
            state, _ = update(state, batch)
        devices.synchronise(state)

    return Prepared(
        reset,
        run,
        lambda: [model.export_parameters(last[0].model)],
        devices.describe_environment(place),
    )


def fast(recipe: Recipe, members: Members, device: str, threads: int) -> Prepared:
    """PyTorch, the fast engine: hand-derived updates on one vector."""
    from pt_impl.fast import train as engine

    return _fast(recipe, members, device, engine.make_segment(recipe.update_rule))


def unrecorded(recipe: Recipe, members: Members, device: str, threads: int) -> Prepared:
    """PyTorch, the fast engine's updates without the loss and norms of each."""
    from pt_impl.fast import train as engine

    return _fast(recipe, members, device, engine.make_segment(recipe.update_rule, ("lr",)))


def _fast(recipe: Recipe, members: Members, device: str, segment: Any) -> Prepared:
    from pt_impl.fast import train as engine
    from pt_impl.fast.batches import Batch, load_batches
    from pt_impl.io import device as devices

    place = devices.select_device(device)
    data = members[0].cast(recipe.dtype)
    batches: list[Batch] = []
    for epoch in range(data.epochs):
        batches += load_batches(recipe, data, data.batches(epoch), data.masks(epoch), place)
    last: list[engine.State] = []

    def reset() -> None:
        last[:] = [engine.initial_state(recipe, data, place)]
        devices.synchronise(last)

    def run() -> None:
        segment(last[0], batches)
        devices.synchronise(last)

    return Prepared(
        reset,
        run,
        lambda: [engine.parameters_of(recipe, last[0])],
        devices.describe_environment(place),
    )


def compiled(recipe: Recipe, members: Members, device: str, threads: int) -> Prepared:
    """PyTorch, `torch.compile` over graphs of several updates in functional form."""
    import torch

    compiler = partial(torch.compile, fullgraph=True, dynamic=False)
    return _functional(recipe, members, device, compiler)


def graph(recipe: Recipe, members: Members, device: str, threads: int) -> Prepared:
    """PyTorch, CUDA graphs of several updates in functional form."""
    import torch

    if device == "cpu" or not torch.cuda.is_available():
        raise Unable("CUDA graphs need --device gpu")
    return _functional(recipe, members, device, _captured)


def _captured(updates: Any) -> Any:
    """The same function, replayed from a CUDA graph for each size.

    Arguments and results are copied to and from the graph's own memory, see
    https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs.
    """
    import torch

    graphs: dict[int, Any] = {}

    def unpacked(*arguments: Any) -> list[torch.Tensor]:
        parameters, moments, *batches = arguments
        return [*parameters.values(), *chain(*moments.values()), *batches]

    def cloned(parameters: Any, moments: Any) -> tuple[Any, Any]:
        own_moments = {}
        for name, slots in moments.items():
            own_moments[name] = tuple(moment.clone() for moment in slots)
        return {name: tensor.clone() for name, tensor in parameters.items()}, own_moments

    def capture(parameters: Any, moments: Any, *batches: Any) -> Any:
        own = (*cloned(parameters, moments), *(batch.clone() for batch in batches))
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            # libraries set themselves up before the capture
            for _ in range(3):
                updates(*own)
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            results = updates(*own)
        return graph, own, results

    def replay(*arguments: Any) -> Any:
        size = len(arguments[2])
        if size not in graphs:
            graphs[size] = capture(*arguments)
        graph, own, results = graphs[size]
        for to, argument in zip(unpacked(*own), unpacked(*arguments)):
            to.copy_(argument)
        graph.replay()
        parameters, moments, scalars = results
        return *cloned(parameters, moments), scalars.clone()

    return replay


def _functional(recipe: Recipe, members: Members, device: str, turned: Any) -> Prepared:
    """Updates as pure functions, several at a time through what `turned` makes of them."""
    import torch

    from pt_impl import model
    from pt_impl.bench.functional import initial_moments, make_updates
    from pt_impl.io import device as devices

    optimizer = _functional_optimizer(recipe)
    place = devices.select_device(device)
    data = members[0].cast(recipe.dtype)
    network = model.build_model(recipe, data, place)
    x_ND = torch.from_numpy(data.train_x_ND).to(place)
    y_N = torch.from_numpy(data.train_y_N).to(place)
    epochs = [data.batches(epoch) for epoch in range(data.epochs)]
    rows_TB = torch.cat([torch.from_numpy(epoch.rows_TB) for epoch in epochs]).to(place)
    weight_TB = torch.cat([torch.from_numpy(epoch.weight_TB) for epoch in epochs])
    rates_T = learning_rates(recipe, data.updates_per_epoch).astype(recipe.dtype)
    lr_T = torch.from_numpy(rates_T).to(place)
    update_T = torch.arange(1, len(lr_T) + 1, device=place, dtype=x_ND.dtype)
    columns = (x_ND[rows_TB], y_N[rows_TB], weight_TB.to(place, x_ND.dtype), lr_T, update_T)
    several = turned(make_updates(optimizer, network))
    last: list[Any] = []

    def reset() -> None:
        parameters = {name: tensor.detach().clone() for name, tensor in network.named_parameters()}
        moments = {name: initial_moments(optimizer, tensor) for name, tensor in parameters.items()}
        devices.synchronise(moments)
        last[:] = [parameters, moments]

    def run() -> None:
        parameters, moments = last
        scalars = []
        for begin in range(0, len(lr_T), UPDATES_A_GRAPH):
            batches = [column[begin : begin + UPDATES_A_GRAPH] for column in columns]
            parameters, moments, of_batches = several(parameters, moments, *batches)
            scalars.append(of_batches)
        devices.synchronise(parameters)
        last[:] = [parameters, moments]

    def exported() -> list[Parameters]:
        return [{name: tensor.cpu().numpy().T for name, tensor in last[0].items()}]

    return Prepared(reset, run, exported, devices.describe_environment(place))


def _functional_optimizer(recipe: Recipe) -> Sgd | Adam | AdamW:
    """The recipe's optimizer.

    Raises:
        Unable: the recipe has something that the functional form lacks.
    """
    if recipe.loss != Loss():
        raise Unable(
            f"has cross entropy without its knobs, not {recipe.loss.name} as the recipe has it"
        )
    if recipe.gradient != Gradient() or recipe.average.decay or recipe.training.compute != "same":
        raise Unable("has neither clipping, accumulation, averages nor mixed precision")
    optimizer = recipe.optimizer
    if not isinstance(optimizer, Sgd | Adam | AdamW):
        raise Unable(f"has SGD, Adam and AdamW, not {optimizer.name}")
    return optimizer
