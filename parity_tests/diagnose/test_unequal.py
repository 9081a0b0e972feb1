"""What stands under "set differently": what both loops state, in one set of words, once."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch

import lockstep
from lockstep import diagnose
from lockstep.cli import main
from lockstep.records.trace import Trace

D, K, UPDATES = 3, 2, 2


def torch_loop(
    path: Path,
    *,
    decays: tuple[float, float] = (0.1, 0.0),
    beta2: float = 0.95,
    eps: float = 1e-5,
    is_training: bool = True,
    dtype: Any = torch.float32,
    is_mixed: bool = False,
    kind: Any = torch.optim.AdamW,
    settings: dict[str, Any] | None = None,
    is_watched: bool = True,
) -> Trace:
    torch.manual_seed(0)
    norms = (torch.nn.LayerNorm(D, eps=eps), torch.nn.LayerNorm(D, eps=eps))
    model = torch.nn.Sequential(norms[0], torch.nn.Dropout(0.0), norms[1], torch.nn.Linear(D, K))
    model.to(dtype)[1:].train(is_training)
    groups: list[dict[str, Any]] = [
        {"params": [model[3].weight], "weight_decay": decays[0]},
        {"params": [one for one in model.parameters() if one.ndim == 1], "weight_decay": decays[1]},
    ]
    optimizer = kind(groups, 1e-3, betas=(0.9, beta2))
    recorder = lockstep.Recorder(path, backend="torch", settings=settings)
    recorder.start(model)
    if is_watched:
        recorder.watch(model, optimizer)
    for update in range(UPDATES):
        x = torch.randn(4, D, generator=torch.Generator().manual_seed(update)).to(dtype)
        with torch.autocast("cpu", torch.bfloat16, enabled=is_mixed):
            loss = model(x).to(dtype).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        recorder.update(loss=loss, parameters=model, lr=optimizer)
    recorder.finish()
    return Trace.load(path)


def differences(a: Trace, b: Trace) -> list[tuple[str, Any, Any]]:
    forth = [tuple(setting) for setting in diagnose(a, b).unequal]
    back = [(name, other, one) for name, one, other in diagnose(b, a).unequal]
    assert sorted(map(str, forth)) == sorted(map(str, back))
    return forth


CASES: dict[str, tuple[dict[str, Any], list[tuple[str, Any, Any]]]] = {
    "nothing": ({}, []),
    "beta2": ({"beta2": 0.999}, [("optimizer.beta2", 0.95, 0.999)]),
    "one group's decay": (
        {"decays": (0.1, 0.1)},
        [("optimizer.weight_decay of 0.weight, 0.bias, 2.weight and 2 more", 0.0, 0.1)],
    ),
    "the other's": ({"decays": (0.2, 0.0)}, [("optimizer.weight_decay of 3.weight", 0.1, 0.2)]),
    "the optimizer": ({"kind": torch.optim.Adam}, [("optimizer.name", "adamw", "adam")]),
    "eps of a norm": ({"eps": 1e-3}, [("eps of layers 0, 2", 1e-5, 1e-3)]),
    # the mode of the norm and the layer beside it changes nothing
    "a mode": ({"is_training": False}, [("training mode of layer 1", True, False)]),
    "autocast": ({"is_mixed": True}, [("compute dtype", "float32", "bfloat16")]),
    "double": ({"dtype": torch.float64}, [("dtype of the parameters", "float32", "float64")]),
    "half": ({"dtype": torch.bfloat16}, [("dtype of the parameters", "float32", "bfloat16")]),
}


@pytest.mark.parametrize("name", CASES)
def test_what_was_read_of_both_is_compared(name: str, tmp_path: Path) -> None:
    options, expected = CASES[name]
    a, b = torch_loop(tmp_path / "a"), torch_loop(tmp_path / "b", **options)
    assert differences(a, b) == expected


DECLARED: dict[str, tuple[dict[str, Any], list[tuple[str, Any, Any]]]] = {
    "the same": ({"name": "adamw", "beta2": 0.95, "lr": 0.5, "decay_form": "step"}, []),
    "another": ({"name": "adamw", "beta2": 0.999}, [("optimizer.beta2", 0.95, 0.999)]),
    "who decays": ({"weight_decay": 0.1, "decay_on": "weights"}, []),
    "more": ({"beta1": 0.9, "eps": 1e-6}, [("optimizer.eps", 1e-8, 1e-6)]),
}


@pytest.mark.parametrize("name", DECLARED)
def test_what_one_declares_is_held_against_what_was_read_of_the_other(
    name: str, tmp_path: Path
) -> None:
    optimizer, expected = DECLARED[name]
    settings = {"optimizer": optimizer}
    a = torch_loop(tmp_path / "a")
    b = torch_loop(tmp_path / "b", is_watched=False, settings=settings)
    assert differences(a, b) == expected


def test_what_is_declared_and_read_is_said_once_as_it_was_read(tmp_path: Path) -> None:
    a = torch_loop(tmp_path / "a", settings={"batch": 4, "optimizer": {"beta2": 0.5}})
    b = torch_loop(tmp_path / "b", beta2=0.999, settings={"batch": 5, "optimizer": {"beta2": 0.5}})
    assert differences(a, b) == [("batch", 4, 5), ("optimizer.beta2", 0.95, 0.999)]


def test_schedulers_of_one_framework_are_compared(tmp_path: Path) -> None:
    lrs = torch.optim.lr_scheduler

    def loop(name: str, schedule: Any) -> Trace:
        torch.manual_seed(0)
        model = torch.nn.Linear(D, K)
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        scheduler = schedule(optimizer)
        recorder = lockstep.Recorder(tmp_path / name, backend="torch")
        recorder.watch(model, optimizer)
        loss = model(torch.ones(1, D)).sum()
        loss.backward()
        optimizer.step()
        recorder.update(loss=loss)
        assert scheduler is not None
        return recorder.finish()

    cosine = loop("a", lambda optimizer: lrs.CosineAnnealingLR(optimizer, 10))
    longer = loop("b", lambda optimizer: lrs.CosineAnnealingLR(optimizer, 20))
    step = loop("c", lambda optimizer: lrs.StepLR(optimizer, 10))
    bare = loop("d", lambda optimizer: 0)
    assert differences(cosine, longer) == [("CosineAnnealingLR.T_max", 10, 20)]
    assert differences(cosine, step) == [("schedulers", ["CosineAnnealingLR"], ["StepLR"])]
    assert differences(bare, step) == [("schedulers", [], ["StepLR"])]
    assert differences(cosine, cosine) == []


def test_a_knob_that_varies_is_not_compared(tmp_path: Path) -> None:
    def loop(path: Path, last: float) -> Trace:
        model = torch.nn.Linear(D, K)
        optimizer = torch.optim.AdamW(model.parameters(), 1e-3, betas=(0.9, last))
        recorder = lockstep.Recorder(path, backend="torch")
        recorder.watch(model, optimizer)
        for _ in range(UPDATES):
            loss = model(torch.ones(1, D)).sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            optimizer.param_groups[0]["betas"] = (0.9, 0.9)
            recorder.update(loss=loss)
        return recorder.finish()

    torch.manual_seed(0)
    assert differences(loop(tmp_path / "a", 0.8), loop(tmp_path / "b", 0.9)) == []


@pytest.mark.parametrize("decay", [0.1, 1e-4])
def test_both_frameworks_are_read_in_the_same_words(decay: float, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = torch.nn.Linear(D, K)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3, betas=(0.9, 0.95), weight_decay=0.1)
    recorder = lockstep.Recorder(tmp_path / "a", backend="torch")
    recorder.watch(model, optimizer)
    parameters = {name: jnp.asarray(one.detach()) for name, one in model.named_parameters()}
    for _ in range(UPDATES):
        loss = model(torch.ones(1, D)).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        recorder.update(loss=loss)
    a = recorder.finish()
    recorder = lockstep.Recorder(tmp_path / "b", backend="jax")
    transformation = optax.inject_hyperparams(optax.adamw)(1e-3, b2=0.95, weight_decay=decay)
    recorder.start(parameters)
    recorder.watch(parameters, transformation)
    state = transformation.init(parameters)
    gradient_of = jax.value_and_grad(lambda p: (p["weight"].sum(1) + p["bias"]).sum())
    for _ in range(UPDATES):
        value, gradients = gradient_of(parameters)
        changes, state = transformation.update(gradients, state, parameters)
        parameters = optax.apply_updates(parameters, changes)
        recorder.update(loss=value, gradients=gradients, moments=state, parameters=parameters)
    b = recorder.finish()
    expected = [] if decay == 0.1 else [("optimizer.weight_decay", 0.1, 1e-4)]
    unequal = diagnose(a, b).unequal
    assert [tuple(one) for one in unequal if one.name.startswith("optimizer")] == expected


def test_a_command_shows_it_and_refuses_a_reading_that_is_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = tmp_path / "a.trace", tmp_path / "b.trace"
    torch_loop(a)
    trace = torch_loop(b, beta2=0.999)
    for command in ("compare", "diagnose"):
        with pytest.raises(SystemExit):
            main([command, str(a), str(b)])
        assert "optimizer.beta2: 0.95 and 0.999" in " ".join(capsys.readouterr().out.split())
    for reading in (
        {"optimizers": 3},
        {"optimizers": [{"name": "adamw", "groups": [{"lr": 1}]}]},
        {"modules": {"0": 1}},
        [],
    ):
        Trace(trace.header | {"read": reading}, trace.arrays).save(b)
        with pytest.raises(SystemExit) as end:
            main(["diagnose", str(a), str(b)])
        assert end.value.code == 2
        assert "read" in capsys.readouterr().err


def test_an_older_trace_is_compared_as_before(tmp_path: Path) -> None:
    traces = [torch_loop(tmp_path / "a"), torch_loop(tmp_path / "b", beta2=0.999)]
    older = []
    for trace in traces:
        fields = {"read", "inputs", "array_dtypes"}
        header = {key: value for key, value in trace.header.items() if key not in fields}
        older.append(Trace(header, trace.arrays))
    assert differences(*older) == []
    assert np.isfinite(older[0].series("loss")).all()
