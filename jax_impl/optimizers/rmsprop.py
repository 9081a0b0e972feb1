"""RMSprop: the library's where it has the knobs, else by its rule."""

import optax

from jax_impl.optimizers.from_rule import Groups
from lockstep.recipe.optimizers.rmsprop import RMSprop

__all__ = ["make"]


def make(optimizer: RMSprop, groups: Groups) -> optax.GradientTransformation:
    """The parts of `optax.rmsprop`, with the learning rate before or after the momentum."""
    scale = optax.scale_by_stddev if optimizer.centered else optax.scale_by_rms
    scaled = scale(
        decay=optimizer.decay,
        eps=optimizer.eps,
        initial_scale=0.0,
        eps_in_sqrt=optimizer.eps_in_root,
        bias_correction=False,
    )
    rate = optax.scale_by_learning_rate(groups.schedule)
    if not optimizer.momentum:
        return optax.chain(scaled, rate)
    trace = optax.trace(optimizer.momentum, nesterov=False, accumulator_dtype=None)
    if not optimizer.rate_in_momentum:
        return optax.chain(scaled, trace, rate)
    # the sign is flipped after the momentum, which then has the same sign in both twins
    rate = optax.scale_by_learning_rate(groups.schedule, flip_sign=False)
    return optax.chain(scaled, rate, trace, optax.scale(-1.0))
