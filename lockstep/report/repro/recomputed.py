"""Code that computes a stage again with the library that a side used, from what was read off it.

What a trace says of a side is untrusted: a class must be one of a list, and a value a plain one.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from numpy.typing import NDArray

from lockstep.diagnose.compare import Difference
from lockstep.records.trace import Trace

__all__ = ["layer_code", "loss_code", "optimizer_code"]

NORMS = ("eps", "affine", "elementwise_affine", "momentum", "track_running_stats")
CONVOLUTIONS = ("stride", "padding", "dilation", "groups", "padding_mode")
LAYERS: Mapping[str, tuple[Sequence[str], Sequence[str]]] = {
    "LayerNorm": (("normalized_shape",), NORMS[:1] + NORMS[2:3]),
    "RMSNorm": (("normalized_shape",), NORMS[:1] + NORMS[2:3]),
    "GroupNorm": (("num_groups", "num_channels"), NORMS[:2]),
    "BatchNorm1d": (("num_features",), NORMS[:2] + NORMS[3:]),
    "BatchNorm2d": (("num_features",), NORMS[:2] + NORMS[3:]),
    "Linear": (("in_features", "out_features"), ()),
    "Conv1d": (("in_channels", "out_channels", "kernel_size"), CONVOLUTIONS),
    "Conv2d": (("in_channels", "out_channels", "kernel_size"), CONVOLUTIONS),
    "ConvTranspose2d": (
        ("in_channels", "out_channels", "kernel_size"),
        (*CONVOLUTIONS, "output_padding"),
    ),
    "AvgPool2d": (("kernel_size",), ("stride", "padding", "ceil_mode", "count_include_pad")),
    "MaxPool2d": (("kernel_size",), ("stride", "padding", "dilation", "ceil_mode")),
    "GELU": ((), ("approximate",)),
    "ReLU": ((), ()),
    "SiLU": ((), ()),
    "Tanh": ((), ()),
    "Sigmoid": ((), ()),
    "LeakyReLU": ((), ("negative_slope",)),
    "ELU": ((), ("alpha",)),
    "Softmax": ((), ("dim",)),
}
"""Class of torch.nn -> its arguments that must be known, and those that may."""
LABELS = ("batch/y", "batch/labels", "batch/targets")
HAS_BIAS = ("Linear", "Conv1d", "Conv2d", "ConvTranspose2d", "LayerNorm")
OPTIMIZERS: Mapping[str, Sequence[str]] = {
    "SGD": ("momentum", "dampening", "weight_decay", "nesterov"),
    "Adam": ("beta1", "beta2", "eps", "weight_decay", "amsgrad"),
    "AdamW": ("beta1", "beta2", "eps", "weight_decay", "amsgrad"),
    "Adamax": ("beta1", "beta2", "eps", "weight_decay"),
    "NAdam": ("beta1", "beta2", "eps", "weight_decay", "momentum_decay"),
    "RAdam": ("beta1", "beta2", "eps", "weight_decay"),
}
"""Class of torch.optim -> its knobs, as a trace names them."""


def layer_code(trace: Trace, side: str, first: Difference, shapes: Mapping[str, Any]) -> list[str]:
    """Lines that compute a PyTorch layer again; none where its class is not known.

    Args:
        trace: of the side.
        side: "a" or "b".
        first: where the sides part, in a layer.
        shapes: the arrays of the exhibit, by their short names.
    """
    modules = (trace.header.get("read") or {}).get("modules") or {}
    module = modules.get(first.tensor) or {}
    kind = str(module.get("class"))
    if kind not in LAYERS or trace.header.get("backend") != "torch" or "input" not in shapes:
        return []
    needed, known = LAYERS[kind]
    if any(name not in module for name in needed):
        return []
    values = {name: module[name] for name in (*needed, *known) if name in module}
    if not all(_is_plain(value) for value in values.values()):
        return []
    arguments = [f"{name}={value!r}" for name, value in values.items()]
    if kind in HAS_BIAS and "parameter/bias" not in shapes:
        arguments.append("bias=False")
    mode = "" if module.get("training", True) else ".eval()"
    call = f"torch.nn.{kind}({', '.join(arguments)}){mode}"
    return [f"layer_again({side!r}, {first.tensor!r}, {call!r}, lambda torch: {call})"]


def optimizer_code(trace: Trace, side: str) -> list[str]:
    """Lines that take the steps again with a PyTorch optimizer of one group of parameters; none
    where its class or its settings are not known.
    """
    optimizers = (trace.header.get("read") or {}).get("optimizers") or []
    if len(optimizers) != 1 or trace.header.get("backend") != "torch":
        return []
    kind = str(optimizers[0].get("class", "")).rpartition(".")[2]
    known = OPTIMIZERS.get(kind)
    groups = []
    for group in optimizers[0].get("groups", []):
        values = {name: group[name] for name in known or () if name in group}
        if "beta1" in values and "beta2" in values:
            values["betas"] = (values.pop("beta1"), values.pop("beta2"))
        if not all(_is_plain(value) for value in values.values()):
            return []
        groups.append({"params": [str(name) for name in group["parameters"]], **values})
    if known is None or not groups:
        return []
    return [f"steps_again({side!r}, {kind!r}, {groups!r})"]


def loss_code(arrays: Mapping[str, NDArray[Any]]) -> list[str]:
    """Lines that compute a mean cross entropy from the last output and whole-number labels; none
    where nothing in the batch is a label of each row of it.
    """
    outputs = [name for name in arrays if name.startswith("output/")]
    if not outputs:
        return []
    logits = arrays[outputs[-1]]
    for name in sorted(arrays, key=lambda name: name not in LABELS):
        labels = arrays[name]
        is_label = name.startswith("batch/") and labels.dtype.kind in "iu" and labels.size
        if is_label and labels.shape == logits.shape[:-1] and labels.max() < logits.shape[-1]:
            return [f"loss_again({outputs[-1]!r}, {name!r})"]
    return []


def _is_plain(value: Any) -> bool:
    """Whether a value may stand in code: a number, a flag, a short word, or a list of these."""
    if isinstance(value, list | tuple):
        return all(_is_plain(part) for part in value)
    if isinstance(value, str):
        return value.isidentifier()
    if isinstance(value, float):
        return math.isfinite(value)
    return value is None or isinstance(value, bool | int)
