"""Recorders as callbacks of Lightning and of Hugging Face's Trainer give the numbers of a loop
written by hand. The tests run where these are installed.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import lockstep
from lockstep.errors import InputError
from lockstep.own_loops.callbacks import lightning_callback, trainer_callback
from lockstep.records.trace import Trace
from parity_tests.shared.loops import B, D, H, K, start_of

pytestmark = pytest.mark.filterwarnings("ignore")  # theirs, not ours
MICRO, UPDATES, RATE, CLIP = 2, 3, 0.1, 0.3


def rows() -> list[tuple[torch.Tensor, torch.Tensor]]:
    start = start_of()
    return [
        (torch.from_numpy(x_BD), torch.from_numpy(y_B))
        for x_BD, y_B in zip(start.x_TBD, start.y_TB)
    ]


def net() -> torch.nn.Sequential:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(D, H), torch.nn.ReLU(), torch.nn.Linear(H, K))


def by_hand(path: Path) -> Trace:
    """A loop of two micro-batches an update that clips, and whose rate falls after each update."""
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), RATE, momentum=0.9)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, UPDATES)
    recorder = lockstep.Recorder(path, backend="torch")
    recorder.start(model)
    recorder.watch(model, optimizer)
    losses: list[torch.Tensor] = []
    for count, (x_BD, y_B) in enumerate(rows(), start=1):
        recorder.record(batch={"x": x_BD, "y": y_B})
        losses.append(torch.nn.functional.cross_entropy(model(x_BD), y_B))
        (losses[-1] / MICRO).backward()
        if count % MICRO == 0:
            torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            recorder.update(loss=sum(losses).detach() / MICRO)
            losses = []
    return recorder.finish()


def assert_same_numbers(trace: Trace, expected: Trace, prefix: str, names: dict[str, str]) -> None:
    """Every series, gradient, clipped gradient, moment and parameter agrees, under the module's own
    prefix.
    """
    assert trace.header["updates"] == UPDATES
    compared = 0
    for key, array in expected.arrays.items():
        family, _, name = key.rpartition("/")
        other = key if family == "updates" else f"{family}/{names.get(name, prefix + name)}"
        np.testing.assert_allclose(trace.arrays[other], array, rtol=1e-6, atol=1e-8, err_msg=key)
        compared += 1
    assert compared == len(expected.arrays) > 70


def test_lightning(tmp_path: Path) -> None:
    lightning = pytest.importorskip("lightning.pytorch", reason="lightning is not installed")

    class Module(lightning.LightningModule):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.net = net()

        def training_step(self, batch: Any, index: int) -> Any:
            return torch.nn.functional.cross_entropy(self.net(batch[0]), batch[1])

        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.SGD(self.parameters(), RATE, momentum=0.9)
            schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, UPDATES)
            scheduler = {"scheduler": schedule, "interval": "step"}
            return {"optimizer": optimizer, "lr_scheduler": scheduler}

    recorder = lockstep.Recorder(tmp_path / "lightning", backend="lightning")
    trainer = lightning.Trainer(
        max_epochs=1,
        accumulate_grad_batches=MICRO,
        gradient_clip_val=CLIP,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
        callbacks=[lightning_callback(recorder)],
    )
    loader = torch.utils.data.DataLoader(rows(), batch_size=None)
    trainer.fit(Module(), loader)
    trace = Trace.load(tmp_path / "lightning")
    assert trace.header["environment"]["lightning"] == __import__("lightning").__version__
    assert_same_numbers(trace, by_hand(tmp_path / "hand"), "net.", {"x": "0", "y": "1"})


def test_trainer_of_hugging_face(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    pytest.importorskip("accelerate", reason="accelerate is not installed")

    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net()

        def forward(self, x: Any, labels: Any) -> Any:
            logits_BK = self.net(x)
            loss = torch.nn.functional.cross_entropy(logits_BK, labels)
            return {"loss": loss, "logits": logits_BK}

    model = Model()
    optimizer = torch.optim.SGD(model.parameters(), RATE, momentum=0.9)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, UPDATES)
    arguments = transformers.TrainingArguments(
        output_dir=str(tmp_path),
        per_device_train_batch_size=B,
        gradient_accumulation_steps=MICRO,
        num_train_epochs=1,
        max_grad_norm=CLIP,
        report_to=[],
        use_cpu=True,
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
        train_sampling_strategy="sequential",
    )
    recorder = lockstep.Recorder(tmp_path / "trainer", backend="transformers")
    data = [{"x": x_D, "labels": y} for x_BD, y_B in rows() for x_D, y in zip(x_BD, y_B)]
    transformers.Trainer(
        model,
        arguments,
        train_dataset=data,
        optimizers=(optimizer, schedule),
        callbacks=[trainer_callback(recorder)],
    ).train()
    assert not model._forward_hooks
    trace = Trace.load(tmp_path / "trainer")
    assert_same_numbers(trace, by_hand(tmp_path / "hand"), "net.", {"x": "x", "y": "labels"})


@pytest.mark.parametrize(
    ("make", "package"), [(lightning_callback, "lightning"), (trainer_callback, "transformers")]
)
def test_a_package_that_is_missing_is_named(
    make: Any, package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> Any:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name.partition(".")[0])

    monkeypatch.setattr("lockstep.own_loops.callbacks.import_module", missing)
    line = f"the package {package} is not installed: pip install {package}"
    with pytest.raises(InputError, match=line):
        make(lockstep.Recorder(tmp_path / "t", backend="torch"))
