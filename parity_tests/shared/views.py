"""A recorder's view of a run whose values are given."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lockstep.data_prep import Parameters
from lockstep.records.trace import Metrics

NO_METRICS: tuple[Metrics, Metrics] = ({}, {})


@dataclass(frozen=True)
class GivenView:
    values: Parameters = field(default_factory=dict)
    of_parts: tuple[Metrics, Metrics] = NO_METRICS
    layers: Parameters = field(default_factory=dict)

    def parameters(self) -> Parameters:
        return self.values

    def average(self, updates: int) -> Parameters:
        return {}

    def arrays(self) -> Parameters:
        return {}

    def detail(self) -> Mapping[str, Any]:
        return {}

    def metrics(self) -> tuple[Metrics, Metrics]:
        return self.of_parts

    def prediction(self) -> Parameters:
        return self.layers
