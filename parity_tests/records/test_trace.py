"""Traces and their files: what comes back, what is refused, what a failed write leaves behind."""

import errno
import hashlib
import json
import os
import stat
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of

from lockstep.data_prep import prepare
from lockstep.errors import InputError
from lockstep.files.outputs import json_document, write_file
from lockstep.recipe import Data, Loss, Model, Recipe, Schedule, Training
from lockstep.records.run_recorder import RunRecorder, Segment, Watch
from lockstep.records.trace import UPDATE_SERIES, Trace, metric_names
from lockstep.tensor_file import hash_arrays, read_tensors, write_tensors
from parity_tests.shared.views import GivenView

DTYPES = [np.float32, np.float64, np.int64, np.bool_]
characters = st.characters(exclude_categories=("Cs",))
names = st.text(characters, min_size=1, max_size=12).filter(lambda name: name != "__metadata__")
shapes = arrays_of.array_shapes(min_dims=0, min_side=0, max_dims=3, max_side=4)
any_array = st.sampled_from(DTYPES).flatmap(lambda dtype: arrays_of.arrays(dtype, shapes))
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False)
fields = scalars | st.text(max_size=8) | st.lists(st.integers())
headers = st.dictionaries(st.text(max_size=8), fields, max_size=4)


def refusal(call, *arguments):
    """The one line in which `call` refuses its arguments."""
    with pytest.raises(InputError) as caught:
        call(*arguments)
    (line,) = str(caught.value).splitlines()
    return line


def assert_same_arrays(arrays, expected):
    assert arrays.keys() == expected.keys()
    for name, array in expected.items():
        assert (arrays[name].dtype, arrays[name].shape) == (array.dtype, array.shape), name
        assert arrays[name].tobytes() == array.tobytes(), name


RECIPE = Recipe(
    data=Data(rows=21, features=3),
    model=Model(hidden=(2,)),
    schedule=Schedule(warmup=1),
    training=Training(epochs=2, batch=8),
)


@pytest.fixture(scope="module")
def trace():
    """A small trace as every backend records it, with made-up numbers."""
    data = prepare(RECIPE)
    watch = Watch(parameters_every=2)
    recorder = RunRecorder(RECIPE, data, watch, backend="oracle", environment={"device": "none"})
    metrics = {"loss": 0.7, "accuracy": 0.5}, {"loss": 0.8, "accuracy": 0.25}
    prediction = {layer: np.ones(2) for layer in ("linear1", "relu1", "linear2", "softmax")}
    view = GivenView(data.parameters, metrics, {"input": np.zeros(3)} | prediction)
    recorder.begin(view)
    for segment in recorder.segments():
        count = segment.stop - segment.start
        recorder.record({name: np.full(count, 0.5) for name in UPDATE_SERIES}, view)
    bounds = {f"updates/{name}": np.full(6, 1e-7) for name in UPDATE_SERIES[1:]}
    bounds |= {f"epochs/{name}": np.full(2, 1e-7) for name in metric_names(Loss())}
    bounds |= {
        f"parameters/{update}/{name}": np.array(1e-6)
        for update in (2, 3, 4, 6)
        for name in data.parameters
    }
    recorded = recorder.finish(view)
    recorded.arrays.update({f"bounds/{name}": array for name, array in bounds.items()})
    return recorded


@pytest.fixture(scope="module")
def saved(trace, tmp_path_factory):
    path = tmp_path_factory.mktemp("saved") / "run.trace"
    trace.save(path)
    return path.read_bytes()


def record_zeros(recorder, segment, view):
    zeros_T = np.zeros(segment.stop - segment.start)
    recorder.record(dict.fromkeys(UPDATE_SERIES, zeros_T), view)


# ---- round trip


@given(st.dictionaries(names, any_array, max_size=4), headers)
def test_any_arrays_come_back_as_they_were(tmp_path_factory, arrays, header):
    path = tmp_path_factory.getbasetemp() / "any.safetensors"
    write_tensors(path, "a.kind/1", header, arrays)
    read_header, read_arrays = read_tensors(path, "a.kind/1")
    assert read_header == header
    assert_same_arrays(read_arrays, arrays)
    assert list(read_arrays) == sorted(arrays)


@pytest.mark.parametrize(
    "array",
    [np.array(3.0), np.array(True), np.zeros(0), np.zeros((0, 3), np.float32),
     np.arange(12.0).reshape(3, 4).T, np.arange(9.0)[::2]],
    ids=["0-dim", "0-dim bool", "empty", "no rows", "transposed", "strided"],
)  # fmt: skip
def test_awkward_arrays_keep_shape_dtype_and_values(array, tmp_path):
    write_tensors(tmp_path / "a", "a.kind/1", {}, {"a": array})
    _, read_arrays = read_tensors(tmp_path / "a", "a.kind/1")
    assert_same_arrays(read_arrays, {"a": array})


def test_trace_round_trip(trace, tmp_path):
    trace.save(tmp_path / "run.trace")
    loaded = Trace.load(tmp_path / "run.trace")
    assert loaded.header == json.loads(json.dumps(trace.header))  # a tuple comes back as a list
    assert_same_arrays(loaded.arrays, trace.arrays)
    assert loaded.recipe == RECIPE
    assert loaded.recipe.hash == loaded.header["recipe_hash"]


def test_what_a_trace_says_of_itself(trace):
    assert trace.backend == "oracle"
    assert trace.header["dtype"] == "float64"
    assert trace.header["data_hash"] == prepare(RECIPE).hash
    assert trace.header["environment"].keys() >= {"lockstep", "numpy", "device"}
    assert trace.recipe == RECIPE
    # 21 rows in batches of 8 are 3 updates an epoch; parameters are recorded at the start, at
    # multiples of 2 and at epoch ends
    assert trace.recorded_updates == [0, 2, 3, 4, 6]
    parameters = ["linear1.weight", "linear1.bias", "linear2.weight", "linear2.bias"]
    assert list(trace.parameters(4)) == parameters
    assert trace.parameters(5) == {}
    assert list(trace.prediction) == ["input", "linear1", "relu1", "linear2", "softmax"]
    for name in UPDATE_SERIES:
        assert trace.series(name).shape == (6,)
    recorded = [trace.metric(name).tolist() for name in metric_names(Loss())]
    assert recorded == [[0.7] * 2, [0.5] * 2, [0.8] * 2, [0.25] * 2]
    assert trace.arrays["bounds/parameters/2/linear1.bias"].shape == ()


def test_recorded_updates_are_in_order_of_number():
    arrays = {f"parameters/{update}/linear1.bias": np.zeros(1) for update in (100, 20, 3, 0)}
    assert Trace({}, arrays).recorded_updates == [0, 3, 20, 100]


def test_a_recorded_parameter_is_a_copy():
    recorder = RunRecorder(RECIPE, prepare(RECIPE), Watch(), backend="torch", environment={})
    weight = np.zeros(2)
    view = GivenView({"linear1.bias": weight})
    recorder.begin(view)
    weight += 1  # as an optimizer does in place
    for segment in recorder.segments():
        record_zeros(recorder, segment, view)
    assert recorder.finish(view).arrays["parameters/0/linear1.bias"].tolist() == [0, 0]


# ---- hash


def test_hash_does_not_depend_on_the_order_of_the_names_or_the_layout():
    a, b = np.arange(6.0).reshape(2, 3), np.arange(3)
    assert hash_arrays({"a": a, "b": b}) == hash_arrays({"b": b, "a": np.asfortranarray(a)})
    assert hash_arrays({"a": a, "b": b}) == hash_arrays({"b": b, "a": lambda: a})


@pytest.mark.parametrize(
    "other",
    [
        {"a": np.array([1.0, 2.0, 4.0])},
        {"a": np.array([1.0, 2.0, np.nextafter(3.0, 4.0)])},
        {"b": np.array([1.0, 2.0, 3.0])},
        {"a": np.array([2.0, 1.0, 3.0])},
        {"a": np.array([[1.0, 2.0, 3.0]])},
        {"a": np.array([1.0, 2.0, 3.0]).view(np.int64)},
        {"a": np.array([1.0, 2.0, 3.0]), "b": np.zeros(0)},
        {},
    ],
    ids=["value", "last bit", "name", "order", "shape", "dtype", "another", "none"],
)
def test_hash_changes_with_what_is_hashed(other):
    assert hash_arrays(other) != hash_arrays({"a": np.array([1.0, 2.0, 3.0])})


def test_hash_tells_zero_from_minus_zero_and_a_scalar_from_a_vector():
    assert hash_arrays({"a": np.array(0.0)}) != hash_arrays({"a": np.array(-0.0)})
    assert hash_arrays({"a": np.array(0.0)}) != hash_arrays({"a": np.array([0.0])})


# ---- damage


def test_every_truncation_is_refused(saved, tmp_path):
    path = tmp_path / "run.trace"
    start = f"{path}: not a readable lockstep.trace file, perhaps truncated"
    for length in [*range(20), *range(20, len(saved), 97), len(saved) - 8, len(saved) - 1]:
        path.write_bytes(saved[:length])
        assert refusal(Trace.load, path).startswith(start), length


def test_a_longer_file_is_refused(saved, tmp_path):
    (tmp_path / "run.trace").write_bytes(saved + b"\0")
    assert "perhaps truncated" in refusal(Trace.load, tmp_path / "run.trace")


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    path = tmp_path_factory.mktemp("small") / "small"
    arrays = {"a": np.arange(3.0), "b": np.arange(4, dtype=np.float32)}
    write_tensors(path, "a.kind/1", {"a": [1, 2.5]}, arrays)
    return path.read_bytes()


@pytest.mark.parametrize("flip", [1, 2, 4, 8, 16, 32, 64, 128, 255])
def test_one_flipped_bit_anywhere_is_refused(small, flip, tmp_path):
    path = tmp_path / "small"
    for position in range(len(small)):
        path.write_bytes(small[:position] + bytes([small[position] ^ flip]) + small[position + 1 :])
        assert refusal(read_tensors, path, "a.kind/1").startswith(f"{path}: "), position


@settings(max_examples=150)
@given(st.data())
def test_any_change_is_refused_or_changes_nothing(tmp_path_factory, small, data):
    path = tmp_path_factory.getbasetemp() / "changed"
    position = data.draw(st.integers(0, len(small)))
    cut = data.draw(st.integers(0, 9))
    path.write_bytes(small[:position] + data.draw(st.binary(max_size=9)) + small[position + cut :])
    try:
        header, arrays = read_tensors(path, "a.kind/1")
    except InputError as error:
        lines = str(error).splitlines()
    else:
        # it changed nothing that counts, such as white space in the padding of the header
        assert header == {"a": [1, 2.5]}
        lines = ["the same"]
        assert_same_arrays(arrays, {"a": np.arange(3.0), "b": np.arange(4, dtype=np.float32)})
    assert len(lines) == 1


def with_length(content):
    """The content after its length, as a file begins."""
    return struct.pack("<Q", len(content)) + content


@settings(max_examples=150)
@given(st.binary(max_size=200) | st.binary(max_size=100).map(with_length))
def test_random_bytes_are_refused(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "random"
    path.write_bytes(content)
    assert refusal(Trace.load, path).startswith(f"{path}: not a ")


def test_an_edited_header_is_refused(saved, tmp_path):
    path = tmp_path / "run.trace"
    for before, after in [
        (b"oracle", b"torch!"),
        (b"float64", b"float32"),
        (RECIPE.hash.encode(), b"0" * 64),
    ]:
        assert before in saved
        path.write_bytes(saved.replace(before, after, 1))
        line = f"{path}: the content does not match its seal: damaged, or changed by hand"
        assert refusal(Trace.load, path) == line


def test_an_exchanged_array_is_refused(small, tmp_path):
    path = tmp_path / "small"
    path.write_bytes(small.replace(np.arange(3.0).tobytes(), np.arange(3.0)[::-1].tobytes()))
    assert "does not match its seal" in refusal(read_tensors, path, "a.kind/1")


def test_another_schema_version_is_named(tmp_path):
    path = tmp_path / "run.trace"
    write_tensors(path, "lockstep.trace/2", {}, {})
    line = f"{path}: lockstep.trace schema 2; this lockstep reads schema 1"
    assert refusal(Trace.load, path) == line


def test_another_kind_of_file_is_named(tmp_path):
    path = tmp_path / "data"
    prepare(RECIPE).save(path)
    assert refusal(Trace.load, path) == f"{path}: not a lockstep.trace file"


def test_plain_safetensors_are_no_trace(tmp_path):
    from safetensors.numpy import save_file

    path = tmp_path / "model.safetensors"
    save_file({"linear1.weight": np.zeros(3)}, path)
    assert refusal(Trace.load, path) == f"{path}: not a lockstep.trace file"


def test_a_sealed_file_without_a_header_is_refused(tmp_path):
    from safetensors.numpy import save_file

    path = tmp_path / "sealed"
    seal = hashlib.sha256(hash_arrays({}).encode()).hexdigest()
    save_file({}, path, {"schema": "lockstep.trace/1", "seal": seal})
    assert refusal(Trace.load, path).startswith(f"{path}: ")


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    missing = tmp_path / "none.trace"
    assert refusal(Trace.load, missing) == f"{missing}: cannot be read: No such file or directory"
    assert refusal(Trace.load, tmp_path) == f"{tmp_path}: cannot be read: Is a directory"


# ---- writes that fail

FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def refuse(*_):
    raise FULL


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_leaves_the_old_file_and_nothing_else(call, trace, tmp_path, monkeypatch):
    path = tmp_path / "run.trace"
    trace.save(path)
    before = path.read_bytes()
    monkeypatch.setattr(os, call, refuse)
    other = Trace(trace.header | {"note": "new"}, trace.arrays)
    assert refusal(other.save, path) == f"{path}: cannot be written: No space left on device"
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


LIMITED = """
import resource, signal, sys
from pathlib import Path
import numpy as np
from lockstep.errors import InputError
from lockstep.tensor_file import write_tensors
write_tensors(Path(sys.argv[1]), "a.kind/1", {}, {})
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    write_tensors(Path(sys.argv[1]), "a.kind/1", {}, {"a": np.zeros(10_000)})
except InputError as error:
    print(error)
"""


def test_a_write_cut_short_leaves_the_old_file_and_nothing_else(tmp_path):
    pytest.importorskip("resource")
    path = tmp_path / "run.trace"
    command = [sys.executable, "-c", LIMITED, path]
    process = subprocess.run(command, capture_output=True, text=True, check=True)
    line = f"{path}: cannot be written: {os.strerror(errno.EFBIG)}"
    assert process.stdout.splitlines() == [line]
    assert read_tensors(path, "a.kind/1") == ({}, {})
    assert list(tmp_path.iterdir()) == [path]


def test_a_missing_folder_is_refused(trace, tmp_path):
    path = tmp_path / "none" / "run.trace"
    assert refusal(trace.save, path) == f"{path}: cannot be written: No such file or directory"


UNPRIVILEGED = """
import os, sys
from pathlib import Path
from lockstep.errors import InputError
from lockstep.tensor_file import write_tensors
if os.geteuid() == 0:  # root may write anywhere
    os.seteuid(65534)
try:
    write_tensors(Path(sys.argv[1]), "a.kind/1", {}, {})
except InputError as error:
    print(error)
"""


@pytest.mark.skipif(os.name != "posix", reason="POSIX permissions")
def test_a_read_only_folder_is_refused(tmp_path):
    path = tmp_path / "run.trace"
    tmp_path.chmod(0o500)
    command = [sys.executable, "-c", UNPRIVILEGED, path]
    process = subprocess.run(command, capture_output=True, text=True, check=True)
    assert process.stdout.splitlines() == [f"{path}: cannot be written: Permission denied"]


@pytest.mark.parametrize("name", ["file/run.trace", "folder", "x" * 300])
def test_a_target_that_is_no_file_is_refused(name, trace, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "folder").mkdir()
    reason = "is not a regular file" if name == "folder" else "cannot be written: "
    assert refusal(trace.save, tmp_path / name).startswith(f"{tmp_path / name}: {reason}")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


@pytest.mark.skipif(os.name != "posix", reason="POSIX permissions")
def test_a_written_file_has_ordinary_permissions_and_replaces_the_old_one(tmp_path):
    path = tmp_path / "out"
    path.write_bytes(b'{"schema": "a.kind/1", "old": "and longer"}')
    new = b'{"schema": "a.kind/2"}'
    before = os.umask(0o022)
    try:
        write_file(path, new, json_document("a.kind"))
    finally:
        os.umask(before)
    assert path.read_bytes() == new
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert list(tmp_path.iterdir()) == [path]


# ---- segments


def recorder_of(updates_per_epoch, epochs, every, progress=None):
    recipe = Recipe(
        data=Data(rows=updates_per_epoch * 2, features=1),
        model=Model(hidden=()),
        schedule=Schedule(warmup=0),
        training=Training(epochs=epochs, batch=2),
    )
    watch = Watch(parameters_every=every, progress=progress)
    return RunRecorder(recipe, prepare(recipe), watch, backend="torch", environment={})


@settings(max_examples=60)
@given(st.integers(1, 12), st.integers(1, 6), st.integers(0, 40))
def test_segments_cover_each_update_once_and_are_cut_where_something_is_recorded(
    updates_per_epoch, epochs, every
):
    segments = list(recorder_of(updates_per_epoch, epochs, every).segments())
    covered = [
        epoch * updates_per_epoch + step
        for epoch, start, stop, *_ in segments
        for step in range(start, stop)
    ]
    total = updates_per_epoch * epochs
    assert covered == list(range(total))
    ends = {epoch * updates_per_epoch + stop for epoch, _, stop, *_ in segments}
    multiples = set(range(every, total + 1, every)) if every else set()
    assert ends == multiples | set(range(updates_per_epoch, total + 1, updates_per_epoch))


def test_segments_in_words():
    assert list(recorder_of(5, 2, 3).segments()) == [
        Segment(0, 0, 3),
        Segment(0, 3, 5),
        Segment(1, 0, 1),  # up to update 6
        Segment(1, 1, 4),  # up to update 9
        Segment(1, 4, 5),
    ]
    assert list(recorder_of(5, 2, 0).segments()) == [Segment(0, 0, 5), Segment(1, 0, 5)]


def test_progress_is_told_after_each_segment():
    reports = []

    def report(updates, total):
        reports.append((updates, total))

    recorder = recorder_of(5, 2, 3, progress=report)
    for segment in recorder.segments():
        record_zeros(recorder, segment, GivenView())
    assert reports == [(3, 10), (5, 10), (6, 10), (9, 10), (10, 10)]


def test_a_trace_of_a_twin_has_the_precision_of_its_recipe():
    recorder = RunRecorder(RECIPE, prepare(RECIPE), Watch(), backend="jax", environment={})
    assert recorder.header["dtype"] == "float32"
    assert recorder.header["recipe"] == RECIPE.as_dict()
    assert Path(str(recorder.header["environment"]["lockstep"])).name  # a version stands there
