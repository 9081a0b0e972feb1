"""What all optimizers have, and what the rest of lockstep reads of each."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field
from pydantic.dataclasses import dataclass

from lockstep.recipe.preset import Preset
from lockstep.recipe.values import CONFIG, NonNegative
from lockstep.recipe.variants import Cause, NamedSection, Spec

__all__ = ["Optimizer", "OptimizerSpec", "Shape", "Slots", "like"]

Shape = tuple[int, ...]
Slots = Callable[[Any, Shape], dict[str, Shape]]
"""(optimizer, shape of a parameter) -> slot -> shape of what the optimizer remembers of that
parameter.

A weight is (in, out), all else a vector."""

SHARE = (0.0, 1 - 1e-9)
SPANS = dict.fromkeys(("momentum", "beta1", "beta2", "decay"), SHARE)
OTHERS = {"momentum": 0.8, "weight_decay": 0.05, "multipliers": (0.5, 1.0, 2.0)}
NEEDS: Mapping[str, Mapping[str, Any]] = {
    "decay_on": {"optimizer.weight_decay": 0.05},
    "momentum": {"schedule.peak": 0.005},  # rmsprop with momentum steps 5 times as far
}
CAUSES = {
    "momentum": Cause("other-momentum"),
    "beta1": Cause("other-beta"),
    "beta2": Cause("other-beta"),
    "eps": Cause("other-eps"),
    "eps_in_root": Cause("eps-in-root", "rmsprop-eps-in-the-root"),
    "weight_decay": Cause("other-decay", "adamw-default-weight-decay"),
    "decay_form": Cause("other-decay-form", "adamw-loses-its-decay"),
    "decay_on": Cause("decay-on-bias"),
    "nesterov": Cause("nesterov", "nesterov-needs-its-flag"),
}
"""Of the knobs that several optimizers have; a spec adds those of its own."""


def like(*slots: str) -> Slots:
    """Slots that have the parameter's shape, whatever the knobs."""
    return lambda optimizer, shape: dict.fromkeys(slots, shape)


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerSpec(Spec):
    """What checkpoint, fast engine, matrix, report and diagnosis know of an optimizer beside its
    rule.
    """

    slots: Slots
    """What it remembers of a parameter."""
    decoupled: bool = False
    """Weight decay acts on the parameters; else it is added to the gradient (L2)."""
    by_tensor: bool = False
    """The step of an element depends on the other elements of its tensor."""
    in_full: bool = False
    """The parity matrix varies the fields that all optimizers have with this one too."""
    knob_needs: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    """Knob -> what the parity matrix must set for another value of it to have an effect."""
    spans: Mapping[str, tuple[float, float]] = dataclasses.field(default_factory=dict)
    """Knob -> least and largest value that a diagnosis tries; without an entry from 0 on."""
    by_magnitude: tuple[str, ...] = ()
    """Knobs of which a diagnosis tries powers of 10; `eps` is one."""
    torch_slots: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """What `torch.optim` calls a slot -> what a checkpoint calls it."""
    optax_slots: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """What Optax calls a slot -> what a checkpoint calls it; "count" is the updates done."""
    torch_names: Mapping[str, str | tuple[str, ...]] = dataclasses.field(default_factory=dict)
    """What a group of `torch.optim` calls a knob, or a pair of knobs, where that is another name
    than the knob's; a "-" before the knob's name negates it. Every optimizer's `betas` are known.
    """
    presets: Mapping[str, Preset] = dataclasses.field(default_factory=dict)
    """"torch.adam" -> the knobs that a library fixes and leaves free."""
    unsaid: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """What a library has and no preset says -> the line that says so."""

    def __post_init__(self) -> None:
        for field, of_all in (
            ("others", OTHERS),
            ("causes", CAUSES),
            ("knob_needs", NEEDS),
            ("spans", SPANS),
        ):
            object.__setattr__(self, field, {**of_all, **getattr(self, field)})
        object.__setattr__(self, "by_magnitude", ("eps", *self.by_magnitude))


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class Optimizer(NamedSection):
    """What turns a gradient into an update. Every knob is passed on explicitly, in both
    frameworks.
    """

    name: str = "sgd"
    """What turns a gradient into an update."""
    decay_on: Literal["all", "weights"] = "all"
    """What decays: all parameters, or only the weights of the linear layers (not biases, not
    normalisation).
    """
    multipliers: Annotated[tuple[NonNegative, ...], Field(strict=False)] = ()
    """Factor on the learning rate of each linear layer, with its normalisation; [] is 1 for
    each.
    """

    spec: ClassVar[OptimizerSpec]
    common: ClassVar[tuple[str, ...]] = ("name", "decay_on", "multipliers")

    @classmethod
    def field_names(cls) -> list[str]:
        """The fields in the order in which they are written: the name, the knobs, what all
        optimizers have.
        """
        names = super().field_names()
        return ["name", *(name for name in names if name not in cls.common), *cls.common[1:]]

    @property
    def decay_rate(self) -> float:
        """The weight decay; 0 for an optimizer that has none."""
        return float(self.get("weight_decay") or 0.0)

    def get(self, knob: str) -> Any:
        """The value of a knob; None where this optimizer has no such knob."""
        return getattr(self, knob, None)

    def with_knobs(self, **knobs: Any) -> Self:
        """A copy with other values.

        Raises:
            ValueError: knobs that it does not have, or values that do not go together.
        """
        return dataclasses.replace(self, **knobs)

    def slots(self, shape: Shape) -> dict[str, Shape]:
        """Slot -> shape of what it remembers of a parameter of that shape: (in, out) of a weight,
        (n,) of all else.
        """
        return self.spec.slots(self, shape)

    @classmethod
    def file_name(cls) -> str:
        """The module that implements it in the oracle and in each twin: that of its definition,
        without the package.
        """
        return cls.__module__.rpartition(".")[2]
