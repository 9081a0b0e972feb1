"""One update of the fast engine: from a gradient to the next state."""

from collections.abc import Callable
from math import prod
from typing import Any

import torch

from lockstep.recipe import Gradient, Optimizer, Recipe
from lockstep.schedules.rate_tables import DECOUPLED, is_weight

__all__ = ["make_step", "start_moments"]

Tensor = torch.Tensor
Moments = dict[str, Tensor]
Rate = Any
"""A number, or one for each parameter (n,)."""
Step = tuple[Tensor, Tensor | None, float]
"""A step is the first over the second (None: 1), times the third, times the rate."""


def start_moments(recipe: Recipe, parameters: Tensor) -> Moments:
    """What the optimizer remembers, before the first update: of every parameter (n,), or one number for all.

    What Adafactor remembers of the rows and columns of a weight joins it in the first update, by slot and name.
    """
    optimizer = recipe.optimizer
    used = {
        "momentum": bool(optimizer.momentum) or optimizer.name == "muon",
        "first": optimizer.name != "rmsprop" or optimizer.centered,
        "largest_second": optimizer.amsgrad in ("raw", "corrected"),
    }
    names = SLOTS.get(optimizer.name, ("first", "second", "largest_second"))
    moments = {name: torch.zeros_like(parameters) for name in names if used.get(name, True)}
    if optimizer.name == "adagrad":
        moments["second"] += optimizer.initial_accumulator
    if optimizer.momentum_ramp:
        moments["momentum_product"] = torch.ones((), dtype=torch.float64)
    return moments


def make_step(recipe: Recipe) -> Any:
    """(state, slot): the parameters after the update of the slot, from those before it; in place."""
    optimizer, gradients = recipe.optimizer, recipe.gradient
    rule, decay = RULES[optimizer.name], optimizer.weight_decay or 0.0
    by_tensor, decays_before = optimizer.name in BY_TENSOR, bool(decay) and optimizer.name not in DECOUPLED
    # that of LAMB is a part of the step whose length it sets
    decays_after = bool(decay) and not decays_before and optimizer.name != "lamb"
    by_factor = optimizer.decay_form == "factor" or optimizer.name in ("adafactor", "muon")
    # in one pass over the vectors, where it is this Adam that PyTorch has so
    is_fused = optimizer.name in ("adam", "adamw") and optimizer.amsgrad in ("off", "raw")
    is_fused = is_fused and not optimizer.eps_in_root and (by_factor or not decays_after)
    # what has its rate in it already
    with_rate = optimizer.name in ("rprop", "adafactor") or (optimizer.momentum and optimizer.rate_in_momentum)

    def move(state: Any, rate: Rate, before: Tensor, after: Tensor, gradient: Tensor) -> None:
        work, parts = state.work, (state, before) if by_tensor else ()
        step, root, scale = rule(optimizer, state.done[0], rate, gradient, state.moments, work[1], *parts)
        if decays_after and by_factor:
            before = torch.mul(before, _factor(rate, decay, state.decayed, before), out=work[2])
        elif decays_after:
            step = step if root is None else torch.div(step, root, out=work[1])
            step, root = _plus(step, before, decay / scale, state.decayed, work[2]), None
        rate = 1.0 if with_rate else rate
        if not isinstance(rate, float):
            step = step if root is None else torch.div(step, root, out=work[1])
            torch.addcmul(before, step, rate, value=-scale, out=after)
        elif root is None:
            torch.add(before, step, alpha=-rate * scale, out=after)
        else:
            torch.addcdiv(before, step, root, value=-rate * scale, out=after)

    def apply(state: Any, slot: Any) -> None:
        network, update, work = state.network, state.done[0], state.work
        before, after, gradient = (
            network.rows[slot.before],
            network.rows[slot.after],
            network.gradient_rows[slot.gradient],
        )
        rate = state.rates[update] if state.layers is None else state.rates[update][state.layers]
        if gradients.clip == "norm":
            gradient = _clip_norm(gradients, network, gradient, work[0])
        elif gradients.clip == "value":
            gradient = torch.clamp(gradient, -gradients.clip_at, gradients.clip_at, out=work[0])
        if decays_before:
            gradient = _plus(gradient, before, decay, state.decayed, work[0])
        if is_fused and state.layers is None:
            _fused_adam(optimizer, rate, decay if decays_after else 0.0, state, before, after, gradient)
        else:
            move(state, rate, before, after, gradient)
        if state.average is not None:
            state.average.lerp_(after, 1 - recipe.average.decay)
        state.done[0] = update + 1

    return apply


def _clip_norm(gradients: Gradient, network: Any, gradient: Tensor, out: Tensor) -> Tensor:
    """A gradient with a norm of at most `clip_at`; of members each by its own."""
    parts = [(gradient[None], out[None])]
    if network.lead:
        # of each layer what the members have (S, parameters)
        places = [slice(begin, begin + prod((*network.lead, *shape))) for begin, shape in network.places.values()]
        parts = [(gradient[place].view(*network.lead, -1), out[place].view(*network.lead, -1)) for place in places]
    norms = [torch.linalg.vector_norm(part, dim=1, keepdim=True) for part, _ in parts]
    norm_S1 = norms[0] if len(norms) == 1 else torch.stack(norms).norm(dim=0)
    factor_S1 = (gradients.clip_at / (norm_S1 + gradients.clip_eps)).clamp_(max=1.0)
    for part, clipped in parts:
        torch.mul(part, factor_S1, out=clipped)
    return out


def _plus(vector: Tensor, parameters: Tensor, decay: float, decayed: Tensor | None, out: Tensor) -> Tensor:
    """vector + decay parameters, of those that decay (None: all)."""
    if decayed is None:
        return torch.add(vector, parameters, alpha=decay, out=out)
    return torch.addcmul(vector, parameters, decayed, value=decay, out=out)


def _factor(rate: Rate, decay: float, decayed: Tensor | None, like: Tensor) -> Any:
    """1 - rate decay, in float64 and rounded once."""
    if decayed is None and isinstance(rate, float):
        return 1 - rate * decay
    which = torch.ones_like(like) if decayed is None else decayed
    return (1 - torch.as_tensor(rate, dtype=torch.float64) * decay * which.double()).to(like.dtype)


def _fused_adam(
    optimizer: Optimizer, rate: float, decay: float, state: Any, before: Tensor, after: Tensor, g: Tensor
) -> None:
    """The whole update of Adam, by the kernel of `torch.optim.AdamW(fused=True)`, PyTorch 2.13."""
    moments, counter = state.moments, state.counter.fill_(state.done[0] + 1)
    largest = [moments["largest_second"]] if optimizer.amsgrad == "raw" else []
    if decay and state.decayed is not None:
        torch.mul(before, _factor(rate, decay, state.decayed, before), out=after)
        decay = 0.0
    else:
        after.copy_(before)
    torch._fused_adamw_(
        [after], [g], [moments["first"]], [moments["second"]], largest, [counter],
        lr=rate, beta1=optimizer.beta1, beta2=optimizer.beta2, weight_decay=decay, eps=optimizer.eps,
        amsgrad=bool(largest), maximize=False,
    )  # fmt: skip


def _sgd(optimizer: Optimizer, update: int, rate: Rate, g: Tensor, moments: Moments, work: Tensor) -> Step:
    if not optimizer.momentum:
        return g, None, 1.0
    momentum = moments["momentum"]
    if update == 0:
        momentum.copy_(g)
    elif optimizer.dampening:
        momentum.mul_(optimizer.momentum).add_(g, alpha=1 - optimizer.dampening)
    else:
        torch.add(g, momentum, alpha=optimizer.momentum, out=momentum)
    if optimizer.nesterov:
        return torch.add(g, momentum, alpha=optimizer.momentum, out=work), None, 1.0
    return momentum, None, 1.0


def _adam(optimizer: Optimizer, update: int, rate: Rate, g: Tensor, moments: Moments, work: Tensor) -> Step:
    first, second, bias1, bias2 = _two_moments(optimizer, update, g, moments)
    if optimizer.amsgrad == "raw":
        second = torch.maximum(moments["largest_second"], second, out=moments["largest_second"])
    elif optimizer.amsgrad == "corrected":
        largest = moments["largest_second"]
        second, bias2 = torch.maximum(largest, torch.div(second, bias2, out=work), out=largest), 1.0
    # a factor of the root goes into the scale
    if optimizer.eps_in_root:
        return first, torch.add(second, optimizer.eps * bias2, out=work).sqrt_(), bias2**0.5 / bias1
    return first, torch.sqrt(second, out=work).add_(optimizer.eps * bias2**0.5), bias2**0.5 / bias1


def _nadam(optimizer: Optimizer, update: int, rate: Rate, g: Tensor, moments: Moments, work: Tensor) -> Step:
    first, second, _, bias2 = _two_moments(optimizer, update, g, moments)
    times = (update + 1, update + 2)
    ramps = [1 - 0.5 * 0.96 ** (t * optimizer.momentum_decay) if optimizer.momentum_ramp else 1.0 for t in times]
    now, following = (optimizer.beta1 * ramp for ramp in ramps)
    product = now ** (update + 1)
    if optimizer.momentum_ramp:
        product = moments["momentum_product"].mul_(now).item()
    ahead = following / (1 - product * following) * first + (1 - now) / (1 - product) * g
    return ahead, torch.sqrt(second, out=work).add_(optimizer.eps * bias2**0.5), bias2**0.5


def _radam(optimizer: Optimizer, update: int, rate: Rate, g: Tensor, moments: Moments, work: Tensor) -> Step:
    first, second, bias1, bias2 = _two_moments(optimizer, update, g, moments)
    t, longest = update + 1, 2 / (1 - optimizer.beta2) - 1
    length = longest - 2 * t * optimizer.beta2**t / bias2
    if length <= 5:
        return first, None, 1 / bias1
    shrunk = ((length - 4) * (length - 2) * longest / ((longest - 4) * (longest - 2) * length)) ** 0.5
    eps = optimizer.eps * bias2**0.5 if optimizer.eps_corrected else optimizer.eps
    return first, torch.sqrt(second, out=work).add_(eps), shrunk * bias2**0.5 / bias1


def _adamax(optimizer: Optimizer, update: int, rate: Rate, g: Tensor, moments: Moments, work: Tensor) -> Step:
    first, infinity = moments["first"].lerp_(g, 1 - optimizer.beta1), moments["infinity"].mul_(optimizer.beta2)
    torch.maximum(infinity, torch.abs(g, out=work).add_(optimizer.eps), out=infinity)
    return first, infinity, 1 / (1 - optimizer.beta1 ** (update + 1))


def _lion(optimizer: Optimizer, update: int, rate: Rate, g: Tensor, moments: Moments, work: Tensor) -> Step:
    first = moments["first"]
    sign = torch.mul(first, optimizer.beta1, out=work).add_(g, alpha=1 - optimizer.beta1).sign_()
    first.mul_(optimizer.beta2).add_(g, alpha=1 - optimizer.beta2)
    return sign, None, 1.0


def _adagrad(optimizer: Optimizer, update: int, rate: Rate, g: Tensor, moments: Moments, work: Tensor) -> Step:
    root = _root(optimizer, moments["second"].addcmul_(g, g), work)
    return g, root, 1 / (1 + update * optimizer.lr_decay)


def _rmsprop(optimizer: Optimizer, update: int, rate: Rate, g: Tensor, moments: Moments, work: Tensor) -> Step:
    variance = moments["second"].mul_(optimizer.decay).addcmul_(g, g, value=1 - optimizer.decay)
    if optimizer.centered:
        first = moments["first"].lerp_(g, 1 - optimizer.decay)
        variance = torch.addcmul(variance, first, first, value=-1, out=work)
    root = _root(optimizer, variance, work)
    if not optimizer.momentum:
        return g, root, 1.0
    step = torch.div(g, root, out=work)
    if optimizer.rate_in_momentum:
        step.mul_(rate)
    return moments["momentum"].mul_(optimizer.momentum).add_(step), None, 1.0


def _adadelta(optimizer: Optimizer, update: int, rate: Rate, g: Tensor, moments: Moments, work: Tensor) -> Step:
    second = moments["second"].mul_(optimizer.decay).addcmul_(g, g, value=1 - optimizer.decay)
    steps = moments["update_second"]
    step = torch.add(steps, optimizer.eps, out=work).sqrt_().div_((second + optimizer.eps).sqrt_()).mul_(g)
    steps.mul_(optimizer.decay).addcmul_(step, step, value=1 - optimizer.decay)
    return step, None, 1.0


def _rprop(optimizer: Optimizer, update: int, rate: Rate, g: Tensor, moments: Moments, work: Tensor) -> Step:
    size, previous = moments["step_size"], moments["previous"]
    if update == 0:
        size.fill_(1.0).mul_(rate)
    agreement = torch.mul(g, previous, out=work)
    turned = agreement < 0
    factor = torch.where(turned, optimizer.shrink, torch.ones_like(g))
    size.mul_(torch.where(agreement > 0, optimizer.grow, factor)).clamp_(optimizer.step_min, optimizer.step_max)
    torch.where(turned, torch.zeros_like(g), g, out=previous)
    return torch.sign(previous, out=work).mul_(size), None, 1.0


def _lamb(
    optimizer: Optimizer, update: int, rate: Rate, g: Tensor, moments: Moments, work: Tensor, state: Any, before: Tensor
) -> Step:
    first, root, scale = _adam(optimizer, update, rate, g, moments, work)
    assert root is not None  # Adam's
    direction = torch.div(first, root, out=work)
    if optimizer.weight_decay:
        _plus(direction, before, optimizer.weight_decay / scale, state.decayed, direction)
    for name, part in _tensors(state.network, direction).items():
        long, wide = _norm(_tensors(state.network, before)[name]), _norm(part) * scale
        part.mul_(torch.where((long > 0) & (wide > 0), long / wide, 1.0))
    return direction, None, scale


def _adafactor(
    optimizer: Optimizer, update: int, rate: Rate, g: Tensor, moments: Moments, work: Tensor, state: Any, before: Tensor
) -> Step:
    share, second = (update + 1) ** -optimizer.decay_power, moments["second"]
    added, least = (optimizer.eps, 0.0) if optimizer.eps_in_root else (0.0, optimizer.eps)
    square = torch.mul(g, g, out=work).add_(added)
    second.lerp_(square, share)
    for name, part in _tensors(state.network, square).items():
        if not is_weight(name) or min(part.shape[-2:]) < optimizer.min_factored:
            continue
        # in the place of the whole second moment, which nobody reads of such a weight
        row, column = (_moved(moments, f"{slot}/{name}", part.mean(axis, keepdim=True), share)
                       for slot, axis in (("row", -1), ("column", -2)))  # fmt: skip
        torch.mul(row / row.mean(-2, keepdim=True).clamp(min=least), column, out=_tensors(state.network, second)[name])
    direction = torch.div(g, torch.clamp(second, min=least**2, out=work).sqrt_(), out=work)
    direction[state.network.used :].zero_()  # what fills up the vectors may be 0 / 0
    if optimizer.rate_cap:
        most = (update + 1) ** -0.5
        rate = min(rate, most) if isinstance(rate, float) else rate.clamp(max=most)
    for name, part in _tensors(state.network, direction).items():
        long, wide = _rms(_tensors(state.network, before)[name]), _rms(part)
        part.mul_(long.clamp_(min=optimizer.eps_scale) / (wide / optimizer.clip_threshold).clamp_(min=1.0))
    return direction.mul_(rate), None, 1.0


def _muon(
    optimizer: Optimizer, update: int, rate: Rate, g: Tensor, moments: Moments, work: Tensor, state: Any, before: Tensor
) -> Step:
    first, second, _, bias2 = _two_moments(optimizer, update, g, moments)
    root = torch.sqrt(second, out=work).add_(optimizer.eps * bias2**0.5)
    ahead = _ahead(optimizer.beta1, optimizer.nesterov_rest, True, update, g, first)
    step = torch.div(ahead, root, out=work).mul_(bias2**0.5)
    momentum = moments["momentum"].lerp_(g, 1 - optimizer.momentum)
    for name, part in _tensors(state.network, step).items():
        if is_weight(name):
            ahead = _ahead(
                optimizer.momentum,
                optimizer.nesterov,
                optimizer.momentum_correction,
                update,
                _tensors(state.network, g)[name],
                _tensors(state.network, momentum)[name],
            )
            inputs, outputs = part.shape[-2:]
            scale = max(1.0, outputs / inputs) ** 0.5
            if optimizer.adjust == "match_rms_adamw":
                scale = 0.2 * max(outputs, inputs) ** 0.5
            torch.mul(_orthogonalised(optimizer, ahead), scale, out=part)
    return step, None, 1.0


def _ahead(beta: float, looks: bool, corrects: bool, update: int, g: Tensor, average: Tensor) -> Tensor:
    """What is stepped along: a moving average, or its next value for the same gradient."""
    bias, next_bias = (1 - beta ** (update + t) if corrects else 1.0 for t in (1, 2))
    if not looks:
        return average / bias
    return torch.add(average * (beta / next_bias), g, alpha=(1 - beta) / bias)


def _orthogonalised(optimizer: Optimizer, weight: Tensor) -> Tensor:
    """Newton-Schulz iterations on a weight over its norm; coefficients: Jordan, Muon, 2024."""
    norm, plus = _norm(weight), torch.baddbmm if weight.ndim == 3 else torch.addmm
    x = weight / (norm + optimizer.eps_norm if optimizer.eps_norm_added else norm.clamp(min=optimizer.eps_norm))
    is_tall = x.shape[-2] > x.shape[-1]
    x = x.mT if is_tall else x
    for _ in range(optimizer.orthogonalisations):
        gram = x @ x.mT
        x = plus(x, plus(gram, gram, gram, beta=-4.7750, alpha=2.0315), x, beta=3.4445)
    return x.mT if is_tall else x


def _tensors(network: Any, vector: Tensor) -> dict[str, Tensor]:
    """Canonical name -> its part of a vector that lives as long as the network, as (rows, columns); of a bias one
    row."""
    place = vector.data_ptr()
    if place not in network.tensors:
        parts, axes = network.named(vector), 2 + len(network.lead)
        network.tensors[place] = {
            name: part if part.ndim == axes else part.unsqueeze(-2) for name, part in parts.items()
        }
    found: dict[str, Tensor] = network.tensors[place]
    return found


def _moved(moments: Moments, name: str, value: Tensor, share: float) -> Tensor:
    """A moving average, which the first value begins."""
    moments[name] = moments[name].lerp_(value, share) if name in moments else value
    return moments[name]


def _norm(part: Tensor) -> Tensor:
    found: Tensor = torch.linalg.vector_norm(part, dim=(-2, -1), keepdim=True)
    return found


def _rms(part: Tensor) -> Tensor:
    return _norm(part).div_((part.shape[-2] * part.shape[-1]) ** 0.5)


def _two_moments(optimizer: Optimizer, update: int, g: Tensor, moments: Moments) -> tuple[Tensor, Tensor, float, float]:
    """Moving averages of the gradient and of its square, and what they lack for having begun at 0."""
    first = moments["first"].lerp_(g, 1 - optimizer.beta1)
    second = moments["second"].mul_(optimizer.beta2).addcmul_(g, g, value=1 - optimizer.beta2)
    return first, second, 1 - optimizer.beta1 ** (update + 1), 1 - optimizer.beta2 ** (update + 1)


def _root(optimizer: Optimizer, second: Tensor, work: Tensor) -> Tensor:
    if optimizer.eps_in_root:
        return torch.add(second, optimizer.eps, out=work).sqrt_()
    return torch.sqrt(second, out=work).add_(optimizer.eps)


SLOTS = {
    "sgd": ("momentum",),
    "adamax": ("first", "infinity"),
    "lion": ("first",),
    "adagrad": ("second",),
    "rmsprop": ("second", "first", "momentum"),
    "adadelta": ("second", "update_second"),
    "rprop": ("previous", "step_size"),
    "adafactor": ("second",),
    "muon": ("first", "second", "momentum"),
}
"""What an optimizer may remember where it is not both moments and the largest second one."""

RULES: dict[str, Callable[..., Any]] = {
    "sgd": _sgd,
    "adam": _adam,
    "adamw": _adam,
    "nadam": _nadam,
    "nadamw": _nadam,
    "radam": _radam,
    "adamax": _adamax,
    "lion": _lion,
    "adagrad": _adagrad,
    "rmsprop": _rmsprop,
    "adadelta": _adadelta,
    "rprop": _rprop,
    "lamb": _lamb,
    "adafactor": _adafactor,
    "muon": _muon,
}
"""Optimizer -> (optimizer, update, rate, gradient, moments, room for a vector) -> its step; the formulas are those of
`lockstep.oracle`."""

BY_TENSOR = frozenset({"lamb", "adafactor", "muon"})
"""Optimizers that treat each tensor as a whole: their rules also take the state and the parameters."""
