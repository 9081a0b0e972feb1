"""Checkpoints become the files that people save, and come back bit for bit. Kernels are turned by
name, and what does not fit is refused by name.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import orbax.checkpoint as ocp
import pytest
import torch
from flax import nnx, serialization
from safetensors.torch import load_file, save_file

import jax_impl.train
import pt_impl.train
from lockstep.cli import main
from lockstep.diagnose.compare import compare
from lockstep.errors import InputError
from lockstep.recipe import Recipe
from lockstep.records.checkpoint import Checkpoint, Checkpoints
from lockstep.records.convert import convert
from lockstep.records.run_recorder import Watch
from parity_tests.shared.recipes import oracle_trace, prepared, small_recipe

# square kernels: linear1 is (6, 6), linear2 (6, 6)
BASE: dict[str, Any] = {"training__dtype": "float64", "model__hidden": (6, 6)}
VARIANTS: dict[str, dict[str, Any]] = {
    "momentum": BASE,
    "adamw": BASE
    | {
        "optimizer__name": "adamw",
        "average__decay": 0.9,
        "model__norm": "batch",
        "training__batch": 16,
        "gradient__accumulate": 4,
        "optimizer__eps": 1e-3,
    },
    "rmsprop, float32": BASE | {"training__dtype": "float32", "optimizer__name": "rmsprop"},
    "multipliers": BASE | {"optimizer__name": "adam", "optimizer__multipliers": (1.0, 0.5, 2.0)},
    "adafactor": BASE | {"optimizer__name": "adafactor"},
}
ENDS = [".pt", ".msgpack", ""]


def checkpoint_of(recipe: Recipe, update: int = 4) -> Checkpoint:
    checkpoints: dict[int, Checkpoint] = {}

    def keep(checkpoint: Checkpoint) -> None:
        checkpoints[checkpoint.update] = checkpoint

    watch = Watch(checkpoints=Checkpoints(1, "update", keep))
    pt_impl.train.train(recipe, prepared(recipe), watch=watch)
    return checkpoints[update]


def as_file(recipe: Recipe, path: Path, checkpoint: Checkpoint | None = None) -> Path:
    source = path.with_name("source.checkpoint")
    (checkpoint or checkpoint_of(recipe)).save(source)
    convert(source, path, None, prepared, None)
    return path


def assert_same(checkpoint: Checkpoint, expected: Checkpoint) -> None:
    either = {"backend": "either", "model_only": False}
    assert checkpoint.header | either == expected.header | either
    assert checkpoint.arrays.keys() == expected.arrays.keys()
    for name, array in expected.arrays.items():
        other = checkpoint.arrays[name]
        assert (other.dtype, other.shape) == (array.dtype, array.shape), name
        np.testing.assert_array_equal(other, array, err_msg=name)


# --- there and back


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_bits_come_back(variant: str, end: str, tmp_path: Path) -> None:
    recipe = small_recipe(**VARIANTS[variant])
    checkpoint = checkpoint_of(recipe)
    path = as_file(recipe, tmp_path / f"file{end}", checkpoint)
    convert(path, tmp_path / "back.checkpoint", recipe, prepared, None)
    back = Checkpoint.load(tmp_path / "back.checkpoint")
    checkpoint.save(tmp_path / "as_saved.checkpoint")
    assert_same(back, Checkpoint.load(tmp_path / "as_saved.checkpoint"))


@pytest.mark.parametrize("ends", [(".pt", ".msgpack"), ("", ".pt")])
def test_torch_to_flax_and_on(ends: tuple[str, str], tmp_path: Path) -> None:
    """A run begins in PyTorch, its file becomes the other framework's and then a checkpoint, and
    the run goes on in JAX.
    """
    recipe = small_recipe(**VARIANTS["adamw"])
    first, second = as_file(recipe, tmp_path / f"a{ends[0]}"), tmp_path / f"b{ends[1]}"
    convert(first, second, recipe, prepared, None)
    convert(second, tmp_path / "c.checkpoint", recipe, prepared, None)
    resume = Checkpoint.load(tmp_path / "c.checkpoint")
    watch = Watch(parameters_every=1, resume=resume)
    trace = jax_impl.train.train(recipe, prepared(recipe), watch=watch)
    assert compare(trace, oracle_trace(recipe), {}).verdict == "rounding"


# --- what the frameworks find in the files


def test_torch_finds_its_own_state(tmp_path: Path) -> None:
    recipe = small_recipe(**BASE | {"optimizer__name": "adamw"})
    checkpoint = checkpoint_of(recipe)
    saved = torch.load(as_file(recipe, tmp_path / "a.pt", checkpoint), weights_only=True)
    model = torch.nn.Sequential()
    for name, outputs in (("linear1", 6), ("linear2", 6), ("linear3", 3)):
        model.add_module(name, torch.nn.Linear(6, outputs, dtype=torch.float64))
    model.load_state_dict(saved["model"])
    optimizer = torch.optim.AdamW(model.parameters())
    optimizer.load_state_dict(saved["optimizer"])
    weight = model.linear2.weight
    expected = checkpoint.arrays["parameters/linear2.weight"].T
    np.testing.assert_array_equal(weight.detach().numpy(), expected)
    state = optimizer.state[weight]
    assert state["step"] == 4
    first_moment = checkpoint.arrays["optimizer/first/linear2.weight"].T
    np.testing.assert_array_equal(state["exp_avg"].numpy(), first_moment)


def test_flax_finds_its_own_tree(tmp_path: Path) -> None:
    recipe = small_recipe(**BASE | {"training__dtype": "float32"})
    checkpoint = checkpoint_of(recipe)
    content = as_file(recipe, tmp_path / "a.msgpack", checkpoint).read_bytes()
    folder = as_file(recipe, tmp_path / "a", checkpoint)
    weight = checkpoint.arrays["parameters/linear2.weight"]
    momentum = checkpoint.arrays["optimizer/momentum/linear2.weight"]
    for tree in (
        serialization.msgpack_restore(content),
        ocp.PyTreeCheckpointer().restore(folder),
    ):
        layer = nnx.Linear(6, 6, rngs=nnx.Rngs(0))
        nnx.update(layer, nnx.State(tree["params"]["linear2"]))
        np.testing.assert_array_equal(layer.kernel.get_value(), weight)
        slot = tree["opt_state"]["0"]["trace"]["linear2"]["kernel"]
        np.testing.assert_array_equal(slot, momentum)
        assert int(tree["opt_state"]["1"]["count"]) == 4


def test_a_model_alone_goes_both_ways(tmp_path: Path) -> None:
    recipe = small_recipe(**BASE)
    path = as_file(recipe, tmp_path / "a.safetensors")
    weights = load_file(path)
    assert weights.keys() == prepared(recipe).parameters.keys()
    convert(path, tmp_path / "b.msgpack", recipe, prepared, None)
    tree = serialization.msgpack_restore((tmp_path / "b.msgpack").read_bytes())
    assert tree.keys() == {"params"}
    for name, tensor in weights.items():
        layer, _, kind = name.replace("weight", "kernel").partition(".")
        np.testing.assert_array_equal(tree["params"][layer][kind], tensor.numpy().T)
    convert(tmp_path / "b.msgpack", tmp_path / "c.pt", recipe, prepared, None)
    back = torch.load(tmp_path / "c.pt", weights_only=True)
    for name, tensor in weights.items():
        np.testing.assert_array_equal(back[name].numpy(), tensor.numpy())


# --- what is refused


def refusal(
    path: Path, recipe: Recipe, out: str = "out.checkpoint", update: int | None = None
) -> str:
    with pytest.raises(InputError) as caught:
        convert(path, path.with_name(out), recipe, prepared, update)
    (line,) = str(caught.value).splitlines()
    assert not path.with_name(out).exists()
    return line


Change = Callable[[Any], Any]


def renamed(old: str, new: str) -> Change:
    return lambda weights: {new if name == old else name: value for name, value in weights.items()}


def without(lost: str) -> Change:
    return lambda weights: {name: value for name, value in weights.items() if name != lost}


def with_another(name: str, source: str, turn: Change = lambda tensor: tensor) -> Change:
    """Put under a name what another has, turned."""
    return lambda weights: weights | {name: turn(weights[source])}


TORCH_FAULTS: dict[str, tuple[Change, str]] = {
    "missing": (without("linear2.bias"), "missing: parameters/linear2.bias"),
    "extra": (with_another("head.weight", "linear1.weight"), "extra: parameters/head.weight"),
    "a Flax name": (
        renamed("linear2.weight", "linear2.kernel"),
        "extra: parameters/linear2.kernel",
    ),
    "ambiguous": (
        with_another("module.linear1.bias", "linear1.bias"),
        "ambiguous: linear1.bias and module.linear1.bias",
    ),
    "another shape": (
        with_another("linear3.weight", "linear3.weight", lambda tensor: tensor.T.contiguous()),
        "parameters/linear3.weight: shape (3, 6), expected (6, 3)",
    ),
    "half precision": (
        with_another("linear1.bias", "linear1.bias", torch.Tensor.half),
        "linear1.bias: torch.float16",
    ),
    "another dtype": (
        lambda weights: {name: tensor.float() for name, tensor in weights.items()},
        "float32, and the recipe's dtype is float64",
    ),
}


@pytest.mark.parametrize("fault", TORCH_FAULTS)
def test_torch_files_are_refused_by_name(fault: str, tmp_path: Path) -> None:
    recipe = small_recipe(**BASE)
    weights = load_file(as_file(recipe, tmp_path / "good.safetensors"))
    change, message = TORCH_FAULTS[fault]
    changed = {name: tensor.contiguous().clone() for name, tensor in change(weights).items()}
    save_file(changed, tmp_path / "a.safetensors")
    assert message in refusal(tmp_path / "a.safetensors", recipe, "out.msgpack")


def test_prefixes_of_wrappers_are_known(tmp_path: Path) -> None:
    recipe = small_recipe(**BASE)
    weights = load_file(as_file(recipe, tmp_path / "good.safetensors"))
    for prefix in ("module.", "_orig_mod."):
        path, out = tmp_path / f"{prefix}pt", tmp_path / f"{prefix}out.safetensors"
        torch.save({prefix + name: tensor for name, tensor in weights.items()}, path)
        convert(path, out, recipe, prepared, None)
        back = load_file(out)
        assert all(torch.equal(back[name], tensor) for name, tensor in weights.items())


FLAX_FAULTS: dict[str, tuple[Change, str]] = {
    "missing": (
        without("linear2"),
        "missing: parameters/linear2.bias, parameters/linear2.weight",
    ),
    "a torch name": (
        with_another("linear2", "linear2", renamed("kernel", "weight")),
        "extra: parameters/linear2/weight",
    ),
    "automatic names": (
        lambda params: {f"Dense_{i}": layer for i, layer in enumerate(params.values())},
        "extra: parameters/Dense_0/bias",
    ),
}


@pytest.mark.parametrize("fault", FLAX_FAULTS)
def test_flax_trees_are_refused_by_name(fault: str, tmp_path: Path) -> None:
    recipe = small_recipe(**BASE)
    tree = serialization.msgpack_restore(as_file(recipe, tmp_path / "good.msgpack").read_bytes())
    change, message = FLAX_FAULTS[fault]
    content = serialization.msgpack_serialize({"params": change(tree["params"])})
    (tmp_path / "a.msgpack").write_bytes(content)
    assert message in refusal(tmp_path / "a.msgpack", recipe, "out.pt")


def test_square_kernels_are_turned_by_the_kind_of_file_alone(tmp_path: Path) -> None:
    """Every torch weight is turned, whatever its shape. A square one in the layout (in, out) cannot
    be told apart.
    """
    recipe = small_recipe(**BASE)
    weights = load_file(as_file(recipe, tmp_path / "good.safetensors"))
    convert(tmp_path / "good.safetensors", tmp_path / "out.msgpack", recipe, prepared, None)
    params = serialization.msgpack_restore((tmp_path / "out.msgpack").read_bytes())["params"]
    for layer in ("linear1", "linear2", "linear3"):
        weight = weights[f"{layer}.weight"].numpy()
        np.testing.assert_array_equal(params[layer]["kernel"], weight.T)
    assert not np.array_equal(params["linear2"]["kernel"], weights["linear2.weight"].numpy())


def test_other_refusals(tmp_path: Path) -> None:
    recipe = small_recipe(**BASE)
    path = as_file(recipe, tmp_path / "a.pt")
    saved = torch.load(path, weights_only=True)
    assert "does not say what is trained" in refusal(path, None)  # type: ignore[arg-type] # the fault
    torch.save(without("update")(saved), tmp_path / "b.pt")
    assert "--update N" in refusal(tmp_path / "b.pt", recipe)
    assert "says 4 updates, --update 5" in refusal(path, recipe, update=5)
    torch.save(saved["model"], tmp_path / "c.pt")
    line = refusal(tmp_path / "c.pt", recipe, update=4)
    assert "missing: optimizer/momentum/linear1.bias" in line
    torch.save(saved | {"scaler": {}}, tmp_path / "d.pt")
    assert "extra: scaler" in refusal(tmp_path / "d.pt", recipe)
    plain = small_recipe(**BASE | {"optimizer__momentum": 0.0})
    assert "extra: momentum_buffer of linear1.weight; sgd has none" in refusal(path, plain)
    split = small_recipe(**BASE | {"optimizer__multipliers": (1.0, 2.0, 3.0)})
    assert "groups of other sizes than the recipe's: [6] and [0, 2, 2, 2]" in refusal(path, split)
    path.with_name("e.pt").write_bytes(path.read_bytes()[:200])
    assert "not a readable .pt file" in refusal(tmp_path / "e.pt", recipe)
    path.with_name("f.msgpack").write_bytes(b"\xc1")
    assert "not a readable Flax tree" in refusal(tmp_path / "f.msgpack", recipe)
    (tmp_path / "g").mkdir()
    assert "not a readable Flax tree" in refusal(tmp_path / "g", recipe)
    assert "no such file" in refusal(tmp_path / "h.pt", recipe)
    with pytest.raises(InputError, match="must end in"):
        convert(path, tmp_path / "out.bin", recipe, prepared, None)
    with pytest.raises(InputError, match="exists already"):
        convert(path, path, recipe, prepared, None)


def test_the_midst_of_an_accumulation_has_no_place(tmp_path: Path) -> None:
    recipe = small_recipe(**VARIANTS["adamw"])
    checkpoints: list[Checkpoint] = []
    watch = Watch(checkpoints=Checkpoints(5, "batch", checkpoints.append))
    pt_impl.train.train(recipe, prepared(recipe), watch=watch)
    checkpoints[0].save(tmp_path / "a.checkpoint")
    with pytest.raises(InputError, match="midst of an accumulation"):
        convert(tmp_path / "a.checkpoint", tmp_path / "b.pt", None, prepared, None)


def test_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = ["--set=data.rows=64", "--set=training.epochs=2", "--set=schedule.warmup=1"]

    def call(*arguments: str) -> tuple[int, str]:
        with pytest.raises(SystemExit) as end:
            main(arguments)
        printed = capsys.readouterr()
        return int(end.value.code or 0), printed.out + printed.err

    trace = str(tmp_path / "run.trace")
    record = ("record", "--backend", "jax", "--out", trace, "--checkpoint-every", "2", *small)
    assert call(*record)[0] == 0
    source, torch_file = str(tmp_path / "run.2.checkpoint"), str(tmp_path / "run.pt")
    assert call("convert", source, torch_file) == (0, f"{torch_file}: all of it, 2 updates done\n")
    back = str(tmp_path / "back.checkpoint")
    status, output = call("convert", torch_file, back)
    assert (status, "--recipe RECIPE" in output) == (2, True)
    assert call("convert", torch_file, back, "--recipe", "seed", *small)[0] == 0
    _, output = call("convert", source, str(tmp_path / "run.safetensors"))
    assert output.endswith("the model alone\n")
