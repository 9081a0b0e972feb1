"""Logs of every kind are read, those of real libraries too, and a wrong kind is named."""

import gzip
import json
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lockstep.errors import InputError
from lockstep.logs.log import Log
from lockstep.logs.read import read_log
from parity_tests.logs.curves import curves, write_csv, write_json_lines

FILES = Path(__file__).parent / "files"


def assert_same(log: Log, names: tuple[str, ...] = ("loss", "lr", "grad_norm")) -> None:
    """The log holds the curves."""
    expected = curves()
    for name in names:
        np.testing.assert_array_equal(log.series[name].steps_N, expected["step"])
        np.testing.assert_allclose(log.series[name].values_N, expected[name], rtol=1e-7)


def test_a_csv_of_the_csv_module(tmp_path: Path) -> None:
    log = read_log(write_csv(tmp_path / "a.csv", curves()))
    assert (log.kind, log.notes) == ("CSV", ())
    assert_same(log)


@pytest.mark.parametrize(
    "change",
    {
        "mark of UTF-8": lambda text: b"\xef\xbb\xbf" + text.encode(),
        "UTF-16": lambda text: text.encode("utf-16"),
        "line ends of Windows": lambda text: text.replace("\n", "\r\n").encode(),
        "tabs": lambda text: text.replace(",", "\t").encode(),
        "decimal commas": lambda text: text.replace(",", ";").replace(".", ",").encode(),
        "comment": lambda text: b"# a run\n" + text.encode(),
        "names again": lambda text: (text + text.splitlines()[0] + "\n").encode(),
        "blank end": lambda text: text.encode() + b"\n\n",
    }.values(),
)
def test_a_csv_may_be_written_in_many_ways(change: Any, tmp_path: Path) -> None:
    path = write_csv(tmp_path / "a.csv", curves())
    path.write_bytes(change(path.read_bytes().decode().replace("\r\n", "\n")))
    assert_same(read_log(path))


def test_names_of_many_programs(tmp_path: Path) -> None:
    values = curves()
    for names in (
        ("iteration", "train/loss", "train/lr", "train/grad_norm"),
        ("global_step", "training_loss", "learning_rate", "gradient_norm"),
        ("_step", "train_loss", "lr-AdamW/pg1", "gnorm"),
        ("trainer/global_step", "Loss/train", "LearningRate", "total_norm"),
        ("Step", "lm loss", "optimizer/lr", "global_grad_norm"),
    ):
        path = write_csv(tmp_path / "a.csv", dict(zip(names, values.values())))
        assert_same(read_log(path))


def test_json_lines_and_lists_and_columns(tmp_path: Path) -> None:
    values = curves()
    path = write_json_lines(tmp_path / "a.jsonl", values)
    assert_same(read_log(path))
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text(path.read_text() + '{"step": 40, "lo')
    log = read_log(path)
    assert_same(log)
    assert log.notes == ("line 41 is cut off, and is left out",)
    for content in (
        rows,
        {name: column.tolist() for name, column in values.items()},
        {name: {str(i): v for i, v in enumerate(c.tolist())} for name, c in values.items()},
        {"log_history": [*rows, {"train_loss": 1.0, "train_runtime": 3.2, "step": 40}]},
    ):
        (tmp_path / "a.json").write_text(json.dumps(content, indent=1))
        assert_same(read_log(tmp_path / "a.json"))
    nested = [{"_step": row.pop("step"), "train": row} for row in rows]
    write = "\n".join(map(json.dumps, nested))
    (tmp_path / "a.json").write_text(write)
    assert_same(read_log(tmp_path / "a.json"))


def test_numbers_that_json_does_not_have(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"step": 0, "loss": NaN}\n{"step": 1, "loss": "Infinity"}\n{"step": 2}\n')
    values_N = read_log(path).series["loss"].values_N
    assert np.isnan(values_N[0])
    assert values_N[1] == np.inf


# ---- the real libraries


def test_event_files_of_pytorch(tmp_path: Path) -> None:
    tensorboard = pytest.importorskip("torch.utils.tensorboard", reason="no tensorboard")
    values = curves()
    writer = tensorboard.SummaryWriter(str(tmp_path / "run"))
    for step in range(25):
        writer.add_scalar("train/loss", values["loss"][step] + (step >= 20), step)
    writer.add_histogram("weights", np.arange(5.0), 0)
    writer.close()
    resumed = tensorboard.SummaryWriter(str(tmp_path / "run"), filename_suffix=".resumed")
    for step in range(40):
        if step >= 20:
            resumed.add_scalar("train/loss", values["loss"][step], step)
        resumed.add_scalar("train/lr", values["lr"][step], step)
        resumed.add_scalar("train/grad_norm", values["grad_norm"][step], step)
    resumed.close()
    log = read_log(tmp_path / "run")
    assert log.kind == "TensorBoard events"
    assert_same(log)
    assert any("the steps go back from 24 to 20" in note for note in log.notes)
    last = sorted((tmp_path / "run").iterdir())[-1]
    assert set(read_log(last).series) == {"loss", "lr", "grad_norm"}
    last.write_bytes(last.read_bytes()[:-5])
    assert any("cut off or damaged" in note for note in read_log(tmp_path / "run").notes)


def test_event_files_whose_scalars_are_tensors(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="no tensorboard")
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.summary.writer.event_file_writer import EventFileWriter
    from tensorboard.util.tensor_util import make_tensor_proto

    writer = EventFileWriter(str(tmp_path))
    for step, loss in enumerate(curves()["loss"]):
        tensor = make_tensor_proto(np.float32(loss))
        value = Summary.Value(tag="loss", tensor=tensor)
        writer.add_event(Event(step=step, summary=Summary(value=[value])))
    writer.close()
    assert_same(read_log(tmp_path), ("loss",))


def test_an_offline_run_of_wandb(tmp_path: Path) -> None:
    log = read_log(FILES / "offline.wandb")
    assert log.kind == "offline run of Weights & Biases"
    assert_same(log)
    content = (FILES / "offline.wandb").read_bytes()
    (tmp_path / "cut.wandb").write_bytes(content[: len(content) // 2])
    cut = read_log(tmp_path / "cut.wandb")
    assert 10 < len(cut.series["loss"].values_N) < 40
    assert "cut off or damaged after entry" in cut.notes[0]


@pytest.mark.slow
def test_an_offline_run_that_wandb_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = pytest.importorskip("wandb", reason="wandb is not installed")
    monkeypatch.setenv("WANDB_SILENT", "true")
    settings = wandb.Settings(console="off", x_disable_stats=True)
    run = wandb.init(mode="offline", dir=str(tmp_path), project="p", settings=settings)
    values = curves()
    for step in range(40):
        run.log({name: float(c[step]) for name, c in values.items() if name != "step"}, step=step)
    run.finish()
    assert_same(read_log(tmp_path))


def test_exports_of_wandb(tmp_path: Path) -> None:
    """A chart's CSV as the site saves it, and a history as pandas writes it."""
    values = curves()
    chart = {"Step": values["step"], "run-1 - train/loss": values["loss"]}
    chart |= {f"run-1 - train/loss__{end}": values["loss"] for end in ("MIN", "MAX")}
    assert_same(read_log(write_csv(tmp_path / "chart.csv", chart)), ("loss",))
    history = {"": values["step"], "train/loss": values["loss"], "_step": values["step"]}
    history |= {"_runtime": values["loss"], "_timestamp": values["loss"], "lr": values["lr"]}
    log = read_log(write_csv(tmp_path / "history.csv", history))
    assert_same(log, ("loss", "lr"))
    assert set(log.series) == {"loss", "lr"}


def test_a_csv_of_lightning(tmp_path: Path) -> None:
    log = read_log(FILES / "metrics.csv")
    assert_same(log, ("loss", "lr"))
    assert log.series["eval_loss"].steps_N.tolist() == [19, 39]
    loggers = pytest.importorskip("lightning.pytorch.loggers", reason="no lightning")
    values = curves()
    logger = loggers.CSVLogger(str(tmp_path), name="run", version=0)
    for step in range(40):
        logger.log_metrics({"train_loss_step": float(values["loss"][step])}, step=step)
        logger.log_metrics({"lr-AdamW": float(values["lr"][step])}, step=step)
    logger.save()
    assert_same(read_log(tmp_path), ("loss", "lr"))


def test_the_state_of_hugging_faces_trainer(tmp_path: Path) -> None:
    log = read_log(FILES / "trainer_state.json")
    assert log.kind == "Hugging Face's trainer state"
    assert log.series["loss"].steps_N.tolist() == [4, 8, 12, 16, 20, 24]
    assert {"loss", "lr", "grad_norm"} <= set(log.series)
    assert "train_runtime" not in log.series
    for step in (8, 24):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        state = json.loads((FILES / "trainer_state.json").read_text())
        state["log_history"] = [entry for entry in state["log_history"] if entry["step"] <= step]
        (folder / "trainer_state.json").write_text(json.dumps(state))
    assert read_log(tmp_path).series["loss"].steps_N[-1] == 24


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_state_that_the_trainer_writes(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    pytest.importorskip("accelerate", reason="accelerate is not installed")

    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = torch.nn.Linear(3, 2)

        def forward(self, x: Any, labels: Any) -> Any:
            logits_BK = self.linear(x)
            return {"loss": torch.nn.functional.cross_entropy(logits_BK, labels)}

    arguments = transformers.TrainingArguments(
        output_dir=str(tmp_path),
        per_device_train_batch_size=4,
        max_steps=6,
        report_to=[],
        use_cpu=True,
        save_strategy="no",
        logging_steps=1,
        disable_tqdm=True,
    )
    data = [{"x": torch.randn(3), "labels": i % 2} for i in range(24)]
    trainer = transformers.Trainer(Model(), arguments, train_dataset=data)
    trainer.train()
    trainer.save_state()
    log = read_log(tmp_path)
    assert all(len(log.series[name].values_N) == 6 for name in ("loss", "lr", "grad_norm"))
    assert log.series["loss"].steps_N.tolist() == [1, 2, 3, 4, 5, 6]


# ---- steps


def test_of_a_run_that_resumed_the_later_numbers_count(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("step,loss\n0,5\n1,4\n2,3\n3,9\n2,2\n3,1\n3,0.5\n")
    log = read_log(path)
    assert log.series["loss"].values_N.tolist() == [5, 4, 2, 0.5]
    assert "the steps go back from 3 to 2 in line 6" in log.notes[0]
    path.write_text("step,loss\n0,5\n1,4\n1,3\n")
    assert read_log(path).notes == ("step 1 occurs twice (line 3): the later number counts",)


def test_epochs_count_where_there_are_no_steps(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("epoch,accuracy,loss\n0,0.5,2\n1,0.6,1\n")
    log = read_log(path)
    assert log.notes == ("'epoch' counts its steps",)
    assert set(log.series) == {"accuracy", "loss"}


# ---- bad input

BAD = {
    "step,loss\n0,1\n1,abc\n": "line 3, column 'loss' holds 'abc', text where a number is due",
    "step,loss\n0,1\nx,2\n": "line 3, column 'step' holds 'x', text where a number is due",
    "step,loss\n0,1\n1.5,2\n": "line 3, column 'step' holds 1.5, which is no whole number",
    "step,loss\n0,1\n1,2,3\n": "line 3 has 3 cells for 2 names",
    "step,loss,loss\n0,1,2\n": "two columns are named 'loss'",
    "loss,lr\n0,1\n": "has no column of steps (columns: loss, lr)",
    "0,1\n1,2\n": "the first line holds numbers (0, 1)",
    "step,loss\n": "holds names and no numbers",
    "step,loss\n5,1\n3,1\n9,1\n2,1\n7,1\n": "the steps are in no order: they fall from 5 to 3",
    "": "is empty",
    "\n\n": "is empty",
    "step 1 loss 2.3\n": "line 1 is no line of names",
    '{"step": 1, "loss": 2}\n{"step": 2, "loss":}\n{}\n': "line 2: column 20: expecting value",
    '{"hidden": 3}': "has no column of steps (columns: hidden)",
    "[1, 2]": "entry 1 is no object with names",
    '{"cells": [], "nbformat": 4}': "is a Jupyter notebook",
    "[" * 100_000: "not readable JSON",
}


@pytest.mark.parametrize("text", BAD, ids=range(len(BAD)))
def test_bad_input_names_file_line_and_column(text: str, tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text(text)
    with pytest.raises(InputError) as error:
        read_log(path)
    assert f"{path}: " in str(error.value)
    assert BAD[text] in str(error.value)


def test_another_kind_of_file_is_named_and_never_loaded(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"

    def refusal() -> str:
        with pytest.raises(InputError) as error:
            read_log(path)
        return str(error.value).removeprefix(f"{path}: ")

    class Bomb:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "run",))

    path.write_bytes(gzip.compress(b"step,loss\n"))
    assert refusal().startswith("is a gzip file")
    for protocol in (2, 4, 5):
        path.write_bytes(pickle.dumps(Bomb(), protocol))
        assert refusal().startswith("is a pickle, which is never loaded here")
    torch.save({"a": torch.ones(3)}, path)
    assert refusal().startswith("is a checkpoint of PyTorch (zip)")
    torch.save({"a": torch.ones(3)}, path, _use_new_zipfile_serialization=False)
    assert refusal().startswith("is a checkpoint of PyTorch")
    with path.open("wb") as file:
        np.savez(file, a=np.ones(3))
    assert refusal().startswith("is a NumPy archive")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("xl/workbook.xml", "")
    assert refusal().startswith("is an Excel workbook")
    for content, kind in (
        (b"\x89PNG\r\n\x1a\n", "is a PNG picture"),
        (b"PAR1" + bytes(20), "is a Parquet table"),
        (b"\n<!DOCTYPE html>", "is a page of HTML or XML"),
        (b"[training]\nepochs = 1\n[optimizer]\nname = 'sgd'\n", "is a lockstep recipe"),
        (b"[tool]\nname = 1\n", "is a TOML or INI file"),
        (b"abc\0\1\2", "is binary data"),
        (b"step,loss\n0,1\n1,\xe9\n", "line 3 is not UTF-8"),
    ):
        path.write_bytes(content)
        assert refusal().startswith(kind)
    assert not (tmp_path / "run").exists()


def test_a_folder_without_a_log_and_one_with_several(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no log"):
        read_log(tmp_path)
    for name in ("x", "y"):
        (tmp_path / name).mkdir()
        write_csv(tmp_path / name / "metrics.csv", curves())
    with pytest.raises(InputError, match=r"holds several logs; give one: .*x/metrics\.csv"):
        read_log(tmp_path)


def test_tensorboard_is_asked_for_where_it_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> Any:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name.partition(".")[0])

    monkeypatch.setattr("lockstep.logs.event_table.import_module", missing)
    path = tmp_path / "events.out.tfevents.1"
    path.touch()
    with pytest.raises(InputError, match=r"pip install 'lockstep\[tensorboard\]'"):
        read_log(path)
