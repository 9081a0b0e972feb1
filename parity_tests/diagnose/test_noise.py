"""Two people's loops held against each other: their own noise is the bound, and a bug in either is
found at its stage.
"""

from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lockstep
from lockstep.cli import main
from lockstep.diagnose.compare import Comparison, compare
from lockstep.diagnose.loops import align, notes_on, sides_of
from lockstep.diagnose.names import apply, save_names
from lockstep.diagnose.noise import loop_bounds
from lockstep.diagnose.propose import propose
from lockstep.diagnose.remarks import remarks_on
from lockstep.errors import InputError
from lockstep.records.trace import Trace
from parity_tests.shared.loops import LOOPS, SETTINGS, start_of
from parity_tests.shared.verdicts import assert_verdict

NOISY, SEEDS = ("torch", "linen"), (1, 2)


def record(
    folder: Path, kind: str, fault: str = "", seed: int | None = None, **options: Any
) -> Trace:
    options |= {"settings": SETTINGS, "perturb": seed}
    with lockstep.Recorder(folder / "trace", backend=kind, **options) as recorder:
        LOOPS[kind](recorder, fault=fault)
    return Trace.load(folder / "trace")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[Any, Trace]:
    """Each kind of loop as it is, and two of them twice from a perturbed start."""
    folder = tmp_path_factory.mktemp("runs")
    traces: dict[Any, Trace] = {(kind, None): record(folder, kind) for kind in LOOPS}
    for kind, seed in product(NOISY, SEEDS):
        traces[kind, seed] = record(folder, kind, seed=seed)
    return traces


def judge(a: Trace, b: Trace, noise: list[Trace]) -> Comparison:
    """Compare by the name map that the traces themselves give."""
    names = propose(a, b).names
    aligned = align(a, b, names)
    return compare(*aligned, loop_bounds(*aligned, sides_of(noise, a, b, names)))


@pytest.mark.parametrize("kind", [kind for kind in LOOPS if kind != "torch"])
def test_right_loops_differ_by_rounding(kind: str, runs: dict[Any, Trace]) -> None:
    noise = [runs[side, seed] for side in NOISY if side in ("torch", kind) for seed in SEEDS]
    for measured in (noise, []):
        comparison = judge(runs["torch", None], runs[kind, None], measured)
        assert_verdict(comparison, "rounding")
        assert comparison.compared > 150
    assert judge(runs[kind, None], runs[kind, None], []).verdict == "identical"


@pytest.mark.parametrize(
    ("fault", "update", "stage", "tensor"),
    [
        ("sum", 0, "loss", "loss"),
        ("clip", 0, "clip", ""),
        ("rate", 3, "lr", "lr"),
        ("decay", 0, "update", "update_norm"),
    ],
)
@pytest.mark.parametrize("side", ["torch", "linen"])
def test_a_bug_in_either_loop_is_found_at_its_update_and_stage(
    side: str,
    fault: str,
    update: int,
    stage: str,
    tensor: str,
    runs: dict[Any, Trace],
    tmp_path: Path,
) -> None:
    wrong = record(tmp_path, side, fault)
    a, b = (wrong, runs["linen", None]) if side == "torch" else (runs["torch", None], wrong)
    noise = [runs[kind, seed] for kind in NOISY for seed in SEEDS]
    for measured in (noise, []):
        comparison = judge(a, b, measured)
        assert comparison.first is not None
        assert (comparison.first.update, comparison.first.stage) == (update, stage)
        assert comparison.first.tensor.endswith(tensor)
        assert comparison.first.ratio > 20


def test_statistics_alone_find_the_update_and_the_tensor(tmp_path: Path) -> None:
    right = record(tmp_path, "plain", "", every=0, statistics=True)
    wrong = record(tmp_path, "plain", "clip", every=0, statistics=True)
    assert not any(name.startswith("detail/") for name in right.arrays)
    comparison = judge(right, wrong, [])
    assert comparison.first is not None
    assert (comparison.first.update, comparison.first.stage) == (0, "clip")
    assert "linear" in comparison.first.tensor


# --- bounds


def tiny(
    folder: Path, values: list[float], backend: str = "loop", dtype: Any = np.float32, **more: Any
) -> Trace:
    """A loop of one parameter, whose second element takes these values."""
    with lockstep.Recorder(folder / "tiny", backend=backend, **more) as recorder:
        recorder.start({"w": np.ones(2, dtype)})
        for value in values:
            recorder.update(loss=np.float32(value), parameters={"w": np.array([1, value], dtype)})
    return Trace.load(folder / "tiny")


def test_a_bound_is_the_spread_or_the_first_order_whichever_is_more(tmp_path: Path) -> None:
    run, far = tiny(tmp_path, [2.0, 2.0]), tiny(tmp_path, [2.0, 2.5])
    unit = 2.0**-24
    # the longest sum has a single term here; 1 - 0.999 is off by 1000 roundings, and so is a
    # change, of 1 in sqrt(2); every update rounds anew
    first_order = loop_bounds(run, run)
    way = 1000 / np.sqrt(2) * 2
    assert first_order["parameters/1/w"] == pytest.approx((2 + 1000 + way) * unit)
    assert first_order["parameters/2/w"] == pytest.approx((2 * (2 + 1000) + way) * unit)
    assert "parameters/0/w" not in first_order
    bounds = loop_bounds(run, run, [[run, far]])
    assert bounds["parameters/1/w"] == first_order["parameters/1/w"]
    assert bounds["parameters/2/w"] == 8 * 0.5
    assert bounds["updates/loss"].tolist() == [8 * 0.5, 8 * 0.5]  # the widest near an update
    with pytest.raises(InputError, match="a side needs two runs at least"):
        loop_bounds(run, run, [[run]])
    with pytest.raises(InputError, match="no array in common"):
        loop_bounds(run, run, [[run, Trace(run.header, {})]])


def test_each_array_has_the_unit_of_its_own_dtype(tmp_path: Path) -> None:
    trace = tiny(tmp_path, [1.5])
    trace.arrays["detail/0/forward/h"] = np.array([1.5, -3.0], np.float32)
    trace.arrays["detail/0/batch/x"] = np.array([1.0, 2.0], np.float32)
    trace.arrays["updates/lr"] = np.array([0.1])
    trace.header["layers"] = ["h"]
    fine = loop_bounds(trace, trace)
    trace.header["dtypes"] = ["bfloat16", "float32"]
    trace.header["array_dtypes"] = {"forward/h": "bfloat16"}
    mixed = loop_bounds(trace, trace)
    assert mixed.low == "bfloat16"
    for name in ("updates/lr", "detail/0/batch/x", "parameters/1/w"):
        assert mixed[name] == fine[name]
    # one layer, rounded once to the 8 bits of bfloat16; the loss, a mean, once more
    size = np.sqrt((1.5**2 + 3**2) / 2) * np.sqrt(1.5)
    assert mixed["detail/0/forward/h"] == pytest.approx(8 * 2.0**-8 * 3, rel=1e-3)
    assert mixed["updates/loss"] == pytest.approx(2 * 2.0**-8 * np.sqrt(2) * size, rel=1e-3)
    assert mixed["updates/lr"] == 8 * 2.0**-24 * 0.1  # no framework keeps rates in less
    # an older trace does not say which arrays were widened: the values tell
    del trace.header["array_dtypes"]
    assert loop_bounds(trace, trace)["detail/0/forward/h"] == mixed["detail/0/forward/h"]


def test_a_bound_as_wide_as_the_loss_judges_nothing(tmp_path: Path) -> None:
    a, b = tiny(tmp_path, [1.0, 1.0]), tiny(tmp_path, [1.0, 1.5])
    bounds = loop_bounds(a, b)
    for width, verdict in ((0.1, "diverged"), (0.3, "rounding"), (0.9, "inconclusive")):
        bounds |= {"updates/loss": np.full(2, width), "updates/update_norm": np.full(2, 1e-9)}
        arrays = {name: array for name, array in b.arrays.items() if "parameters" not in name}
        arrays |= {"updates/update_norm": a.arrays["updates/update_norm"]}
        comparison = compare(a, Trace(b.header, arrays), bounds)
        assert comparison.verdict == verdict, width
    assert comparison.limit is not None
    assert comparison.limit.update == 1
    assert comparison.limit.reason == "the bound on rounding is as wide as the loss is large"


def test_float64_loops_are_judged_by_their_semantics(tmp_path: Path) -> None:
    start = start_of(dtype=np.float64)
    traces = []
    for fault in ("", "rate"):
        with lockstep.Recorder(tmp_path / "t", backend="torch") as recorder:
            LOOPS["torch"](recorder, start, fault)
        traces.append(Trace.load(tmp_path / "t"))
    assert traces[0].header["dtype"] == "float64"
    name = "parameters/4/linear1.weight"
    for factor, verdict in ((1 + 1e-14, "rounding"), (1 + 1e-9, "diverged")):
        nudged = traces[0].arrays | {name: traces[0].arrays[name] * factor}
        assert judge(traces[0], Trace(traces[0].header, nudged), []).verdict == verdict
    first = judge(*traces, []).first
    assert first is not None
    assert (first.update, first.stage) == (3, "lr")


# --- what cannot be compared, and what to know beforehand


def test_what_cannot_be_compared_is_refused_by_name(tmp_path: Path, runs: dict[Any, Trace]) -> None:
    a, b = runs["torch", None], runs["linen", None]
    line = r"only in A: linear1.bias, .*; only in B: Dense_0.bias, .* `lockstep names"
    with pytest.raises(InputError, match=line):
        align(a, b)
    with pytest.raises(InputError, match="the trace of torch has a perturbed start"):
        align(runs["torch", 1], b)
    line = r"parameters whose shapes differ: linear1.weight: \(5, 3\) and \(3, 5\); linear2"
    with pytest.raises(InputError, match=line):
        align(a, runs["plain", None])
    with pytest.raises(InputError, match="1 updates and 2"):
        align(tiny(tmp_path, [1.0]), tiny(tmp_path, [1.0, 1.0]))
    recipe = Trace({"backend": "torch"}, {})
    with pytest.raises(InputError, match="of a loop and of a recipe"):
        align(a, recipe)
    with pytest.raises(InputError, match="one trace is of a recipe"):
        compare(a, recipe, {})
    with pytest.raises(InputError, match="no array in common"):
        align(a, Trace(b.header, {}))
    with pytest.raises(InputError, match="of neither torch nor linen"):
        sides_of([runs["nnx", None]], a, b)
    with pytest.raises(InputError, match="one run of linen tells nothing; give two"):
        sides_of([runs["torch", 1], runs["torch", 2], runs["linen", 1]], a, b)


def test_scores_of_masked_tokens_are_meant(tmp_path: Path) -> None:
    scores = np.array([[0.5, -np.inf], [0.25, 1.5]], np.float32)
    trace = tiny(tmp_path, [1.0, 2.0])
    masked = Trace(
        trace.header | {"dtypes": ["bfloat16"]}, trace.arrays | {"detail/0/forward/scores": scores}
    )
    assert notes_on(masked, masked) == []
    bounds = loop_bounds(masked, masked)
    assert compare(masked, masked, bounds).verdict == "identical"
    overflown = Trace(masked.header, masked.arrays | {"detail/0/forward/scores": -scores})
    assert "NaN or infinity from update 0, forward/scores" in notes_on(masked, overflown)[0]


def test_nan_is_compared_as_such_and_named_first(tmp_path: Path) -> None:
    fine = tiny(tmp_path, [1.0, 2.0, 3.0])
    broken = tiny(tmp_path, [1.0, np.nan, np.nan], backend="other")
    assert notes_on(fine, fine) == []
    assert notes_on(fine, broken) == ["other: NaN or infinity from update 1, loss on"]
    comparison = compare(fine, broken, loop_bounds(fine, broken))
    assert comparison.first is not None
    assert (comparison.first.update, comparison.first.ratio) == (1, np.inf)
    both = compare(broken, broken, loop_bounds(broken, broken))
    assert both.verdict == "inconclusive"
    assert len(notes_on(broken, broken)) == 2


def test_what_only_one_of_them_recorded_is_said(tmp_path: Path, runs: dict[Any, Trace]) -> None:
    a = runs["torch", None]
    less = {
        name: array
        for name, array in a.arrays.items()
        if "/moments/" not in name and not name.endswith("forward/tanh1") and name != "updates/lr"
    }
    assert notes_on(a, Trace(a.header | {"backend": "other"}, less)) == [
        "only torch has forward of tanh1",
        "only torch has moments",
        "only torch has updates of lr",
    ]


# --- the command, and a start from the other side's parameters


def test_the_command_compares_loops(
    tmp_path: Path, runs: dict[Any, Trace], capsys: pytest.CaptureFixture[str]
) -> None:
    a, b, names = tmp_path / "a", tmp_path / "b", tmp_path / "names.toml"
    runs["torch", None].save(a)
    runs["linen", None].save(b)
    noise = []
    for kind, seed in product(NOISY, SEEDS):
        path = tmp_path / f"{kind} {seed}"
        runs[kind, seed].save(path)
        noise += ["--noise", str(path)]

    def run(*words: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as end:
            main(words)
        return int(end.value.code or 0), *capsys.readouterr()

    status, _, err = run("compare", str(a), str(b))
    assert (status, err.count("\n")) == (2, 1)
    assert run("names", str(a), str(b), "--out", str(names))[0] == 0
    status, out, _ = run("compare", str(a), str(b), "--names", str(names))
    assert status == 0
    assert "no noise was measured" in out
    assert "verdict: rounding" in out
    status, out, _ = run("compare", str(a), str(b), "--names", str(names), *noise)
    assert status == 0
    assert "no noise" not in out
    wrong = record(tmp_path, "linen", "rate")
    Trace(wrong.header | {"settings": SETTINGS | {"batch": 9}}, wrong.arrays).save(b)
    status, out, _ = run("compare", str(a), str(b), "--names", str(names), *noise)
    assert status == 1
    assert out.startswith("set differently: batch: 8 and 9\n")
    assert "First at update 3, lr, lr: " in out


def test_a_loop_can_start_every_update_from_the_other_sides_parameters(
    runs: dict[Any, Trace], tmp_path: Path
) -> None:
    names = propose(runs["torch", None], runs["linen", None]).names
    save_names(tmp_path / "names.toml", names)
    other = apply(names, runs["linen", None])
    for update in (0, 3):
        for name, array in runs["torch", None].parameters(update).items():
            np.testing.assert_allclose(other.parameters(update)[name], array, rtol=1e-3, atol=1e-5)


def test_what_a_wide_bound_hides_and_what_is_set_aside_is_said(tmp_path: Path) -> None:
    """A tensor whose gradient is noise steps either way; the other's steps agree."""
    traces = []
    for sign in (1, -1):
        noise, real = np.float32(sign * 1e-9), np.float32(1.0)
        with lockstep.Recorder(tmp_path / "t", backend="loop") as recorder:
            key, value = np.zeros(2, np.float32), np.zeros(2, np.float32)
            recorder.start({"a.key": key, "a.value": value})
            for update in range(3):
                gradients = {"a.key": np.full(2, noise), "a.value": np.full(2, real)}
                key = key - np.float32(0.01) * np.sign(noise)
                value = value - np.float32(0.01)
                recorder.update(
                    loss=np.float32(1 + update),
                    gradients=gradients,
                    lr=0.01,
                    parameters={"a.key": key, "a.value": value},
                )
        traces.append(Trace.load(tmp_path / "t"))
    bounds = loop_bounds(*traces)
    assert compare(*traces, bounds).verdict == "rounding"
    assert remarks_on(*traces, bounds) == [
        "norm of the update: a difference below 70.7% cannot be seen",
        "set aside: steps whose sign rounding may turn, as their gradients lie within their bound "
        "of 0: a.key (all of 2 elements)",
    ]
    bounds["updates/loss"] = np.full(3, 0.015)
    assert remarks_on(*traces, bounds)[0] == (
        "loss: a difference below 1.0% to 3.0%, by the update, cannot be seen"
    )
    # where the gradient is no noise, the same steps part
    for trace in traces:
        for update in range(3):
            trace.arrays[f"detail/{update}/gradients/a.key"] *= 1e8
    first = compare(*traces, loop_bounds(*traces)).first
    assert first is not None
    assert first.stage == "gradients"
