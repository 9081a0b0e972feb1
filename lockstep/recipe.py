"""What to train: a recipe is a set of frozen dataclasses, each field documented, validated, to and from TOML."""

import difflib
import hashlib
import json
import os
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

import numpy as np
from pydantic import ConfigDict, Field, ValidationError, model_validator
from pydantic.dataclasses import dataclass

from lockstep.errors import InputError

__all__ = [
    "Data",
    "Model",
    "Optimizer",
    "Recipe",
    "Schedule",
    "Training",
    "load_recipe",
    "ready_made_recipes",
]

CONFIG = ConfigDict(extra="forbid", strict=True, use_attribute_docstrings=True, allow_inf_nan=False)

Count = Annotated[int, Field(ge=1, le=2**31 - 1)]
Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]
NonNegative = Annotated[float, Field(ge=0)]
Decay = Annotated[float, Field(ge=0, lt=1)]


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class Data:
    """The rows to train on and the rows held out."""

    source: Literal["synthetic", "breast_cancer", "digits", "file"] = "synthetic"
    """Where the rows come from: drawn, shipped with scikit-learn, or a file of your own."""
    path: str = ""
    """source = "file": a .csv, .parquet or .npz file; relative to the recipe's folder."""
    target: str = ""
    """source = "file": the column (or .npz array) that holds the class."""
    rows: Count = 1000
    """source = "synthetic": rows to train on; the held-out rows are drawn in addition."""
    features: Count = 10
    """source = "synthetic": columns."""
    classes: Annotated[int, Field(ge=2, le=10_000)] = 2
    """source = "synthetic": classes."""
    class_separation: Annotated[float, Field(gt=0)] = 1.0
    """source = "synthetic": half the side of the hypercube whose corners are the class centres."""
    held_out: Annotated[float, Field(gt=0, lt=1)] = 0.25
    """Rows held out, as a share of all rows (synthetic: of `rows`, drawn in addition)."""
    seed: Seed = 0
    """Seed of the drawn rows and of the stratified split."""


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class Model:
    """A multilayer perceptron: Linear, activation, ..., Linear. The data gives input and output sizes."""

    hidden: Annotated[tuple[Count, ...], Field(strict=False)] = (50,)
    """Hidden units, a number a layer; [] is softmax regression."""
    activation: Literal["relu", "tanh"] = "relu"
    """Applied after every layer but the last."""


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class Optimizer:
    """What turns a gradient into an update. Every knob is passed on explicitly, in both frameworks."""

    name: Literal["sgd", "adam", "adamw"] = "sgd"
    """sgd and adam add weight decay to the gradient (L2); adamw decays the parameters (decoupled)."""
    momentum: Decay = 0.9
    """sgd: share of the previous momentum kept; dampening is 0."""
    nesterov: bool = False
    """sgd: look ahead along the momentum."""
    weight_decay: NonNegative = 0.0
    """Decay rate, for weights and biases alike."""
    beta1: Decay = 0.9
    """adam, adamw: decay of the first moment."""
    beta2: Decay = 0.999
    """adam, adamw: decay of the second moment."""
    eps: Annotated[float, Field(gt=0)] = 1e-8
    """adam, adamw: added to the root of the second moment, outside the root."""

    @model_validator(mode="after")
    def _nesterov_needs_momentum(self) -> Self:
        if self.name == "sgd" and self.nesterov and self.momentum == 0:
            raise ValueError("nesterov: true needs a momentum above 0")
        return self


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class Schedule:
    """The learning rate of every update; see `lockstep.schedules` for the formulas."""

    name: Literal["constant", "warmup_constant", "warmup_cosine"] = "warmup_constant"
    """What follows the linear warmup; "constant" has no warmup."""
    peak: Annotated[float, Field(gt=0)] = 0.01
    """The highest learning rate."""
    warmup: Annotated[int, Field(ge=0)] = 5
    """Length W of the warmup, in `unit`s; 0 is no warmup."""
    unit: Literal["epoch", "update"] = "epoch"
    """What t, W and T count: whole epochs (the rate is held within one) or optimizer updates."""
    ramp: Literal["(t+1)/W", "t/W", "(t+1)/(W+1)"] = "(t+1)/W"
    """Share of the peak at t, counted from 0, during the warmup."""
    floor: Annotated[float, Field(ge=0, le=1)] = 0.0
    """warmup_cosine: share of the peak that the cosine reaches at T."""


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class Training:
    """How long, in which batches and in which precision."""

    epochs: Count = 10
    """Passes over the training rows."""
    batch: Count = 32
    """Rows in a batch; the last batch of an epoch may have fewer."""
    drop_last: bool = False
    """Leave out the last batch of an epoch where it has fewer rows."""
    dtype: Literal["float32", "float64"] = "float32"
    """Precision of data, parameters, arithmetic and learning rate."""
    seed: Seed = 0
    """Seed of the initial parameters and of the order of the rows."""


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class Recipe:
    """The full description of a training run."""

    data: Data = Data()
    model: Model = Model()
    optimizer: Optimizer = Optimizer()
    schedule: Schedule = Schedule()
    training: Training = Training()

    @model_validator(mode="after")
    def _warmup_fits_the_run(self) -> Self:
        if self.schedule.unit == "epoch" and self.warmup > self.training.epochs:
            raise ValueError(
                f"schedule.warmup: {self.warmup} epochs of warmup are longer than the run of "
                f"{self.training.epochs} epochs (training.epochs)"
            )
        return self

    @property
    def warmup(self) -> int:
        """Length of the warmup in `schedule.unit`s; 0 for a constant schedule."""
        return 0 if self.schedule.name == "constant" else self.schedule.warmup

    @property
    def dtype(self) -> np.dtype[Any]:
        """`training.dtype` as a NumPy dtype."""
        return np.dtype(self.training.dtype)

    @property
    def hash(self) -> str:
        """SHA-256 (hex) of every field but `data.path`: where a file lies does not change what is trained,
        and what is in it stands in the data hash."""
        content = asdict(self)
        del content["data"]["path"]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def with_values(self, values: Mapping[str, Any]) -> "Recipe":
        """A copy with some fields changed, named as in TOML: `{"schedule.warmup": 3}`.

        Raises:
            InputError: a name that is no field, or a value that the field does not take.
        """
        content = asdict(self)
        for name, value in values.items():
            section, _, field = name.partition(".")
            if section not in SECTIONS or not field:
                raise InputError(f"{_printable(name)}: no such field{_nearest(name, _field_names())}")
            content[section][field] = value
        return Recipe.from_dict(content)

    def with_overrides(self, overrides: Sequence[str]) -> "Recipe":
        """A copy with some fields changed by "section.field=value" items, the value as in TOML; a bare word is a
        string.

        Raises:
            InputError: as `with_values`.
        """
        return self.with_values(dict(_parse_override(item) for item in overrides))

    def with_dtype(self, dtype: Literal["float32", "float64"]) -> "Recipe":
        """The same recipe in another precision."""
        return replace(self, training=replace(self.training, dtype=dtype))

    @staticmethod
    def from_dict(content: Mapping[str, Any]) -> "Recipe":
        """A recipe from nested dicts, as `tomllib` reads them; a missing field takes its default.

        Raises:
            InputError: unknown section or field, wrong type, or a value out of range; names each.
        """
        sections: dict[str, Any] = {}
        for name, values in content.items():
            if name not in SECTIONS:
                raise InputError(f"{_printable(name)}: no such section{_nearest(name, SECTIONS)}")
            if not isinstance(values, Mapping):
                raise InputError(f"{name}: must be a table, [{name}]")
            try:
                sections[name] = SECTIONS[name](**values)
            except ValidationError as error:
                raise InputError(_one_line(error, name)) from None
        try:
            return Recipe(**sections)
        except ValidationError as error:
            raise InputError(_one_line(error)) from None

    def to_toml(self, *, documented: bool = False) -> str:
        """The recipe as TOML, every field written out; `documented` puts each field's text above it."""
        import tomlkit

        document = tomlkit.document()
        for section in fields(self):
            values = getattr(self, section.name)
            table = tomlkit.table()
            for field in fields(values):
                if documented:
                    table.add(tomlkit.comment(_description(type(values), field.name)))
                value = getattr(values, field.name)
                table.add(field.name, list(value) if isinstance(value, tuple) else value)
            document.add(section.name, table)
        return tomlkit.dumps(document)


SECTIONS: dict[str, Any] = {
    "data": Data,
    "model": Model,
    "optimizer": Optimizer,
    "schedule": Schedule,
    "training": Training,
}


def ready_made_recipes() -> dict[str, Path]:
    """The recipes that come with lockstep: name -> TOML file, in a clone as in an installed package."""
    package = Path(__file__).parent
    for folder in (package / "recipes", package.parent / "recipes"):
        if folder.is_dir():
            return {path.stem: path for path in sorted(folder.glob("*.toml"))}
    return {}


def load_recipe(name_or_path: str, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe: a TOML file, or the name of a ready-made one.

    Args:
        name_or_path: "digits", "recipes/digits.toml", "mine.toml".
        overrides: as `Recipe.with_overrides` takes them.

    Raises:
        InputError: no such recipe, not TOML, or a field that is unknown or wrong.
    """
    path = Path(name_or_path)
    if not os.path.isfile(path):  # unlike Path.is_file, also False for a name that the system refuses
        ready_made = ready_made_recipes()
        # recipes/digits.toml is also the way to write the ready-made one from any folder
        name = path.stem if str(path.parent) in (".", "recipes") else name_or_path
        if name not in ready_made:
            raise InputError(
                f"{name_or_path}: no such recipe file, and no ready-made recipe of that name"
                f"{_nearest(name, ready_made)} (ready-made: {', '.join(ready_made)})"
            )
        path = ready_made[name]
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:  # tomllib lets the last two out for absurd content
        raise InputError(f"{path}: not a readable TOML file: {error}") from None
    try:
        recipe = Recipe.from_dict(content)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    if recipe.data.path:
        resolved = path.resolve().parent / recipe.data.path
        recipe = recipe.with_values({"data.path": str(resolved)})
    return recipe.with_overrides(overrides)


def _parse_override(item: str) -> tuple[str, Any]:
    name, equals, text = item.partition("=")
    if not equals:
        raise InputError(f"--set {_printable(item)}: must be section.field=value")
    try:
        content = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError):
        content = {}
    return name.strip(), content["value"] if content.keys() == {"value"} else text.strip()


def _description(section: Any, field: str) -> str:
    described = section.__pydantic_fields__[field]
    text = " ".join(str(described.description).split())
    choices = get_args(described.annotation)
    if choices and all(isinstance(choice, str) for choice in choices):
        text += " One of " + ", ".join(f'"{choice}"' for choice in choices) + "."
    default = list(described.default) if isinstance(described.default, tuple) else described.default
    return f"{text} Default: {json.dumps(default)}."


def _field_names() -> list[str]:
    return [f"{name}.{field.name}" for name, section in SECTIONS.items() for field in fields(section)]


def _nearest(name: str, known: Sequence[str] | Mapping[str, Any]) -> str:
    """`; did you mean X?` for a near miss. Field names also match by their last part alone."""
    candidates = list(known)
    close = difflib.get_close_matches(name, candidates, n=1, cutoff=0.5)
    by_leaf = [known for known in candidates if known.endswith("." + name)]
    best = by_leaf[:1] or close
    return f"; did you mean {best[0]}?" if best else ""


def _printable(name: str) -> str:
    """A name that someone wrote, fit for one line: quoted TOML keys may hold line breaks."""
    return name if name.isprintable() else repr(name)


def _one_line(error: ValidationError, section: str = "") -> str:
    """Every fault of a pydantic error in one line, each with its full field name."""
    faults = []
    for fault in error.errors():
        name = ".".join(str(part) for part in (section, *fault["loc"]) if part != "")
        message = fault["msg"].removeprefix("Value error, ")
        if fault["type"] == "unexpected_keyword_argument":
            faults.append(f"{_printable(name)}: no such field{_nearest(name, _field_names())}")
        elif fault["type"] == "value_error":
            faults.append(f"{section}.{message}" if section else message)
        else:
            message = message.replace("valid tuple", "list")
            faults.append(f"{name}: {message[0].lower()}{message[1:]}, got {fault['input']!r}")
    return "; ".join(faults)
