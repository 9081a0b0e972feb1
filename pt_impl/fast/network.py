"""The network of the fast engine: a batch's loss and gradients, in as few operations as the
framework allows.
"""

from collections.abc import Callable
from functools import partial
from math import prod
from typing import Any, NamedTuple

import torch

from lockstep.data_prep import PreparedData, layer_sizes
from lockstep.recipe import Huber, Loss, Recipe
from pt_impl.activations import ACTIVATIONS as FORWARD
from pt_impl.model import build_model

__all__ = ["ACTIVATIONS", "Network"]

Tensor = torch.Tensor
Statistics = dict[str, tuple[Tensor, Tensor]]
"""Normalisation -> its running mean and variance (units,)."""

SLOTS, ROOM = 32, 2**18
"""Updates in a stretch, and the parameters that there may be in all for each to keep its own. Of W1
stretches of 16 to 64 measure alike, and one of 128 takes 1.08 times as long: it touches more than a
core's own cache holds."""

ALIGNED = 16
"""Numbers to whose multiples a vector is filled up: the bits of a product depend on where its
factors begin.
"""

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
"""Activation -> what makes h of z; and what makes of a gradient by h the one by z, in place. Those
that are not here
go by `_activate` and `_bend`."""

IN_PLACE = ("relu", "tanh", "sigmoid")
"""Activations whose h, from which their slope is found, takes the place of z."""


def _activate(plain: Callable[[Tensor], Tensor], z: Tensor, h: Tensor) -> Call:
    """What makes h of z by the activation of the plain engine."""
    return lambda: h.copy_(plain(z))


def _bend(plain: Callable[[Tensor], Tensor], slope: Tensor, z: Tensor, h: Tensor) -> Call:
    """What makes of a gradient by h the one by z, by automatic differentiation of the plain
    engine's activation.
    """

    def bend() -> None:
        with torch.inference_mode(False):  # a clone made here may be differentiated by
            leaf, by_h = z.clone().requires_grad_(), slope.clone()
            with torch.enable_grad():
                (by_z,) = torch.autograd.grad(plain(leaf), leaf, by_h)
        slope.copy_(by_z)

    return bend


class _Slot(NamedTuple):
    """Where an update of a stretch has its parameters before it and after it, and its gradient: the
    numbers of their vectors in `Network.rows` and `gradient_rows`."""

    before: int
    after: int
    gradient: int


class _Views(NamedTuple):
    """Parts of one vector: of each linear layer its weight beside its bias (out, in + 1), the same
    the way its rows lie in memory, and its weight alone (in, out); of each normalisation its weight
    and bias (units, 1). All have a leading axis of members where the network has it."""

    matrices: tuple[Tensor, ...]
    by_rows: tuple[Tensor, ...]
    turned: tuple[Tensor, ...]
    scales: tuple[Tensor, ...]
    shifts: tuple[Tensor, ...]


class _Buffer(NamedTuple):
    """What a layer computes in, for batches of one size; its inputs (in + 1, B) have a row of ones
    for the bias.
    """

    inputs: Tensor
    inputs_BD: Tensor
    z: Tensor
    h: Tensor
    mask: Tensor
    dropped: Tensor  # h after dropout: the inputs of the following layer without the ones
    slope: Tensor  # the gradient by z
    slope_BH: Tensor


class _Buffers(NamedTuple):
    """Those of every layer, and what the outputs of each batch of a stretch are computed in."""

    layers: list[_Buffer]
    outputs: tuple[Tensor, ...]
    found: Tensor


class _Program(NamedTuple):
    """What is computed in one slot for batches of one size, apart from what depends on the batch.
    Where it is computed in another dtype, the parameters are loaded into it, and the gradients
    stored from it."""

    load: list[Call]
    forward: list[Call]  # from the first layer's z to the last one's inputs
    backward: list[Call]  # from the gradient by the outputs to the one by the first layer's z
    before: _Views
    after: _Views
    layers: list[_Buffer]
    outputs: tuple[Tensor, ...]
    found: Tensor
    store: list[Call]


class Network:
    """The recipe's model on activations (units, B), with its gradients by hand.

    Every parameter lies in one vector (n,), filled up with zeros. Of a small network the vectors
    before each update of a stretch follow one another in `stretch`, and so do the gradients in
    `gradient`: `keeps`. A larger one has two vectors, of which an update writes the one that it
    does not read, and one gradient. The first is that of `model`.

    Where the parameters of `data` have a leading axis of S members, all are trained at once: every
    array of a batch has that axis too, a layer of all members lies together in the vector, an
    update changes it in place, and there is no `model`.
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
        self.is_long = [_is_long(*self.places[name][1]) for name, _, _ in self.layers]
        self.used, size = size, -(-size // ALIGNED) * ALIGNED
        # of members it is the outputs that there must be room for
        many = (
            max(1, min(SLOTS, ROOM // (members * data.outputs * data.batch)))
            if self.lead
            else SLOTS
        )
        self.keeps = not self.lead and (SLOTS + 1) * size <= ROOM
        if self.lead:
            self.slots = [_Slot(0, 0, 0)] * many
        elif self.keeps:
            self.slots = [_Slot(i, i + 1, i) for i in range(many)]
        else:
            self.slots = [_Slot(i % 2, (i + 1) % 2, 0) for i in range(many)]
        dtype = getattr(torch, recipe.training.dtype)
        self.compute = dtype if recipe.training.compute == "same" else torch.bfloat16
        like = {"dtype": dtype, "device": device}
        rows, gradients = (
            1 + max(column)
            for column in ([s.after for s in self.slots], [s.gradient for s in self.slots])
        )
        self.stretch, self.gradient = (
            torch.zeros(rows, size, **like),
            torch.zeros(gradients, size, **like),
        )
        # of every batch of a stretch; what a smaller one leaves of its place counts for nothing
        self.outputs_TKB = torch.zeros(many, *self.lead, data.outputs, data.batch, **like)
        self.rows, self.gradient_rows = self.stretch.unbind(0), self.gradient.unbind(0)
        self.before, self.after = _views(self, self.stretch), _views(self, self.gradient)
        # parameters and gradient in the dtype that products are computed in, where it is another
        self.computed = (
            _views(self, self.stretch.new_zeros(2, size, dtype=self.compute))
            if self.compute != dtype
            else []
        )
        self.model: Any = (
            None if self.lead else build_model(recipe, data, device).requires_grad_(False).eval()
        )
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
        self.normals: dict[int, tuple[Tensor, Tensor]] = {}
        self.programs: dict[tuple[_Slot, int], _Program] = {}
        self.tensors: dict[int, dict[str, Tensor]] = {}
        # looked up once, not at every update
        self.product = torch.bmm if self.lead else torch.mm
        self.find_slope = partial(SLOPES[recipe.loss.spec.link], recipe.loss)

    def named(self, vector: Tensor) -> dict[str, Tensor]:
        """Canonical name -> its part of a vector of parameters, weights (in, out)."""
        found: dict[str, Tensor] = {}
        for name, (begin, (rows, columns)) in self.places.items():
            if name.startswith("norm"):
                matrix = vector[begin : begin + prod(self.lead) * rows * columns].view(
                    *self.lead, rows, columns
                )
                found |= {f"{name}.weight": matrix[..., 0, :], f"{name}.bias": matrix[..., 1, :]}
                continue
            (matrix,) = _matrices(self, name, vector[None])
            # [out, in] -> [in, out]
            found[f"{name}.weight"] = matrix[..., : columns - self.ones].mT
            if self.ones:
                found[f"{name}.bias"] = matrix[..., -1]
        return found

    def gradients(self, slot: _Slot, batch: Any, place: int) -> None:
        """The gradient of a batch's share of the loss, into the slot; the outputs, in the buffer of
        that place.
        """
        program = self.programs.get((slot, batch.used)) or _program(self, slot, batch.used)
        load, forward, backward, before, after, layers, outputs, found, store = program
        product, x_DB, x_BD, first, last = (
            self.product,
            batch.x_DB,
            batch.x_BD,
            layers[0],
            layers[-1],
        )
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
            self.find_slope(outputs[place], batch, found, found)
            last.slope.copy_(found)
        else:
            self.find_slope(
                product(before.matrices[-1], h, out=outputs[place]), batch, found, last.slope
            )
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
        if self.model is not None:
            found: dict[str, Tensor] = self.model.outputs(x_ND)
            return found
        return _member_outputs(self, x_ND)


def _member_outputs(network: Network, x_ND: Tensor) -> dict[str, Tensor]:
    """Layer -> its output (S, N, units) in evaluation."""
    model, parts, h = network.recipe.model, network.named(network.rows[0]), x_ND.t()
    found = {"input": x_ND}
    for i, (name, _, _) in enumerate(network.layers, start=1):
        h = parts[f"{name}.weight"].mT.to(network.compute) @ h.to(network.compute)
        if network.ones:
            h = h + parts[f"{name}.bias"][..., None].to(network.compute)
        found[name] = h.mT
        if i == len(network.layers):
            found[name] = h.mT.to(x_ND.dtype)
            break
        if model.norm != "none":
            h = h.to(x_ND.dtype)
            mean, variance = network.statistics.get(f"norm{i}") or (
                h.mean(dim=-2),
                h.var(dim=-2, correction=0),
            )
            axis = -1 if model.norm == "batch" else -2
            h = (h - mean.unsqueeze(axis)) * (variance.unsqueeze(axis) + model.norm_eps).rsqrt()
            h = (h * parts[f"norm{i}.weight"][..., None] + parts[f"norm{i}.bias"][..., None]).to(
                network.compute
            )
            found[f"norm{i}"] = h.mT
        h = FORWARD[model.activation](h)
        found[f"{model.activation}{i}"] = h.mT
    return found


def _matrices(network: Network, name: str, vectors: Tensor) -> Tensor:
    """A layer's weight beside its bias (V, out, in + 1), in vectors of parameters (V, n)."""
    begin, (rows, columns) = network.places[name]
    flat, lead = (
        vectors[:, begin : begin + prod(network.lead) * rows * columns],
        (len(vectors), *network.lead),
    )
    if _is_long(rows, columns):
        return flat.view(*lead, columns, rows).mT
    return flat.view(*lead, rows, columns)


def _is_long(rows: int, columns: int) -> bool:
    # small products are faster into long rows: 2 times for (50, 11), of many members 3 times
    return rows > columns


def _views(network: Network, vectors: Tensor) -> list[_Views]:
    """Those of each vector (V, n)."""
    kinds: list[list[tuple[Tensor, ...]]] = [[], [], []]
    for (name, inputs, _), is_long in zip(network.layers, network.is_long):
        matrices = _matrices(network, name, vectors)
        for kind, views in zip(
            kinds, (matrices, matrices.mT if is_long else matrices, matrices[..., :inputs].mT)
        ):
            kind.append(views.unbind(0))
    norms = [name for name in network.places if name.startswith("norm")]
    parts = [network.named(vector) for vector in vectors] if norms else [{} for _ in vectors]
    columns = [
        tuple(tuple(part[f"{name}.{kind}"][..., None] for name in norms) for part in parts)
        for kind in ("weight", "bias")
    ]
    return [_Views(*of_vector) for of_vector in zip(*(zip(*kind) for kind in kinds), *columns)]


def _buffers(network: Network, batch: int) -> _Buffers:
    if batch not in network.buffers:
        new, lead, model = (
            partial(network.stretch.new_empty, dtype=network.compute),
            network.lead,
            network.recipe.model,
        )
        layers: list[_Buffer] = []
        inputs = new(0)
        for _, _, units in network.layers:
            shape = (*lead, units, batch)
            following = new(*lead, units + network.ones, batch).fill_(1)
            dropped, slope, mask = (
                following[..., :units, :],
                new(shape),
                network.stretch.new_empty(shape),
            )
            h = new(shape) if model.dropout else dropped
            z = h if model.activation in IN_PLACE else new(shape)
            turned = inputs.mT if layers else inputs
            layers.append(_Buffer(inputs, turned, z, h, mask, dropped, slope, slope.mT))
            inputs = following
        outputs = network.outputs_TKB[..., :batch].unbind(0)
        network.buffers[batch] = _Buffers(layers, outputs, torch.empty_like(mask))
    return network.buffers[batch]


def _program(network: Network, slot: _Slot, batch: int) -> _Program:
    model, product = network.recipe.model, network.product
    # normalisation is always in the parameters' dtype
    own_before, own_after = network.before[slot.before], network.after[slot.gradient]
    before, after = network.computed or (own_before, own_after)
    layers, outputs, found = _buffers(network, batch)
    plain = FORWARD[model.activation]
    activate, bend = ACTIVATIONS.get(
        model.activation, (partial(_activate, plain), partial(_bend, plain))
    )
    load: list[Call] = []
    forward: list[Call] = []
    backward: list[Call] = []
    store: list[Call] = []
    if network.computed:
        load += [partial(to.copy_, own) for to, own in zip(before.by_rows, own_before.by_rows)]
        store += [
            partial(own.copy_, computed) for own, computed in zip(own_after.by_rows, after.by_rows)
        ]
    for i, buffer in enumerate(layers[:-1]):
        if i:
            forward.append(partial(product, before.matrices[i], buffer.inputs, out=buffer.z))
        if model.norm != "none":
            forward.append(partial(_normalise, network, i, buffer.z, own_before))
        forward.append(activate(buffer.z, buffer.h))
        if model.dropout:
            forward.append(partial(torch.mul, buffer.h, buffer.mask, out=buffer.dropped))
    for i in range(len(layers) - 1, 0, -1):
        above, buffer = layers[i], layers[i - 1]
        factors = (
            (above.inputs, above.slope_BH) if network.is_long[i] else (above.slope, above.inputs_BD)
        )
        backward.append(partial(product, *factors, out=after.by_rows[i]))
        backward.append(partial(product, before.turned[i], above.slope, out=buffer.slope))
        if model.dropout:
            backward.append(partial(buffer.slope.mul_, buffer.mask))
        backward.append(bend(buffer.slope, buffer.z, buffer.h))
        if model.norm != "none":
            backward.append(
                partial(_normalise_backward, network, i - 1, buffer.slope, own_before, own_after)
            )
    program = _Program(load, forward, backward, before, after, layers, outputs, found, store)
    network.programs[slot, batch] = program
    return program


def _slope_of_classes(
    loss: Loss, outputs_KB: Tensor, batch: Any, found: Tensor, out: Tensor
) -> None:
    torch.softmax(outputs_KB, -2, out=found)
    torch.addcmul(batch.shift_KB, found, batch.scale_1B, out=out)


def _slope_of_two_classes(
    loss: Loss, outputs_1B: Tensor, batch: Any, found: Tensor, out: Tensor
) -> None:
    torch.sigmoid(outputs_1B, out=found)
    torch.addcmul(batch.shift_KB, found, batch.scale_1B, out=out)


def _slope_of_number(
    loss: Loss, outputs_1B: Tensor, batch: Any, found: Tensor, out: Tensor
) -> None:
    torch.sub(outputs_1B, batch.y_B.unsqueeze(-2), out=out)
    if isinstance(loss, Huber):
        out.clamp_(-loss.delta, loss.delta)
    out.mul_(batch.scale_1B)


SLOPES: dict[str, Callable[[Loss, Tensor, Any, Tensor, Tensor], None]] = {
    "softmax": _slope_of_classes,
    "sigmoid": _slope_of_two_classes,
    "": _slope_of_number,
}
"""Link of the loss -> the gradient of the batch's share of it by the outputs; see
`fast_batches.Batch`.
"""


def _normalise(network: Network, i: int, z: Tensor, before: _Views) -> None:
    """z (units, B) normalised in place; its normal form, before weight and bias, and 1 / deviation
    are kept.
    """
    model, by_row, wide = (
        network.recipe.model,
        network.recipe.model.norm == "layer",
        z.to(network.stretch.dtype),
    )
    variance, mean = torch.var_mean(wide, dim=-2 if by_row else -1, correction=0, keepdim=True)
    inverse = (variance + model.norm_eps).rsqrt_()
    normal = (wide - mean).mul_(inverse)
    torch.addcmul(before.shifts[i], normal, before.scales[i], out=z)
    if not by_row:
        share, rows = model.norm_momentum, z.shape[-1]
        if model.norm_variance == "unbiased":
            variance = variance * (rows / (rows - 1))
        for kept, seen in zip(network.statistics[f"norm{i + 1}"], (mean, variance)):
            kept.mul_(1 - share).add_(seen[..., 0], alpha=share)
    network.normals[i] = normal, inverse


def _normalise_backward(
    network: Network, i: int, slope: Tensor, before: _Views, after: _Views
) -> None:
    """With y the normal form and g the gradient by it: (g - mean(g) - y mean(g y)) / deviation, in
    place.
    """
    (normal, inverse), axis = network.normals[i], -2 if network.recipe.model.norm == "layer" else -1
    by_normal = slope.to(normal.dtype)
    torch.sum(by_normal * normal, -1, keepdim=True, out=after.scales[i])
    torch.sum(by_normal, -1, keepdim=True, out=after.shifts[i])
    by_normal.mul_(before.scales[i])
    mean, projection = (
        by_normal.mean(axis, keepdim=True),
        (by_normal * normal).mean(axis, keepdim=True),
    )
    by_normal.sub_(mean).addcmul_(normal, projection, value=-1)
    torch.mul(by_normal, inverse, out=slope)
