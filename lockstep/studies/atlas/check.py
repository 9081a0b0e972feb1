"""Whether the pages of the atlas still hold: each runs in a process of its own, and its figures are
compared.
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
    "describe_check",
    "installed_versions",
    "run_apart",
]

LIMIT_S = 180  # for one page, on a busy machine
SETTINGS = {
    "JAX_PLATFORMS": "cpu",
    "CUDA_VISIBLE_DEVICES": "",
    "PYTHONNOUSERSITE": "1",
    "OMP_NUM_THREADS": "1",
}
"""The figures are those of a CPU."""

Outcome = np.ndarray | str
"""What code assigned, in float64; or `raises NAME`."""


@dataclass(frozen=True)
class Moved:
    """A figure that is not the recorded one. `label` is divergence or residual."""

    label: str
    recorded: str
    now: str


@dataclass(frozen=True)
class Check:
    """One page with one set of versions: what moved, or why it could not be run."""

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
    """Why code gave nothing."""

    text: str


def installed_versions() -> dict[str, str]:
    """Package -> version, without a build's name, of the frameworks that are installed."""
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
        report: told how many pages are done.
    """
    cases = [page.case_with(versions) for page in pages]
    codes = [
        [Code(part.variable, part.code) for part in case.snippets] if case else [] for case in cases
    ]
    outcomes = run_apart(codes, report)
    checks = []
    for page, case, outcome in zip(pages, cases, outcomes):
        if case is None:
            checks.append(Check(page, None, fault="has no figures for these versions"))
        else:
            checks.append(check_case(page, case, *outcome))
    return checks


def check_elsewhere(
    cases: Sequence[tuple[Page, Case]],
    here: Sequence[Sequence[Outcome | Fault]],
    backend: str,
    python: Path,
    report: Callable[[int], None],
) -> list[Check]:
    """Hold pages, as they are for what is installed here, against other versions of one framework.

    Args:
        cases: pages with what they say for the versions here.
        here: what the code of each gives here.
        backend: whose code, torch's or jax's, is run there.
        python: the interpreter there.
        report: told how many pages are done.
    """
    theirs = [[_side(part.code) == backend for part in case.snippets] for _, case in cases]
    codes = [
        [
            Code(part.variable, part.code)
            for part, is_theirs in zip(case.snippets, chosen)
            if is_theirs
        ]
        for (_, case), chosen in zip(cases, theirs)
    ]
    checks = []
    for (page, case), chosen, known, there in zip(
        cases, theirs, here, run_apart(codes, report, python=python)
    ):
        fresh = iter(there)
        outcomes = [
            next(fresh) if is_theirs else outcome for is_theirs, outcome in zip(chosen, known)
        ]
        checks.append(check_case(page, case, *outcomes))
    return checks


def _side(code: str) -> str:
    """Whose code it is; none of the atlas imports both."""
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
    """Compare what the code of a page gave with the figures on it."""
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
    """A line for each figure that moved, or the one reason why the page could not be run."""
    if check.fault:
        return [check.fault]
    rounding = ("0", f"below {SMALLEST:.0e}")
    lines = []
    for moved in check.moved:
        told = f"{moved.label} {moved.now}, recorded {moved.recorded}"
        is_rounding = moved.now in rounding
        if moved.label == "divergence" and is_rounding:
            told += ": the naive port is right now"
        elif moved.label == "residual" and not is_rounding:
            told += ": the right port is off"
        lines.append(told)
    return lines


def run_apart(
    pages: Sequence[Sequence[Code]],
    report: Callable[[int], None],
    *,
    python: Path = Path(sys.executable),
) -> list[list[Outcome | Fault]]:
    """What the code of each page gives: a process for each, not from the present folder, and within
    a time.

    Args:
        pages: the code of each, in the order to run it.
        report: told how many pages are done.
        python: the interpreter of an environment that has NumPy.
    """
    # the script alone, not `-m`: the environment need not have lockstep
    script = Path(lockstep.studies.atlas.figures.__file__)
    everything = "\n".join(code.text for codes in pages for code in codes)
    packages = [package for package in FRAMEWORKS if _imports(everything, package)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("JAX_")}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / "pages").write_text(json.dumps(pages))
        with (
            (folder / "pages").open() as stdin,
            (folder / "errors").open("w+", errors="replace") as stderr,
        ):
            process = subprocess.Popen(
                [str(python), "-P", str(script), str(folder), str(LIMIT_S), *packages],
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
                    for done, _ in enumerate(process.stdout, 1):
                        report(done)
                except BaseException:
                    os.killpg(process.pid, signal.SIGKILL)  # it, and the pages that it runs
                    raise
            stderr.seek(0)
            words = _last_words(process.returncode, stderr.read())
        return [_outcomes(folder, number, len(codes), words) for number, codes in enumerate(pages)]


def _outcomes(folder: Path, number: int, count: int, words: str) -> list[Outcome | Fault]:
    """What a page's process left: its outcomes, how it died, or nothing, where `words` are the last
    of its parent.
    """
    died = folder / f"{number}.died"
    if died.exists():
        status = int(died.read_text())
        took_too_long = status == -signal.SIGALRM
        return [
            Fault(f"took more than {LIMIT_S} s" if took_too_long else _last_words(status, ""))
        ] * count
    if not (folder / str(number)).exists():
        return [Fault(words)] * count
    return [_outcome(outcome) for outcome in json.loads((folder / str(number)).read_text())]


def _last_words(status: int, errors: str) -> str:
    if status < 0:
        return f"ended by {signal.Signals(-status).name}"
    lines = errors.strip().splitlines()
    return lines[-1] if lines else f"ended with exit status {status}"


def _outcome(found: Mapping[str, object]) -> Outcome | Fault:
    if "fault" in found:
        return Fault(str(found["fault"]))
    value = found["value"]
    return value if isinstance(value, str) else np.asarray(value, np.float64)
