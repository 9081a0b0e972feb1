"""What to train: a recipe is a set of frozen dataclasses, each field documented, validated, to and
from TOML.
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
    """Where the rows come from: drawn, shipped with scikit-learn, or a file of your own. Whether
    there are classes or
    a number to predict follows from `loss.name`; breast_cancer and digits have classes, diabetes a
    number."""
    path: str = ""
    """source = "file": a .csv, .tsv, .parquet or .npz file; relative to the recipe's folder."""
    target: str = ""
    """source = "file": the column (or .npz array) that holds the class, or the number to
    predict.
    """
    separator: Literal["suffix", "comma", "semicolon", "tab", "pipe", "space"] = "suffix"
    """source = "file": what separates the cells of a text table; suffix is a tab in .tsv and a
    comma in .csv.
    """
    decimal: Literal["seen", "comma"] = "seen"
    """source = "file": what numbers in text have before their fraction. seen: a point, or a comma
    where the cells leave no doubt; 1,234 leaves one."""
    drop: Names = ()
    """source = "file": columns to leave out."""
    missing: Literal["refuse", "drop", "mean", "median"] = "refuse"
    """source = "file": what becomes of missing values. drop leaves out their rows; mean and median
    fill in that of the training rows, and give a missing category a column of its own."""
    missing_marks: Names = ()
    """source = "file": cells that are missing values, beside empty ones, NA, NaN, null, None and ?
    (and - in numbers)."""
    categories: Literal["refuse", "one-hot"] = "refuse"
    """source = "file": what becomes of text in a feature. one-hot: a column for each category of
    the training rows, all 0 for one that only held-out rows have."""
    holdout: str = ""
    """source = "file": a second file whose rows are held out, in place of the share `held_out` of
    the first; relative to the recipe's folder."""
    rows: Count = 1000
    """source = "synthetic": rows to train on; the held-out rows are drawn in addition."""
    features: Count = 10
    """source = "synthetic": columns."""
    classes: Annotated[int, Field(ge=2, le=10_000)] = 2
    """source = "synthetic": classes."""
    class_separation: Annotated[float, Field(gt=0)] = 1.0
    """source = "synthetic": half the side of the hypercube whose corners are the class centres."""
    noise: NonNegative = 0.1
    """source = "synthetic", a number to predict: deviation of its noise, as a share of that of the
    signal.
    """
    held_out: Annotated[float, Field(gt=0, lt=1)] = 0.25
    """Rows held out, as a share of all rows (synthetic: of `rows`, drawn in addition)."""
    seed: Seed = 0
    """Seed of the drawn rows and of the split, which is stratified by class."""


if TYPE_CHECKING:
    Activation = str
else:
    Activation = Literal[tuple(ACTIVATIONS)]


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class Model:
    """A multilayer perceptron: Linear, normalisation, activation, dropout, ..., Linear. The data
    gives input and
    output sizes."""

    hidden: Annotated[tuple[Count, ...], Field(strict=False)] = (50,)
    """Hidden units, a number a layer; [] is softmax regression."""
    activation: Activation = "relu"
    """Applied after every layer but the last. gelu has the error function, gelu_tanh its
    approximation; leaky_relu
    has slope 0.01 below 0; elu has alpha 1."""
    bias: bool = True
    """A bias in every linear layer."""
    norm: Literal["none", "layer", "batch"] = "none"
    """Normalisation between a hidden linear layer and its activation."""
    norm_eps: Annotated[float, Field(gt=0)] = 1e-5
    """Added to the variance, inside the root."""
    norm_momentum: Annotated[float, Field(gt=0, le=1)] = 0.1
    """norm = "batch": share of the batch in the running statistics (PyTorch's meaning; Flax's is 1
    minus it).
    """
    norm_variance: Literal["unbiased", "biased"] = "unbiased"
    """norm = "batch": the variance that goes into the running statistics, over n - 1 (PyTorch) or n
    (Flax).
    """
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
    """Distribution of the initial weights; biases are 0, but with "torch" drawn as the weights
    are.
    """


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class Gradient:
    """What happens to the gradient between the loss and the optimizer."""

    clip: Literal["none", "norm", "value"] = "none"
    """norm: scale all gradients together to a 2-norm of at most `clip_at`. value: each element to
    +-`clip_at`.
    """
    clip_at: Annotated[float, Field(gt=0)] = 1.0
    """The largest norm, or value."""
    clip_eps: NonNegative = 0.0
    """clip = "norm": added to the norm that divides; 1e-6 in PyTorch, 0 in Optax."""
    accumulate: Count = 1
    """Batches whose gradients make one update; an epoch's last update may have fewer."""
    accumulate_mean: Literal["batches", "rows"] = "batches"
    """Each batch counts alike, or by its rows."""


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class Average:
    """An exponential moving average (EMA) of the parameters, kept beside them."""

    decay: Decay = 0.0
    """Share of the average kept at each update; 0 keeps none."""
    start: Literal["copy", "zero"] = "copy"
    """Begin as a copy of the initial parameters, or at 0 (optax.ema). PyTorch's AveragedModel
    begins as a copy of what it is first given: the initial parameters here, those after the first
    update where it is called after each."""
    debias: bool = False
    """start = "zero": divide by 1 - decay^updates."""

    @model_validator(mode="after")
    def _debias_needs_zero(self) -> Self:
        if self.debias and self.start != "zero":
            raise ValueError(
                'debias: true needs start = "zero": a copy of the parameters has nothing to correct'
            )
        return self


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
    compute: Literal["same", "bfloat16"] = "same"
    """Precision of the products and activations, forward and backward: that of `dtype`, or bfloat16
    beside parameters, normalisation, loss, optimizer and learning rate in `dtype` (mixed
    precision)."""
    seed: Seed = 0
    """Seed of the initial parameters and of the order of the rows."""

    @property
    def precision(self) -> str:
        """What it computes in, to be read: "float32", or "bfloat16 and float32"."""
        return self.dtype if self.compute == "same" else f"{self.compute} and {self.dtype}"


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class Convergence:
    """What `lockstep converge` takes for the same; declared before the runs. It changes no training
    and does not count in the recipe's hash. 0 is not declared; `lockstep converge --pilot` proposes
    a margin by a stated rule."""

    target: NonNegative = 0.0
    """Held-out loss whose reaching is counted in updates."""
    loss_margin: NonNegative = 0.0
    """Difference in mean final held-out loss from which on two ways of training are not the same,
    where each draws by itself."""
    score_margin: NonNegative = 0.0
    """The same for the final held-out accuracy (a share), or the R2 of a number."""
    updates_margin: NonNegative = 0.0
    """The same for the updates to the target."""
    paired_loss_margin: NonNegative = 0.0
    """As loss_margin, where both train from the same draws, which shows smaller differences."""
    paired_score_margin: NonNegative = 0.0
    """As score_margin, from the same draws."""
    paired_updates_margin: NonNegative = 0.0
    """As updates_margin, from the same draws."""
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
                "optimizer.beta2, which "
                f"{self.optimizer.name} does not have"
            )
        if self.schedule.length:
            self.check_schedule(self.schedule.length, f"schedule.length = {self.schedule.length}")
        elif self.schedule.unit == "epoch":
            epochs = self.training.epochs
            self.check_schedule(epochs, f"the run of {epochs} epochs (training.epochs)")
        return self

    @model_validator(mode="after")
    def _a_multiplier_a_layer(self) -> Self:
        factors, layers = len(self.optimizer.multipliers), len(self.model.hidden) + 1
        if factors not in (0, layers):
            raise ValueError(
                f"optimizer.multipliers: {factors} for {layers} linear layers "
                "(model.hidden, and the last)"
            )
        return self

    def check_schedule(self, length: int, what: str) -> None:
        """Raise ValueError where warmup and decay do not fit into T = `length`, called `what`."""
        misfit = self.schedule.misfit(self.warmup, length, what)
        if misfit:
            raise ValueError(f"schedule.{misfit}")

    @property
    def warmup(self) -> int:
        """Length of the warmup in `schedule.unit`s; 0 is no warmup."""
        whole = int if self.schedule.edges == "pytorch_warmup" else round
        if self.schedule.warmup_shape == "untuned_linear":
            return whole(2 / (1 - self.optimizer.get("beta2")))
        if self.schedule.warmup_shape == "untuned_exponential":
            return whole(1 / (1 - self.optimizer.get("beta2")))
        return self.schedule.warmup

    @property
    def dtype(self) -> np.dtype[Any]:
        """`training.dtype` as a NumPy dtype."""
        return np.dtype(self.training.dtype)

    @property
    def hash(self) -> str:
        """SHA-256 (hex) of every field but `data.path`: where a file lies does not change what is
        trained,
        and what is in it stands in the data hash. Knobs that the chosen names do not have do not
        count, nor those that are not set, nor `schedule.edges` where it changes no rate, nor
        `convergence`, which trains nothing. Fields of `LATER` count where they are changed, so that
        recipes written before them keep their hash."""
        content: dict[str, Any] = {
            section: {field: value for field, value in values.items() if value is not None}
            for section, values in asdict(self).items()
        }
        del content["data"]["path"], content["convergence"]
        for field in LATER:
            if not _is_changed(self.data, field):
                del content["data"][field]
        if self.data.holdout:
            content["data"]["holdout"] = "a file"
        if not self.schedule.edges_change_rates(self.warmup):
            content["schedule"].pop("edges", None)
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def as_dict(self) -> dict[str, dict[str, Any]]:
        """Section -> field -> value, as a file's header has it; a field that only other variants
        have is None.
        """
        content: dict[str, dict[str, Any]] = asdict(self)
        return {
            section: dict.fromkeys(field_infos(section)) | values
            for section, values in content.items()
        }

    @property
    def update_rule(self) -> "Recipe":
        """The recipe with all that one update does not depend on put to its default."""
        training = Training(dtype=self.training.dtype, compute=self.training.compute)
        return replace(
            self, data=Data(), schedule=Schedule(), training=training, convergence=Convergence()
        )

    def with_values(self, values: Mapping[str, Any]) -> "Recipe":
        """A copy with some fields changed, named as in TOML: `{"schedule.warmup": 3}`. Another
        `name` of a loss, optimizer or schedule brings its own defaults; of the old knobs those stay
        that were changed and that it has.
        So does a `preset` of an optimizer, schedule or model: of the old knobs those stay that it
        leaves free.

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
        for section, presets in PRESETS.items():
            if "preset" in content[section]:
                preset, before = (
                    presets.get(str(content[section]["preset"])),
                    getattr(self, section),
                )
                for knob in asdict(before):
                    stays = preset and knob in preset.free and _is_changed(before, knob)
                    if f"{section}.{knob}" not in values and not stays:
                        del content[section][knob]
        for section in KNOBS:
            given = {field.partition(".")[2] for field in values if field.startswith(f"{section}.")}
            carry_over(getattr(self, section), content[section], given)
        return Recipe.from_dict(content)

    def with_overrides(self, overrides: Sequence[str]) -> "Recipe":
        """A copy with some fields changed by "section.field=value" items, the value as in TOML; a
        bare word is a string.

        Raises:
            InputError: as `with_values`.
        """
        return self.with_values(dict(_parse_override(item) for item in overrides))

    def with_dtype(self, dtype: Literal["float32", "float64"]) -> "Recipe":
        """The same recipe in another precision; in float64 nothing is computed in less."""
        compute = "same" if dtype == "float64" else self.training.compute
        return replace(self, training=replace(self.training, dtype=dtype, compute=compute))

    @property
    def forms(self) -> dict[str, "Recipe"]:
        """Precision -> the recipe in it: float64, in which meaning is judged, and float32; the
        latter alone where the products are bfloat16."""
        both = {"float64": self.with_dtype("float64"), "float32": self.with_dtype("float32")}
        return both if self.training.compute == "same" else {"float32": both["float32"]}

    @staticmethod
    def from_dict(content: Mapping[str, Any]) -> "Recipe":
        """A recipe from nested dicts, as `tomllib` reads them; a missing field takes its default. A
        `preset` in a section stands for the knobs of `lockstep.recipe.presets`.

        Raises:
            InputError: unknown section, field or preset, wrong type, or a value out of range; names
            each.
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
        """The recipe as TOML, every field written out; `documented` puts each field's text above
        it.
        """
        import tomlkit

        document = tomlkit.document()
        for section in fields(self):
            values = getattr(self, section.name)
            table = tomlkit.table()
            for name in _field_order(values):
                value = getattr(values, name)
                if value is None:  # an option that is not set
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
"""The sections whose `name` says which of their fields there are."""

OPTIONS: dict[str, dict[str, tuple[str, ...]]] = {
    "schedule": {name: kind.options() for name, kind in Schedule.variants.items()},
}
"""Of those sections the fields that are not set unless they are given."""


def ready_made_recipes() -> dict[str, Path]:
    """The recipes that come with lockstep: name -> TOML file, in a clone as in an installed
    package.
    """
    here = Path(__file__)
    for folder in (here.parent / "ready_made", here.parents[2] / "recipes"):
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
    if not os.path.exists(path) or os.path.isdir(path):
        ready_made = ready_made_recipes()
        # recipes/digits.toml is also the way to write the ready-made one from any folder
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
    for name in ("path", "holdout"):
        given = getattr(recipe.data, name)
        if given:
            recipe = recipe.with_values({f"data.{name}": str(folder / given)})
    return recipe.with_overrides(overrides)


def _parse_override(item: str) -> tuple[str, Any]:
    name, equals, text = item.partition("=")
    if not equals:
        raise InputError(f"--set {printable_name(item)}: must be section.field=value")
    return name.strip(), parse_value(text)


def parse_value(text: str) -> Any:
    """A value as in TOML; a bare word is a string."""
    try:
        content = parse_toml(f"value = {text}")
    except (ValueError, RecursionError):
        content = {}
    return content["value"] if content.keys() == {"value"} else text.strip()


def _description(values: Any, field: str) -> str:
    info: FieldInfo = type(values).__pydantic_fields__[field]
    text = " ".join(docstrings(type(values))[field].split())
    choices = choices_of(info.annotation)
    if isinstance(values, NamedSection) and field == "name":
        choices = list(values.variants)
        text += f" {values.name}: {_first_words(type(values))}"
    if choices:
        text += " One of " + ", ".join(f'"{choice}"' for choice in choices) + "."
    default = _default(values, field)
    if isinstance(values, NamedSection) and field == "name":
        default = type(values).section().infos()["name"].default
    return (
        f"{text} Default: {json.dumps(list(default) if isinstance(default, tuple) else default)}."
    )


def _first_words(kind: type) -> str:
    """The first sentence of a class's docstring."""
    text = " ".join((kind.__doc__ or "").split())
    return text.partition(". ")[0].removesuffix(".") + "."


def _field_order(values: Any) -> list[str]:
    if isinstance(values, NamedSection):
        return values.field_names()
    return [field.name for field in fields(values)]


def variants_of(section: str) -> dict[str, type[NamedSection]]:
    """Name -> what a section is with it; {} for a section that is not told apart by its name."""
    kind = SECTIONS[section]
    return dict(kind.variants) if issubclass(kind, NamedSection) else {}


def field_infos(section: str) -> dict[str, FieldInfo]:
    """Field of a section ("data", "model", ...) -> its annotation and default; the fields of all
    its variants.
    """
    kind = SECTIONS[section]
    infos: dict[str, FieldInfo] = (
        kind.infos() if issubclass(kind, NamedSection) else kind.__pydantic_fields__
    )
    return infos


def field_docstrings(section: str) -> dict[str, str]:
    """Field of a section ("data", "model", ...) -> its text, as it is written; of the first variant
    that has it.
    """
    texts = dict(docstrings(SECTIONS[section]))
    for variant in variants_of(section).values():
        texts = docstrings(variant) | texts
    return texts


def _default(values: Any, field: str) -> Any:
    infos = (
        type(values).infos()
        if isinstance(values, NamedSection)
        else type(values).__pydantic_fields__
    )
    return infos[field].default


def _is_changed(values: Any, field: str) -> bool:
    value = getattr(values, field)
    return value is not None and value != _default(values, field)


def _field_names() -> list[str]:
    presets = [f"{name}.preset" for name in PRESETS]
    return [
        f"{section}.{field}" for section in SECTIONS for field in field_infos(section)
    ] + presets


def _one_line(error: ValidationError, section: str = "") -> str:
    """Every fault of a pydantic error in one line, each with its full field name."""
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
