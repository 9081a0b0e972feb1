"""Whether the pages of the atlas still hold.

Each page runs in a process of its own, and what it gives is compared with the figures on it.
"""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from itertools import chain
from pathlib import Path

import numpy as np

import lockstep.studies.atlas.figures
from lockstep.studies.atlas.figures import SMALLEST, Code, distance, states, write_figure
from lockstep.studies.atlas.pages import FRAMEWORKS, Case, Page

__all__ = [
    "Check",
    "Fault",
    "Moved",
    "Outcome",
    "check_case",
    "check_elsewhere",
    "check_pages",
    "codes_of",
    "describe_check",
    "installed_versions",
    "run_apart",
]

LIMIT_S = 180
"""Seconds that one page may take, on a busy machine."""
SETTINGS = {
    "JAX_PLATFORMS": "cpu",
    "CUDA_VISIBLE_DEVICES": "",
    "PYTHONNOUSERSITE": "1",
    "OMP_NUM_THREADS": "1",
}
"""Variables of the pages' processes: the figures are those of a CPU."""

Outcome = np.ndarray | str
"""What code assigned, in float64, or `raises NAME`."""


@dataclass(frozen=True)
class Moved:
    """A figure that is not the recorded one."""

    label: str
    """divergence or residual"""
    recorded: str
    now: str


@dataclass(frozen=True)
class Check:
    """One page with one set of versions: what moved, or why it could not run."""

    page: Page
    case: Case | None
    moved: tuple[Moved, ...] = ()
    fault: str = ""

    @property
    def status(self) -> str:
        """`holds`, `moved` or `cannot run`."""
        if self.fault:
            return "cannot run"
        return "moved" if self.moved else "holds"


@dataclass(frozen=True)
class Fault:
    """The reason why code gave nothing."""

    text: str


def installed_versions() -> dict[str, str]:
    """Package -> version, without the name of a build, of each framework that is installed."""
    versions = {}
    for package in FRAMEWORKS:
        try:
            versions[package] = version(package).partition("+")[0]
        except PackageNotFoundError:
            continue
    return versions


def check_pages(
    pages: Sequence[Page], versions: Mapping[str, str], report: Callable[[int], None]
) -> list[Check]:
    """Run pages with what is installed, as many at once as there are cores.

    Args:
        pages: each runs in a process of its own, in an empty folder.
        versions: package -> version, as `installed_versions` has them.
        report: takes how many pages have run.
    """
    cases = [page.case_with(versions) for page in pages]
    outcomes = run_apart([codes_of(case) if case else [] for case in cases], report)
    checks = []
    for page, case, outcome in zip(pages, cases, outcomes):
        if case is None:
            checks.append(Check(page, None, fault="has no figures for these versions"))
        else:
            checks.append(check_case(page, case, *outcome))
    return checks


def codes_of(case: Case) -> list[Code]:
    """The code of a case, in the order of the page."""
    return [Code(snippet.variable, snippet.code) for snippet in case.snippets]


def check_elsewhere(
    cases: Sequence[tuple[Page, Case]],
    here: Sequence[Sequence[Outcome | Fault]],
    backend: str,
    python: Path,
    report: Callable[[int], None],
) -> list[Check]:
    """Check pages, as they are for the versions here, with other versions of one framework.

    Args:
        cases: pages with what they say for the versions here.
        here: what each page's code gives here.
        backend: the framework, torch or jax, whose code runs there.
        python: the interpreter there.
        report: takes how many pages have run.
    """
    codes = []
    for _, case in cases:
        codes.append([code for code in codes_of(case) if _side(code.text) == backend])
    there = run_apart(codes, report, python=python)
    checks = []
    for (page, case), here_outcomes, there_outcomes in zip(cases, here, there):
        fresh = iter(there_outcomes)
        outcomes = [
            next(fresh) if _side(snippet.code) == backend else outcome
            for snippet, outcome in zip(case.snippets, here_outcomes)
        ]
        checks.append(check_case(page, case, *outcomes))
    return checks


def _side(code: str) -> str:
    """The framework whose code it is; no code of the atlas imports both."""
    return "torch" if _imports(code, "torch") else "jax"


def _imports(code: str, package: str) -> bool:
    return re.search(rf"^\s*(?:import|from) {package}\b", code, re.MULTILINE) is not None


def check_case(
    page: Page,
    case: Case,
    reference: Outcome | Fault,
    naive: Outcome | Fault,
    right: Outcome | Fault,
) -> Check:
    """Compare what a page's code gave with the figures on the page."""
    for outcome in (reference, naive, right):
        if isinstance(outcome, Fault):
            return Check(page, case, fault=outcome.text)
    assert isinstance(reference, np.ndarray)
    moved = []
    for label, figure, outcome in (
        ("divergence", case.divergence, naive),
        ("residual", case.residual, right),
    ):
        assert not isinstance(outcome, Fault)
        value = distance(outcome, reference)
        if not states(figure, value):
            moved.append(Moved(label, figure, write_figure(figure, value)))
    return Check(page, case, tuple(moved))


def describe_check(check: Check) -> list[str]:
    """A line for each figure that moved, or the one reason why the page could not run."""
    if check.fault:
        return [check.fault]
    rounding = ("0", f"below {SMALLEST:.0e}")
    lines = []
    for moved in check.moved:
        line = f"{moved.label} {moved.now}, recorded {moved.recorded}"
        is_rounding = moved.now in rounding
        if moved.label == "divergence" and is_rounding:
            line += ": the naive port is right now"
        elif moved.label == "residual" and not is_rounding:
            line += ": the right port is off"
        lines.append(line)
    return lines


def run_apart(
    pages: Sequence[Sequence[Code]],
    report: Callable[[int], None],
    *,
    python: Path = Path(sys.executable),
) -> list[list[Outcome | Fault]]:
    """What the code of each page gives.

    Each page has a process and a time limit of its own. The present folder is not importable.

    Args:
        pages: the code of each page, in the order to run it.
        report: takes how many pages have run.
        python: the interpreter of an environment that has NumPy.
    """
    # the script itself, not `-m`, because the environment need not have lockstep
    script = Path(lockstep.studies.atlas.figures.__file__)
    all_code = "\n".join(code.text for code in chain.from_iterable(pages))
    packages = [package for package in FRAMEWORKS if _imports(all_code, package)]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / "pages").write_text(json.dumps(pages))
        command = [str(python), "-P", str(script), str(folder), str(LIMIT_S), *packages]
        words = _run_script(command, folder, report)
        return [_outcomes(folder, number, len(codes), words) for number, codes in enumerate(pages)]


def _run_script(command: Sequence[str], folder: Path, report: Callable[[int], None]) -> str:
    """Run the script on the file `pages` of the folder, and return its last words."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("JAX_")}
    with (
        (folder / "pages").open() as stdin,
        (folder / "errors").open("w+", errors="replace") as stderr,
    ):
        process = subprocess.Popen(
            command,
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=stderr,
            cwd=folder,
            env=environment | SETTINGS,
            text=True,
            start_new_session=True,
        )
        with process:
            assert process.stdout is not None
            try:
                for count, _ in enumerate(process.stdout, 1):
                    report(count)
            except BaseException:
                os.killpg(process.pid, signal.SIGKILL)  # the script and the pages that it runs
                raise
        stderr.seek(0)
        return _last_words(process.returncode, stderr.read())


def _outcomes(folder: Path, number: int, count: int, words: str) -> list[Outcome | Fault]:
    """The outcomes of a page.

    Args:
        folder: where the page's process wrote them, or how it died.
        number: the page.
        count: how many outcomes there are.
        words: the last words of the script, for a page that did not run.
    """
    died = folder / f"{number}.died"
    if died.exists():
        status = int(died.read_text())
        took_too_long = status == -signal.SIGALRM
        text = f"took more than {LIMIT_S} s" if took_too_long else _last_words(status, "")
        return [Fault(text)] * count
    outcomes = folder / str(number)
    if not outcomes.exists():
        return [Fault(words)] * count
    return [_outcome(outcome) for outcome in json.loads(outcomes.read_text())]


def _last_words(status: int, errors: str) -> str:
    if status < 0:
        return f"ended by {signal.Signals(-status).name}"
    lines = errors.strip().splitlines()
    return lines[-1] if lines else f"ended with exit status {status}"


def _outcome(content: Mapping[str, object]) -> Outcome | Fault:
    if "fault" in content:
        return Fault(str(content["fault"]))
    value = content["value"]
    return value if isinstance(value, str) else np.asarray(value, np.float64)
