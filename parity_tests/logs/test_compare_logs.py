"""What two logs say of each other: where they part, how they are related, and never more."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

import lockstep
from lockstep.cli import main
from lockstep.diagnose.logs.digits import digits_of
from lockstep.diagnose.logs.judge import LogComparison, Quantity, compare_logs
from lockstep.errors import InputError
from lockstep.logs.log import Log, Series
from lockstep.logs.read import read_log
from parity_tests.logs.curves import Curves, curves, write_csv

FILES = Path(__file__).parent / "files"
N = 200


def training(seed: int = 0, steps: int = N) -> Curves:
    """A noisy loss that falls, a rate with warmup and cosine, and a gradient's norm."""
    random = np.random.default_rng(seed)
    step_N = np.arange(steps)
    falling_N = 0.5 * (1 + np.cos(np.pi * (step_N - 20) / (steps - 20)))
    return {
        "step": step_N,
        "loss": 2.3 * np.exp(-step_N / 60) + 0.2 + 0.05 * random.standard_normal(steps),
        "lr": 1e-3 * np.where(step_N < 20, (step_N + 1) / 20, falling_N),
        "grad_norm": np.abs(random.standard_normal(steps)) + 0.2,
    }


def log_of(columns: Curves, name: str = "a.csv") -> Log:
    """The log of curves, without a file."""
    steps_N = np.asarray(columns["step"], dtype=np.int64)
    series = {
        key: Series(key, steps_N, np.asarray(values, dtype=np.float64))
        for key, values in columns.items()
        if key != "step"
    }
    return Log(name, "CSV", series)


def cut(columns: Curves, decimals: int = 4) -> Curves:
    """The curves as a log with so many decimals has them; rates keep all digits."""
    return {
        name: values if name in ("step", "lr") else np.round(values, decimals)
        for name, values in columns.items()
    }


def judged(a: Curves, b: Curves) -> LogComparison:
    return compare_logs(log_of(a), log_of(b, "b.csv"))


def quantity(comparison: LogComparison, name: str) -> Quantity:
    (one,) = [quantity for quantity in comparison.quantities if quantity.name == name]
    return one


# ---- equal


def test_the_same_numbers_are_equal() -> None:
    comparison = judged(training(), training())
    assert comparison.verdict == "equal"
    assert not comparison.hints


@pytest.mark.parametrize("decimals", [2, 4, 6])
def test_numbers_that_are_cut_are_within_rounding(decimals: int) -> None:
    a = training()
    comparison = judged(a, cut(a, decimals))
    assert comparison.verdict == "rounding"
    loss = quantity(comparison, "loss").pair
    assert loss.b.digits.text == f"{decimals} decimals"
    assert (loss.allowed_N < 0.6 * 10.0**-decimals + 1e-5).all()


def test_numbers_with_few_significant_digits() -> None:
    values_N = np.array([float(f"{value:.5g}") for value in training()["loss"] * 1e-3])
    digits = digits_of("loss", Series("loss", np.arange(N), values_N))
    assert (digits.kind, digits.count) == ("significant", 5)


def test_a_rate_of_few_digits_is_exact() -> None:
    a = training()
    a["lr"] = np.full(N, 0.001)
    b = a | {"lr": np.full(N, 0.0014)}
    comparison = judged(a, b)
    assert comparison.verdict == "parted"
    relation = quantity(comparison, "lr").relation
    assert relation is not None
    assert relation.value == pytest.approx(1.4)


def test_too_few_digits_judge_nothing() -> None:
    a = training() | {"loss": np.linspace(0.04, 0.01, N)}
    b = a | {"loss": np.round(a["loss"], 2)}
    comparison = judged(a, b)
    assert comparison.verdict == "inconclusive"
    assert "too few" in quantity(comparison, "loss").reason


@pytest.mark.parametrize("offset", [1, -1])
def test_one_side_may_count_from_0_and_the_other_from_1(offset: int) -> None:
    a = training()
    b = a | {"step": a["step"] + 1}
    pair = (a, b) if offset == -1 else (b, a)
    comparison = judged(*pair)
    assert (comparison.verdict, comparison.offset) == ("equal", offset)
    assert any("counts its steps one higher" in remark for remark in comparison.remarks)


def test_a_rate_that_is_read_late_is_not_taken_for_another_count() -> None:
    a = training()
    b = a | {"step": a["step"] + 1, "lr": np.append(a["lr"][1:], 0.0)}
    comparison = judged(a, b)
    assert comparison.offset == -1
    assert quantity(comparison, "loss").verdict == "equal"
    relation = quantity(comparison, "lr").relation
    assert relation is not None
    assert (relation.kind, relation.value) == ("shift", -1.0)


def test_a_factor_and_another_count_are_told_together() -> None:
    a = {name: training()[name] for name in ("step", "loss")}
    comparison = judged(a, {"step": a["step"] + 1, "loss": 4 * a["loss"]})
    relation = quantity(comparison, "loss").relation
    assert relation is not None
    assert (comparison.offset, relation.value) == (-1, 4.0)


def test_common_steps_are_compared() -> None:
    a = training()
    b = {name: values[::10] for name, values in a.items()}
    comparison = judged(a, b)
    assert comparison.verdict == "equal"
    assert quantity(comparison, "loss").pair.steps == N // 10


# ---- relations, with either side as a

COUNTS = {2: "2 micro-batches", 8: "8 micro-batches", 65536: "gradient scaler"}


@pytest.mark.parametrize("is_swapped", [False, True])
@pytest.mark.parametrize("count", COUNTS)
def test_a_factor_of_the_loss(count: int, is_swapped: bool) -> None:
    a = training()
    b = a | {"loss": a["loss"] * count}
    comparison = judged(*((cut(b), cut(a)) if is_swapped else (cut(a), cut(b))))
    relation = quantity(comparison, "loss").relation
    assert relation is not None
    assert relation.kind == "factor"
    assert relation.value == pytest.approx(1 / count if is_swapped else count, rel=1e-9)
    assert COUNTS[count] in relation.text
    assert quantity(comparison, "loss").first_step == 0
    assert any("in the loss that is logged" in hint for hint in comparison.hints)


def test_a_factor_that_is_no_count() -> None:
    a = training()
    comparison = judged(a, a | {"lr": a["lr"] * 0.9})
    relation = quantity(comparison, "lr").relation
    assert relation is not None
    assert relation.text == "b's is 0.9 times a's at every common step"
    bits = judged(a, a | {"loss": a["loss"] / np.log(2)})
    relation = quantity(bits, "loss").relation
    assert relation is not None
    assert "bits in b and nats in a" in relation.text


def test_a_whole_factor_of_the_first_loss_alone() -> None:
    a, b = training(), training(1)
    b["loss"] = 32 * b["loss"]
    b["loss"][0] = 32 * a["loss"][0]
    for pair, value in (((cut(a), cut(b)), 32.0), ((cut(b), cut(a)), 1 / 32)):
        relation = quantity(judged(*pair), "loss").relation
        assert relation is not None
        assert (relation.kind, relation.value) == ("factor at the start", value)


def test_an_offset() -> None:
    a = training()
    relation = quantity(judged(cut(a), cut(a | {"loss": a["loss"] + 0.5})), "loss").relation
    assert relation is not None
    assert relation.kind == "offset"
    assert relation.value == pytest.approx(0.5, abs=1e-4)


@pytest.mark.parametrize("steps", [1, -1, 3, -7])
def test_a_shift_of_the_rate(steps: int) -> None:
    a = training()
    lr_N = np.roll(a["lr"], steps)
    if steps > 0:
        lr_N[:steps] = lr_N[steps]
    else:
        lr_N[steps:] = 0
    relation = quantity(judged(a, a | {"lr": lr_N}), "lr").relation
    assert relation is not None
    assert (relation.kind, relation.value) == ("shift", float(steps))


@pytest.mark.parametrize("is_swapped", [False, True])
def test_a_schedule_that_runs_faster(is_swapped: bool) -> None:
    a = training()
    places_N = np.minimum(4 * a["step"], N - 1)
    b = a | {"lr": a["lr"][places_N]}
    b["lr"][4 * a["step"] >= N] = 0
    comparison = judged(b, a) if is_swapped else judged(a, b)
    relation = quantity(comparison, "lr").relation
    assert relation is not None
    assert (relation.kind, relation.value) == ("pace", 0.25 if is_swapped else 4.0)
    assert relation.text.startswith("a's" if is_swapped else "b's")


@pytest.mark.parametrize("is_swapped", [False, True])
def test_a_schedule_that_steps_once_an_epoch(is_swapped: bool) -> None:
    a = training()
    b = a | {"lr": a["lr"][a["step"] // 10 * 10]}
    relation = quantity(judged(b, a) if is_swapped else judged(a, b), "lr").relation
    assert relation is not None
    assert (relation.kind, relation.value) == ("held", 10.0)
    assert relation.text.startswith("a's" if is_swapped else "b's")


def test_schedules_are_read_off_their_rates() -> None:
    a = training()
    late_N = np.clip((a["step"] - 10) / (N - 10), 0, 1)
    lr_N = 1e-3 * np.where(a["step"] < 10, (a["step"] + 1) / 10, 0.5 + 0.5 * np.cos(np.pi * late_N))
    for steps in (a["step"], a["step"] + 1):
        relation = quantity(
            judged(a | {"step": steps}, a | {"step": steps, "lr": lr_N}), "lr"
        ).relation
        assert relation is not None
        assert relation.kind == "schedule"
        assert "b's warmup takes 10 updates for 20" in relation.text
    short = 1e-3 * 0.1 ** (a["step"] // 30)
    shorter = 1e-3 * 0.1 ** (a["step"] // 31)
    relation = quantity(judged(a | {"lr": short}, a | {"lr": shorter}), "lr").relation
    assert relation is None or relation.kind == "schedule"


def test_other_schedules_have_no_factor_and_no_shift() -> None:
    """A cosine against lines, other lengths and floors: neither is what the other does."""
    a = training()
    random = np.random.default_rng(0)
    for _ in range(50):
        warmup, length = random.integers(1, 40), random.integers(150, 400)
        rest_N = np.clip((a["step"] - warmup) / (length - warmup), 0, 1)
        line_N = np.where(a["step"] < warmup, (a["step"] + 1) / warmup, 1 - rest_N)
        relation = quantity(judged(a, a | {"lr": 1e-3 * line_N}), "lr").relation
        assert relation is None or relation.kind == "schedule"


def test_a_norm_after_clipping() -> None:
    a = training()
    b = a | {"grad_norm": np.minimum(a["grad_norm"], 1.0)}
    comparison = judged(cut(a), cut(b))
    relation = quantity(comparison, "grad_norm").relation
    assert relation is not None
    assert (relation.kind, relation.value) == ("bound", 1.0)
    assert "b logs the norm after clipping" in relation.text


def smoothed(loss_N: NDArray[np.float64], decay: float, is_debiased: bool) -> NDArray[np.float64]:
    average = 0.0 if is_debiased else float(loss_N[0])
    averages = []
    for step, loss in enumerate(loss_N, start=1):
        average = decay * average + (1 - decay) * loss
        averages.append(average / (1 - decay**step) if is_debiased else average)
    return np.array(averages)


AVERAGES: dict[str, tuple[str, Callable[[NDArray[np.float64]], NDArray[np.float64]]]] = {
    "moving": ("the factor 0.9:", lambda loss_N: smoothed(loss_N, 0.9, False)),
    "debiased": ("the factor 0.98:", lambda loss_N: smoothed(loss_N, 0.98, True)),
    "all": ("mean of all", lambda loss_N: np.cumsum(loss_N) / np.arange(1, len(loss_N) + 1)),
    "running": (
        "last 20 numbers",
        lambda loss_N: np.array([loss_N[max(0, i - 19) : i + 1].mean() for i in range(N)]),
    ),
}


@pytest.mark.parametrize("is_swapped", [False, True])
@pytest.mark.parametrize("name", AVERAGES)
def test_averages_of_one_side(name: str, is_swapped: bool) -> None:
    a = training()
    text, average = AVERAGES[name]
    b = a | {"loss": average(a["loss"])}
    comparison = judged(*((cut(b), cut(a)) if is_swapped else (cut(a), cut(b))))
    relation = quantity(comparison, "loss").relation
    assert relation is not None
    assert text in relation.text
    assert relation.text.startswith("a's" if is_swapped else "b's")
    assert comparison.verdict == "rounding"
    other = training(1) | {"loss": average(training(1)["loss"])}
    assert judged(cut(a), cut(other)).verdict == "parted"


def test_means_over_the_interval_of_hugging_face() -> None:
    a = read_log(FILES / "trainer_state_1.json")
    b = read_log(FILES / "trainer_state.json")
    comparison = compare_logs(a, b)
    assert (comparison.verdict, comparison.offset) == ("rounding", 0)
    relation = quantity(comparison, "loss").relation
    assert relation is not None
    assert (relation.kind, relation.value) == ("mean", 4.0)
    assert quantity(comparison, "lr").verdict == "equal"


def test_a_trainer_that_counts_from_1_against_a_loop_that_counts_from_0() -> None:
    a = training()
    ends_N = np.arange(9, N, 10)
    b = {name: values[ends_N] for name, values in a.items()}
    b["step"] = ends_N + 1
    b["loss"] = a["loss"].reshape(-1, 10).mean(axis=1)
    comparison = judged(cut(a), cut(b))
    assert (comparison.verdict, comparison.offset) == ("rounding", -1)


# ---- parted, and what is not said


def test_other_trainings_have_no_relation() -> None:
    for seed in range(1, 20):
        comparison = judged(cut(training()), cut(training(seed)))
        assert comparison.verdict == "parted"
        for name in ("loss", "grad_norm"):
            assert quantity(comparison, name).relation is None


@given(st.integers(1, N - 10), st.sampled_from([2, 4]), st.integers(0, 1000))
def test_the_first_step_of_a_difference_is_named(first: int, decimals: int, seed: int) -> None:
    a = training(seed)
    loss_N = a["loss"].copy()
    loss_N[first:] *= 1.2 + 0.1 * np.random.default_rng(seed).standard_normal(N - first)
    loss_N[first] = a["loss"][first] + 0.5
    comparison = judged(cut(a, decimals), cut(a | {"loss": loss_N}, decimals))
    loss = quantity(comparison, "loss")
    assert (loss.verdict, loss.first_step) == ("parted", first)
    assert comparison.hints[0].startswith(f"the losses agree up to step {first - 1}")


@given(st.integers(0, 1000), st.sampled_from([4, 5, 6, 17]))
def test_rounding_in_float32_never_parts(seed: int, decimals: int) -> None:
    a = training(seed)
    noise = np.random.default_rng(seed).uniform(-1e-6, 1e-6, (3, N))
    b = a | {name: a[name] * (1 + noise[i]) for i, name in enumerate(("loss", "lr", "grad_norm"))}
    assert judged(cut(a, decimals), cut(b, decimals)).verdict in ("equal", "rounding")


@pytest.mark.parametrize("decimals", [4, 17])
def test_rounding_that_grew_is_undecided(decimals: int) -> None:
    a = training()
    sign_N = np.sign(np.random.default_rng(2).standard_normal(N))
    grown_N = a["loss"] + sign_N * np.minimum(1e-8 * np.exp(a["step"] / 10), 0.05)
    comparison = judged(cut(a, decimals), cut(a | {"loss": grown_N}, decimals))
    assert comparison.verdict == "inconclusive"
    assert "grows little by little" in quantity(comparison, "loss").reason


def test_rounding_in_bfloat16_is_undecided() -> None:
    a = training()
    noise_N = np.random.default_rng(3).uniform(-(2.0**-9), 2.0**-9, N)
    comparison = judged(a, a | {"loss": a["loss"] * (1 + noise_N)})
    assert comparison.verdict == "inconclusive"
    assert "bfloat16" in quantity(comparison, "loss").reason


def test_a_loss_that_overflows_on_both_sides_is_judged_up_to_there() -> None:
    a = training()
    a["loss"][50:] = np.nan
    comparison = judged(a, a)
    assert comparison.verdict == "inconclusive"
    assert "from step 50 on neither has a number" in quantity(comparison, "loss").reason
    b = training()
    assert quantity(judged(a, b), "loss").first_step == 50


def test_hints_follow_the_order_of_the_first_differences() -> None:
    a, other = training(), training(1)

    def late(name: str, first: int) -> NDArray[np.float64]:
        values_N = a[name].copy()
        values_N[first:] = other[name][first:]
        return values_N

    b = a | {"lr": np.where(a["step"] < 30, a["lr"], 3e-4), "loss": late("loss", 31)}
    assert judged(a, b).hints[0].startswith("the rate parts first, at step 30")
    b = a | {"loss": late("loss", 31), "grad_norm": late("grad_norm", 30)}
    assert judged(a, b).hints[0].startswith("at step 30 the losses agree and the gradients' norms")
    b = a | {"grad_norm": late("grad_norm", 30)}
    assert "the losses never do" in judged(a, b).hints[0]
    assert "initial parameters" in judged(a, other | {"lr": a["lr"]}).hints[0]


def test_logs_without_a_common_quantity_are_refused() -> None:
    a = {"step": np.arange(3), "loss": np.ones(3)}
    b = {"step": np.arange(3), "reward": np.ones(3)}
    with pytest.raises(InputError, match="no quantity in common"):
        judged(a, b)
    far = a | {"step": np.arange(100, 103)}
    assert judged(a, far).verdict == "inconclusive"


# ---- the command

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """The command, in a folder of its own: exit status, output and errors."""
    monkeypatch.chdir(tmp_path)

    def compare(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as end:
            main(["compare", *arguments])
        captured = capsys.readouterr()
        return int(end.value.code or 0), captured.out, captured.err

    return compare


def test_the_command_ends_as_it_found(run: Run) -> None:
    a = curves()
    for name, columns in {
        "a.csv": a,
        "same.csv": a,
        "other.csv": a | {"loss": a["loss"] * 3},
        "far.csv": a | {"step": a["step"] + 1000},
    }.items():
        write_csv(Path(name), columns)
    status, out, _ = run("a.csv", "same.csv")
    assert (status, out.splitlines()[-1]) == (0, "verdict: equal (3 quantities, 40 common steps)")
    status, out, _ = run("a.csv", "other.csv")
    assert status == 1
    assert "b's is 3 times a's at every common step" in out
    assert "recorder.watch(model, optimizer)" in out
    assert "recorder.update(loss=loss)" in out
    status, out, _ = run("a.csv", "far.csv")
    assert (status, out.splitlines()[-1][:22]) == (3, "verdict: inconclusive ")
    status, _, err = run("a.csv", "none.csv")
    assert (status, err) == (
        2,
        "lockstep: none.csv: cannot be read: No such file or directory\n",
    )


def test_a_trace_beside_a_log(run: Run) -> None:
    values = curves()
    with lockstep.Recorder("a.trace", backend="numpy") as recorder:
        for step in range(40):
            recorder.update(loss=values["loss"][step], lr=values["lr"][step])
    write_csv(Path("b.csv"), values | {"step": values["step"] + 1})
    status, out, _ = run("a.trace", "b.csv")
    assert status == 0
    assert "b counts its steps one higher than a" in out
    status, _, err = run("a.trace", "a.trace", "--column", "loss=ce")
    assert (status, "--column" in err) == (2, True)


def test_json_says_the_same(run: Run) -> None:
    a = curves()
    write_csv(Path("a.csv"), a)
    loss_N = a["loss"] * 3
    loss_N[-1] = np.nan
    write_csv(Path("b.csv"), a | {"loss": loss_N})
    status, out, _ = run("a.csv", "b.csv", "--json")
    content = json.loads(out)
    assert (status, content["exit_status"], content["verdict"]) == (1, 1, "parted")
    assert content["schema"] == "lockstep.logs/1"
    loss = {quantity["name"]: quantity for quantity in content["quantities"]}["loss"]
    assert (loss["relation"]["kind"], loss["relation"]["value"]) == ("factor", 3.0)
    assert loss["first"]["step"] == 0


def test_columns_are_named(run: Run) -> None:
    a = curves()
    write_csv(Path("a.csv"), a)
    renamed = {"it": a["step"], "ce": a["loss"], "loss": a["loss"] * 2}
    write_csv(Path("b.csv"), renamed)
    status, out, _ = run("a.csv", "b.csv")
    assert (status, "b's is 2 times a's" in out) == (1, True)
    status, _, _ = run("a.csv", "b.csv", "--column", "loss=ce", "--column", "step=it")
    assert status == 0
    status, _, err = run("a.csv", "b.csv", "--column", "loss=xent")
    assert (status, err) == (2, "lockstep: --column loss=xent: neither log has that column\n")
    status, _, err = run("a.csv", "b.csv", "--column", "loss")
    assert (status, "must be NAME=COLUMN" in err) == (2, True)
    status, _, err = run("a.csv", "b.csv", "--junit", "j.xml")
    assert (status, err) == (2, "lockstep: --junit: is for two traces, and these are logs\n")


def test_names_of_columns_move_no_cursor(run: Run) -> None:
    a = curves()
    for name in ("a.csv", "b.csv"):
        write_csv(Path(name), a | {f"\x1b[31m{name}": a["loss"]})
    status, out, _ = run("a.csv", "b.csv")
    assert status == 0
    assert "\x1b" not in out
