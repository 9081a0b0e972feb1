"""The state of a run, as the recorder reads it."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
from flax import nnx

from jax_impl.average import export_average
from jax_impl.io.checkpoint import export_state
from jax_impl.model import MLP, export_parameters
from jax_impl.predict import Rows, evaluate, trace_prediction
from jax_impl.update import State
from lockstep.data_prep import Parameters
from lockstep.recipe import Recipe
from lockstep.records.trace import Metrics

__all__ = ["View"]


class View(NamedTuple):
    """A `lockstep.records.run_recorder.View` of this twin.

    `train_in_detail` trains the segment before it once more, and returns its detail last.
    """

    recipe: Recipe
    run: State
    rows: tuple[Rows, Rows]
    train_in_detail: Callable[[], Any]

    def parameters(self) -> Parameters:
        """The parameters and running statistics."""
        return export_parameters(self.run.parameters) | export_parameters(self.run.statistics)

    def average(self, updates: int) -> Parameters:
        """The average of the parameters to read after that many updates."""
        return export_average(self.recipe.average, self.run.average, updates)

    def arrays(self) -> Parameters:
        """Every array of the state, named as in a checkpoint."""
        return export_state(self.recipe, self.run)

    def detail(self) -> Mapping[str, Sequence[Any]]:
        """The segment's batches and all that was computed of them, from rows to gradients."""
        *_, detail = self.train_in_detail()
        arrays: Mapping[str, Sequence[Any]] = jax.device_get(detail)
        return arrays

    def metrics(self) -> tuple[Metrics, Metrics]:
        """The metrics over the training rows, and over those held out."""
        train, held_out = self.rows
        loss = self.recipe.loss
        return evaluate(loss, self._model(), train), evaluate(loss, self._model(), held_out)

    def prediction(self) -> Parameters:
        """The first held-out row, layer by layer."""
        _, held_out = self.rows
        return trace_prediction(self.recipe.loss, self._model(), held_out.x_ND[:1])

    def _model(self) -> MLP:
        model: MLP = nnx.merge(self.run.graph, self.run.parameters, self.run.statistics)
        return model
