"""Names drawn from a pair that is wrong: other draws, constants and faults do not keep a map from
being right, and what nothing decides is left open.
"""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lockstep.diagnose.names import Join, Layout
from lockstep.diagnose.propose import Proposal, propose
from lockstep.own_loops.recorder import Recorder
from lockstep.records.trace import Trace

Arrays = dict[str, np.ndarray]
Fault = Callable[[str, np.ndarray], np.ndarray]

DRAW = np.random.Generator(np.random.PCG64(0))
WIDTH = 8


def draw(*shape: int) -> np.ndarray:
    return (0.02 * DRAW.normal(size=shape)).astype(np.float32)


def trace_of(
    parameters: Mapping[str, Any], buffers: set[str] = frozenset(), **header: Any
) -> Trace:  # type: ignore[assignment]
    """A trace of a start and of a first update's gradients, which tell nothing."""
    recorder = Recorder(Path("not written"), backend="loop")
    trained = {name: array for name, array in parameters.items() if name not in buffers}
    statistics = {name: parameters[name] for name in buffers}
    recorder.start({"params": trained, "batch_stats": statistics})
    arrays = {f"parameters/0/{name}": array for name, array in parameters.items()}
    arrays |= {f"detail/0/gradients/{name}": draw(*array.shape) for name, array in trained.items()}
    fields = {"parameter_order": list(parameters), "detail": [0]}
    return Trace(recorder._header("") | fields | header, dict(sorted(arrays.items())))


def sorted_of(parameters: Arrays) -> Arrays:
    """As a tree of JAX hands its leaves back."""
    return dict(sorted(parameters.items()))


# ---- a network of convolutions, as torchvision and as NNX and Linen name it


def resnet() -> Arrays:
    arrays = {"conv1.weight": draw(WIDTH, 3, 3, 3)} | norm("bn1", WIDTH)
    inputs = WIDTH
    for stage, outputs in ((1, WIDTH), (2, 2 * WIDTH)):
        for block in range(2):
            place = f"layer{stage}.{block}"
            arrays[f"{place}.conv1.weight"] = draw(outputs, inputs, 3, 3)
            arrays |= norm(f"{place}.bn1", outputs)
            arrays[f"{place}.conv2.weight"] = draw(outputs, outputs, 3, 3)
            arrays |= norm(f"{place}.bn2", outputs)
            if inputs != outputs:
                arrays[f"{place}.downsample.0.weight"] = draw(outputs, inputs, 1, 1)
                arrays |= norm(f"{place}.downsample.1", outputs)
            inputs = outputs
    return arrays | {"fc.weight": draw(5, inputs), "fc.bias": draw(5)}


def norm(module: str, width: int) -> Arrays:
    zeros, ones = np.zeros(width, np.float32), np.ones(width, np.float32)
    return {
        f"{module}.weight": ones,
        f"{module}.bias": zeros,
        f"{module}.running_mean": zeros,
        f"{module}.running_var": ones,
    }


def as_nnx(name: str) -> str:
    module, _, last = name.rpartition(".")
    roles = {"weight": "scale", "running_mean": "mean", "running_var": "var", "bias": "bias"}
    is_norm = "bn" in module or "downsample.1" in module
    last = roles[last] if is_norm or last == "bias" else "kernel"
    module = re.sub(r"^layer(\d)\.(\d)", lambda at: f"stages.{int(at[1]) - 1}.{at[2]}", module)
    words = {"downsample.0": "shortcut", "downsample.1": "shortcut_norm", "bn": "norm"}
    for word, other in words.items():
        module = module.replace(word, other)
    words = {"conv1": "stem", "norm1": "stem_norm", "fc": "head"}
    return f"{words.get(module, module)}.{last}"


def as_linen(name: str) -> str:
    module, _, last = as_nnx(name).rpartition(".")
    inner = {"conv1": "Conv_0", "norm1": "BatchNorm_0", "conv2": "Conv_1", "norm2": "BatchNorm_1"}
    inner |= {"shortcut": "Conv_2", "shortcut_norm": "BatchNorm_2"}
    outer = {"stem": "Conv_0", "stem_norm": "BatchNorm_0", "head": "Dense_0"}
    block = re.fullmatch(r"stages\.(\d)\.(\d)\.(\w+)", module)
    if block is None:
        return f"{outer[module]}.{last}"
    return f"Block_{2 * int(block[1]) + int(block[2])}.{inner[block[3]]}.{last}"


def turned(array: np.ndarray) -> np.ndarray:
    return array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T


def drawn_again(name: str, array: np.ndarray) -> np.ndarray:
    return draw(*array.shape) if array.std() > 0 else array


def one_drawn_again(name: str, array: np.ndarray) -> np.ndarray:
    return draw(*array.shape) if name == "layer2.1.conv1.weight" else array


def scales_of_zero(name: str, array: np.ndarray) -> np.ndarray:
    return 0 * array if name.endswith("bn2.weight") else array


FAULTS: tuple[Fault, ...] = (drawn_again, one_drawn_again, scales_of_zero)


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("rename", [as_nnx, as_linen])
def test_a_network_with_norms_of_zeros_and_ones_is_mapped(
    rename: Callable[[str], str], fault: Fault
) -> None:
    ours = resnet()
    theirs = {rename(name): turned(fault(name, array)) for name, array in ours.items()}
    buffers = {name for name in ours if "running" in name}
    for buffers_of_b in (set(map(rename, buffers)), set[str]()):
        a, b = trace_of(ours, buffers), trace_of(sorted_of(theirs), buffers_of_b)
        expected = {
            name: Layout(rename(name), {4: (3, 2, 0, 1), 2: (1, 0)}.get(array.ndim, ()))
            for name, array in ours.items()
        }
        proposal = propose(a, b)
        assert proposal.names.names == expected
        assert not proposal.open_a
        back = propose(b, a).names.names
        assert {layout.names[0]: name for name, layout in back.items()} == {
            name: layout.name for name, layout in expected.items()
        }


def test_what_a_side_lacks_takes_no_others_place() -> None:
    """Constants of one shape are not handed on to the next tensor that has none."""
    ours = resnet()
    theirs = {
        as_nnx(name): turned(array)
        for name, array in ours.items()
        if not name.startswith("layer1.1.bn1")
    }
    proposal = propose(trace_of(ours), trace_of(sorted_of(theirs)))
    for name, layout in proposal.names.names.items():
        assert layout == Layout(as_nnx(name), layout.axes), name  # type: ignore[union-attr]
    assert set(norm("layer1.1.bn1", WIDTH)) <= {*proposal.open_a, *proposal.names.only_a}


# ---- a transformer, as Hugging Face names it, and with three projections for the fused one


def transformer() -> Arrays:
    arrays = {"wte.weight": draw(20, WIDTH), "wpe.weight": draw(6, WIDTH)}
    ones, zeros = np.ones(WIDTH, np.float32), np.zeros(WIDTH, np.float32)
    for block in range(3):
        place = f"h.{block}"
        arrays |= {f"{place}.ln_1.weight": ones, f"{place}.ln_1.bias": zeros}
        arrays[f"{place}.attn.c_attn.weight"] = draw(WIDTH, 3 * WIDTH)
        arrays[f"{place}.attn.c_attn.bias"] = np.zeros(3 * WIDTH, np.float32)
        arrays[f"{place}.attn.c_proj.weight"] = draw(WIDTH, WIDTH)
        arrays[f"{place}.attn.c_proj.bias"] = zeros
        arrays |= {f"{place}.ln_2.weight": ones, f"{place}.ln_2.bias": zeros}
        arrays[f"{place}.mlp.c_fc.weight"] = draw(WIDTH, 4 * WIDTH)
        arrays[f"{place}.mlp.c_fc.bias"] = np.zeros(4 * WIDTH, np.float32)
        arrays[f"{place}.mlp.c_proj.weight"] = draw(4 * WIDTH, WIDTH)
        arrays[f"{place}.mlp.c_proj.bias"] = zeros
    return arrays | {"ln_f.weight": ones, "ln_f.bias": zeros}


def as_three(name: str, array: np.ndarray) -> Arrays:
    """The port's tensors, in heads of 4, that a tensor of Hugging Face's becomes."""
    module, _, last = name.rpartition(".")
    words = {"wte": "tok_embed", "wpe": "pos_embed", "h.": "blocks.", "ln_f": "norm_f"}
    words |= {"ln_": "norm", "mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2", "c_proj": "out"}
    for word, other in words.items():
        module = module.replace(word, other)
    kernel = "scale" if "norm" in module else "embedding" if "embed" in module else "kernel"
    last = "bias" if last == "bias" else kernel
    if "c_attn" not in module:
        array = array.reshape(2, 4, WIDTH) if module.endswith("out") and array.ndim > 1 else array
        return {f"{module}.{last}": array}
    thirds = np.split(array, 3, -1)
    return {
        f"{module.replace('c_attn', part)}.{last}": third.reshape(*third.shape[:-1], 2, 4)
        for part, third in zip(("query", "key", "value"), thirds)
    }


@pytest.mark.parametrize("is_drawn_again", [False, True])
def test_a_fused_projection_is_three_from_either_side(is_drawn_again: bool) -> None:
    ours = transformer()
    theirs: Arrays = {}
    expected: dict[str, tuple[str, ...]] = {}
    for name, array in ours.items():
        parts = as_three(name, array)
        expected[name] = tuple(parts)
        for part, value in parts.items():
            theirs[part] = drawn_again(part, value) if is_drawn_again else value
    a, b = trace_of(ours), trace_of(sorted_of(theirs))
    proposal = propose(a, b)
    assert {name: source.names for name, source in proposal.names.names.items()} == expected
    assert_fits(proposal, a, b)
    assert isinstance(proposal.names.names["h.1.attn.c_attn.bias"], Join)
    back = propose(b, a)
    of_parts = {part: name for name, parts in expected.items() for part in parts}
    assert {name: source.names[0] for name, source in back.names.names.items()} == of_parts
    assert_fits(back, b, a)


def assert_fits(proposal: Proposal, a: Trace, b: Trace) -> None:
    """Every array of A's shape."""
    for name, source in proposal.names.names.items():
        assert source.take(b.parameters(0)).shape == a.parameters(0)[name].shape, name


def test_a_scanned_stack_is_sliced_into_its_layers() -> None:
    kernels = [draw(WIDTH, 4) for _ in range(3)]
    a = trace_of({f"layers.{i}.up.weight": kernel.T for i, kernel in enumerate(kernels)})
    b = trace_of({"decoder.layers.up.kernel": np.stack(kernels, axis=1)})
    names = propose(a, b).names.names
    for i, kernel in enumerate(kernels):
        source = names[f"layers.{i}.up.weight"]
        np.testing.assert_array_equal(source.take(b.parameters(0)), kernel.T)
    assert propose(b, a).names.names["decoder.layers.up.kernel"].names == tuple(names)


def test_a_stack_of_another_draw_is_told_by_its_name() -> None:
    a = trace_of(
        {f"layers.{i}.{name}.weight": draw(4, WIDTH) for i in range(3) for name in ("up", "gate")}
        | {f"layers.{i}.norm.weight": np.ones(WIDTH, np.float32) for i in range(3)}
    )
    b = trace_of(
        {
            "decoder.up.kernel": draw(WIDTH, 3, 2, 2),
            "decoder.gate.kernel": draw(WIDTH, 3, 2, 2),
            "decoder.norm.scale": np.ones((WIDTH, 3), np.float32),
        }
    )
    proposal = propose(a, b)
    assert_fits(proposal, a, b)
    for name, source in proposal.names.names.items():
        place, module = name.split(".")[1:3]
        assert source.names[0].split(".")[1] == module
        assert source.span == (int(place), int(place) + 1)  # type: ignore[union-attr]
    assert not proposal.open_a
    back = propose(b, a)
    assert_fits(back, b, a)
    assert set(back.names.names) == set(b.parameters(0))


def test_a_factor_or_a_few_faults_do_not_hide_a_draw() -> None:
    first, second = draw(16, 16), draw(16, 16)
    damaged = second.copy()
    damaged[0] = 0
    a = trace_of({"x": first, "y": second})
    b = trace_of({"p": damaged.T, "q": np.float32(1.5) * first})
    proposal = propose(a, b)
    assert proposal.names.names == {"x": Layout("q"), "y": Layout("p", (1, 0))}
    assert set(proposal.reasons.values()) == {"values, which are alike and not equal"}


def test_a_mirrored_kernel_and_gates_in_another_order_are_found_by_value() -> None:
    kernel, gates = draw(2, 4, 3, 3), draw(12, 5)
    a = trace_of({"up.weight": kernel, "cell.weight_hh": gates})
    blocks = np.split(gates, 3)
    b = trace_of(
        {
            "up.kernel": kernel[:, :, ::-1, ::-1].transpose(2, 3, 0, 1),
            "cell.h": np.concatenate([blocks[i] for i in (2, 0, 1)]).T,
        }
    )
    proposal = propose(a, b)
    assert proposal.names.names["up.weight"] == Layout("up.kernel", (2, 3, 0, 1), flip=(2, 3))
    assert_fits(proposal, a, b)
    np.testing.assert_array_equal(
        proposal.names.names["cell.weight_hh"].take(b.parameters(0)), gates
    )


def test_a_tied_weight_has_a_second_name() -> None:
    weight = draw(20, WIDTH)
    a = trace_of({"wte.weight": weight})
    b = trace_of({"embed.embedding": weight, "head.kernel": weight.T})
    names = propose(a, b).names
    assert names.names == {"wte.weight": Layout("embed.embedding")}
    assert names.same_b == {"head.kernel": Layout("embed.embedding", (1, 0))}
    assert propose(b, a).names.same_a == {"head.kernel": Layout("embed.embedding", (1, 0))}
