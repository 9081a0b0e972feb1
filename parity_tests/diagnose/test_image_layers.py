"""Layers of convolutional nets that are others on either side: the cause is told from what each
side recorded, in both orders of the sides and in both precisions, and look-alikes get none.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from lockstep import Recorder
from lockstep.diagnose.causes import Cause
from lockstep.diagnose.pairs import diagnose

DTYPES = pytest.mark.parametrize("dtype", ["float64", "float32"])
DRAW = np.random.default_rng(0)
X = DRAW.normal(size=(4, 3, 8, 8))
KERNEL = DRAW.normal(size=(5, 3, 3, 3))
SQUARE = DRAW.normal(size=(3, 3, 3, 3))
BIAS = DRAW.normal(size=5)
Layer = Callable[[torch.Tensor, dict[str, torch.Tensor]], torch.Tensor]
Arrays = dict[str, Any]


def record(path: Path, layer: Layer, x: Any, parameters: Arrays, dtype: str) -> None:
    """A loop of one layer called "layer", whose input is its batch, and which trains nothing."""
    tensors = {name: torch.tensor(array.astype(dtype)) for name, array in parameters.items()}
    named = {f"layer.{name}": array for name, array in tensors.items()} | {
        "w": torch.ones(2, dtype=getattr(torch, dtype))
    }
    with Recorder(path, backend="torch") as recorder:
        recorder.start(named)
        for update in range(2):
            fed = torch.tensor((x * (1 + update)).astype(dtype))
            output = layer(fed, tensors)
            recorder.update(
                batch={"x": fed}, forward={"layer": output}, parameters=named, loss=output.mean()
            )


def cause_of(
    folder: Path,
    layers: tuple[Layer, Layer],
    parameters: Arrays,
    *,
    dtype: str = "float64",
    x: Any = X,
    is_swapped: bool = False,
) -> Cause | None:
    """The cause that two loops of a layer each part by."""
    for side, layer in zip("ba" if is_swapped else "ab", layers):
        record(folder / f"{side}.trace", layer, x, parameters, dtype)
    diagnosis = diagnose(folder / "a.trace", folder / "b.trace")
    assert diagnosis.verdict == "diverged"
    assert diagnosis.first is not None
    assert (diagnosis.first.stage, diagnosis.first.tensor) == ("forward", "layer")
    return diagnosis.cause


def texts(folder: Path, layers: tuple[Layer, Layer], parameters: Arrays, **options: Any) -> Any:
    """The key of the cause, and its texts with the sides as they are and exchanged."""
    one = cause_of(folder, layers, parameters, **options)
    other = cause_of(folder, layers, parameters, is_swapped=True, **options)
    assert one is not None
    assert other is not None
    assert one.key == other.key
    assert one.side == other.side == ""
    return one.key, one.text, other.text


def conv(
    x: torch.Tensor,
    p: dict[str, torch.Tensor],
    *,
    turn: Any = None,
    pads: Any = None,
    **options: Any,
) -> torch.Tensor:
    weight = p["weight"] if turn is None else turn(p["weight"])
    if pads is not None:
        x = functional.pad(x, pads, mode=options.pop("mode", "constant"))
    return functional.conv2d(x, weight, options.pop("bias", p["bias"]), **options)


def flip(kernel: torch.Tensor) -> torch.Tensor:
    return kernel.flip(2, 3)


PADDED = partial(conv, padding=1)
SAME = partial(conv, pads=(0, 1, 0, 1), stride=2)


@DTYPES
@pytest.mark.parametrize(
    ("layers", "key", "text"),
    [
        (
            (partial(conv, stride=2, padding=1), SAME),
            "other-padding",
            "b's layer pads 0 before and 1 after, a's 1 before and 1 after",
        ),
        (
            (PADDED, partial(conv, padding=1, turn=flip)),
            "convolution-kernel-turned",
            "b's layer takes its kernel flipped, a's its kernel as it is",
        ),
        (
            (PADDED, partial(conv, padding=1, turn=lambda kernel: kernel.transpose(2, 3))),
            "convolution-kernel-turned",
            "b's layer takes its kernel with its spatial axes exchanged, a's its kernel as it is",
        ),
        (
            (PADDED, partial(conv, padding=1, bias=None)),
            "bias-missing",
            "b's layer is without its bias, a's adds its bias",
        ),
        (
            (PADDED, partial(conv, padding=2, dilation=2)),
            "convolution-dilation",
            "b's layer has a dilation of 2 and pads 2 before and 2 after, a's has a dilation of 1 "
            "and pads 1 before and 1 after",
        ),
        (
            (PADDED, partial(conv, pads=(1, 1, 1, 1), mode="reflect")),
            "padding-mode",
            "b's layer pads by reflection, a's with zeros",
        ),
    ],
)
def test_a_convolution_is_told_by_its_settings(
    tmp_path: Path, layers: tuple[Layer, Layer], key: str, text: str, dtype: str
) -> None:
    parameters = {"weight": KERNEL, "bias": BIAS}
    assert texts(tmp_path, layers, parameters, dtype=dtype)[:2] == (key, text)


def transposed(
    x: torch.Tensor, p: dict[str, torch.Tensor], *, start: tuple[int, int], turn: Any = None
) -> torch.Tensor:
    """A transposed convolution of stride 2, 14 places of it in each axis."""
    weight = p["weight"] if turn is None else turn(p["weight"])
    whole = functional.conv_transpose2d(x, weight, stride=2)
    down, right = start
    return whole[:, :, down : down + 14, right : right + 14]


@DTYPES
@pytest.mark.parametrize(
    ("starts", "text", "other"),
    [
        (
            ((1, 1), (0, 0)),
            "b's layer is a's shifted by one place in both axes: it crops from 0 where a crops "
            "from 1",
            "b's layer is a's shifted by one place in both axes: it crops from 1 where a crops "
            "from 0",
        ),
        (
            ((3, 1), (0, 1)),
            "b's layer is a's shifted by three places along axis 1: it crops from (0, 1) where a "
            "crops from (3, 1)",
            "b's layer is a's shifted by three places along axis 1: it crops from (3, 1) where a "
            "crops from (0, 1)",
        ),
    ],
)
def test_a_transposed_convolution_is_told_by_its_crop(
    tmp_path: Path, starts: Any, text: str, other: str, dtype: str
) -> None:
    layers = partial(transposed, start=starts[0]), partial(transposed, start=starts[1])
    parameters = {"weight": DRAW.normal(size=(3, 5, 3, 3))}
    if starts[0][0] == 3:  # one place more is needed
        parameters = {"weight": DRAW.normal(size=(3, 5, 5, 5))}
    told = texts(tmp_path, layers, parameters, dtype=dtype)
    assert told == ("transposed-convolution-crop", text, other)


def test_a_transposed_convolution_is_told_by_its_kernel(tmp_path: Path) -> None:
    turned = partial(transposed, start=(1, 1), turn=flip)
    layers = partial(transposed, start=(1, 1)), turned
    told = texts(tmp_path, layers, {"weight": DRAW.normal(size=(3, 5, 3, 3))})
    assert told[1] == "b's layer takes its kernel flipped, a's its kernel as it is"
    swapped = partial(transposed, start=(1, 1), turn=lambda kernel: kernel.transpose(0, 1))
    told = texts(tmp_path, (layers[0], swapped), {"weight": SQUARE})
    assert "with in and out exchanged" in told[1]


def plain(function: Callable[..., torch.Tensor], *args: Any, **options: Any) -> Layer:
    """A layer without parameters."""
    return lambda x, p: function(x, *args, **options)


mean_pool = partial(plain, functional.avg_pool2d)
max_pool = partial(plain, functional.max_pool2d)
resize = partial(plain, functional.interpolate)


@DTYPES
@pytest.mark.parametrize(
    ("layers", "key", "text"),
    [
        (
            (mean_pool(3, 1, 1), mean_pool(3, 1, 1, count_include_pad=False)),
            "pool-counts-pads",
            "a's layer divides by 9 everywhere, b's by the places inside the input: they differ at "
            "the border alone",
        ),
        (
            (mean_pool(2), max_pool(2)),
            "other-pooling",
            "b's layer takes the largest of each window, a's takes the mean of each window",
        ),
        (
            (resize(scale_factor=2, mode="bilinear"), resize(scale_factor=2, mode="bicubic")),
            "other-resizing",
            "b's layer resizes by cubic with a of -0.75, a's by linear",
        ),
        (
            (
                resize(size=(4, 4), mode="bilinear"),
                resize(size=(4, 4), mode="bilinear", antialias=True),
            ),
            "other-resizing",
            "b's layer resizes with antialiasing, a's without antialiasing",
        ),
        (
            (
                resize(scale_factor=2, mode="bilinear"),
                resize(scale_factor=2, mode="bilinear", align_corners=True),
            ),
            "other-resizing",
            "b's layer resizes with aligned corners, a's with half-pixel centres",
        ),
        (
            (lambda x, p: x.flatten(1), lambda x, p: x.permute(0, 2, 3, 1).flatten(1)),
            "flatten-order",
            "b's layer takes the features of x in the order (H, W, C), a's (C, H, W): another axis "
            "comes first where they are flattened",
        ),
        (
            (lambda x, p: x.mean((2, 3)), lambda x, p: x.amax((2, 3))),
            "other-reduction",
            "b's layer takes the largest over axes 2, 3 of x, a's takes the mean over axes 2, 3 of "
            "x",
        ),
    ],
)
def test_a_layer_without_parameters_is_told(
    tmp_path: Path, layers: tuple[Layer, Layer], key: str, text: str, dtype: str
) -> None:
    assert texts(tmp_path, layers, {}, dtype=dtype)[:2] == (key, text)


def norm(x: torch.Tensor, p: dict[str, torch.Tensor], *, by: str) -> torch.Tensor:
    running = p["running_mean"], p["running_var"]
    affine = p["weight"], p["bias"]
    if by == "groups":
        return functional.group_norm(x, 3, *affine)
    if by == "unbiased":
        centred = x - x.mean((0, 2, 3), keepdim=True)
        normed = centred / (x.var((0, 2, 3), keepdim=True) + 1e-5).sqrt()
        return normed * affine[0].view(-1, 1, 1) + affine[1].view(-1, 1, 1)
    copies = [statistic.clone() for statistic in running]
    return functional.batch_norm(x, *copies, *affine, training=by == "batch")


@DTYPES
@pytest.mark.parametrize(
    ("bys", "key", "text"),
    [
        (
            ("running", "batch"),
            "norm-evaluation",
            "b normalises layer by the batch, a by the running statistics (evaluation mode)",
        ),
        (
            ("groups", "batch"),
            "norm-statistics",
            "b normalises layer by the batch, a by each channel of each example",
        ),
        (
            ("batch", "unbiased"),
            "norm-variance",
            "a's layer takes its variance over n, b's over n - 1",
        ),
    ],
)
def test_a_norm_is_told_by_its_statistics(
    tmp_path: Path, bys: tuple[str, str], key: str, text: str, dtype: str
) -> None:
    parameters = {
        "weight": DRAW.uniform(0.5, 2, 3),
        "bias": DRAW.normal(size=3),
        "running_mean": DRAW.normal(size=3),
        "running_var": DRAW.uniform(0.5, 2, 3),
    }
    layers = partial(norm, by=bys[0]), partial(norm, by=bys[1])
    assert texts(tmp_path, layers, parameters, dtype=dtype)[:2] == (key, text)


def spectral(x: torch.Tensor, p: dict[str, torch.Tensor], *, iterations: int) -> torch.Tensor:
    u, v, kernel = p["weight_u"], p["weight_v"], p["weight_orig"]
    for _ in range(iterations):
        v = functional.normalize(kernel.T @ u, dim=0)
        u = functional.normalize(kernel @ v, dim=0)
    return x @ (kernel / (u @ kernel @ v)).T + p["bias"]


@DTYPES
def test_a_spectral_norm_is_told_by_its_iterations(tmp_path: Path, dtype: str) -> None:
    vectors = [vector / np.linalg.norm(vector) for vector in DRAW.normal(size=(2, 6))]
    parameters = {
        "weight_orig": DRAW.normal(size=(6, 6)),
        "bias": DRAW.normal(size=6),
        "weight_u": vectors[0],
        "weight_v": vectors[1],
    }
    layers = partial(spectral, iterations=1), partial(spectral, iterations=0)
    told = texts(tmp_path, layers, parameters, dtype=dtype, x=DRAW.normal(size=(8, 6)))
    assert told[:2] == (
        "spectral-norm-iterations",
        "b's layer divides its kernel by its spectral norm after no power iteration, a's by its "
        "spectral norm after one power iteration",
    )


def test_a_layer_that_is_none_of_these_gets_no_cause(tmp_path: Path) -> None:
    noise = torch.tensor(1e-3 * DRAW.normal(size=(4, 5, 8, 8)))
    parameters = {"weight": KERNEL, "bias": BIAS}
    layers = PADDED, lambda x, p: PADDED(x, p) + noise
    assert cause_of(tmp_path, layers, parameters) is None
    layers = PADDED, lambda x, p: PADDED(x, {**p, "weight": 1.01 * p["weight"]})
    assert cause_of(tmp_path, layers, parameters) is None
    pooled = mean_pool(3, 1, 1)
    layers = pooled, lambda x, p: pooled(x, p) + noise[:, :3]
    assert cause_of(tmp_path, layers, {}) is None


def record_stage(path: Path, *, frozen_from: int, hears_norm: bool) -> None:
    """A net whose first stage is frozen, its norm in evaluation mode, from an update on; its norm
    may be left out of the recording.
    """
    torch.manual_seed(0)
    conv1 = torch.nn.Conv2d(2, 3, 3, padding=1, dtype=torch.float64)
    norm = torch.nn.BatchNorm2d(3, dtype=torch.float64)
    conv2 = torch.nn.Conv2d(3, 2, 3, dtype=torch.float64)
    named = {"conv1": conv1, "norm": norm, "conv2": conv2}
    norm.running_mean.normal_()
    stage = [*conv1.parameters(), *norm.parameters()]
    optimizer = torch.optim.SGD([*stage, *conv2.parameters()], lr=0.05)
    state = {f"{name}.{key}": t for name, m in named.items() for key, t in m.state_dict().items()}
    tracked = {name: tensor for name, tensor in state.items() if "num_" not in name}
    with Recorder(path, backend="torch") as recorder:
        recorder.start(tracked)
        for update in range(4):
            is_frozen = update >= frozen_from
            norm.train(not is_frozen)
            for parameter in stage:
                parameter.requires_grad_(not is_frozen)
            x = torch.randn((6, 2, 6, 6), dtype=torch.float64)
            first = conv1(x)
            normed = norm(first)
            last = conv2(normed.relu())
            optimizer.zero_grad()
            last.square().mean().backward()
            optimizer.step()
            outputs = {"conv1": first, "norm": normed, "conv2": last}
            if not hears_norm:
                del outputs["norm"]
            recorder.update(batch={"x": x}, forward=outputs, parameters=tracked)


@pytest.mark.parametrize("hears_norm", [True, False])
def test_a_stage_that_is_frozen_late_is_told(tmp_path: Path, hears_norm: bool) -> None:
    record_stage(tmp_path / "a.trace", frozen_from=0, hears_norm=hears_norm)
    record_stage(tmp_path / "b.trace", frozen_from=2, hears_norm=True)
    diagnosis = diagnose(tmp_path / "a.trace", tmp_path / "b.trace")
    assert diagnosis.cause is not None
    assert diagnosis.cause.key == "norm-evaluation"
    assert diagnosis.cause.text == (
        "b normalises norm by the batch, a by the running statistics (evaluation mode); b trains "
        "conv1 and norm until update 2"
    )
