"""Faults in the code of a loop in PyTorch: what is done at a wrong time, or to wrong numbers."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import nn

from lockstep.studies.prove.own_loops.ways import Loop

__all__ = ["HOOKS", "hook_of"]


class Place(NamedTuple):
    """A loop at an update."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    loop: Loop
    update: int

    @property
    def gradients(self) -> dict[str, torch.Tensor]:
        """The gradients by their parameters' names."""
        return {
            name: parameter.grad
            for name, parameter in self.model.named_parameters()
            if parameter.grad is not None
        }


Change = Callable[[Place], None]
LATER = 1
"""The update of what happens once, and not at the first."""


def hook_of(
    loop: Loop, model: nn.Module, optimizer: torch.optim.Optimizer
) -> Callable[[str, int], None]:
    """What a loop calls with a time of `HOOKS` and an update, counted from 0."""
    time, change = HOOKS[loop.wrong] if loop.wrong else ("", lambda place: None)

    def hook(now: str, update: int) -> None:
        if now == time:
            with torch.no_grad():
                change(Place(model, optimizer, loop, update))

    return hook


def _gradients_times(factor: float) -> Change:
    def change(place: Place) -> None:
        for gradient in place.gradients.values():
            gradient.mul_(factor)

    return change


def _head_without_gradient(place: Place) -> None:
    for parameter in place.model.get_submodule("head").parameters():
        parameter.requires_grad_(False)


def _head_left_out(place: Place) -> None:
    """The optimizer does not know the head."""
    head = set(place.model.get_submodule("head").parameters())
    for group in place.optimizer.param_groups:
        group["params"] = [one for one in group["params"] if one not in head]


def _head_gradient_0(place: Place) -> None:
    for name, gradient in place.gradients.items():
        if name.startswith("head"):
            gradient.zero_()


def _skipped(place: Place) -> None:
    """The step of one update is left out."""
    if place.update == LATER:
        for parameter in place.model.parameters():
            parameter.grad = None


def _forgotten(place: Place) -> None:
    """The optimizer begins anew."""
    if place.update == LATER:
        place.optimizer.state.clear()


def _swapped(place: Place) -> None:
    """Two tensors of one shape change their momenta before an update."""
    if place.update == LATER:
        by_shape: dict[torch.Size, torch.Tensor] = {}
        for parameter in place.model.parameters():
            other = by_shape.setdefault(parameter.shape, parameter)
            if other is not parameter:
                state = place.optimizer.state
                state[parameter], state[other] = state[other], state[parameter]
                return


def _evaluating(place: Place) -> None:
    place.model.eval()


def _each_gradient(change: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> Change:
    """What each gradient becomes, of itself and its parameter, before it is added up."""

    def listen(place: Place) -> None:
        for parameter in place.model.parameters():
            parameter.register_hook(
                lambda gradient, parameter=parameter: change(gradient, parameter.detach())
            )

    return listen


def _behind(name: str, change: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> Change:
    """What the output of a layer becomes, of its input and itself."""

    def listen(place: Place) -> None:
        layer = place.model.get_submodule(name)
        layer.register_forward_hook(lambda module, inputs, y: change(inputs[0], y))

    return listen


def _into_head(change: Callable[[torch.Tensor], torch.Tensor]) -> Change:
    """What the head takes in becomes."""

    def listen(place: Place) -> None:
        head = place.model.get_submodule("head")
        head.register_forward_pre_hook(lambda module, inputs: change(inputs[0]))

    return listen


def _reversed(x: torch.Tensor) -> torch.Tensor:
    x.register_hook(torch.neg)
    return x


def _of_keys(place: Place) -> None:
    """Queries are made by the kernel of the keys."""
    attention = place.model.get_submodule("blocks.0.attention")
    key = attention.get_submodule("key")
    assert isinstance(key, nn.Linear)
    attention.get_submodule("query").register_forward_hook(
        lambda module, inputs, y: nn.functional.linear(inputs[0], key.weight, key.bias)
    )


# ---- faults without a name


def _draw(place: Place) -> torch.Generator:
    """The numbers of one odd fault, the same at every update."""
    return torch.Generator().manual_seed(place.loop.odd)


def _one_of(names: list[str], draw: torch.Generator) -> str:
    return names[int(torch.randint(len(names), (), generator=draw))]


def _noise_like(tensor: torch.Tensor, draw: torch.Generator) -> torch.Tensor:
    """Half as large as the tensor, and at least 5e-3."""
    size = max(float(tensor.abs().mean()), 1e-2)
    return 0.5 * size * torch.randn(tensor.shape, generator=draw).to(tensor)


def _odd_gradient(place: Place) -> None:
    draw = _draw(place)
    gradient = place.gradients[_one_of(list(place.gradients), draw)]
    gradient.add_(_noise_like(gradient, draw))


def _odd_holes(place: Place) -> None:
    draw = _draw(place)
    sizes = {name: gradient.numel() for name, gradient in place.gradients.items()}
    gradient = place.gradients[_one_of([name for name in sizes if sizes[name] > 50], draw)]
    gradient.mul_(torch.rand(gradient.shape, generator=draw) < 0.5)


def _odd_memory(place: Place) -> None:
    """Noise on what the optimizer remembers of one tensor."""
    draw = _draw(place)
    parameters = dict(place.model.named_parameters())
    state = place.optimizer.state[parameters[_one_of(list(parameters), draw)]]
    memory = next(value for value in state.values() if torch.is_tensor(value) and value.ndim)
    memory.add_(_noise_like(memory, draw).abs())


def _odd_step(place: Place) -> None:
    draw = _draw(place)
    parameters = dict(place.model.named_parameters())
    parameter = parameters[_one_of(list(parameters), draw)]
    parameter.add_(_noise_like(parameter, draw))


def _plain_layers(model: nn.Module) -> list[str]:
    """The layers without layers in them, which give one tensor."""
    kinds = nn.Embedding, nn.RNNBase
    return [
        name
        for name, layer in model.named_modules()
        if name and not list(layer.children()) and not isinstance(layer, kinds)
    ]


def _odd_output(place: Place) -> None:
    layer = place.model.get_submodule(_one_of(_plain_layers(place.model), _draw(place)))

    def bent(module: nn.Module, inputs: object, y: torch.Tensor) -> torch.Tensor:
        # by its own size, as a small number is all but a factor of its sine
        size = y.detach()[y.isfinite()].pow(2).mean().sqrt().clamp_min(1e-6)
        return y + 0.3 * size * torch.sin(3 * y.clamp_min(-1e30) / size)

    layer.register_forward_hook(bent)


def _odd_layer(place: Place) -> None:
    """The head takes in a random mixture of what it should."""
    draw = _draw(place)
    head = place.model.get_submodule("head")
    assert isinstance(head, nn.Linear)
    width = head.in_features
    mixture = torch.randn(width, width, generator=draw) / width**0.5

    def mixed(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> torch.Tensor:
        return inputs[0] + torch.tanh(inputs[0] @ mixture.to(inputs[0]))

    head.register_forward_pre_hook(mixed)


HOOKS: dict[str, tuple[str, Change]] = {
    "gradients-negated": ("gradients", _gradients_times(-1.0)),
    "gradients-scaled": ("gradients", _gradients_times(2.0**16)),
    "gradients-negated-late": ("clipped", _gradients_times(-1.0)),
    "head-frozen": ("built", _head_without_gradient),
    "head-left-out": ("built", _head_left_out),
    "head-gradient-0": ("gradients", _head_gradient_0),
    "step-skipped": ("clipped", _skipped),
    "state-forgotten": ("clipped", _forgotten),
    "moments-swapped": ("clipped", _swapped),
    "evaluating": ("built", _evaluating),
    "each-value-clipped": ("built", _each_gradient(lambda one, _: one.clamp(-1e-3, 1e-3))),
    "decay-in-gradient": ("built", _each_gradient(lambda one, parameter: one + 0.01 * parameter)),
    "head-detached": ("built", _into_head(torch.detach)),
    "head-reversed": ("built", _into_head(_reversed)),
    "gelu-straight-through": ("built", _behind("gelu1", lambda x, y: x + (y - x).detach())),
    "output-0": ("built", _behind("blocks.0.gelu", lambda x, y: 0 * y)),
    "queries-by-keys": ("built", _of_keys),
    "odd-output": ("built", _odd_output),
    "odd-layer": ("built", _odd_layer),
    "odd-loss": ("", lambda place: None),  # in the loop
    "odd-gradient": ("gradients", _odd_gradient),
    "odd-holes": ("gradients", _odd_holes),
    "odd-memory": ("stepped", _odd_memory),
    "odd-step": ("stepped", _odd_step),
}
"""Key -> when in an update ("built", "gradients", "clipped", "stepped") what is done."""
