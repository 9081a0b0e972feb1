"""The one shared data preparation: load, check, split, standardise, batches, initial parameters.

Everything random is drawn here, once, in NumPy and in float64. Both frameworks and the oracle are
fed the same bits, and `PreparedData.hash` of them stands in every trace.
"""

from lockstep.data_prep.draws import (
    Parameters,
    Shapes,
    initial_parameters,
    initial_statistics,
    layer_sizes,
)
from lockstep.data_prep.preparation import draw_member, prepare, prepare_members
from lockstep.data_prep.prepared import IGNORED, Batches, OwnDraws, PreparedData, updates_per_epoch
from lockstep.data_prep.sources import load_table
from lockstep.data_prep.split import Split, split_table
from lockstep.data_prep.table import Table

__all__ = [
    "IGNORED",
    "Batches",
    "OwnDraws",
    "Parameters",
    "PreparedData",
    "Shapes",
    "Split",
    "Table",
    "draw_member",
    "initial_parameters",
    "initial_statistics",
    "layer_sizes",
    "load_table",
    "prepare",
    "prepare_members",
    "split_table",
    "updates_per_epoch",
]
