"""The unpatched defaults of PyTorch against those of Flax and Optax: which part, which agree, and
by how much.
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

IN_BOTH = ("SGD", "Adam", "AdamW", "NAdam", "RAdam", "RMSprop")
LEFT_TO_THE_LIBRARY = [pair for pair in OPTIMIZERS if pair.torch in IN_BOTH]


@pytest.mark.parametrize("pair", LEFT_TO_THE_LIBRARY, ids=lambda pair: pair.torch)
def test_lockstep_catches_an_optimizer_left_to_its_library(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    def make_torch(_: Any, schedules: Any, parameters: Any) -> Any:
        optimizer = pair.in_torch.optimizer(list(parameters.values()), lr=1.0)
        return optimizer, lr_scheduler.LambdaLR(optimizer, schedules[0])

    def make_optax(_: Any, schedules: Any, parameters: Any) -> Any:
        transformation = pair.in_flax.optimizer(schedules[0])
        return transformation, transformation.init(parameters)

    recipe = small_recipe(training__dtype="float64", model__activation="tanh", schedule__peak=RATE)
    traces = []
    forget_compiled()
    for twin, make in ((pt_impl.train, make_torch), (jax_impl.train, make_optax)):
        patch_pair(monkeypatch, twin, "make_optimizer", make)
        traces.append(twin.train(recipe, prepared(recipe), watch=Watch(parameters_every=1)))
    forget_compiled()
    comparison = compare(traces[0], traces[1], {})
    assert (comparison.verdict == "diverged") == bool(pair.parts)
    if comparison.first is not None:
        assert comparison.first.stage == "update"


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
    # a last digit may be rounded elsewhere on another machine
    numbers = [float(number) for number in NUMBER.findall(written)]
    fresh_numbers = [float(number) for number in NUMBER.findall(fresh)]
    assert numbers == pytest.approx(fresh_numbers, rel=0.3)
