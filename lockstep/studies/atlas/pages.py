"""The porting atlas: one page a trap, each with code that runs and the figures that it gave; parse,
search, index.
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

GROUPS = ("schedule", "optimizer", "gradient", "loss", "layer", "init", "precision", "resume")
FRAMEWORKS = tuple(chain.from_iterable(PACKAGES.values()))
"""The packages whose versions decide what a page's code gives."""

FACTS = re.compile(
    r"\*\*Group\*\* (?P<group>\w+) · \*\*Knob\*\* (?P<knob>.+?) · \*\*Threads\*\* (?P<threads>.+)"
    r" · \*\*Measured\*\* (?P<measured>.+)"
)
MEASURED = re.compile(rf"({'|'.join(FRAMEWORKS)}) (\d[\w.]*(?: and \d[\w.]*)*)")
CODE = re.compile(r"\n*```python\n(?P<code>.*?)```\n*(?P<figures>.*?)\s*", re.DOTALL)
# "(torch<2.14)" after a heading or a figure
WITH = re.compile(r"(?P<text>.*?)(?: \((?P<versions>[^()]+)\))?")
SECTIONS = {
    "reference": ("PyTorch or JAX", ""),
    "naive": ("The naive port", "Divergence: "),
    "right": ("The right port", "Residual: "),
}
# A word of a search may be written with any of these between its parts: weight_decay, weight-decay,
# weight decay.
SEPARATORS = re.compile(r"[-_\s]+")


@dataclass(frozen=True)
class Snippet:
    """Code of a page under its heading."""

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
        """Whether these versions (package -> version) are among its own."""
        if not self.versions:
            return True
        requirement = Requirement(self.versions)
        version = versions.get(requirement.name)
        return version is not None and requirement.specifier.contains(version, prereleases=True)


@dataclass(frozen=True)
class Page:
    """One trap."""

    slug: str
    """The file's name without its suffix."""
    title: str
    group: str
    """One of `GROUPS`."""
    knobs: tuple[str, ...]
    """Recipe fields (`optimizer.eps`) or commands (`lockstep convert`) that make the choice
    explicit; may be empty.
    """
    threads: tuple[tuple[str, str], ...]
    """Where people met it in public: text and address."""
    measured: dict[str, tuple[str, ...]] = field(hash=False)
    """Package -> the versions with which the figures were measured, the oldest first."""
    lead: str
    """What goes wrong, in a sentence or two."""
    cases: tuple[Case, ...]
    """One for each range of versions for which the page has other code or other figures; most pages
    have one.
    """
    why: str
    text: str
    """The whole page, Markdown."""

    def case_with(self, versions: Mapping[str, str]) -> Case | None:
        """What the page says for these versions (package -> version), if it says anything."""
        return next((case for case in self.cases if case.holds_with(versions)), None)


def atlas_folder() -> Path:
    """Where the pages lie, in a clone as in an installed package.

    Raises:
        InputError: neither has them.
    """
    here = Path(__file__)
    installed = here.parent / "texts"
    for folder in (installed, here.parents[3] / "docs" / "atlas"):
        if folder.is_dir():
            return folder
    raise InputError(f"atlas: no pages in {installed}; install lockstep again")


def load_atlas(folder: Path | None = None) -> tuple[Page, ...]:
    """Every page of a folder (default: the atlas that comes with lockstep), by group, then by
    title.

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
    titled = re.fullmatch(
        r"# (?P<title>[^\n]+)\n\n(?P<facts>[^\n]+)\n\n(?P<lead>.+?)\s*", head, re.DOTALL
    )
    if titled is None:
        raise InputError(
            f"{slug}: must begin with a title, the facts and the lead, an empty line between"
        )
    facts = FACTS.fullmatch(titled["facts"])
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
    *parts, why = sections or [""]
    title, _, why = why.partition("\n")
    if title != "Why":
        raise InputError(
            f"{slug}: sections must be PyTorch or JAX, The naive port, The right port, Why"
        )
    if not why.strip():
        raise InputError(f"{slug}: Why: must not be empty")
    measured = _parse_measured(slug, facts["measured"])
    return Page(
        slug=slug,
        title=titled["title"],
        group=facts["group"],
        knobs=tuple(knobs),
        threads=tuple(threads),
        measured=measured,
        lead=" ".join(titled["lead"].split()),
        cases=_parse_cases(slug, parts, measured),
        why=why.strip(),
        text=text,
    )


def describe_versions(measured: Mapping[str, Sequence[str]]) -> str:
    """Package -> versions as a page has it: "torch 2.13.0 and 2.14.1, jax 0.10.2"."""
    chosen = [(package, measured[package]) for package in FRAMEWORKS if measured.get(package)]
    return ", ".join(f"{package} {' and '.join(versions)}" for package, versions in chosen)


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
    """A section with code: the figures under it by the versions that they hold for, "" for all."""

    snippet: Snippet
    versions: str
    figures: dict[str, str]


def _parse_cases(
    slug: str, parts: Sequence[str], measured: Mapping[str, Sequence[str]]
) -> tuple[Case, ...]:
    sections = [_parse_section(slug, part) for part in parts]
    order = [section.snippet.variable for section in sections]
    if order != sorted(order, key=list(SECTIONS).index) or set(order) != set(SECTIONS):
        raise InputError(
            f"{slug}: sections must be PyTorch or JAX, The naive port, The right port, Why"
        )
    named = [
        versions
        for section in sections
        for versions in (section.versions, *section.figures)
        if versions
    ]
    cases = tuple(_case(slug, sections, versions) for versions in dict.fromkeys(named or [""]))
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
        raise InputError(
            f"{slug}: sections must be PyTorch or JAX, The naive port, The right port, Why"
        )
    label = SECTIONS[variable][1]
    block = CODE.fullmatch(body)
    lines = block["figures"].splitlines() if block else []
    if (
        block is None
        or bool(lines) != bool(label)
        or not all(line.startswith(label) for line in lines)
    ):
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
    """What holds for the versions, named so on the page, or for all."""
    chosen, figures = {}, {}
    for variable, (title, label) in SECTIONS.items():
        mine = [section for section in sections if section.snippet.variable == variable]
        mine = [section for section in mine if section.versions in ("", versions)]
        values = [section.figures.get(versions, section.figures.get("")) for section in mine]
        if len(mine) != 1 or (label and values[0] is None):
            told = f" for {versions}" if versions else ""
            raise InputError(f"{slug}: {title}: must be there once{told}, with its figure")
        chosen[variable], figures[variable] = mine[0].snippet, values[0] or ""
    return Case(
        versions=versions,
        reference=chosen["reference"],
        naive=chosen["naive"],
        right=chosen["right"],
        divergence=figures["naive"],
        residual=figures["right"],
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
    """The index as Markdown: a table for each group, a row for each case of a page."""
    measured = {
        package: sorted(
            {number for page in pages for number in page.measured.get(package, ())}, key=Version
        )
        for package in FRAMEWORKS
    }
    lines = [
        "# The porting atlas",
        "",
        f"{len(pages)} traps between PyTorch and JAX/Flax/Optax. A page shows the code on "
        "one side, the port that one "
        "would write",
        "first, and the port that does the same. All code on it runs in the tests, and the "
        "figures are what it gave:",
        "*divergence* and *residual* are the largest difference from the reference, "
        "relative to the reference's "
        "largest value.",
        f"They were measured with {describe_versions(measured)};",
        "a page names those of its own packages, and a trap that is not the same in all of "
        "them has a row for each.",
        "`lockstep atlas [WORD]` finds and prints a page; `lockstep atlas --check` runs "
        "them with what is installed.",
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
            for case in page.cases:
                name = f"[{page.title}]({page.slug}.md)" + (
                    f", {case.versions}" if case.versions else ""
                )
                lines.append(f"| {name} | {knobs} | {case.divergence} | {case.residual} |")
    return "\n".join(lines) + "\n"


def _plain(text: str) -> str:
    return SEPARATORS.sub(" ", text).strip().lower()


def _score(page: Page, word: str) -> int:
    """How well a page answers to a word: by its knob or group, its title, its lead, or somewhere in
    its text.
    """
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
    close = near_miss(word, sorted(known), cutoff=0.5)
    return f"; did you mean {close}?" if close else "; `lockstep atlas` lists them all"
