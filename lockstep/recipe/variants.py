"""Sections told apart by `name`: a frozen dataclass for each name, in a file of its own.

A section, such as `Loss`, is a class with the fields that all its variants have. A variant, such as
`Huber`, is a subclass with fields of its own and a default for `name`; its definition enters it in
the section's `variants`. The section's constructor makes the variant: `Loss(name="huber",
delta=0.3)` is `Huber(delta=0.3)`.

A variant's fields other than the `common` ones are its *knobs*. A knob whose default is None is an
*option*: unless it is set, it stands in no TOML and counts in no hash.
"""

import ast
import dataclasses
import inspect
import pkgutil
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import field, fields
from functools import cache
from importlib import import_module
from itertools import pairwise
from typing import Any, ClassVar, NamedTuple, Self, get_args

from pydantic import model_validator
from pydantic.dataclasses import dataclass
from pydantic.fields import FieldInfo
from pydantic_core import ArgsKwargs

from lockstep.recipe.values import CONFIG
from lockstep.recipe.wording import one_of, short_repr

__all__ = [
    "Cause",
    "NamedSection",
    "Spec",
    "carry_over",
    "choices_of",
    "docstrings",
    "load_variants",
]


class Cause(NamedTuple):
    """The cause that a diagnosis names where a knob has another value."""

    key: str
    page: str = ""
    """The atlas page about it, or ""."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Spec:
    """The facts about a variant that report, matrix and diagnosis read, beside its fields."""

    title: str
    """The variant's name or its verb in the report; the section's spec says which."""
    needs: Mapping[str, Any] = field(default_factory=dict)
    """Field -> the value that the parity matrix must set: "schedule.peak" -> 0.005."""
    others: Mapping[str, Any] = field(default_factory=dict)
    """Knob -> a second value for the parity matrix; a knob with choices needs none."""
    causes: Mapping[str, Cause] = field(default_factory=dict)
    """Knob -> the cause where it has another value; otherwise the key is "other-" and the knob."""


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class NamedSection:
    """The base of all sections that are told apart by their name."""

    name: str
    """The name of the variant."""

    spec: ClassVar[Spec]
    """The facts about the variant that the rest of lockstep reads."""
    variants: ClassVar[dict[str, "type[Self]"]] = {}
    """Name -> variant, for one section."""
    section_causes: ClassVar[dict[str, Cause]] = {}
    """Knob -> cause, for knobs that several variants share; see `Spec.causes`."""
    common: ClassVar[tuple[str, ...]] = ("name",)
    """Fields that are no knobs: all variants have them, with one default."""
    own: ClassVar[tuple[str, ...]] = ()
    """Options that do not carry over where another name is chosen."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if NamedSection in cls.__bases__:
            cls.variants = {}
        elif "name" in vars(cls):
            cls.variants[vars(cls)["name"]] = cls  # type: ignore[assignment]  # Self, of the section

    def __new__(cls, **values: Any) -> Self:
        """The variant that `name` chooses where `cls` is a section."""
        kind = cls
        if NamedSection in cls.__bases__:
            name = values.get("name", vars(cls)["name"])
            kind = cls.variants.get(name, cls) if isinstance(name, str) else cls
        return object.__new__(kind)

    @classmethod
    def section(cls) -> type[Self]:
        """The section that a variant belongs to."""
        return next(kind for kind in cls.__mro__ if NamedSection in kind.__bases__)

    @classmethod
    def field_names(cls) -> list[str]:
        """The fields in the order of a TOML file: the section's, the variant's, then the section's
        options.
        """
        options = _options(fields(cls.section()))
        names = [field.name for field in fields(cls)]
        first = [name for name in names if name not in options]
        last = [name for name in names if name in options]
        return first + last

    @classmethod
    def knobs(cls) -> dict[str, Any]:
        """Knob -> default, without the options."""
        infos = cls.infos()
        defaults = {name: infos[name].default for name in cls._all_knobs()}
        return {name: default for name, default in defaults.items() if default is not None}

    @classmethod
    def options(cls) -> tuple[str, ...]:
        """The knobs whose default is None."""
        infos = cls.infos()
        return tuple(name for name in cls._all_knobs() if infos[name].default is None)

    @classmethod
    def _all_knobs(cls) -> list[str]:
        return [name for name in cls.field_names() if name not in cls.common]

    @classmethod
    def infos(cls) -> dict[str, FieldInfo]:
        """Field -> its annotation and default; a section has the fields of all its variants."""
        kinds: list[Any] = [cls]
        if NamedSection in cls.__bases__:
            kinds += cls.variants.values()
        infos: dict[str, FieldInfo] = {}
        for kind in kinds:
            for name, info in kind.__pydantic_fields__.items():
                infos.setdefault(name, info)
        return infos

    @model_validator(mode="before")
    @classmethod
    def _refuse_what_others_have(cls, values: ArgsKwargs) -> ArgsKwargs:
        """Drop the fields that are None.

        Raises:
            ValueError: a name that there is not, or a knob of another variant.
        """
        fields_set = {
            knob: value for knob, value in (values.kwargs or {}).items() if value is not None
        }
        if NamedSection in cls.__bases__:
            names = one_of(list(cls.variants))
            raise ValueError(
                f"name: input should be {names}, got {short_repr(fields_set.get('name'))}"
            )
        foreign = cls.section().infos().keys() - cls.infos().keys()
        for knob in sorted(foreign & fields_set.keys()):
            known = [*cls.knobs(), *cls.options()]
            having = f"it has {', '.join(known)}" if known else "it has none"
            raise ValueError(f"{knob}: {vars(cls)['name']} has no such knob; {having}")
        return ArgsKwargs(values.args, fields_set)


def _options(of_section: Iterable[dataclasses.Field[Any]]) -> set[str]:
    return {field.name for field in of_section if field.default is None}


def choices_of(annotation: Any) -> list[str]:
    """The words that a field or an option of a type can have; [] where it has no choice."""
    choices: list[str] = []
    for part in (annotation, *get_args(annotation)):
        choices += [choice for choice in get_args(part) if isinstance(choice, str)]
    return choices


def load_variants(
    section: type[NamedSection], package: str, path: Iterable[str], first: Sequence[str]
) -> None:
    """Import every module of a package of variants, and put the variants in order.

    Args:
        section: the section whose variants they are.
        package: "lockstep.recipe.losses".
        path: the package's `__path__`.
        first: the names that catalogue and matrix list first, in this order; others follow by name.
    """
    for module in pkgutil.iter_modules(path):
        import_module(f"{package}.{module.name}")
    names = [*first, *sorted(section.variants.keys() - set(first))]
    section.variants = {name: section.variants[name] for name in names}


def carry_over(before: NamedSection, values: dict[str, Any], stay: Collection[str]) -> None:
    """Remove from `values` the knobs of `before` that another name does not take over.

    These are the knobs at their default, and those that the new variant does not have.

    Args:
        before: the variant whose values these are.
        values: field -> value, with the new name among them; changed in place.
        stay: fields that were set together with the new name, and stay.
    """
    after = before.variants.get(str(values.get("name")))
    if after is None or after is type(before):
        return
    options = after.options()
    knobs = after.knobs()
    dropped = [name for name in before.options() if name not in options or name in before.own]
    for name, default in before.knobs().items():
        if name not in knobs or getattr(before, name) == default:
            dropped.append(name)
    for name in dropped:
        if name not in stay:
            values.pop(name, None)


def docstrings(kind: Any) -> dict[str, str]:
    """Field of a dataclass -> its text: the docstring below it, or the description of its type.

    pydantic could do this too, but would read the source at every start.
    """
    return _docstrings(kind)


@cache
def _docstrings(kind: Any) -> dict[str, str]:
    infos: dict[str, FieldInfo] = kind.__pydantic_fields__
    texts = {name: _description(info) for name, info in infos.items()}
    for base in reversed(kind.__mro__):
        if "__pydantic_fields__" in vars(base):
            texts |= {name: text for name, text in _texts_below(base).items() if name in infos}
    return texts


def _description(info: FieldInfo) -> str:
    """The description of a field's type, or of the type that an option has where it is set."""
    described = [info]
    for part in get_args(info.annotation):
        metadata = getattr(part, "__metadata__", ())
        described += [data for data in metadata if isinstance(data, FieldInfo)]
    descriptions = [each.description for each in described if each.description]
    return descriptions[0] if descriptions else ""


def _texts_below(kind: type) -> dict[str, str]:
    """Field -> the text below it in the source of a class."""
    (definition,) = ast.parse(inspect.cleandoc(inspect.getsource(kind))).body
    assert isinstance(definition, ast.ClassDef)
    texts: dict[str, str] = {}
    for statement, below in pairwise(definition.body):
        match statement, below:
            case (
                ast.AnnAssign(target=ast.Name(id=name)),
                ast.Expr(value=ast.Constant(value=str(text))),
            ):
                texts[name] = text
    return texts
