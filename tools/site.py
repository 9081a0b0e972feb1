"""Hooks of mkdocs.yml: the pages of the site that are generated, the navigation, and links out of
docs/; and whether the committed pages made from the code are up to date.

A page has the same relative links on a Git host and on the site. A link to a document outside docs/
leads to that document's page of the site, and a link to any other file of the repository to a page
that shows the file.
"""

import inspect
import posixpath
import re
from collections.abc import Mapping
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import click

from lockstep.cli import cli
from lockstep.recipe import load_recipe
from lockstep.studies.atlas.pages import GROUPS, load_atlas
from lockstep.studies.matrix_entries import entries
from tools import catalogue

ROOT = Path(__file__).parent.parent
DOCS = "docs/"
SOURCE = "source/"
"""The site's folder for files that links lead to and that are no documents."""
PAIR = [
    "model",
    "norm",
    "loss",
    "gradient",
    "schedule",
    "optimizer",
    "average",
    "update",
    "train",
    "predict",
]
API = {
    "Own loops": ("lockstep.own_loops.recorder", "lockstep.own_loops.callbacks", "lockstep.parity"),
    "Recipes": ("lockstep.recipe",),
    "Data": ("lockstep.data_prep",),
    "Schedules": ("lockstep.schedules.formulas",),
    "Traces": ("lockstep.records.trace", "lockstep.tensor_file"),
    "Comparison": (
        "lockstep.diagnose.compare",
        "lockstep.diagnose.verdict",
        "lockstep.diagnose.names",
    ),
    "Errors": ("lockstep.errors",),
}
"""Page of the API -> the modules whose public names it documents."""
LINK = re.compile(r"(\]\()([^()\s]+)(\))")
FENCE = re.compile(r"^( *)(```|~~~).*?^\1\2 *$", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"(`[^`]+`)")

Pages = dict[str, str]
"""Path on the site -> Markdown."""


# --- the navigation


def navigation(items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The `nav` of mkdocs.yml with every folder ("atlas/") replaced by its pages."""
    expanded: list[dict[str, Any]] = []
    for item in items:
        ((title, target),) = item.items()
        if isinstance(target, list):
            expanded.append({title: navigation(target)})
        elif target.endswith("/"):
            expanded.append({title: FOLDERS[target]()})
        else:
            expanded.append({title: target})
    return expanded


def paths_of(items: list[Any]) -> list[str]:
    """Every path of an expanded navigation."""
    paths: list[str] = []
    for item in items:
        target = item if isinstance(item, str) else next(iter(item.values()))
        paths += [target] if isinstance(target, str) else paths_of(target)
    return paths


def _atlas() -> list[Any]:
    pages = load_atlas()
    groups = []
    for group in GROUPS:
        titles = [
            {page.title.replace("`", ""): f"atlas/{page.slug}.md"}
            for page in pages
            if page.group == group
        ]
        groups.append({group.capitalize(): titles})
    return ["atlas/README.md", *groups]


def _commands() -> list[Any]:
    pages = [{f"lockstep {name}": f"commands/{name}.md"} for name in command_pages()]
    return ["commands/index.md", *pages]


def _api() -> list[Any]:
    return [{title: f"api/{_slug(title)}.md"} for title in ("lockstep", *API)]


def _pair() -> list[Any]:
    return ["pair.md", *[{f"{name}.py": f"pair/{name}.md"} for name in _pair_files()]]


FOLDERS = {"atlas/": _atlas, "commands/": _commands, "api/": _api, "pair/": _pair}


def _slug(title: str) -> str:
    return title.lower().replace(" ", "_")


# --- pages made from the command line, the docstrings and the sources


@cache
def generated() -> Mapping[str, str]:
    """Every page that has no file of its own."""
    pages = {f"commands/{name}.md": text for name, text in command_pages().items()}
    pages["commands/index.md"] = _command_index()
    pages["fields.md"] = _fields()
    pages |= {f"api/{_slug(title)}.md": text for title, text in _api_pages().items()}
    pages |= {f"pair/{name}.md": _side_by_side(name) for name in _pair_files()}
    return pages


@cache
def command_pages() -> Mapping[str, str]:
    """Command -> its page; the commands of a group share a page."""
    context = click.Context(cli, info_name="lockstep")
    pages: Pages = {}
    for name in cli.list_commands(context):
        command = cli.get_command(context, name)
        assert command is not None
        if not command.hidden:
            pages[name] = f"# lockstep {name}\n\n" + _command(command, name, context)
    return pages


def _command(command: click.Command, name: str, parent: click.Context) -> str:
    context = click.Context(command, info_name=name, parent=parent)
    usage = " ".join([context.command_path, *command.collect_usage_pieces(context)])
    text = f"```sh\n{usage}\n```\n\n{_prose(inspect.cleandoc(command.help or ''))}\n"
    if isinstance(command, click.Group):
        for inner in command.list_commands(context):
            child = command.get_command(context, inner)
            assert child is not None
            text += f"\n## {context.command_path} {inner}\n\n" + _command(child, inner, context)
        return text
    options = [parameter for parameter in command.params if isinstance(parameter, click.Option)]
    records = filter(None, (option.get_help_record(context) for option in options))
    rows = [f"| `{option}` | {_escaped(meaning)} |" for option, meaning in records]
    return text + "\n| option | what it does |\n|---|---|\n" + "\n".join(rows) + "\n"


def _prose(text: str) -> str:
    paragraphs = []
    for paragraph in text.split("\n\n"):
        if paragraph.startswith("\b"):  # click's mark for lines that stay as they are
            paragraphs.append("```text\n" + paragraph.removeprefix("\b\n") + "\n```")
        else:
            paragraphs.append(_escaped(paragraph))
    return "\n\n".join(paragraphs)


def _escaped(text: str) -> str:
    """Markdown that shows a text as it is; code in backquotes stays code."""
    parts = CODE.split(text)
    return "".join(part if part.startswith("`") else _plain(part) for part in parts)


def _plain(text: str) -> str:
    return re.sub(r"([*_\[\]\\])", r"\\\1", text).replace("<", "&lt;").replace("|", "&#124;")


def _command_index() -> str:
    context = click.Context(cli, info_name="lockstep")
    rows = []
    for name in command_pages():
        command = cli.get_command(context, name)
        assert command is not None
        rows.append(
            f"| [`lockstep {name}`]({name}.md) | "
            f"{_escaped(command.get_short_help_str(limit=400))} |"
        )
    return (
        "# Commands\n\n"
        "This part of the site is made from the command line itself; `lockstep COMMAND --help` "
        "prints the same.\n\n"
        "| command | what it does |\n|---|---|\n" + "\n".join(rows) + "\n\n"
        "The exit statuses are in [Parity in your tests](../pytest.md#exit-status).\n"
    )


def _fields() -> str:
    recipe = load_recipe("seed")
    return (
        "# Fields of a recipe\n\n"
        "`lockstep recipe show seed` prints this file: every field that the recipe `seed` has, "
        "with its meaning. The [catalogue](catalogue.md) has the fields of every other optimizer, "
        "schedule and loss.\n\n"
        f"```toml\n{recipe.to_toml(documented=True)}```\n"
    )


def _api_pages() -> Pages:
    pages = {
        "lockstep": "# lockstep\n\nThe public face: `import lockstep` and take what you need.\n"
    }
    pages["lockstep"] += _documented("lockstep")
    for title, modules in API.items():
        pages[title] = f"# {title}\n"
        for module in modules:
            lead = (import_module(module).__doc__ or "").strip()
            heading = f"\n`{module}`: {lead}\n" if len(modules) > 1 else f"\n`{module}`\n\n{lead}\n"
            pages[title] += heading + _documented(module)
    return pages


def _documented(module: str) -> str:
    """The public classes and functions of a module, each where it is defined."""
    loaded = import_module(module)
    text = ""
    for name in loaded.__all__:
        value = inspect.unwrap(getattr(loaded, name))  # lockstep.diagnose is a package, too
        home = getattr(value, "__module__", "")
        if callable(value) and home.startswith("lockstep"):
            text += f"\n::: {home}.{value.__qualname__}\n"
    return text


def _pair_files() -> list[str]:
    return [
        name
        for name in PAIR
        if (ROOT / "pt_impl" / f"{name}.py").is_file()
        and (ROOT / "jax_impl" / f"{name}.py").is_file()
    ]


def _side_by_side(name: str) -> str:
    text = f"---\nhide: [toc]\n---\n\n# {name}.py\n"
    for title, twin in (("PyTorch", "pt_impl"), ("JAX", "jax_impl")):
        lines = (ROOT / twin / f"{name}.py").read_text().splitlines()
        block = "\n".join(f"    {line}".rstrip() for line in lines)
        text += f'\n=== "{title}: {twin}/{name}.py"\n\n    ```python\n{block}\n    ```\n'
    return text


# --- links


@cache
def documents_outside() -> Mapping[str, str]:
    """Path on the site -> path in the repository, of each document of the site outside docs/."""
    names = ("CHANGELOG.md", "CONTRIBUTING.md", "ARCHITECTURE.md")
    documents = {name: name for name in names if (ROOT / name).is_file()}
    for readme in sorted(ROOT.glob("examples/*/README.md")):
        folder = readme.parent.relative_to(ROOT).as_posix()
        documents[f"{folder}.md"] = f"{folder}/README.md"
    return documents


def source_of(uri: str) -> str:
    """The path in the repository of a page's text."""
    return documents_outside().get(uri, DOCS + uri)


def _place_of(path: str) -> str | None:
    """The site's path of a file of the repository, or None if there is no such file."""
    if path.startswith(DOCS):
        return path.removeprefix(DOCS)
    if path == "README.md":  # its page is the home of the site
        return path
    for uri, source in documents_outside().items():
        if path == source:
            return uri
    return f"{SOURCE}{path}.md" if (ROOT / path).is_file() else None


def relocated(text: str, uri: str) -> tuple[str, set[str]]:
    """The text of a page with the site's links, and the files of the repository that they show."""
    files: set[str] = set()
    source = posixpath.dirname(source_of(uri))

    def relocate(match: re.Match[str]) -> str:
        target, mark, anchor = match[2].partition("#")
        if not target or re.match(r"[a-z]+:", target):
            return match[0]
        path = posixpath.normpath(posixpath.join(source, target))
        place = _place_of(path)
        if place is None:
            return match[0]
        if place.startswith(SOURCE):
            files.add(path)
        moved = posixpath.relpath(place, posixpath.dirname(uri) or ".")
        return f"{match[1]}{moved}{mark}{anchor}{match[3]}"

    fences = [fence.span() for fence in FENCE.finditer(text)]
    pieces = []
    end = 0
    for start, stop in [*fences, (len(text), len(text))]:
        pieces += [LINK.sub(relocate, text[end:start]), text[start:stop]]
        end = stop
    return "".join(pieces), files


def _source_page(path: str) -> str:
    language = {".py": "python", ".toml": "toml", ".md": "markdown"}.get(Path(path).suffix, "text")
    return f"# {path}\n\n````{language}\n{(ROOT / path).read_text()}````\n"


# --- pages in docs/ that are made from the code


def outdated(catalogue_page: str, matrix_page: str) -> list[str]:
    """What to do about each page that the code is ahead of; a thing may be added before the pages
    have it.
    """
    ahead = []
    if catalogue_page != catalogue.page():
        ahead.append("docs/catalogue.md: run `make pages`")
    rows = {line.split(" | ")[0] for line in matrix_page.splitlines()}
    lacking = [entry.name for entry in entries() if f"| {entry.name}" not in rows]
    return ahead + [f"docs/matrix.md: no row {name!r} of `lockstep matrix`" for name in lacking]


# --- what MkDocs calls


def on_pre_build(config: Any) -> None:
    """Refuse pages that the code is ahead of."""
    from mkdocs.exceptions import PluginError

    docs = ROOT / DOCS
    ahead = outdated((docs / "catalogue.md").read_text(), (docs / "matrix.md").read_text())
    if ahead:
        raise PluginError("\n".join(ahead))


def on_config(config: Any) -> Any:
    """Expand the navigation."""
    config.nav = navigation(config.nav)
    return config


def on_files(files: Any, config: Any) -> Any:
    """Add the generated pages, the documents outside docs/, and the files that links lead to."""
    from mkdocs.structure.files import File, InclusionLevel

    for uri, text in generated().items():
        files.append(File.generated(config, uri, content=text))
    for uri, path in documents_outside().items():
        files.append(File.generated(config, uri, content=(ROOT / path).read_text()))
    linked: set[str] = set()
    for file in list(files.documentation_pages()):
        if file.src_uri not in generated():
            linked |= relocated(file.content_string, file.src_uri)[1]
    for path in sorted(linked):
        page = File.generated(
            config,
            f"{SOURCE}{path}.md",
            content=_source_page(path),
            inclusion=InclusionLevel.NOT_IN_NAV,
        )
        files.append(page)
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """The page with the site's links in place of the repository's."""
    if page.file.src_uri in generated() or page.file.src_uri.startswith(SOURCE):
        return markdown
    return relocated(markdown, page.file.src_uri)[0]
