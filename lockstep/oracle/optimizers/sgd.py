"""Stochastic gradient descent, with momentum.

m <- momentum m + (1 - dampening) g, at the first update m <- g; parameter <- parameter - lr m. With
nesterov the step is along g + momentum m. Sources: Sutskever et al., ICML 2013; `torch.optim.SGD`
2.13, whose learning rate is outside the momentum.
"""

from lockstep.oracle.arithmetic import Array, Constant, Exact, Moments
from lockstep.recipe.optimizers.sgd import Sgd

__all__ = ["rule"]


def rule(
    optimizer: Sgd,
    lr: float,
    update: int,
    parameter: Array,
    gradient: Array,
    moments: Moments,
    exact: Exact,
) -> tuple[Array, Moments]:
    """The parameter after the update, and its momentum where there is one."""
    direction = gradient
    if optimizer.momentum:
        momentum = exact.constant("momentum", optimizer.momentum)
        if "momentum" in moments:
            share: Constant = 1.0
            if optimizer.dampening:
                share = exact.constant("1 - dampening", 1 - optimizer.dampening)
            direction = exact.round(momentum * moments["momentum"] + share * gradient)
        moments = {"momentum": direction}
        if optimizer.nesterov:
            direction = exact.round(gradient + momentum * direction)
    return exact.round(parameter - exact.round(lr * direction)), moments
