"""The names of a PyTorch model's modules and parameters, without what wraps them."""

from collections.abc import Iterator, Sequence
from typing import Any

from lockstep.errors import InputError

__all__ = [
    "Models",
    "Optimizers",
    "inside",
    "module_names",
    "named_buffers",
    "named_parameters",
    "wrappers",
]

INSIDE = {
    "DistributedDataParallel": "module",
    "DataParallel": "module",
    "OptimizedModule": "_orig_mod",
    "FullyShardedDataParallel": "_fsdp_wrapped_module",
    "CheckpointWrapper": "_checkpoint_wrapped_module",
}
"""Class of a wrapper -> where it holds the module."""
TITLES = {"OptimizedModule": "torch.compile"}


def inside(module: Any) -> str:
    """The name under which a wrapper holds its module; "" where a module is no wrapper."""
    for kind in type(module).__mro__:
        if INSIDE.get(kind.__name__, "") in module._modules:
            return INSIDE[kind.__name__]
    return ""


def module_names(model: Any) -> dict[str, str]:
    """The path of each module in PyTorch -> its path without wrappers; "" is the model."""
    names: dict[str, str] = {}
    holding: dict[str, str] = {}
    for path, module in model.named_modules():
        parent, _, last = path.rpartition(".")
        holding[path] = inside(module)
        above = names.get(parent, parent)
        if path and last == holding.get(parent):
            names[path] = above
        elif path:
            names[path] = f"{above}.{last}" if above else last
        else:
            names[path] = ""
    return names


def wrappers(model: Any) -> list[str]:
    """The kinds of wrappers in a model, each once, the outermost first."""
    titles: dict[str, None] = {}
    for _, module in model.named_modules():
        if inside(module):
            kind = type(module).__name__
            titles[TITLES.get(kind, kind)] = None
        if getattr(module, "_compiled_call_impl", None) is not None:
            titles[TITLES["OptimizedModule"]] = None
    return list(titles)


def _renamed(model: Any, tensors: Iterator[tuple[str, Any]]) -> Iterator[tuple[str, Any]]:
    if not hasattr(model, "named_modules"):
        yield from tensors
        return
    names = module_names(model)
    for path, tensor in tensors:
        owner, _, last = path.rpartition(".")
        above = names.get(owner, owner)
        yield (f"{above}.{last}" if above else last), tensor


def named_parameters(model: Any) -> Iterator[tuple[str, Any]]:
    """The parameters with their names without wrappers; a tied one has its first name."""
    return _renamed(model, model.named_parameters())


def named_buffers(model: Any) -> Iterator[tuple[str, Any]]:
    """The buffers with their names without wrappers."""
    return _renamed(model, model.named_buffers())


class Models:
    """Several models as one: their parameters and buffers, whose names differ.

    Args:
        models: `torch.nn.Module`s.

    Raises:
        InputError: two of them call a parameter, a buffer or a layer the same.
    """

    def __init__(self, models: Sequence[Any]) -> None:
        self.models = list(models)
        names: set[str] = set()
        for model in self.models:
            of_model = {name for name, _ in named_parameters(model)}
            of_model |= {name for name, _ in named_buffers(model)}
            common = sorted(names & of_model)
            if common:
                raise InputError(
                    f"watch: two models have a parameter {common[0]!r}; watch them as one, "
                    'torch.nn.ModuleDict({"g": ..., "d": ...}), which gives each a prefix'
                )
            names |= of_model

    def named_parameters(self) -> Iterator[tuple[str, Any]]:
        """The parameters of all models."""
        for model in self.models:
            yield from named_parameters(model)

    def named_buffers(self) -> Iterator[tuple[str, Any]]:
        """The buffers of all models."""
        for model in self.models:
            yield from named_buffers(model)

    def parameters(self) -> Iterator[Any]:
        """The parameters of all models, without names."""
        for _, parameter in self.named_parameters():
            yield parameter


class Optimizers:
    """Several optimizers as one: their groups follow one another.

    Args:
        optimizers: `torch.optim.Optimizer`s.
    """

    def __init__(self, optimizers: Sequence[Any]) -> None:
        self.optimizers = list(optimizers)

    @property
    def param_groups(self) -> list[Any]:
        """The groups of all optimizers."""
        return [group for optimizer in self.optimizers for group in optimizer.param_groups]

    @property
    def state(self) -> dict[Any, Any]:
        """Parameter -> what an optimizer remembers of it."""
        states: dict[Any, Any] = {}
        for optimizer in self.optimizers:
            states |= optimizer.state
        return states
