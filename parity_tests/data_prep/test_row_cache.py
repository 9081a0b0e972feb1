"""Rows are kept between processes: they are the same bits, read back or prepared anew, and nothing
else is kept.
"""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lockstep.data_prep import Table, prepare, split_table
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
    for name in ("columns", "classes", "warnings", "target", "target_mean", "target_scale"):
        assert getattr(data, name) == getattr(fresh, name), name
    assert table.columns == data.columns


@pytest.mark.parametrize("name", ["seed", "breast_cancer", "digits", "diabetes"])
def test_what_is_found_is_what_was_made(name: str, cache: Path) -> None:
    recipe = load_recipe(name)
    assert_same(recipe)
    (file,) = kept_files(cache)
    written_at = file.stat().st_mtime_ns
    assert_same(recipe)
    other = {"optimizer.name": "adamw", "training.seed": 5, "model.hidden": (7,)}
    assert_same(recipe.with_values(other))
    assert [path.stat().st_mtime_ns for path in kept_files(cache)] == [written_at]


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
    line = r"training.batch: 5000 rows are more than the 1000 training rows"
    with pytest.raises(InputError, match=line):
        prepare_cached(recipe.with_values({"training.batch": 5000}))
    with pytest.raises(InputError, match=r"data.rows: 1 rows are fewer"):
        prepare_cached(recipe.with_values({"data.rows": 1}))
    assert len(kept_files(cache)) == 1


def test_rows_of_another_split_are_seen(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = load_recipe("seed")
    other = recipe.with_values({"data.seed": 1})

    def split_otherwise(_: Recipe, table: Table) -> Any:
        return split_table(other, table)

    monkeypatch.setattr("lockstep.data_prep.row_cache.split_table", split_otherwise)
    prepare_cached(recipe)
    with pytest.raises(AssertionError):
        assert_same(recipe)


def test_a_folder_that_is_not_absolute_is_ignored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So says the specification of XDG_CACHE_HOME. Without a home, nothing is made in the present
    folder either.
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
    """It is kept anew, and no word is said: a process that is killed while it writes leaves a file
    cut short.
    """
    code = """
from lockstep.commands.options import keep_compiled
keep_compiled()
import jax, jax.numpy as jnp
print(jax.jit(lambda x: jnp.tanh(x) @ x)(jnp.ones((8, 8)))[0, 0])
"""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("JAX_")}

    def run() -> tuple[str, str]:
        command = [sys.executable, "-c", code]
        process = subprocess.run(
            command, env=environment, capture_output=True, text=True, check=True
        )
        return process.stdout, process.stderr

    first = run()
    entries = sorted(tmp_path.glob("lockstep/xla/*/jit_*-cache"))
    sizes = [entry.stat().st_size for entry in entries]
    assert entries
    for entry in entries:
        content = entry.read_bytes()
        damaged = {"cut short": content[:10], "empty": b"", "other bytes": b"?" * len(content)}
        entry.write_bytes(damaged[damage])
    assert run() == first == (first[0], "")
    assert [entry.stat().st_size for entry in entries] == pytest.approx(sizes, rel=0.2)
    assert all(entry.read_bytes()[:1] != b"?" for entry in entries)


@pytest.mark.slow
def test_the_next_process_does_without_scikit_learn() -> None:
    code = """
import sys
from lockstep.data_prep.row_cache import prepare_cached
from lockstep.recipe import load_recipe
prepare_cached(load_recipe("seed"))
print("sklearn" in sys.modules)
"""
    for expected in ("True", "False"):
        command = [sys.executable, "-c", code]
        process = subprocess.run(command, capture_output=True, text=True, check=True)
        assert process.stdout.strip() == expected
