"""The exceptions that a person has to act on."""

from collections.abc import Mapping

from lockstep.printable import LAYOUT, printable

__all__ = ["InputError", "ParityError", "RecorderWarning"]

LONGEST = 1600
"""Characters of a line about an input, which may hold a name of any length."""


class InputError(Exception):
    """Bad input: one line that names the field, file or column. The command line exits with 2."""

    def __str__(self) -> str:
        text = printable(super().__str__())
        return (
            text if len(text) <= LONGEST else f"{text[: LONGEST // 2]} ... {text[-LONGEST // 2 :]}"
        )


class ParityError(AssertionError):
    """Two loops part: the message says where, in words; `properties`, for machines."""

    def __init__(self, message: str, properties: Mapping[str, str]) -> None:
        super().__init__(printable(message, LAYOUT))
        self.properties = properties


class RecorderWarning(UserWarning):
    """A loop goes on, and its trace will hold less than was asked for."""
