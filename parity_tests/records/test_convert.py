"""Checkpoints as the files that people save: bits come back, kernels are turned by name, and what
does not fit is refused by name."""

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
    found: dict[int, Checkpoint] = {}

    def keep(checkpoint: Checkpoint) -> None:
        found[checkpoint.update] = checkpoint

    pt_impl.train.train(
        recipe, prepared(recipe), watch=Watch(checkpoints=Checkpoints(1, "update", keep))
    )
    return found[update]


def as_file(recipe: Recipe, path: Path, checkpoint: Checkpoint | None = None) -> Path:
    source = path.with_name("source.checkpoint")
    (checkpoint or checkpoint_of(recipe)).save(source)
    convert(source, path, None, prepared, None)
    return path


def assert_same(found: Checkpoint, expected: Checkpoint) -> None:
    assert {k: v for k, v in found.header.items() if k != "backend"} | {"model_only": False} == {
        k: v for k, v in Checkpoint(expected.header, {}).header.items() if k != "backend"
    } | {"model_only": False}
    assert found.arrays.keys() == expected.arrays.keys()
    for name, array in expected.arrays.items():
        assert (found.arrays[name].dtype, found.arrays[name].shape) == (array.dtype, array.shape), (
            name
        )
        np.testing.assert_array_equal(found.arrays[name], array, err_msg=name)


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
    """A run begun in PyTorch, its file turned into the other framework's and back into a
    checkpoint, goes on in JAX.
    """
    recipe = small_recipe(**VARIANTS["adamw"])
    first, second = as_file(recipe, tmp_path / f"a{ends[0]}"), tmp_path / f"b{ends[1]}"
    convert(first, second, recipe, prepared, None)
    convert(second, tmp_path / "c.checkpoint", recipe, prepared, None)
    resume = Checkpoint.load(tmp_path / "c.checkpoint")
    trace = jax_impl.train.train(
        recipe, prepared(recipe), watch=Watch(parameters_every=1, resume=resume)
    )
    assert compare(trace, oracle_trace(recipe), {}).verdict == "rounding"


# --- what the frameworks find in the files


def test_torch_finds_its_own_state(tmp_path: Path) -> None:
    recipe = small_recipe(**BASE | {"optimizer__name": "adamw"})
    checkpoint = checkpoint_of(recipe)
    found = torch.load(as_file(recipe, tmp_path / "a.pt", checkpoint), weights_only=True)
    layers = torch.nn.Sequential(
        torch.nn.Linear(6, 6), torch.nn.Linear(6, 6), torch.nn.Linear(6, 3)
    ).double()
    names = dict(zip(("0", "1", "2"), ("linear1", "linear2", "linear3")))
    layers.load_state_dict(
        {
            f"{i}.{kind}": found["model"][f"{name}.{kind}"]
            for i, name in names.items()
            for kind in ("weight", "bias")
        }
    )
    optimizer = torch.optim.AdamW(layers.parameters())
    optimizer.load_state_dict(found["optimizer"])
    weight = layers[1].weight
    np.testing.assert_array_equal(
        weight.detach().numpy(), checkpoint.arrays["parameters/linear2.weight"].T
    )
    state = optimizer.state[weight]
    assert state["step"] == 4
    np.testing.assert_array_equal(
        state["exp_avg"].numpy(), checkpoint.arrays["optimizer/first/linear2.weight"].T
    )


def test_flax_finds_its_own_tree(tmp_path: Path) -> None:
    recipe = small_recipe(**BASE | {"training__dtype": "float32"})
    checkpoint = checkpoint_of(recipe)
    trees = [
        serialization.msgpack_restore(
            as_file(recipe, tmp_path / "a.msgpack", checkpoint).read_bytes()
        ),
        ocp.PyTreeCheckpointer().restore(as_file(recipe, tmp_path / "a", checkpoint)),
    ]
    for tree in trees:
        layer = nnx.Linear(6, 6, rngs=nnx.Rngs(0))
        nnx.update(layer, nnx.State(tree["params"]["linear2"]))
        np.testing.assert_array_equal(
            layer.kernel.get_value(), checkpoint.arrays["parameters/linear2.weight"]
        )
        np.testing.assert_array_equal(
            tree["opt_state"]["0"]["trace"]["linear2"]["kernel"],
            checkpoint.arrays["optimizer/momentum/linear2.weight"],
        )
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
        layer, _, kind = name.partition(".")
        np.testing.assert_array_equal(
            tree["params"][layer][{"weight": "kernel"}.get(kind, kind)], tensor.numpy().T
        )
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


TORCH_FAULTS: dict[str, tuple[Change, str]] = {
    "missing": (
        lambda w: {k: v for k, v in w.items() if k != "linear2.bias"},
        "missing: parameters/linear2.bias",
    ),
    "extra": (lambda w: w | {"head.weight": w["linear1.weight"]}, "extra: parameters/head.weight"),
    "a Flax name": (
        renamed("linear2.weight", "linear2.kernel"),
        "extra: parameters/linear2.kernel",
    ),
    "ambiguous": (
        lambda w: w | {"module.linear1.bias": w["linear1.bias"]},
        "ambiguous: linear1.bias and module.linear1.bias",
    ),
    "another shape": (
        lambda w: w | {"linear3.weight": w["linear3.weight"].T.contiguous()},
        "parameters/linear3.weight: shape (3, 6), expected (6, 3)",
    ),
    "half precision": (
        lambda w: w | {"linear1.bias": w["linear1.bias"].half()},
        "linear1.bias: torch.float16",
    ),
    "another dtype": (
        lambda w: {k: v.float() for k, v in w.items()},
        "float32, and the recipe's dtype is float64",
    ),
}


@pytest.mark.parametrize("fault", TORCH_FAULTS)
def test_torch_files_are_refused_by_name(fault: str, tmp_path: Path) -> None:
    recipe = small_recipe(**BASE)
    weights = load_file(as_file(recipe, tmp_path / "good.safetensors"))
    change, message = TORCH_FAULTS[fault]
    save_file(
        {name: tensor.contiguous().clone() for name, tensor in change(weights).items()},
        tmp_path / "a.safetensors",
    )
    assert message in refusal(tmp_path / "a.safetensors", recipe, "out.msgpack")


def test_prefixes_of_wrappers_are_known(tmp_path: Path) -> None:
    recipe = small_recipe(**BASE)
    weights = load_file(as_file(recipe, tmp_path / "good.safetensors"))
    for prefix in ("module.", "_orig_mod."):
        torch.save(
            {prefix + name: tensor for name, tensor in weights.items()}, tmp_path / f"{prefix}pt"
        )
        convert(
            tmp_path / f"{prefix}pt", tmp_path / f"{prefix}out.safetensors", recipe, prepared, None
        )
        back = load_file(tmp_path / f"{prefix}out.safetensors")
        assert all(torch.equal(back[name], tensor) for name, tensor in weights.items())


FLAX_FAULTS: dict[str, tuple[Change, str]] = {
    "missing": (
        lambda p: {k: v for k, v in p.items() if k != "linear2"},
        "missing: parameters/linear2.bias, parameters/linear2.weight",
    ),
    "a torch name": (
        lambda p: p | {"linear2": {"weight": p["linear2"]["kernel"], "bias": p["linear2"]["bias"]}},
        "extra: parameters/linear2/weight",
    ),
    "automatic names": (
        lambda p: {f"Dense_{i}": v for i, v in enumerate(p.values())},
        "extra: parameters/Dense_0/bias",
    ),
}


@pytest.mark.parametrize("fault", FLAX_FAULTS)
def test_flax_trees_are_refused_by_name(fault: str, tmp_path: Path) -> None:
    recipe = small_recipe(**BASE)
    tree = serialization.msgpack_restore(as_file(recipe, tmp_path / "good.msgpack").read_bytes())
    change, message = FLAX_FAULTS[fault]
    (tmp_path / "a.msgpack").write_bytes(
        serialization.msgpack_serialize({"params": change(tree["params"])})
    )
    assert message in refusal(tmp_path / "a.msgpack", recipe, "out.pt")


def test_square_kernels_are_turned_by_the_kind_of_file_alone(tmp_path: Path) -> None:
    """A torch weight of a square layer under its name, but in the layout (in, out), cannot be seen:
    it comes out turned, as every torch weight does, whatever its shape."""
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
    found = torch.load(path, weights_only=True)
    assert "does not say what is trained" in refusal(path, None)  # type: ignore[arg-type] # the fault
    torch.save({k: v for k, v in found.items() if k != "update"}, tmp_path / "b.pt")
    assert "--update N" in refusal(tmp_path / "b.pt", recipe)
    assert "says 4 updates, --update 5" in refusal(path, recipe, update=5)
    torch.save(found["model"], tmp_path / "c.pt")
    assert "missing: optimizer/momentum/linear1.bias" in refusal(
        tmp_path / "c.pt", recipe, update=4
    )
    torch.save(found | {"scaler": {}}, tmp_path / "d.pt")
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
    kept: list[Checkpoint] = []
    pt_impl.train.train(
        recipe, prepared(recipe), watch=Watch(checkpoints=Checkpoints(5, "batch", kept.append))
    )
    kept[0].save(tmp_path / "a.checkpoint")
    with pytest.raises(InputError, match="midst of an accumulation"):
        convert(tmp_path / "a.checkpoint", tmp_path / "b.pt", None, prepared, None)


def test_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = ["--set", "data.rows=64", "--set", "training.epochs=2", "--set", "schedule.warmup=1"]

    def call(*arguments: str) -> tuple[int, str]:
        with pytest.raises(SystemExit) as end:
            main(arguments)
        output = capsys.readouterr()
        return int(end.value.code or 0), output.out + output.err

    trace = str(tmp_path / "run.trace")
    assert (
        call("record", "--backend", "jax", "--out", trace, "--checkpoint-every", "2", *small)[0]
        == 0
    )
    source, made = str(tmp_path / "run.2.checkpoint"), str(tmp_path / "run.pt")
    assert call("convert", source, made) == (0, f"{made}: all of it, 2 updates done\n")
    status, said = call("convert", made, str(tmp_path / "back.checkpoint"))
    assert (status, "--recipe RECIPE" in said) == (2, True)
    assert (
        call("convert", made, str(tmp_path / "back.checkpoint"), "--recipe", "seed", *small)[0] == 0
    )
    assert call("convert", source, str(tmp_path / "run.safetensors"))[1].endswith(
        "the model alone\n"
    )
