"""README.md and all pages of docs: their blocks run and print what is shown, their links lead."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path
from urllib.parse import unquote

import pytest
from support import pages

ROOT = pages.ROOT
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
OTHERS = [ROOT / name for name in
          ("CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "examples/README.md")]
# Pages, and folders of pages, that need not have anything to run.
PROSE = ("docs/architecture.md", "docs/arithmetic.md", "docs/screening.md", "docs/guides/index.md",
         "docs/index.md", "docs/trust.md", "docs/accuracy.md", "docs/changelog.md",
         "docs/contributing.md", "docs/benchmarks/", "docs/reference/")
# Pages that another test runs, and looks at what comes out.
ELSEWHERE = {"docs/coming-from.md": "test_origins_page.py",
             "docs/coming-from-language-models.md": "test_origins_language_models.py"}
INSTALLING = {"README.md": 2, "docs/get-started.md": 1}  # blocks that are not run, of each page

pytestmark = pytest.mark.skipif(not (ROOT / "docs").exists(),
                                reason="no documentation beside these tests")


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def is_prose(page: Path) -> bool:
    return name(page).startswith(PROSE)


@pytest.mark.slow
@pytest.mark.compiled_only  # what they show of bits and screens
@pytest.mark.parametrize("page", [p for p in PAGES if name(p) not in ELSEWHERE], ids=name)
def test_blocks_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ran = len(list(pages.run(page)))
    assert ran or is_prose(page), f"{name(page)} has nothing to run"


@pytest.mark.parametrize("page", [ROOT / page for page in ELSEWHERE], ids=name)
def test_pages_that_another_test_runs(page):
    text = (ROOT / "tests" / ELSEWHERE[name(page)]).read_text(encoding="utf-8")
    assert f'"{page.name}"' in text
    assert "pages.run(PAGE" in text


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_blocks_are_of_languages_that_run(page):
    """Or are directives of the site; pictures in letters may stand where nothing runs."""
    others = {"text"} if is_prose(page) else set()
    unknown = [f"{name(page)}:{block.line}: {block.language or 'no language'}"
               for block in pages.blocks(page)
               if block.language not in pages.RUNNERS.keys() | others
               and not re.fullmatch(r"\{[\w-]+\}.*", block.language)]
    assert unknown == []


def test_blocks_that_are_not_run_install():
    left = {name(page): [b for b in pages.blocks(page) if not b.runs] for page in PAGES}
    assert {page: len(some) for page, some in left.items() if some} == INSTALLING
    assert all("pip install" in block.text for some in left.values() for block in some)


@pytest.mark.parametrize("page", [*PAGES, *OTHERS], ids=name)
def test_links_lead_somewhere(page):
    lost = []
    for href in _links(page):
        path, _, anchor = unquote(href).partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in _anchors(target)):
            lost.append(href)
    assert lost == []


def _links(page: Path) -> list[str]:
    """Targets of links and pictures, those to other hosts left out."""
    inline = [child for token in pages.tokens(page) for child in token.children or ()]
    found = [child.attrs.get("href") or child.attrs.get("src") for child in inline
             if child.type in ("link_open", "image")]
    return [href for href in found if not re.match(r"[a-z]+:", href)]


def _anchors(page: Path) -> set[str]:
    """What headings are called in addresses."""
    titles = [inline.content for opening, inline in pairwise(pages.tokens(page))
              if opening.type == "heading_open"]
    return {re.sub(r"[^\w -]", "", title).strip().lower().replace(" ", "-") for title in titles}
