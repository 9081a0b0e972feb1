"""A PyTorch module and its optimizer record themselves, by the hooks that PyTorch offers."""

from collections.abc import Callable
from typing import Any

from lockstep.errors import InputError
from lockstep.own_loops.arrays import gradients_of, rates_of
from lockstep.own_loops.present_update import PresentUpdate

__all__ = ["TorchWatch"]

WITHOUT_WATCH = (
    "of any other loop, as of Keras or JAX, give what there is to record to "
    "Recorder.update(loss=..., gradients=..., lr=..., moments=..., parameters=...)"
)


class TorchWatch:
    """Hooks that record outputs of layers, gradients and learning rates into the present update.

    Args:
        model: a `torch.nn.Module`.
        optimizer: a `torch.optim.Optimizer`, or None.
        present: where the hooks record.

    Raises:
        InputError: a model or an optimizer of another kind; nothing is watched then.
    """

    def __init__(self, model: Any, optimizer: Any, present: PresentUpdate) -> None:
        if not hasattr(model, "named_modules"):
            raise InputError(
                f"watch: model must be a torch.nn.Module, got {_kind(model)}; {WITHOUT_WATCH}"
            )
        if optimizer is not None and not hasattr(optimizer, "register_step_post_hook"):
            raise InputError(
                f"watch: optimizer must be a torch.optim.Optimizer, got {_kind(optimizer)}; "
                f"{WITHOUT_WATCH}"
            )
        self.model = model
        self.optimizer = optimizer
        self.present = present
        self._update_of_step: int | None = None
        self._hooks: list[Any] = []
        for name, module in model.named_modules():
            is_leaf = not list(module.children())
            if is_leaf or list(module.parameters(recurse=False)):
                layer = name or type(module).__name__.lower()
                self._hooks.append(module.register_forward_hook(self._make_hook(layer)))
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                self._hooks.append(
                    parameter.register_post_accumulate_grad_hook(self._make_gradient_hook(name))
                )
        if optimizer is not None:
            self._hooks.append(optimizer.register_step_post_hook(self._after_step))

    def close(self) -> None:
        """Remove every hook."""
        while self._hooks:
            self._hooks.pop().remove()

    def _make_hook(self, layer: str) -> Callable[[Any, Any, Any], None]:
        def hook(module: Any, inputs: Any, output: Any) -> None:
            while isinstance(output, tuple | list) and output:
                output = output[0]
            if module.training and self.present.is_due() and hasattr(output, "detach"):
                self.present.append("forward", {layer: output})

        return hook

    def _make_gradient_hook(self, name: str) -> Callable[[Any], None]:
        def hook(parameter: Any) -> None:
            self.present.add("gradients", {name: parameter.grad})

        return hook

    def _after_step(self, optimizer: Any, *_: Any) -> None:
        update = self.present.number
        if self._update_of_step == update:
            raise InputError(
                f"update {update}: the optimizer steps twice in it; call update() after each step"
            )
        self._update_of_step = update
        self.present.set_rates(rates_of(optimizer))
        if self.present.squares:
            if self.present.is_due():
                self.present.add("clip", gradients_of(self.model))
        else:
            self.present.add("gradients", gradients_of(self.model))


def _kind(value: object) -> str:
    kind = type(value)
    return f"{kind.__module__}.{kind.__qualname__}"
