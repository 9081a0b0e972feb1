"""An optimizer in JAX: its settings, and the rate that it applied at each update."""

import sys
from collections.abc import Mapping
from typing import Any

from lockstep.own_loops.arrays import Tree
from lockstep.own_loops.jax_arguments import is_a_module, open_arguments
from lockstep.own_loops.optax_settings import Reading, hyperparameters_of, read_transformation

__all__ = ["JaxOptimizer"]


class JaxOptimizer:
    """Reads an Optax transformation, an `nnx.Optimizer`, or the state of `inject_hyperparams`.

    What cannot be read for certain is left unsaid.

    Attributes:
        read: what the header says of it: "optimizers" and "schedulers".
    """

    def __init__(self) -> None:
        self.read: dict[str, Any] = {}
        self._transformation: Any = None
        self._shapes: Tree = None
        self._names: list[str] = []

    def watch(self, transformation: Any, parameters: Tree) -> None:
        """Read this transformation at each update.

        Args:
            transformation: what Optax made, or an `nnx.Optimizer`.
            parameters: the parameters that it trains; None: those of the first update.
        """
        self._transformation = transformation
        if parameters is not None:
            self._keep_shapes(transformation, parameters)

    def rate(self, state: Any, parameters: Tree) -> Any:
        """The rate that the last step applied, or None.

        Args:
            state: the optimizer's state after the step: Optax's, or an `nnx.Optimizer`.
            parameters: the parameters after the step; None: as at `watch`.
        """
        if state is None or "jax" not in sys.modules or hasattr(state, "param_groups"):
            return None
        if self._transformation is None and hasattr(state, "tx") and parameters is not None:
            self.watch(state, parameters)
        try:
            if not self._names and parameters is not None:
                self._keep_shapes(self._transformation, parameters)
            reading = self._reading(state)
        except Exception:  # functions that another version of Optax made otherwise
            return None
        if not self.read:
            self.read = {"optimizers": [reading.settings]}
            if reading.schedulers:
                self.read["schedulers"] = reading.schedulers
        return reading.rate

    def _reading(self, state: Any) -> Reading:
        if self._transformation is not None:
            return read_transformation(self._transformation, state, self._shapes, self._names)
        knobs = hyperparameters_of(state)
        if not knobs:
            raise LookupError("no hyperparameters in the state")
        group = {"parameters": self._names} | knobs
        settings = {"class": "optax.inject_hyperparams", "name": "", "groups": [group]}
        return Reading(settings, [], knobs.get("lr"))

    def _keep_shapes(self, transformation: Any, parameters: Tree) -> None:
        """Keep the parameters' names and shapes, as the transformation is given them."""
        jax = sys.modules["jax"]
        tree = parameters
        if is_a_module(parameters, "flax.nnx"):
            nnx = sys.modules["flax.nnx"]
            tree = nnx.state(parameters, getattr(transformation, "wrt", nnx.Param))
        elif isinstance(tree, Mapping) and isinstance(tree.get("params"), Mapping):
            tree = tree["params"]
        opened = open_arguments((tree,), {})
        self._names = [array.path for array in opened.arrays]
        shapes = [jax.ShapeDtypeStruct(a.value.shape, a.value.dtype) for a in opened.arrays]
        (self._shapes,), _ = opened.rebuild(shapes)
