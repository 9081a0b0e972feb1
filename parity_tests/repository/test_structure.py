"""The house: twins stay twins, data flows one way, and the core loads without either framework."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Protocol, TypeGuard

import pytest

ROOT = Path(__file__).parents[2]
PAIR = ("model", "norm", "loss", "gradient", "schedule")
PAIR += ("optimizer", "average", "update", "train", "predict")
"""The files that people read and copy from, side by side; the twins need not match in others."""
REASONS = {
    "model MLP.forward": "JAX pads its batches, so its model takes the count of the padding rows",
    "model MLP.outputs": "JAX pads its batches, so its model takes the count of the padding rows",
    "norm BatchNorm.forward": "JAX pads its batches, so its statistics take the same count",
    "gradient clip": "PyTorch's gradients belong to its parameters; JAX's are a tree of their own",
    "update State": "PyTorch's objects hold what JAX carries in its state",
    "update loss_and_gradients": "a function in JAX; in PyTorch a statement within the update",
}
"""File and name -> why its parameters or fields differ. No others differ."""
EXCEPTIONS = [tuple(place.split()) for place in REASONS]
FRAMEWORKS = {"torch", "jax", "flax", "optax"}
ALLOWED = {
    "lockstep": {"lockstep"},
    "pt_impl": {"lockstep", "pt_impl"},
    "jax_impl": {"lockstep", "jax_impl"},
}
# the one place of the core that names the twins does so in strings and loads one when a command
# needs it
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
    ("oracle", "own_loops", "golden", "logs"),
    ("records",),
    ("data_prep",),
    ("schedules",),
    ("recipe", "tensor_file"),
    ("files",),
    ("errors", "numbers"),
    ("__init__", "printable", "processes", "backends"),
    ("version",),
)
"""Packages and modules of lockstep, from the top. Each imports from lower layers alone."""


class FieldNode(Protocol):
    target: ast.Name


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def public_shape(path: Path) -> dict[str, tuple[str, ...]]:
    """The public names of a module in order: functions and methods with their parameters, classes
    with their fields.

    Flax calls __call__ what PyTorch calls forward.
    """
    shape: dict[str, tuple[str, ...]] = {}
    for node in parse(path).body:
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            shape[node.name] = parameters(node)
        elif isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            fields = [item.target.id for item in node.body if is_field(item)]
            shape[node.name] = tuple(fields)
            for item in node.body:
                if isinstance(item, ast.FunctionDef) and (
                    item.name == "__call__" or not item.name.startswith("_")
                ):
                    method = "forward" if item.name == "__call__" else item.name
                    shape[f"{node.name}.{method}"] = parameters(item)
        elif (
            isinstance(node, ast.Assign)
            and isinstance(node.targets[0], ast.Name)
            and node.targets[0].id == "__all__"
        ):
            shape["__all__"] = tuple(ast.literal_eval(node.value))
    return shape


def is_field(node: ast.stmt) -> TypeGuard[FieldNode]:
    return isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)


def parameters(function: ast.FunctionDef) -> tuple[str, ...]:
    return tuple(argument.arg for argument in (*function.args.args, *function.args.kwonlyargs))


def differing(name: str, left: Path, right: Path) -> list[tuple[str, str]]:
    """What differs between two files of the pair, but for the order of their names."""
    ours, theirs = public_shape(left), public_shape(right)
    entries = [entry for entry in ours | theirs if entry != "__all__"]
    return [(name, entry) for entry in entries if ours.get(entry) != theirs.get(entry)]


def names_in_order(name: str, path: Path) -> list[str]:
    """What a file of the pair defines and then what it exports, without what is an exception."""
    shape = public_shape(path)
    return [entry for entry in (*shape, *shape["__all__"]) if (name, entry) not in EXCEPTIONS]


def imports(path: Path) -> set[str]:
    """Top-level packages that a module imports, wherever in the file."""
    packages: set[str] = set()
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.Import):
            packages |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            packages.add(node.module.partition(".")[0])
    return packages


def both(name: str) -> tuple[Path, Path]:
    return ROOT / "pt_impl" / f"{name}.py", ROOT / "jax_impl" / f"{name}.py"


@pytest.mark.parametrize("name", PAIR)
def test_the_pair_has_the_same_names_order_signatures_and_fields(name: str) -> None:
    assert names_in_order(name, both(name)[0]) == names_in_order(name, both(name)[1])
    assert differing(name, *both(name)) == [place for place in EXCEPTIONS if place[0] == name]


@pytest.mark.parametrize("name", PAIR)
def test_the_pair_says_the_same_of_itself(name: str) -> None:
    documented = [ast.get_docstring(parse(path)) for path in both(name)]
    assert documented[0] == documented[1]


@pytest.mark.parametrize(
    ("old", "new", "entry"),
    [
        ("def build_model(recipe", "def build_model(config", "build_model"),
        ("def export_", "def read_", "export_parameters"),
        (
            "masks: Sequence[Array] = ()",
            "dropped: Sequence[Array] = ()",
            "MLP.forward",
        ),
    ],
)
def test_a_drifted_twin_is_seen(old: str, new: str, entry: str, tmp_path: Path) -> None:
    source, drifted = both("model")[0], tmp_path / "model.py"
    assert old in source.read_text()
    drifted.write_text(source.read_text().replace(old, new))
    assert ("model", entry) in differing("model", source, drifted)


@pytest.mark.parametrize("room", ALLOWED)
def test_imports_run_one_way(room: str) -> None:
    for path in (ROOT / room).rglob("*.py"):
        imported = imports(path)
        assert imported & ROOMS <= ALLOWED[room], path
        if room == "lockstep":
            assert not imported & FRAMEWORKS, path
        assert not (room == "pt_impl" and imported & {"jax", "flax", "optax"}), path
        assert not (room == "jax_impl" and "torch" in imported), path


def arrows(root: Path) -> dict[tuple[str, str], set[str]]:
    """(importing part, imported part) of a package -> the files that import it, anywhere in them.
    Imports for types alone do not count.
    """
    files_of: dict[tuple[str, str], set[str]] = {}
    for path in root.rglob("*.py"):
        place = path.relative_to(root).with_suffix("").parts
        for module in _imported(parse(path)):
            name, *rest = module.split(".")
            if name == root.name:
                target = rest[0] if rest and _is_there(root, rest[0]) else "__init__"
                files_of.setdefault((place[0], target), set()).add("/".join(place))
    return {(a, b): files for (a, b), files in files_of.items() if a != b}


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
        path.stem
        for path in (ROOT / "lockstep").iterdir()
        if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    assert sorted(named) == sorted(there)


def test_a_lazy_import_that_climbs_is_found(tmp_path: Path) -> None:
    house = tmp_path / "lockstep"
    for name, text in {
        "recipe/__init__.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from "
        "lockstep.run import one\n",
        "recipe/load.py": "def load():\n    from lockstep import run, version\n",
        "run/__init__.py": "from lockstep.recipe import load\nfrom lockstep.run import more\n",
    }.items():
        (house / name).parent.mkdir(parents=True, exist_ok=True)
        (house / name).write_text(text)
    (house / "version.py").touch()
    assert climbing(arrows(house)) == {("recipe", "run"): {"recipe/load"}}


@pytest.mark.parametrize(
    "missing", [("torch",), ("jax", "flax", "optax"), ("torch", "jax", "flax", "optax")]
)
def test_the_core_loads_trains_and_compares_without(
    missing: tuple[str, ...], tmp_path: Path
) -> None:
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
"""  # noqa: E501
    command = [sys.executable, "-c", code]
    process = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
    assert "verdict: identical" in process.stdout
    assert "is not installed: pip install 'lockstep[" in process.stderr


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
    process = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert process.stdout.splitlines()[-1] == "[]"


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
"""  # noqa: E501
    process = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert process.stdout.splitlines() == [
        "[]",
        "[]",
        "True",
        "['a', 'b', 'oracle', 'names', 'noise']",
        "['Recipe', 'Recorder', 'Trace']",
        "[]",
    ]


def test_the_map_names_every_package_in_its_layer() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text()
    rows = re.findall(r"^\| (\d+) \| (.+?) \|", text, re.MULTILINE)
    places = {name: int(layer) for layer, names in rows for name in re.findall(r"`(\w+)`", names)}
    unnamed = {"__main__", "__init__", "version"}
    layers = [[name for name in names if name not in unnamed] for names in LAYERS]
    expected = {name: i for i, names in enumerate(filter(None, layers), start=1) for name in names}
    assert places == expected
