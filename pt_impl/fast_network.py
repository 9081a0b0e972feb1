"""The network of the fast engine: a batch's loss and gradients, in as few operations as the framework allows."""

from math import prod
from typing import Any, NamedTuple

import torch

from lockstep.data_prep import PreparedData, layer_sizes
from lockstep.recipe import Loss, Recipe
from pt_impl.model import ACTIVATIONS as FORWARD
from pt_impl.model import build_model

__all__ = ["ACTIVATIONS", "Network"]

Tensor = torch.Tensor
Statistics = dict[str, tuple[Tensor, Tensor]]
"""Normalisation -> its running mean and variance (units,)."""

SLOTS, ROOM = 64, 2**18
"""Updates in a stretch: as many as have `ROOM` parameters in all, and not more than `SLOTS`."""

ALIGNED = 16
"""Numbers to whose multiples a vector is filled up: the bits of a product depend on where its factors begin."""

aten = torch.ops.aten
ACTIVATIONS: dict[str, tuple[Any, Any]] = {
    "relu": (
        lambda z, out: torch.clamp_min(z, 0, out=out),
        lambda slope, z, h: aten.threshold_backward.grad_input(slope, z, 0, grad_input=slope),
    ),
    "leaky_relu": (
        lambda z, out: aten.leaky_relu.out(z, 0.01, out=out),
        lambda slope, z, h: aten.leaky_relu_backward.grad_input(slope, z, 0.01, False, grad_input=slope),
    ),
    "tanh": (
        lambda z, out: torch.tanh(z, out=out),
        lambda slope, z, h: aten.tanh_backward.grad_input(slope, h, grad_input=slope),
    ),
    "sigmoid": (
        lambda z, out: torch.sigmoid(z, out=out),
        lambda slope, z, h: aten.sigmoid_backward.grad_input(slope, h, grad_input=slope),
    ),
    "silu": (
        lambda z, out: aten.silu.out(z, out=out),
        lambda slope, z, h: aten.silu_backward.grad_input(slope, z, grad_input=slope),
    ),
    "gelu": (
        lambda z, out: aten.gelu.out(z, approximate="none", out=out),
        lambda slope, z, h: aten.gelu_backward.grad_input(slope, z, approximate="none", grad_input=slope),
    ),
    "gelu_tanh": (
        lambda z, out: aten.gelu.out(z, approximate="tanh", out=out),
        lambda slope, z, h: aten.gelu_backward.grad_input(slope, z, approximate="tanh", grad_input=slope),
    ),
    "elu": (
        lambda z, out: aten.elu.out(z, 1.0, 1.0, 1.0, out=out),
        lambda slope, z, h: aten.elu_backward.grad_input(slope, 1.0, 1.0, 1.0, False, z, grad_input=slope),
    ),
    "softplus": (
        lambda z, out: aten.softplus.out(z, 1.0, 40.0, out=out),
        lambda slope, z, h: aten.softplus_backward.grad_input(slope, z, 1.0, 40.0, grad_input=slope),
    ),
    "mish": (
        lambda z, out: aten.mish.out(z, out=out),
        lambda slope, z, h: slope.copy_(aten.mish_backward(slope, z)),
    ),
}
"""Activation -> (z, out) -> h; and (gradient by h, z, h) -> gradient by z, in place."""


class _Views(NamedTuple):
    """Parts of one vector of parameters: of each linear layer its weight (out, in) beside its bias, as one matrix,
    and the transposed weight (in, out); of each normalisation its weight and bias (units, 1). All have a leading axis
    of members where the network has it."""

    matrices: list[Tensor]
    turned: list[Tensor]
    scales: list[Tensor]
    shifts: list[Tensor]


class _Buffers(NamedTuple):
    """What batches of one size are computed in; each layer's inputs (in, B) have a row of ones for the bias."""

    inputs: list[Tensor]
    units: list[Tensor]  # the inputs of the layers after the first, without the ones
    transposed: list[Tensor]
    z: list[Tensor]
    h: list[Tensor]
    slopes: list[Tensor]
    outputs: list[Tensor]  # of each batch of a stretch
    found: Tensor
    slope: Tensor


class Network:
    """The recipe's model on activations (units, B), with its gradients by hand.

    Every parameter lies in one vector (n,), filled up with zeros. The vectors before each update of a stretch follow
    one another in `stretch`, whose first is shared with `model`; so do the gradients in `gradient`.

    Where the parameters of `data` have a leading axis of S members, all are trained at once: every array of a batch has
    that axis too, a layer of all members lies together in the vector, an update changes it in place, and there is no
    `model`.
    """

    def __init__(self, recipe: Recipe, data: PreparedData, device: torch.device) -> None:
        self.recipe, self.lead = recipe, data.parameters["linear1.weight"].shape[:-2]
        self.layers = layer_sizes(len(data.columns), recipe.model.hidden, data.outputs)
        self.ones = int(recipe.model.bias)
        self.places: dict[str, tuple[int, tuple[int, int]]] = {}
        size, members = 0, prod(self.lead)
        for name, inputs, outputs in self.layers:
            self.places[name] = size, (outputs, inputs + self.ones)
            size += members * outputs * (inputs + self.ones)
            norm = name.replace("linear", "norm")
            if f"{norm}.weight" in data.parameters:
                self.places[norm] = size, (2, outputs)
                size += members * 2 * outputs
        size = -(-size // ALIGNED) * ALIGNED
        # of members it is the outputs that there must be room for
        self.slots = max(1, min(SLOTS, ROOM // (members * data.outputs * data.batch if self.lead else size)))
        like = {"dtype": getattr(torch, recipe.training.dtype), "device": device}
        lengths = (1, 1) if self.lead else (self.slots + 1, self.slots)
        self.stretch, self.gradient = (torch.zeros(length, size, **like) for length in lengths)
        self.rows, self.gradient_rows = self.stretch.unbind(0), self.gradient.unbind(0)
        if self.lead:
            self.rows, self.gradient_rows = self.rows * (self.slots + 1), self.gradient_rows * self.slots
        self.before = [_views(self, vector) for vector in self.rows]
        self.after = [_views(self, vector) for vector in self.gradient_rows]
        self.model: Any = None if self.lead else build_model(recipe, data, device).requires_grad_(False).eval()
        for name, place in self.named(self.stretch[0]).items():
            place.copy_(torch.from_numpy(data.parameters[name]))
            if self.model is not None:
                self.model.get_parameter(name).data = place.t()
        self.statistics: Statistics = {}
        if recipe.model.norm == "batch":
            for i, units in enumerate(recipe.model.hidden, start=1):
                shape = (*self.lead, units)
                self.statistics[f"norm{i}"] = torch.zeros(shape, **like), torch.ones(shape, **like)
                if self.model is not None:
                    norm = getattr(self.model, f"norm{i}")
                    self.statistics[f"norm{i}"] = norm.running_mean, norm.running_var
        self.buffers: dict[int, _Buffers] = {}

    def named(self, vector: Tensor) -> dict[str, Tensor]:
        """Canonical name -> its part of a vector of parameters, weights (in, out)."""
        found: dict[str, Tensor] = {}
        for name, (begin, (rows, columns)) in self.places.items():
            if name.startswith("norm"):
                matrix = vector[begin : begin + prod(self.lead) * rows * columns].view(*self.lead, rows, columns)
                found |= {f"{name}.weight": matrix[..., 0, :], f"{name}.bias": matrix[..., 1, :]}
                continue
            matrix = _matrix(self, name, vector)
            # [out, in] -> [in, out]
            found[f"{name}.weight"] = matrix[..., : columns - self.ones].mT
            if self.ones:
                found[f"{name}.bias"] = matrix[..., -1]
        return found

    def gradients(self, slot: int, batch: Any, number: int) -> Tensor:
        """The gradient of a batch's share of the loss, into the slot; the outputs, in the buffer of that number."""
        model, buffers = self.recipe.model, _buffers(self, batch.used)
        before, after = self.before[slot], self.after[slot]
        activate, bend = ACTIVATIONS[model.activation]
        product, layers, normals = torch.bmm if self.lead else torch.mm, len(self.layers) - 1, []
        h = batch.x_DB
        for i in range(layers):
            z = product(before.matrices[i], h, out=buffers.z[i])
            if model.norm != "none":
                normals.append(_normalise(self, i, z, before))
            activate(z, buffers.h[i])
            if batch.masks:
                torch.mul(buffers.h[i], batch.masks[i], out=buffers.units[i])
            h = buffers.inputs[i]
        outputs = product(before.matrices[layers], h, out=buffers.outputs[number])
        slope = _slope(self.recipe.loss, outputs, batch, buffers)
        for i in range(layers, 0, -1):
            _outer(product, slope, buffers.transposed[i - 1], after.matrices[i])
            slope = product(before.turned[i], slope, out=buffers.slopes[i - 1])
            if batch.masks:
                slope.mul_(batch.masks[i - 1])
            bend(slope, buffers.z[i - 1], buffers.h[i - 1])
            if model.norm != "none":
                _normalise_backward(self, i - 1, slope, normals[i - 1], before, after)
        _outer(product, slope, batch.x_BD, after.matrices[0])
        return outputs

    def outputs(self, x_ND: Tensor) -> dict[str, Tensor]:
        """Layer -> its output (N, units) in evaluation, from "input" to the logits, in order."""
        if self.model is not None:
            found: dict[str, Tensor] = self.model.outputs(x_ND)
            return found
        return _member_outputs(self, x_ND)


def _member_outputs(network: Network, x_ND: Tensor) -> dict[str, Tensor]:
    """Layer -> its output (S, N, units) in evaluation."""
    model, parts, h = network.recipe.model, network.named(network.rows[0]), x_ND.t()
    found = {"input": x_ND}
    for i, (name, _, _) in enumerate(network.layers, start=1):
        h = parts[f"{name}.weight"].mT @ h
        if network.ones:
            h = h + parts[f"{name}.bias"][..., None]
        found[name] = h.mT
        if i == len(network.layers):
            break
        if model.norm != "none":
            mean, variance = network.statistics.get(f"norm{i}") or (h.mean(dim=-2), h.var(dim=-2, correction=0))
            axis = -1 if model.norm == "batch" else -2
            h = (h - mean.unsqueeze(axis)) * (variance.unsqueeze(axis) + model.norm_eps).rsqrt()
            h = h * parts[f"norm{i}.weight"][..., None] + parts[f"norm{i}.bias"][..., None]
            found[f"norm{i}"] = h.mT
        h = FORWARD[model.activation](h)
        found[f"{model.activation}{i}"] = h.mT
    return found


def _matrix(network: Network, name: str, vector: Tensor) -> Tensor:
    """A layer's weight (out, in) beside its bias, in a vector of parameters."""
    begin, (rows, columns) = network.places[name]
    flat = vector[begin : begin + prod(network.lead) * rows * columns]
    # small products of many members are faster into long rows: 3 times for (50, 11)
    if network.lead and rows > columns:
        return flat.view(*network.lead, columns, rows).mT
    return flat.view(*network.lead, rows, columns)


def _outer(product: Any, slope: Tensor, inputs: Tensor, out: Tensor) -> None:
    """slope @ inputs, the way round that the rows of `out` lie."""
    if out.stride(-1) == 1:
        product(slope, inputs, out=out)
    else:
        product(inputs.mT, slope.mT, out=out.mT)


def _views(network: Network, vector: Tensor) -> _Views:
    parts, matrices = network.named(vector), [_matrix(network, name, vector) for name, _, _ in network.layers]
    norms = [name for name in network.places if name.startswith("norm")]
    scales, shifts = ([parts[f"{name}.{kind}"][..., None] for name in norms] for kind in ("weight", "bias"))
    return _Views(matrices, [parts[f"{name}.weight"] for name, _, _ in network.layers], scales, shifts)


def _buffers(network: Network, batch: int) -> _Buffers:
    if batch not in network.buffers:
        new, lead = network.stretch.new_empty, network.lead
        *hidden, last = (outputs for _, _, outputs in network.layers)
        inputs = [network.stretch.new_ones(*lead, units + network.ones, batch) for units in hidden]
        kept = [full[..., :units, :] for full, units in zip(inputs, hidden)]
        network.buffers[batch] = _Buffers(
            inputs=inputs,
            units=kept,
            transposed=[full.mT for full in inputs],
            z=[new(*lead, units, batch) for units in hidden],
            h=[new(*lead, units, batch) for units in hidden] if network.recipe.model.dropout else kept,
            slopes=[new(*lead, units, batch) for units in hidden],
            outputs=[new(*lead, last, batch) for _ in range(network.slots)],
            found=new(*lead, last, batch),
            slope=new(*lead, last, batch),
        )
    return network.buffers[batch]


def _slope(loss: Loss, outputs_KB: Tensor, batch: Any, buffers: _Buffers) -> Tensor:
    """The gradient of the batch's share of the loss by the outputs; see `fast_batches.Batch`."""
    if loss.name == "cross_entropy":
        torch.softmax(outputs_KB, -2, out=buffers.found)
    elif loss.name == "binary_cross_entropy":
        torch.sigmoid(outputs_KB, out=buffers.found)
    else:
        error_KB = torch.sub(outputs_KB, batch.y_B.unsqueeze(-2), out=buffers.slope)
        if loss.name == "huber":
            error_KB.clamp_(-loss.delta, loss.delta)
        return error_KB.mul_(batch.scale_1B)
    return torch.addcmul(batch.shift_KB, buffers.found, batch.scale_1B, out=buffers.slope)


def _normalise(network: Network, i: int, z: Tensor, before: _Views) -> tuple[Tensor, Tensor]:
    """z (units, B) normalised in place; its normal form, before weight and bias, and 1 / deviation."""
    model, by_row = network.recipe.model, network.recipe.model.norm == "layer"
    variance, mean = torch.var_mean(z, dim=-2 if by_row else -1, correction=0, keepdim=True)
    inverse = (variance + model.norm_eps).rsqrt_()
    normal = (z - mean).mul_(inverse)
    torch.addcmul(before.shifts[i], normal, before.scales[i], out=z)
    if not by_row:
        share, rows = model.norm_momentum, z.shape[-1]
        if model.norm_variance == "unbiased":
            variance = variance * (rows / (rows - 1))
        for kept, seen in zip(network.statistics[f"norm{i + 1}"], (mean, variance)):
            kept.mul_(1 - share).add_(seen[..., 0], alpha=share)
    return normal, inverse


def _normalise_backward(
    network: Network, i: int, slope: Tensor, normalised: tuple[Tensor, Tensor], before: _Views, after: _Views
) -> None:
    """With y the normal form and g the gradient by it: (g - mean(g) - y mean(g y)) / deviation, in place."""
    (normal, inverse), axis = normalised, -2 if network.recipe.model.norm == "layer" else -1
    torch.sum(slope * normal, -1, keepdim=True, out=after.scales[i])
    torch.sum(slope, -1, keepdim=True, out=after.shifts[i])
    slope.mul_(before.scales[i])
    mean, projection = slope.mean(axis, keepdim=True), (slope * normal).mean(axis, keepdim=True)
    slope.sub_(mean).addcmul_(normal, projection, value=-1).mul_(inverse)
