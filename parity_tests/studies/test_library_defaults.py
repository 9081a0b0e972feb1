"""Unpatched defaults of PyTorch and of Flax and Optax against each other: which part, which agree,
and by how much.
"""

import re
from typing import Any

import pytest
from torch.optim import lr_scheduler

import jax_impl.train
import pt_impl.train
from lockstep.diagnose.compare import SEMANTICS, compare
from lockstep.records.run_recorder import Watch
from parity_tests.shared.recipes import prepared, small_recipe
from parity_tests.shared.twins import forget_compiled, patch_pair
from tools.library_defaults import (
    ALIKE,
    APART,
    INITS,
    OPTIMIZERS,
    PAGE,
    PAIRS,
    RATE,
    Pair,
    apart,
    distance,
    page,
)

IDS = [f"{pair.group}: {pair.torch} and {pair.flax}" for pair in PAIRS]

# --- what `lockstep compare` says of two twins that leave the optimizer to its library

LEFT_TO_THE_LIBRARY = [
    pair
    for pair in OPTIMIZERS
    if pair.torch in ("SGD", "Adam", "AdamW", "NAdam", "RAdam", "RMSprop")
]


@pytest.mark.parametrize(
    "pair", LEFT_TO_THE_LIBRARY, ids=[pair.torch for pair in LEFT_TO_THE_LIBRARY]
)
def test_lockstep_catches_an_optimizer_left_to_its_library(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    def make_torch(_: Any, schedules: Any, parameters: Any) -> Any:
        made = pair.in_torch.optimizer(list(parameters.values()), lr=1.0)
        return made, lr_scheduler.LambdaLR(made, schedules[0])

    def make_optax(_: Any, schedules: Any, parameters: Any) -> Any:
        made = pair.in_flax.optimizer(schedules[0])
        return made, made.init(parameters)

    recipe = small_recipe(training__dtype="float64", model__activation="tanh", schedule__peak=RATE)
    traces = []
    forget_compiled()
    for twin, make in ((pt_impl.train, make_torch), (jax_impl.train, make_optax)):
        patch_pair(monkeypatch, twin, "make_optimizer", make)
        traces.append(twin.train(recipe, prepared(recipe), watch=Watch(parameters_every=1)))
    forget_compiled()
    found = compare(traces[0], traces[1], {})
    assert (found.verdict == "diverged") == bool(pair.parts)
    if found.first is not None:
        assert found.first.stage == "update"


NUMBER = re.compile(r"\d\.\de[-+]\d\d(?= \|$)", re.MULTILINE)


ONE_A_GROUP = {pair.group: number for number, pair in reversed(list(enumerate(PAIRS)))}.values()
NUMBERS = [
    pytest.param(number, marks=() if number in ONE_A_GROUP else pytest.mark.sweep)
    for number in range(len(PAIRS))
]


@pytest.mark.parametrize("number", NUMBERS, ids=IDS)
def test_defaults_known_to_differ_are_caught_and_those_known_to_agree_are_not(number: int) -> None:
    if PAIRS[number].parts:
        assert apart(number) > APART > SEMANTICS
    else:
        assert apart(number) < APART


@pytest.mark.parametrize("number", range(len(INITS)), ids=[init.torch for init in INITS])
def test_initial_values_known_to_differ_do_and_those_known_to_agree_do(number: int) -> None:
    assert (distance(number) > ALIKE) == bool(INITS[number].parts)


@pytest.mark.sweep
def test_the_page_is_current() -> None:
    written, fresh = PAGE.read_text(), page()
    assert NUMBER.sub("x", written) == NUMBER.sub("x", fresh), "run `make pages`"
    for a, b in zip(NUMBER.findall(written), NUMBER.findall(fresh), strict=True):
        assert float(a) == pytest.approx(
            float(b), rel=0.3
        )  # a last digit may be rounded elsewhere on another machine
