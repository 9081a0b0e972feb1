"""Floors: the same updates in C, and the needed matrix products alone."""

import ctypes
import math
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lockstep.bench.prepared import Prepared, Unable, all_batches, require_common
from lockstep.data_prep import Parameters, PreparedData, layer_sizes
from lockstep.recipe import Recipe
from lockstep.schedules.formulas import learning_rates

__all__ = ["c_floor", "jax_products", "numpy_products", "torch_products"]

SOURCE = Path(__file__).parent / "floor.c"
FLAGS = ("-O3", "-march=native", "-shared", "-fPIC", "-pthread")
LANES = 8
"""Numbers in a vector of floor.c."""
RULE = ("momentum", "weight_decay", "beta1", "beta2", "eps")


class _Rule(ctypes.Structure):
    _fields_ = [(name, ctypes.c_double) for name in RULE]


class _Training(ctypes.Structure):
    _fields_ = [
        ("updates", ctypes.c_long),
        ("rows", ctypes.c_void_p),
        ("labels", ctypes.c_void_p),
        ("counts", ctypes.c_void_p),
        ("rates", ctypes.c_void_p),
        ("parameters", ctypes.c_void_p),
        ("moments", ctypes.c_void_p),
        ("scalars", ctypes.c_void_p),
        ("rule", _Rule),
    ]


def c_floor(recipe: Recipe, members: Sequence[PreparedData], device: str, threads: int) -> Prepared:
    """A C program in one file, with one hidden layer. A thread trains its members in turn."""
    require_common(recipe)
    if device == "gpu":
        raise Unable("has no GPU")
    data = members[0]
    if len(data.hidden) != 1:
        raise Unable(
            f"has one hidden layer, not {len(data.hidden)}; there the products are the floor"
        )
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None:
        raise Unable("needs a C compiler, and there is no cc; CC names another")
    library, version = _compile(compiler, recipe, data)
    trainings = [_Member(recipe, member.cast(recipe.dtype)) for member in members]
    table = (_Training * len(trainings))(*(training.struct for training in trainings))

    def reset() -> None:
        for training in trainings:
            training.reset()

    def run() -> None:
        if library.train_all(table, len(trainings), threads):
            raise RuntimeError("no thread could be started")

    environment = {"compiler": version, "flags": " ".join(FLAGS[:2]), "rows": "in memory"}
    return Prepared(
        reset,
        run,
        lambda: [training.parameters() for training in trainings],
        environment,
        trained=len(trainings),
    )


class _Member:
    """The arrays of one training, and how the C program sees them."""

    def __init__(self, recipe: Recipe, data: PreparedData) -> None:
        self.units = data.hidden[0]
        self.filled = _fill_up(data.hidden[0])
        self.outputs = data.outputs
        x_TBD, y_TB, count_T = all_batches(data)
        dtype = np.dtype(recipe.dtype)
        updates = len(count_T)
        self.start = self._pack(data.parameters)
        self.packed = _aligned(self.start.shape, dtype)
        self.moments = _aligned((2, *self.start.shape), dtype)
        rates_T = learning_rates(recipe, data.updates_per_epoch).astype(dtype)
        labels_TB = y_TB.astype(np.int32)
        scalars = np.empty((updates, 3), dtype)
        # in the order of the C struct; kept here, because the struct has their addresses alone
        self.arrays = [x_TBD, labels_TB, count_T.astype(np.int32), rates_T]
        self.arrays += [self.packed, self.moments, scalars]
        rule = _Rule(*(recipe.optimizer.get(name) or 0.0 for name in RULE))
        self.struct = _Training(updates, *(array.ctypes.data for array in self.arrays), rule)

    def reset(self) -> None:
        self.packed[:] = self.start
        self.moments[:] = 0

    def parameters(self) -> Parameters:
        """The parameters by name, taken apart as `Parameters` of floor.c lays them out."""
        inputs = (len(self.start) - (1 + self.outputs) * self.filled - LANES) // self.filled
        first, second = np.split(self.packed, [inputs * self.filled])
        bias, second = np.split(second, [self.filled])
        second, last = np.split(second, [self.outputs * self.filled])
        return {
            "linear1.weight": first.reshape(inputs, -1)[:, : self.units],
            "linear1.bias": bias[: self.units],
            "linear2.weight": second.reshape(self.outputs, -1)[:, : self.units].T,
            "linear2.bias": last[: self.outputs],
        }

    def _pack(self, parameters: Parameters) -> NDArray[Any]:
        """The parameters as one array, in the layout of `Parameters` of floor.c."""
        parts = [
            _pad(parameters["linear1.weight"], self.filled),
            _pad(parameters["linear1.bias"], self.filled),
            _pad(parameters["linear2.weight"].T, self.filled),
            _pad(parameters["linear2.bias"], LANES),
        ]
        return np.concatenate(parts)


def _fill_up(units: int) -> int:
    """The units, filled up to a multiple of LANES."""
    return -(-units // LANES) * LANES


def _pad(array: NDArray[Any], length: int) -> NDArray[Any]:
    """The array with zeros up to this length of its last axis, as one axis."""
    width = [(0, 0)] * (array.ndim - 1) + [(0, length - array.shape[-1])]
    return np.pad(array, width).ravel()


def _compile(compiler: str, recipe: Recipe, data: PreparedData) -> tuple[ctypes.CDLL, str]:
    """The program for this recipe, and the compiler's version.

    Raises:
        Unable: the compiler fails.
    """
    is_double = recipe.dtype == "float64"
    suffix = "" if is_double else "f"
    names = {
        "REAL": "double" if is_double else "float",
        "INPUTS": len(data.columns),
        "CLASSES": data.outputs,
        "UNITS": _fill_up(data.hidden[0]),
        "BATCH": data.batch,
        "EXP": f"exp{suffix}",
        "LOG": f"log{suffix}",
        "SQRT": f"sqrt{suffix}",
        "ADAMW": int(recipe.optimizer.name == "adamw"),
    }
    defined = [f"-D{name}={value}" for name, value in names.items()]
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "floor.so"
        command = [compiler, *FLAGS, *defined, str(SOURCE), "-o", str(out), "-lm"]
        compiled = subprocess.run(command, capture_output=True, text=True, check=False)
        if compiled.returncode:
            raise Unable(f"{compiler} failed: {' '.join(compiled.stderr.split())[:200]}")
        version = subprocess.run(
            [compiler, "--version"], capture_output=True, text=True, check=False
        )
        return ctypes.CDLL(str(out)), version.stdout.partition("\n")[0]


# --- the needed products alone: forward, by the weights, and by the inputs of all layers but the
# first


def torch_products(
    recipe: Recipe, members: Sequence[PreparedData], device: str, threads: int
) -> Prepared:
    """PyTorch's products alone, written into memory that is allocated before."""
    import torch

    from pt_impl.io import device as devices

    place = devices.select_device(device)
    rows, *factors = _factors(recipe, members)
    x_TBD = torch.from_numpy(rows).to(place)
    weights, slopes = (
        [torch.from_numpy(array).to(place) for array in arrays] for arrays in factors
    )
    inputs = [torch.empty_like(x_TBD[0]), *(torch.empty_like(slope) for slope in slopes)]
    gradients = [torch.empty_like(weight) for weight in weights]

    def run() -> None:
        for x_BD in x_TBD.unbind(0):
            for i, weight in enumerate(weights):
                torch.mm(inputs[i] if i else x_BD, weight, out=inputs[i + 1])
            for i in reversed(range(len(weights))):
                torch.mm((inputs[i] if i else x_BD).t(), slopes[i], out=gradients[i])
                if i:
                    torch.mm(slopes[i], weights[i].t(), out=inputs[i])
        devices.synchronise(None)

    return Prepared(lambda: None, run, None, devices.describe_environment(place))


def jax_products(
    recipe: Recipe, members: Sequence[PreparedData], device: str, threads: int
) -> Prepared:
    """JAX's products alone, in one jitted scan."""
    import jax
    import jax.numpy as jnp

    from jax_impl.io import device as devices

    place = devices.select_device(device)
    x_TBD, weights, slopes = jax.device_put(_factors(recipe, members), place)

    def all_products(carried: jax.Array, x_BD: jax.Array) -> tuple[jax.Array, None]:
        # each product depends on the last update's and is needed by the next, so that XLA neither
        # leaves one out nor computes one once for all updates
        products = []
        h = x_BD + carried
        for i, (weight, slope) in enumerate(zip(weights, slopes)):
            products.append(h.T @ slope)
            if i:
                products.append((slope + carried) @ weight.T)
            h = h @ weight
        corners = jnp.stack([product[0, 0] for product in (*products, h)])
        barred = jax.lax.optimization_barrier((corners, *products, h))
        return 0 * barred[0].sum(), None

    run_all = jax.jit(
        lambda x_TBD: jax.lax.scan(all_products, jnp.zeros((), x_TBD.dtype), x_TBD)[0]
    )

    def run() -> None:
        devices.synchronise(run_all(x_TBD))

    return Prepared(lambda: None, run, None, devices.describe_environment(place))


def numpy_products(
    recipe: Recipe, members: Sequence[PreparedData], device: str, threads: int
) -> Prepared:
    """NumPy's products alone, written into memory that is allocated before."""
    if device == "gpu":
        raise Unable("has no GPU")
    x_TBD, weights, slopes = _factors(recipe, members)
    inputs = [np.empty_like(x_TBD[0]), *(np.empty_like(slope) for slope in slopes)]
    gradients = [np.empty_like(weight) for weight in weights]

    def run() -> None:
        for x_BD in x_TBD:
            for i, weight in enumerate(weights):
                np.matmul(inputs[i] if i else x_BD, weight, out=inputs[i + 1])
            for i in reversed(range(len(weights))):
                np.matmul((inputs[i] if i else x_BD).T, slopes[i], out=gradients[i])
                if i:
                    np.matmul(slopes[i], weights[i].T, out=inputs[i])

    return Prepared(lambda: None, run, None, {"numpy": np.__version__, "rows": "in memory"})


def _factors(
    recipe: Recipe, members: Sequence[PreparedData]
) -> tuple[NDArray[Any], list[NDArray[Any]], list[NDArray[Any]]]:
    """Rows (T, B, D), weights (in, out) by layer, and drawn gradients of its outputs (B, out)."""
    data = members[0].cast(recipe.dtype)
    layers = layer_sizes(len(data.columns), data.hidden, data.outputs)
    weights = [data.parameters[f"{name}.weight"] for name, _, _ in layers]
    generator = np.random.default_rng(0)
    slopes = [
        generator.standard_normal((data.batch, weight.shape[1])).astype(recipe.dtype)
        for weight in weights
    ]
    x_TBD, _, _ = all_batches(data)
    return x_TBD, weights, slopes


def _aligned(shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    """An array whose memory begins where a vector of the C program may."""
    size = math.prod(shape) * dtype.itemsize
    align = LANES * dtype.itemsize
    room = np.empty(size + align, np.uint8)
    begin = -room.ctypes.data % align
    array: NDArray[Any] = room[begin : begin + size].view(dtype).reshape(shape)
    return array
