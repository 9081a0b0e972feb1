"""The pages of the porting atlas, a page for each trap: parse, search, index.

A page has code that runs, and the figures that it gave.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, product
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.version import Version

from lockstep.backends import PACKAGES
from lockstep.errors import InputError
from lockstep.recipe.wording import near_miss

__all__ = [
    "FRAMEWORKS",
    "GROUPS",
    "Case",
    "Page",
    "Snippet",
    "atlas_folder",
    "describe_versions",
    "find_pages",
    "index_of",
    "load_atlas",
    "parse_page",
]

GROUPS = (
    "data",
    "schedule",
    "optimizer",
    "gradient",
    "loss",
    "layer",
    "init",
    "precision",
    "resume",
)
FRAMEWORKS = tuple(chain.from_iterable(PACKAGES.values()))
"""The packages whose versions decide what a page's code gives."""

HEAD = re.compile(r"# (?P<title>[^\n]+)\n\n(?P<facts>[^\n]+)\n\n(?P<lead>.+?)\s*", re.DOTALL)
FACTS = re.compile(
    r"\*\*Group\*\* (?P<group>\w+) · \*\*Knob\*\* (?P<knob>.+?) · \*\*Threads\*\* (?P<threads>.+)"
    r" · \*\*Measured\*\* (?P<measured>.+)"
)
MEASURED = re.compile(rf"({'|'.join(FRAMEWORKS)}) (\d[\w.]*(?: and \d[\w.]*)*)")
CODE = re.compile(r"\n*```python\n(?P<code>.*?)```\n*(?P<figures>.*?)\s*", re.DOTALL)
WITH = re.compile(r"(?P<text>.*?)(?: \((?P<versions>[^()]+)\))?")
"""A heading or a figure, which "(torch<2.14)" may follow."""
SECTIONS = {
    "reference": ("PyTorch or JAX", ""),
    "naive": ("The naive port", "Divergence: "),
    "right": ("The right port", "Residual: "),
}
"""Variable of a section -> its heading, and the label of its figure."""
SEPARATORS = re.compile(r"[-_\s]+")
"""What may stand between the parts of a searched word: weight_decay, weight-decay, weight decay."""


@dataclass(frozen=True)
class Snippet:
    """Code of a page, with the heading above it."""

    heading: str
    code: str
    variable: str
    """What the code assigns: `reference`, `naive` or `right`."""


@dataclass(frozen=True)
class Case:
    """What a page says for some versions."""

    versions: str
    """A requirement, `torch<2.14`; "" for every version."""
    reference: Snippet
    naive: Snippet
    right: Snippet
    divergence: str
    """Distance of the naive port from the reference, as written on the page."""
    residual: str
    """Distance of the right port from the reference, as written on the page."""

    @property
    def snippets(self) -> tuple[Snippet, Snippet, Snippet]:
        """The code in the order of the page."""
        return self.reference, self.naive, self.right

    def holds_with(self, versions: Mapping[str, str]) -> bool:
        """Whether the case is for these versions (package -> version)."""
        if not self.versions:
            return True
        requirement = Requirement(self.versions)
        version = versions.get(requirement.name)
        return version is not None and requirement.specifier.contains(version, prereleases=True)


@dataclass(frozen=True)
class Page:
    """A page: one trap."""

    slug: str
    """The file's name without its suffix."""
    title: str
    group: str
    """One of `GROUPS`."""
    knobs: tuple[str, ...]
    """Recipe fields (`optimizer.eps`) or commands (`lockstep convert`) that make the choice
    explicit, if any.
    """
    threads: tuple[tuple[str, str], ...]
    """Public threads of people who met the trap: text and address."""
    measured: dict[str, tuple[str, ...]] = field(hash=False)
    """Package -> the versions with which the figures were measured, the oldest first."""
    lead: str
    """What goes wrong, in a sentence or two."""
    cases: tuple[Case, ...]
    """A case for each range of versions that has its own code or figures; most pages have one."""
    why: str
    text: str
    """The whole page, Markdown."""

    def case_with(self, versions: Mapping[str, str]) -> Case | None:
        """What the page says for these versions (package -> version), if it says anything."""
        return next((case for case in self.cases if case.holds_with(versions)), None)


def atlas_folder() -> Path:
    """The folder of the pages, in a clone or in an installed package.

    Raises:
        InputError: there is no such folder.
    """
    here = Path(__file__)
    installed = here.parent / "texts"
    for folder in (installed, here.parents[3] / "docs" / "atlas"):
        if folder.is_dir():
            return folder
    raise InputError(f"atlas: no pages in {installed}; install lockstep again")


def load_atlas(folder: Path | None = None) -> tuple[Page, ...]:
    """Every page of a folder (default: lockstep's own atlas), by group and then by title.

    Raises:
        InputError: a file does not have the shape of a page; the message names file and part.
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
        InputError: a part is missing or has another shape; the message names it.
    """
    beginning, *sections = re.split(r"^## ", text, flags=re.MULTILINE)
    head = HEAD.fullmatch(beginning)
    if head is None:
        raise InputError(
            f"{slug}: must begin with a title, the facts and the lead, an empty line between"
        )
    facts = FACTS.fullmatch(head["facts"])
    if facts is None or facts["group"] not in GROUPS:
        groups = ", ".join(GROUPS)
        raise InputError(
            f"{slug}: facts must be **Group** ({groups}) · **Knob** · **Threads** · **Measured**"
        )
    knobs = re.findall(r"`([^`]+)`", facts["knob"])
    threads = re.findall(r"\[([^]]+)\]\(([^)]+)\)", facts["threads"])
    for name, values in (("knob", knobs), ("threads", threads)):
        if not values and facts[name] != "-":
            raise InputError(f"{slug}: {name}: must be `names` or [links](address), or - for none")
    *parts, last = sections or [""]
    title, _, why = last.partition("\n")
    if title != "Why":
        raise _wrong_sections(slug)
    if not why.strip():
        raise InputError(f"{slug}: Why: must not be empty")
    measured = _parse_measured(slug, facts["measured"])
    return Page(
        slug=slug,
        title=head["title"],
        group=facts["group"],
        knobs=tuple(knobs),
        threads=tuple(threads),
        measured=measured,
        lead=" ".join(head["lead"].split()),
        cases=_parse_cases(slug, parts, measured),
        why=why.strip(),
        text=text,
    )


def describe_versions(measured: Mapping[str, Sequence[str]]) -> str:
    """Package -> versions in words, as a page has them: "torch 2.13.0 and 2.14.1, jax 0.10.2"."""
    packages = [package for package in FRAMEWORKS if measured.get(package)]
    return ", ".join(f"{package} {' and '.join(measured[package])}" for package in packages)


def _wrong_sections(slug: str) -> InputError:
    return InputError(
        f"{slug}: sections must be PyTorch or JAX, The naive port, The right port, Why"
    )


def _parse_measured(slug: str, text: str) -> dict[str, tuple[str, ...]]:
    parts = [MEASURED.fullmatch(part) for part in text.split(", ")]
    measured = {part[1]: tuple(part[2].split(" and ")) for part in parts if part}
    if None in parts or text != describe_versions(measured):
        raise InputError(f"{slug}: measured: must be as in 'torch 2.13.0 and 2.14.1, jax 0.10.2'")
    if any(list(numbers) != sorted(set(numbers), key=Version) for numbers in measured.values()):
        raise InputError(
            f"{slug}: measured: the versions of a package must be each once, the oldest first"
        )
    return measured


@dataclass(frozen=True)
class _Section:
    """A section with code."""

    snippet: Snippet
    versions: str
    """The versions that the section is for; "" for all."""
    figures: dict[str, str]
    """Versions -> the figure that holds for them; "" for all."""


def _parse_cases(
    slug: str, parts: Sequence[str], measured: Mapping[str, Sequence[str]]
) -> tuple[Case, ...]:
    sections = [_parse_section(slug, part) for part in parts]
    order = [section.snippet.variable for section in sections]
    if order != sorted(order, key=list(SECTIONS).index) or set(order) != set(SECTIONS):
        raise _wrong_sections(slug)
    ranges: dict[str, None] = {}
    for section in sections:
        ranges |= dict.fromkeys([section.versions, *section.figures])
    ranges.pop("", None)
    cases = tuple(_case(slug, sections, versions) for versions in ranges or [""])
    for numbers in product(*measured.values()):
        versions = dict(zip(measured, numbers))
        count = sum(case.holds_with(versions) for case in cases)
        if count != 1:
            label = ", ".join(f"{package} {number}" for package, number in versions.items())
            raise InputError(f"{slug}: {count} cases for {label}, which must have one")
    return cases


def _parse_section(slug: str, part: str) -> _Section:
    heading, _, body = part.partition("\n")
    title, versions = _with_versions(slug, heading)
    names = {"The naive port": "naive", "The right port": "right"}
    variable = names.get(title, "reference" if title.startswith(("PyTorch", "JAX")) else "")
    if not variable:
        raise _wrong_sections(slug)
    _, label = SECTIONS[variable]
    block = CODE.fullmatch(body)
    lines = block["figures"].splitlines() if block else []
    is_labelled = bool(lines) == bool(label) and all(line.startswith(label) for line in lines)
    if block is None or not is_labelled:
        follows = f", then the line '{label.strip()}'" if label else " alone"
        raise InputError(f"{slug}: {heading}: must be one block of python{follows}")
    pairs = [_with_versions(slug, line.removeprefix(label)) for line in lines]
    figures = {versions: figure for figure, versions in pairs}
    if len(figures) != len(pairs):
        raise InputError(f"{slug}: {heading}: two figures for the same versions")
    return _Section(Snippet(heading, block["code"], variable), versions, figures)


def _with_versions(slug: str, text: str) -> tuple[str, str]:
    """A heading or a figure, and the versions in brackets behind it, or ""."""
    match = WITH.fullmatch(text)
    if match is None or not match["versions"]:
        return text, ""
    versions = match["versions"]
    try:
        known = Requirement(versions).name in FRAMEWORKS and bool(Requirement(versions).specifier)
    except InvalidRequirement:
        known = False
    if known:
        return match["text"], versions
    return text, ""


def _case(slug: str, sections: Sequence[_Section], versions: str) -> Case:
    """The case for these versions, as the page writes them; "" for all versions."""
    snippets = {}
    figures = {}
    for variable, (title, label) in SECTIONS.items():
        same_kind = [section for section in sections if section.snippet.variable == variable]
        fitting = [section for section in same_kind if section.versions in ("", versions)]
        values = [section.figures.get(versions, section.figures.get("")) for section in fitting]
        if len(fitting) != 1 or (label and values[0] is None):
            place = f" for {versions}" if versions else ""
            raise InputError(f"{slug}: {title}: must be there once{place}, with its figure")
        snippets[variable] = fitting[0].snippet
        figures[variable] = values[0] or ""
    return Case(
        versions=versions,
        reference=snippets["reference"],
        naive=snippets["naive"],
        right=snippets["right"],
        divergence=figures["naive"],
        residual=figures["right"],
    )


def find_pages(pages: Sequence[Page], words: Iterable[str]) -> list[Page]:
    """The pages that have every word, the best first. A page's slug gives that page alone.

    Raises:
        InputError: there is no such page; the message names the nearest word that gives one.
    """
    searched = [_plain(word) for word in words]
    phrase = " ".join(searched)
    for page in pages:
        if _plain(page.slug) == phrase:
            return [page]
    scored = []
    for page in pages:
        scores = [_score(page, word) for word in searched]
        scored.append((min(scores, default=0), page))
    scored.sort(key=lambda item: -item[0])
    matching = [page for score, page in scored if score > 0]
    if not matching:
        raise InputError(f"atlas: no page on {phrase!r}{_nearest(phrase, pages)}")
    return matching


INDEX = """# The porting atlas

{count} traps between PyTorch and JAX/Flax/Optax. A page shows the code on one side, the port that
one would write first, and the port that does the same. All code on it runs in the tests, and the
figures are what it gave: *divergence* and *residual* are the largest difference from the reference,
relative to the reference's largest value. They were measured with
{versions}. A page names the versions of its own packages,
and a trap that is not the same in all of them has a row for each. `lockstep atlas [WORD]` finds and
prints a page; `lockstep atlas --check` runs the pages with what is installed.
"""


def index_of(pages: Sequence[Page]) -> str:
    """The index as Markdown: a table for each group, a row for each case of a page."""
    measured = {}
    for package in FRAMEWORKS:
        numbers = set(chain.from_iterable(page.measured.get(package, ()) for page in pages))
        measured[package] = sorted(numbers, key=Version)
    text = INDEX.format(count=len(pages), versions=describe_versions(measured))
    for group in GROUPS:
        members = [page for page in pages if page.group == group]
        if not members:
            continue
        text += f"\n## {group.capitalize()}\n\n"
        text += "| trap | knob | divergence | residual |\n|---|---|---|---|\n"
        for page in members:
            knobs = ", ".join(f"`{knob}`" for knob in page.knobs)
            for case in page.cases:
                versions = f", {case.versions}" if case.versions else ""
                name = f"[{page.title}]({page.slug}.md){versions}"
                text += f"| {name} | {knobs} | {case.divergence} | {case.residual} |\n"
    return text


def _plain(text: str) -> str:
    return SEPARATORS.sub(" ", text).strip().lower()


def _score(page: Page, word: str) -> int:
    """How well a page answers to a word.

    4 is for a word that is its group or a knob, 3 for one in its title or slug, 2 for one in its
    lead, 1 for one in its text, and 0 for any other.
    """
    names = {page.group, *page.knobs, *(knob.rpartition(".")[2] for knob in page.knobs)}
    if word in {_plain(name) for name in names}:
        return 4
    if word in _plain(f"{page.title} {page.slug}"):
        return 3
    if word in _plain(page.lead):
        return 2
    return 1 if word in _plain(page.text) else 0


def _nearest(word: str, pages: Sequence[Page]) -> str:
    known: set[str] = set()
    for page in pages:
        known |= {page.slug, page.group, *page.knobs, *re.findall(r"\w{3,}", page.title.lower())}
    close = near_miss(word, sorted(known), cutoff=0.5)
    return f"; did you mean {close}?" if close else "; `lockstep atlas` lists them all"
