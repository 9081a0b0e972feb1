"""The house: twins stay twins, data flows one way, and the core loads without either framework."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ALONE = {"io/eager.py", "optimizers/from_rule.py", "optimizers/parts.py"}
"""Files without a twin, or with one of another shape: Optax loads no compiler of its own that a process could spare;
an optimizer is an object here and a function there."""


def files_of(twin: str) -> list[str]:
    """Those that have a twin: contenders in a benchmark differ, as frameworks do."""
    names = (str(path.relative_to(ROOT / twin)) for path in (ROOT / twin).rglob("*.py"))
    return sorted(name for name in names if name not in ALONE and not name.startswith(("bench/", "fast/optimizers/")))


FILES = files_of("pt_impl")
FRAMEWORKS = {"torch", "jax", "flax", "optax"}
ALLOWED = {
    "lockstep": {"lockstep"},
    "pt_impl": {"lockstep", "pt_impl"},
    "jax_impl": {"lockstep", "jax_impl"},
}
# the one place of the core that names the twins does so in strings, loaded when a command needs one
ROOMS = {"lockstep", "pt_impl", "jax_impl", "benchmarks", "parity_tests"}

LAYERS: tuple[tuple[str, ...], ...] = (
    ("__main__",),
    ("cli", "pytest_plugin"),
    ("commands", "parity"),
    ("bench",),
    ("report",),
    ("studies",),
    ("run",),
    ("diagnose",),
    ("oracle", "own_loops", "golden"),
    ("records",),
    ("data_prep",),
    ("schedules",),
    ("recipe", "tensor_file"),
    ("files",),
    ("errors", "numbers"),
    ("__init__", "printable", "processes", "backends"),
    ("version",),
)
"""Packages and modules of lockstep, from the top: each imports what lies in lower layers, and nothing else."""


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def public_shape(path: Path) -> list[tuple[str, ...]]:
    """Public names of a module in order, with each function's parameter names and each class's public methods."""
    shape: list[tuple[str, ...]] = []
    for node in parse(path).body:
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            shape.append((node.name, *(argument.arg for argument in (*node.args.args, *node.args.kwonlyargs))))
        elif isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            methods = (item.name for item in node.body if isinstance(item, ast.FunctionDef))
            # what PyTorch calls forward, Flax calls __call__
            shape.append((node.name, *("forward" if name == "__call__" else name for name in methods)))
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == "__all__":
            shape.append(("__all__", *ast.literal_eval(node.value)))
    return shape


def imports(path: Path) -> set[str]:
    """Top-level packages that a module imports, wherever in the file."""
    found: set[str] = set()
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.partition(".")[0])
    return found


def test_twins_have_the_same_files() -> None:
    assert files_of("jax_impl") == FILES
    assert len(FILES) >= 8


@pytest.mark.parametrize("name", FILES)
def test_twins_have_the_same_names_order_and_signatures(name: str) -> None:
    assert public_shape(ROOT / "pt_impl" / name) == public_shape(ROOT / "jax_impl" / name)


@pytest.mark.parametrize("name", [name for name in FILES if name != "__init__.py"])
def test_twins_say_the_same_of_themselves(name: str) -> None:
    documented = [ast.get_docstring(parse(ROOT / twin / name)) for twin in ("pt_impl", "jax_impl")]
    assert documented[0] == documented[1]


def test_the_shape_of_a_drifted_twin_differs(tmp_path: Path) -> None:
    source = (ROOT / "pt_impl" / "model.py").read_text()
    drifted = tmp_path / "model.py"
    for old, new in (("def build_model(recipe", "def build_model(config"), ("def export_", "def read_")):
        drifted.write_text(source.replace(old, new))
        assert public_shape(drifted) != public_shape(ROOT / "jax_impl" / "model.py")


@pytest.mark.parametrize("room", ALLOWED)
def test_imports_run_one_way(room: str) -> None:
    for path in (ROOT / room).rglob("*.py"):
        found = imports(path)
        assert found & ROOMS <= ALLOWED[room], path
        if room == "lockstep":
            assert not found & FRAMEWORKS, path
        assert not (room == "pt_impl" and found & {"jax", "flax", "optax"}), path
        assert not (room == "jax_impl" and "torch" in found), path


def arrows(root: Path) -> dict[tuple[str, str], set[str]]:
    """Which package or module of a package imports which other, and the files that do, wherever in the file; but not
    what is imported for types alone."""
    found: dict[tuple[str, str], set[str]] = {}
    for path in root.rglob("*.py"):
        place = path.relative_to(root).with_suffix("").parts
        for module in _imported(parse(path)):
            name, *rest = module.split(".")
            if name == root.name:
                target = rest[0] if rest and _is_there(root, rest[0]) else "__init__"
                found.setdefault((place[0], target), set()).add("/".join(place))
    return {(a, b): files for (a, b), files in found.items() if a != b}


def _is_there(root: Path, name: str) -> bool:
    return (root / name).is_dir() or (root / f"{name}.py").exists()


def _imported(node: ast.AST) -> Iterator[str]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from (alias.name for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            yield from (f"{child.module}.{alias.name}" for alias in child.names)
        elif not (isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING"):
            yield from _imported(child)


def climbing(arrows: Mapping[tuple[str, str], set[str]]) -> dict[tuple[str, str], set[str]]:
    """Arrows that do not run to a lower layer."""
    layer = {name: i for i, names in enumerate(LAYERS) for name in names}
    return {arrow: files for arrow, files in arrows.items() if layer[arrow[1]] <= layer[arrow[0]]}


def test_arrows_between_packages_run_down() -> None:
    upwards = climbing(arrows(ROOT / "lockstep"))
    assert upwards == {}


def test_every_package_has_one_layer() -> None:
    named = [name for names in LAYERS for name in names]
    there = {
        path.stem for path in (ROOT / "lockstep").iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    assert sorted(named) == sorted(there)


def test_a_lazy_import_that_climbs_is_found(tmp_path: Path) -> None:
    house = tmp_path / "lockstep"
    for name, text in {
        "recipe/__init__.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from lockstep.run import one\n",
        "recipe/load.py": "def load():\n    from lockstep import run, version\n",
        "run/__init__.py": "from lockstep.recipe import load\nfrom lockstep.run import more\n",
    }.items():
        (house / name).parent.mkdir(parents=True, exist_ok=True)
        (house / name).write_text(text)
    (house / "version.py").touch()
    assert climbing(arrows(house)) == {("recipe", "run"): {"recipe/load"}}


@pytest.mark.parametrize("missing", [("torch",), ("jax", "flax", "optax"), ("torch", "jax", "flax", "optax")])
def test_the_core_loads_trains_and_compares_without(missing: tuple[str, ...], tmp_path: Path) -> None:
    code = f"""
import sys
class NotInstalled:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {missing!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, NotInstalled())
from lockstep.cli import main
import lockstep.run.everywhere, lockstep.report.run.folder
def run(*arguments):
    try:
        main(arguments)
    except SystemExit as end:
        return end.code
small = ["--set", "data.rows=64", "--set", "training.epochs=2", "--set", "schedule.warmup=1"]
for name in "ab":
    assert run("record", "--backend", "oracle", "--out", name, *small) == 0
assert run("compare", "a", "b") == 0
assert run("record", "--backend", "{"torch" if "torch" in missing else "jax"}", "--out", "c", *small) == 2
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "verdict: identical" in done.stdout
    assert "is not installed: pip install 'lockstep[" in done.stderr


def test_help_loads_neither_numpy_nor_a_framework() -> None:
    code = """
import sys
from lockstep.cli import main
try:
    main(["--help"])
except SystemExit:
    pass
print(sorted({"numpy", "torch", "jax", "pydantic", "rich"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_the_public_face_loads_when_it_is_asked_for() -> None:
    code = """
import sys
import lockstep
print(sorted({"numpy", "torch", "jax", "pydantic"} & set(sys.modules)))
print([name for name in lockstep.__all__ if name not in dir(lockstep)])
import lockstep.diagnose.verdict
from lockstep import *
print(all(callable(face) for face in (compare, diagnose, load_recipe, prepare, train, assert_parity, perturbed)))
import inspect
print([*inspect.signature(diagnose).parameters])
print([kind.__name__ for kind in (Recipe, Recorder, Trace)])
print(sorted({"torch", "jax"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        "[]",
        "[]",
        "True",
        "['a', 'b', 'oracle', 'names', 'noise']",
        "['Recipe', 'Recorder', 'Trace']",
        "[]",
    ]


def test_the_map_names_every_package_in_its_layer() -> None:
    rows = re.findall(r"^\| (\d+) \| (.+?) \|", (ROOT / "ARCHITECTURE.md").read_text(), re.MULTILINE)
    places = {name: int(layer) for layer, names in rows for name in re.findall(r"`(\w+)`", names)}
    unnamed = {"__main__", "__init__", "version"}
    layers = [[name for name in names if name not in unnamed] for names in LAYERS]
    expected = {name: i for i, names in enumerate(filter(None, layers), start=1) for name in names}
    assert places == expected
