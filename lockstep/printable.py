"""Text by others, made fit to be shown: it moves no cursor and changes no title or direction."""

__all__ = ["echo", "printable"]

LAYOUT = "\n\t"
JOINERS = "\u200c\u200d"
"""Zero-width joiners: letters of many scripts, and emoji, need them."""


def echo(text: object, *, err: bool = False, nl: bool = True) -> None:
    """Write text to standard output or standard error; its line breaks and tabs stay."""
    # imported here because every pytest loads this module, by way of the errors'
    import click

    click.echo(printable(text, LAYOUT), err=err, nl=nl)


def printable(text: object, keep: str = "") -> str:
    """The text with an escape for each character that does not print: `\\x1b`, `\\n`, `\\u202e`.

    Args:
        text: a name, a path or a message that may hold characters by others.
        keep: characters that stay, such as the line breaks of our own text.
    """
    whole = str(text)
    if whole.isprintable():
        return whole
    return "".join(_shown(character, keep + JOINERS) for character in whole)


def _shown(character: str, keep: str) -> str:
    if character.isprintable() or character in keep:
        return character
    return character.encode("unicode_escape").decode("ascii")
