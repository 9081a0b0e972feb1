"""The faults of `lockstep.studies.prove.library_faults`, planted in the framework by their keys.

They are planted before this twin is imported.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.nnx  # noqa: F401 - faults patch it
import jax
import jax.numpy as jnp
import optax

from lockstep.studies.prove.library_faults import LIBRARY_FAULTS
from lockstep.studies.prove.library_patches import Change, called_with, patch_library, result

__all__ = ["PLANTS", "hasten", "plant"]

SLIGHTLY = 1 + 1e-6


def plant(key: str) -> None:
    """Plant a fault in the libraries, for as long as this process lives."""
    patch_library(LIBRARY_FAULTS[key].function, PLANTS[key])


def hasten() -> None:
    """Compile without optimisations, in a third of the time, for as long as this process lives."""
    jax.config.update("jax_disable_most_optimizations", True)
    jax.jit = partial(jax.jit, compiler_options={"xla_cpu_use_fusion_emitters": False})


def _slightly(tree: Any) -> Any:
    """The tree with every number slightly too large."""
    return jax.tree.map(lambda number: number * SLIGHTLY, tree)


def _in_float32(original: Any) -> Any:
    """The function, computed in float32."""

    def computed(*arguments: Any, **named: Any) -> Any:
        output = original(*map(_low, arguments), **named)
        is_wide = any(map(_is_wide, arguments))
        return output.astype(jnp.float64) if is_wide and _is_float(output) else output

    return computed


def _is_float(value: Any) -> bool:
    return isinstance(value, jax.Array) and bool(jnp.issubdtype(value.dtype, jnp.floating))


def _is_wide(value: Any) -> bool:
    return isinstance(value, jax.Array) and value.dtype == jnp.float64


def _low(value: Any) -> Any:
    return value.astype(jnp.float32) if _is_wide(value) else value


def _rounded(array: Any) -> Any:
    return array.astype(jnp.float32).astype(array.dtype) if _is_wide(array) else array


def _steps(change: Callable[[Any], Any]) -> Change:
    """A transformation whose steps are changed."""

    def changed(original: Any) -> Any:
        def make(*arguments: Any, **named: Any) -> Any:
            transformation = original(*arguments, **named)

            def update(gradients: Any, state: Any, parameters: Any = None, **more: Any) -> Any:
                steps, after = transformation.update(gradients, state, parameters, **more)
                return change(steps), after

            return optax.GradientTransformation(transformation.init, update)

        return make

    return changed


def _at(shift: Callable[[Any], Any]) -> Change:
    """`optax.scale_by_schedule` at another update."""
    return lambda original: lambda schedule: original(lambda count: schedule(shift(count)))


def _alike(original: Any) -> Any:
    """The first transformation for all parameters."""
    return lambda transforms, labels: original(
        transforms, jax.tree.map(lambda _: min(transforms), labels)
    )


def _larger_steps(original: Any) -> Any:
    return lambda parameters, steps: original(parameters, _slightly(steps))


def _low_steps(original: Any) -> Any:
    """Updates applied in float32."""

    def apply_updates(parameters: Any, steps: Any) -> Any:
        applied = original(jax.tree.map(_low, parameters), jax.tree.map(_low, steps))
        return jax.tree.map(lambda new, old: new.astype(old.dtype), applied, parameters)

    return apply_updates


def _each_clipped(original: Any) -> Any:
    """Each tensor by its own norm."""

    def clip_by_global_norm(max_norm: float) -> Any:
        clipper = original(max_norm)

        def clipped(gradient: Any) -> Any:
            tensor, _ = clipper.update(gradient, optax.EmptyState())
            return tensor

        return optax.stateless(lambda gradients, _: jax.tree.map(clipped, gradients))

    return clip_by_global_norm


def _gradients(change: Callable[[Any], Any]) -> Change:
    """`jax.value_and_grad` with other gradients."""

    def changed(original: Any) -> Any:
        def value_and_grad(*arguments: Any, **named: Any) -> Any:
            function = original(*arguments, **named)

            def both(*inner: Any) -> Any:
                value, gradients = function(*inner)
                return value, change(gradients)

            return both

        return value_and_grad

    return changed


def _biasless(original: Any) -> Any:
    return lambda layer, x_BD, *rest: original(layer, x_BD, *rest) - layer.bias[...]


def _rows_in_float32(original: Any) -> Any:
    return lambda layer, x_BD, *rest: original(
        layer, x_BD.astype(jnp.float32).astype(x_BD.dtype), *rest
    )


def _leaky(original: Any) -> Any:
    return lambda z: jnp.maximum(z, 1e-6 * z)


def _smoothed(original: Any) -> Any:
    """Cross entropy with a label smoothing of 1e-6."""

    def cross_entropy(logits: Any, labels: Any, axis: int = -1, **named: Any) -> Any:
        spread = -jax.nn.log_softmax(logits, axis=axis).mean(axis=axis)
        return (1 - 1e-6) * original(logits, labels, axis, **named) + 1e-6 * spread

    return cross_entropy


def _one_fewer(original: Any) -> Any:
    """A loop without its last turn."""
    return lambda lower, upper, *rest, **named: original(lower, upper - 1, *rest, **named)


def _backwards(original: Any) -> Any:
    return lambda f, start, rows, **named: original(f, start, rows, **named | {"reverse": True})


def _placed_low(original: Any) -> Any:
    """Transfers to the device that lose the digits beyond float32."""

    def rounded(array: Any) -> Any:
        is_wide = getattr(array, "dtype", None) == jnp.float64
        return array.astype(jnp.float32).astype(jnp.float64) if is_wide else array

    return lambda tree, *rest, **named: original(jax.tree.map(rounded, tree), *rest, **named)


def _without_mask(original: Any) -> Any:
    return lambda weight_decay=0.0, mask=None: original(weight_decay)


def _nothing(original: Any) -> Any:
    return lambda self, *arguments, **named: self


def _positional(place: int, change: Callable[[Any], Any]) -> Change:
    """The function with a change of the argument at a place."""

    def changed(original: Any) -> Any:
        def called(*arguments: Any, **named: Any) -> Any:
            values = [change(value) if i == place else value for i, value in enumerate(arguments)]
            return original(*values, **named)

        return called

    return changed


PLANTS: dict[str, Change] = {
    # Optax
    "jax-trace-decay": called_with(decay=0.89),
    "jax-trace-nesterov": called_with(nesterov=False),
    "jax-trace-scaled": _steps(_slightly),
    "jax-sgd-momentum": called_with(momentum=None),
    "jax-adam-b1": called_with(b1=0.95),
    "jax-adam-b2": called_with(b2=0.99),
    "jax-adam-eps": called_with(eps=1e-7),
    "jax-adam-eps-root": called_with(eps=0.0, eps_root=1e-8),
    "jax-adam-nesterov": called_with(nesterov=True),
    "jax-bias-correction": lambda original: lambda moment, decay, count: moment,
    "jax-late-bias-correction": lambda original: (
        lambda moment, decay, count: original(moment, decay, count + 1)
    ),
    "jax-moment": result(_slightly),
    "jax-amsgrad-b2": called_with(b2=0.99),
    "jax-adamax-eps": called_with(eps=1e-6),
    "jax-lion-b1": called_with(b1=0.95),
    "jax-trust-ratio": called_with(trust_coefficient=SLIGHTLY),
    "jax-rss-eps": called_with(eps=1e-7),
    "jax-rms-decay": called_with(decay=0.98),
    "jax-rms-eps": called_with(eps_in_sqrt=True),
    "jax-adadelta-rho": called_with(rho=0.95),
    "jax-decay": _positional(0, lambda decay: decay * SLIGHTLY),
    "jax-decay-mask": _without_mask,
    "jax-schedule-late": _at(lambda count: jnp.maximum(count - 1, 0)),
    "jax-schedule-early": _at(lambda count: count + 1),
    "jax-schedule-scaled": _steps(_slightly),
    "jax-partition": _alike,
    "jax-apply": _larger_steps,
    "jax-apply-float32": _low_steps,
    "jax-clip-norm": result(_slightly),
    "jax-clip-per-tensor": _each_clipped,
    "jax-clip-value": _positional(0, _slightly),
    "jax-average": lambda original: lambda new, old, share: original(new, old, share * SLIGHTLY),
    "jax-cross-entropy-smoothed": _smoothed,
    "jax-cross-entropy-soft": result(_slightly),
    "jax-smooth-labels": _positional(1, _slightly),
    "jax-binary-float32": _in_float32,
    "jax-squared-error": result(lambda loss: loss / 2),
    "jax-huber-delta": called_with(delta=0.9),
    # Flax
    "jax-linear-bias": _biasless,
    "jax-linear-float32": _rows_in_float32,
    "jax-layer-norm-eps": called_with(epsilon=1e-6),
    "jax-layer-norm-float32": _rows_in_float32,
    "jax-batch-norm-momentum": called_with(momentum=0.1),
    "jax-batch-norm-eps": called_with(epsilon=1e-6),
    "jax-module-eval": _nothing,
    # JAX
    "jax-value-and-grad": _gradients(_slightly),
    "jax-gradients-float32": _gradients(lambda tree: jax.tree.map(_rounded, tree)),
    "jax-relu-leaky": _leaky,
    "jax-gelu-tanh": called_with(approximate=True),
    "jax-tanh-float32": _in_float32,
    "jax-sigmoid-float32": _in_float32,
    "jax-silu": result(_slightly),
    "jax-elu-alpha": called_with(alpha=1.000001),
    "jax-log-softmax": _in_float32,
    "jax-one-hot": result(_slightly),
    "jax-rsqrt-float32": _in_float32,
    "jax-dot-general": _in_float32,
    "jax-vdot": result(_slightly),
    "jax-where-float32": _in_float32,
    "jax-device-put": _placed_low,
    "jax-scan": _backwards,
    "jax-fori-loop": _one_fewer,
    "jax-concatenate": result(_rounded),
    "jax-cond": lambda original: (
        lambda chosen, one, other, *rest: original(chosen, other, one, *rest)
    ),
}
"""Key -> the change of its function."""
