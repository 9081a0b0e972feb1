"""The sections of a recipe, and the recipe: frozen dataclasses, validated, to and from TOML.

Each field has its text below it.
"""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

import numpy as np
from pydantic import Field, ValidationError, model_validator
from pydantic.dataclasses import dataclass
from pydantic.fields import FieldInfo

from lockstep.errors import InputError
from lockstep.files.input_file import parse_toml, read_toml
from lockstep.recipe.activations import ACTIVATIONS
from lockstep.recipe.losses import Loss
from lockstep.recipe.optimizers import Optimizer
from lockstep.recipe.presets import PRESETS, expand
from lockstep.recipe.schedules import Schedule
from lockstep.recipe.values import CONFIG, Count, Decay, Names, NonNegative, Seed
from lockstep.recipe.variants import NamedSection, carry_over, choices_of, docstrings
from lockstep.recipe.wording import nearest, printable_name, short_repr

__all__ = [
    "Average",
    "Convergence",
    "Data",
    "Gradient",
    "Loss",
    "Model",
    "Optimizer",
    "Recipe",
    "Schedule",
    "Training",
    "field_docstrings",
    "field_infos",
    "load_recipe",
    "parse_value",
    "ready_made_recipes",
    "variants_of",
]


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class Data:
    """The rows to train on and the rows held out."""

    source: Literal["synthetic", "breast_cancer", "digits", "diabetes", "file"] = "synthetic"
    """The rows: drawn, shipped with scikit-learn, or a file of your own. `loss.name` says whether
    classes or a number are predicted; breast_cancer and digits have classes, diabetes a number."""
    path: str = ""
    """source = "file": the .csv, .tsv, .parquet or .npz file, relative to the recipe's folder."""
    target: str = ""
    """source = "file": the column (or .npz array) with the class, or the number, to predict."""
    separator: Literal["suffix", "comma", "semicolon", "tab", "pipe", "space"] = "suffix"
    """source = "file": the separator between the cells of a text table; suffix is a tab in .tsv and
    a comma in .csv."""
    decimal: Literal["seen", "comma"] = "seen"
    """source = "file": the mark before the fraction of numbers in text. seen is a point, or a comma
    where the cells leave no doubt; 1,234 leaves one."""
    drop: Names = ()
    """source = "file": the columns to leave out."""
    missing: Literal["refuse", "drop", "mean", "median"] = "refuse"
    """source = "file": the treatment of missing values. drop leaves out their rows; mean and median
    fill in that of the training rows, and give a missing category a column of its own."""
    missing_marks: Names = ()
    """source = "file": more cells that are missing values, beside empty ones, NA, NaN, null, None
    and ? (and - in numbers)."""
    categories: Literal["refuse", "one-hot"] = "refuse"
    """source = "file": the treatment of text in a feature. one-hot gives each category of the
    training rows a column; a category of held-out rows alone is 0 in all of them."""
    holdout: str = ""
    """source = "file": a second file, relative to the recipe's folder, whose rows are held out
    instead of the share `held_out` of the first."""
    rows: Count = 1000
    """source = "synthetic": the number of training rows; held-out rows are drawn in addition."""
    features: Count = 10
    """source = "synthetic": the number of columns."""
    classes: Annotated[int, Field(ge=2, le=10_000)] = 2
    """source = "synthetic": the number of classes."""
    class_separation: Annotated[float, Field(gt=0)] = 1.0
    """source = "synthetic": half the side of the hypercube whose corners are the class centres."""
    noise: NonNegative = 0.1
    """source = "synthetic", a number to predict: deviation of the noise over that of the signal."""
    held_out: Annotated[float, Field(gt=0, lt=1)] = 0.25
    """Share of all rows that are held out (synthetic: of `rows`, drawn in addition)."""
    seed: Seed = 0
    """Seed of the drawn rows and of the split, which is stratified by class."""


if TYPE_CHECKING:
    Activation = str
else:
    Activation = Literal[tuple(ACTIVATIONS)]


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class Model:
    """A multilayer perceptron: Linear, normalisation, activation, dropout, ..., Linear.

    The data gives input and output sizes.
    """

    hidden: Annotated[tuple[Count, ...], Field(strict=False)] = (50,)
    """Units of each hidden layer; [] is softmax regression."""
    activation: Activation = "relu"
    """Activation of every layer but the last. gelu has the error function, gelu_tanh its
    approximation; leaky_relu has slope 0.01 below 0; elu has alpha 1."""
    bias: bool = True
    """Whether every linear layer has a bias."""
    norm: Literal["none", "layer", "batch"] = "none"
    """Normalisation between a hidden linear layer and its activation."""
    norm_eps: Annotated[float, Field(gt=0)] = 1e-5
    """Number added to the variance, inside the root."""
    norm_momentum: Annotated[float, Field(gt=0, le=1)] = 0.1
    """norm = "batch": share of the batch in the running statistics. This is PyTorch's meaning;
    Flax's is 1 minus it."""
    norm_variance: Literal["unbiased", "biased"] = "unbiased"
    """norm = "batch": the variance in the running statistics, over n - 1 (PyTorch) or n (Flax)."""
    dropout: Decay = 0.0
    """Share of the hidden units dropped in training; the others are scaled by 1 / (1 - dropout)."""
    init: Literal[
        "torch",
        "flax",
        "xavier_uniform",
        "xavier_normal",
        "kaiming_uniform",
        "kaiming_normal",
        "orthogonal",
        "zeros",
    ] = "torch"
    """Distribution of the initial weights. Biases are 0, but with "torch" they are drawn as the
    weights are."""


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class Gradient:
    """The treatment of the gradient between the loss and the optimizer."""

    clip: Literal["none", "norm", "value"] = "none"
    """Clipping of the gradient. norm scales all gradients together to a 2-norm of at most
    `clip_at`; value clips each element to +-`clip_at`."""
    clip_at: Annotated[float, Field(gt=0)] = 1.0
    """The largest norm, or value."""
    clip_eps: NonNegative = 0.0
    """clip = "norm": number added to the norm that divides; 1e-6 in PyTorch, 0 in Optax."""
    accumulate: Count = 1
    """Batches whose gradients make one update; an epoch's last update may have fewer."""
    accumulate_mean: Literal["batches", "rows"] = "batches"
    """Weight of each accumulated batch: all alike, or by their rows."""


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class Average:
    """An exponential moving average (EMA) of the parameters, kept beside them."""

    decay: Decay = 0.0
    """Share of the average kept at each update; 0 keeps none."""
    start: Literal["copy", "zero"] = "copy"
    """Start of the average: a copy of the initial parameters, or 0 (optax.ema). PyTorch's
    AveragedModel starts as a copy of the parameters that it first gets: those after the first
    update, where it is called after each."""
    debias: bool = False
    """start = "zero": whether to divide by 1 - decay^updates."""

    @model_validator(mode="after")
    def _debias_needs_zero(self) -> Self:
        if self.debias and self.start != "zero":
            raise ValueError(
                'debias: true needs start = "zero": a copy of the parameters has nothing to correct'
            )
        return self


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class Training:
    """The length of the training, its batches and its precision."""

    epochs: Count = 10
    """Passes over the training rows."""
    batch: Count = 32
    """Rows in a batch; the last batch of an epoch may have fewer."""
    drop_last: bool = False
    """Whether to leave out the last batch of an epoch where it has fewer rows."""
    dtype: Literal["float32", "float64"] = "float32"
    """Precision of data, parameters, arithmetic and learning rate."""
    compute: Literal["same", "bfloat16"] = "same"
    """Precision of products and activations, forward and backward: that of `dtype`, or bfloat16
    with parameters, normalisation, loss, optimizer and learning rate in `dtype` (mixed
    precision)."""
    seed: Seed = 0
    """Seed of the initial parameters and of the order of the rows."""

    @property
    def precision(self) -> str:
        """The precision in words: "float32", or "bfloat16 and float32"."""
        return self.dtype if self.compute == "same" else f"{self.compute} and {self.dtype}"


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class Convergence:
    """The margins of `lockstep converge`, declared before the runs.

    They change no training and do not count in the recipe's hash. 0 is not declared; `lockstep
    converge --pilot` proposes a margin by a stated rule.
    """

    target: NonNegative = 0.0
    """Held-out loss for which the updates until it is reached are counted."""
    loss_margin: NonNegative = 0.0
    """Difference in mean final held-out loss at which two ways of training are not the same, where
    each has draws of its own."""
    score_margin: NonNegative = 0.0
    """The same margin for the final held-out accuracy (a share), or the R2 of a number."""
    updates_margin: NonNegative = 0.0
    """The same margin for the updates to the target."""
    paired_loss_margin: NonNegative = 0.0
    """Like loss_margin, where both train from the same draws, which shows smaller differences."""
    paired_score_margin: NonNegative = 0.0
    """Like score_margin, from the same draws."""
    paired_updates_margin: NonNegative = 0.0
    """Like updates_margin, from the same draws."""
    alpha: Annotated[float, Field(gt=0, lt=0.5)] = 0.05
    """Largest probability of each false verdict."""
    power: Annotated[float, Field(ge=0.5, lt=1)] = 0.9
    """Probability of a right verdict at which differences are stated."""


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class Recipe:
    """The full description of a training run."""

    data: Data = Data()
    model: Model = Model()
    loss: Loss = Loss()
    gradient: Gradient = Gradient()
    optimizer: Optimizer = Optimizer()
    average: Average = Average()
    schedule: Schedule = Schedule()
    training: Training = Training()
    convergence: Convergence = Convergence()

    @model_validator(mode="after")
    def _schedule_fits(self) -> Self:
        if self.schedule.untuned and self.optimizer.get("beta2") is None:
            raise ValueError(
                f"schedule.warmup_shape: {self.schedule.warmup_shape} takes its length from "
                f"optimizer.beta2, which {self.optimizer.name} does not have"
            )
        if self.schedule.length:
            self.check_schedule(self.schedule.length, f"schedule.length = {self.schedule.length}")
        elif self.schedule.unit == "epoch":
            epochs = self.training.epochs
            self.check_schedule(epochs, f"the run of {epochs} epochs (training.epochs)")
        return self

    @model_validator(mode="after")
    def _a_multiplier_a_layer(self) -> Self:
        factors = len(self.optimizer.multipliers)
        layers = len(self.model.hidden) + 1
        if factors not in (0, layers):
            raise ValueError(
                f"optimizer.multipliers: {factors} for {layers} linear layers (model.hidden, and "
                "the last)"
            )
        return self

    def check_schedule(self, length: int, what: str) -> None:
        """Raise ValueError unless warmup and decay fit into T = `length`, which `what` names."""
        misfit = self.schedule.misfit(self.warmup, length, what)
        if misfit:
            raise ValueError(f"schedule.{misfit}")

    @property
    def warmup(self) -> int:
        """Length of the warmup in `schedule.unit`s; 0 is no warmup."""
        if not self.schedule.untuned:
            return self.schedule.warmup
        to_whole = int if self.schedule.edges == "pytorch_warmup" else round
        times = 2 if self.schedule.warmup_shape == "untuned_linear" else 1
        return to_whole(times / (1 - self.optimizer.get("beta2")))

    @property
    def dtype(self) -> np.dtype[Any]:
        """`training.dtype` as a NumPy dtype."""
        return np.dtype(self.training.dtype)

    @property
    def hash(self) -> str:
        """SHA-256 (hex) of the fields that decide the training.

        These do not count:

        - `data.path`: the content of a file stands in the data hash;
        - knobs that the chosen names do not have, and options that are not set;
        - `schedule.edges`, where it changes no rate;
        - `convergence`, which trains nothing;
        - fields of `LATER` at their default, so that recipes written before them keep their hash.
        """
        content: dict[str, dict[str, Any]] = {}
        for section, values in asdict(self).items():
            content[section] = {name: value for name, value in values.items() if value is not None}
        del content["data"]["path"]
        del content["convergence"]
        for field in LATER:
            if not _is_changed(self.data, field):
                del content["data"][field]
        if self.data.holdout:
            content["data"]["holdout"] = "a file"
        if not self.schedule.edges_change_rates(self.warmup):
            content["schedule"].pop("edges", None)
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def as_dict(self) -> dict[str, dict[str, Any]]:
        """Section -> field -> value, as in a file's header; a field of other variants is None."""
        content: dict[str, dict[str, Any]] = {}
        for section, values in asdict(self).items():
            content[section] = dict.fromkeys(field_infos(section)) | values
        return content

    @property
    def update_rule(self) -> "Recipe":
        """The recipe with the default for every field that one update does not depend on."""
        training = Training(dtype=self.training.dtype, compute=self.training.compute)
        return replace(
            self, data=Data(), schedule=Schedule(), training=training, convergence=Convergence()
        )

    def with_values(self, values: Mapping[str, Any]) -> "Recipe":
        """A copy with some fields changed, named as in TOML: `{"schedule.warmup": 3}`.

        Another `name` of a loss, optimizer or schedule brings its own defaults; old knobs stay if
        they were changed and it has them. A `preset` of an optimizer, schedule or model brings its
        own, too; old knobs stay if they were changed and it leaves them free.

        Raises:
            InputError: a name that is no field, or a value that the field does not take.
        """
        content = asdict(self)
        for name, value in values.items():
            section, _, field = name.partition(".")
            if section not in SECTIONS or not field:
                raise InputError(
                    f"{printable_name(name)}: no such field{nearest(name, _field_names())}"
                )
            content[section][field] = value
        for section in PRESETS:
            if "preset" in content[section]:
                self._make_way_for_preset(section, content[section], values)
        for section in KNOBS:
            changed = [field.partition(".")[2] for field in values if _is_in(section, field)]
            carry_over(getattr(self, section), content[section], changed)
        return Recipe.from_dict(content)

    def _make_way_for_preset(
        self, section: str, content: dict[str, Any], values: Mapping[str, Any]
    ) -> None:
        """Remove the section's old knobs, but those that were changed and the preset leaves free.

        Args:
            section: "optimizer", "schedule" or "model".
            content: field -> value of the section; changed in place.
            values: the fields that were set together with the preset, and stay.
        """
        before = getattr(self, section)
        preset = PRESETS[section].get(str(content["preset"]))
        for knob in asdict(before):
            stays = preset and knob in preset.free and _is_changed(before, knob)
            if f"{section}.{knob}" not in values and not stays:
                del content[knob]

    def with_overrides(self, overrides: Sequence[str]) -> "Recipe":
        """A copy with some fields changed by "section.field=value" items.

        The value is written as in TOML; a bare word is a string.

        Raises:
            InputError: as in `with_values`.
        """
        return self.with_values(dict(_parse_override(item) for item in overrides))

    def with_dtype(self, dtype: Literal["float32", "float64"]) -> "Recipe":
        """The same recipe in another precision; in float64 everything is computed in float64."""
        compute = "same" if dtype == "float64" else self.training.compute
        return replace(self, training=replace(self.training, dtype=dtype, compute=compute))

    @property
    def forms(self) -> dict[str, "Recipe"]:
        """Precision -> the recipe in it: float64, where meaning is judged, and float32.

        A recipe whose products are bfloat16 has float32 alone.
        """
        forms = {"float32": self.with_dtype("float32")}
        if self.training.compute == "same":
            forms = {"float64": self.with_dtype("float64")} | forms
        return forms

    @staticmethod
    def from_dict(content: Mapping[str, Any]) -> "Recipe":
        """A recipe from nested dicts, as `tomllib` reads them.

        A missing field takes its default. A `preset` in a section stands for the knobs of
        `lockstep.recipe.presets`.

        Raises:
            InputError: an unknown section, field or preset, a wrong type, or a value out of range;
                names each.
        """
        sections: dict[str, Any] = {}
        for name, values in content.items():
            if name not in SECTIONS:
                raise InputError(
                    f"{printable_name(name)}: no such section{nearest(name, list(SECTIONS))}"
                )
            if not isinstance(values, Mapping):
                raise InputError(f"{name}: must be a table, [{name}]")
            if name in PRESETS and "preset" in values:
                values = expand(name, values)
            try:
                sections[name] = SECTIONS[name](**values)
            except ValidationError as error:
                raise InputError(_one_line(error, name)) from None
        try:
            return Recipe(**sections)
        except ValidationError as error:
            raise InputError(_one_line(error)) from None

    def to_toml(self, *, documented: bool = False) -> str:
        """The recipe as TOML with every field; `documented` puts each field's text above it."""
        import tomlkit

        document = tomlkit.document()
        for section in fields(self):
            values = getattr(self, section.name)
            table = tomlkit.table()
            for name in _field_order(values):
                value = getattr(values, name)
                if value is None:  # the option is not set
                    continue
                if documented:
                    table.add(tomlkit.comment(_description(values, name)))
                table.add(name, list(value) if isinstance(value, tuple) else value)
            document.add(section.name, table)
        return tomlkit.dumps(document)


SECTIONS: dict[str, Any] = {
    "data": Data,
    "model": Model,
    "loss": Loss,
    "gradient": Gradient,
    "optimizer": Optimizer,
    "average": Average,
    "schedule": Schedule,
    "training": Training,
    "convergence": Convergence,
}


LATER = ("separator", "decimal", "drop", "missing", "missing_marks", "categories", "holdout")
"""Fields of `data` that came after the first recipes were hashed."""

KNOBS = {
    "loss": {name: kind.knobs() for name, kind in Loss.variants.items()},
    "optimizer": {name: kind.knobs() for name, kind in Optimizer.variants.items()},
    "schedule": {name: kind.knobs() for name, kind in Schedule.variants.items()},
}
"""Section told apart by its name -> name -> knob -> default."""

OPTIONS: dict[str, dict[str, tuple[str, ...]]] = {
    "schedule": {name: kind.options() for name, kind in Schedule.variants.items()},
}
"""Section -> name -> the knobs whose default is None."""


def ready_made_recipes() -> dict[str, Path]:
    """Name -> TOML file of the recipes that come with a clone or an installed package."""
    here = Path(__file__)
    for folder in (here.parent / "ready_made", here.parents[2] / "recipes"):
        if folder.is_dir():
            return {path.stem: path for path in sorted(folder.glob("*.toml"))}
    return {}


def load_recipe(name_or_path: str, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe: a TOML file, or the name of a ready-made one.

    Args:
        name_or_path: "digits", "recipes/digits.toml", "mine.toml".
        overrides: "section.field=value" items, as for `Recipe.with_overrides`.

    Raises:
        InputError: no such recipe, not TOML, or a field that is unknown or wrong.
    """
    path = Path(name_or_path)
    if not os.path.exists(path) or os.path.isdir(path):
        ready_made = ready_made_recipes()
        # in any folder, recipes/digits.toml names the ready-made recipe
        name = path.stem if str(path.parent) in (".", "recipes") else name_or_path
        if name not in ready_made:
            raise InputError(
                f"{name_or_path}: no such recipe file, and no ready-made recipe of that name"
                f"{nearest(name, list(ready_made))} (ready-made: {', '.join(ready_made)})"
            )
        path = ready_made[name]
    content = read_toml(path)
    try:
        recipe = Recipe.from_dict(content)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    folder = path.resolve().parent
    for field in ("path", "holdout"):
        file = getattr(recipe.data, field)
        if file:
            recipe = recipe.with_values({f"data.{field}": str(folder / file)})
    return recipe.with_overrides(overrides)


def _is_in(section: str, field: str) -> bool:
    return field.startswith(f"{section}.")


def _parse_override(item: str) -> tuple[str, Any]:
    name, equals, text = item.partition("=")
    if not equals:
        raise InputError(f"--set {printable_name(item)}: must be section.field=value")
    return name.strip(), parse_value(text)


def parse_value(text: str) -> Any:
    """The value of a text in TOML; a bare word is a string."""
    try:
        content = parse_toml(f"value = {text}")
    except (ValueError, RecursionError):
        content = {}
    return content["value"] if content.keys() == {"value"} else text.strip()


def _description(values: Any, field: str) -> str:
    """A field's text, choices and default, in one line."""
    info: FieldInfo = type(values).__pydantic_fields__[field]
    text = " ".join(docstrings(type(values))[field].split())
    choices = choices_of(info.annotation)
    default = _default(values, field)
    if isinstance(values, NamedSection) and field == "name":
        text += f" {values.name}: {_first_words(type(values))}"
        choices = list(values.variants)
        default = type(values).section().infos()["name"].default
    if choices:
        text += " One of " + ", ".join(f'"{choice}"' for choice in choices) + "."
    if isinstance(default, tuple):
        default = list(default)
    return f"{text} Default: {json.dumps(default)}."


def _first_words(kind: type) -> str:
    """The first sentence of a class's docstring."""
    text = " ".join((kind.__doc__ or "").split())
    return text.partition(". ")[0].removesuffix(".") + "."


def _field_order(values: Any) -> list[str]:
    if isinstance(values, NamedSection):
        return values.field_names()
    return [field.name for field in fields(values)]


def variants_of(section: str) -> dict[str, type[NamedSection]]:
    """Name -> variant of a section; {} for a section that is not told apart by its name."""
    kind = SECTIONS[section]
    return dict(kind.variants) if issubclass(kind, NamedSection) else {}


def field_infos(section: str) -> dict[str, FieldInfo]:
    """Field of a section ("data", "model", ...) or its variants -> its annotation and default."""
    return _infos(SECTIONS[section])


def _infos(kind: Any) -> dict[str, FieldInfo]:
    infos: dict[str, FieldInfo]
    infos = kind.infos() if issubclass(kind, NamedSection) else kind.__pydantic_fields__
    return infos


def field_docstrings(section: str) -> dict[str, str]:
    """Field of a section ("data", "model", ...) -> its text, in the first variant that has it."""
    texts = dict(docstrings(SECTIONS[section]))
    for variant in variants_of(section).values():
        texts = docstrings(variant) | texts
    return texts


def _default(values: Any, field: str) -> Any:
    return _infos(type(values))[field].default


def _is_changed(values: Any, field: str) -> bool:
    value = getattr(values, field)
    return value is not None and value != _default(values, field)


def _field_names() -> list[str]:
    names = [f"{section}.{field}" for section in SECTIONS for field in field_infos(section)]
    return names + [f"{section}.preset" for section in PRESETS]


def _one_line(error: ValidationError, section: str = "") -> str:
    """The faults of a pydantic error in one line, each with its full field name."""
    faults = []
    for fault in error.errors():
        name = ".".join(str(part) for part in (section, *fault["loc"]) if part != "")
        message = fault["msg"].removeprefix("Value error, ")
        if fault["type"] == "unexpected_keyword_argument":
            faults.append(f"{printable_name(name)}: no such field{nearest(name, _field_names())}")
        elif fault["type"] == "value_error":
            faults.append(f"{section}.{message}" if section else message)
        else:
            message = message.replace("valid tuple", "list")
            faults.append(
                f"{name}: {message[0].lower()}{message[1:]}, got {short_repr(fault['input'])}"
            )
    return "; ".join(faults)
