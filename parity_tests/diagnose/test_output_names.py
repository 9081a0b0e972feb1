"""Counterparts of layers' outputs: by their numbers, and in a pair that parts by the parameters of
their layers, by names and by the order of calls.
"""

from pathlib import Path
from typing import Any

import numpy as np

from lockstep.diagnose.names import Layout
from lockstep.diagnose.propose import propose
from lockstep.own_loops.recorder import Recorder
from lockstep.records.trace import Trace

DRAW = np.random.Generator(np.random.PCG64(0))
NCHW = (0, 3, 1, 2)
KERNELS = {"fc1": DRAW.normal(size=(6, 4)), "fc2": DRAW.normal(size=(3, 6))}


def draw(*shape: int) -> np.ndarray:
    return DRAW.normal(size=shape)


def record(folder: Path, name: str, parameters: Any, loss: float, **families: Any) -> Trace:
    recorder = Recorder(folder / name, backend=name)
    recorder.start(parameters)
    recorder.update(loss=loss, **families)
    return recorder.finish()


def torch_side(folder: Path, loss: float = 1.0, **forward: np.ndarray) -> Trace:
    kernels = {f"{name}.weight": kernel for name, kernel in KERNELS.items()}
    return record(folder, "torch", kernels, loss, forward=forward)


def jax_side(folder: Path, loss: float = 1.0, **forward: np.ndarray) -> Trace:
    kernels = {
        "Dense_0.kernel": KERNELS["fc1"].T.copy(),
        "Dense_1.kernel": KERNELS["fc2"].T.copy(),
    }
    return record(folder, "jax", kernels, loss, forward=forward)


def forward_of(a: Trace, b: Trace) -> dict[str, str]:
    return {name: layout.name for name, layout in propose(a, b).names.forward.items()}


def test_outputs_that_part_follow_the_parameters_of_their_layers(tmp_path: Path) -> None:
    hidden, act, out = draw(5, 6), draw(5, 6), draw(5, 3)
    a = torch_side(tmp_path, fc1=hidden, act=act, fc2=out)
    b = jax_side(tmp_path, 2.0, Dense_0=hidden, gelu=act + 1, Dense_1=out + 1)
    assert forward_of(a, b) == {"fc1": "Dense_0", "act": "gelu", "fc2": "Dense_1"}
    all_part = jax_side(tmp_path, 2.0, Dense_0=hidden + 1, gelu=act + 1, Dense_1=out + 1)
    assert forward_of(a, all_part) == {"fc1": "Dense_0", "act": "gelu", "fc2": "Dense_1"}


def test_a_pair_that_agrees_takes_no_other_output_for_one(tmp_path: Path) -> None:
    """One side records a layer before its activation, and the other behind it."""
    hidden, out = draw(5, 6), draw(5, 3)
    a = torch_side(tmp_path, fc1=hidden, fc2=out)
    b = jax_side(tmp_path, Dense_0=np.tanh(hidden), Dense_1=out)
    assert forward_of(a, b) == {"fc2": "Dense_1"}
    parting = jax_side(tmp_path, 2.0, Dense_0=np.tanh(hidden), Dense_1=out + 1)
    assert forward_of(a, parting) == {"fc2": "Dense_1"}


def test_a_layer_before_one_that_agrees_is_not_where_a_pair_parts(tmp_path: Path) -> None:
    hidden, out = draw(5, 6), draw(5, 3)
    a = torch_side(tmp_path, fc1=hidden, fc2=out)
    b = jax_side(tmp_path, 2.0, Dense_0=draw(5, 6), Dense_1=out)
    assert forward_of(a, b) == {"fc2": "Dense_1"}


def test_a_dropout_that_does_nothing_leaves_the_layer_before_it_its_name(tmp_path: Path) -> None:
    hidden, out = draw(5, 6), draw(5, 3)
    a = torch_side(tmp_path, fc1=hidden, drop=hidden, fc2=out)
    assert forward_of(a, jax_side(tmp_path, Dense_0=hidden, Dense_1=out)) == {
        "fc1": "Dense_0",
        "fc2": "Dense_1",
    }
    both = jax_side(tmp_path, Dense_0=hidden, dropout=hidden, Dense_1=out)
    assert forward_of(a, both) == {"fc1": "Dense_0", "drop": "dropout", "fc2": "Dense_1"}


def test_further_calls_and_inputs_follow_their_layer(tmp_path: Path) -> None:
    inputs, out = draw(5, 6), draw(5, 3)
    names = {"fc2.input": inputs, "fc2": out, "fc2#2": 2 * out}
    a = torch_side(tmp_path, **names)
    others = {"Dense_1.input": inputs + 1, "Dense_1": out + 1, "Dense_1#2": 2 * out + 1}
    assert forward_of(a, jax_side(tmp_path, 2.0, **others)) == {
        "fc2.input": "Dense_1.input",
        "fc2": "Dense_1",
        "fc2#2": "Dense_1#2",
    }


def test_an_image_that_parts_is_laid_out_as_its_kernel_is(tmp_path: Path) -> None:
    kernel, image, wrong = draw(4, 3, 3, 3), draw(2, 4, 4, 4), draw(2, 4, 4, 4)
    a = record(tmp_path, "a", {"conv.weight": kernel}, 1.0, forward={"conv": image})
    kernels = {"Conv_0.kernel": kernel.transpose(2, 3, 1, 0)}
    b = record(tmp_path, "b", kernels, 2.0, forward={"Conv_0": wrong.transpose(0, 2, 3, 1)})
    assert propose(a, b).names.forward == {"conv": Layout("Conv_0", NCHW)}
    assert propose(b, a).names.forward == {"Conv_0": Layout("conv", (0, 2, 3, 1))}
