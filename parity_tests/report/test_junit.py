"""The result for a build server: every stage is a test case, every verdict a valid document, and no
older result is left.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from lockstep.cli import main
from lockstep.records.trace import Trace
from parity_tests.shared.recipes import oracle_trace, small_recipe

RECIPE = small_recipe(training__dtype="float64")
Compared = tuple[int, ElementTree.Element]


def compared(
    a: Trace, b: Trace, folder: Path, names: tuple[str, str] = ("a.trace", "b.trace")
) -> Compared:
    """The exit status and the JUnit document of `lockstep compare`."""
    paths, out = [folder / name for name in names], folder / "out.xml"
    for path, trace in zip(paths, (a, b)):
        trace.save(path)
    with pytest.raises(SystemExit) as end:
        main(["compare", *map(str, paths), "--junit", str(out)])
    assert isinstance(end.value.code, int)
    return end.value.code, ElementTree.parse(out).getroot()


def changed(trace: Trace, name: str, change: Callable[[Any], Any]) -> Trace:
    arrays = {key: array for key, array in trace.arrays.items() if not key.startswith("bounds/")}
    arrays[name] = change(trace.arrays[name].copy())
    return Trace({**trace.header, "backend": "torch"}, arrays)


def properties(element: ElementTree.Element) -> dict[str, str]:
    entries = [entry.attrib for entry in element.findall("properties/property")]
    return {entry["name"]: entry["value"] for entry in entries}


def test_equal_traces_pass_in_every_stage(tmp_path: Path) -> None:
    status, root = compared(oracle_trace(RECIPE), oracle_trace(RECIPE), tmp_path)
    assert status == 0
    stages = ["init", "loss", "gradients", "lr", "update", "parameters", "metrics"]
    assert [case.attrib["name"] for case in root.iter("testcase")] == stages
    assert root.attrib == {"tests": "7", "skipped": "0", "failures": "0", "errors": "0"}
    suite = root[0]
    assert properties(suite)["verdict"] == "identical"


def test_a_planted_fault_fails_its_stage_and_says_where(tmp_path: Path) -> None:
    truth = oracle_trace(RECIPE)

    def late(loss_T: Any) -> Any:
        loss_T[5] += 1e-3
        loss_T[7] += 1
        return loss_T

    status, root = compared(changed(truth, "updates/loss", late), truth, tmp_path)
    assert status == 1
    failed = [case for case in root.iter("testcase") if case.find("failure") is not None]
    assert [case.attrib["name"] for case in failed] == ["loss"]
    assert (root.attrib["failures"], root.attrib["errors"]) == ("1", "0")
    # where it begins, not where it is worst
    place = properties(failed[0])
    assert (place["stage"], place["update"], place["tensor"]) == ("loss", "5", "loss")
    assert float(place["a"]) - float(place["b"]) == pytest.approx(1e-3)
    failure = failed[0].find("failure")
    assert failure is not None
    assert failure.attrib["message"].startswith("the first divergence: at update 5, loss")


def test_nan_and_infinity_are_written(tmp_path: Path) -> None:
    truth = oracle_trace(RECIPE)
    broken = changed(truth, "updates/loss", lambda loss_T: loss_T * np.nan)
    status, root = compared(broken, truth, tmp_path)
    assert status == 1
    case = next(case for case in root.iter("testcase") if case.find("failure") is not None)
    assert (properties(case)["a"], properties(case)["ratio"]) == ("nan", "inf")


def test_what_cannot_be_compared_is_an_error_in_place_of_the_older_result(tmp_path: Path) -> None:
    truth = oracle_trace(RECIPE)
    assert compared(truth, truth, tmp_path)[0] == 0
    status, root = compared(oracle_trace(small_recipe(schedule__warmup=1)), truth, tmp_path)
    assert status == 2
    assert (root.attrib["tests"], root.attrib["errors"], root.attrib["failures"]) == ("1", "1", "0")
    error = root.find(".//error")
    assert error is not None
    assert "schedule.warmup 1 and 2" in error.attrib["message"]


def test_names_that_xml_cannot_hold_are_escaped(tmp_path: Path) -> None:
    names = ('a<b>&"\x07.trace', "b.trace")
    truth = oracle_trace(RECIPE)
    status, root = compared(truth, truth, tmp_path, names)
    assert status == 0
    assert root[0].attrib["name"].count('a<b>&"#x07.trace') == 1
    shorter = changed(truth, "updates/lr", lambda lr_T: lr_T[:-1])
    assert compared(shorter, truth, tmp_path, names)[0] == 2


def test_a_file_that_cannot_be_written_is_bad_input(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(tmp_path / "a")
    oracle_trace(RECIPE).save(tmp_path / "a")
    with pytest.raises(SystemExit) as end:
        main(["compare", path, path, "--junit", str(tmp_path / "no" / "out.xml")])
    assert end.value.code == 2
    assert "no/out.xml: no folder" in capsys.readouterr().err
