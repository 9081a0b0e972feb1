"""A model's first parameters and buffers, by PyTorch's names, and what JAX's tree calls them."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np

from lockstep.diagnose.names import Layout, NameMap
from lockstep.oracle.arithmetic import Array
from lockstep.studies.prove.own_loops.ways import Loop

__all__ = ["STARTS", "layout_of", "map_of", "parts_of", "start_of"]

Shape = tuple[int, ...]
Start = dict[str, Array]

KERNEL_AXES = {2: (1, 0), 4: (3, 2, 0, 1)}
"""Axes of a kernel -> what leads from JAX's layout to PyTorch's."""
NCHW = (0, 3, 1, 2)
OUTPUTS: dict[str, list[tuple[str, str, tuple[int, ...]]]] = {
    "gpt": [
        ("blocks.0.gelu", "gelu", ()),
        ("blocks.1.gelu", "gelu#2", ()),
        ("head", "token#2", ()),
    ],
    "mlp": [("gelu1", "gelu", ()), ("gelu2", "gelu#2", ())],
    "convnet": [
        ("conv1", "conv1", NCHW),
        ("norm1", "norm1", NCHW),
        ("relu1", "relu", NCHW),
        ("conv2", "conv2", NCHW),
        ("norm2", "norm2", NCHW),
        ("relu2", "relu#2", NCHW),
    ],
    "lstm": [],
    "gru": [],
}
"""Model -> outputs of PyTorch's layers, as the recorder calls those of JAX and lays them out."""


def start_of(loop: Loop) -> dict[str, Array]:
    """The first parameters and buffers, in PyTorch's layouts and float64, each a float32 number."""
    draw = np.random.Generator(np.random.PCG64(3 + 100 * loop.seed))
    start = {}
    for name, shape in _shapes(loop):
        values = draw.normal(size=shape)
        if "running_var" in name:
            values = np.ones(shape)
        elif "running" in name or "num_batches" in name:
            values = np.zeros(shape)
        elif "norm" in name and name.endswith("weight"):
            values = 1 + 0.1 * values
        elif len(shape) < 2:
            values = 0.1 * values
        elif "token" in name or "position" in name:
            values = 0.5 * values
        else:
            values = values / np.sqrt(np.prod(shape[1:]))
        start[name] = np.asarray(values, np.float32).astype(np.float64)
    if loop.start:
        start = STARTS[loop.start](start, loop)
    if loop.model == "llama" or (loop.model == "gpt" and loop.is_tied):
        start["head.weight"] = start["token.weight"]
    return start


def parts_of(loop: Loop) -> dict[str, Array]:
    """What of PyTorch's parameters and buffers JAX's tree has: tied weights once, no counts."""
    tied = {"head.weight"} if loop.model == "gpt" and loop.is_tied else set()
    return {
        name: array
        for name, array in start_of(loop).items()
        if name not in tied and "num_batches" not in name
    }


def layout_of(name: str, array: Array) -> Layout:
    """The name and layout that a parameter of PyTorch has in JAX's tree."""
    stem, _, leaf = name.rpartition(".")
    if "token" in stem or "position" in stem:
        return Layout(f"{stem}.embedding")
    if "norm" in stem:
        leaves = {"weight": "scale", "running_mean": "mean", "running_var": "var"}
        return Layout(f"{stem}.{leaves.get(leaf, leaf)}")
    if array.ndim in KERNEL_AXES:
        return Layout(f"{stem}.{leaf.replace('weight', 'kernel')}", KERNEL_AXES[array.ndim])
    return Layout(name)


def map_of(loop: Loop) -> NameMap:
    """The name map of a pair whose side A is PyTorch's loop and whose side B is the same in JAX."""
    forward = {
        name: Layout(other, axes)
        for name, other, axes in OUTPUTS[loop.model]
        if not name.startswith("blocks.1") or loop.sizes.blocks > 1
    }
    # an embedding and the sum of both
    only = frozenset({"position"} if loop.model == "gpt" else ())
    return NameMap(
        names={name: layout_of(name, array) for name, array in parts_of(loop).items()},
        forward=forward,
        only_a=only,
        only_b=only,
    )


def _shapes(loop: Loop) -> Iterator[tuple[str, Shape]]:
    """Every tensor of PyTorch's model and its shape, in the order of its `state_dict`."""
    sizes = loop.sizes
    width, classes, row = sizes.width, sizes.classes, sizes.row
    if loop.model == "gpt":
        yield from _transformer(loop)
    elif loop.model == "llama":
        yield from _rotary_transformer(loop)
    elif loop.model == "upsampler":
        yield from _upsampler(loop)
    elif loop.model == "mlp":
        yield from _linear("linear1", row[0], width)
        yield from _norm("norm1", width)
        yield from _linear("linear2", width, width)
        yield from _norm("norm2", width)
        yield from _linear("head", width, classes)
    elif loop.model == "convnet":
        for i, inputs, outputs in ((1, row[0], width), (2, width, 2 * width)):
            yield f"conv{i}.weight", (outputs, inputs, 3, 3)
            yield f"conv{i}.bias", (outputs,)
            yield from _norm(f"norm{i}", outputs)
            if loop.norm == "batch":
                yield from _statistics(f"norm{i}", outputs)
        yield from _linear("head", 2 * width, classes)
    else:
        rows = (4 if loop.model == "lstm" else 3) * width
        yield "rnn.weight_ih_l0", (rows, row[1])
        yield "rnn.weight_hh_l0", (rows, width)
        yield "rnn.bias_ih_l0", (rows,)
        yield "rnn.bias_hh_l0", (rows,)
        yield from _linear("head", width, classes)


def _transformer(loop: Loop) -> Iterator[tuple[str, Shape]]:
    sizes = loop.sizes
    width = sizes.width
    yield "token.weight", (sizes.classes, width)
    yield "position.weight", (sizes.row[0], width)
    for i in range(sizes.blocks):
        place = f"blocks.{i}"
        yield from _norm(f"{place}.norm1", width)
        if loop.is_packed:
            yield from _linear(f"{place}.attention.qkv", width, 3 * width)
        else:
            for name in ("query", "key", "value"):
                yield from _linear(f"{place}.attention.{name}", width, width)
        yield from _linear(f"{place}.attention.out", width, width)
        yield from _norm(f"{place}.norm2", width)
        yield from _linear(f"{place}.up", width, 4 * width)
        yield from _linear(f"{place}.down", 4 * width, width)
    yield from _norm("norm", width)
    yield "head.weight", (sizes.classes, width)


def _rotary_transformer(loop: Loop) -> Iterator[tuple[str, Shape]]:
    sizes = loop.sizes
    width = sizes.width
    yield "token.weight", (sizes.classes, width)
    for i in range(sizes.blocks):
        place = f"blocks.{i}"
        yield f"{place}.norm1.weight", (width,)
        yield f"{place}.attention.query.weight", (width, width)
        yield f"{place}.attention.key.weight", (width // 2, width)
        yield f"{place}.attention.value.weight", (width // 2, width)
        yield f"{place}.attention.out.weight", (width, width)
        yield f"{place}.norm2.weight", (width,)
        yield f"{place}.gate_up.weight", (4 * width, width)
        yield f"{place}.down.weight", (width, 2 * width)
    yield "norm.weight", (width,)
    yield "head.weight", (sizes.classes, width)


def _upsampler(loop: Loop) -> Iterator[tuple[str, Shape]]:
    sizes = loop.sizes
    width = sizes.width
    yield "conv.weight", (width, sizes.row[0], 3, 3)
    yield "conv.bias", (width,)
    yield from _norm("norm1", width)
    yield from _statistics("norm1", width)
    yield "up.weight", (width, width, 3, 3)
    yield "up.bias", (width,)
    yield from _norm("norm2", width)
    yield from _linear("head", 36 * width, sizes.classes)


def _linear(name: str, inputs: int, outputs: int) -> Iterator[tuple[str, Shape]]:
    yield f"{name}.weight", (outputs, inputs)
    yield f"{name}.bias", (outputs,)


def _scale(name: str, width: int) -> Iterator[tuple[str, Shape]]:
    yield f"{name}.weight", (width,)


def _norm(name: str, width: int) -> Iterator[tuple[str, Shape]]:
    yield f"{name}.weight", (width,)
    yield f"{name}.bias", (width,)


def _statistics(name: str, width: int) -> Iterator[tuple[str, Shape]]:
    yield f"{name}.running_mean", (width,)
    yield f"{name}.running_var", (width,)
    yield f"{name}.num_batches_tracked", ()


# ---- wrong initial parameters


def _kernels_by(change: Callable[[Array], Array]) -> Callable[[Start, Loop], Start]:
    """All kernels changed."""

    def changed(start: Start, loop: Loop) -> Start:
        return {
            name: change(array) if array.ndim > 1 and "norm" not in name else array
            for name, array in start.items()
        }

    return changed


def _square_transposed(start: Start, loop: Loop) -> Start:
    return {
        name: array.T if array.ndim == 2 and len(set(array.shape)) == 1 else array
        for name, array in start.items()
    }


def _drawn_again(start: Start, loop: Loop) -> Start:
    return {
        name: array if array.ndim < 2 else start_of(replace(loop, start="", seed=99))[name]
        for name, array in start.items()
    }


def _one_changed(start: Start, loop: Loop) -> Start:
    """One element of one tensor is off by a number."""
    draw = np.random.Generator(np.random.PCG64(loop.odd))
    name = str(
        draw.choice(
            [name for name, array in start.items() if array.ndim > 1 and "head" not in name]
        )
    )
    array = start[name].copy()
    array.flat[int(draw.integers(array.size))] += float(draw.uniform(0.01, 0.5))
    return start | {name: array}


def _biases_0(start: Start, loop: Loop) -> Start:
    return {
        name: 0 * array if name.endswith("bias") and "norm" not in name else array
        for name, array in start.items()
    }


def _wider_law(start: Start, loop: Loop) -> Start:
    """Another draw of the kernels, twice as wide."""
    drawn = _drawn_again(start, loop)
    return {name: np.asarray(array * (2 if array.ndim > 1 else 1)) for name, array in drawn.items()}


def _moved_statistics(start: Start, loop: Loop) -> Start:
    draw = np.random.Generator(np.random.PCG64(5))
    return {
        name: array + 0.1 * draw.random(array.shape) if "running" in name else array
        for name, array in start.items()
    }


STARTS: dict[str, Callable[[Start, Loop], Start]] = {
    "transposed": _square_transposed,
    "scaled": _kernels_by(lambda array: array * 2**0.5),
    "rounded": _kernels_by(lambda array: array.astype(np.float16).astype(np.float64)),
    "drawn-again": _drawn_again,
    "biases-0": _biases_0,
    "wider-law": _wider_law,
    "moved-statistics": _moved_statistics,
    "one-changed": _one_changed,
}
"""Key -> the wrong initial parameters, of the right ones."""
