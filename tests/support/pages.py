"""Pages of documentation: the blocks in them, run in order as a reader would run them."""

from __future__ import annotations

import contextlib
import doctest
import io
import os
import pathlib
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

ROOT = pathlib.Path(__file__).parents[2]
NOT_RUN = "<!-- not run: it installs -->"  # the line before a block of shell
TOLERANT = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
LIBRARIES = {"dask", "h5py", "jax", "safetensors", "scipy", "sklearn", "torch", "transformers"}


@dataclass
class Block:
    """A fenced block; `output` is what the block right behind it, of that language, shows."""

    language: str
    text: str
    line: int
    runs: bool
    output: str = ""


def tokens(page: pathlib.Path) -> list:
    """A page as markdown-it, which rich brings along, reads it."""
    markdown = pytest.importorskip("markdown_it").MarkdownIt("commonmark", {"html": True})
    return markdown.enable("table").parse(page.read_text(encoding="utf-8"))


def blocks(page: pathlib.Path) -> list[Block]:
    """Blocks of a page in order, each with what it is to print."""
    found: list[Block] = []
    before = None
    for token in tokens(page):
        language = token.info.strip()
        if token.type == "fence" and language == "output":
            assert getattr(before, "type", "") == "fence", f"{page}: {token.map}: of no block"
            found[-1].output = token.content
        elif token.type == "fence":
            runs = getattr(before, "content", "").strip() != NOT_RUN
            found.append(Block(language, token.content, token.map[0] + 2, runs))
        before = token
    return found


def libraries(page: pathlib.Path) -> set[str]:
    """What its blocks import that need not be there, by itself or through ours."""
    text = "".join(block.text for block in blocks(page))
    return LIBRARIES & set(re.findall(r"^\s*(?:from|import) (?:logitless\.)?(\w+)", text, re.M))


def run(page: pathlib.Path) -> Iterator[dict]:
    """Run its blocks, and give after each one what the names of the page stand for.

    What is printed must be what the page shows, with ... for anything.
    """
    for library in sorted(libraries(page)):
        pytest.importorskip(library)
    names = {"__name__": "__main__"}
    for block in blocks(page):
        if block.runs and block.language in RUNNERS:
            printed = RUNNERS[block.language](page, block, names)
            if not doctest.OutputChecker().check_output(block.output, printed, TOLERANT):
                pytest.fail(f"{page}:{block.line} is to print\n{block.output}\n"
                            f"and printed\n{printed}", pytrace=False)
            yield names


def _python(page: pathlib.Path, block: Block, names: dict) -> str:
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(compile("\n" * (block.line - 1) + block.text, str(page), "exec"), names)
    return printed.getvalue()


def _session(page: pathlib.Path, block: Block, names: dict) -> str:
    test = doctest.DocTestParser().get_doctest(block.text, {}, page.name, str(page), block.line)
    assert test.examples, f"{page}:{block.line} holds no example"
    test.globs = names
    report = io.StringIO()
    runner = doctest.DocTestRunner(verbose=False, optionflags=TOLERANT)
    if runner.run(test, out=report.write, clear_globs=False).failed:
        pytest.fail(report.getvalue(), pytrace=False)
    return ""


def _shell(page: pathlib.Path, block: Block, names: dict) -> str:
    path = os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"]])
    done = subprocess.run(["bash", "-euo", "pipefail", "-c", block.text], text=True, timeout=240,
                          env={**os.environ, "PATH": path}, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, ""), f"{page}:{block.line}: {done.stderr}"
    return done.stdout


RUNNERS = {"python": _python, "pycon": _session, "sh": _shell}
