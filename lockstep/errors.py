"""The exceptions that a person has to act on."""

from collections.abc import Mapping

__all__ = ["InputError", "ParityError"]


class InputError(Exception):
    """Bad input: one line that names the field, file or column. The command line exits with 2."""


class ParityError(AssertionError):
    """Two loops part: the message says where, in words; `properties`, for machines."""

    def __init__(self, message: str, properties: Mapping[str, str]) -> None:
        super().__init__(message)
        self.properties = properties
