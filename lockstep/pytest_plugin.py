"""The pytest plugin: the fixture `parity`, and a failure that says where two loops part.

Every pytest in an environment with lockstep loads this module, so it imports nothing heavy before a
test asks for it.
"""

from collections.abc import Callable, Generator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from lockstep.errors import ParityError

if TYPE_CHECKING:
    from lockstep.diagnose.diagnosis import Diagnosis

__all__ = ["parity", "pytest_runtest_makereport"]


@pytest.fixture
def parity(tmp_path: Path) -> "Callable[..., Diagnosis]":
    """`lockstep.parity.assert_parity`, which keeps both traces in the test's `tmp_path`."""
    from lockstep.parity import assert_parity

    return partial(assert_parity, folder=tmp_path)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[Any]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Report loops that part by their story, not by the stack, with properties for JUnit."""
    error = call.excinfo.value if call.excinfo is not None else None
    if isinstance(error, ParityError):
        for name, value in error.properties.items():
            item.user_properties.append((f"lockstep.{name}", value))
    report = yield
    if isinstance(error, ParityError) and report.outcome == "failed":
        report.longrepr = str(error)
    return report
