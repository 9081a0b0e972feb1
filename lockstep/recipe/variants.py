"""Sections told apart by `name`: a frozen dataclass for each name, in a file of its own.

A section, such as `Loss`, is a class with the fields that all its variants have. A variant, such as
`Huber`, is a subclass with fields of its own and a default for `name`; its definition enters it in
the section's `variants`.
The section's constructor makes the variant: `Loss(name="huber", delta=0.3)` is `Huber(delta=0.3)`.

A variant's fields but the `common` ones are its *knobs*. A knob whose default is None is an
*option*: unless it is given, it stands in no TOML and counts in no hash.
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
    """What a diagnosis calls another value of a knob, and the atlas page about it, or ""."""

    key: str
    page: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Spec:
    """What stands beside the fields of a variant: what report, matrix and diagnosis know of it."""

    title: str
    """Its name or its verb in the report; which, the section's spec says."""
    needs: Mapping[str, Any] = field(default_factory=dict)
    """What the parity matrix must set for it: "schedule.peak" -> 0.005."""
    others: Mapping[str, Any] = field(default_factory=dict)
    """Knob -> a second value for the parity matrix; a knob that is a choice needs none."""
    causes: Mapping[str, Cause] = field(default_factory=dict)
    """Knob -> the cause that is another value of it; without an entry the key is "other-" and the
    knob.
    """


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class NamedSection:
    """The base of all sections that are told apart by their name."""

    name: str
    """Which variant it is."""

    spec: ClassVar[Spec]
    """What the rest of lockstep knows of it."""
    variants: ClassVar[dict[str, "type[Self]"]] = {}
    """Name -> variant, of one section."""
    section_causes: ClassVar[dict[str, Cause]] = {}
    """The causes of knobs that several variants of the section share; see `Spec.causes`."""
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
        """The variant of that name where `cls` is a section."""
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
        """The fields in the order in which they are written: the section's, the variant's, the
        section's options.
        """
        options = _options(fields(cls.section()))
        names = [field.name for field in fields(cls)]
        return [name for name in names if name not in options] + [
            name for name in names if name in options
        ]

    @classmethod
    def knobs(cls) -> dict[str, Any]:
        """Knob -> default, without the options."""
        infos = cls.infos()
        return {
            name: infos[name].default
            for name in cls._all_knobs()
            if infos[name].default is not None
        }

    @classmethod
    def options(cls) -> tuple[str, ...]:
        """The knobs that are not set unless they are given."""
        infos = cls.infos()
        return tuple(name for name in cls._all_knobs() if infos[name].default is None)

    @classmethod
    def _all_knobs(cls) -> list[str]:
        return [name for name in cls.field_names() if name not in cls.common]

    @classmethod
    def infos(cls) -> dict[str, FieldInfo]:
        """Field -> its annotation and default; of a section, the fields of all its variants."""
        infos: dict[str, FieldInfo] = {}
        for kind in (cls, *(cls.variants.values() if NamedSection in cls.__bases__ else ())):
            infos |= {
                name: info for name, info in kind.__pydantic_fields__.items() if name not in infos
            }
        return infos

    @model_validator(mode="before")
    @classmethod
    def _refuse_what_others_have(cls, values: ArgsKwargs) -> ArgsKwargs:
        """Drop what is None; raise ValueError for a name that there is not and for a knob of
        another variant.
        """
        given = {knob: value for knob, value in (values.kwargs or {}).items() if value is not None}
        if NamedSection in cls.__bases__:
            names, name = one_of(list(cls.variants)), short_repr(given.get("name"))
            raise ValueError(f"name: input should be {names}, got {name}")
        lacking = cls.section().infos().keys() - cls.infos().keys()
        for knob in sorted(lacking & given.keys()):
            known = [*cls.knobs(), *cls.options()]
            having = f"it has {', '.join(known)}" if known else "it has none"
            raise ValueError(f"{knob}: {vars(cls)['name']} has no such knob; {having}")
        return ArgsKwargs(values.args, given)


def _options(having: Iterable[dataclasses.Field[Any]]) -> set[str]:
    return {field.name for field in having if field.default is None}


def choices_of(annotation: Any) -> list[str]:
    """The words that a field of a type can have, an option's too; [] where it has no choice."""
    parts = [choice for part in (annotation, *get_args(annotation)) for choice in get_args(part)]
    return [choice for choice in parts if isinstance(choice, str)]


def load_variants(
    section: type[NamedSection], package: str, path: Iterable[str], first: Sequence[str]
) -> None:
    """Import every module of a package of variants, and put the variants in order.

    Args:
        section: the section whose variants they are.
        package: "lockstep.recipe.losses".
        path: the package's `__path__`.
        first: the names that catalogue and matrix list first, in their order; others follow by
        name.
    """
    for module in pkgutil.iter_modules(path):
        import_module(f"{package}.{module.name}")
    names = [*first, *sorted(section.variants.keys() - set(first))]
    section.variants = {name: section.variants[name] for name in names}


def carry_over(before: NamedSection, values: dict[str, Any], given: Collection[str]) -> None:
    """Take from `values` what another name does not keep of `before`: knobs at their default and
    foreign ones.

    Args:
        before: the variant that the values were those of.
        values: field -> value with the new name in it; changed in place.
        given: fields that were set beside the new name, and stay.
    """
    after = before.variants.get(str(values.get("name")))
    if after is None or after is type(before):
        return
    options, knobs = after.options(), after.knobs()
    dropped = [name for name in before.options() if name not in options or name in before.own]
    for name, default in before.knobs().items():
        if name not in knobs or getattr(before, name) == default:
            dropped.append(name)
    for name in dropped:
        if name not in given:
            values.pop(name, None)


def docstrings(kind: Any) -> dict[str, str]:
    """Field of a dataclass -> its text: the docstring below it, or the description of its type.

    pydantic could find the docstrings too, but would read the source at every start.
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
        described += [
            data for data in getattr(part, "__metadata__", ()) if isinstance(data, FieldInfo)
        ]
    return next((each.description for each in described if each.description), "")


def _texts_below(kind: type) -> dict[str, str]:
    (definition,) = ast.parse(inspect.cleandoc(inspect.getsource(kind))).body
    assert isinstance(definition, ast.ClassDef)
    texts: dict[str, str] = {}
    for statement, below in pairwise(definition.body):
        if not isinstance(statement, ast.AnnAssign) or not isinstance(statement.target, ast.Name):
            continue
        if (
            isinstance(below, ast.Expr)
            and isinstance(below.value, ast.Constant)
            and isinstance(below.value.value, str)
        ):
            texts[statement.target.id] = below.value.value
    return texts
