"""Each cause of two loops leads to a page of the atlas: by its key, unless it names one of its own.

The keys are read out of the code, so that a new cause without a page fails.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from lockstep.diagnose import pages
from lockstep.diagnose.between.steps.step_words import KEYS as KNOB_KEYS
from lockstep.diagnose.between.steps.step_words import UNLIKE_IN_ROUNDING
from lockstep.diagnose.causes import batch, layers, relations
from lockstep.diagnose.pages import FAMILIES, PAGES, page_of
from lockstep.recipe import Optimizer
from lockstep.studies.atlas.pages import atlas_folder
from parity_tests.shared.cause_keys import cause_keys

WITHOUT = {
    "centered": "RMSprop's own word for it says more than a page",
    "cross-entropy": "a formula of the loss, no cause",
    "log-probabilities": "a formula of the loss, no cause",
    "output-zero": "zeros have too many reasons for one page",
    "sign": "a sign in the forward pass has too many reasons for one page",
}
"""Keys without a page, each with the reason."""
FAMILIAR = {"adam", "adamw", "sgd", "rmsprop", "adagrad"}
"""Optimizers whose every knob has a page: those of others have names that say what they are."""
PLACES = {
    "Topic": 1,
    "LocalDifference": 4,
    "Relation": 2,
    "Clause": 2,
    "Explanation": 4,
    "Alternative": 2,
    "_explained": 5,
}
"""What a cause is made of -> the place of its page among the arguments."""
THERE = {path.stem for path in atlas_folder().glob("*.md")}


def older_keys() -> Iterator[str]:
    """What stands for the key of a cause in the modules on layers, batches and relations."""
    yield from relations.KEYS.values()
    yield from (
        "axes",
        "flipped",
        "permuted",
        "rounded",
        "scaled",
        "sign",
    )  # relations of any stage
    for module in (batch, layers):
        assert module.__file__ is not None
        for node in ast.walk(ast.parse(Path(module.__file__).read_text())):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name)):
                continue
            if node.func.id in ("Alternative", "fitted", "_Kind") and node.args:
                first = node.args[0]
                yield from [str(first.value)] if isinstance(first, ast.Constant) else []


def knob_keys() -> set[str]:
    return {
        KNOB_KEYS.get(knob, knob.replace("_", "-"))
        for name in FAMILIAR
        for knob in Optimizer.variants[name].knobs()
        if knob not in UNLIKE_IN_ROUNDING
    }


def written_pages() -> Iterator[tuple[str, str]]:
    """Each place in the code of causes where a page of their own is written."""
    rooms = Path(pages.__file__).parent
    for path in sorted(rooms.rglob("*.py")):
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant):
                names = [name.id for name in node.targets if isinstance(name, ast.Name)]
                if any(name.lower() == "page" or name.endswith("_PAGE") for name in names):
                    yield path.name, str(node.value.value)
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                begin = PLACES.get(node.func.id, len(node.args))
                for argument in node.args[begin : begin + 1]:
                    if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
                        yield path.name, argument.value


def test_every_cause_of_two_loops_has_a_page() -> None:
    keys = {*cause_keys(), *older_keys(), *knob_keys()}
    assert len(keys) > 100
    of_families = {key for key in keys if key.startswith(tuple(FAMILIES))}
    missing = {key for key in keys - of_families - WITHOUT.keys() if key not in PAGES}
    assert missing == set(), "write a page, or enter the one that there is in diagnose/pages.py"


def test_every_exception_is_needed() -> None:
    assert not WITHOUT.keys() & PAGES.keys()
    assert WITHOUT.keys() <= {*cause_keys(), *older_keys(), *knob_keys()}


def test_every_page_is_in_the_atlas() -> None:
    named = {*PAGES.values(), *FAMILIES.values()}
    assert named - THERE == set()


def test_every_page_that_a_cause_names_itself_is_in_the_atlas() -> None:
    written = [(name, page) for name, page in written_pages() if page]
    assert len(written) > 30
    assert [entry for entry in written if entry[1] not in THERE] == []


@pytest.mark.parametrize(
    ("key", "page"),
    [
        ("other-activation", "leaky-relu-slope"),
        ("clip-value", "clip-forgotten"),
        ("recurrent-direction", "recurrent-time-axis"),
        ("something-else", ""),
    ],
)
def test_a_page_is_found_by_the_key(key: str, page: str) -> None:
    assert page_of(key) == page
