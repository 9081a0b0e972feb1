"""Hostile and broken files of every kind: one line, exit 2, bounded memory and time."""

import os
import signal
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lockstep.cli import main

DEEP = 100_000
TRAIN = ("--set", "data.rows=64", "--set", "training.epochs=2", "--set", "schedule.warmup=1")


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The one line of a command that ends with 2."""
    with pytest.raises(SystemExit) as end:
        main([str(argument) for argument in arguments])
    streams = capsys.readouterr()
    assert end.value.code == 2, streams
    assert streams.err.startswith("lockstep: ")
    assert streams.err.count("\n") == 1
    return streams.err.removeprefix("lockstep: ").rstrip("\n")


@contextmanager
def ending_within(seconds: int) -> Iterator[None]:
    """An error where the block takes longer: who opens a pipe waits for its other end."""

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


READERS: dict[str, Callable[[Path], list[object]]] = {
    "trace": lambda path: ["compare", path, path],
    "oracle": lambda path: ["diagnose", path, path, "--oracle", path],
    "names of a trace": lambda path: ["names", path, path, "--out", path.with_name("new.toml")],
    "checkpoint": lambda path: ["convert", path, path.with_name("out.msgpack")],
    "resume": lambda path: ["record", "--backend", "oracle", "--out", path.with_name("o"), "--resume", path, *TRAIN],
    "recipe": lambda path: ["recipe", "check", path],
    "bench": lambda path: ["bench", "--compare", path, path],
    "golden": lambda path: ["upgrade-check", path.parent],
    "torch": lambda path: ["convert", path, path.with_name("out.checkpoint"), "--recipe", "seed", *TRAIN],
    "flax": lambda path: ["convert", path, path.with_name("out.checkpoint"), "--recipe", "seed", *TRAIN],
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


def test_a_golden_folder_with_a_pipe_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "golden"
    recipe = tmp_path / "small.toml"
    recipe.write_text("[data]\nrows = 64\n[training]\nepochs = 2\n[schedule]\nwarmup = 1\n")
    with pytest.raises(SystemExit) as end:
        main(["bless", str(recipe), "--out", str(folder), "--backend", "torch"])
    assert end.value.code == 0
    capsys.readouterr()
    (folder / "small.data").unlink()
    os.mkfifo(folder / "small.data")
    assert "small.data: cannot be read: not a regular file" in refused(capsys, "upgrade-check", folder)


DOTTED = {
    "bare": "a" + ".a" * 200_000 + " = 1",
    "quoted": '"a b"' + '."a, b"' * 100_000 + " = 1",
    "of a table": "[a" + ".a" * 200_000 + "]\n" + "x = 1\n" * 1000,
    "of an inline table": "x = {a" + ".a" * 200_000 + " = 1}",
}


@pytest.mark.parametrize("text", DOTTED.values(), ids=DOTTED)
def test_a_name_of_many_parts_takes_no_time(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
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
def test_an_absurd_value_is_one_short_line(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.toml"
    path.write_text(text)
    assert len(refused(capsys, "recipe", "check", path)) < 600


def test_a_header_that_was_sealed_again_may_be_no_object(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import hashlib

    import numpy as np
    from safetensors.numpy import save

    from lockstep.tensor_file import hash_arrays

    arrays = {"updates/lr": np.zeros(3)}
    for text in ("[]", "null", '"x"', "[" * 50_000):
        seal = hashlib.sha256((text + hash_arrays(arrays)).encode()).hexdigest()
        path = tmp_path / "sealed.trace"
        path.write_bytes(save(arrays, {"schema": "lockstep.trace/1", "header": text, "seal": seal}))
        assert "sealed.trace: not a readable lockstep.trace file" in refused(capsys, "compare", path, path)


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
def test_what_is_given_for_a_trace_is_named(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / name
    content, kind = SHOWN[name]
    path.write_bytes(content)
    line = refused(capsys, "compare", path, path)
    assert f"{name}: not a lockstep.trace file, but {kind}" in line
    assert "; record a training loop of your own with lockstep.Recorder" in line


def test_a_large_text_is_not_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for reader in ("recipe", "bench", "golden"):
        path = tmp_path / NAMES[reader]
        with path.open("wb") as file:
            file.truncate(2**36)
        assert "68,719,476,736 bytes (64 GiB)" in refused(capsys, *READERS[reader](path))
