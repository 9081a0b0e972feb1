"""Hostile and broken files of every kind are refused in one line, with exit status 2, in bounded
memory and time.
"""

import gzip
import io
import os
import resource
import signal
import struct
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import orbax.checkpoint as ocp
import polars
import pytest
import torch
from flax import serialization

from lockstep.cli import main

DEEP = 100_000
TRAIN = ("--set=data.rows=64", "--set=training.epochs=2", "--set=schedule.warmup=1")


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The one line with which a command ends in exit status 2."""
    with pytest.raises(SystemExit) as end:
        main([str(argument) for argument in arguments])
    streams = capsys.readouterr()
    assert end.value.code == 2, streams
    assert streams.err.startswith("lockstep: ")
    assert streams.err.count("\n") == 1
    return streams.err.removeprefix("lockstep: ").rstrip("\n")


@contextmanager
def ending_within(seconds: int) -> Iterator[None]:
    """Raise an error where the block takes longer: a reader of a pipe waits for its other end."""

    def stop(*_: object) -> None:
        raise TimeoutError(f"more than {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def safetensors(header: bytes, rest: bytes = b"") -> bytes:
    return struct.pack("<Q", len(header)) + header + rest


def convert(path: Path) -> list[object]:
    return ["convert", path, path.with_name("out.checkpoint"), "--recipe", "seed", *TRAIN]


def resume(path: Path) -> list[object]:
    record = ["record", "--backend", "oracle", "--out", path.with_name("o")]
    return [*record, "--resume", path, *TRAIN]


READERS: dict[str, Callable[[Path], list[object]]] = {
    "trace": lambda path: ["compare", path, path],
    "oracle": lambda path: ["diagnose", path, path, "--oracle", path],
    "names of a trace": lambda path: ["names", path, path, "--out", path.with_name("new.toml")],
    "checkpoint": lambda path: ["convert", path, path.with_name("out.msgpack")],
    "resume": resume,
    "recipe": lambda path: ["recipe", "check", path],
    "bench": lambda path: ["bench", "--compare", path, path],
    "golden": lambda path: ["upgrade-check", path.parent],
    "torch": convert,
    "flax": convert,
    "table": lambda path: ["recipe", "check", "--data", path, "--target", "y"],
}
NAMES = {
    "trace": "a.trace",
    "oracle": "o.trace",
    "names of a trace": "n.trace",
    "checkpoint": "a.checkpoint",
    "resume": "r.checkpoint",
    "recipe": "a.toml",
    "bench": "a.json",
    "golden": "manifest.json",
    "torch": "a.pt",
    "flax": "a.msgpack",
    "table": "a.csv",
}
CONTENT = {
    "nothing": b"",
    "one byte": b"\x00",
    "zeros": bytes(4096),
    "noise": bytes(range(256)) * 16,
    "deep JSON": b"[" * DEEP,
    "deep header": safetensors(b'{"a":' * 5000),
    "header beyond the file": struct.pack("<Q", 2**62) + b"{}",
    "empty header": safetensors(b"{}"),
    "text": "a,b\nnonsense, ü\n".encode(),
    "UTF-16": "a = 1".encode("utf-16"),
    "zip, cut": b"PK\x03\x04" + bytes(40),
    "gzip, cut": b"\x1f\x8b\x08\x00",
    "pickle, cut": b"\x80\x02}q\x00",
    "msgpack of a list 2^32 long": b"\xdd\xff\xff\xff\xff",
    "msgpack, deep": b"\x91" * DEEP,
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("content", CONTENT)
def test_content_of_another_kind_is_one_line(
    reader: str, content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / NAMES[reader]
    path.write_bytes(CONTENT[content])
    if reader == "recipe" and content == "nothing":
        return  # an empty recipe is one with every default
    line = refused(capsys, *READERS[reader](path))
    assert len(line) < 2000
    assert "weights_only" not in line
    assert path.name in line or reader in ("table", "torch", "flax")
    assert sorted(left.name for left in tmp_path.iterdir()) == [path.name]


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("kind", ["pipe", "folder", "device", "missing"])
def test_what_is_no_ordinary_file_is_refused_at_once(
    reader: str, kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / NAMES[reader]
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "device":
        path.symlink_to("/dev/zero")
    with ending_within(120):
        line = refused(capsys, *READERS[reader](path))
    if kind in ("pipe", "device"):
        assert "not a regular file" in line or "/dev/zero: must end in" in line


@pytest.mark.slow
def test_a_golden_folder_with_a_pipe_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "golden"
    recipe = tmp_path / "small.toml"
    recipe.write_text("[data]\nrows = 64\n[training]\nepochs = 2\n[schedule]\nwarmup = 1\n")
    with pytest.raises(SystemExit) as end:
        main(["bless", str(recipe), "--out", str(folder), "--backend", "torch"])
    assert end.value.code == 0
    capsys.readouterr()
    (folder / "small.data").unlink()
    os.mkfifo(folder / "small.data")
    line = refused(capsys, "upgrade-check", folder)
    assert "small.data: cannot be read: not a regular file" in line


DOTTED = {
    "bare": "a" + ".a" * 200_000 + " = 1",
    "quoted": '"a b"' + '."a, b"' * 100_000 + " = 1",
    "of a table": "[a" + ".a" * 200_000 + "]\n" + "x = 1\n" * 1000,
    "of an inline table": "x = {a" + ".a" * 200_000 + " = 1}",
}


@pytest.mark.parametrize("text", DOTTED.values(), ids=DOTTED)
def test_a_name_of_many_parts_takes_no_time(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.toml"
    path.write_text(text)
    began = time.monotonic()
    assert "a name has more than 20 parts" in refused(capsys, "recipe", "check", path)
    assert time.monotonic() - began < 20


VALUES = {
    "deep list": "[model]\nhidden = " + "[" * 400 + "]" * 400,
    "deep table": "schedule.peak" + ".a" * 15 + " = 1",
    "hexadecimal of 9000 digits": "[data]\nrows = 0x" + "f" * 9000,
    "decimal of 5000 digits": "[data]\nrows = " + "9" * 5000,
    "long text": '[schedule]\nname = "' + "x" * 100_000 + '"',
}


@pytest.mark.parametrize("text", VALUES.values(), ids=VALUES)
def test_an_absurd_value_is_one_short_line(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.toml"
    path.write_text(text)
    assert len(refused(capsys, "recipe", "check", path)) < 600


def test_a_header_that_was_sealed_again_may_be_no_object(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import hashlib

    import numpy as np
    from safetensors.numpy import save

    from lockstep.tensor_file import hash_arrays

    arrays = {"updates/lr": np.zeros(3)}
    for text in ("[]", "null", '"x"', "[" * 50_000):
        seal = hashlib.sha256((text + hash_arrays(arrays)).encode()).hexdigest()
        path = tmp_path / "sealed.trace"
        path.write_bytes(save(arrays, {"schema": "lockstep.trace/1", "header": text, "seal": seal}))
        line = refused(capsys, "compare", path, path)
        assert "sealed.trace: not a readable lockstep.trace file" in line


SHOWN = {
    "log.csv": (b"update,loss\n0,1.5\n", "a .csv table"),
    "log.tsv": (b"update\tloss\n0\t1.5\n", "a .tsv table"),
    "table.parquet": (b"PAR1" + bytes(64), "a .parquet table"),
    "arrays.npz": (b"PK\x03\x04" + bytes(64), "a .npz table"),
    "model.pt": (b"PK\x03\x04" + bytes(64), "a zip archive"),
    "log.json": (b'{"loss": [1, 2]}', "JSON"),
    "log.csv.gz": (b"\x1f\x8b\x08\x00" + bytes(64), "a gzip archive"),
    "page.html": (b"<!doctype html>", "a page of HTML or XML"),
}


@pytest.mark.parametrize("name", SHOWN)
def test_what_is_given_for_a_trace_is_named(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / name
    content, kind = SHOWN[name]
    path.write_bytes(content)
    line = refused(capsys, "diagnose", path, path)
    assert f"{name}: not a lockstep.trace file, but {kind}" in line
    assert "; record a training loop of your own with lockstep.Recorder" in line


def test_a_large_text_is_not_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for reader in ("recipe", "bench", "golden"):
        path = tmp_path / NAMES[reader]
        with path.open("wb") as file:
            file.truncate(2**36)
        assert "68,719,476,736 bytes (64 GiB)" in refused(capsys, *READERS[reader](path))


# ---- what would not fit, told by arithmetic

TOO_LARGE = {
    "rows": ["data.rows=2000000000"],
    "features": ["data.features=2000000000"],
    "classes' matrices": ["data.features=1000000"],
    "numbers": ["data.rows=2000000000", "loss.name=mse"],
    "hidden": ["model.hidden=[2000000000]"],
    "two layers": ["model.hidden=[1000000, 1000000]"],
    "epochs": ["training.epochs=2000000000"],
    "epochs of one update": ["training.epochs=2000000000", "data.rows=64", "training.batch=64"],
    "masks": [
        "model.hidden=[20000000]",
        "data.features=1",
        "model.dropout=0.5",
        "data.rows=100000",
    ],
}


@pytest.mark.parametrize("overrides", TOO_LARGE.values(), ids=TOO_LARGE)
@pytest.mark.parametrize("command", ["recipe check", "record --backend oracle --out t"])
def test_what_cannot_fit_is_refused_before_it_is_allocated(
    overrides: list[str], command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    words = [str(tmp_path / "t") if word == "t" else word for word in command.split()]
    line = refused(capsys, *words, *(f"--set={item}" for item in overrides))
    assert "would take at least " in line
    assert " bytes (" in line
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**19  # KiB


def test_what_does_not_fit_after_all_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise MemoryError("Unable to allocate 9 GiB")

    monkeypatch.setattr("lockstep.recipe.load_recipe", fail)
    assert (
        refused(capsys, "recipe", "check")
        == "there is not the memory for this: Unable to allocate 9 GiB"
    )


# ---- tables that expand


def zeros_npz(path: Path) -> None:
    """600 MB of zeros in as many kilobytes, made without that memory."""
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("a.npy", "w") as file,
    ):
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(
            header, {"descr": "<f8", "fortran_order": False, "shape": (75 * 2**20,)}
        )
        file.write(header.getvalue())
        for _ in range(600):
            file.write(bytes(2**20))


def zeros_gzip(path: Path) -> None:
    with gzip.open(path, "wb") as file:
        file.write(b"a,y\n")
        for _ in range(600):
            file.write(b"0,1\n" * 2**18)


def zeros_parquet(path: Path) -> None:
    column = polars.Series("a", [0.0]).new_from_index(0, 2**20)
    frame = polars.DataFrame({f"a{i}": column for i in range(64)} | {"y": column})
    frame.write_parquet(path, compression="zstd")


BOMBS = {"a.npz": zeros_npz, "a.csv": zeros_gzip, "a.parquet": zeros_parquet}


@pytest.mark.parametrize("name", BOMBS)
def test_a_table_that_expands_beyond_reason_is_refused(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / name
    BOMBS[name](path)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    line = refused(capsys, "recipe", "check", "--data", path, "--target", "y")
    assert name in line
    assert "expand" in line or "times" in line
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**18  # KiB


def test_an_array_of_no_rows_and_endless_columns_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.savez(tmp_path / "a.npz", x=np.zeros((0, 10**9)), y=np.zeros(0))
    with ending_within(60):
        line = refused(capsys, "recipe", "check", "--data", tmp_path / "a.npz", "--target", "y")
    assert line.endswith("a.npz: no rows")


# ---- PyTorch's and Flax's files


def state(**changes: Any) -> dict[str, Any]:
    model = {f"linear{i}.{kind}": torch.zeros(1) for i in (1, 2) for kind in ("weight", "bias")}
    return {"model": model, "update": 3, "optimizer": {"state": {}, "param_groups": []}} | changes


class Harmful:
    def __reduce__(self) -> Any:
        return os.system, ("echo harm > harm",)


OTHER_STATES: dict[str, Callable[[], Any]] = {
    "a list": lambda: [1, 2],
    "model a list": lambda: state(model=[1]),
    "model None": lambda: state(model=None),
    "model of numbers": lambda: state(model={"linear1.weight": 3}),
    "model of sparse tensors": lambda: state(model={"linear1.weight": torch.eye(3).to_sparse()}),
    "model of meta tensors": lambda: state(model={"linear1.weight": torch.zeros(3, device="meta")}),
    "model of complex numbers": lambda: state(
        model={"linear1.weight": torch.zeros(3, dtype=torch.complex64)}
    ),
    "update a word": lambda: state(update="abc"),
    "update NaN": lambda: state(update=float("nan")),
    "update infinite": lambda: state(update=float("inf")),
    "update of a thousand digits": lambda: state(update=10**1000),
    "update two numbers": lambda: state(update=torch.zeros(2)),
    "update negative": lambda: state(update=-1),
    "optimizer None": lambda: state(optimizer=None),
    "optimizer a word": lambda: state(optimizer="x"),
    "optimizer of no groups": lambda: state(optimizer={"state": {}}),
    "optimizer of a group without parameters": lambda: state(
        optimizer={"state": {}, "param_groups": [{}]}
    ),
    "optimizer whose parameters are lists": lambda: state(
        optimizer={"state": {}, "param_groups": [{"params": [[0]]}]}
    ),
    "optimizer whose state is a list": lambda: state(
        optimizer={"state": {0: []}, "param_groups": [{"params": [0, 1, 2, 3]}]}
    ),
    "an object that runs a command": lambda: Harmful(),
    "such an object within": lambda: state(extra=Harmful()),
    "bytes of any length": lambda: state(extra=bytearray(5)),
}


@pytest.mark.parametrize("old", [False, True], ids=["zip", "before 1.6"])
@pytest.mark.parametrize("content", OTHER_STATES)
def test_a_torch_file_of_other_things_is_one_line(
    content: str,
    old: bool,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(OTHER_STATES[content](), "m.pt", _use_new_zipfile_serialization=not old)
    line = refused(capsys, "convert", "m.pt", "o.checkpoint", "--recipe", "seed", *TRAIN)
    assert line.startswith("m.pt: ")
    assert "weights_only" not in line
    assert os.listdir() == ["m.pt"]


@pytest.mark.parametrize("shape", [(30_000, 20_000), (10, 200_000_000)])
def test_a_tensor_is_refused_by_its_shape_before_it_is_expanded(
    shape: tuple[int, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "m.pt"
    torch.save({"linear1.weight": torch.zeros(1).expand(*shape)}, path)
    assert path.stat().st_size < 4096
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    line = refused(capsys, "convert", path, tmp_path / "o.checkpoint", "--recipe", "seed", *TRAIN)
    assert f"shape {shape[::-1]}" in line or "missing: " in line
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**18  # KiB


def test_a_torch_file_that_would_expand_is_refused_by_its_table_of_contents(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save({"linear1.weight": torch.zeros(3)}, tmp_path / "good.pt")
    with (
        zipfile.ZipFile(tmp_path / "good.pt") as good,
        zipfile.ZipFile(tmp_path / "m.pt", "w", 8) as bad,
    ):
        for name in good.namelist():
            bad.writestr(name, bytes(2**27) if name.endswith("data/0") else good.read(name))
    line = refused(
        capsys, "convert", tmp_path / "m.pt", tmp_path / "o.checkpoint", "--recipe", "seed", *TRAIN
    )
    assert "m.pt: holds 134,21" in line
    assert "this recipe's state at most" in line


OTHER_TREES: dict[str, Any] = {
    "a list": [1, 2],
    "parameters a word": {"params": "x"},
    "parameters of lists": {"params": {"linear1": {"kernel": [1.0, 2.0]}}},
    "parameters of None": {"params": {"linear1": {"kernel": None}}},
    "update a word": {"params": {}, "update": "abc"},
    "update NaN": {"params": {}, "update": float("nan")},
    "count of two": {"params": {}, "opt_state": {"0": {"count": np.zeros(2)}}},
}


@pytest.mark.parametrize("content", OTHER_TREES)
def test_a_flax_tree_of_other_things_is_one_line(
    content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "m.msgpack"
    path.write_bytes(serialization.msgpack_serialize(OTHER_TREES[content]))
    line = refused(capsys, "convert", path, tmp_path / "o.checkpoint", "--recipe", "seed", *TRAIN)
    assert "m.msgpack: " in line


def test_a_folder_of_orbax_that_would_expand_or_holds_a_pipe_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "tree"
    ocp.PyTreeCheckpointer().save(
        folder, {"params": {"linear1": {"kernel": np.zeros((4000, 4000))}}}
    )
    arguments = ("convert", folder, tmp_path / "o.checkpoint", "--recipe", "seed", *TRAIN)
    assert "tree: holds 128,000,000 bytes" in refused(capsys, *arguments)
    os.mkfifo(folder / "pipe")
    with ending_within(60):
        assert "tree/pipe: cannot be read: not a regular file" in refused(capsys, *arguments)
