"""Plots as pictures, by matplotlib, which not everyone has installed."""

import io
from typing import TYPE_CHECKING, Any

from lockstep.errors import InputError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["new_figure", "png_of"]


def new_figure(asked: str, **options: Any) -> "Figure":
    """An empty figure, with matplotlib's options of one; `asked` begins the line that says what is missing.

    Raises:
        InputError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise InputError(
            f"{asked} needs the package {error.name}, which is not installed: pip install 'lockstep[png]'"
        ) from None
    return Figure(**options, layout="constrained")


def png_of(figure: "Figure") -> bytes:
    """The figure as the bytes of a .png file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()
