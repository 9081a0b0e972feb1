"""Options that contradict one another or say nothing are refused, and are never without effect."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from lockstep.cli import GROUPS, cli, main

SMALL = ("--set", "data.rows=64", "--set", "training.epochs=2", "--set", "schedule.warmup=1")
TABLE = "a,b,y\n" + "".join(f"{i % 7},{i % 5},{i % 2}\n" for i in range(60))
DATA = ("--data", "t.csv", "--target", "y")
RECORD = ("record", "--backend", "oracle", "--out", "t.trace", *SMALL)


@pytest.fixture
def lockstep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):  # type: ignore[no-untyped-def]
    """A function that runs a command in a folder of its own and gives its exit status, output and
    errors.
    """
    monkeypatch.chdir(tmp_path)
    Path("t.csv").write_text(TABLE)

    def run(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as end:
            main(list(arguments))
        return (int(end.value.code or 0), *capsys.readouterr())

    return run


REFUSED = {
    "two sources": (
        ("recipe", "check", *DATA, "--set", "data.source=digits"),
        "two sources of data",
    ),
    "two paths": (("run", *DATA, "--set", "data.path=u.csv"), "two sources of data"),
    "two targets": (("recipe", "check", *DATA, "--set", "data.target=b"), "two sources of data"),
    "spaces": (("recipe", "check", *DATA, "--set", " data.source = digits"), "two sources of data"),
    "a target of drawn rows": (
        ("recipe", "check", "--target", "y"),
        "--target y: belongs to --data FILE",
    ),
    "a target of digits": (
        ("record", "digits", *RECORD[1:5], "--target", "y"),
        "--target y: belongs to --data FILE",
    ),
    "a recipe's peak": (("curve", "seed", "--peak", "0.1"), "--peak 0.1: is for presets"),
    "the default's warmup": (("curve", "--warmup", "3"), "--warmup 3: is for presets"),
    "a recipe's length": (("curve", "seed", "--length", "30"), "--length 30: is for presets"),
    "against nothing": (("bench", "--against", ""), "--against '': names no group"),
    "against commas": (("bench", "--against", " , "), "names no group"),
    "compare and measure": (("bench", "W1", "--compare", "a", "b"), "--compare: measures nothing"),
    "batches of no checkpoint": (
        (*RECORD, "--checkpoint-unit", "batch"),
        "belongs to --checkpoint-every",
    ),
    "an infinite rate": (
        ("recipe", "check", "--set", "schedule.peak=1e308"),
        "1e+308 is infinite in float32",
    ),
    "an infinite rate of a layer": (
        ("recipe", "check", "--set", "schedule.peak=1e38", "--set", "optimizer.multipliers=[1, 9]"),
        "9e+38 is infinite in float32",
    ),
    "noise beyond float64": (
        ("recipe", "check", "--set", "data.noise=1e308", "--set", "loss.name=mse"),
        "target 'y': must be finite",
    ),
}


@pytest.mark.parametrize(("arguments", "said"), REFUSED.values(), ids=REFUSED)
def test_a_contradiction_is_refused_in_one_line(arguments, said, lockstep) -> None:  # type: ignore[no-untyped-def]
    status, _, errors = lockstep(*arguments)
    assert status == 2
    assert said in errors
    assert errors.count("\n") == 1


@pytest.mark.parametrize("number", ["nan", "inf", "-inf", "1e999", "NaN"])
@pytest.mark.parametrize("option", ["--budget-mib", "--peak"])
def test_a_number_of_the_command_line_is_finite(option: str, number: str, lockstep) -> None:  # type: ignore[no-untyped-def]
    before = RECORD if option == "--budget-mib" else ("curve", "--preset", "hf.cosine")
    status, _, errors = lockstep(*before, f"{option}={number}")
    assert status == 2
    assert errors.count("\n") == 1
    assert not Path("t.trace").exists()


def test_every_number_that_is_no_integer_is_one_that_is_finite() -> None:
    import click

    from lockstep.cli import cli
    from lockstep.commands.options import FiniteFloat

    commands = [*cli.commands.values(), *cli.commands["recipe"].commands.values()]  # type: ignore[attr-defined]
    types = [option.type for command in commands for option in command.params]
    floats = click.types.FloatParamType | click.FloatRange
    kinds = [kind for kind in types if isinstance(kind, floats)]
    assert len(kinds) >= 2
    assert all(isinstance(kind, FiniteFloat) for kind in kinds)


@pytest.mark.parametrize(
    ("dtype", "peak"), [("float32", "1e20"), ("float64", "1e200"), ("float64", "1e308")]
)
def test_a_rate_that_overflows_at_once_is_warned_of(dtype: str, peak: str, lockstep) -> None:  # type: ignore[no-untyped-def]
    more = ("--set", f"training.dtype={dtype}", "--set", f"schedule.peak={peak}")
    status, _, errors = lockstep("recipe", "check", *more)
    assert status == 0
    assert f"takes the parameters beyond {dtype} in the first updates: the run overflows" in errors
    assert "the run overflows" not in lockstep("recipe", "check", "--set", "schedule.peak=100.0")[2]


def test_the_target_of_a_recipe_with_a_file_may_be_another(lockstep) -> None:  # type: ignore[no-untyped-def]
    recipe = '[data]\nsource = "file"\npath = "t.csv"\ntarget = "y"\n[training]\nbatch = 8\n'
    Path("mine.toml").write_text(recipe)
    status, output, _ = lockstep("recipe", "check", "mine.toml", "--target", "b")
    assert (status, "5 classes" in output) == (0, True)


def test_presets_beside_a_recipe_take_the_peak_that_is_given(lockstep) -> None:  # type: ignore[no-untyped-def]
    status, output, _ = lockstep("curve", "seed", "--preset", "hf.constant", "--peak", "0.5")
    assert status == 0
    assert "0.5" in output


def test_the_help_has_every_command_in_a_group_with_a_whole_sentence() -> None:
    names = [name for name, command in cli.commands.items() if not command.hidden]
    grouped = [command.name for commands in GROUPS.values() for command in commands]
    assert sorted(names) == sorted(grouped)
    lines = CliRunner().invoke(cli, ["--help"]).output.splitlines()
    assert max(map(len, lines)) <= 80
    assert not any(line.endswith("...") for line in lines)
    assert [line for line in lines if line.endswith(":")][1:] == [f"{title}:" for title in GROUPS]
    for name in names:
        (line,) = (line for line in lines if line.split()[:1] == [name])
        assert line.endswith("."), line
