"""The network of the fast engine: a batch's gradients in as few operations as PyTorch allows."""

from collections.abc import Callable
from functools import partial
from math import prod
from typing import Any, NamedTuple

import torch

from lockstep.data_prep import PreparedData, layer_sizes
from lockstep.recipe import Recipe
from pt_impl.activations import ACTIVATIONS as FORWARD
from pt_impl.fast.losses import MODULES
from pt_impl.model import MLP, build_model

__all__ = ["ACTIVATIONS", "Network", "Slot"]

Tensor = torch.Tensor
Statistics = dict[str, tuple[Tensor, Tensor]]
"""Normalisation -> its running mean and variance (units,)."""

SLOTS = 32
"""Updates in a stretch. W1 takes as long with 16 as with 64, and 1.08 times as long with 128, whose
numbers a core's own cache does not hold."""

ROOM = 2**18
"""Parameters that a stretch may have in all, if each of its updates stores its own."""

ALIGNED = 16
"""A vector is filled up to a multiple of it: a product's bits depend on where its factors begin."""

aten = torch.ops.aten
Call = Callable[[], Any]
ACTIVATIONS: dict[
    str, tuple[Callable[[Tensor, Tensor], Call], Callable[[Tensor, Tensor, Tensor], Call]]
] = {
    "relu": (
        lambda z, h: partial(torch.relu_, z),
        lambda slope, z, h: partial(
            aten.threshold_backward.grad_input, slope, h, 0, grad_input=slope
        ),
    ),
    "leaky_relu": (
        lambda z, h: partial(aten.leaky_relu.out, z, 0.01, out=h),
        lambda slope, z, h: partial(
            aten.leaky_relu_backward.grad_input, slope, z, 0.01, False, grad_input=slope
        ),
    ),
    "tanh": (
        lambda z, h: partial(torch.tanh_, z),
        lambda slope, z, h: partial(aten.tanh_backward.grad_input, slope, h, grad_input=slope),
    ),
    "sigmoid": (
        lambda z, h: partial(torch.sigmoid_, z),
        lambda slope, z, h: partial(aten.sigmoid_backward.grad_input, slope, h, grad_input=slope),
    ),
    "silu": (
        lambda z, h: partial(aten.silu.out, z, out=h),
        lambda slope, z, h: partial(aten.silu_backward.grad_input, slope, z, grad_input=slope),
    ),
    "gelu": (
        lambda z, h: partial(aten.gelu.out, z, approximate="none", out=h),
        lambda slope, z, h: partial(
            aten.gelu_backward.grad_input, slope, z, approximate="none", grad_input=slope
        ),
    ),
    "gelu_tanh": (
        lambda z, h: partial(aten.gelu.out, z, approximate="tanh", out=h),
        lambda slope, z, h: partial(
            aten.gelu_backward.grad_input, slope, z, approximate="tanh", grad_input=slope
        ),
    ),
    "elu": (
        lambda z, h: partial(aten.elu.out, z, 1.0, 1.0, 1.0, out=h),
        lambda slope, z, h: partial(
            aten.elu_backward.grad_input, slope, 1.0, 1.0, 1.0, False, z, grad_input=slope
        ),
    ),
    "softplus": (
        lambda z, h: partial(aten.softplus.out, z, 1.0, 40.0, out=h),
        lambda slope, z, h: partial(
            aten.softplus_backward.grad_input, slope, z, 1.0, 40.0, grad_input=slope
        ),
    ),
    "mish": (
        lambda z, h: partial(aten.mish.out, z, out=h),
        lambda slope, z, h: lambda: slope.copy_(aten.mish_backward(slope, z)),
    ),
}
"""Activation -> the call that computes h of z, and the call that turns a gradient by h into the
gradient by z, in place. `_activate` and `_bend` serve the others."""

IN_PLACE = ("relu", "tanh", "sigmoid")
"""Activations whose h overwrites z: their slope is a function of h."""


def _activate(plain: Callable[[Tensor], Tensor], z: Tensor, h: Tensor) -> Call:
    """The call that computes h of z by the activation of the plain engine."""
    return lambda: h.copy_(plain(z))


def _bend(plain: Callable[[Tensor], Tensor], slope: Tensor, z: Tensor, h: Tensor) -> Call:
    """The call that turns a gradient by h into the gradient by z, by autograd of `plain`."""

    def bend() -> None:
        # outside inference mode, so that the clones can be differentiated
        with torch.inference_mode(False):
            leaf = z.clone().requires_grad_()
            by_h = slope.clone()
            with torch.enable_grad():
                (by_z,) = torch.autograd.grad(plain(leaf), leaf, by_h)
        slope.copy_(by_z)

    return bend


class Slot(NamedTuple):
    """The vectors of an update of a stretch: parameters before and after it, and their gradient.

    They are numbers of rows in `Network.rows` and in `Network.gradient_rows`.
    """

    before: int
    after: int
    gradient: int


class _Views(NamedTuple):
    """Parts of one vector, by layer, with a leading axis of members if the network has members."""

    matrices: tuple[Tensor, ...]
    """A linear layer's weight beside its bias (out, in + 1)."""
    by_rows: tuple[Tensor, ...]
    """The same, or transposed, so that its rows are contiguous."""
    turned: tuple[Tensor, ...]
    """A linear layer's weight alone (in, out)."""
    scales: tuple[Tensor, ...]
    """A normalisation's weight (units, 1)."""
    shifts: tuple[Tensor, ...]
    """A normalisation's bias (units, 1)."""


class _Buffer(NamedTuple):
    """The memory of a layer's computation, for batches of one size."""

    inputs: Tensor
    """(in + 1, B), with a row of ones for the bias."""
    inputs_BD: Tensor
    z: Tensor
    h: Tensor
    mask: Tensor
    dropped: Tensor
    """h after dropout: the inputs of the following layer without the ones."""
    slope: Tensor
    """The gradient by z."""
    slope_BH: Tensor


class _Buffers(NamedTuple):
    """All layers' buffers, one output buffer for each batch of a stretch, and scratch memory."""

    layers: list[_Buffer]
    outputs: tuple[Tensor, ...]
    scratch: Tensor


class _Program(NamedTuple):
    """The calls of one slot for batches of one size, and the memory that they use."""

    load: list[Call]
    """They cast the parameters to the dtype of the computation, if it is another."""
    forward: list[Call]
    """From the first layer's z to the last layer's inputs."""
    backward: list[Call]
    """From the gradient by the outputs to the gradient by the first layer's z."""
    before: _Views
    after: _Views
    layers: list[_Buffer]
    outputs: tuple[Tensor, ...]
    scratch: Tensor
    store: list[Call]
    """They cast the gradients back."""


class Network:
    """The recipe's model on activations (units, B), with its gradients by hand.

    All parameters lie in one vector (n,), filled up with zeros. A small network stores every
    update: the vectors before each update of a stretch follow one another in `stretch`, and so do
    the gradients in `gradient`. A larger one has two vectors, of which an update reads one and
    writes the other, and one gradient. The first vector is the parameters of `model`.

    If the parameters of `data` have a leading axis of S members, all members are trained at once:
    every array of a batch has that axis too, a layer's parameters of all members lie together in
    the vector, an update changes it in place, and there is no `model`.
    """

    def __init__(self, recipe: Recipe, data: PreparedData, device: torch.device) -> None:
        self.recipe = recipe
        self.lead = data.parameters["linear1.weight"].shape[:-2]
        self.layers = layer_sizes(len(data.columns), recipe.model.hidden, data.outputs)
        self.ones = int(recipe.model.bias)
        self.places, self.used = _places(self, data)
        self.is_long = [_is_long(*self.places[name][1]) for name, _, _ in self.layers]
        size = -(-self.used // ALIGNED) * ALIGNED
        self.stores_updates = not self.lead and (SLOTS + 1) * size <= ROOM
        self.slots = _slots(self, data)
        dtype = getattr(torch, recipe.training.dtype)
        self.compute = dtype if recipe.training.compute == "same" else torch.bfloat16
        like = {"dtype": dtype, "device": device}
        self.stretch = torch.zeros(1 + max(slot.after for slot in self.slots), size, **like)
        self.gradient = torch.zeros(1 + max(slot.gradient for slot in self.slots), size, **like)
        # a batch fills its place from the left; what a smaller one leaves is never used
        places = (len(self.slots), *self.lead, data.outputs, data.batch)
        self.outputs_TKB = torch.zeros(places, **like)
        self.rows = self.stretch.unbind(0)
        self.gradient_rows = self.gradient.unbind(0)
        self.before = _views(self, self.stretch)
        self.after = _views(self, self.gradient)
        # parameters and gradient in the dtype of the products, if it is another
        self.computed: list[_Views] = []
        if self.compute != dtype:
            vectors = self.stretch.new_zeros(2, size, dtype=self.compute)
            self.computed = _views(self, vectors)
        self.model: MLP | None = None
        if not self.lead:
            self.model = build_model(recipe, data, device).requires_grad_(False).eval()
        for name, part in self.named(self.rows[0]).items():
            part.copy_(torch.from_numpy(data.parameters[name]))
            if self.model is not None:
                self.model.get_parameter(name).data = part.t()
        self.statistics = _running_statistics(self)
        self.buffers: dict[int, _Buffers] = {}
        self.normals: dict[int, tuple[Tensor, Tensor]] = {}
        self.programs: dict[tuple[Slot, int], _Program] = {}
        self.tensors: dict[int, dict[str, Tensor]] = {}
        # looked up here and not at every update
        self.product = torch.bmm if self.lead else torch.mm
        self.find_slope = partial(MODULES[recipe.loss.name].slope, recipe.loss)

    def named(self, vector: Tensor) -> dict[str, Tensor]:
        """Canonical name -> its part of a vector of parameters, weights (in, out)."""
        parts: dict[str, Tensor] = {}
        for name, (begin, (rows, columns)) in self.places.items():
            if name.startswith("norm"):
                end = begin + prod(self.lead) * rows * columns
                matrix = vector[begin:end].view(*self.lead, rows, columns)
                parts[f"{name}.weight"] = matrix[..., 0, :]
                parts[f"{name}.bias"] = matrix[..., 1, :]
                continue
            (matrix,) = _matrices(self, name, vector[None])
            # [out, in] -> [in, out]
            parts[f"{name}.weight"] = matrix[..., : columns - self.ones].mT
            if self.ones:
                parts[f"{name}.bias"] = matrix[..., -1]
        return parts

    def gradients(self, slot: Slot, batch: Any, place: int) -> None:
        """Write the gradient of a batch's share of the loss into the slot.

        The outputs go into the buffer of that place.
        """
        program = self.programs.get((slot, batch.used)) or _program(self, slot, batch.used)
        load, forward, backward, before, after, layers, outputs, scratch, store = program
        product = self.product
        x_DB = batch.x_DB
        x_BD = batch.x_BD
        first = layers[0]
        last = layers[-1]
        if load:
            x_BD = x_BD.to(self.compute)
            x_DB = x_BD.mT
            for call in load:
                call()
        h = x_DB
        if forward:
            for mask, buffer in zip(batch.masks, layers):
                buffer.mask.copy_(mask)
            product(before.matrices[0], x_DB, out=first.z)
            for call in forward:
                call()
            h = last.inputs
        if load:
            outputs[place].copy_(product(before.matrices[-1], h, out=last.z))
            self.find_slope(outputs[place], batch, scratch, scratch)
            last.slope.copy_(scratch)
        else:
            outputs_KB = product(before.matrices[-1], h, out=outputs[place])
            self.find_slope(outputs_KB, batch, scratch, last.slope)
        for call in backward:
            call()
        if self.is_long[0]:
            product(x_DB, first.slope_BH, out=after.by_rows[0])
        else:
            product(first.slope, x_BD, out=after.by_rows[0])
        for call in store:
            call()

    def outputs(self, x_ND: Tensor) -> dict[str, Tensor]:
        """Layer -> its output (N, units) in evaluation, from "input" to the logits, in order."""
        return _member_outputs(self, x_ND) if self.model is None else self.model.outputs(x_ND)


def _places(
    network: Network, data: PreparedData
) -> tuple[dict[str, tuple[int, tuple[int, int]]], int]:
    """Layer -> the begin and shape of its parameters in a vector; and the length of the vector."""
    places: dict[str, tuple[int, tuple[int, int]]] = {}
    members = prod(network.lead)
    end = 0
    for name, inputs, outputs in network.layers:
        places[name] = end, (outputs, inputs + network.ones)
        end += members * outputs * (inputs + network.ones)
        norm = name.replace("linear", "norm")
        if f"{norm}.weight" in data.parameters:
            places[norm] = end, (2, outputs)
            end += members * 2 * outputs
    return places, end


def _slots(network: Network, data: PreparedData) -> list[Slot]:
    """The slots of a stretch."""
    if network.lead:
        # members update in place; room is needed for their outputs
        outputs = prod(network.lead) * data.outputs * data.batch
        return [Slot(0, 0, 0)] * max(1, min(SLOTS, ROOM // outputs))
    if network.stores_updates:
        return [Slot(i, i + 1, i) for i in range(SLOTS)]
    return [Slot(i % 2, (i + 1) % 2, 0) for i in range(SLOTS)]


def _running_statistics(network: Network) -> Statistics:
    """The running statistics of batch normalisation: those of `model`, where there is one."""
    statistics: Statistics = {}
    if network.recipe.model.norm != "batch":
        return statistics
    for i, units in enumerate(network.recipe.model.hidden, start=1):
        if network.model is None:
            zeros = network.stretch.new_zeros(*network.lead, units)
            statistics[f"norm{i}"] = zeros, torch.ones_like(zeros)
        else:
            norm = getattr(network.model, f"norm{i}")
            statistics[f"norm{i}"] = norm.running_mean, norm.running_var
    return statistics


def _member_outputs(network: Network, x_ND: Tensor) -> dict[str, Tensor]:
    """Layer -> its output (S, N, units) in evaluation."""
    model = network.recipe.model
    parts = network.named(network.rows[0])
    h = x_ND.t()
    outputs = {"input": x_ND}
    for i, (name, _, _) in enumerate(network.layers, start=1):
        h = parts[f"{name}.weight"].mT.to(network.compute) @ h.to(network.compute)
        if network.ones:
            h = h + parts[f"{name}.bias"][..., None].to(network.compute)
        outputs[name] = h.mT
        if i == len(network.layers):
            outputs[name] = h.mT.to(x_ND.dtype)
            break
        if model.norm != "none":
            h = h.to(x_ND.dtype)
            if model.norm == "batch":
                axis = -1
                mean, variance = network.statistics[f"norm{i}"]
            else:
                axis = -2
                mean = h.mean(dim=axis)
                variance = h.var(dim=axis, correction=0)
            h = (h - mean.unsqueeze(axis)) * (variance.unsqueeze(axis) + model.norm_eps).rsqrt()
            h = h * parts[f"norm{i}.weight"][..., None] + parts[f"norm{i}.bias"][..., None]
            h = h.to(network.compute)
            outputs[f"norm{i}"] = h.mT
        h = FORWARD[model.activation](h)
        outputs[f"{model.activation}{i}"] = h.mT
    return outputs


def _matrices(network: Network, name: str, vectors: Tensor) -> Tensor:
    """A layer's weight beside its bias (V, out, in + 1), in vectors of parameters (V, n)."""
    begin, (rows, columns) = network.places[name]
    flat = vectors[:, begin : begin + prod(network.lead) * rows * columns]
    lead = (len(vectors), *network.lead)
    if _is_long(rows, columns):
        return flat.view(*lead, columns, rows).mT
    return flat.view(*lead, rows, columns)


def _is_long(rows: int, columns: int) -> bool:
    # small products are faster into long rows: 2 times for (50, 11), 3 times with many members
    return rows > columns


def _views(network: Network, vectors: Tensor) -> list[_Views]:
    """The views of each vector (V, n)."""
    # by layer, and then by vector
    matrices: list[tuple[Tensor, ...]] = []
    by_rows: list[tuple[Tensor, ...]] = []
    turned: list[tuple[Tensor, ...]] = []
    for (name, inputs, _), is_long in zip(network.layers, network.is_long):
        layer = _matrices(network, name, vectors)
        matrices.append(layer.unbind(0))
        by_rows.append((layer.mT if is_long else layer).unbind(0))
        turned.append(layer[..., :inputs].mT.unbind(0))
    norms = [name for name in network.places if name.startswith("norm")]
    views = []
    linear = zip(zip(*matrices), zip(*by_rows), zip(*turned))
    for vector, (own_matrices, own_by_rows, own_turned) in zip(vectors, linear):
        parts = network.named(vector) if norms else {}
        scales = tuple(parts[f"{name}.weight"][..., None] for name in norms)
        shifts = tuple(parts[f"{name}.bias"][..., None] for name in norms)
        views.append(_Views(own_matrices, own_by_rows, own_turned, scales, shifts))
    return views


def _buffers(network: Network, batch: int) -> _Buffers:
    """The buffers for batches of that many rows."""
    if batch in network.buffers:
        return network.buffers[batch]
    model = network.recipe.model
    new = partial(network.stretch.new_empty, dtype=network.compute)
    layers: list[_Buffer] = []
    inputs = new(0)
    for _, _, units in network.layers:
        shape = (*network.lead, units, batch)
        following = new(*network.lead, units + network.ones, batch).fill_(1)
        dropped = following[..., :units, :]
        slope = new(shape)
        mask = network.stretch.new_empty(shape)
        h = new(shape) if model.dropout else dropped
        z = h if model.activation in IN_PLACE else new(shape)
        inputs_BD = inputs.mT if layers else inputs
        layers.append(_Buffer(inputs, inputs_BD, z, h, mask, dropped, slope, slope.mT))
        inputs = following
    outputs = network.outputs_TKB[..., :batch].unbind(0)
    network.buffers[batch] = _Buffers(layers, outputs, torch.empty_like(mask))
    return network.buffers[batch]


def _program(network: Network, slot: Slot, batch: int) -> _Program:
    """The program of a slot for batches of that many rows."""
    model = network.recipe.model
    product = network.product
    # normalisation is always in the parameters' dtype
    own_before = network.before[slot.before]
    own_after = network.after[slot.gradient]
    before, after = network.computed or (own_before, own_after)
    layers, outputs, scratch = _buffers(network, batch)
    plain = FORWARD[model.activation]
    by_autograd = partial(_activate, plain), partial(_bend, plain)
    activate, bend = ACTIVATIONS.get(model.activation, by_autograd)
    load: list[Call] = []
    forward: list[Call] = []
    backward: list[Call] = []
    store: list[Call] = []
    if network.computed:
        for own, computed in zip(own_before.by_rows, before.by_rows):
            load.append(partial(computed.copy_, own))
        for own, computed in zip(own_after.by_rows, after.by_rows):
            store.append(partial(own.copy_, computed))
    for i, buffer in enumerate(layers[:-1]):
        if i:
            forward.append(partial(product, before.matrices[i], buffer.inputs, out=buffer.z))
        if model.norm != "none":
            forward.append(partial(_normalise, network, i, buffer.z, own_before))
        forward.append(activate(buffer.z, buffer.h))
        if model.dropout:
            forward.append(partial(torch.mul, buffer.h, buffer.mask, out=buffer.dropped))
    for i in range(len(layers) - 1, 0, -1):
        above = layers[i]
        buffer = layers[i - 1]
        factors = (above.slope, above.inputs_BD)
        if network.is_long[i]:
            factors = (above.inputs, above.slope_BH)
        backward.append(partial(product, *factors, out=after.by_rows[i]))
        backward.append(partial(product, before.turned[i], above.slope, out=buffer.slope))
        if model.dropout:
            backward.append(partial(buffer.slope.mul_, buffer.mask))
        backward.append(bend(buffer.slope, buffer.z, buffer.h))
        if model.norm != "none":
            views = (own_before, own_after)
            backward.append(partial(_normalise_backward, network, i - 1, buffer.slope, *views))
    program = _Program(load, forward, backward, before, after, layers, outputs, scratch, store)
    network.programs[slot, batch] = program
    return program


def _normalise(network: Network, i: int, z: Tensor, before: _Views) -> None:
    """Normalise z (units, B) in place.

    The network stores its normal form, before weight and bias, and 1 / deviation.
    """
    model = network.recipe.model
    by_row = model.norm == "layer"
    wide = z.to(network.stretch.dtype)
    variance, mean = torch.var_mean(wide, dim=-2 if by_row else -1, correction=0, keepdim=True)
    inverse = (variance + model.norm_eps).rsqrt_()
    normal = (wide - mean).mul_(inverse)
    torch.addcmul(before.shifts[i], normal, before.scales[i], out=z)
    if not by_row:
        share = model.norm_momentum
        rows = z.shape[-1]
        if model.norm_variance == "unbiased":
            variance = variance * (rows / (rows - 1))
        for running, of_batch in zip(network.statistics[f"norm{i + 1}"], (mean, variance)):
            running.mul_(1 - share).add_(of_batch[..., 0], alpha=share)
    network.normals[i] = normal, inverse


def _normalise_backward(
    network: Network, i: int, slope: Tensor, before: _Views, after: _Views
) -> None:
    """(g - mean(g) - y mean(g y)) / deviation, in place; y is the normal form, g the gradient by y.

    The gradients by weight and bias go into `after`.
    """
    normal, inverse = network.normals[i]
    axis = -2 if network.recipe.model.norm == "layer" else -1
    by_normal = slope.to(normal.dtype)
    torch.sum(by_normal * normal, -1, keepdim=True, out=after.scales[i])
    torch.sum(by_normal, -1, keepdim=True, out=after.shifts[i])
    by_normal.mul_(before.scales[i])
    mean = by_normal.mean(axis, keepdim=True)
    projection = (by_normal * normal).mean(axis, keepdim=True)
    by_normal.sub_(mean).addcmul_(normal, projection, value=-1)
    torch.mul(by_normal, inverse, out=slope)
