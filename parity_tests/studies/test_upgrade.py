"""Golden traces: each kind of change planted in a twin is named, and golden files that cannot be
used are refused.
"""

import json
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import pytest
import torch
from torch.nn import functional

import jax_impl.train
import lockstep.golden
import lockstep.studies.upgrade.bless
import lockstep.studies.upgrade.compare_releases
import pt_impl.train
from lockstep.cli import main
from lockstep.data_prep import PreparedData, prepare
from lockstep.errors import InputError
from lockstep.golden import Golden, Key
from lockstep.oracle.train import train as train_oracle
from lockstep.recipe import Recipe
from lockstep.records.run_recorder import Watch
from lockstep.studies.upgrade.bless import Recording, golden_recipes
from lockstep.studies.upgrade.compare_releases import Change, Upgrade, check_upgrade
from parity_tests.shared.recipes import small_recipe
from parity_tests.shared.twins import forget_compiled, of_pair, patch_pair

ROOT = Path(__file__).parents[2]
TRAIN: dict[str, Any] = {"torch": pt_impl.train, "jax": jax_impl.train}
NESTEROV: dict[str, Any] = {"optimizer__nesterov": True, "schedule__warmup": 1}
SGD = small_recipe(**NESTEROV, training__epochs=2, model__activation="tanh")
SOFTMAX = small_recipe(**NESTEROV, training__epochs=1, model__hidden=())  # JAX compiles it soonest


def record_here(
    recipes: Mapping[str, Recipe],
    data: Mapping[str, PreparedData],
    backends: Collection[str],
    **_: Any,
) -> Recording:
    """Do what `lockstep.studies.upgrade.bless.record` does in this process, where a fault planted
    here shows and nothing is imported again.
    """
    recording = Recording({}, {})
    forget_compiled()
    for backend in backends:
        train = TRAIN[backend].train if backend in TRAIN else train_oracle
        for name, recipe in recipes.items():
            for dtype, form in recipe.forms.items():
                key = Key(name, dtype, backend)
                try:
                    trace = train(form, data[name], watch=Watch(parameters_every=1))
                except AttributeError as error:
                    recording.faults[key] = str(error)
                else:
                    recording.traces[key] = trace
    return recording


def run(*arguments: Any) -> int:
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    assert isinstance(ended.value.code, int)
    return ended.value.code


@pytest.fixture(scope="module")
def blessed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A golden folder of one recipe, trained here by PyTorch. No test may change it."""
    return bless_here(tmp_path_factory.mktemp("torch"), SGD, "torch")


@pytest.fixture(scope="module")
def blessed_jax(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A golden folder of one recipe, trained here by JAX. No test may change it."""
    return bless_here(tmp_path_factory.mktemp("jax"), SOFTMAX, "jax")


def bless_here(folder: Path, recipe: Recipe, backend: str) -> Path:
    path, out = folder / "sgd.toml", folder / "golden"
    path.write_text(recipe.to_toml())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lockstep.studies.upgrade.bless, "record", record_here)
        assert run("bless", path, "--out", out, "--backend", backend) == 0
    return out


@pytest.fixture
def golden(blessed: Path, tmp_path: Path) -> Path:
    """A copy of the golden folder that a test may damage."""
    folder = tmp_path / "golden"
    folder.mkdir()
    for path in blessed.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Train everything in this process."""
    monkeypatch.setattr(lockstep.studies.upgrade.compare_releases, "record", record_here)
    monkeypatch.setattr(lockstep.studies.upgrade.bless, "record", record_here)
    yield
    forget_compiled()


def check(folder: Path, *backends: str) -> Upgrade:
    return check_upgrade(Golden.load(folder), backends, device="cpu", report=lambda *_: None)


# --- what changed


@pytest.mark.usefixtures("here")
def test_nothing_changed(blessed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("upgrade-check", blessed) == 0
    printed = capsys.readouterr().out
    assert f"verdict on {blessed}: identical" in printed.replace("\n", "")
    upgrade = check(blessed, "torch", "oracle")
    assert upgrade.backends == ["data", "oracle", "torch"]
    stages = upgrade.stages("torch")
    assert set(stages.values()) == {Change.IDENTICAL}
    assert stages.keys() >= {"numeric mode", "init", "lr", "loss", "gradients"}
    assert stages.keys() >= {"update", "parameters", "metrics"}


def sum_backwards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every linear layer sum its products in the other order."""
    linear = functional.linear

    def backwards(x: Any, weight: Any, bias: Any = None) -> Any:
        return linear(x.flip(-1), weight.flip(-1), bias)

    monkeypatch.setattr(functional, "linear", backwards)


@pytest.mark.usefixtures("here")
def test_another_order_of_summation_is_rounding(
    blessed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sum_backwards(monkeypatch)
    assert run("upgrade-check", blessed, "--backend", "torch") == 0
    stages = check(blessed, "torch").stages("torch")
    assert stages["loss"] == stages["parameters"] == Change.ROUNDING
    assert stages["init"] == stages["lr"] == stages["numeric mode"] == Change.IDENTICAL


def raise_momentum(monkeypatch: pytest.MonkeyPatch, backend: str) -> None:
    """Let a twin train with a momentum that is 1e-9 higher."""
    make = of_pair(TRAIN[backend], "make_optimizer")

    def make_optimizer(optimizer: Any, *rest: Any) -> Any:
        higher = replace(optimizer, momentum=optimizer.momentum + 1e-9)
        return make(higher, *rest)

    patch_pair(monkeypatch, TRAIN[backend], "make_optimizer", make_optimizer)


@pytest.mark.parametrize("backend", ["torch", "jax"])
@pytest.mark.usefixtures("here")
def test_a_change_of_meaning(
    backend: str,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A momentum that is 1e-9 higher is nothing that float32 could show."""
    folder = request.getfixturevalue("blessed" if backend == "torch" else "blessed_jax")
    raise_momentum(monkeypatch, backend)
    outs = [tmp_path / "report.md", tmp_path / "report.json"]
    options = [argument for out in outs for argument in ("--out", out)]
    assert run("upgrade-check", folder, "--backend", backend, *options) == 1
    printed = capsys.readouterr().out
    assert f"{backend}, sgd: semantics changed: float64, first at update 0, update" in printed
    assert "the oracle agrees with the golden trace" in printed
    report = json.loads(outs[1].read_text())
    assert report["verdict"] == "semantics changed"
    assert report["stages"][backend]["update"] == "semantics changed"
    assert report["stages"][backend]["lr"] == report["stages"][backend]["init"] == "identical"
    first = next(finding["first"] for finding in report["findings"] if finding["first"])
    assert (first["stage"], first["update"]) == ("update", 0)
    assert first["a"] != first["b"]
    assert "| update | semantics changed |" in outs[0].read_text()


def in_bfloat16(x: Any) -> Any:
    return x.to(torch.bfloat16).float() if x.dtype == torch.float32 else x


@pytest.mark.usefixtures("here")
def test_products_in_another_precision(
    blessed: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    linear = functional.linear

    def rounded(x: Any, weight: Any, bias: Any = None) -> Any:
        return linear(in_bfloat16(x), in_bfloat16(weight), bias)

    monkeypatch.setattr(functional, "linear", rounded)
    assert run("upgrade-check", blessed, "--backend", "torch") == 1
    assert "keep 8 bits of the significand, and kept 24" in capsys.readouterr().out
    upgrade = check(blessed, "torch")
    assert upgrade.change == Change.MODE
    assert upgrade.settings["torch"] == {"matmul_bits": (24, 8)}
    assert upgrade.stages("torch")["loss"] == Change.MODE
    assert upgrade.stages("torch")["lr"] == Change.IDENTICAL


@pytest.mark.usefixtures("here")
def test_a_flag_that_does_nothing_is_no_change_of_mode(
    blessed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: "medium")
    upgrade = check(blessed, "torch")
    assert upgrade.settings["torch"] == {"matmul_precision": ("highest", "medium")}
    assert upgrade.change == Change.IDENTICAL


@pytest.mark.filterwarnings("ignore:Explicitly requested dtype")
@pytest.mark.usefixtures("here")
def test_float64_that_is_computed_in_float32(
    blessed_jax: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jax, "enable_x64", lambda _: nullcontext())
    upgrade = check(blessed_jax, "jax")
    assert upgrade.change == Change.MODE
    assert "float64 is computed in float32, and was in float64" in [
        finding.note for finding in upgrade.findings
    ]


@pytest.mark.usefixtures("here")
def test_a_change_of_float32_alone(blessed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mean_loss = of_pair(pt_impl.train, "mean_loss")

    def scaled(*arguments: Any) -> Any:
        loss = mean_loss(*arguments)
        return loss * 1.001 if loss.dtype == torch.float32 else loss

    patch_pair(monkeypatch, pt_impl.train, "mean_loss", scaled)
    upgrade = check(blessed, "torch")
    assert upgrade.change == Change.SEMANTICS
    notes = {finding.note for finding in upgrade.findings if not finding.change.holds}
    assert notes == {"in float32 alone: float64 agrees"}
    assert next(finding.first for finding in upgrade.findings if finding.first).stage == "loss"


@pytest.mark.usefixtures("here")
def test_a_name_that_is_gone(blessed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(*_: Any) -> Any:
        raise AttributeError("module 'torch.optim' has no attribute 'SGD'")

    patch_pair(monkeypatch, pt_impl.train, "make_optimizer", gone)
    assert run("upgrade-check", blessed, "--backend", "torch") == 1
    upgrade = check(blessed, "torch")
    assert upgrade.stages("torch")["training"] == upgrade.change == Change.FAILS
    assert "float64: module 'torch.optim' has no attribute 'SGD'" in [
        finding.note for finding in upgrade.findings
    ]


@pytest.mark.parametrize(
    ("factor", "change"),
    [(1 + 1e-14, Change.ROUNDING), (1 + 1e-9, Change.SEMANTICS), (1.0, Change.IDENTICAL)],
)
@pytest.mark.usefixtures("here")
def test_data_that_are_prepared_otherwise(
    factor: float, change: Change, blessed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def prepare_otherwise(recipe: Recipe) -> PreparedData:
        data = prepare(recipe)
        data.train_x_ND[...] *= factor
        return data

    monkeypatch.setattr(lockstep.studies.upgrade.compare_releases, "prepare", prepare_otherwise)
    upgrade = check(blessed, "oracle")
    assert upgrade.stages("data") == {"data": change}
    # the oracle is trained on the golden data
    assert set(upgrade.stages("oracle").values()) == {Change.IDENTICAL}


# --- bless


@pytest.mark.usefixtures("here")
def test_blessed_anew_after_a_change(golden: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sum_backwards(monkeypatch)
    assert check(golden, "torch").change == Change.ROUNDING
    assert run("upgrade-check", golden, "--bless") == 0
    assert check(golden, "torch").change == Change.IDENTICAL


@pytest.mark.usefixtures("here")
def test_what_the_oracle_does_not_train_is_not_blessed(
    golden: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path.name: path.read_bytes() for path in golden.iterdir()}
    raise_momentum(monkeypatch, "torch")
    assert run("upgrade-check", golden, "--bless") == 1
    line = "sgd, float64, torch is not what the oracle trains: at update 0, update"
    assert line in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in golden.iterdir()} == before


@pytest.mark.usefixtures("here")
def test_blessing_writes_all_or_nothing(golden: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, *_: object) -> None:
        raise InputError(f"{path}: cannot be written: No space left on device")

    before = {path.name: path.read_bytes() for path in golden.iterdir()}
    monkeypatch.setattr(lockstep.golden, "write_file", full)
    assert run("upgrade-check", golden, "--bless") == 2
    assert {path.name: path.read_bytes() for path in golden.iterdir()} == before
    assert [path.name for path in golden.parent.iterdir()] == ["golden"]


@pytest.mark.usefixtures("here")
def test_somebody_elses_file_is_kept(golden: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (golden / "notes.txt").write_text("mine")
    assert run("bless", "--out", golden) == 2
    line = f"{golden / 'notes.txt'}: is none of the golden files, and is kept"
    assert line in capsys.readouterr().err
    assert (golden / "notes.txt").read_text() == "mine"


@pytest.mark.usefixtures("here")
def test_the_same_is_blessed_as_the_same_files(blessed: Path, golden: Path) -> None:
    """A golden folder changes in a repository when a number does, and only then."""
    assert run("upgrade-check", golden, "--bless") == 0
    files = [path.name for path in blessed.iterdir()]
    assert sorted(files) == sorted(path.name for path in golden.iterdir())
    assert all((golden / name).read_bytes() == (blessed / name).read_bytes() for name in files)


# --- golden files that cannot be used


Damage = Callable[[Path], Any]
TRACE = "sgd.float32.torch.trace"


def edit(change: Callable[[dict[str, Any]], Any], *, sealed: bool) -> Damage:
    """Change the manifest of a folder, and seal it again where `sealed`."""

    def damage(folder: Path) -> None:
        content = json.loads((folder / "manifest.json").read_text())
        change(content)
        if sealed:
            content.pop("seal")
            content["seal"] = lockstep.golden._seal(content)
        (folder / "manifest.json").write_text(json.dumps(content))

    return damage


def remove(name: str) -> Damage:
    return lambda folder: (folder / name).unlink()


def cut(name: str, count: int) -> Damage:
    """Leave out the last bytes of a file."""
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:-count])


def put_in_place(name: str, source: str) -> Damage:
    """Write the content of another file into a file."""
    return lambda folder: (folder / name).write_bytes((folder / source).read_bytes())


def other_recipe(content: dict[str, Any]) -> None:
    content["recipes"]["sgd"]["recipe"] = small_recipe(training__epochs=3).to_toml()


def unknown_field(content: dict[str, Any]) -> None:
    content["recipes"]["sgd"]["recipe"] += "\n[future]\nname = 1\n"


DAMAGE: dict[str, tuple[Damage, str]] = {
    "no folder": (shutil.rmtree, "manifest.json: cannot be read"),
    "no manifest": (remove("manifest.json"), "lockstep bless writes it"),
    "a truncated manifest": (cut("manifest.json", 200), "perhaps truncated"),
    "a manifest of something else": (
        lambda folder: (folder / "manifest.json").write_text("[1]"),
        "not a readable manifest",
    ),
    "an edited manifest": (
        edit(lambda content: content["backends"]["torch"].update(torch="1.0"), sealed=False),
        "does not match its seal",
    ),
    "a later schema": (
        edit(lambda content: content.update(schema="lockstep.golden/2"), sealed=True),
        "schema lockstep.golden/2; this lockstep reads lockstep.golden/1",
    ),
    "no recipe": (
        edit(lambda content: content["recipes"].clear(), sealed=True),
        "nothing to compare",
    ),
    "another recipe": (
        edit(other_recipe, sealed=True),
        "reads it as another recipe; bless again",
    ),
    "a recipe of the future": (edit(unknown_field, sealed=True), "recipe sgd: future: "),
    "a missing trace": (remove(TRACE), f"{TRACE}: cannot be read"),
    "a truncated trace": (cut(TRACE, 1), f"{TRACE}: is not the file that was blessed"),
    "a trace in place of another": (
        put_in_place(TRACE, "sgd.float32.oracle.trace"),
        f"{TRACE}: is not the file that was blessed",
    ),
    "missing data": (remove("sgd.data"), "sgd.data: cannot be read"),
    "other data": (
        edit(lambda content: content["recipes"]["sgd"].update(data_hash="0" * 64), sealed=True),
        "is of other data than were blessed",
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.usefixtures("here")
def test_golden_files_that_cannot_be_used(
    damage: str, golden: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil, text = DAMAGE[damage]
    spoil(golden)
    assert run("upgrade-check", golden, "--backend", "oracle") == 2
    message = capsys.readouterr().err
    assert text in message
    assert message.count("\n") == 1
    assert str(golden) in message


@pytest.mark.usefixtures("here")
def test_data_that_cannot_be_prepared_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "table.csv"
    table.write_text("a,b\n" + "".join(f"{i % 7},{i % 2}\n" for i in range(60)))
    recipe = small_recipe(
        data__source="file", data__path=str(table), data__target="b", training__epochs=2
    )
    path = tmp_path / "own.toml"
    path.write_text(recipe.to_toml())
    assert run("bless", path, "--out", tmp_path / "golden", "--backend", "torch") == 0
    table.unlink()
    assert run("upgrade-check", tmp_path / "golden") == 2
    assert "golden recipe own: its data cannot be prepared again" in capsys.readouterr().err


@pytest.mark.usefixtures("here")
def test_a_backend_that_is_not_installed_is_skipped_and_all_of_them_is_an_error(
    blessed: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def find_spec(package: str) -> str | None:
        return None if package == "optax" else "there"

    monkeypatch.setattr(lockstep.studies.upgrade.bless, "find_spec", find_spec)
    assert run("upgrade-check", ROOT / "golden", "--recipe", "sgd") == 0
    assert "jax: skipped, it is not installed" in capsys.readouterr().out
    assert run("upgrade-check", ROOT / "golden", "--backend", "jax") == 2
    assert "jax: not installed, and there is nothing else to check" in capsys.readouterr().err
    assert run("bless", "--out", blessed.parent / "new") == 2
    assert "jax is not installed" in capsys.readouterr().err
    monkeypatch.setattr(lockstep.studies.upgrade.bless, "find_spec", lambda _: None)
    assert run("upgrade-check", blessed) == 2
    assert "torch: not installed, and there is nothing else to check" in capsys.readouterr().err
    assert not (blessed.parent / "new").exists()


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--recipe", "adam"], "adam: no golden recipe of that name (there are: sgd)"),
        (["--out", "report.html"], "must end in .md or .json"),
        (["--out", "nowhere/report.md"], "no folder nowhere"),
        (["--bless", "--backend", "torch"], "--bless: blesses all of a golden folder"),
    ],
)
@pytest.mark.usefixtures("here")
def test_options_that_cannot_be_followed(
    arguments: list[str], text: str, blessed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("upgrade-check", blessed, *arguments) == 2
    assert text in capsys.readouterr().err


def test_recipes_of_one_name_are_refused(
    blessed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, other = tmp_path / "sgd.toml", blessed.parent / "sgd.toml"
    path.write_text(SGD.to_toml())
    assert run("bless", path, other, "--out", tmp_path / "golden") == 2
    assert "there is another recipe sgd" in capsys.readouterr().err


# --- the golden traces of this repository


def test_the_golden_traces_of_this_repository_are_those_of_its_recipes() -> None:
    golden = Golden.load(ROOT / "golden")
    hashes = {name: recipe.hash for name, recipe in golden.recipes.items()}
    assert hashes == {name: recipe.hash for name, recipe in golden_recipes().items()}
    assert golden.backends == ["oracle", "torch", "jax"]
    assert sum(path.stat().st_size for path in (ROOT / "golden").iterdir()) < 2e6


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("name", golden_recipes())
def test_this_repository_still_trains_what_was_blessed(name: str) -> None:
    golden = Golden.load(ROOT / "golden").only([name])
    upgrade = check_upgrade(golden, ["torch", "oracle"], device="cpu", report=lambda *_: None)
    assert upgrade.change.holds


def test_in_processes_of_their_own_as_a_user_does(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("upgrade-check", ROOT / "golden", "--recipe", "sgd") == 0
    (heads,) = [line.split() for line in capsys.readouterr().out.splitlines() if "stage" in line]
    assert heads == ["stage", "oracle", "torch", "jax"]
    manifest = json.loads((ROOT / "golden" / "manifest.json").read_text())
    assert manifest["host"].keys() == {"python", "platform", "processor"}
    of_torch, of_jax = manifest["backends"]["torch"], manifest["backends"]["jax"]
    assert of_torch.keys() >= {"torch", "numpy", "device", "threads", "matmul_bits"}
    assert of_jax.keys() >= {"jax", "jaxlib", "flax", "optax", "numpy", "device", "threads"}
    assert of_jax.keys() >= {"matmul_precision", "matmul_bits", "subnormals", "x64", "xla_flags"}


@pytest.mark.sweep
def test_upgrade_check_of_this_repository() -> None:
    assert run("upgrade-check", ROOT / "golden") == 0
