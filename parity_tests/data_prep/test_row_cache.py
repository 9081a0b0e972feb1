"""Rows that are kept between processes: the same bits, found again or made anew, and nothing but
them.
"""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from lockstep.data_prep import prepare, split_table
from lockstep.data_prep.row_cache import cache_folder, prepare_cached
from lockstep.errors import InputError
from lockstep.recipe import Recipe, load_recipe


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "lockstep" / "rows"


def kept_files(cache: Path) -> list[Path]:
    return sorted(cache.iterdir()) if cache.exists() else []


def assert_same(recipe: Recipe) -> None:
    table, data = prepare_cached(recipe)
    fresh = prepare(recipe)
    assert data.hash == fresh.hash
    for name in ("mean_D", "scale_D"):
        np.testing.assert_array_equal(getattr(data, name), getattr(fresh, name))
    assert (data.columns, data.classes, data.warnings) == (
        fresh.columns,
        fresh.classes,
        fresh.warnings,
    )
    assert (data.target_mean, data.target_scale, data.target) == (
        fresh.target_mean,
        fresh.target_scale,
        fresh.target,
    )
    assert table.columns == data.columns


@pytest.mark.parametrize("name", ["seed", "breast_cancer", "digits", "diabetes"])
def test_what_is_found_is_what_was_made(name: str, cache: Path) -> None:
    recipe = load_recipe(name)
    assert_same(recipe)
    (file,) = kept_files(cache)
    made = file.stat().st_mtime_ns
    assert_same(recipe)
    assert_same(
        recipe.with_values({"optimizer.name": "adamw", "training.seed": 5, "model.hidden": (7,)})
    )
    assert [path.stat().st_mtime_ns for path in kept_files(cache)] == [made]


def test_other_rows_are_kept_apart(cache: Path) -> None:
    recipe = load_recipe("seed")
    changes = [
        {},
        {"data.seed": 1},
        {"data.rows": 400},
        {"data.class_separation": 0.5},
        {"loss.name": "mse"},
    ]
    for i, change in enumerate(changes, start=1):
        assert_same(recipe.with_values(change))
        assert len(kept_files(cache)) == i


def test_a_damaged_file_is_replaced(cache: Path) -> None:
    recipe = load_recipe("seed")
    prepare_cached(recipe)
    (file,) = kept_files(cache)
    whole = file.read_bytes()
    for damage in (b"", whole[:-8], whole[:-1] + bytes([whole[-1] ^ 1])):
        file.write_bytes(damage)
        assert_same(recipe)
        assert file.read_bytes() == whole


def test_without_a_folder_all_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert cache_folder("rows") is None
    assert_same(load_recipe("seed"))


def test_a_users_file_and_a_large_table_are_not_kept(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = "\n".join(f"{i},{i % 3},{'ab'[i % 2]}" for i in range(40))
    (tmp_path / "t.csv").write_text(f"x,z,y\n{rows}\n")
    own = {
        "data.source": "file",
        "data.path": str(tmp_path / "t.csv"),
        "data.target": "y",
        "training.batch": 8,
    }
    assert_same(load_recipe("seed").with_values(own))
    monkeypatch.setattr("lockstep.data_prep.row_cache.ROOM", 1000)
    assert_same(load_recipe("seed"))
    assert kept_files(cache) == []


def test_what_is_found_is_checked_like_what_is_made(cache: Path) -> None:
    recipe = load_recipe("seed")
    prepare_cached(recipe)
    with pytest.raises(
        InputError, match=r"training.batch: 5000 rows are more than the 1000 training rows"
    ):
        prepare_cached(recipe.with_values({"training.batch": 5000}))
    with pytest.raises(InputError, match=r"data.rows: 1 rows are fewer"):
        prepare_cached(recipe.with_values({"data.rows": 1}))
    assert len(kept_files(cache)) == 1


def test_rows_of_another_split_are_seen(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = load_recipe("seed")
    other = recipe.with_values({"data.seed": 1})
    monkeypatch.setattr(
        "lockstep.data_prep.row_cache.split_table", lambda _, table: split_table(other, table)
    )
    prepare_cached(recipe)
    with pytest.raises(AssertionError):
        assert_same(recipe)


def test_a_folder_that_is_not_absolute_is_ignored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the specification of XDG_CACHE_HOME says; nor is anything made in the present folder for
    want of a home.
    """
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for value in ("rel", "./rel", ".", ""):
        monkeypatch.setenv("XDG_CACHE_HOME", value)
        assert cache_folder("rows") == tmp_path / "home/.cache/lockstep/rows"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder("rows") == tmp_path / "home/.cache/lockstep/rows"
    monkeypatch.setenv("HOME", "rel")
    assert cache_folder("rows") is None
    assert list(here.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["cut short", "empty", "other bytes"])
def test_what_jax_cannot_read_is_compiled_again(damage: str, tmp_path: Path) -> None:
    """Without a word, and kept anew: a process that is killed while it writes leaves a file cut
    short.
    """
    code = (
        "from lockstep.commands.options import keep_compiled; keep_compiled(); import jax, "
        "jax.numpy as jnp"
    )
    code += "; print(jax.jit(lambda x: jnp.tanh(x) @ x)(jnp.ones((8, 8)))[0, 0])"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("JAX_")}

    def run() -> tuple[str, str]:
        done = subprocess.run(
            [sys.executable, "-c", code],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout, done.stderr

    first = run()
    entries = sorted(tmp_path.glob("lockstep/xla/*/jit_*-cache"))
    sizes = [entry.stat().st_size for entry in entries]
    assert entries
    for entry in entries:
        content = entry.read_bytes()
        entry.write_bytes(
            {"cut short": content[:10], "empty": b"", "other bytes": b"?" * len(content)}[damage]
        )
    assert run() == first == (first[0], "")
    assert [entry.stat().st_size for entry in entries] == pytest.approx(sizes, rel=0.2)
    assert all(entry.read_bytes()[:1] != b"?" for entry in entries)


@pytest.mark.slow
def test_the_next_process_does_without_scikit_learn() -> None:
    code = (
        "import sys; from lockstep.data_prep.row_cache import prepare_cached; from "
        "lockstep.recipe import load_recipe"
    )
    code += "; prepare_cached(load_recipe('seed')); print('sklearn' in sys.modules)"
    said = [
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        for _ in range(2)
    ]
    assert [one.stdout.strip() for one in said] == ["True", "False"]
