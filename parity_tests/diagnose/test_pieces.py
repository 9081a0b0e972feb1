"""Slices, joins, sums and second names: what one side keeps in one array and the other in several,
in every family of arrays.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lockstep.diagnose.compare import compare
from lockstep.diagnose.loops import align, notes_on
from lockstep.diagnose.names import Join, Layout, NameMap, Sum, apply, reduced
from lockstep.diagnose.noise import loop_bounds
from lockstep.errors import InputError
from lockstep.own_loops.recorder import Recorder
from lockstep.records.trace import Trace

Arrays = dict[str, Any]

DRAW = np.random.Generator(np.random.PCG64(0))
PARTS = ("q", "k", "v")


def draw(*shape: int) -> np.ndarray:
    return DRAW.normal(size=shape)


def record(folder: Path, name: str, parameters: Arrays, gradients: list[Arrays]) -> Trace:
    """A trace of a loop that goes 0.1 of each gradient."""
    recorder = Recorder(folder / name, backend=name, statistics=True)
    recorder.start(parameters)
    for gradient in gradients:
        parameters = {name: array - 0.1 * gradient[name] for name, array in parameters.items()}
        moments = {"momentum": gradient}
        recorder.update(
            loss=1.0, lr=0.1, gradients=gradient, moments=moments, parameters=parameters
        )
    return recorder.finish()


def fused(arrays: Arrays) -> Arrays:
    return {"qkv.weight": np.concatenate([arrays[part] for part in PARTS])}


def apart(arrays: Arrays) -> Arrays:
    return {f"{part}.kernel": arrays[part].T for part in PARTS}


JOINED = NameMap({"qkv.weight": Join(tuple(Layout(f"{part}.kernel", (1, 0)) for part in PARTS))})
SLICED = NameMap(
    {
        f"{part}.kernel": Layout("qkv.weight", (1, 0), span=(4 * i, 4 * i + 4))
        for i, part in enumerate(PARTS)
    }
)


def verdict(a: Trace, b: Trace, names: NameMap) -> tuple[str, str]:
    """The verdict, and the first tensor that parts."""
    aligned = align(a, b, names)
    comparison = compare(*aligned, loop_bounds(*aligned))
    first = comparison.first
    return comparison.verdict, "" if first is None else f"{first.stage} {first.tensor}"


@pytest.fixture
def projections(tmp_path: Path) -> tuple[Trace, Trace, Trace]:
    """One loop with a fused projection, with three, and with three of which one gradient is off."""
    start = {part: draw(4, 4) for part in PARTS}
    steps = [{part: draw(4, 4) for part in PARTS} for _ in range(2)]
    one = record(tmp_path, "one", fused(start), list(map(fused, steps)))
    three = record(tmp_path, "three", apart(start), list(map(apart, steps)))
    steps[1]["k"] = steps[1]["k"] * 1.5
    return one, three, record(tmp_path, "off", apart(start), list(map(apart, steps)))


def test_a_fused_projection_is_compared_with_three_from_either_side(
    projections: tuple[Trace, Trace, Trace],
) -> None:
    one, three, off = projections
    assert verdict(one, three, JOINED)[0] in ("identical", "rounding")
    assert verdict(three, one, SLICED)[0] in ("identical", "rounding")
    assert verdict(one, off, JOINED) == ("diverged", "gradients grad_norm")
    assert verdict(off, one, SLICED) == ("diverged", "gradients grad_norm")
    aligned = apply(JOINED, off)
    assert {"detail/1/moments/momentum/qkv.weight", "parameters/2/qkv.weight"} <= set(
        aligned.arrays
    )


def test_statistics_of_a_join_are_taken_together_and_those_of_slices_left_out(
    projections: tuple[Trace, Trace, Trace],
) -> None:
    one, three, _ = projections
    joined = apply(JOINED, three).arrays["statistics/gradients/qkv.weight"]
    np.testing.assert_allclose(joined, one.arrays["statistics/gradients/qkv.weight"], rtol=1e-12)
    sliced = apply(SLICED, one)
    assert not any(key.startswith("statistics/") for key in sliced.arrays)


def test_gates_in_another_order_and_a_mirrored_kernel_are_laid_out() -> None:
    blocks = [draw(3, 2) for _ in range(4)]
    kernel = draw(2, 4, 3, 3)
    arrays = {
        "h": np.concatenate([blocks[i] for i in (0, 2, 1, 3)]).T,
        "up": kernel[:, :, ::-1, ::-1].transpose(2, 3, 0, 1),
    }
    gates = Layout("h", (1, 0), gates=(0, 2, 1, 3), axis=1)
    np.testing.assert_array_equal(gates.take(arrays), np.concatenate(blocks))
    mirrored = Layout("up", (2, 3, 0, 1), flip=(2, 3))
    np.testing.assert_array_equal(mirrored.take(arrays), kernel)
    with pytest.raises(InputError, match=r"up: shape .* cannot be laid out by gates along axis 0"):
        Layout("up", gates=(1, 0)).take(arrays)
    with pytest.raises(InputError, match=r"h: shape .* by slice along axis 1 "):
        Layout("h", span=(0, 13), axis=1).take(arrays)
    with pytest.raises(InputError, match=r"h, up: shapes .* cannot be joined along axis 0"):
        Join((Layout("h"), Layout("up"))).take(arrays)


def test_two_biases_are_compared_with_one_by_their_sum_and_each_gradient(tmp_path: Path) -> None:
    first, second, gradient = draw(6), draw(6), draw(6)
    two = record(tmp_path, "two", {"ih": first, "hh": second}, [{"ih": gradient, "hh": gradient}])
    one = record(tmp_path, "one", {"bias": first + second}, [{"bias": gradient}])
    names = NameMap(sums={"bias": Sum((Layout("ih"), Layout("hh")), (Layout("bias"),))})
    a, b = reduced(names, two), apply(names, one)
    np.testing.assert_array_equal(a.arrays["parameters/0/bias"], b.arrays["parameters/0/bias"])
    for term in ("ih", "hh"):
        key = f"detail/0/gradients/{term}"
        np.testing.assert_array_equal(a.arrays[key], b.arrays[key])
    # both of two biases move, and so their sum goes twice as far
    assert verdict(two, one, names) == ("diverged", "update update_norm")
    off = record(tmp_path, "off", {"bias": first + second}, [{"bias": 2 * gradient}])
    assert verdict(two, off, names)[1] in ("gradients grad_norm", "gradients ih")
    swapped = NameMap(sums={"bias": Sum((Layout("bias"),), (Layout("ih"), Layout("hh")))})
    assert verdict(one, two, swapped) == ("diverged", "update update_norm")
    with pytest.raises(InputError, match=r"\[sums\]: not in the trace of one: hh, ih"):
        apply(swapped, one)


def test_a_second_name_of_a_tied_weight_is_left_out_and_held_to_be_one(tmp_path: Path) -> None:
    weight, gradient = draw(4, 3), draw(4, 3)
    one = record(tmp_path, "one", {"wte": weight}, [{"wte": gradient}])
    both = {"wte": weight, "head": weight.T}
    tied = record(tmp_path, "tied", both, [{"wte": gradient, "head": gradient.T}])
    names = NameMap(same_b={"head": Layout("wte", (1, 0))})
    assert verdict(one, tied, names) == ("identical", "")
    assert not any("tied" in note for note in notes_on(*align(one, tied, names)))
    untied = record(tmp_path, "untied", both, [{"wte": gradient, "head": 0 * gradient.T}])
    assert "untied: head and wte are not tied: they differ after 1 updates" in notes_on(
        *align(one, untied, names)
    )
    turned = NameMap(same_a={"head": Layout("wte", (1, 0))})
    assert verdict(tied, one, turned) == ("identical", "")


def test_norms_are_of_what_both_sides_have_or_are_left_out(tmp_path: Path) -> None:
    weight, extra, step, other = draw(4), draw(3), draw(4), draw(3)
    more = {"w": weight, "extra": extra}
    a = record(tmp_path, "a", more, [{"w": step, "extra": other}])
    b = record(tmp_path, "b", {"w": weight}, [{"w": step}])
    names = NameMap(only_a=frozenset({"extra"}))
    assert verdict(a, b, names)[0] in ("identical", "rounding")
    off = record(tmp_path, "off", {"w": weight}, [{"w": 1.01 * step}])
    assert verdict(a, off, names) == ("diverged", "gradients w")
    sparse = Recorder(tmp_path / "sparse", backend="sparse", every=0)
    sparse.start({"w": weight})
    sparse.update(loss=1.0, lr=0.1, gradients={"w": step}, parameters={"w": weight - 0.1 * step})
    aligned = align(a, sparse.finish(), names)
    assert "updates/grad_norm" not in aligned[0].arrays
    assert [note.partition(" ")[0] for note in notes_on(*aligned) if "not compared:" in note] == [
        "grad_norm"
    ]


def test_a_side_that_takes_statistics_for_parameters_has_no_other_norm(tmp_path: Path) -> None:
    """A plain tree does not say which of its arrays are running statistics."""
    weight, mean, step = draw(4), draw(2), draw(4)
    variables = {"params": {"w": weight}, "batch_stats": {"mean": mean}}
    after = {"params": {"w": weight - step}, "batch_stats": {"mean": mean + 1}}
    knows = Recorder(tmp_path / "knows", backend="knows")
    knows.start(variables)
    knows.update(loss=1.0, parameters=after)
    plain = Recorder(tmp_path / "plain", backend="plain")
    plain.start({"w": weight, "mean": mean})
    plain.update(loss=1.0, parameters={"w": weight - step, "mean": mean + 1})
    assert verdict(knows.finish(), plain.finish(), NameMap()) == ("identical", "")
