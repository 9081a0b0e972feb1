"""A watched PyTorch loop: what two lines record of it, whatever wraps, scales or interrupts it."""

import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from copy import deepcopy
from itertools import pairwise
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
import pytest
import torch
from flax import nnx
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

import lockstep
from lockstep.diagnose.units import dtype_of
from lockstep.errors import InputError, RecorderWarning
from lockstep.recipe import Optimizer
from lockstep.records.trace import Trace

B, D, H, K, UPDATES = 4, 3, 5, 2, 3
Step = Callable[[Any, Any, Any], Any]
"""(model, optimizer, x) -> loss: all of an update but its record."""


def net(*more: Any) -> Any:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(D, H), torch.nn.ReLU(), *more, torch.nn.Linear(H, K))


def noisy() -> Any:
    return net(torch.nn.BatchNorm1d(H), torch.nn.Dropout(0.5))


def rows(update: int, count: int = B) -> torch.Tensor:
    generator = torch.Generator().manual_seed(update)
    return torch.randn(count, D, generator=generator)


def plain_step(model: Any, optimizer: Any, x: Any) -> Any:
    loss = model(x).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss


def train(
    path: Path | None,
    model: Any,
    optimizer: Any = None,
    step: Step = plain_step,
    updates: int = UPDATES,
    **options: Any,
) -> Any:
    """A loop in two lines; without a path it is not recorded, and its end is returned."""
    optimizer = optimizer or torch.optim.SGD(model.parameters(), 0.1)
    recorder = lockstep.Recorder(path, backend="torch", **options) if path else None
    if recorder:
        recorder.watch(model, optimizer)
    for update in range(updates):
        loss = step(model, optimizer, rows(update))
        if recorder:
            recorder.update(loss=loss)
    if recorder:
        return recorder.finish()
    state = {name: value.numpy().copy() for name, value in model.state_dict().items()}
    return state | {"drawn next": torch.rand(3).numpy()}


def forward(trace: Trace, update: int = 0) -> dict[str, np.ndarray]:
    prefix = f"detail/{update}/forward/"
    return {
        name.removeprefix(prefix): array
        for name, array in trace.arrays.items()
        if name.startswith(prefix)
    }


# --- two lines


def test_two_lines_record_what_a_loop_that_names_all_records(tmp_path: Path) -> None:
    two_lines = train(tmp_path / "a", net(), updates=UPDATES)
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    recorder = lockstep.Recorder(tmp_path / "b", backend="torch")
    recorder.start(model)
    for update in range(UPDATES):
        x = rows(update)
        hidden = model[0](x)
        active = model[1](hidden)
        outputs = {"0": hidden, "1": active, "2": model[2](active)}
        loss = outputs["2"].square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        recorder.update(
            batch=x,
            forward=outputs,
            loss=loss,
            gradients=model,
            clipped=model,
            lr=optimizer,
            moments=optimizer,
            parameters=model,
        )
    by_hand = recorder.finish()
    assert two_lines.arrays.keys() == by_hand.arrays.keys()
    for name, array in by_hand.arrays.items():
        np.testing.assert_array_equal(two_lines.arrays[name], array, err_msg=name)
    assert two_lines.header["inputs"] == {"0": "batch/x", "1": "forward/0", "2": "forward/1"}


def test_a_watched_start_is_perturbed_in_place(tmp_path: Path) -> None:
    model, other = net(), net()
    recorder = lockstep.Recorder(tmp_path / "t", backend="torch", perturb=1)
    recorder.watch(model, torch.optim.SGD(model.parameters(), 0.1))
    assert 0 < (model[0].weight - other[0].weight).abs().max() < 1e-6
    recorder.update(loss=plain_step(model, recorder._watch.optimizers.optimizers[0], rows(0)))
    start = recorder.finish().parameters(0)["0.weight"]
    assert 0 < np.abs(start - other[0].weight.detach().numpy()).max() < 1e-6


def test_a_batch_that_is_given_counts_alone(tmp_path: Path) -> None:
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    recorder = lockstep.Recorder(tmp_path / "t", backend="torch")
    recorder.watch(model, optimizer)
    x = rows(0)
    recorder.update(loss=plain_step(model, optimizer, x), batch={"image": x, "y": torch.ones(B)})
    trace = recorder.finish()
    batch = {name for name in trace.arrays if "/batch/" in name}
    assert batch == {"detail/0/batch/image", "detail/0/batch/y"}
    assert trace.header["inputs"]["0"] == "batch/image"


class Two(torch.nn.Module):
    """Calls one layer twice, and feeds another what no layer returns."""

    def __init__(self) -> None:
        super().__init__()
        self.once = torch.nn.Linear(D, D)
        self.twice = torch.nn.Linear(D, D)
        self.more = torch.nn.Linear(D, D)

    def forward(self, x: Any, scale: float, *, shift: Any) -> Any:
        h = self.twice(self.twice(self.once(x)))
        fed = h * scale + shift
        return self.more(fed) + self.once(fed)


def test_inputs_and_repeated_calls(tmp_path: Path) -> None:
    def step(model: Any, optimizer: Any, x: Any) -> Any:
        return plain_step(lambda x: model(x, 2.0, shift=x), optimizer, x)

    trace = train(tmp_path / "t", Two(), step=step)
    assert trace.header["layers"] == [
        *("once", "twice", "twice#2", "more.input", "more", "once#2"),
    ]
    assert trace.header["inputs"] == {
        "once": "batch/x",
        "twice": "forward/once",
        "twice#2": "forward/twice",
        "more": "forward/more.input",
        "once#2": "forward/more.input",
    }
    outputs = forward(trace)
    weight, bias = (trace.parameters(0)[f"more.{kind}"] for kind in ("weight", "bias"))
    np.testing.assert_allclose(outputs["more"], outputs["more.input"] @ weight.T + bias, rtol=1e-5)
    names = {name for name in trace.arrays if "/0/batch/" in name}
    assert names == {"detail/0/batch/x", "detail/0/batch/shift"}


def test_an_input_that_is_changed_in_place_is_recorded_as_it_was(tmp_path: Path) -> None:
    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.act = torch.nn.Linear(D, D), torch.nn.ReLU(inplace=True)
            self.b = torch.nn.Linear(D, D)

        def forward(self, x: Any) -> Any:
            return self.b(self.act(self.a(x).add_(1)))

    trace = train(tmp_path / "t", Model())
    assert trace.header["inputs"] == {
        "a": "batch/x",
        "act": "forward/act.input",
        "b": "forward/act",
    }
    outputs = forward(trace)
    np.testing.assert_array_equal(outputs["act.input"], outputs["a"] + 1)
    np.testing.assert_array_equal(outputs["act"], np.maximum(outputs["act.input"], 0))
    assert (outputs["act.input"] < 0).any()


# --- settings that are read

LR = 0.25
CLASSES: dict[str, tuple[Any, dict[str, Any], str, dict[str, Any]]] = {
    "sgd": (
        torch.optim.SGD,
        {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1},
        "sgd",
        {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1, "dampening": 0},
    ),
    "adamw": (
        torch.optim.AdamW,
        {"betas": (0.8, 0.95), "eps": 1e-6},
        "adamw",
        {"beta1": 0.8, "beta2": 0.95, "eps": 1e-6, "weight_decay": 0.01, "amsgrad": "off"},
    ),
    "adam": (torch.optim.Adam, {"amsgrad": True}, "adam", {"amsgrad": "raw", "weight_decay": 0}),
    "adam, decoupled": (
        torch.optim.Adam,
        {"decoupled_weight_decay": True, "weight_decay": 0.5},
        "adamw",
        {"weight_decay": 0.5, "decay_form": "factor"},
    ),
    "nadam": (torch.optim.NAdam, {}, "nadam", {"momentum_decay": 0.004, "momentum_ramp": True}),
    "nadamw": (torch.optim.NAdam, {"decoupled_weight_decay": True}, "nadamw", {"beta2": 0.999}),
    "radam": (torch.optim.RAdam, {}, "radam", {"eps_corrected": False}),
    "radam, decoupled": (torch.optim.RAdam, {"decoupled_weight_decay": True}, "", {"beta1": 0.9}),
    "adamax": (torch.optim.Adamax, {}, "adamax", {"beta1": 0.9}),
    "rmsprop": (torch.optim.RMSprop, {"alpha": 0.7, "centered": True}, "rmsprop", {"decay": 0.7}),
    "adadelta": (torch.optim.Adadelta, {"rho": 0.6}, "adadelta", {"decay": 0.6, "eps": 1e-6}),
    "adagrad": (
        torch.optim.Adagrad,
        {"initial_accumulator_value": 0.1, "lr_decay": 0.2},
        "adagrad",
        {"initial_accumulator": 0.1, "lr_decay": 0.2},
    ),
    "rprop": (
        torch.optim.Rprop,
        {"etas": (0.4, 1.3), "step_sizes": (1e-3, 2.0)},
        "rprop",
        {"shrink": 0.4, "grow": 1.3, "step_min": 1e-3, "step_max": 2.0},
    ),
    "adafactor": (
        torch.optim.Adafactor,
        {"beta2_decay": -0.7, "d": 2.0},
        "adafactor",
        {"decay_power": 0.7, "eps": 2.0**-23, "eps_scale": 1e-3, "clip_threshold": 2.0},
    ),
    "a rate in a tensor": (torch.optim.SGD, {"lr": torch.tensor(LR)}, "sgd", {"momentum": 0}),
    "maximized": (torch.optim.SGD, {"maximize": True}, "", {"maximize": True}),
    "asgd": (torch.optim.ASGD, {"lambd": 0.5}, "", {"lambd": 0.5}),
}


@pytest.mark.parametrize("name", CLASSES)
def test_an_optimizer_is_read_in_the_words_of_the_catalogue(name: str, tmp_path: Path) -> None:
    kind, settings, catalogue, expected = CLASSES[name]
    model = net()
    optimizer = kind(model.parameters(), **{"lr": LR} | settings)
    trace = train(tmp_path / "t", model, optimizer, updates=1)
    (read,) = Trace.load(tmp_path / "t").header["read"]["optimizers"]
    assert read["class"] == f"{kind.__module__}.{kind.__name__}"
    assert read["name"] == catalogue
    (group,) = read["groups"]
    assert group.pop("parameters") == ["0.weight", "0.bias", "2.weight", "2.bias"]
    assert group.pop("lr") == LR
    assert expected.items() <= group.items()
    if catalogue:
        variant = Optimizer.variants[catalogue]
        kinds = {name: type(value) for name, value in variant.knobs().items()}
        assert variant(**{knob: kinds[knob](value) for knob, value in group.items()})
    assert trace.header["read"]["schedulers"] == []


def test_a_subclass_is_no_optimizer_of_the_catalogue(tmp_path: Path) -> None:
    class Mine(torch.optim.AdamW):
        """It may step as it likes."""

    model = net()
    trace = train(tmp_path / "t", model, Mine(model.parameters(), 0.1, betas=(0.5, 0.6)))
    (read,) = trace.header["read"]["optimizers"]
    assert read["name"] == ""
    assert read["groups"][0]["beta2"] == 0.6


def test_groups_schedulers_and_what_varies_are_read(tmp_path: Path) -> None:
    model, other = net(), net()
    weights = [one for one in model.parameters() if one.ndim > 1]
    biases = [one for one in model.parameters() if one.ndim == 1]
    groups = [{"params": weights, "weight_decay": 0.1}, {"params": biases, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, 0.1)
    foreign = torch.optim.lr_scheduler.StepLR(torch.optim.SGD(other.parameters(), 0.1), 1)
    lrs = torch.optim.lr_scheduler
    parts = [lrs.LinearLR(optimizer, 0.5, 1.0, 2), lrs.CosineAnnealingLR(optimizer, 7)]
    scheduler = lrs.SequentialLR(optimizer, parts, [2])

    def step(model: Any, optimizer: Any, x: Any) -> Any:
        loss = plain_step(model, optimizer, x)
        optimizer.param_groups[1]["betas"] = (0.7, 0.999)
        scheduler.step()
        return loss

    trace = train(tmp_path / "t", model, optimizer, step)
    read = trace.header["read"]
    decayed, free = read["optimizers"][0]["groups"]
    assert decayed["parameters"] == ["0.weight", "2.weight"]
    assert (decayed["weight_decay"], free["weight_decay"]) == (0.1, 0.0)
    assert "varies" not in decayed
    assert (free["beta1"], free["varies"]) == (0.9, ["beta1"])
    np.testing.assert_allclose(trace.series("lr1"), [0.05, 0.075, 0.1])
    (found,) = read["schedulers"]
    assert found["class"] == "SequentialLR"
    assert found["milestones"] == [2]
    assert [part["class"] for part in found["schedulers"]] == ["LinearLR", "CosineAnnealingLR"]
    assert found["schedulers"][1]["T_max"] == 7
    assert foreign is not None


def test_functions_of_a_scheduler_are_read_with_what_is_bound_to_them(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    scheduler = transformers.get_cosine_schedule_with_warmup(optimizer, 2, 10)
    (read,) = train(tmp_path / "t", model, optimizer).header["read"]["schedulers"]
    assert read["lr_lambdas"][0]["num_warmup_steps"] == 2
    assert scheduler is not None


def test_modules_are_read_with_their_mode(tmp_path: Path) -> None:
    model = net(torch.nn.BatchNorm1d(H, eps=1e-3), torch.nn.Dropout(0.25))
    model[2].eval()
    modules = train(tmp_path / "t", model).header["read"]["modules"]
    assert modules["2"]["class"] == "BatchNorm1d"
    assert (modules["2"]["eps"], modules["2"]["training"]) == (1e-3, False)
    assert (modules["3"]["p"], modules["3"]["training"]) == (0.25, True)


def test_a_tied_parameter_is_recorded_once_and_said(tmp_path: Path) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(D, D), torch.nn.Linear(D, D))
    model[1].weight = model[0].weight
    trace = train(tmp_path / "t", model)
    assert set(trace.parameters(0)) == {"0.weight", "0.bias", "1.bias"}
    assert trace.header["read"]["tied"] == [["0.weight", "1.weight"]]


# --- mixed precision


def test_autocast_is_read_and_widened_arrays_are_named(tmp_path: Path) -> None:
    def step(model: Any, optimizer: Any, x: Any) -> Any:
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(x).float().square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss

    header = train(tmp_path / "t", net(), step=step).header
    assert header["read"]["autocast"] == {"device": "cpu", "dtype": "bfloat16"}
    assert header["array_dtypes"] == dict.fromkeys(
        ("forward/0", "forward/1", "forward/2"), "bfloat16"
    )
    header = train(tmp_path / "scalars", net(), step=step, every=0).header
    assert header["read"]["autocast"]["dtype"] == "bfloat16"
    assert header["read"]["modules"]["0"]["training"]
    header = train(tmp_path / "u", net()).header
    assert "autocast" not in header["read"]
    assert header["array_dtypes"] == {}
    model = net().bfloat16()
    optimizer = torch.optim.Adam(model.parameters(), 0.1)
    low = train(
        tmp_path / "v", model, optimizer, lambda one, by, x: plain_step(one, by, x.bfloat16())
    )
    assert low.header["array_dtypes"].keys() >= {
        *("updates/loss", "parameters/0.weight", "gradients/0.weight", "clip/0.weight"),
        *("moments/second/0.weight", "batch/x", "forward/0"),
    }
    assert dtype_of(low, "detail/0/moments/second/0.weight") == "bfloat16"


def scaled_step(scaler: Any, unscaled: list[dict[str, np.ndarray]], clip: bool) -> Step:
    def step(model: Any, optimizer: Any, x: Any) -> Any:
        is_first = not unscaled
        with torch.autocast("cpu", torch.float16):
            loss = model(x * (1e4 if is_first else 1)).float().square().mean()
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        if clip:
            scaler.unscale_(optimizer)
        factor = 1 if clip else 1 / scaler.get_scale()
        gradients = {
            name: (one.grad * factor).numpy().copy() for name, one in model.named_parameters()
        }
        unscaled.append(gradients)
        if clip:
            torch.nn.utils.clip_grad_norm_(model.parameters(), 0.01)
        scaler.step(optimizer)
        scaler.update()
        return loss

    return step


@pytest.mark.parametrize("clip", [True, False])
@pytest.mark.parametrize("fused", [True, False])
def test_gradients_are_recorded_without_the_scale(clip: bool, fused: bool, tmp_path: Path) -> None:
    def run(path: Path | None) -> tuple[Any, list[dict[str, np.ndarray]]]:
        model = net(torch.nn.Dropout(0.5))
        optimizer = torch.optim.AdamW(model.parameters(), 0.01, fused=fused)
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12, growth_interval=2)
        unscaled: list[dict[str, np.ndarray]] = []
        step = scaled_step(scaler, unscaled, clip)
        return train(path, model, optimizer, step, updates=5), unscaled

    bare, _ = run(None)
    trace, unscaled = run(tmp_path / "t")
    scaler = trace.header["read"]["grad_scaler"]
    assert scaler["skipped"] == [0]
    assert scaler["growth_interval"] == 2
    assert trace.series("grad_norm")[0] == trace.series("update_norm")[0] == 0
    assert not any(name.startswith("detail/0/gradients/") for name in trace.arrays)
    assert trace.arrays["detail/0/forward/0"].shape == (B, H)
    for update in range(1, 5):
        for name, gradient in unscaled[update].items():
            recorded = trace.arrays[f"detail/{update}/gradients/{name}"]
            np.testing.assert_array_equal(recorded, gradient, err_msg=f"{update} {name}")
        clipped = trace.arrays[f"detail/{update}/clip/0.weight"]
        assert np.array_equal(clipped, unscaled[update]["0.weight"]) != clip
    last = trace.parameters(5)
    for name, array in last.items():
        np.testing.assert_array_equal(array, bare[name], err_msg=name)


def test_gradients_that_a_loop_gives_itself_are_not_scaled_again(
    tmp_path: Path,
) -> None:
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8)
    recorder = lockstep.Recorder(tmp_path / "t", backend="torch")
    recorder.watch(model, optimizer)
    for update in range(UPDATES):
        loss = model(rows(update)).square().mean()
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        recorder.record(gradients=model)
        scaler.step(optimizer)
        scaler.update()
        recorder.update(loss=loss)
    given = recorder.finish()
    heard = train(tmp_path / "u", net())
    for update in range(UPDATES):
        name = f"detail/{update}/gradients/2.bias"
        np.testing.assert_allclose(given.arrays[name], heard.arrays[name], rtol=1e-6)


# --- wrappers


@contextmanager
def one_process() -> Iterator[None]:
    distributed = torch.distributed
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        yield
    finally:
        distributed.destroy_process_group()


WRAPPERS: dict[str, tuple[Callable[[Any], Any], Callable[[], Any]]] = {
    "torch.compile": (lambda model: torch.compile(model, backend="eager"), nullcontext),
    "DataParallel": (torch.nn.DataParallel, nullcontext),
    "DistributedDataParallel": (torch.nn.parallel.DistributedDataParallel, one_process),
}


@pytest.mark.filterwarnings("ignore")  # PyTorch's own
@pytest.mark.parametrize("title", WRAPPERS)
def test_what_wraps_a_model_is_left_out_of_the_names(title: str, tmp_path: Path) -> None:
    wrap, context = WRAPPERS[title]
    bare = train(tmp_path / "bare", net())
    with context():
        wrapped = train(tmp_path / "wrapped", wrap(net()))
    assert wrapped.header["read"]["wrappers"] == [title]
    assert wrapped.header["read"]["modules"] == bare.header["read"]["modules"]
    assert wrapped.header["layers"] == bare.header["layers"] == ["0", "1", "2"]
    assert wrapped.header["inputs"] == bare.header["inputs"]
    assert wrapped.arrays.keys() == bare.arrays.keys()
    for name, array in bare.arrays.items():
        np.testing.assert_array_equal(wrapped.arrays[name], array, err_msg=name)


@pytest.mark.filterwarnings("ignore")
def test_a_compiled_part_keeps_its_place(tmp_path: Path) -> None:
    model = torch.nn.Sequential(torch.compile(net(), backend="eager"), torch.nn.Tanh())
    trace = train(tmp_path / "t", model)
    assert trace.header["layers"] == ["0.0", "0.1", "0.2", "1"]
    assert "0.2.weight" in trace.parameters(0)


@pytest.mark.filterwarnings("ignore")
def test_a_graph_that_must_stay_whole_is_recorded_from_outside(tmp_path: Path) -> None:
    model = torch.compile(net(), backend="eager", fullgraph=True)
    trace = train(tmp_path / "t", model)
    assert trace.header["layers"] == ["sequential"]
    assert trace.series("grad_norm").min() > 0


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("is_whole", [True, False])
def test_what_a_compiled_function_calls_is_not_heard_and_that_is_said(
    is_whole: bool, tmp_path: Path
) -> None:
    model = net()
    loss_of = torch.compile(lambda x: model(x).square().mean(), backend="eager", fullgraph=is_whole)

    def step(model: Any, optimizer: Any, x: Any) -> Any:
        loss = loss_of(x)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss

    with pytest.warns(RecorderWarning, match="no layer is recorded: none is called, or in"):
        trace = train(tmp_path / "t", model, step=step)
    assert trace.header["layers"] == []
    assert trace.series("grad_norm").min() > 0


def test_a_wrapper_of_an_optimizer_is_looked_through(tmp_path: Path) -> None:
    class Wrapped:
        def __init__(self, optimizer: Any) -> None:
            self.optimizer = optimizer
            self.param_groups = optimizer.param_groups

    model = net()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    recorder = lockstep.Recorder(tmp_path / "t", backend="torch")
    recorder.watch(model, Wrapped(optimizer))
    recorder.update(loss=plain_step(model, optimizer, rows(0)))
    assert recorder.finish().header["read"]["optimizers"][0]["name"] == "sgd"


# --- passes


def evaluations(model: Any) -> None:
    """Evaluations as people write them, with other numbers of rows."""
    model.eval()
    with torch.no_grad():
        model(rows(9, 7))
    with torch.inference_mode():
        model(rows(9, 7))
    model(rows(9, 6)).sum().item()  # nobody switched gradients off
    model.train()
    with torch.no_grad():
        model[0](rows(9, 5))


def test_evaluations_in_between_are_left_out(tmp_path: Path) -> None:
    def before_backward(model: Any, optimizer: Any, x: Any) -> Any:
        evaluations(model)
        loss = model(x).square().mean()
        evaluations(model)
        optimizer.zero_grad()
        loss.backward()
        evaluations(model)
        optimizer.step()
        evaluations(model)
        return loss

    plain = train(tmp_path / "a", noisy())
    between = train(tmp_path / "b", noisy(), step=before_backward)
    assert between.arrays.keys() == plain.arrays.keys()
    assert between.header["layers"] == plain.header["layers"]
    for name, array in plain.arrays.items():
        assert between.arrays[name].shape == array.shape, name
    np.testing.assert_array_equal(
        between.arrays["detail/0/forward/0"], plain.arrays["detail/0/forward/0"]
    )
    assert between.header["read"]["trains_in_evaluation"] == []


def test_dropout_that_is_on_in_an_evaluation_is_said(tmp_path: Path) -> None:
    def step(model: Any, optimizer: Any, x: Any) -> Any:
        model.eval()
        model[2].train()
        with torch.no_grad():
            model(x)
        model.train()
        return plain_step(model, optimizer, x)

    trace = train(tmp_path / "t", net(torch.nn.Dropout(0.5), torch.nn.Dropout(0.5)), step=step)
    assert trace.header["read"]["trains_in_evaluation"] == ["2"]
    assert "trains_in_evaluation" not in train(tmp_path / "u", net()).header["read"]


def test_a_layer_in_evaluation_mode_is_recorded_in_training(tmp_path: Path) -> None:
    model = net(torch.nn.BatchNorm1d(H))
    model.eval()
    model[0].requires_grad_(False)
    assert train(tmp_path / "t", model).header["layers"] == ["0", "1", "2", "3"]


class Positions(torch.nn.Module):
    """Adds an output that has one row, however many are given."""

    def __init__(self) -> None:
        super().__init__()
        self.place, self.out = torch.nn.Embedding(D, D), torch.nn.Linear(D, K)

    def forward(self, x: Any) -> Any:
        return self.out(torch.relu(x + 9) + self.place(torch.arange(D)[None]).mean(1))


@pytest.mark.parametrize("parts", [1, 2, B])
def test_micro_batches_are_joined_along_their_rows(parts: int, tmp_path: Path) -> None:
    def step(model: Any, optimizer: Any, x: Any) -> Any:
        optimizer.zero_grad()
        losses = []
        for part in x.chunk(parts):
            losses.append(model(part).square().mean() / parts)
            losses[-1].backward()
        optimizer.step()
        return sum(losses).detach()

    whole = train(tmp_path / "a", Positions())
    torch.manual_seed(0)
    micro = train(tmp_path / "b", Positions(), step=step)
    assert (
        micro.header["layers"]
        == whole.header["layers"]
        == ["place.input", "place", "out.input", "out"]
    )
    for name, array in whole.arrays.items():
        assert micro.arrays[name].shape == array.shape, name
    np.testing.assert_array_equal(
        micro.arrays["detail/0/batch/x"], whole.arrays["detail/0/batch/x"]
    )
    without_rows = [] if parts == 1 else ["place", "place.input"]
    assert micro.header["read"].get("without_rows", []) == without_rows


def test_statistics_of_micro_batches_are_those_of_the_rows(tmp_path: Path) -> None:
    def step(model: Any, optimizer: Any, x: Any) -> Any:
        model(rows(9, 6)).sum().item()
        optimizer.zero_grad()
        for part in x.chunk(2):
            (model(part).square().mean() / 2).backward()
        optimizer.step()
        return torch.zeros(())

    options: dict[str, Any] = {"every": 0, "sketches": True}
    whole = train(tmp_path / "a", net(), **options)
    micro = train(tmp_path / "b", net(), step=step, **options)
    for name in ("statistics/forward/0", "sketches/forward/2"):
        np.testing.assert_allclose(micro.arrays[name], whole.arrays[name], rtol=1e-5, atol=1e-7)
    assert not any(name.startswith("detail/") for name in micro.arrays)


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_what_a_checkpoint_computes_again_is_recorded_once(
    use_reentrant: bool, tmp_path: Path
) -> None:
    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.body = torch.nn.Linear(D, D), net(torch.nn.Dropout(0.5))

        def forward(self, x: Any) -> Any:
            return checkpoint(self.body, self.first(x), use_reentrant=use_reentrant)

    trace = train(tmp_path / "t", Model())
    assert trace.header["layers"] == ["first", "body.0", "body.1", "body.2", "body.3"]
    assert forward(trace)["body.3"].shape == (B, K)
    assert "trains_in_evaluation" not in trace.header["read"]


def test_a_pass_that_fails_is_left_out(tmp_path: Path) -> None:
    def step(model: Any, optimizer: Any, x: Any) -> Any:
        with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
            model(torch.ones(2, D + 1))
        return plain_step(model, optimizer, x)

    assert forward(train(tmp_path / "t", net(), step=step))["0"].shape == (B, H)


# --- several optimizers


def test_two_optimizers_step_in_one_update(tmp_path: Path) -> None:
    torch.manual_seed(0)
    maker, judge = torch.nn.Linear(D, D), torch.nn.Sequential(torch.nn.Linear(D, 1))
    of_judge = torch.optim.SGD(judge.parameters(), 0.1)
    of_maker = torch.optim.Adam(maker.parameters(), 0.01)
    recorder = lockstep.Recorder(tmp_path / "t", backend="torch")
    recorder.watch(torch.nn.ModuleDict({"g": maker, "d": judge}), [of_judge, of_maker])
    expected = []
    for update in range(UPDATES):
        made = maker(rows(update))
        loss = functional.softplus(judge(made.detach())).mean() - judge(rows(7)).mean()
        of_judge.zero_grad()
        loss.backward()
        expected.append(judge[0].weight.grad.numpy().copy())
        of_judge.step()
        of_maker.zero_grad()
        judge(made).mean().backward()  # also adds to the judge's gradients, which nobody uses
        of_maker.step()
        recorder.update(loss=loss)
    trace = recorder.finish()
    np.testing.assert_array_equal(trace.series("lr"), [0.1] * UPDATES)
    np.testing.assert_array_equal(trace.series("lr1"), [0.01] * UPDATES)
    for update, gradient in enumerate(expected):
        recorded = trace.arrays[f"detail/{update}/gradients/d.0.weight"]
        np.testing.assert_array_equal(recorded, gradient)
    assert forward(trace)["d.0"].shape == (3 * B, 1)
    assert forward(trace)["g"].shape == (B, D)
    names = [one["groups"][0]["parameters"] for one in trace.header["read"]["optimizers"]]
    assert names == [["d.0.weight", "d.0.bias"], ["g.weight", "g.bias"]]
    assert "detail/0/moments/first/g.weight" in trace.arrays


def test_an_optimizer_may_pause_and_models_may_be_watched_one_by_one(tmp_path: Path) -> None:
    models = [torch.nn.Sequential(), torch.nn.Sequential()]
    models[0].add_module("a", torch.nn.Linear(D, D))
    models[1].add_module("b", torch.nn.Linear(D, D))
    optimizers = [torch.optim.SGD(model.parameters(), 0.1) for model in models]
    recorder = lockstep.Recorder(tmp_path / "t", backend="torch")
    for model, optimizer in zip(models, optimizers):
        recorder.watch(model, optimizer)
    for update in range(UPDATES):
        loss = models[1](models[0](rows(update))).square().mean()
        for optimizer in optimizers:
            optimizer.zero_grad()
        loss.backward()
        optimizers[0].step()
        if update == 1:
            optimizers[1].step()
        recorder.update(loss=loss)
    trace = recorder.finish()
    assert set(trace.parameters(0)) == {"a.weight", "a.bias", "b.weight", "b.bias"}
    weights = [trace.parameters(update)["b.weight"] for update in range(UPDATES + 1)]
    assert [np.array_equal(*pair) for pair in pairwise(weights)] == [True, False, True]
    np.testing.assert_array_equal(trace.series("lr1"), [0.1] * UPDATES)


def test_an_optimizer_that_is_not_watched_is_said_once(tmp_path: Path) -> None:
    model = net()
    first, second = (torch.optim.SGD(part.parameters(), 0.1) for part in (model[0], model[2]))

    def step(model: Any, optimizer: Any, x: Any) -> Any:
        loss = plain_step(model, optimizer, x)
        second.step()
        return loss

    with pytest.warns(RecorderWarning, match="another optimizer, SGD, steps 2 parameters") as said:
        train(tmp_path / "t", model, first, step)
    assert len(said) == 1
    train(tmp_path / "u", model, [first, second], lambda model, optimizers, x: model(x).sum())
    second.step()


def test_a_copy_of_a_watched_model_is_not_heard(tmp_path: Path) -> None:
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    recorder = lockstep.Recorder(tmp_path / "t", backend="torch", operations=1)
    recorder.watch(model, optimizer)
    copies = [deepcopy(model), pickle.loads(pickle.dumps(model))]
    copies.append(torch.optim.swa_utils.AveragedModel(model).module)
    for update in range(2):
        for other in copies:
            other(rows(update, 7)).sum().backward()
        recorder.update(loss=plain_step(model, optimizer, rows(update)))
    trace = recorder.finish()
    assert forward(trace)["0"].shape == (B, H)
    assert trace.header["layers"] == ["0", "1", "2"]


# --- what changes while it is watched


def test_parameters_that_are_trained_later_are_heard_from_then_on(tmp_path: Path) -> None:
    def step(model: Any, optimizer: Any, x: Any) -> Any:
        loss = model(x).square().mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.01)
        optimizer.step()
        model[0].requires_grad_(True)
        return loss

    model = net()
    model[0].requires_grad_(False)
    trace = train(tmp_path / "t", model, step=step)
    assert "detail/0/gradients/0.weight" not in trace.arrays
    for update in (1, 2):
        gradient = trace.arrays[f"detail/{update}/gradients/0.weight"]
        clipped = trace.arrays[f"detail/{update}/clip/0.weight"]
        assert np.abs(gradient).max() > 2 * np.abs(clipped).max() > 0


def test_a_group_that_is_added_ends_nothing(tmp_path: Path) -> None:
    def step(model: Any, optimizer: Any, x: Any) -> Any:
        loss = plain_step(model, optimizer, x)
        if len(optimizer.param_groups) == 1:
            optimizer.add_param_group({"params": model[2].parameters(), "lr": 0.5})
        return loss

    model = net()
    optimizer = torch.optim.SGD(model[0].parameters(), 0.1)
    trace = train(tmp_path / "t", model, optimizer, step)
    np.testing.assert_array_equal(trace.series("lr"), [0.1] * UPDATES)
    assert not np.array_equal(trace.parameters(3)["2.weight"], trace.parameters(1)["2.weight"])


class Odd(torch.nn.Module):
    """A sparse gradient, a complex parameter, and layers that return tuples, nothing of note or
    what no trace can hold.
    """

    def __init__(self) -> None:
        super().__init__()
        self.table = torch.nn.Embedding(9, D, sparse=True)
        self.turn = torch.nn.Parameter(torch.ones(D, dtype=torch.complex64))
        self.recurrent, self.words = torch.nn.LSTM(D, D, batch_first=True), torch.nn.Identity()
        self.spectrum = torch.nn.Identity()

    def forward(self, x: Any) -> dict[str, Any]:
        self.words("nothing")
        embedded = self.table(x.abs().long())
        outputs, _ = self.recurrent(embedded)
        return {"logits": self.spectrum(outputs * self.turn).abs()}


def test_what_a_trace_cannot_hold_ends_no_training(tmp_path: Path) -> None:
    model = Odd()
    optimizers = [
        torch.optim.SGD(
            [one for name, one in model.named_parameters() if "table" not in name], 0.1
        ),
        torch.optim.SparseAdam(model.table.parameters(), 0.1),
    ]
    recorder = lockstep.Recorder(tmp_path / "t", backend="torch", statistics=True)
    recorder.watch(model, optimizers)
    for update in range(UPDATES):
        for optimizer in optimizers:
            optimizer.zero_grad()
        loss = model(rows(update))["logits"].sum()
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
        recorder.update(loss=loss)
    trace = recorder.finish()
    assert trace.arrays["detail/0/gradients/table.weight"].shape == (9, D)
    assert "turn" not in trace.parameters(0)
    assert trace.header["layers"] == ["table.input", "table", "recurrent", "odd"]
    assert forward(trace)["recurrent"].shape == (B, D, D)
    assert trace.header["read"]["unread"] == ["spectrum"]


def test_a_last_step_that_is_not_closed_is_said(tmp_path: Path) -> None:
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    recorder = lockstep.Recorder(tmp_path / "t", backend="torch")
    recorder.watch(model, optimizer)
    recorder.update(loss=plain_step(model, optimizer, rows(0)))
    plain_step(model, optimizer, rows(1))
    with pytest.warns(
        RecorderWarning, match=r"the last step is left out: no update\(\) came after it"
    ):
        assert recorder.finish().header["updates"] == 1


# --- nothing is changed


@pytest.mark.filterwarnings("ignore")  # PyTorch's own, of a compiled model
@pytest.mark.parametrize("kind", ["plain", "autocast", "accumulated", "compiled"])
def test_recording_changes_no_bit(kind: str, tmp_path: Path) -> None:
    def step(model: Any, optimizer: Any, x: Any) -> Any:
        parts = x.chunk(2) if kind == "accumulated" else [x]
        optimizer.zero_grad()
        losses = []
        for part in parts:
            with torch.autocast("cpu", torch.bfloat16, enabled=kind == "autocast"):
                losses.append(model(part).float().square().mean() / len(parts))
            losses[-1].backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        optimizer.step()
        return sum(losses).detach()

    def model_of() -> Any:
        return torch.compile(noisy(), backend="eager") if kind == "compiled" else noisy()

    bare = train(None, model_of(), step=step)
    torch._dynamo.reset()  # what was compiled without hooks would serve the second model too
    model = model_of()
    trace = train(tmp_path / "t", model, step=step, statistics=True)
    assert trace.header["layers"] == ["0", "1", "2", "3", "4"]
    drawn = torch.rand(3).numpy()
    np.testing.assert_array_equal(drawn, bare["drawn next"])
    for name, value in model.state_dict().items():
        np.testing.assert_array_equal(value.numpy(), bare[name], err_msg=name)


# --- what cannot be watched


def test_what_is_not_of_pytorch_is_told_what_to_do_instead(tmp_path: Path) -> None:
    recorder = lockstep.Recorder(tmp_path / "t", backend="torch")
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1)
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer)
    other = torch.optim.SGD(net().parameters(), 0.1)
    wrong: list[tuple[str, Any, Any]] = [
        (r"model must be .*flax.*value_and_grad", nnx.Linear(2, 2, rngs=nnx.Rngs(0)), None),
        (r"optimizer must be .*optax.*value_and_grad", model, optax.adam(0.1)),
        (r"model must be .*SGD; .*Recorder.update", optimizer, model),
        (r"model must be .*Sequential itself", torch.nn.Sequential, None),
        (r"optimizer must be .*SGD itself", model, torch.optim.SGD),
        (r"StepLR is a scheduler; give its optimizer", model, scheduler),
        (r"ReduceLROnPlateau is a scheduler; give its optimizer", model, plateau),
        (r"the optimizer has no parameter of the model", model, other),
        (r"the optimizer has no parameter of the model", model, [optimizer, other]),
    ]
    for line, first, second in wrong:
        with pytest.raises(InputError, match=line) as raised:
            recorder.watch(first, second)
        assert "\n" not in str(raised.value)
    assert not any(module._forward_hooks for module in model.modules())
    recorder.watch(model, optimizer)
    with pytest.raises(InputError, match="this optimizer is watched already"):
        recorder.watch(torch.nn.Linear(1, 1), optimizer)
    with pytest.raises(InputError, match=r"two models have a parameter '0.bias'; .*ModuleDict"):
        recorder.watch(net())
    assert jax.__version__


def test_a_loop_that_closes_no_update_is_told_how(tmp_path: Path) -> None:
    model = net()
    recorder = lockstep.Recorder(tmp_path / "t", backend="torch")
    recorder.watch(model, torch.optim.SGD(model.parameters(), 0.1))
    model(rows(0)).sum().backward()
    with pytest.raises(InputError, match=r"no update was recorded.*call recorder.update\(loss"):
        recorder.finish()


def test_two_steps_in_an_update_leave_what_came_before(tmp_path: Path) -> None:
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)

    def loop() -> None:
        with lockstep.Recorder(tmp_path / "t", backend="torch") as recorder:
            recorder.watch(model, optimizer)
            recorder.update(loss=plain_step(model, optimizer, rows(0)))
            plain_step(model, optimizer, rows(1))
            plain_step(model, optimizer, rows(2))

    with pytest.raises(InputError, match=r"update 1: the optimizer steps twice in it; call update"):
        loop()
    trace = Trace.load(tmp_path / "t")
    assert trace.header["updates"] == 1
    assert "the optimizer steps twice" in trace.header["recording"]["stopped"]


class Derived(torch.optim.AdamW):
    """An optimizer whose step calls that of its parent class."""

    def step(self, closure: Any = None) -> Any:
        return super().step(closure)


def test_a_step_that_calls_its_parents_step_is_one(tmp_path: Path) -> None:
    model = torch.nn.Linear(3, 2)
    optimizer = Derived(model.parameters(), lr=0.1)
    with lockstep.Recorder(tmp_path / "t.trace", backend="torch") as recorder:
        recorder.watch(model, optimizer)
        for _ in range(2):
            loss = model(torch.ones(4, 3)).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            recorder.update(loss=loss)
    assert Trace.load(tmp_path / "t.trace").header["updates"] == 2


def test_the_gradient_is_not_the_direction_that_foreach_writes_over_it(tmp_path: Path) -> None:
    traces = []
    for foreach in (False, True):
        torch.manual_seed(0)
        model = torch.nn.Linear(3, 2, dtype=torch.float64)
        optimizer = torch.optim.SGD(
            model.parameters(), lr=0.1, momentum=0.9, nesterov=True, foreach=foreach
        )
        with lockstep.Recorder(tmp_path / f"{foreach}.trace", backend="torch") as recorder:
            recorder.watch(model, optimizer)
            for _ in range(2):
                loss = model(torch.ones(4, 3, dtype=torch.float64)).square().mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                recorder.update(loss=loss)
        traces.append(Trace.load(tmp_path / f"{foreach}.trace"))
    for update in range(2):
        given = [trace.arrays[f"detail/{update}/clip/weight"] for trace in traces]
        assert np.array_equal(*given)
