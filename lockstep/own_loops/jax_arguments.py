"""The arguments of a loss function in JAX, taken apart into arrays with names."""

import inspect
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lockstep.own_loops.arrays import Tensor, Tree

__all__ = ["Argument", "Opened", "batch_of", "has_tracer", "is_a_module", "open_arguments"]

NO_BATCH = ("state", "stats", "key", "rng", "step", "count", "mutable", "vars", "variables")
"""Words in the name of an argument that is no batch: running statistics, keys, counters."""


@dataclass(frozen=True)
class Argument:
    """An array among the arguments.

    Attributes:
        argument: the position of the argument, or its keyword.
        path: the dotted path of the array in it; "" where the argument is the array.
        value: the array.
    """

    argument: int | str
    path: str
    value: Tensor


@dataclass(frozen=True)
class Opened:
    """All arrays of some arguments, and the way back.

    Attributes:
        arrays: the arrays in the order in which `rebuild` takes them.
        rebuild: from arrays to positional arguments and keywords. NNX modules are new objects, so
            that what a call changes in them does not reach the caller's.
    """

    arrays: list[Argument]
    rebuild: Callable[[Sequence[Tensor]], tuple[tuple[Any, ...], dict[str, Any]]]


def open_arguments(arguments: Sequence[Any], keywords: Mapping[str, Any]) -> Opened:
    """Take arguments apart; what is no array, as a function or a flag, stays as it is."""
    jax = sys.modules["jax"]
    pieces: list[tuple[int | str, Tree]] = [*enumerate(arguments), *keywords.items()]
    arrays: list[Argument] = []
    rebuilders: list[tuple[int, Callable[[Sequence[Tensor]], Any]]] = []
    for argument, tree in pieces:
        named, rebuild = _open_tree(jax, tree)
        arrays += [Argument(argument, path, value) for path, value in named]
        rebuilders.append((len(named), rebuild))

    def rebuild_all(values: Sequence[Tensor]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        rest = list(values)
        rebuilt: list[Any] = []
        for count, rebuild in rebuilders:
            rebuilt.append(rebuild(rest[:count]))
            rest = rest[count:]
        positional = tuple(rebuilt[: len(arguments)])
        return positional, dict(zip(keywords, rebuilt[len(arguments) :]))

    return Opened(arrays, rebuild_all)


Named = list[tuple[str, Tensor]]
Rebuild = Callable[[Sequence[Tensor]], Any]


def _open_tree(jax: Any, tree: Tree) -> tuple[Named, Rebuild]:
    """The arrays of one argument with their paths, and the function that puts it together."""
    leaves, structure = jax.tree_util.tree_flatten_with_path(tree, is_leaf=_is_leaf)
    is_linen = isinstance(tree, Mapping) and isinstance(tree.get("params"), Mapping)
    named: Named = []
    makers: list[tuple[int, Rebuild]] = []
    for keys, leaf in leaves:
        words = [_word(key) for key in (keys[1:] if is_linen else keys)]
        inner, rebuild = _open_leaf(jax, leaf)
        named += [(".".join([*words, path] if path else words), value) for path, value in inner]
        makers.append((len(inner), rebuild))

    def rebuild_tree(values: Sequence[Tensor]) -> Any:
        rest = list(values)
        rebuilt: list[Any] = []
        for count, make in makers:
            rebuilt.append(make(rest[:count]))
            rest = rest[count:]
        return jax.tree_util.tree_unflatten(structure, rebuilt)

    return named, rebuild_tree


def _open_leaf(jax: Any, leaf: Any) -> tuple[Named, Rebuild]:
    nnx = sys.modules.get("flax.nnx")
    if nnx is not None and is_a_module(leaf, "flax.nnx"):
        graph, state = nnx.split(leaf)
        named, rebuild = _open_tree(jax, state)
        return named, lambda values: nnx.merge(graph, rebuild(values))
    if _is_variable(leaf):
        values, structure = jax.tree_util.tree_flatten(leaf)
        named = [("", value) for value in values if _is_array(value)]
        if len(named) == len(values):
            return named, lambda values: jax.tree_util.tree_unflatten(structure, values)
    if _is_array(leaf):
        return [("", leaf)], lambda values: values[0]
    return [], lambda _: leaf


def _is_leaf(value: Any) -> bool:
    return _is_variable(value) or is_a_module(value, "flax.nnx")


def is_a_module(value: Any, library: str) -> bool:
    """Whether a value is a module of "flax.nnx" or of "equinox"."""
    package = sys.modules.get(library)
    if package is None:
        return False
    kinds = [getattr(package, name, None) for name in ("Module", "Object", "Pytree")]
    if library == "flax.nnx":
        kinds.append(getattr(package, "Optimizer", None))
    return isinstance(value, tuple(kind for kind in kinds if isinstance(kind, type)))


def _is_variable(value: Any) -> bool:
    names = {kind.__name__ for kind in type(value).__mro__}
    return hasattr(value, "get_value") and bool(names & {"Variable", "VariableState"})


def _is_array(value: Any) -> bool:
    return hasattr(value, "dtype") and hasattr(value, "shape")


def _word(key: Any) -> str:
    """One step of a path, without brackets and quotes."""
    for kind in ("key", "idx", "name"):
        if hasattr(key, kind):
            return str(getattr(key, kind))
    return str(key)


def has_tracer(tree: Tree) -> bool:
    """Whether an array of a tree is traced, as within `jit`."""
    jax = sys.modules["jax"]
    return any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree_util.tree_leaves(tree))


# --- the batch among the arguments


def batch_of(
    function: Callable[..., Any],
    arguments: Sequence[Any],
    opened: Opened,
    parameters: Sequence[int],
    known: Collection[str],
) -> dict[str, Argument]:
    """The arrays of the batch by name.

    The batch is what the loss function takes besides parameters, without random keys, modules,
    scalars, and arguments whose names say that they are something else (`state`, `key`, `rng`).

    Args:
        function: the loss function.
        arguments: its positional arguments.
        opened: the same, taken apart, with the keywords.
        parameters: the positions of the parameters.
        known: names of parameters and running statistics, which are no batch.
    """
    names = _argument_names(function, len(arguments))
    groups: dict[int | str, list[Argument]] = {}
    for array in opened.arrays:
        place = array.argument
        if place in parameters or not _may_be_batch(names.get(place, str(place)), array):
            continue
        if isinstance(place, int) and is_a_module(arguments[place], "flax.nnx"):
            continue
        groups.setdefault(place, []).append(array)
    for place, group in list(groups.items()):
        if all(array.path and array.path in known for array in group):
            del groups[place]
    batch: dict[str, Argument] = {}
    for place, group in groups.items():
        name = names.get(place, str(place))
        for array in group:
            word = array.path or ("x" if name in ("batch", "data") else name)
            batch[word if word not in batch else f"{name}.{word}"] = array
    return batch


def _argument_names(function: Callable[..., Any], count: int) -> dict[int | str, str]:
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        parameters = []
    positional = [
        parameter.name
        for parameter in parameters
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
    ]
    return {place: positional[place] for place in range(min(count, len(positional)))}


def _may_be_batch(name: str, array: Argument) -> bool:
    words = name.lower().split("_")
    dtype, shape = str(array.value.dtype), tuple(array.value.shape)
    is_key = "key" in dtype or (dtype == "uint32" and shape == (2,))
    return bool(shape) and not is_key and not any(word.rstrip("s") in SINGULAR for word in words)


SINGULAR = {word.rstrip("s") for word in NO_BATCH}
