"""The engines as contenders: each trains a whole run from its start, everything already on the
device.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

from lockstep.bench.prepared import Prepared, Unable
from lockstep.data_prep import Parameters, PreparedData
from lockstep.recipe import Gradient, Loss, Recipe
from lockstep.recipe.optimizers.adam import Adam, AdamW
from lockstep.recipe.optimizers.sgd import Sgd
from lockstep.schedules.formulas import learning_rates

__all__ = ["compiled", "fast", "graph", "steps", "unrecorded"]

Members = Sequence[PreparedData]

UPDATES_A_GRAPH = 8  # more updates in one PyTorch graph take longer to compile and run no faster


def steps(recipe: Recipe, members: Members, device: str, threads: int) -> Prepared:
    """PyTorch, one eager update after the other."""
    from pt_impl import model, train
    from pt_impl.io import device as devices
    from pt_impl.update import State, make_update

    place = devices.select_device(device)
    data = members[0].cast(recipe.dtype)
    batches = [
        batch for epoch in range(data.epochs) for batch in train.load_batches(data, epoch, place)
    ]
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
    from pt_impl.fast.batches import load_batches
    from pt_impl.io import device as devices

    place = devices.select_device(device)
    data = members[0].cast(recipe.dtype)
    epochs = ((data.batches(epoch), data.masks(epoch)) for epoch in range(data.epochs))
    batches = [batch for drawn in epochs for batch in load_batches(recipe, data, *drawn, place)]
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

    return _functional(
        recipe, members, device, partial(torch.compile, fullgraph=True, dynamic=False)
    )


def graph(recipe: Recipe, members: Members, device: str, threads: int) -> Prepared:
    """PyTorch, CUDA graphs of several updates in functional form."""
    import torch

    if device == "cpu" or not torch.cuda.is_available():
        raise Unable("CUDA graphs need --device gpu")
    return _functional(recipe, members, device, _captured)


def _captured(updates: Any) -> Any:
    """The same function, from a CUDA graph for each size; arguments and results are copied to and
    from the graph's
    own memory. https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs"""
    import torch

    graphs: dict[int, Any] = {}

    def unpacked(*arguments: Any) -> list[torch.Tensor]:
        parameters, moments, *rest = arguments
        return [
            *parameters.values(),
            *(moment for kept in moments.values() for moment in kept),
            *rest,
        ]

    def capture(parameters: Any, moments: Any, *batches: Any) -> Any:
        own = (
            {name: tensor.clone() for name, tensor in parameters.items()},
            {name: tuple(moment.clone() for moment in kept) for name, kept in moments.items()},
            *(batch.clone() for batch in batches),
        )
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(3):  # before the capture, so that libraries have set themselves up
                updates(*own)
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            found = updates(*own)
        return graph, own, found

    def replay(*arguments: Any) -> Any:
        size = len(arguments[2])
        if size not in graphs:
            graphs[size] = capture(*arguments)
        graph, own, found = graphs[size]
        for to, given in zip(unpacked(*own), unpacked(*arguments)):
            to.copy_(given)
        graph.replay()
        parameters, moments, scalars = found
        return (
            {name: tensor.clone() for name, tensor in parameters.items()},
            {name: tuple(moment.clone() for moment in kept) for name, kept in moments.items()},
            scalars.clone(),
        )

    return replay


def _functional(recipe: Recipe, members: Members, device: str, turned: Any) -> Prepared:
    """Updates as pure functions, several at a time through what `turned` makes of them."""
    import torch
    from torch.func import functional_call, grad_and_value

    from pt_impl import model
    from pt_impl.bench.functional import initial_moments, update_parameter
    from pt_impl.io import device as devices

    if recipe.loss != Loss():
        raise Unable(
            f"has cross entropy without its knobs, not {recipe.loss.name} as the recipe has it"
        )
    if recipe.gradient != Gradient() or recipe.average.decay or recipe.training.compute != "same":
        raise Unable("has neither clipping, accumulation, averages nor mixed precision")
    optimizer = recipe.optimizer
    if not isinstance(optimizer, Sgd | Adam | AdamW):
        raise Unable(f"has SGD, Adam and AdamW, not {optimizer.name}")
    place = devices.select_device(device)
    data = members[0].cast(recipe.dtype)
    network = model.build_model(recipe, data, place)
    x_ND, y_N = (
        torch.from_numpy(data.train_x_ND).to(place),
        torch.from_numpy(data.train_y_N).to(place),
    )
    epochs = [data.batches(epoch) for epoch in range(data.epochs)]
    rows_TB = torch.cat([torch.from_numpy(epoch.rows_TB) for epoch in epochs]).to(place)
    weight_TB = torch.cat([torch.from_numpy(epoch.weight_TB) for epoch in epochs]).to(
        place, x_ND.dtype
    )
    x_TBD, y_TB = x_ND[rows_TB], y_N[rows_TB]
    lr_T = torch.from_numpy(learning_rates(recipe, data.updates_per_epoch).astype(recipe.dtype)).to(
        place
    )
    update_T = torch.arange(1, len(lr_T) + 1, device=place, dtype=x_ND.dtype)

    def loss_of(parameters: Any, x_BD: Any, y_B: Any, weight_B: Any) -> Any:
        loss_B = torch.nn.functional.cross_entropy(
            functional_call(network, parameters, (x_BD,)), y_B, reduction="none"
        )
        return (loss_B * weight_B).sum() / weight_B.sum()

    def norm(tensors: Any) -> Any:
        return torch.stack([tensor.square().sum() for tensor in tensors]).sum().sqrt()

    def updates(
        parameters: Any, moments: Any, x: Any, y: Any, weight: Any, lr: Any, number: Any
    ) -> Any:
        scalars: list[Any] = []
        for t in range(len(x)):
            before = parameters
            gradients, loss = grad_and_value(loss_of)(parameters, x[t], y[t], weight[t])
            after = {
                name: update_parameter(
                    optimizer, lr[t], number[t], parameters[name], gradient, moments[name]
                )
                for name, gradient in gradients.items()
            }
            parameters = {name: pair[0] for name, pair in after.items()}
            moments = {name: pair[1] for name, pair in after.items()}
            # the other contenders compute these at every update too
            changes = [parameters[name] - before[name] for name in parameters]
            scalars += [loss, norm(gradients.values()), norm(changes)]
        return parameters, moments, torch.stack(scalars)

    several = turned(updates)
    last: list[Any] = []

    def reset() -> None:
        parameters = {name: tensor.detach().clone() for name, tensor in network.named_parameters()}
        moments = {name: initial_moments(optimizer, tensor) for name, tensor in parameters.items()}
        devices.synchronise(moments)
        last[:] = [parameters, moments]

    def run() -> None:
        parameters, moments = last
        found = []
        for begin in range(0, len(lr_T), UPDATES_A_GRAPH):
            cut = slice(begin, begin + UPDATES_A_GRAPH)
            arguments = (x_TBD[cut], y_TB[cut], weight_TB[cut], lr_T[cut], update_T[cut])
            parameters, moments, scalars = several(parameters, moments, *arguments)
            found.append(scalars)
        devices.synchronise(parameters)
        last[:] = [parameters, moments]

    def exported() -> list[Parameters]:
        return [{name: tensor.cpu().numpy().T for name, tensor in last[0].items()}]

    return Prepared(reset, run, exported, devices.describe_environment(place))
