"""The pages as a site: ``sphinx-build -W --keep-going -n -b html docs build/site``.

Pages are Markdown that a code host shows, too: their links are those of files.
"""

import os
import subprocess
import sys
from pathlib import Path

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx

from logitless import __version__

project = "logitless"
author = copyright = "The logitless developers"
version = release = __version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "numpydoc",
    "sphinx_click",
    "sphinx_copybutton",
]

# Links within a page are made of its headings, as code hosts make them.
myst_heading_anchors = 3

# Too large to install for a page: what is documented of them needs nothing of theirs.
autodoc_mock_imports = ["jax", "torch", "tqdm", "transformers"]
smartquotes = False  # "mean" is a string, (..., k) a shape
autodoc_typehints = "none"  # docstrings have types with shapes
autosummary_generate = False
numpydoc_show_class_members = False  # pages list them by topic
# Every check but those of a summary in two parts, of links to others, and of parameters that are
# those of another call, which is named. Of properties, the class has the example; of the rest,
# tests/test_reference.py sees to it that there is one.
numpydoc_validation_checks = {
    "all", "ES01", "EX01", "PR03", "PR04", "PR07", "PR08", "SA01", "SS05",
}
numpydoc_validation_overrides = {  # what tests/test_reference.py knows how to look at
    "PR01": [r"\*\*options", r"Attributes\n\s*---"],
    "PR02": [r"\*\*options"],
}

# `x` is the parameter of that name, `LinearHead.loss` the method: what has no dot and no capital
# may be any name, and other libraries' pages are not at hand.
default_role = "py:obj"
nitpick_ignore_regex = [
    ("py:obj", r"X|[a-z_]\w*"),
    ("py:obj", r"(jax|matplotlib|np|numpy|scipy|sklearn|torch)\..*"),
]

html_theme = "furo"
html_title = f"logitless {release}"
html_copy_source = False
pygments_dark_style = "github-dark"
html_static_path = ["_static"]
html_css_files = ["site.css"]
copybutton_exclude = ".linenos, .gp, .go"  # prompts, and what comes out

HERE = Path(__file__).parent
# Files beside this folder that are pages of the site; what includes one has its links.
INCLUDED = {HERE.parent / "CHANGELOG": "changelog", HERE.parent / "CONTRIBUTING": "contributing"}
PAGES = INCLUDED | {HERE.parent / "README": "index"}


def settle_links(app: Sphinx, doctree: nodes.document) -> None:
    """Lead links to files outside this folder to their pages; of others leave the words."""
    for link in list(doctree.findall(pending_xref)):
        if link["reftype"] != "myst":
            continue
        page = link["refdoc"]
        folder = HERE.parent if page in INCLUDED.values() else (HERE / page).parent
        # Joined, an absolute path stays what it is; of files that are there it has no suffix.
        path = Path(os.path.normpath(folder / link["reftarget"])).with_suffix("")
        if path in PAGES:
            link.attributes |= {"refdomain": "doc", "reftarget": PAGES[path],
                                "reftargetid": link.get("reftargetid")}
        elif not path.is_relative_to(HERE):
            link.replace_self(link.children)
    for link in list(doctree.findall(nodes.reference)):
        if link.get("refuri", "").startswith("FILE:"):  # FILE:KEY of help is no address
            link.replace_self(link.children)


def draw_figures(app: Sphinx) -> None:
    """Draw the figures of benchmarks from their records: none is kept."""
    subprocess.run([sys.executable, HERE.parent / "bench" / "plots.py",
                    HERE / "benchmarks" / "figures"], check=True)


def setup(app: Sphinx) -> None:
    """Have figures drawn before pages are read, and links settled behind."""
    app.connect("builder-inited", draw_figures)
    app.connect("doctree-read", settle_links)
