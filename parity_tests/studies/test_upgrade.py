"""Golden traces: each kind of change planted in a twin is told by its name, and golden files that
cannot be used are refused."""

import json
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import nullcontext
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
    """As `lockstep.studies.upgrade.bless.record`, in this process: a fault planted here is seen,
    and nothing is imported again."""
    found = Recording({}, {})
    forget_compiled()
    for backend in backends:
        for name, recipe in recipes.items():
            for dtype, form in recipe.forms.items():
                train = TRAIN[backend].train if backend in TRAIN else train_oracle
                try:
                    found.traces[Key(name, dtype, backend)] = train(
                        form, data[name], watch=Watch(parameters_every=1)
                    )
                except AttributeError as error:
                    found.faults[Key(name, dtype, backend)] = str(error)
    return found


def run(*arguments: Any) -> int:
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    assert isinstance(ended.value.code, int)
    return ended.value.code


@pytest.fixture(scope="module")
def blessed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A golden folder of one recipe, trained here by PyTorch; not to be changed."""
    return bless_here(tmp_path_factory.mktemp("torch"), SGD, "torch")


@pytest.fixture(scope="module")
def blessed_jax(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same by JAX."""
    return bless_here(tmp_path_factory.mktemp("jax"), SOFTMAX, "jax")


def bless_here(folder: Path, recipe: Recipe, backend: str) -> Path:
    (folder / "sgd.toml").write_text(recipe.to_toml())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lockstep.studies.upgrade.bless, "record", record_here)
        assert (
            run("bless", folder / "sgd.toml", "--out", folder / "golden", "--backend", backend) == 0
        )
    return folder / "golden"


@pytest.fixture
def golden(blessed: Path, tmp_path: Path) -> Path:
    """A copy of it, to be damaged."""
    folder = tmp_path / "golden"
    folder.mkdir()
    for path in blessed.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Everything is trained in this process."""
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
    found = check(blessed, "torch", "oracle")
    assert found.backends == ["data", "oracle", "torch"]
    stages = found.stages("torch")
    assert set(stages.values()) == {Change.IDENTICAL}
    assert stages.keys() >= {
        "numeric mode",
        "init",
        "lr",
        "loss",
        "gradients",
        "update",
        "parameters",
        "metrics",
    }


@pytest.mark.usefixtures("here")
def test_another_order_of_summation_is_rounding(
    blessed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    linear = functional.linear
    monkeypatch.setattr(
        functional, "linear", lambda x, w, b=None: linear(x.flip(-1), w.flip(-1), b)
    )
    assert run("upgrade-check", blessed, "--backend", "torch") == 0
    stages = check(blessed, "torch").stages("torch")
    assert stages["loss"] == stages["parameters"] == Change.ROUNDING
    assert stages["init"] == stages["lr"] == stages["numeric mode"] == Change.IDENTICAL


def other_momentum(optimizer: Any, *rest: Any, make: Callable[..., Any]) -> Any:
    values: dict[str, Any] = {"momentum": optimizer.momentum + 1e-9}
    return make(
        type(optimizer)(**{k: v for k, v in (vars(optimizer) | values).items() if v is not None}),
        *rest,
    )


@pytest.mark.parametrize("backend", ["torch", "jax"])
@pytest.mark.usefixtures("here")
def test_a_change_of_meaning(
    backend: str,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A momentum that is 1e-9 higher: nothing that float32 could show."""
    folder = request.getfixturevalue("blessed" if backend == "torch" else "blessed_jax")
    make = TRAIN[backend].make_optimizer
    patch_pair(
        monkeypatch,
        TRAIN[backend],
        "make_optimizer",
        lambda o, *rest: other_momentum(o, *rest, make=make),
    )
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
    monkeypatch.setattr(
        functional, "linear", lambda x, w, b=None: linear(in_bfloat16(x), in_bfloat16(w), b)
    )
    assert run("upgrade-check", blessed, "--backend", "torch") == 1
    assert "keep 8 bits of the significand, and kept 24" in capsys.readouterr().out
    found = check(blessed, "torch")
    assert found.change == Change.MODE
    assert found.settings["torch"] == {"matmul_bits": (24, 8)}
    assert found.stages("torch")["loss"] == Change.MODE
    assert found.stages("torch")["lr"] == Change.IDENTICAL


@pytest.mark.usefixtures("here")
def test_a_flag_that_does_nothing_is_no_change_of_mode(
    blessed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: "medium")
    found = check(blessed, "torch")
    assert found.settings["torch"] == {"matmul_precision": ("highest", "medium")}
    assert found.change == Change.IDENTICAL


@pytest.mark.filterwarnings("ignore:Explicitly requested dtype")
@pytest.mark.usefixtures("here")
def test_float64_that_is_computed_in_float32(
    blessed_jax: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jax, "enable_x64", lambda _: nullcontext())
    found = check(blessed_jax, "jax")
    assert found.change == Change.MODE
    assert "float64 is computed in float32, and was in float64" in [f.note for f in found.findings]


@pytest.mark.usefixtures("here")
def test_a_change_of_float32_alone(blessed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mean_loss = of_pair(pt_impl.train, "mean_loss")

    def scaled(*arguments: Any) -> Any:
        loss = mean_loss(*arguments)
        return loss * 1.001 if loss.dtype == torch.float32 else loss

    patch_pair(monkeypatch, pt_impl.train, "mean_loss", scaled)
    found = check(blessed, "torch")
    assert found.change == Change.SEMANTICS
    assert {f.note for f in found.findings if not f.change.holds} == {
        "in float32 alone: float64 agrees"
    }
    assert next(f.first for f in found.findings if f.first).stage == "loss"


@pytest.mark.usefixtures("here")
def test_a_name_that_is_gone(blessed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(*_: Any) -> Any:
        raise AttributeError("module 'torch.optim' has no attribute 'SGD'")

    patch_pair(monkeypatch, pt_impl.train, "make_optimizer", gone)
    assert run("upgrade-check", blessed, "--backend", "torch") == 1
    found = check(blessed, "torch")
    assert found.stages("torch")["training"] == found.change == Change.FAILS
    assert "float64: module 'torch.optim' has no attribute 'SGD'" in [
        f.note for f in found.findings
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
    found = check(blessed, "oracle")
    assert found.stages("data") == {"data": change}
    assert set(found.stages("oracle").values()) == {Change.IDENTICAL}, (
        "it is trained on the golden data"
    )


# --- bless


@pytest.mark.usefixtures("here")
def test_blessed_anew_after_a_change(golden: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    linear = functional.linear
    monkeypatch.setattr(
        functional, "linear", lambda x, w, b=None: linear(x.flip(-1), w.flip(-1), b)
    )
    assert check(golden, "torch").change == Change.ROUNDING
    assert run("upgrade-check", golden, "--bless") == 0
    assert check(golden, "torch").change == Change.IDENTICAL


@pytest.mark.usefixtures("here")
def test_what_the_oracle_does_not_train_is_not_blessed(
    golden: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path.name: path.read_bytes() for path in golden.iterdir()}
    make = of_pair(pt_impl.train, "make_optimizer")
    patch_pair(
        monkeypatch,
        pt_impl.train,
        "make_optimizer",
        lambda o, *rest: other_momentum(o, *rest, make=make),
    )
    assert run("upgrade-check", golden, "--bless") == 1
    assert (
        "sgd, float64, torch is not what the oracle trains: at update 0, update"
        in capsys.readouterr().err
    )
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
    assert (
        f"{golden / 'notes.txt'}: is none of the golden files, and is kept"
        in capsys.readouterr().err
    )
    assert (golden / "notes.txt").read_text() == "mine"


@pytest.mark.usefixtures("here")
def test_the_same_is_blessed_as_the_same_files(blessed: Path, golden: Path) -> None:
    """So that a golden folder changes in a repository when a number does, and only then."""
    assert run("upgrade-check", golden, "--bless") == 0
    files = [path.name for path in blessed.iterdir()]
    assert sorted(files) == sorted(path.name for path in golden.iterdir())
    assert all((golden / name).read_bytes() == (blessed / name).read_bytes() for name in files)


# --- golden files that cannot be used


def edit(folder: Path, change: Callable[[dict[str, Any]], Any], *, sealed: bool) -> None:
    content = json.loads((folder / "manifest.json").read_text())
    change(content)
    if sealed:
        content.pop("seal")
        content["seal"] = lockstep.golden._seal(content)
    (folder / "manifest.json").write_text(json.dumps(content))


def other_recipe(content: dict[str, Any]) -> None:
    content["recipes"]["sgd"]["recipe"] = small_recipe(training__epochs=3).to_toml()


def unknown_field(content: dict[str, Any]) -> None:
    content["recipes"]["sgd"]["recipe"] += "\n[future]\nname = 1\n"


DAMAGE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no folder": (
        lambda f: [p.unlink() for p in f.iterdir()] and f.rmdir(),
        "manifest.json: cannot be read",
    ),
    "no manifest": (lambda f: (f / "manifest.json").unlink(), "lockstep bless writes it"),
    "a truncated manifest": (
        lambda f: (f / "manifest.json").write_bytes((f / "manifest.json").read_bytes()[:-200]),
        "perhaps truncated",
    ),
    "a manifest of something else": (
        lambda f: (f / "manifest.json").write_text("[1]"),
        "not a readable manifest",
    ),
    "an edited manifest": (
        lambda f: edit(f, lambda c: c["backends"]["torch"].update(torch="1.0"), sealed=False),
        "does not match its seal",
    ),
    "a later schema": (
        lambda f: edit(f, lambda c: c.update(schema="lockstep.golden/2"), sealed=True),
        "schema lockstep.golden/2; this lockstep reads lockstep.golden/1",
    ),
    "no recipe": (
        lambda f: edit(f, lambda c: c["recipes"].clear(), sealed=True),
        "nothing to compare",
    ),
    "another recipe": (
        lambda f: edit(f, other_recipe, sealed=True),
        "reads it as another recipe; bless again",
    ),
    "a recipe of the future": (
        lambda f: edit(f, unknown_field, sealed=True),
        "recipe sgd: future: ",
    ),
    "a missing trace": (
        lambda f: (f / "sgd.float32.torch.trace").unlink(),
        "sgd.float32.torch.trace: cannot be read",
    ),
    "a truncated trace": (
        lambda f: (f / "sgd.float32.torch.trace").write_bytes(
            (f / "sgd.float32.torch.trace").read_bytes()[:-1]
        ),
        "sgd.float32.torch.trace: is not the file that was blessed",
    ),
    "a trace in place of another": (
        lambda f: (f / "sgd.float32.torch.trace").write_bytes(
            (f / "sgd.float32.oracle.trace").read_bytes()
        ),
        "sgd.float32.torch.trace: is not the file that was blessed",
    ),
    "missing data": (lambda f: (f / "sgd.data").unlink(), "sgd.data: cannot be read"),
    "other data": (
        lambda f: edit(f, lambda c: c["recipes"]["sgd"].update(data_hash="0" * 64), sealed=True),
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
    told = capsys.readouterr().err
    assert text in told
    assert told.count("\n") == 1
    assert str(golden) in told


@pytest.mark.usefixtures("here")
def test_data_that_cannot_be_prepared_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "table.csv"
    table.write_text("a,b\n" + "".join(f"{i % 7},{i % 2}\n" for i in range(60)))
    recipe = small_recipe(
        data__source="file", data__path=str(table), data__target="b", training__epochs=2
    )
    (tmp_path / "own.toml").write_text(recipe.to_toml())
    assert (
        run("bless", tmp_path / "own.toml", "--out", tmp_path / "golden", "--backend", "torch") == 0
    )
    table.unlink()
    assert run("upgrade-check", tmp_path / "golden") == 2
    assert "golden recipe own: its data cannot be prepared again" in capsys.readouterr().err


@pytest.mark.usefixtures("here")
def test_a_backend_that_is_not_installed_is_skipped_and_all_of_them_is_an_error(
    blessed: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        lockstep.studies.upgrade.bless,
        "find_spec",
        lambda package: None if package == "optax" else "there",
    )
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
    (tmp_path / "sgd.toml").write_text(SGD.to_toml())
    assert (
        run(
            "bless",
            tmp_path / "sgd.toml",
            blessed.parent / "sgd.toml",
            "--out",
            tmp_path / "golden",
        )
        == 2
    )
    assert "there is another recipe sgd" in capsys.readouterr().err


# --- the golden traces of this repository


def test_the_golden_traces_of_this_repository_are_those_of_its_recipes() -> None:
    golden = Golden.load(ROOT / "golden")
    assert {name: recipe.hash for name, recipe in golden.recipes.items()} == {
        name: recipe.hash for name, recipe in golden_recipes().items()
    }
    assert golden.backends == ["oracle", "torch", "jax"]
    assert sum(path.stat().st_size for path in (ROOT / "golden").iterdir()) < 2e6


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("name", golden_recipes())
def test_this_repository_still_trains_what_was_blessed(name: str) -> None:
    golden = Golden.load(ROOT / "golden").only([name])
    found = check_upgrade(golden, ["torch", "oracle"], device="cpu", report=lambda *_: None)
    assert found.change.holds


def test_in_processes_of_their_own_as_a_user_does(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("upgrade-check", ROOT / "golden", "--recipe", "sgd") == 0
    (heads,) = [line.split() for line in capsys.readouterr().out.splitlines() if "stage" in line]
    assert heads == ["stage", "oracle", "torch", "jax"]
    manifest = json.loads((ROOT / "golden" / "manifest.json").read_text())
    assert manifest["host"].keys() == {"python", "platform", "processor"}
    assert manifest["backends"]["torch"].keys() >= {
        "torch",
        "numpy",
        "device",
        "threads",
        "matmul_bits",
    }
    assert manifest["backends"]["jax"].keys() >= {
        *("jax", "jaxlib", "flax", "optax", "numpy", "device", "threads"),
        *("matmul_precision", "matmul_bits", "subnormals", "x64", "xla_flags"),
    }


@pytest.mark.sweep
def test_upgrade_check_of_this_repository() -> None:
    assert run("upgrade-check", ROOT / "golden") == 0
