"""Runs the pages of docs/atlas with what is installed, and writes their figures and the index.

`make atlas` runs it.
"""

import sys
from collections.abc import Mapping, Sequence

import numpy as np
from packaging.version import Version

from lockstep.studies.atlas.check import installed_versions
from lockstep.studies.atlas.figures import Code, distance, run_code, states, write_figure
from lockstep.studies.atlas.pages import (
    Case,
    Page,
    Snippet,
    atlas_folder,
    describe_versions,
    index_of,
    load_atlas,
    parse_page,
)

Figures = tuple[float | str, float | str]
"""The divergence and the residual of a page."""


class MovedError(Exception):
    """A figure holds for other versions, and not for those that are installed."""


def run_snippet(snippet: Snippet) -> np.ndarray | str:
    """What a snippet assigns, in float64, or `raises NAME`. A deprecation warning is an error."""
    return run_code(Code(snippet.variable, snippet.code), strict=True)


def measure(case: Case) -> Figures:
    """The divergence and the residual of a page's code."""
    reference = run_snippet(case.reference)
    assert isinstance(reference, np.ndarray)
    assert reference.size
    naive = run_snippet(case.naive)
    right = run_snippet(case.right)
    return distance(naive, reference), distance(right, reference)


def with_figures(page: Page, values: Figures, versions: Mapping[str, str]) -> Page:
    """The page with these figures, and with the versions that gave them.

    Raises:
        MovedError: these versions give another figure than the versions recorded.
    """
    case = page.case_with(versions)
    assert case is not None
    own = {package: versions[package] for package in page.measured}
    is_known = all(number in page.measured[package] for package, number in own.items())
    has_other_versions = any(len(numbers) > 1 for numbers in page.measured.values())
    text = page.text
    for label, figure, value in (
        ("Divergence", case.divergence, values[0]),
        ("Residual", case.residual, values[1]),
    ):
        if states(figure, value):
            continue
        written = write_figure(figure, value)
        if not is_known or has_other_versions:
            raise MovedError(
                f"{page.slug}: {label.lower()} {written}, recorded {figure}: write by hand which "
                "version has which figure, as in 'Residual: 1.0e+00 (torch>=2.14)' or "
                "'## The right port (torch>=2.14)'"
            )
        text = text.replace(f"\n{label}: {figure}\n", f"\n{label}: {written}\n")
    measured = {
        package: tuple(sorted({*numbers, own[package]}, key=Version))
        for package, numbers in page.measured.items()
    }
    old = f"**Measured** {describe_versions(page.measured)}\n"
    new = f"**Measured** {describe_versions(measured)}\n"
    return parse_page(page.slug, text.replace(old, new, 1))


def main(slugs: Sequence[str]) -> int:
    """Write the figures of these pages anew, then the index.

    Args:
        slugs: names of pages; none for all pages, `README` for the index alone.

    Returns:
        the exit status: 1 where a figure moved, else 0.
    """
    folder = atlas_folder()
    versions = installed_versions()
    status = 0
    for page in load_atlas():
        case = page.case_with(versions)
        if case is None or (slugs and page.slug not in slugs):
            continue
        values = measure(case)
        try:
            updated = with_figures(page, values, versions)
        except MovedError as error:
            print(error)
            status = 1
            continue
        (folder / f"{page.slug}.md").write_text(updated.text)
        print(f"{page.slug}: divergence {values[0]}, residual {values[1]}")
    (folder / "README.md").write_text(index_of(load_atlas()))
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
