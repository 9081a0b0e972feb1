"""Runs the code on the atlas pages and measures its figures; `python -m parity_tests.run_atlas` writes them."""

import re
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import jax
import numpy as np
import torch

from lockstep.atlas import Page, Snippet, atlas_folder, index_of, load_atlas, parse_page

SMALLEST = 1e-12  # what is below is rounding of float64, and differs from machine to machine


@contextmanager
def settings_restored() -> Iterator[None]:
    """A snippet starts from the frameworks' defaults and leaves what was set before."""
    x64, dtype, state = jax.config.jax_enable_x64, torch.get_default_dtype(), torch.get_rng_state()
    jax.config.update("jax_enable_x64", False)
    torch.set_default_dtype(torch.float32)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a trap that warns is one still; what is going away must not be shown
            warnings.simplefilter("error", DeprecationWarning)
            warnings.simplefilter("error", FutureWarning)
            yield
    finally:
        jax.config.update("jax_enable_x64", x64)
        torch.set_default_dtype(dtype)
        torch.set_rng_state(state)


def run_snippet(snippet: Snippet) -> np.ndarray | str:
    """What a snippet assigns, in float64; or `raises NAME`."""
    namespace: dict[str, Any] = {"__name__": "atlas"}
    with settings_restored():
        code = compile(snippet.code, f"<{snippet.heading}>", "exec")
        try:
            exec(code, namespace)
        except Exception as error:
            if snippet.variable != "naive":
                raise
            return f"raises {type(error).__name__}"
        return as_float64(namespace[snippet.variable])


def as_float64(value: Any) -> np.ndarray:
    if isinstance(value, torch.Tensor):
        return value.detach().to(torch.float64).numpy()
    return np.asarray(value).astype(np.float64)


def distance(value: np.ndarray | str, reference: np.ndarray) -> float | str:
    """max |value - reference| / max |reference|, absolute where the reference is 0; or why there is none."""
    if isinstance(value, str):
        return value
    assert value.shape == reference.shape, f"shape {value.shape}, the reference has {reference.shape}"
    assert reference.size
    if not (np.isfinite(value) == np.isfinite(reference)).all():
        return "not finite"
    finite = np.isfinite(reference)
    largest = np.abs(reference[finite]).max()
    return float(np.abs(value[finite] - reference[finite]).max() / (largest or 1.0))


def measure(page: Page) -> tuple[float | str, float | str]:
    """Divergence and residual of a page's code."""
    reference = run_snippet(page.reference)
    assert isinstance(reference, np.ndarray)
    naive, right = run_snippet(page.naive), run_snippet(page.right)
    return distance(naive, reference), distance(right, reference)


def states(figure: str, found: float | str) -> bool:
    """Whether a figure, as written on a page, says what was found."""
    if isinstance(found, str) or found == 0:
        return figure == str(found) or (found == 0 and figure in ("0", f"below {SMALLEST:.0e}"))
    bound = re.fullmatch(r"below (1e-\d\d)", figure)
    if bound:
        largest = float(bound[1])
        return found < largest and (largest == SMALLEST or found > largest / 1000)
    # a figure on the edge between two must not hinge on the last bits
    return found >= SMALLEST and figure in {f"{found * edge:.1e}" for edge in (1 - 1e-4, 1, 1 + 1e-4)}


def write_figure(figure: str, found: float | str) -> str:
    """The figure to write: the old one where it still holds."""
    if states(figure, found):
        return figure
    if isinstance(found, str):
        return found
    return f"below {SMALLEST:.0e}" if found < SMALLEST else f"{found:.1e}"


def with_figures(page: Page, found: tuple[float | str, float | str]) -> Page:
    """The page with the figures that were found."""
    text = page.text
    for label, figure, value in (("Divergence", page.divergence, found[0]), ("Residual", page.residual, found[1])):
        text = text.replace(f"\n{label}: {figure}\n", f"\n{label}: {write_figure(figure, value)}\n")
    return parse_page(page.slug, text)


def main(slugs: Sequence[str]) -> None:
    """Rewrite the figures of some pages (none named: all; `README`: no page), then the index."""
    folder = atlas_folder()
    for page in load_atlas():
        if slugs and page.slug not in slugs:
            continue
        found = measure(page)
        written = with_figures(page, found)
        (folder / f"{page.slug}.md").write_text(written.text)
        print(f"{page.slug}: divergence {found[0]} ({written.divergence}), residual {found[1]} ({written.residual})")
    (folder / "README.md").write_text(index_of(load_atlas()))


if __name__ == "__main__":
    main(sys.argv[1:])
