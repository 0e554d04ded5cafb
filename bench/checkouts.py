"""Two checkouts in one process: trees of revisions, built once each, and their modules in turns."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "logitless"


def git(*arguments: str) -> str:
    """What git says of this repository."""
    done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True,
                          check=False)
    if done.returncode:
        raise ValueError(f"git {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout.strip()


def source(named: str, cache: Path) -> tuple[str, Path]:
    """A name, and the folder of the package, of a revision or of a built checkout elsewhere."""
    if (folder := Path(named, "src").resolve()).is_dir():
        return named, built(folder)
    commit = git("rev-parse", "--verify", "--short=10", f"{named}^{{commit}}")
    return commit, built(_tree(commit, cache) / "src")


def built(src: Path) -> Path:
    """The folder itself, if its extension is there and no older than its sources."""
    made = max((path.stat().st_mtime for path in src.rglob("_core.*")
                if path.suffix in (".so", ".pyd")), default=None)
    if made is None:
        raise ValueError(f"{src} holds no compiled extension: build it first")
    sources = [*(src.parent / "csrc").rglob("*.[ch]"), *src.rglob("_core.pyx"), *src.rglob("*.pxi")]
    if newer := [path for path in sources if path.stat().st_mtime > made]:
        raise ValueError(f"{newer[0]} has changed since the extension was built: build it first")
    return src


def _tree(commit: str, cache: Path) -> Path:
    """The files of a commit with the extension built in place, kept for the next time."""
    folder = cache / f"{commit}-{sys.implementation.cache_tag}"
    if folder.exists():
        return folder
    cache.mkdir(parents=True, exist_ok=True)
    print(f"building {commit} in {folder}; a minute or two", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory(dir=cache) as part:
        packed = Path(part, "tree.tar")
        git("archive", "-o", str(packed), commit)
        tree = Path(part, "tree")
        tree.mkdir()
        subprocess.run(["tar", "xf", str(packed), "-C", str(tree)], check=True)
        own = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        subprocess.run([sys.executable, "setup.py", "-q", "build_ext", "--inplace"], cwd=tree,
                       env=own, check=True, stdout=subprocess.DEVNULL)
        tree.rename(folder)
    return folder


class Checkout:
    """The package of one folder; within a `with` block, imports of it find this one's modules.

    A module that a call imports as it runs must be that of the call's own package.
    """

    def __init__(self, src: Path):
        self.src = src
        self.modules: dict[str, ModuleType] = {}
        with self:
            self.package = importlib.import_module(PACKAGE)
        if not Path(self.package.__file__).is_relative_to(src):
            raise ValueError(f"expected the package of {src}, found {self.package.__file__}")

    def __enter__(self) -> ModuleType | None:
        self.others = _taken()
        sys.modules.update(self.modules)
        sys.path.insert(0, str(self.src))
        return getattr(self, "package", None)

    def __exit__(self, *_) -> None:
        sys.path.remove(str(self.src))
        self.modules = _taken()
        sys.modules.update(self.others)


def _taken() -> dict[str, ModuleType]:
    """Take modules of the package out of those that are imported."""
    names = [name for name in sys.modules if name.partition(".")[0] == PACKAGE]
    return {name: sys.modules.pop(name) for name in names}
