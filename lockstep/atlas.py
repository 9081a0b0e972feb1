"""The porting atlas: one page a trap, each with code that runs and the figures that it gave; parse, search, index."""

import difflib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from lockstep.errors import InputError

__all__ = ["GROUPS", "Page", "Snippet", "atlas_folder", "find_pages", "index_of", "load_atlas", "parse_page"]

GROUPS = ("schedule", "optimizer", "gradient", "loss", "layer", "init", "precision", "resume")

FACTS = re.compile(r"\*\*Group\*\* (?P<group>\w+) · \*\*Knob\*\* (?P<knob>.+?) · \*\*Threads\*\* (?P<threads>.+)")
CODE = re.compile(r"\n*```python\n(?P<code>.*?)```\n*(?P<figure>.*?)\s*", re.DOTALL)
# A word of a search may be written with any of these between its parts: weight_decay, weight-decay, weight decay.
SEPARATORS = re.compile(r"[-_\s]+")


@dataclass(frozen=True)
class Snippet:
    """Code of a page under its heading."""

    heading: str
    code: str
    variable: str
    """What the code assigns: `reference`, `naive` or `right`."""


@dataclass(frozen=True)
class Page:
    """One trap."""

    slug: str
    """The file's name without its suffix."""
    title: str
    group: str
    """One of `GROUPS`."""
    knobs: tuple[str, ...]
    """Recipe fields (`optimizer.eps`) or commands (`lockstep convert`) that make the choice explicit; may be empty."""
    threads: tuple[tuple[str, str], ...]
    """Where people met it in public: text and address."""
    lead: str
    """What goes wrong, in a sentence or two."""
    reference: Snippet
    naive: Snippet
    right: Snippet
    divergence: str
    """Distance of the naive port from the reference, as written on the page."""
    residual: str
    """Distance of the right port from the reference, as written on the page."""
    why: str
    text: str
    """The whole page, Markdown."""

    @property
    def snippets(self) -> tuple[Snippet, Snippet, Snippet]:
        """The code in the order of the page."""
        return self.reference, self.naive, self.right


def atlas_folder() -> Path:
    """Where the pages lie, in a clone as in an installed package.

    Raises:
        InputError: neither has them.
    """
    package = Path(__file__).parent
    for folder in (package / "atlas_pages", package.parent / "docs" / "atlas"):
        if folder.is_dir():
            return folder
    raise InputError(f"atlas: no pages in {package / 'atlas_pages'}; install lockstep again")


def load_atlas(folder: Path | None = None) -> tuple[Page, ...]:
    """Every page of a folder (default: the atlas that comes with lockstep), by group, then by title.

    Raises:
        InputError: a page that does not have the shape of one; names file and part.
    """
    paths = (path for path in (folder or atlas_folder()).glob("*.md") if path.name != "README.md")
    pages = (parse_page(path.stem, path.read_text(encoding="utf-8")) for path in paths)
    return tuple(sorted(pages, key=lambda page: (GROUPS.index(page.group), page.title.lower())))


def parse_page(slug: str, text: str) -> Page:
    """Read a page.

    Args:
        slug: the file's name without its suffix.
        text: title, facts, lead, then the sections: reference, naive port, right port, why.

    Raises:
        InputError: a part is missing or has another shape; names it.
    """
    head, *sections = re.split(r"^## ", text, flags=re.MULTILINE)
    titled = re.fullmatch(r"# (?P<title>[^\n]+)\n\n(?P<facts>[^\n]+)\n\n(?P<lead>.+?)\s*", head, re.DOTALL)
    if titled is None:
        raise InputError(f"{slug}: must begin with a title, the facts and the lead, an empty line between")
    facts = FACTS.fullmatch(titled["facts"])
    if facts is None or facts["group"] not in GROUPS:
        raise InputError(f"{slug}: facts must be **Group** ({', '.join(GROUPS)}) · **Knob** · **Threads**")
    knobs, threads = re.findall(r"`([^`]+)`", facts["knob"]), re.findall(r"\[([^]]+)\]\(([^)]+)\)", facts["threads"])
    for name, found in (("knob", knobs), ("threads", threads)):
        if not found and facts[name] != "-":
            raise InputError(f"{slug}: {name}: must be `names` or [links](address), or - for none")
    headings, bodies = zip(*(section.partition("\n")[::2] for section in sections)) if sections else ((), ())
    if headings[1:] != ("The naive port", "The right port", "Why") or not headings[0].startswith(("PyTorch", "JAX")):
        raise InputError(f"{slug}: sections must be PyTorch or JAX, The naive port, The right port, Why")
    snippets, figures = [], []
    for heading, body, variable, label in zip(
        headings, bodies, ("reference", "naive", "right"), ("", "Divergence: ", "Residual: ")
    ):
        block = CODE.fullmatch(body)
        if block is None or not block["figure"].startswith(label) or bool(block["figure"]) != bool(label):
            follows = f", then the line '{label.strip()}'" if label else " alone"
            raise InputError(f"{slug}: {heading}: must be one block of python{follows}")
        snippets.append(Snippet(heading, block["code"], variable))
        figures.append(block["figure"].removeprefix(label))
    why = bodies[3].strip()
    if not why:
        raise InputError(f"{slug}: Why: must not be empty")
    return Page(
        slug=slug,
        title=titled["title"],
        group=facts["group"],
        knobs=tuple(knobs),
        threads=tuple(threads),
        lead=" ".join(titled["lead"].split()),
        reference=snippets[0],
        naive=snippets[1],
        right=snippets[2],
        divergence=figures[1],
        residual=figures[2],
        why=why,
        text=text,
    )


def find_pages(pages: Sequence[Page], words: Iterable[str]) -> list[Page]:
    """The pages in which every word is found, the best first; a page's slug finds that page alone.

    Raises:
        InputError: no such page; names the nearest word that finds one.
    """
    asked = [_plain(word) for word in words]
    for page in pages:
        if _plain(page.slug) == " ".join(asked):
            return [page]
    scored = [(min((_score(page, word) for word in asked), default=0), page) for page in pages]
    found = [page for score, page in sorted(scored, key=lambda item: -item[0]) if score > 0]
    if not found:
        raise InputError(f"atlas: no page on {' '.join(asked)!r}{_nearest(' '.join(asked), pages)}")
    return found


def index_of(pages: Sequence[Page]) -> str:
    """The index as Markdown: a table for each group, a row a page."""
    lines = [
        "# The porting atlas",
        "",
        f"{len(pages)} traps between PyTorch and JAX/Flax/Optax. A page shows the code on one side, the port that one "
        "would write",
        "first, and the port that does the same. All code on it runs in the tests, and the figures are what it gave:",
        "*divergence* and *residual* are the largest difference from the reference, relative to the reference's "
        "largest value.",
        "`lockstep atlas [WORD]` finds and prints a page.",
    ]
    for group in GROUPS:
        rows = [page for page in pages if page.group == group]
        if rows:
            lines += [
                "",
                f"## {group.capitalize()}",
                "",
                "| trap | knob | divergence | residual |",
                "|---|---|---|---|",
            ]
        for page in rows:
            knobs = ", ".join(f"`{knob}`" for knob in page.knobs)
            lines.append(f"| [{page.title}]({page.slug}.md) | {knobs} | {page.divergence} | {page.residual} |")
    return "\n".join(lines) + "\n"


def _plain(text: str) -> str:
    return SEPARATORS.sub(" ", text).strip().lower()


def _score(page: Page, word: str) -> int:
    """How well a page answers to a word: by its knob or group, its title, its lead, or somewhere in its text."""
    names = {page.group, *page.knobs, *(knob.rpartition(".")[2] for knob in page.knobs)}
    if word in {_plain(name) for name in names}:
        return 4
    for score, text in ((3, page.title + " " + page.slug), (2, page.lead), (1, page.text)):
        if word in _plain(text):
            return score
    return 0


def _nearest(word: str, pages: Sequence[Page]) -> str:
    known: set[str] = set()
    for page in pages:
        known |= {page.slug, page.group, *page.knobs, *re.findall(r"\w{3,}", page.title.lower())}
    close = difflib.get_close_matches(word, sorted(known), n=1, cutoff=0.5)
    return f"; did you mean {close[0]}?" if close else "; `lockstep atlas` lists them all"
