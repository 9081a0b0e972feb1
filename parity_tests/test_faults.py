"""The tests of the tests: faults planted in a twin must be caught, and at the right place."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from torch.nn import functional

import jax_impl.model
import jax_impl.optimizer
import jax_impl.train
import pt_impl.model
import pt_impl.optimizer
import pt_impl.train
from lockstep.diagnose.compare import compare
from lockstep.recipe import Optimizer
from parity_tests.recipes_for_tests import oracle_trace, prepared, small_recipe

TWINS = {"torch": pt_impl.train, "jax": jax_impl.train}


@dataclass(frozen=True)
class Fault:
    """What to put in place of which name of a twin's `train` module, and where it must be found: the stage, and the
    update, of 12 in 4 epochs."""

    name: str
    put: dict[str, Callable[[Any], Any]]
    stage: str
    update: int
    recipe: dict[str, Any] = field(default_factory=dict)
    twins: tuple[str, ...] = ("torch", "jax")


ADAMW = {"optimizer__name": "adamw", "optimizer__weight_decay": 0.05}


def other_optimizer(**values: Any) -> dict[str, Callable[[Any], Any]]:
    def put(module: Any) -> Any:
        original = module.make_optimizer
        return lambda optimizer, *rest: original(replace(optimizer, **values), *rest)

    return {"make_optimizer": put}


def late_schedule(module: Any) -> Any:
    def make_schedule(table_T: Any) -> Any:
        if module is pt_impl.train:
            return lambda update: float(table_T[max(update - 1, 0)])
        return lambda update: table_T[jnp.maximum(update - 1, 0)]

    return make_schedule


def late_applied_only(module: Any) -> Any:
    """The learning rate is reported right and applied late."""
    if module is pt_impl.train:

        def make_torch(optimizer: Optimizer, schedules: Any, parameters: Any) -> Any:
            made, _ = pt_impl.optimizer.make_optimizer(optimizer, schedules, parameters)
            late = torch.optim.lr_scheduler.LambdaLR(made, lambda update: schedules[0](max(update - 1, 0)))
            late.lr_lambdas[0] = lambda update: schedules[0](max(update - 1, 0))
            return made, late

        return make_torch
    return lambda optimizer, schedules, parameters: jax_impl.optimizer.make_optimizer(
        optimizer, {0: lambda update: schedules[0](jnp.maximum(update - 1, 0))}, parameters
    )


def constant_loss_scale(scale: Callable[[Any, Any], Any]) -> dict[str, Callable[[Any], Any]]:
    """The loss times scale(count, batch)."""

    def put(module: Any) -> Any:
        original = module.mean_loss
        return lambda loss, outputs, y, count: original(loss, outputs, y, count) * scale(count, 32)

    return {"mean_loss": put}


def smoothed(module: Any) -> Any:
    def torch_loss(loss: Any, logits: Any, y: Any, count: int) -> Any:
        return functional.cross_entropy(logits[:count], y[:count], label_smoothing=1e-3)

    def jax_loss(loss: Any, logits: Any, y: Any, count: Any) -> Any:
        labels = optax.smooth_labels(jax.nn.one_hot(y, logits.shape[-1], dtype=logits.dtype), 1e-3)
        counts = jnp.arange(len(y)) < count
        return jnp.sum(jnp.where(counts, optax.softmax_cross_entropy(logits, labels), 0.0)) / count

    return torch_loss if module is pt_impl.train else jax_loss


def other_order(module: Any) -> Any:
    original = module.load_batches
    return lambda data, epoch, device: original(data, epoch + 1, device)


def rounded_rates(module: Any) -> Any:
    original = module.rate_tables
    return lambda *arguments: {
        layer: table_T.astype(np.float32).astype(np.float64) for layer, table_T in original(*arguments).items()
    }


def not_transposed(twin: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Square kernels go in and come out without a transpose (PyTorch), or with one too many (JAX)."""
    package = {"torch": pt_impl, "jax": jax_impl}[twin]
    original_in, original_out = package.model.import_parameters, package.model.export_parameters

    def turn(parameters: Any) -> Any:
        return {name: array.T for name, array in parameters.items()}

    monkeypatch.setattr(package.model, "import_parameters", lambda model, p: original_in(model, turn(p)))
    monkeypatch.setattr(package.train, "export_parameters", lambda model: turn(original_out(model)))


FAULTS = [
    Fault("learning rate one update late", {"make_schedule": late_schedule}, "lr", 3),
    Fault("learning rate late where applied, right where reported", {"make_optimizer": late_applied_only}, "update", 3,
          twins=("jax",)),
    Fault("learning rate rounded to float32", {"rate_tables": rounded_rates}, "lr", 0),
    Fault("eps 1e-7 for 1e-8", other_optimizer(eps=1e-7), "update", 0, ADAMW),
    Fault("weight decay of PyTorch's default", other_optimizer(weight_decay=0.01), "update", 0, ADAMW),
    Fault("weight decay of Optax's default", other_optimizer(weight_decay=1e-4), "update", 0, ADAMW),
    Fault("L2 for decoupled weight decay", other_optimizer(name="adam", decay_form=None), "update", 0, ADAMW),
    Fault("no weight decay", other_optimizer(weight_decay=0.0), "update", 0, {"optimizer__weight_decay": 1e-4}),
    Fault("momentum 0.89", other_optimizer(momentum=0.89), "update", 1),
    Fault("nesterov", other_optimizer(nesterov=True), "update", 0),
    Fault("beta2 0.99", other_optimizer(beta2=0.99), "update", 1, ADAMW),
    Fault("short batch divided by the full size", constant_loss_scale(lambda count, batch: count / batch), "loss", 2),
    Fault("sum for mean", constant_loss_scale(lambda count, batch: count), "loss", 0),
    Fault("label smoothing", {"mean_loss": smoothed}, "loss", 0),
    Fault("shuffled differently", {"load_batches": other_order}, "loss", 0),
]  # fmt: skip
CASES = [pytest.param(fault, twin, id=f"{fault.name}-{twin}") for fault in FAULTS for twin in fault.twins]


@pytest.fixture(autouse=True)
def _nothing_compiled_is_shared() -> Any:
    jax_impl.train.make_segment.cache_clear()
    yield
    jax_impl.train.make_segment.cache_clear()


@pytest.mark.parametrize(("fault", "twin"), CASES)
def test_fault_is_caught_at_its_place(fault: Fault, twin: str, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = small_recipe(training__dtype="float64", **fault.recipe)
    module = TWINS[twin]
    for name, put in fault.put.items():
        monkeypatch.setattr(module, name, put(module))
    found = compare(module.train(recipe, prepared(recipe), parameters_every=1), oracle_trace(recipe), {})
    assert found.verdict == "diverged"
    assert found.first is not None
    assert (found.first.stage, found.first.update) == (fault.stage, fault.update)


@pytest.mark.parametrize("twin", TWINS)
def test_kernel_not_transposed_is_caught(twin: str, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = small_recipe(training__dtype="float64", model__hidden=(6,), data__classes=6, data__rows=120)
    not_transposed(twin, monkeypatch)
    found = compare(TWINS[twin].train(recipe, prepared(recipe), parameters_every=1), oracle_trace(recipe), {})
    assert found.verdict == "diverged"
    assert found.first is not None
    # what comes out is what went in: only the first loss gives it away
    assert (found.first.stage, found.first.update) == ("loss", 0)


def test_stale_gradients_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = small_recipe(training__dtype="float64")
    monkeypatch.setattr(torch.optim.SGD, "zero_grad", lambda self, set_to_none: None)
    found = compare(pt_impl.train.train(recipe, prepared(recipe), parameters_every=1), oracle_trace(recipe), {})
    assert found.first is not None
    assert (found.first.stage, found.first.update) == ("gradients", 1)


@pytest.mark.parametrize("twin", TWINS)
def test_unpatched_twins_pass_where_the_faults_are_planted(twin: str) -> None:
    for fault in FAULTS:
        recipe = small_recipe(training__dtype="float64", **fault.recipe)
        found = compare(TWINS[twin].train(recipe, prepared(recipe), parameters_every=1), oracle_trace(recipe), {})
        assert found.verdict != "diverged", fault.name
