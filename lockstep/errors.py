"""The exceptions that a person has to act on."""

from collections.abc import Mapping

from lockstep.printable import LAYOUT, printable

__all__ = ["InputError", "ParityError", "RecorderWarning"]

LONGEST = 1600
"""Characters of the longest message; a name of any length may stand in one."""


class InputError(Exception):
    """Bad input: one line that names the field, file or column. The command line exits with 2."""

    def __str__(self) -> str:
        text = printable(super().__str__())
        if len(text) <= LONGEST:
            return text
        half = LONGEST // 2
        return f"{text[:half]} ... {text[-half:]}"


class ParityError(AssertionError):
    """Two loops part: the message says where in words, and `properties` say it for machines."""

    def __init__(self, message: str, properties: Mapping[str, str]) -> None:
        super().__init__(printable(message, LAYOUT))
        self.properties = properties


class RecorderWarning(UserWarning):
    """A loop goes on, and its trace will hold less than was asked for."""
