"""The site of docs/: every page is in the navigation, every link leads somewhere, and the site
loads nothing from elsewhere.
"""

import re
from pathlib import Path

import pytest
import yaml

from tools import site

ROOT = Path(__file__).parents[2]
SETTINGS = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
NAVIGATION = site.paths_of(site.navigation(SETTINGS["nav"]))
OUTSIDE = {ROOT / path: uri for uri, path in site.documents_outside().items()}
DOCUMENTS = sorted([*(ROOT / "docs").rglob("*.md"), *OUTSIDE])


def headings(text: str) -> list[str]:
    lines = site.FENCE.sub("", text).splitlines()
    return [line.lstrip("# ") for line in lines if re.match(r"#+ ", line)]


def anchors(text: str) -> set[str]:
    """The anchors that a Git host gives the headings of a document. MkDocs gives them the same."""
    plain = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings(text))
    return {heading.replace(" ", "-") for heading in plain}


def test_every_document_is_in_the_navigation_once() -> None:
    inside = [path for path in DOCUMENTS if path not in OUTSIDE]
    pages = [path.relative_to(ROOT / "docs").as_posix() for path in inside]
    assert sorted(NAVIGATION) == sorted([*pages, *OUTSIDE.values(), *site.generated()])


def test_every_link_of_a_document_leads_to_a_file_and_a_heading() -> None:
    for path in DOCUMENTS:
        for _, link, _ in site.LINK.findall(site.FENCE.sub("", path.read_text())):
            if re.match(r"[a-z]+:", link):
                continue
            target, _, anchor = link.partition("#")
            leads_to = (path.parent / target).resolve() if target else path
            assert leads_to.exists(), (path, link)
            if anchor:
                assert anchor in anchors(leads_to.read_text()), (path, link)


def test_every_page_of_the_site_begins_with_its_only_title() -> None:
    texts = {path.name: path.read_text() for path in DOCUMENTS} | dict(site.generated())
    for name, text in texts.items():
        titles = re.findall(r"^# .", site.FENCE.sub("", text), re.MULTILINE)
        assert len(titles) == 1, name
        assert text.removeprefix("---\nhide: [toc]\n---\n\n").startswith("# "), name


@pytest.mark.parametrize(
    ("uri", "link", "moved"),
    [
        ("pytest.md", "own_loop.md#a", "own_loop.md#a"),
        ("pytest.md", "../examples/convnet/README.md", "examples/convnet.md"),
        ("pair.md", "../examples/from_python.py", "source/examples/from_python.py.md"),
        ("atlas/README.md", "../equality.md", "../equality.md"),
        ("atlas/README.md", "kernel-layout.md", "kernel-layout.md"),
        ("CONTRIBUTING.md", "docs/concepts.md", "concepts.md"),
        ("examples/convnet.md", "../../docs/own_loop.md", "../own_loop.md"),
        ("examples/convnet.md", "../transformer/README.md", "transformer.md"),
        ("pytest.md", "#exit-status", "#exit-status"),
        ("pytest.md", "https://example.org/a.md", "https://example.org/a.md"),
    ],
)
def test_a_link_keeps_its_meaning_on_the_site(uri: str, link: str, moved: str) -> None:
    assert site.relocated(f"see [this]({link}).", uri)[0] == f"see [this]({moved})."


def test_links_in_code_stay_as_they_are() -> None:
    text = "```\n[a](../examples/convnet/README.md)\n```\n"
    assert site.relocated(text, "pytest.md") == (text, set())


def test_every_command_has_a_page_with_its_options() -> None:
    page = site.command_pages()["run"]
    assert page.startswith("# lockstep run\n")
    assert "| `--device [cpu|gpu|auto]` | Where to train." in page
    assert "## lockstep recipe init" in site.command_pages()["recipe"]
    assert "worker" not in site.command_pages()


def test_a_page_that_the_code_is_ahead_of_is_named() -> None:
    catalogue, matrix = site.catalogue.page(), (ROOT / "docs" / "matrix.md").read_text()
    whole = site.outdated(catalogue, matrix)
    assert "docs/catalogue.md: run `make pages`" in site.outdated(catalogue + "more\n", matrix)
    lacking = re.sub(r"\n\| adam, amsgrad raw \|.*", "", matrix)
    assert set(site.outdated(catalogue, lacking)) - set(whole) == {
        "docs/matrix.md: no row 'adam, amsgrad raw' of `lockstep matrix`"
    }


def test_the_site_fetches_nothing_from_elsewhere() -> None:
    assert SETTINGS["theme"]["font"] is False
    assert "extra_javascript" not in SETTINGS
    assert all((ROOT / "docs" / path).is_file() for path in SETTINGS["extra_css"])
