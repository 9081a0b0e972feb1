"""The one exception for input that a person has to mend."""

__all__ = ["InputError"]


class InputError(Exception):
    """Bad input: one line that names the field, file or column. The command line exits with 2."""
