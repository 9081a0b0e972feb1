"""Arrays of a user's loop by dotted names, whichever framework holds them.

This module imports no framework. It knows a tensor by its methods (`detach`, `__array__`), a
PyTorch module by `named_parameters`, and an optimizer by `param_groups`. Where only a framework's
own function will do, it is taken from `sys.modules`: only a caller who has imported JAX can pass
an array of JAX, so that the module is there, in the caller's version.
"""

import dataclasses
import platform
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lockstep.errors import InputError
from lockstep.recipe import Optimizer
from lockstep.version import __version__

__all__ = [
    "environment_of",
    "gradients_of",
    "moments_of",
    "name_arrays",
    "parameters_of",
    "perturbed",
    "rates_of",
    "to_array",
]


def _slots() -> dict[str, str]:
    """Of a name that two optimizers use, what the first has by it; of one letter, which may mean
    anything, none.
    """
    slots: dict[str, str] = {}
    for kind in Optimizer.variants.values():
        slots = {**kind.spec.torch_slots, **kind.spec.optax_slots} | slots
    return {key: slot for key, slot in slots.items() if len(key) > 1}


SLOTS = _slots()
"""What PyTorch and Optax call the memory of their optimizers -> what a checkpoint and a trace call
it.
"""

PACKAGES = (
    "torch",
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "equinox",
    "lightning",
    "transformers",
    "ml_dtypes",
)


def to_array(value: Any) -> tuple[NDArray[Any], str]:
    """A copy in NumPy, and the name of the original dtype.

    A trace cannot hold bfloat16 or a smaller float. These are widened to float32, which holds each
    value exactly.

    Raises:
        InputError: a complex number, a random key, or no array at all.
    """
    if hasattr(value, "detach"):  # PyTorch: its bfloat16 cannot become an array
        dtype = str(value.dtype).rpartition(".")[2]
        value = value.detach()
        value = value.float() if dtype == "bfloat16" or dtype.startswith("float8") else value
        array = value.cpu().numpy().copy()
    else:
        array = np.array(value)
        dtype = array.dtype.name
        if array.dtype.kind == "V" and array.dtype.names is None:  # ml_dtypes' own
            array = array.astype(np.float32)
    if array.dtype.kind not in "biuf":
        raise InputError(f"an array of {dtype} cannot be recorded")
    return array, dtype


def name_arrays(tree: Any) -> dict[str, Any]:
    """Every array of a tree by its dotted path. A tree may be of dictionaries, sequences, named
    tuples, dataclasses, Flax variables and states, Equinox modules, and whatever is registered
    with JAX. Leaves that are no arrays are left out."""
    found: dict[str, Any] = {}
    for path, leaf in _leaves(tree):
        _put(found, ".".join(path), _value(leaf))
    return found


def _put(found: dict[str, Any], name: str, value: Any) -> None:
    if name in found:
        raise InputError(f"two arrays of one tree are called {name!r}")
    found[name] = value


def parameters_of(source: Any) -> tuple[dict[str, Any], set[str]]:
    """Parameters and running statistics by name, and the names of the statistics.

    Args:
        source: a PyTorch module, an NNX module or state, Linen's variables, a tree, or a mapping of
        names to arrays.

    Raises:
        InputError: no floating-point array in it, or two of one name.
    """
    if hasattr(source, "named_parameters"):
        found = dict(source.named_parameters()) | dict(source.named_buffers())
        statistics = {name for name, _ in source.named_buffers()}
    else:
        found, statistics = {}, set()
        for collection, tree in _collections(source).items():
            for path, leaf in _leaves(tree):
                name = ".".join(path)
                _put(found, name, _value(leaf))
                if collection != "params" or (_is_variable(leaf) and not _is_a(leaf, "Param")):
                    statistics.add(name)
    found = {name: array for name, array in found.items() if _is_float(array)}
    if not found:
        raise InputError(f"parameters: no floating-point array in a {type(source).__name__}")
    return found, statistics & found.keys()


def gradients_of(source: Any) -> dict[str, Any]:
    """Gradients by the names of their parameters: from a tree, or from `.grad` of a PyTorch
    module's parameters that have one."""
    if hasattr(source, "named_parameters"):
        return {name: p.grad for name, p in source.named_parameters() if p.grad is not None}
    return {
        name: array
        for tree in _collections(source).values()
        for name, array in name_arrays(tree).items()
        if _is_float(array)
    }


def moments_of(source: Any, parameters: Any, names: Sequence[str]) -> dict[str, Any]:
    """The slots of an optimizer, as "slot/parameter", without its counts of steps.

    Args:
        source: a PyTorch optimizer, an Optax state, or an object with one as `opt_state`.
        parameters: those that it trains; for a PyTorch optimizer, its module.
        names: of the parameters.

    Raises:
        InputError: a PyTorch optimizer whose module is not known.
    """
    found: dict[str, Any] = {}
    if hasattr(source, "param_groups"):
        if not hasattr(parameters, "named_parameters"):
            raise InputError(
                "moments: a PyTorch optimizer needs its module; give it as `parameters`"
            )
        for name, parameter in parameters.named_parameters():
            for slot, value in source.state.get(parameter, {}).items():
                if getattr(value, "ndim", 0):
                    found[f"{SLOTS.get(slot, slot)}/{name}"] = value
        return found
    state = name_arrays(getattr(source, "opt_state", source))
    placed = [
        (*_slot_and_name(path.split("."), set(names)), leaf)
        for path, leaf in state.items()
        if _is_float(leaf)
    ]
    slots = Counter((SLOTS.get(slot[-1], slot[-1]), name) for slot, name, _ in placed if name)
    for slot, name, leaf in placed:
        short = SLOTS.get(slot[-1], slot[-1]) if name else ""
        if (
            name
        ):  # two of one slot, as of a chain of two such transformations, keep their whole paths
            found[f"{short if slots[short, name] == 1 else '.'.join(slot)}/{name}"] = leaf
    return found


def _slot_and_name(path: list[str], names: set[str]) -> tuple[list[str], str]:
    """The slot of an array in an optimizer's state, and the parameter with which its path ends; ""
    for none."""
    for cut in range(len(path)):
        name = ".".join(path[cut:])
        if name in names:
            return [part for part in path[:cut] if part != "params"] or ["state"], name
    return path, ""


def rates_of(source: Any) -> list[Any]:
    """The learning rates: of each group of a PyTorch optimizer, of a sequence, or a single one."""
    if hasattr(source, "param_groups"):
        return [group["lr"] for group in source.param_groups]
    return list(source) if isinstance(source, Sequence) else [source]


def environment_of() -> dict[str, Any]:
    """Versions of the packages that the caller has loaded, and the settings that change numbers."""
    found: dict[str, Any] = {
        "lockstep": __version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
    }
    for name in PACKAGES:
        version = getattr(sys.modules.get(name), "__version__", None)
        if version is not None:
            found[name] = str(version)
    torch, jax = sys.modules.get("torch"), sys.modules.get("jax")
    if torch is not None:
        found["torch_threads"] = torch.get_num_threads()
        found["torch_matmul_precision"] = torch.get_float32_matmul_precision()
        found["torch_deterministic"] = torch.are_deterministic_algorithms_enabled()
    if jax is not None:
        found["jax_device"] = jax.default_backend()
        found["jax_enable_x64"] = bool(jax.config.jax_enable_x64)
        found["jax_matmul_precision"] = jax.config.jax_default_matmul_precision
    return found


def perturbed(parameters: Any, seed: int) -> Any:
    """The parameters with every element moved by one unit in the last place, up or down at random.

    A module of PyTorch or NNX is changed in place and returned; a tree is rebuilt. Running
    statistics stay as they are.

    Args:
        parameters: as for `Recorder.start`.
        seed: of the directions.
    """
    generator = np.random.Generator(np.random.PCG64(seed))

    def move(
        value: Any,
        nextafter: Callable[[Any, Any], Any],
        towards: Callable[[NDArray[Any], Any], Any],
    ) -> Any:
        if not _is_float(value):
            return value
        directions = np.where(
            generator.integers(0, 2, tuple(value.shape), dtype=np.int8), np.inf, -np.inf
        )
        return nextafter(value, towards(directions, value))

    torch, jax, nnx = (sys.modules.get(name) for name in ("torch", "jax", "flax.nnx"))

    def moved(value: Any) -> Any:
        if hasattr(value, "detach") and torch is not None:
            return move(
                value.detach(), torch.nextafter, lambda to, like: torch.from_numpy(to).to(like)
            )
        if isinstance(value, np.ndarray) or jax is None:
            return move(value, np.nextafter, lambda to, like: to.astype(like.dtype))
        return move(value, jax.numpy.nextafter, lambda to, like: jax.numpy.asarray(to, like.dtype))

    if hasattr(parameters, "named_parameters"):
        for parameter in parameters.parameters():
            parameter.data.copy_(moved(parameter))
        return parameters
    if nnx is not None and isinstance(parameters, nnx.Module):
        assert jax is not None
        nnx.update(parameters, jax.tree.map(moved, nnx.state(parameters, nnx.Param)))
        return parameters
    if isinstance(parameters, Mapping) and isinstance(parameters.get("params"), Mapping):
        return {**parameters, "params": _map(moved, parameters["params"])}
    return _map(moved, parameters)


def _map(function: Callable[[Any], Any], tree: Any) -> Any:
    jax = sys.modules.get("jax")
    if jax is not None:
        return jax.tree.map(function, tree)
    if isinstance(tree, Mapping):
        return {key: _map(function, value) for key, value in tree.items()}
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        return type(tree)(*(_map(function, value) for value in tree))
    if isinstance(tree, list | tuple):
        return type(tree)(_map(function, value) for value in tree)
    return function(tree) if _is_array(tree) else tree


def _collections(source: Any) -> dict[str, Any]:
    """Linen's collections by name; any other tree is one collection, "params"."""
    nnx = sys.modules.get("flax.nnx")
    if nnx is not None and isinstance(source, nnx.Module):
        return {"params": nnx.state(source)}
    if isinstance(source, Mapping) and isinstance(source.get("params"), Mapping):
        return dict(source)
    return {"params": source}


def _leaves(tree: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """The leaves of a tree with their paths. A Flax variable is one leaf, or none if it is random
    state."""
    jax = sys.modules.get("jax")
    children: Iterable[tuple[Any, Any]] = ()
    if _is_variable(tree) or _is_array(tree):
        if not _is_a(tree, "RngState"):
            yield path, tree
    elif isinstance(tree, Mapping):
        children = tree.items()
    elif isinstance(tree, tuple) and hasattr(tree, "_fields"):
        children = zip(tree._fields, tree)
    elif isinstance(tree, list | tuple):
        children = enumerate(tree)
    elif dataclasses.is_dataclass(tree) and not isinstance(tree, type):
        children = (
            (field.name, getattr(tree, field.name, None)) for field in dataclasses.fields(tree)
        )
    elif jax is not None:  # what only JAX knows how to take apart
        flat, _ = jax.tree_util.tree_flatten_with_path(tree, is_leaf=_is_variable)
        children = ((".".join(map(_key, keys)), leaf) for keys, leaf in flat if leaf is not tree)
    for key, child in children:
        yield from _leaves(child, (*path, str(key)))


def _key(key: Any) -> str:
    """One step of a JAX path, without its brackets and quotes."""
    return str(
        next((getattr(key, kind) for kind in ("key", "idx", "name") if hasattr(key, kind)), key)
    )


def _is_variable(value: Any) -> bool:
    return hasattr(value, "get_value") and _is_a(value, "Variable", "VariableState")


def _is_a(value: Any, *names: str) -> bool:
    return any(kind.__name__ in names for kind in type(value).__mro__)


def _value(leaf: Any) -> Any:
    return leaf.get_value() if _is_variable(leaf) else leaf


def _is_array(value: Any) -> bool:
    return hasattr(value, "dtype") and hasattr(value, "shape")


def _is_float(value: Any) -> bool:
    return _is_array(value) and "float" in str(value.dtype)
