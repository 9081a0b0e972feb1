"""A comparison as JUnit XML, for a build server to show: one test case a stage."""

import re
from collections.abc import Mapping
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from lockstep.diagnose.compare import Comparison, Difference
from lockstep.diagnose.verdict import describe_difference, describe_limit
from lockstep.files.outputs import xml
from lockstep.printable import LAYOUT, printable

__all__ = ["JUNIT", "difference_properties", "junit_comparison", "junit_error"]

JUNIT = xml("lockstep", "testsuites", 'classname="lockstep"')
NOT_IN_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def difference_properties(found: Difference) -> dict[str, str]:
    """The fields of a difference, as text that survives a round trip: numbers in full, the element
    as in NumPy.
    """
    return {
        "stage": found.stage,
        "update": str(found.update),
        "tensor": found.tensor,
        "element": str(list(found.element)),
        "a": repr(found.a),
        "b": repr(found.b),
        "bound": repr(found.bound),
        "ratio": repr(found.ratio),
    }


def junit_comparison(found: Comparison, names: tuple[str, str]) -> bytes:
    """A test case for each stage that was compared, in causal order; a stage beyond its bound is a
    failure. Where not all was judged, one more that is an error.

    Args:
        found: the comparison.
        names: of the two sides, as the suite's name gives them.
    """
    cases = []
    for stage, worst in found.worst.items():
        # where the stage begins to differ says more than where it differs most
        shown = found.first if found.first is not None and found.first.stage == stage else worst
        case = Element("testcase", classname="lockstep", name=stage)
        _properties(case, difference_properties(shown))
        if not worst.ratio <= 1:
            first = "the first divergence: " if shown is found.first else ""
            text = _clean(first + describe_difference(shown))
            SubElement(case, "failure", type="diverged", message=text).text = text
        cases.append(case)
    properties = {"verdict": found.verdict, "arrays compared": str(found.compared)}
    if found.limit is not None:
        text = _clean(describe_limit(found.limit))
        properties["judged updates"] = str(max(found.limit.update, 0))
        case = Element("testcase", classname="lockstep", name="horizon")
        SubElement(case, "error", type="inconclusive", message=text).text = text
        cases.append(case)
    return _document(names, cases, properties)


def junit_error(message: str, names: tuple[str, str]) -> bytes:
    """One test case that could not be judged: the traces cannot be compared."""
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
    """The text with what XML 1.0 cannot hold written as its code, and what else does not print
    escaped; the rest the library escapes."""
    return printable(NOT_IN_XML.sub(lambda found: f"#x{ord(found[0]):02X}", text), LAYOUT)
