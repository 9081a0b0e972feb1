"""The headers of lockstep's files: the fields of each kind, with their types and ranges.

A file's seal shows damage and no more, since anybody can seal a file again. A header is therefore
checked before it is used.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, AllowInfNan, BaseModel, ConfigDict, Field, ValidationError

from lockstep.errors import InputError

__all__ = ["Checkpoint", "Data", "Ensemble", "Loop", "Manifest", "Trace", "check_header"]

DEPTH = 32
"""Levels that a header may be nested."""
NAMED = 3
"""Faults in a message; more are counted."""

Whole = Annotated[int, Field(ge=0, le=2**53)]
Positive = Annotated[int, Field(ge=1, le=2**53)]
Number = Annotated[float, AllowInfNan(False)]
Hash = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Backend = Literal["torch", "jax", "oracle"]


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    for name, value in values.items():
        if not isinstance(value, str | int | float | None):
            raise ValueError(f"{name!r} must be text, a number or a flag")
    return values


Plain = Annotated[dict[str, Any], AfterValidator(_plain)]


class Header(BaseModel):
    """A header, whose values keep their JSON types; fields of later versions are ignored."""

    model_config = ConfigDict(strict=True, extra="allow")


class Target(Header):
    """The column that is predicted."""

    name: str
    mean: Number
    scale: Number


class Trace(Header):
    """The header of a recipe's trace; the first golden files lack the fields with a default."""

    backend: Backend
    recipe: dict[str, Any]
    recipe_hash: Hash
    data_hash: Hash
    dtype: Literal["float32", "float64"]
    updates: Positive
    updates_per_epoch: Positive
    first_update: Whole
    parameters_every: Whole = 0
    detail: list[Whole] = []
    statistics: Whole | None = None
    synchronised: bool = False
    target: Target
    layers: list[str]
    environment: Plain


class Recording(Header):
    """The settings of a recorder, and how its loop ended."""

    every: Whole
    window: list[int]
    budget_mib: Number
    perturb: int | None
    stopped: str


class Operation(Header):
    """One operation of an update that was listed in a loop."""

    layer: str
    op: str
    line: str
    shape: list[Whole]
    dtype: str
    inputs: list[Annotated[int, Field(ge=-1)]] = []


class Group(Header):
    """What was read of a group of an optimizer's parameters; its knobs are further fields."""

    parameters: list[str]
    varies: list[str] = []


class Optimizer(Header):
    """What was read of an optimizer."""

    name: str
    groups: list[Group]


class Reading(Header):
    """What was read off a loop."""

    optimizers: list[Optimizer] = []
    schedulers: list[dict[str, Any]] = []
    modules: dict[str, dict[str, Any]] = {}
    autocast: dict[str, Any] = {}
    grad_scaler: dict[str, Any] = {}


class Loop(Header):
    """The header of a trace of your own loop; older ones lack the fields with a default."""

    kind: Literal["loop"]
    backend: str
    settings: dict[str, Any]
    dtype: str
    dtypes: list[str]
    updates: Positive
    updates_per_epoch: Positive
    first_update: Literal[0]
    detail: list[Whole]
    layers: list[str]
    buffers: list[str]
    recording: Recording
    environment: dict[str, Any]
    operations: dict[str, list[Operation]] = {}
    shapes: dict[str, list[Whole]] = {}
    array_dtypes: dict[str, str] = {}
    inputs: dict[str, str] = {}
    read: Reading = Reading()


class Checkpoint(Header):
    """The header of a checkpoint, whether a run wrote it or a conversion."""

    backend: Literal["torch", "jax", "oracle", "flax"]
    recipe: dict[str, Any]
    recipe_hash: Hash
    data_hash: Hash
    batches: Whole
    update: Whole
    epoch: Whole
    batch: Whole
    accumulated: Whole


class Ensemble(Header):
    """The header of an ensemble."""

    backend: Backend
    recipe_hash: Hash
    updates: Positive
    updates_per_epoch: Positive
    chunk: Positive
    environment: Plain
    reason: str = ""


class Data(Header):
    """The header of prepared data."""

    columns: list[str]
    classes: list[str]
    warnings: list[str]
    batch: Positive
    drop_last: bool
    epochs: Positive
    seed: Whole
    outputs: Positive
    target: str
    target_mean: Number
    target_scale: Number
    accumulate: Positive
    accumulate_mean: Literal["batches", "rows"]
    hidden: list[Positive]
    dropout: Annotated[float, Field(ge=0, lt=1)]


class Entry(Header):
    """A golden recipe: the recipe as TOML, hashes, and the SHA-256 of each file."""

    recipe: str
    recipe_hash: Hash
    data_hash: Hash
    files: dict[str, Hash]


class Manifest(Header):
    """The manifest of a golden folder."""

    host: dict[str, str]
    backends: dict[Backend, Plain]
    recipes: Annotated[dict[str, Entry], Field(min_length=1)]


def check_header(whose: str, kind: type[Header], header: object) -> None:
    """Raise InputError unless a header has the fields of its kind.

    Args:
        whose: the file, for the message.
        kind: `Trace`, `Loop`, `Checkpoint`, `Ensemble`, `Data` or `Manifest`.
        header: the JSON value of the file.

    Raises:
        InputError: no object, an object nested too deep, or a field that is missing or wrong;
            names each.
    """
    if not isinstance(header, dict):
        raise InputError(f"{whose}: header: must be an object")
    if _is_deeper(header, DEPTH):
        raise InputError(f"{whose}: header: is nested deeper than {DEPTH} levels")
    try:
        kind.model_validate(header)
    except ValidationError as error:
        errors = error.errors(include_url=False, include_context=False)
        faults = [_fault(details) for details in errors]
        more = f" and {len(faults) - NAMED} more" if len(faults) > NAMED else ""
        raise InputError(f"{whose}: header: {'; '.join(faults[:NAMED])}{more}") from None


def _fault(details: Mapping[str, Any]) -> str:
    field = ".".join(str(part) for part in details["loc"])
    shown = field if field.isprintable() else repr(field)
    message = details["msg"].removeprefix("Value error, ")
    return f"{shown}: {message[0].lower()}{message[1:]}"


def _is_deeper(value: object, levels: int) -> bool:
    level = [value]
    for _ in range(levels):
        containers = [item for item in level if isinstance(item, dict | list)]
        level = []
        for container in containers:
            level += container.values() if isinstance(container, dict) else container
        if not level:
            return False
    return True
