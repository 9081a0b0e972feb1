"""The state of a run, as the recorder reads it."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from torch import Tensor

from lockstep.data_prep import Parameters
from lockstep.recipe import Recipe
from lockstep.records.trace import Metrics
from pt_impl.average import export_average
from pt_impl.io.checkpoint import export_state
from pt_impl.model import export_parameters
from pt_impl.predict import Rows, evaluate, trace_prediction
from pt_impl.update import State

__all__ = ["View"]


class View(NamedTuple):
    """A `lockstep.records.run_recorder.View` of this twin.

    `segment_detail` is the detail of the segment before it.
    """

    recipe: Recipe
    run: State
    rows: tuple[Rows, Rows]
    segment_detail: Mapping[str, Sequence[Tensor]]

    def parameters(self) -> Parameters:
        """The parameters and running statistics."""
        return export_parameters(self.run.model)

    def average(self, updates: int) -> Parameters:
        """The average of the parameters to read after that many updates."""
        return export_average(self.recipe.average, self.run.average, updates)

    def arrays(self) -> Parameters:
        """Every array of the state, named as in a checkpoint."""
        return export_state(self.recipe, self.run)

    def detail(self) -> Mapping[str, Sequence[Tensor]]:
        """The segment's batches and all that was computed of them, from rows to gradients."""
        return self.segment_detail

    def metrics(self) -> tuple[Metrics, Metrics]:
        """The metrics over the training rows, and over those held out."""
        train, held_out = self.rows
        loss = self.recipe.loss
        return evaluate(loss, self.run.model, train), evaluate(loss, self.run.model, held_out)

    def prediction(self) -> Parameters:
        """The first held-out row, layer by layer."""
        _, held_out = self.rows
        return trace_prediction(self.recipe.loss, self.run.model, held_out.x_ND[:1])
