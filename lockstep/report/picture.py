"""Plots as pictures, by matplotlib, which not everyone has installed."""

import io
from typing import TYPE_CHECKING, Any

from lockstep.errors import InputError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["new_figure", "png_of", "require_pictures"]


def new_figure(asked: str, **options: Any) -> "Figure":
    """An empty figure with matplotlib's options.

    Args:
        asked: what asked for it, as for `require_pictures`.
        options: of `matplotlib.figure.Figure`.

    Raises:
        InputError: as `require_pictures`.
    """
    require_pictures(asked)
    from matplotlib.figure import Figure

    return Figure(**options, layout="constrained")


def require_pictures(asked: str) -> None:
    """Refuse to go on without matplotlib.

    Args:
        asked: what asked for a picture, which begins the message: "--png:".

    Raises:
        InputError: matplotlib, or a package that it needs, is not installed.
    """
    try:
        import matplotlib.figure  # noqa: F401
    except ModuleNotFoundError as error:
        raise InputError(
            f"{asked} needs the package {error.name}, which is not installed: pip install "
            "'lockstep[png]'"
        ) from None


def png_of(figure: "Figure", writer: str) -> bytes:
    """The figure as the bytes of a .png file, which names the command that wrote it."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": writer})
    return buffer.getvalue()
