"""A comparison as JUnit XML, for a build server: one test case for each stage."""

import re
from collections.abc import Mapping
from dataclasses import asdict
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from lockstep.diagnose.compare import Comparison, Difference
from lockstep.diagnose.operations import OperationDifference
from lockstep.diagnose.verdict import describe_difference, describe_limit
from lockstep.files.outputs import xml
from lockstep.printable import LAYOUT, printable

__all__ = [
    "JUNIT",
    "difference_properties",
    "junit_comparison",
    "junit_error",
    "operation_properties",
]

JUNIT = xml("lockstep", "testsuites", 'classname="lockstep"')
NOT_IN_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def difference_properties(difference: Difference) -> dict[str, str]:
    """The fields of a difference as text without loss: numbers in full, the element as a list."""
    return {
        "stage": difference.stage,
        "update": str(difference.update),
        "tensor": difference.tensor,
        "element": str(list(difference.element)),
        "a": repr(difference.a),
        "b": repr(difference.b),
        "bound": repr(difference.bound),
        "ratio": repr(difference.ratio),
    }


def operation_properties(operation: OperationDifference) -> dict[str, str]:
    """The fields of an operation as text."""
    return {f"operation.{name}": value for name, value in asdict(operation).items()}


def junit_comparison(
    comparison: Comparison, names: tuple[str, str], operation: OperationDifference | None = None
) -> bytes:
    """The XML of a comparison.

    It has a test case for each stage that was compared, in causal order. A stage beyond its bound
    is a failure. Where not everything was judged, one more case is an error.

    Args:
        comparison: what to write.
        names: the names of the two sides, for the name of the suite.
        operation: the first operation whose result differs, where it is known.
    """
    cases = []
    for stage, worst in comparison.worst.items():
        difference = worst
        prefix = ""
        first = comparison.first
        if first is not None and first.stage == stage:
            # where the stage begins to differ says more than where it differs most
            difference = first
            prefix = "the first divergence: "
        case = Element("testcase", classname="lockstep", name=stage)
        _properties(case, difference_properties(difference))
        if not worst.ratio <= 1:
            text = _clean(prefix + describe_difference(difference))
            SubElement(case, "failure", type="diverged", message=text).text = text
        cases.append(case)
    properties = {"verdict": comparison.verdict, "arrays compared": str(comparison.compared)}
    if operation is not None:
        properties |= operation_properties(operation)
    if comparison.limit is not None:
        text = _clean(describe_limit(comparison.limit))
        properties["judged updates"] = str(max(comparison.limit.update, 0))
        case = Element("testcase", classname="lockstep", name="horizon")
        SubElement(case, "error", type="inconclusive", message=text).text = text
        cases.append(case)
    return _document(names, cases, properties)


def junit_error(message: str, names: tuple[str, str]) -> bytes:
    """The XML of traces that cannot be compared: one test case that is an error."""
    case = Element("testcase", classname="lockstep", name="comparison")
    SubElement(case, "error", type="InputError", message=_clean(message)).text = _clean(message)
    return _document(names, [case], {"verdict": "none"})


def _document(names: tuple[str, str], cases: list[Element], properties: Mapping[str, str]) -> bytes:
    counts = {"tests": str(len(cases)), "skipped": "0"}
    for kind in ("failure", "error"):
        counts[f"{kind}s"] = str(sum(case.find(kind) is not None for case in cases))
    root = Element("testsuites", counts)
    suite = SubElement(root, "testsuite", {"name": _clean(" against ".join(names)), **counts})
    _properties(suite, properties)
    suite.extend(cases)
    indent(root)
    return bytes(tostring(root, encoding="utf-8", xml_declaration=True)) + b"\n"


def _properties(parent: Element, values: Mapping[str, str]) -> None:
    properties = SubElement(parent, "properties")
    for name, value in values.items():
        SubElement(properties, "property", name=name, value=_clean(value))


def _clean(text: str) -> str:
    """The text with codes for what XML 1.0 cannot hold, and escapes for what else does not print.

    The library escapes markup.
    """
    return printable(NOT_IN_XML.sub(lambda match: f"#x{ord(match[0]):02X}", text), LAYOUT)
