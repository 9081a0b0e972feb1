"""Arrays of a user's loop by dotted names, whichever framework holds them.

This module imports no framework. It knows a tensor by its methods (`detach`, `__array__`), a
PyTorch module by `named_parameters`, and an optimizer by `param_groups`. Where only a framework's
own function will do, the framework comes from `sys.modules`: a caller who passes an array of JAX
has imported JAX, so that the module is there, in the caller's version.
"""

import dataclasses
import platform
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lockstep.errors import InputError
from lockstep.own_loops.torch_names import named_buffers, named_parameters
from lockstep.recipe import Optimizer
from lockstep.version import __version__

__all__ = [
    "Tensor",
    "Tree",
    "dense",
    "environment_of",
    "gradients_of",
    "moments_of",
    "name_arrays",
    "parameters_of",
    "perturbed",
    "rates_of",
    "tensors_of",
    "to_array",
]


Tensor = Any
"""An array of any framework."""
Tree = Any
"""Dictionaries, sequences, modules or states with tensors as leaves."""
Path = tuple[str, ...]
"""The keys that lead to a leaf of a tree."""


def _slots() -> dict[str, str]:
    slots: dict[str, str] = {}
    for kind in Optimizer.variants.values():
        slots = {**kind.spec.torch_slots, **kind.spec.optax_slots} | slots
    return {key: slot for key, slot in slots.items() if len(key) > 1}


SLOTS = _slots()
"""Name of a slot in PyTorch or Optax -> its name in a checkpoint and a trace.

Of two optimizers that use one name, the first counts. A name of one letter may mean anything, and
is left out.
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


def to_array(value: Tensor) -> tuple[NDArray[Any], str]:
    """A copy of a tensor in NumPy, and the name of the original dtype.

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


def name_arrays(tree: Tree) -> dict[str, Tensor]:
    """Every array of a tree by its dotted path; leaves that are no arrays are left out.

    A tree may be of dictionaries, sequences, named tuples, dataclasses, Flax variables and states,
    Equinox modules, and whatever is registered with JAX.

    Raises:
        InputError: two arrays of one name.
    """
    arrays: dict[str, Tensor] = {}
    for path, leaf in _leaves(tree):
        _put(arrays, ".".join(path), _value(leaf))
    return arrays


def tensors_of(tree: Tree) -> Iterator[Tensor]:
    """The PyTorch tensors in dictionaries, sequences and dataclasses, in order."""
    if hasattr(tree, "detach") and _is_array(tree):
        yield tree
    elif isinstance(tree, Mapping):
        for child in tree.values():
            yield from tensors_of(child)
    elif isinstance(tree, list | tuple):
        for child in tree:
            yield from tensors_of(child)
    elif dataclasses.is_dataclass(tree) and not isinstance(tree, type):
        for field in dataclasses.fields(tree):
            yield from tensors_of(getattr(tree, field.name, None))


def _put(arrays: dict[str, Tensor], name: str, value: Tensor) -> None:
    if name in arrays:
        raise InputError(f"two arrays of one tree are called {name!r}")
    arrays[name] = value


def parameters_of(source: Tree) -> tuple[dict[str, Tensor], set[str]]:
    """Parameters and running statistics by name, and the names of the statistics.

    Args:
        source: a PyTorch module, an NNX module or state, Linen's variables, a tree, or a mapping of
            names to arrays.

    Raises:
        InputError: no floating-point array in it, or two of one name.
    """
    arrays: dict[str, Tensor] = {}
    statistics: set[str] = set()
    if hasattr(source, "named_parameters"):
        buffers = dict(named_buffers(source))
        arrays = dict(named_parameters(source)) | buffers
        statistics = set(buffers)
    else:
        for collection, tree in _collections(source).items():
            for path, leaf in _leaves(tree):
                name = ".".join(path)
                _put(arrays, name, _value(leaf))
                if collection != "params" or (_is_variable(leaf) and not _is_a(leaf, "Param")):
                    statistics.add(name)
    floats = {name: array for name, array in arrays.items() if _is_float(array)}
    if not floats:
        raise InputError(f"parameters: no floating-point array in a {type(source).__name__}")
    return floats, statistics & floats.keys()


def gradients_of(source: Tree) -> dict[str, Tensor]:
    """Gradients by the names of their parameters.

    Args:
        source: a tree of gradients, or a PyTorch module whose parameters have `.grad`.
    """
    if hasattr(source, "named_parameters"):
        return {name: dense(p.grad) for name, p in named_parameters(source) if p.grad is not None}
    gradients: dict[str, Tensor] = {}
    for tree in _collections(source).values():
        gradients |= {name: array for name, array in name_arrays(tree).items() if _is_float(array)}
    return gradients


def dense(gradient: Tensor) -> Tensor:
    """A gradient of PyTorch with all its elements, as of an embedding whose gradient is sparse."""
    return gradient.to_dense() if getattr(gradient, "is_sparse", False) else gradient


def moments_of(source: Any, parameters: Tree, names: Sequence[str]) -> dict[str, Tensor]:
    """The slots of an optimizer, as "slot/parameter", without its counts of steps.

    Args:
        source: a PyTorch optimizer, an Optax state, or an object with one as `opt_state`.
        parameters: the parameters that it trains; for a PyTorch optimizer, its module.
        names: the names of the parameters.

    Raises:
        InputError: a PyTorch optimizer whose module is not known.
    """
    if hasattr(source, "param_groups"):
        if not hasattr(parameters, "named_parameters"):
            raise InputError(
                "moments: a PyTorch optimizer needs its module; give it as `parameters`"
            )
        return _torch_moments(source, parameters)
    return _optax_moments(getattr(source, "opt_state", source), set(names))


def _torch_moments(optimizer: Any, module: Any) -> dict[str, Tensor]:
    moments: dict[str, Tensor] = {}
    states = optimizer.state
    for name, parameter in named_parameters(module):
        for slot, value in states.get(parameter, {}).items():
            if getattr(value, "ndim", 0):
                moments[f"{SLOTS.get(slot, slot)}/{name}"] = value
    return moments


def _optax_moments(state: Tree, names: set[str]) -> dict[str, Tensor]:
    placed: dict[tuple[str, str], list[tuple[str, Tensor]]] = {}
    for path, leaf in name_arrays(state).items():
        slot, name = _slot_and_name(path.split("."), names)
        if name and _is_float(leaf):
            short = SLOTS.get(slot[-1], slot[-1])
            placed.setdefault((short, name), []).append((".".join(slot), leaf))
    moments: dict[str, Tensor] = {}
    for (short, name), leaves in placed.items():
        for slot_path, leaf in leaves:
            # slots of one name, as in a chain of two such transformations, keep their whole paths
            slot_name = short if len(leaves) == 1 else slot_path
            moments[f"{slot_name}/{name}"] = leaf
    return moments


def _slot_and_name(path: list[str], names: set[str]) -> tuple[list[str], str]:
    """The path of a slot, and the name of the parameter that ends an array's path, or ""."""
    for cut in range(len(path)):
        name = ".".join(path[cut:])
        if name in names:
            slot = [part for part in path[:cut] if part != "params"]
            return slot or ["state"], name
    return path, ""


def rates_of(source: Any) -> list[Any]:
    """The learning rates of a PyTorch optimizer's groups, of a sequence, or of a single number."""
    if hasattr(source, "param_groups"):
        return [group["lr"] for group in source.param_groups]
    return list(source) if isinstance(source, Sequence) else [source]


def environment_of() -> dict[str, Any]:
    """Versions of the packages that the caller has loaded, and the settings that change numbers."""
    environment: dict[str, Any] = {
        "lockstep": __version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
    }
    for name in PACKAGES:
        version = getattr(sys.modules.get(name), "__version__", None)
        if version is not None:
            environment[name] = str(version)
    torch = sys.modules.get("torch")
    jax = sys.modules.get("jax")
    if torch is not None:
        environment["torch_threads"] = torch.get_num_threads()
        environment["torch_matmul_precision"] = torch.get_float32_matmul_precision()
        environment["torch_deterministic"] = torch.are_deterministic_algorithms_enabled()
    if jax is not None:
        environment["jax_device"] = jax.default_backend()
        environment["jax_enable_x64"] = bool(jax.config.jax_enable_x64)
        environment["jax_matmul_precision"] = jax.config.jax_default_matmul_precision
    return environment


def perturbed(parameters: Tree, seed: int) -> Tree:
    """The parameters with every element moved by one unit in the last place, up or down at random.

    A module of PyTorch or NNX is changed in place and returned; a tree is rebuilt. Running
    statistics stay as they are.

    Args:
        parameters: as for `Recorder.start`.
        seed: seed of the directions.
    """
    torch = sys.modules.get("torch")
    jax = sys.modules.get("jax")
    nnx = sys.modules.get("flax.nnx")
    generator = np.random.Generator(np.random.PCG64(seed))

    def moved(value: Tensor) -> Tensor:
        if not _is_float(value):
            return value
        ups = generator.integers(0, 2, tuple(value.shape), dtype=np.int8)
        towards = np.where(ups, np.inf, -np.inf)
        if hasattr(value, "detach") and torch is not None:
            return torch.nextafter(value.detach(), torch.from_numpy(towards).to(value))
        if isinstance(value, np.ndarray) or jax is None:
            return np.nextafter(value, towards.astype(value.dtype))
        return jax.numpy.nextafter(value, jax.numpy.asarray(towards, value.dtype))

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


def _map(function: Callable[[Tensor], Tensor], tree: Tree) -> Tree:
    """The tree with a function applied to each of its arrays."""
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


def _collections(source: Tree) -> dict[str, Tree]:
    """Linen's collections by name; any other tree is one collection, "params"."""
    nnx = sys.modules.get("flax.nnx")
    if nnx is not None and isinstance(source, nnx.Module):
        return {"params": nnx.state(source)}
    if isinstance(source, Mapping) and isinstance(source.get("params"), Mapping):
        return dict(source)
    return {"params": source}


def _leaves(tree: Tree, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """The leaves of a tree with their paths.

    A Flax variable is one leaf; random state is none.
    """
    if _is_variable(tree) or _is_array(tree):
        if not _is_a(tree, "RngState"):
            yield path, tree
        return
    for key, child in _children(tree):
        yield from _leaves(child, (*path, str(key)))


def _children(tree: Tree) -> Iterable[tuple[Any, Tree]]:
    """The parts of a tree with their keys; none where there is nothing to take apart."""
    jax = sys.modules.get("jax")
    if isinstance(tree, Mapping):
        return tree.items()
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        return zip(tree._fields, tree)
    if isinstance(tree, list | tuple):
        return enumerate(tree)
    if dataclasses.is_dataclass(tree) and not isinstance(tree, type):
        names = [field.name for field in dataclasses.fields(tree)]
        return [(name, getattr(tree, name, None)) for name in names]
    if jax is not None:  # what only JAX can take apart
        leaves, _ = jax.tree_util.tree_flatten_with_path(tree, is_leaf=_is_variable)
        return [(".".join(map(_key, keys)), leaf) for keys, leaf in leaves if leaf is not tree]
    return ()


def _key(key: Any) -> str:
    """One step of a JAX path, without its brackets and quotes."""
    for kind in ("key", "idx", "name"):
        if hasattr(key, kind):
            return str(getattr(key, kind))
    return str(key)


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
