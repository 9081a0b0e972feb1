"""What can be watched in PyTorch, and one line for what cannot."""

from collections.abc import Mapping
from typing import Any

from lockstep.errors import InputError

__all__ = ["checked_optimizer", "refuse_foreign_optimizer", "refuse_what_is_no_model"]

WITHOUT_WATCH = (
    "of any other loop, as of Keras or JAX, give what there is to record to "
    "Recorder.update(loss=..., gradients=..., lr=..., moments=..., parameters=...)"
)


def refuse_what_is_no_model(model: Any) -> None:
    """Raise InputError unless it is a `torch.nn.Module`."""
    if not hasattr(model, "named_modules") or isinstance(model, type):
        raise InputError(
            f"watch: model must be a torch.nn.Module, got {_kind(model)}; {_instead(model)}"
        )


def checked_optimizer(optimizer: Any) -> Any:
    """The optimizer of PyTorch, which another may wrap.

    Raises:
        InputError: anything else.
    """
    inner = optimizer
    while hasattr(getattr(inner, "optimizer", None), "register_step_post_hook"):
        if hasattr(inner, "get_last_lr"):
            raise InputError(
                f"watch: {_kind(optimizer)} is a scheduler; give its optimizer, and the scheduler "
                "is read off it"
            )
        inner = inner.optimizer
    is_optimizer = hasattr(inner, "register_step_post_hook") and hasattr(inner, "param_groups")
    if not is_optimizer or isinstance(inner, type):
        raise InputError(
            f"watch: optimizer must be a torch.optim.Optimizer, got {_kind(optimizer)}; "
            f"{_instead(optimizer)}"
        )
    return inner


def refuse_foreign_optimizer(optimizer: Any, names: Mapping[int, str], watched: Any) -> None:
    """Raise InputError where an optimizer is watched already, or trains none of the parameters.

    Args:
        optimizer: a `torch.optim.Optimizer`.
        names: id of a parameter -> its name.
        watched: the optimizers that are watched.
    """
    if any(optimizer is other for other in watched):
        raise InputError("watch: this optimizer is watched already")
    parameters = [one for group in optimizer.param_groups for one in group["params"]]
    if not any(id(one) in names for one in parameters):
        raise InputError(
            "watch: the optimizer has no parameter of the model; make it of model.parameters(), "
            "after whatever copies or replaces them"
        )


def _instead(value: Any) -> str:
    """What to do with an object that cannot be watched."""
    package = type(value).__module__.partition(".")[0]
    if package in ("flax", "optax", "equinox", "haiku", "jax", "jaxlib"):
        return (
            "of a loop in JAX, let recorder.value_and_grad(loss_of) record, or give what there is "
            "to Recorder.update(loss=..., gradients=..., moments=..., parameters=...)"
        )
    return WITHOUT_WATCH


def _kind(value: object) -> str:
    kind = value if isinstance(value, type) else type(value)
    return f"{kind.__module__}.{kind.__qualname__}" + (" itself" * isinstance(value, type))
