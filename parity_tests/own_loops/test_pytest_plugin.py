"""The pytest plugin, in a pytest of its own: what passes, what fails and how that reads, and what
is refused.
"""

import subprocess
import sys
import tomllib
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from lockstep import Recorder
from lockstep.cli import main
from lockstep.errors import ParityError
from lockstep.parity import assert_parity
from lockstep.records.trace import Trace

pytest_plugins = ["pytester"]

ROOT = Path(__file__).parents[2]

LOOPS = """
from functools import partial

import numpy as np

from lockstep.parity import assert_parity


def loop(recorder, *, updates=4, fault=1.0, name="w", settings=None, kernel=np.arange(6.0).reshape(2, 3)):
    recorder.settings.update(settings or {})
    w = recorder.start({name: kernel})[name]
    for update in range(updates):
        gradient = 0.1 * w * (fault if update == 2 else 1)
        loss = 0.05 * np.square(w).sum()
        w = w - 0.5 * gradient
        recorder.update(loss=loss, lr=0.5, gradients={name: gradient}, parameters={name: w})
"""  # noqa: E501


def outcome(pytester: pytest.Pytester, tests: str, *arguments: str) -> pytest.RunResult:
    """What pytest says of these tests, with the plugin as an installed lockstep loads it."""
    pytester.makepyfile(LOOPS + tests)
    return pytester.runpytest_inprocess("-p", "lockstep.pytest_plugin", *arguments)


def test_equal_loops_pass_and_a_planted_fault_is_told_without_a_stack(
    pytester: pytest.Pytester,
) -> None:
    result = outcome(
        pytester,
        """
def test_equal():
    assert assert_parity(loop, loop).verdict == "identical"

def test_fault():
    assert_parity(loop, partial(loop, fault=1.1))
""",
        "--junitxml=out.xml",
    )
    result.assert_outcomes(passed=1, failed=1)
    text = result.stdout.str()
    assert "update 2" in text
    assert "Traceback" not in text
    assert "parity.py" not in text
    root = ElementTree.parse(pytester.path / "out.xml").getroot()
    equal, fault = root.iter("testcase")
    assert equal.find("properties") is None
    entries = [entry.attrib for entry in fault.iter("property")]
    properties = {entry["name"]: entry["value"] for entry in entries}
    assert (properties["lockstep.stage"], properties["lockstep.update"]) == ("gradients", "2")
    assert float(properties["lockstep.b"]) == pytest.approx(1.1 * float(properties["lockstep.a"]))
    assert properties["lockstep.cause"] == "gradient-scaled"


def test_the_fixture_keeps_the_traces(pytester: pytest.Pytester) -> None:
    result = outcome(
        pytester,
        """
def test_fault(parity, tmp_path):
    print("folder", tmp_path)
    parity(loop, partial(loop, fault=1.1), updates=[2])

def test_perturbed(parity, tmp_path):
    assert parity(loop, loop, perturbed=2).verdict == "identical"
    assert {"jax.trace", "jax-perturbed-1.trace", "torch-perturbed-0.trace"} < {p.name for p in tmp_path.iterdir()}
""",  # noqa: E501
    )
    result.assert_outcomes(passed=1, failed=1)
    line = next(line for line in result.stdout.lines if line.startswith("folder "))
    folder = Path(line.removeprefix("folder "))
    paths = folder / "torch.trace", folder / "jax.trace"
    assert [Trace.load(path).header["detail"] for path in paths] == [[2], [2]]
    assert f"lockstep diagnose {paths[0]} {paths[1]}" in result.stdout.str()


def test_what_cannot_be_compared_is_no_pass(pytester: pytest.Pytester) -> None:
    result = outcome(
        pytester,
        """
import pytest

def test_no_tensor_in_common():
    assert_parity(loop, partial(loop, name="v", kernel=np.arange(5.0)))

def test_number_of_updates():
    assert_parity(loop, partial(loop, updates=3))

def test_settings():
    assert_parity(partial(loop, settings={"decay": 0.01}), partial(loop, settings={"decay": 0.0001}))

def test_settings_and_fault():
    assert_parity(loop, partial(loop, fault=1.1, settings={"decay": 0.0001}))

def test_nothing_recorded():
    assert_parity(loop, lambda recorder: None)

def test_no_family_in_common():
    def scalars(recorder):
        for update in range(4):
            recorder.update(lr=1.0)
    def parameters(recorder):
        w = recorder.start({"w": np.ones(2)})
        for update in range(4):
            recorder.update(parameters=w)
    assert_parity(parameters, scalars)
""",  # noqa: E501
    )
    result.assert_outcomes(failed=6)
    text = result.stdout.str()
    assert "lockstep.errors" not in text
    for line in (
        "torch and jax cannot be compared: names: no parameter of torch is one of jax: w *",
        "torch and jax cannot be compared: 4 updates and 3*",
        "set differently: decay is 0.01 in torch and 0.0001 in jax",
        "set differently: decay is not set in torch and 0.0001 in jax\ntorch and jax part "
        "at update 2*",
        "torch and jax cannot be compared: */jax.trace: no update was recorded*",
        "torch and jax cannot be compared: *no array in common*",
    ):
        assert fnmatch(text, f"*\n{line}\n*"), line


def test_names_are_drawn_from_the_values_or_taken_from_a_map(pytester: pytest.Pytester) -> None:
    (pytester.path / "names.toml").write_text(
        '[names]\n"w" = { name = "kernel", layout = "transpose" }\n'
    )
    (pytester.path / "wrong.toml").write_text('[names]\n"w" = "kernel"\n')
    result = outcome(
        pytester,
        """
other = partial(loop, name="kernel", kernel=np.arange(6.0).reshape(2, 3).T)

def test_drawn():
    assert assert_parity(loop, other).verdict == "identical"

def test_map():
    assert assert_parity(loop, other, names="names.toml").verdict == "identical"

def test_wrong_map():
    assert_parity(loop, other, names="wrong.toml")

def test_fault(parity):
    parity(loop, partial(other, fault=1.1))
""",
    )
    result.assert_outcomes(passed=2, failed=2)
    hint = next(line for line in result.stdout.lines if "look closer: lockstep diagnose" in line)
    with pytest.raises(SystemExit) as end:
        main(hint.partition("lockstep ")[2].split())
    assert end.value.code == 1


def test_of_several_layers_the_first_in_the_order_of_the_loop_is_named() -> None:
    def loop(recorder: Recorder, shift: float = 0.0) -> None:
        names = ("token", "norm1", "attention", "block.linear")
        layers = {name: np.ones((2, 3)) + i * shift for i, name in enumerate(names)}
        recorder.update(forward=layers, loss=1.0 + shift)

    with pytest.raises(ParityError) as caught:
        assert_parity(loop, partial(loop, shift=0.1))
    assert caught.value.properties["tensor"] == "norm1"


def test_the_plugin_is_declared_and_loads_nothing_heavy() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    plugin = "lockstep.pytest_plugin"
    assert project["entry-points"]["pytest11"] == {plugin: plugin}
    heavy = "{'numpy', 'torch', 'jax', 'flax', 'optax', 'scipy', 'safetensors', 'rich', 'click'}"
    code = f"import sys, lockstep.pytest_plugin; print(sorted({heavy} & set(sys.modules)))"
    command = [sys.executable, "-c", code]
    process = subprocess.run(command, capture_output=True, text=True, check=True)
    assert process.stdout == "[]\n"
