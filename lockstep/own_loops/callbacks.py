"""Callbacks that record a training by Lightning, or by the Trainer of Hugging Face."""

from importlib import import_module
from typing import Any

from lockstep.errors import InputError
from lockstep.own_loops.recorder import Recorder

__all__ = ["lightning_callback", "trainer_callback"]


def lightning_callback(recorder: Recorder) -> Any:
    """A `lightning.pytorch.Callback` that records automatic optimization with one optimizer.

    Raises:
        InputError: Lightning is not installed; or, when the training starts, a module has several
            optimizers.
    """

    class Callback(_base("lightning.pytorch", "Callback", "lightning")):  # type: ignore[misc]  # known when it runs
        """Starts with the training and finishes with it."""

        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            """Watch the module and its optimizer."""
            if len(trainer.optimizers) != 1:
                raise InputError(
                    f"lightning: {len(trainer.optimizers)} optimizers; a recorder follows one"
                )
            recorder.start(pl_module)
            recorder.watch(pl_module, trainer.optimizers[0])
            self.steps = trainer.global_step
            self.losses: list[Any] = []

        def on_train_batch_end(
            self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
        ) -> None:
            """Record a batch, and close the update that it completes."""
            recorder.record(batch=batch)
            # Lightning has divided the loss by the number of micro-batches
            self.losses.append(outputs["loss"].detach())
            if trainer.global_step > self.steps:
                recorder.update(loss=sum(self.losses))
                self.steps = trainer.global_step
                self.losses = []

        def on_train_end(self, trainer: Any, pl_module: Any) -> None:
            """Write the trace."""
            recorder.finish()

        def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
            """Write the updates that were recorded."""
            recorder.__exit__(type(exception), exception, None)

    return Callback()


def trainer_callback(recorder: Recorder) -> Any:
    """A `transformers.TrainerCallback`, which records batches and losses as `forward` is called.

    Raises:
        InputError: transformers is not installed.
    """

    class Callback(_base("transformers", "TrainerCallback", "transformers")):  # type: ignore[misc]  # as above
        """Starts with the training and finishes with it."""

        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            """Watch the model and its optimizer."""
            model = kwargs["model"]
            optimizer = kwargs["optimizer"]
            optimizer = getattr(optimizer, "optimizer", optimizer)  # accelerate wraps it
            self.losses: list[Any] = []
            recorder.start(model)
            recorder.watch(model, optimizer)
            self.hook = model.register_forward_hook(self._after_forward, with_kwargs=True)

        def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            """Close the update."""
            loss = sum(self.losses)
            if not self.losses_are_shares:
                loss = loss / len(self.losses)
            self.losses = []
            recorder.update(loss=loss)

        def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            """Write the trace."""
            self.hook.remove()
            recorder.finish()

        def _after_forward(self, module: Any, args: Any, kwargs: Any, output: Any) -> None:
            if not module.training:
                return
            batch = dict(kwargs)
            # a model that knows an update's items returns each micro-batch's share of the mean
            self.losses_are_shares = batch.pop("num_items_in_batch", None) is not None
            loss = output["loss"] if "loss" in output else output[0]
            self.losses.append(loss.detach())
            recorder.record(batch=batch)

    return Callback()


def _base(module: str, name: str, package: str) -> Any:
    try:
        return getattr(import_module(module), name)
    except ModuleNotFoundError as error:
        raise InputError(
            f"the package {error.name} is not installed: pip install {package}"
        ) from None
