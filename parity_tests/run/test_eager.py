"""A worker trains with torch.optim to the same bits without the compiler that torch.optim loads. No
other process does without it.
"""

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from lockstep.commands.options import trainer
from lockstep.recipe import Optimizer
from lockstep.records.trace import Trace
from parity_tests.shared.recipes import prepared, small_recipe

RECIPES = {name: small_recipe(optimizer__name=name) for name in Optimizer.variants}

SPARED = """
import json, sys
from pathlib import Path
from lockstep.data_prep import prepare
from lockstep.recipe import Recipe
from pt_impl.io.eager import spare_compiler
from pt_impl.train import train
spare_compiler()
folder = Path(sys.argv[1])
for name, values in json.loads(sys.stdin.read()).items():
    recipe = Recipe.from_dict(values)
    train(recipe, prepare(recipe)).save(folder / f"{name}.trace")
    assert "torch._dynamo.symbolic_convert" not in sys.modules, name
"""
COMPILED = """
import torch
from pt_impl.io.eager import spare_compiler
spare_compiler()
compiled = torch.compile(lambda x: 2 * x, backend="eager")
assert compiled(torch.ones(2)).tolist() == [2.0, 2.0]
"""


def python(code: str, *arguments: str, text: str = "") -> None:
    command = [sys.executable, "-W", "ignore", "-c", code, *arguments]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.run(
        command, input=text, env=environment, capture_output=True, text=True, check=False
    )
    assert process.returncode == 0, process.stderr


@pytest.fixture(scope="module")
def spared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The traces of all optimizers, each by its name, from a process that spares the compiler."""
    folder: Path = tmp_path_factory.mktemp("spared")
    values = {name: asdict(recipe) for name, recipe in RECIPES.items()}
    python(SPARED, str(folder), text=json.dumps(values))
    return folder


@pytest.mark.parametrize("name", RECIPES)
def test_an_optimizer_trains_to_the_same_bits_without_the_compiler(name: str, spared: Path) -> None:
    recipe = RECIPES[name]
    with_compiler = trainer("torch", "plain")(recipe, prepared(recipe))
    without = Trace.load(spared / f"{name}.trace")
    assert with_compiler.arrays.keys() == without.arrays.keys()
    for key, values in with_compiler.arrays.items():
        np.testing.assert_array_equal(values, without.arrays[key], err_msg=key)


def test_what_is_compiled_all_the_same_loads_the_compiler() -> None:
    python(COMPILED)
