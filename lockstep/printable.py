"""Text that others wrote, fit to be shown: none of it moves a cursor, retitles a terminal or turns
its direction.
"""

__all__ = ["echo", "printable"]

LAYOUT = "\n\t"
JOINERS = "\u200c\u200d"
"""Zero-width joiners: letters of many scripts, and emoji, need them."""


def echo(text: object, *, err: bool = False, nl: bool = True) -> None:
    """Write text, its line breaks and tabs as they are, to standard output or standard error."""
    # here: pytest loads the module of the errors, and with it this one, in every environment
    import click

    click.echo(printable(text, LAYOUT), err=err, nl=nl)


def printable(text: object, keep: str = "") -> str:
    """The text with every character that does not print written as its escape: `\\x1b`, `\\n`,
    `\\u202e`.

    Args:
        text: a name, a path, a message: whatever holds characters of somebody else's.
        keep: characters that stay, as the line breaks of a text of our own.
    """
    whole = str(text)
    if whole.isprintable():
        return whole
    keep += JOINERS
    return "".join(c if c.isprintable() or c in keep else _escape(c) for c in whole)


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
