"""What a command writes replaces no input, no link and no file of another kind. It may replace what
it wrote itself.
"""

import os
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np
import pytest

import lockstep.schedules.curve
from lockstep import Recorder
from lockstep.bench.sweep import KINDS as SWEEPS
from lockstep.cli import cli, main
from lockstep.errors import InputError
from lockstep.files.outputs import write_file
from lockstep.parity import assert_parity
from lockstep.records.checkpoint import Checkpoint
from lockstep.records.trace import Trace
from lockstep.report.matrix import MATRIX
from lockstep.report.prove import PROOF
from lockstep.report.schedule_curve import KINDS as CURVES

ROOT = Path(__file__).parents[2]
SMALL = ("--set=data.rows=40", "--set=training.epochs=2", "--set=schedule.warmup=1")
RECORD = ("record", "--backend", "oracle", *SMALL)
WRITERS = [
    # the command, the option before the file, and the file
    ((*RECORD,), "--out", "t.trace"),
    (("compare", "a.trace", "b.trace"), "--junit", "j.xml"),
    (("diagnose", "a.trace", "b.trace"), "--junit", "j.xml"),
    (("names", "a.trace", "b.trace"), "--out", "names.toml"),
    (("curve", "--preset", "hf.cosine"), "--out", "c.html"),
    (("curve", "--preset", "hf.cosine"), "--out", "c.png"),
    (("curve", "--preset", "hf.cosine"), "--out", "c.npz"),
    (("matrix", "constant"), "--out", "m.md"),
    (("prove", "momentum"), "--out", "p.md"),
    (("converge",), "--png", "c.png"),
    (("upgrade-check", "gold"), "--out", "u.md"),
    (("upgrade-check", "gold"), "--out", "u.json"),
    (("matrix-versions", "--torch", "2.13.0"), "--out", "v.md"),
    (("matrix-versions", "--torch", "2.13.0"), "--out", "v.json"),
    (("bench",), "--out", "b.json"),
    (("bench", "--sweep", "batch"), "--out", "b.json"),
    (("bench", "--sweep", "batch"), "--out", "b.png"),
    (("bench", "--sweep", "batch"), "--out", "b.html"),
    (("convert", "k.checkpoint"), "", "k.pt"),
    (("convert", "k.checkpoint"), "", "k.safetensors"),
    (("convert", "k.checkpoint"), "", "k.msgpack"),
    (("convert", "k.checkpoint"), "", "orbax"),
    (("convert", "k.pt", "--recipe", "seed"), "", "k2.checkpoint"),
    (("recipe", "init"), "", "r.toml"),
    (("bless",), "--out", "gold"),
]
FOLDERS = {"run", "converge", "repro"}
"""Commands whose --out is a folder. It never replaces another: it is numbered or refused."""
Run = Callable[..., tuple[int, str]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """A function that runs a command in an empty folder and gives its exit status and standard
    error.
    """
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> tuple[int, str]:
        with pytest.raises(SystemExit) as end:
            main([str(argument) for argument in arguments])
        return int(end.value.code or 0), capsys.readouterr().err

    return run


def loop(path: str, rate: float = 0.1) -> None:
    """A descent on a parabola, recorded."""
    with Recorder(path, backend=path[0]) as recorder:
        w = recorder.start({"w": np.ones(3)})["w"]
        for _ in range(4):
            gradient = 2 * w
            w = w - rate * gradient
            loss = float(w @ w)
            recorder.update(loss=loss, gradients={"w": gradient}, lr=rate, parameters={"w": w})


def state(folder: Path) -> dict[str, object]:
    """Every name below a folder, with what it holds or where it leads."""

    def held(path: Path) -> object:
        if path.is_symlink():
            return os.readlink(path)
        return path.read_bytes() if path.is_file() else None

    return {str(path.relative_to(folder)): held(path) for path in sorted(folder.rglob("*"))}


def test_every_option_that_writes_is_tried() -> None:
    tried = {(command[0], option) for command, option, _ in WRITERS}
    for name, command in cli.commands.items():
        parts = command.commands.values() if isinstance(command, click.Group) else [command]
        parameters = [parameter for part in parts for parameter in part.params]
        options = {option for parameter in parameters for option in parameter.opts}
        for option in options & {"--out", "--junit", "--png"}:
            assert (name, option) in tried or name in FOLDERS, (name, option)


@pytest.mark.parametrize("there", ["text", "link", "dangling", "pipe", "link to itself"])
@pytest.mark.parametrize(("command", "option", "name"), WRITERS, ids=lambda value: str(value)[:40])
def test_no_link_and_no_file_of_another_kind_is_replaced(
    command: tuple[str, ...], option: str, name: str, there: str, run: Run, tmp_path: Path
) -> None:
    (tmp_path / "far").mkdir()
    if there == "text":
        (tmp_path / name).write_text("mine\n")
    elif there == "pipe":
        os.mkfifo(tmp_path / name)
    else:
        target = {"link": "far/file", "dangling": "far/none", "link to itself": name}[there]
        (tmp_path / "far/file").write_text("mine\n")
        (tmp_path / name).symlink_to(target)
    before = state(tmp_path)
    status, err = run(*command, *filter(None, [option]), name)
    assert (status, err.count("\n")) == (2, 1), err
    place = f"{option} {name}: ".lstrip()
    assert place in err or command[0] == "bless", err
    assert name in err
    assert state(tmp_path) == before


@pytest.mark.parametrize("linked", ["", "symbolic", "hard"])
def test_an_input_is_never_replaced(linked: str, run: Run, tmp_path: Path) -> None:
    """Neither under its own name nor by another, nor where it is of the kind that is written."""
    rows = "\n".join(f"{i % 7},{i % 5},{i % 2}" for i in range(60))
    (tmp_path / "t.csv").write_text(f"a,b,y\n{rows}\n")
    (tmp_path / "own.toml").write_text('[data]\nsource = "file"\npath = "t.csv"\ntarget = "y"\n')
    for name in "ab":
        loop(f"{name}.trace")
    np.savez("t.npz", a=np.arange(60) % 7, y=np.arange(60) % 2)
    assert run(*RECORD, "--out", "k.trace", "--checkpoint-every", 1)[0] == 0
    (tmp_path / "npz.toml").write_text('[data]\nsource = "file"\npath = "t.npz"\ntarget = "y"\n')
    last = max(tmp_path.glob("k.*.checkpoint"))
    commands = [
        ((*RECORD, "--data", "t.csv", "--target", "y"), "--out", "t.csv"),
        ((*RECORD, "own.toml"), "--out", "t.csv"),
        ((*RECORD, "own.toml"), "--out", "own.toml"),
        ((*RECORD, "--resume", last), "--out", last),
        (("compare", "a.trace", "b.trace"), "--junit", "b.trace"),
        (("compare", "a.trace", "b.trace", "--noise", "k.trace"), "--junit", "k.trace"),
        (("diagnose", "a.trace", "b.trace", "--oracle", "k.trace"), "--junit", "k.trace"),
        (("names", "a.trace", "b.trace"), "--out", "a.trace"),
        (("curve", "npz.toml"), "--out", "t.npz"),
    ]
    for command, option, name in commands:
        out = tmp_path / f"out{Path(name).suffix}" if linked else Path(name)
        if linked == "hard":
            os.link(name, out)
        elif linked:
            out.symlink_to(name)
        before = state(tmp_path)
        status, err = run(*command, option, out)
        reason = f"{option} {out}: is an input of this command, and is kept; name another file"
        assert (status, err) == (2, f"lockstep: {reason}\n")
        assert state(tmp_path) == before
        if linked:
            out.unlink()


def test_a_checkpoint_is_no_other_file(run: Run, tmp_path: Path) -> None:
    """A checkpoint replaces no other file and not the one that the run goes on from. It may replace
    one of an earlier run.
    """
    record = (*RECORD, "--out", "t.trace", "--checkpoint-every")
    assert run(*record, 1)[0] == 0
    checkpoints = sorted(tmp_path.glob("t.*.checkpoint"))
    first = checkpoints[0].read_bytes()
    assert run(*record, 1, "--resume", checkpoints[0])[0] == 0
    assert checkpoints[0].read_bytes() == first
    checkpoints[-1].write_text("mine")
    (tmp_path / "t.trace").unlink()
    before = state(tmp_path)
    status, err = run(*record, 1)
    assert (status, err.count("\n")) == (2, 1)
    name = checkpoints[-1].name
    assert f"{name}: exists already, is no lockstep.checkpoint file, and is kept" in err
    assert state(tmp_path) == before
    renamed = tmp_path / "t.2.checkpoint"
    checkpoints[0].rename(renamed)
    status, err = run(*record, 2, "--resume", renamed)
    assert (status, renamed.read_bytes() == first) == (2, True), err


def test_what_lockstep_wrote_it_replaces(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib")
    rates = {backend: np.zeros((1, 1000), np.float32) for backend in ("torch", "jax")}
    monkeypatch.setattr(lockstep.schedules.curve, "applied_rates", lambda curves: rates)
    for name in "ab":
        loop(f"{name}.trace")
    plots = [f"--out={name}" for name in ("c.html", "c.png", "c.npz")]
    for _ in range(2):
        loop("a.trace")
        assert run(*RECORD, "--out", "t.trace")[0] == 0
        assert run("compare", "a.trace", "b.trace", "--junit", "j.xml")[0] == 0
        assert run("compare", "a.trace", "none.trace", "--junit", "e.xml")[0] == 2
        assert run("curve", "--preset", "hf.cosine", *plots) == (0, "")
    # a refusal gives way to a result
    assert run("compare", "a.trace", "b.trace", "--junit", "e.xml")[0] == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "a.trace", "b.trace", "c.html", "c.npz", "c.png", "e.xml", "j.xml", "t.trace",
    ]  # fmt: skip


def test_the_pages_of_the_documents_are_recognised() -> None:
    assert MATRIX.is_kind_of(ROOT / "docs/matrix.md")
    assert PROOF.is_kind_of(ROOT / "docs/prove.md")
    assert not MATRIX.is_kind_of(ROOT / "docs/prove.md")


@pytest.mark.parametrize(
    ("suffix", "content"),
    [
        (".html", b"<!doctype html>\n<html><head><title>lockstep curve</title></head></html>"),
        (".html", b'<p>how to: <meta name="generator" content="lockstep curve"></p>'),
        (".png", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDRtEXtSoftware\0Matplotlib version3.10"),
        (".npz", b"PK\x03\x04 torn"),
    ],
)
def test_a_file_that_only_looks_alike_is_kept(suffix: str, content: bytes, tmp_path: Path) -> None:
    path = tmp_path / f"f{suffix}"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"is no .* of lockstep curve, and is kept"):
        write_file(path, b"new", CURVES[suffix])
    assert path.read_bytes() == content


def test_plots_of_two_commands_are_two_kinds(tmp_path: Path) -> None:
    path = tmp_path / "p.html"
    page = b'<!doctype html>\n<meta name="generator" content="lockstep bench">'
    write_file(path, page, SWEEPS[".html"])
    with pytest.raises(InputError, match="is no page of lockstep curve"):
        write_file(path, b"new", CURVES[".html"])


def test_a_recorder_says_before_the_training_that_it_will_not_write(tmp_path: Path) -> None:
    (tmp_path / "t").write_text("mine")
    (tmp_path / "l").symlink_to("t")
    for name, reason in (
        ("t", "is no lockstep.trace file"),
        ("l", "is a link"),
        ("none/t", "no folder"),
    ):
        with pytest.raises(InputError, match=reason):
            Recorder(tmp_path / name, backend="a")
    assert (tmp_path / "t").read_text() == "mine"


def test_a_trace_is_saved_over_traces_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    loop("a.trace")
    trace = Trace.load(Path("a.trace"))
    trace.save(Path("a.trace"))
    Checkpoint({}, {}).save(Path("k.checkpoint"))
    for name, content in (("k.checkpoint", None), ("t.csv", "a,b\n1,2\n"), ("empty", "")):
        if content is not None:
            Path(name).write_text(content)
        before = Path(name).read_bytes()
        with pytest.raises(InputError, match=r"is no lockstep\.trace file"):
            trace.save(Path(name))
        assert Path(name).read_bytes() == before


def test_parity_keeps_a_name_map_that_is_there(tmp_path: Path) -> None:
    """It keeps the map that it is given, and one in its folder that it did not draw."""

    def side(name: str, rate: float) -> Callable[[Recorder], None]:
        def train(recorder: Recorder) -> None:
            w = recorder.start({name: np.linspace(1, 2, 3)})[name]
            for _ in range(2):
                w = w - rate * w
                recorder.update(loss=float(w @ w), parameters={name: w})

        return train

    names = tmp_path / "names.toml"
    names.write_text('# mine\n[only]\na = ["w"]\nb = ["kernel"]\n')
    before = names.read_bytes()
    for path, name in ((names, "names.toml"), (None, "names-2.toml"), (None, "names-2.toml")):
        with pytest.raises(AssertionError, match=rf"--names \S*{name}"):
            assert_parity(side("w", 0.1), side("kernel", 0.2), names=path, folder=tmp_path)
        assert names.read_bytes() == before


@pytest.mark.skipif(os.name != "posix", reason="POSIX permissions")
@pytest.mark.parametrize(("command", "option", "name"), WRITERS, ids=lambda value: str(value)[:40])
def test_a_locked_folder_is_one_line(
    command: tuple[str, ...], option: str, name: str, run: Run, tmp_path: Path
) -> None:
    locked = tmp_path / "locked"
    locked.mkdir(mode=0)
    tmp_path.chmod(0o755)
    user = os.geteuid()
    if user == 0:  # root may write anywhere
        os.seteuid(65534)
    try:
        status, err = run(*command, *filter(None, [option]), f"locked/{name}")
    finally:
        os.seteuid(user)
    assert (status, err.count("\n")) == (2, 1), err
    assert "ermission" in err
