"""A recorder as a callback, for Lightning and for the Trainer of Hugging Face."""

from importlib import import_module
from typing import Any

from lockstep.errors import InputError
from lockstep.own_loops.recorder import Recorder

__all__ = ["lightning_callback", "trainer_callback"]


def lightning_callback(recorder: Recorder) -> Any:
    """A `lightning.pytorch.Callback` that records automatic optimization with one optimizer.

    Raises:
        InputError: Lightning is not installed; and, when the training starts, a module with
            several optimizers.
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
            self.steps, self.losses = trainer.global_step, list[Any]()

        def on_train_batch_end(
            self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
        ) -> None:
            """Record a batch, and close the update where it completed one."""
            recorder.record(batch=batch)
            self.losses.append(
                outputs["loss"].detach()
            )  # already a micro-batch's share of the mean
            if trainer.global_step > self.steps:
                recorder.update(loss=sum(self.losses))
                self.steps, self.losses = trainer.global_step, []

        def on_train_end(self, trainer: Any, pl_module: Any) -> None:
            """Write the trace."""
            recorder.finish()

        def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
            """Write what was recorded."""
            recorder.__exit__(type(exception), exception, None)

    return Callback()


def trainer_callback(recorder: Recorder) -> Any:
    """A `transformers.TrainerCallback`. It takes batches and losses from the calls of the model's
    `forward`.

    Raises:
        InputError: transformers is not installed.
    """

    class Callback(_base("transformers", "TrainerCallback", "transformers")):  # type: ignore[misc]  # as above
        """Starts with the training and finishes with it."""

        def on_train_begin(self, args: Any, state: Any, control: Any, **found: Any) -> None:
            """Watch the model and its optimizer."""
            optimizer = found["optimizer"]
            self.losses: list[Any] = []
            recorder.start(found["model"])
            recorder.watch(
                found["model"], getattr(optimizer, "optimizer", optimizer)
            )  # accelerate wraps it
            self.hook = found["model"].register_forward_hook(self._seen, with_kwargs=True)

        def on_optimizer_step(self, args: Any, state: Any, control: Any, **found: Any) -> None:
            """Close the update."""
            losses, self.losses = self.losses, []
            recorder.update(loss=sum(losses) / (1 if self.is_sum else len(losses)))

        def on_train_end(self, args: Any, state: Any, control: Any, **found: Any) -> None:
            """Write the trace."""
            self.hook.remove()
            recorder.finish()

        def _seen(self, module: Any, positional: Any, inputs: Any, output: Any) -> None:
            if not module.training:
                return
            loss = output["loss"] if "loss" in output else output[0]
            # a model that knows how many items an update has gives each micro-batch's share of the
            # mean
            self.is_sum = inputs.get("num_items_in_batch") is not None
            self.losses.append(loss.detach())
            recorder.record(
                batch={
                    name: value for name, value in inputs.items() if name != "num_items_in_batch"
                }
            )

    return Callback()


def _base(module: str, name: str, package: str) -> Any:
    try:
        return getattr(import_module(module), name)
    except ModuleNotFoundError as error:
        raise InputError(
            f"the package {error.name} is not installed: pip install {package}"
        ) from None
