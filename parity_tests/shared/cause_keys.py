"""The keys of all causes that lockstep can name in own loops, read out of its code."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from lockstep.diagnose.causes.relations import KEYS
from lockstep.diagnose.local.step_differences import ORDER

__all__ = ["cause_keys"]

ROOT = Path(__file__).parents[2]
ROOMS = ("between", "local")
KEY = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)+")
PLACES = {
    "Explanation": 0,
    "Cause": 0,
    "Words": 0,
    "Topic": 0,
    "Relation": 0,
    "Clause": 0,
    "LocalDifference": 2,
}
"""What a cause is made of -> the place of its key among the arguments."""
SURE = ("Explanation", "Cause", "LocalDifference")


def cause_keys() -> set[str]:
    """The keys, those that are put together as patterns with "*".

    A text in words joined by hyphens is a key, but for the names of atlas pages that stand in no
    key's place.
    """
    keys = {quantity.replace(" ", "-") for quantity in ORDER} | set(KEYS.values())
    pages = {page.stem for page in (ROOT / "docs" / "atlas").glob("*.md")}
    for room in ROOMS:
        for path in sorted((ROOT / "lockstep" / "diagnose" / room).rglob("*.py")):
            tree = ast.parse(path.read_text())
            in_place = set(_in_place(tree))
            keys |= in_place | (set(_hyphenated(tree)) - pages)
    return keys


def _in_place(tree: ast.Module) -> Iterator[str]:
    """What stands where a key is asked for."""
    for node in ast.walk(tree):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name)):
            continue
        place = PLACES.get(node.func.id)
        if place is None:
            continue
        named = [keyword.value for keyword in node.keywords if keyword.arg == "key"]
        texts = [
            text
            for expression in (*named, *node.args[place : place + 1])
            for text in _texts(expression)
        ]
        # a word alone is a key where nothing but a key can stand
        yield from (text for text in texts if node.func.id in SURE or KEY.fullmatch(text))


def _texts(expression: ast.expr) -> Iterator[str]:
    if isinstance(expression, ast.Constant):
        yield str(expression.value)
    elif isinstance(expression, ast.IfExp):
        yield from _texts(expression.body)
        yield from _texts(expression.orelse)
    elif isinstance(expression, ast.JoinedStr):
        parts = [
            part.value if isinstance(part, ast.Constant) else "*" for part in expression.values
        ]
        yield "".join(map(str, parts))


def _hyphenated(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and KEY.fullmatch(str(node.value)):
            yield str(node.value)
