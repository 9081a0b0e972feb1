"""What no framework can do without: the same updates in C, and the needed products alone."""

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


RULE = ("momentum", "weight_decay", "beta1", "beta2", "eps")


class _Rule(ctypes.Structure):
    _fields_ = [(name, ctypes.c_double) for name in RULE]


class _Training(ctypes.Structure):
    _fields_ = [
        ("updates", ctypes.c_long),
        *((name, ctypes.c_void_p) for name in ("rows", "labels", "counts", "rates")),
        *((name, ctypes.c_void_p) for name in ("parameters", "moments", "scalars")),
        ("rule", _Rule),
    ]


def c_floor(recipe: Recipe, members: Sequence[PreparedData], device: str, threads: int) -> Prepared:
    """A C program of one file, of one hidden layer; each member of an ensemble one after another in
    each thread.
    """
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
        self.units, self.filled, self.outputs = (
            data.hidden[0],
            -(-data.hidden[0] // LANES) * LANES,
            data.outputs,
        )
        x_TBD, y_TB, count_T = all_batches(data)
        dtype, optimizer, updates = np.dtype(recipe.dtype), recipe.optimizer, len(count_T)
        self.start = self._pack(data.parameters)
        rates = learning_rates(recipe, data.updates_per_epoch).astype(dtype)
        self.state = [_aligned(self.start.shape, dtype), _aligned((2, *self.start.shape), dtype)]
        self.arrays = [x_TBD, y_TB.astype(np.int32), count_T.astype(np.int32), rates, *self.state]
        self.arrays.append(np.empty((updates, 3), dtype))
        rule = _Rule(*(optimizer.get(name) or 0.0 for name in RULE))
        self.struct = _Training(updates, *(array.ctypes.data for array in self.arrays), rule)

    def reset(self) -> None:
        self.state[0][:], self.state[1][:] = self.start, 0

    def parameters(self) -> Parameters:
        """As `Parameters` of floor.c lays them out."""
        inputs = (len(self.start) - (1 + self.outputs) * self.filled - LANES) // self.filled
        first, second = np.split(self.state[0], [inputs * self.filled])
        bias, second = np.split(second, [self.filled])
        second, last = np.split(second, [self.outputs * self.filled])
        return {
            "linear1.weight": first.reshape(inputs, -1)[:, : self.units],
            "linear1.bias": bias[: self.units],
            "linear2.weight": second.reshape(self.outputs, -1)[:, : self.units].T,
            "linear2.bias": last[: self.outputs],
        }

    def _pack(self, parameters: Parameters) -> NDArray[Any]:
        def filled(array: NDArray[Any], to: int) -> NDArray[Any]:
            return np.pad(array, [(0, 0)] * (array.ndim - 1) + [(0, to - array.shape[-1])]).ravel()

        parts = [
            parameters["linear1.weight"],
            parameters["linear1.bias"],
            parameters["linear2.weight"].T,
        ]
        last = filled(parameters["linear2.bias"], LANES)
        return np.concatenate([*(filled(part, self.filled) for part in parts), last])


def _compile(compiler: str, recipe: Recipe, data: PreparedData) -> tuple[Any, str]:
    double = recipe.dtype == "float64"
    names = {
        "REAL": "double" if double else "float",
        "INPUTS": len(data.columns),
        "CLASSES": data.outputs,
    }
    names |= {"UNITS": -(-data.hidden[0] // LANES) * LANES, "BATCH": data.batch}
    names |= {name: name.lower() + ("" if double else "f") for name in ("EXP", "LOG", "SQRT")}
    names["ADAMW"] = int(recipe.optimizer.name == "adamw")
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "floor.so"
        defined = [f"-D{name}={value}" for name, value in names.items()]
        command = [compiler, *FLAGS, *defined, str(SOURCE), "-o", str(out), "-lm"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise Unable(f"{compiler} failed: {' '.join(done.stderr.split())[:200]}")
        said = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=False)
        return ctypes.CDLL(str(out)), said.stdout.partition("\n")[0]


# --- the needed products alone: forward, by the weights, and by the inputs of every layer but the
# first


def torch_products(
    recipe: Recipe, members: Sequence[PreparedData], device: str, threads: int
) -> Prepared:
    """PyTorch's products alone, into memory that is there already."""
    import torch

    from pt_impl.io import device as devices

    place = devices.select_device(device)
    (x_TBD,), weights, slopes = (
        [torch.from_numpy(array).to(place) for array in arrays]
        for arrays in _factors(recipe, members)
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
    (x_TBD,), weights, slopes = jax.device_put(_factors(recipe, members), place)

    def products(carried: Any, x_BD: Any) -> Any:
        # each product depends on the last update's and is needed by the next: none is left out,
        # none done once for all
        found, h = [], x_BD + carried
        for i, (weight, slope) in enumerate(zip(weights, slopes)):
            found.append(h.T @ slope)
            if i:
                found.append((slope + carried) @ weight.T)
            h = h @ weight
        least = jnp.stack([product[0, 0] for product in (*found, h)])
        barred = jax.lax.optimization_barrier((least, *found, h))
        return 0 * barred[0].sum(), None

    run_all = jax.jit(lambda x_TBD: jax.lax.scan(products, jnp.zeros((), x_TBD.dtype), x_TBD)[0])

    def run() -> None:
        devices.synchronise(run_all(x_TBD))

    return Prepared(lambda: None, run, None, devices.describe_environment(place))


def numpy_products(
    recipe: Recipe, members: Sequence[PreparedData], device: str, threads: int
) -> Prepared:
    """NumPy's products alone, into memory that is there already."""
    if device == "gpu":
        raise Unable("has no GPU")
    (x_TBD,), weights, slopes = _factors(recipe, members)
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
) -> tuple[list[Any], list[Any], list[Any]]:
    """[rows (T, B, D)], weights (in, out) and gradients by each layer's outputs (B, out), the
    latter drawn.
    """
    data = members[0].cast(recipe.dtype)
    layers = layer_sizes(len(data.columns), data.hidden, data.outputs)
    weights = [data.parameters[f"{name}.weight"] for name, _, _ in layers]
    generator = np.random.default_rng(0)
    slopes = [
        generator.standard_normal((data.batch, weight.shape[1])).astype(recipe.dtype)
        for weight in weights
    ]
    return [all_batches(data)[0]], weights, slopes


def _aligned(shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
    """Memory that begins where the C program's vectors may."""
    size, align = math.prod(shape), LANES * np.dtype(dtype).itemsize
    room = np.empty(size * np.dtype(dtype).itemsize + align, np.uint8)
    begin = -room.ctypes.data % align
    array: NDArray[Any] = (
        room[begin : begin + size * np.dtype(dtype).itemsize].view(dtype).reshape(shape)
    )
    return array
