"""The pages of the reference: all that is public is there, once, and has what a docstring must.

The rest, references and sections among it, the build of the site checks: docs/conf.py.
"""

from __future__ import annotations

import importlib
import inspect
import pathlib
import re

import pytest

PAGES = pathlib.Path(__file__).parents[1] / "docs" / "reference"
PACKAGES = ("dask", "jax", "sklearn", "torch", "transformers")
PLOT = ("plot", ["reliability"])
# Of a base class, told to it by others' code.
INHERITED = re.compile(r"set_\w+_request|forward|extra_repr")


def listed():
    """What the pages name: (directive, full name) of each."""
    found = []
    for page in sorted(PAGES.glob("*.md")):
        module = None
        for directive, name in re.findall(r"^\.\. (\w+):: (\S+)$", page.read_text("utf-8"), re.M):
            if directive == "currentmodule":
                module = name
            elif directive.startswith("auto"):
                found.append((directive, f"{module}.{name}"))
    return found


LISTED = listed()
FULL = sorted(name for _, name in LISTED)


def resolve(full):
    """Whose attribute it is, and the name of that: a module's or a class's."""
    module, name = re.fullmatch(r"([a-z.]+)\.(\w.*)", full).groups()
    for package in PACKAGES:
        if module == f"logitless.{package}":
            pytest.importorskip(package)
    *owners, name = name.split(".")
    owner = importlib.import_module(module)
    for one in owners:
        owner = getattr(owner, one)
    return owner, name


@pytest.mark.skipif(not LISTED, reason="no documentation beside these tests")
class TestReference:
    def test_every_name_is_there_once(self):
        assert len(set(FULL)) == len(FULL)

    @pytest.mark.parametrize("package", ["", *PACKAGES, PLOT[0]])
    def test_every_public_name_is_there(self, package):
        module = "logitless" + f".{package}" * bool(package)
        if package in PACKAGES:
            pytest.importorskip(package)
        names = PLOT[1] if package == PLOT[0] else importlib.import_module(module).__all__
        assert {f"{module}.{name}" for name in names} <= set(FULL)

    @pytest.mark.parametrize("full", [name for kind, name in LISTED if kind == "autoclass"])
    def test_every_member_of_a_class_is_there(self, full):
        owner, name = resolve(full)
        members = {f"{full}.{member}" for member, value in vars(getattr(owner, name)).items()
                   if isinstance(value, (property, classmethod, staticmethod))
                   or inspect.isfunction(value)
                   if not member.startswith("_") and not INHERITED.fullmatch(member)}
        assert members == {other for other in FULL if other.startswith(f"{full}.")}

    @pytest.mark.parametrize(("directive", "full"), LISTED, ids=[name for _, name in LISTED])
    def test_what_is_there_exists_and_is_documented(self, directive, full):
        owner, name = resolve(full)
        value = getattr(owner, name)
        is_class, is_property = inspect.isclass(value), isinstance(value, property)
        assert directive == ("autoclass" if is_class else "autoproperty" if is_property else
                             "automethod" if inspect.isclass(owner) else "autofunction")
        text = inspect.getdoc(value)
        if is_property:
            assert text
            return
        assert "\nExamples\n--------\n" in text
        assert ">>> " in text
        assert missing_parameters(value, text) == set()


def missing_parameters(value, text):
    """Parameters that a docstring does not have; options may be there one by one, or as such."""
    section = re.search(r"^(?:Parameters|Attributes)\n-+\n(.*?)(?=\n\n\w+(?: \w+)?\n---|\Z)", text,
                        re.M | re.S)
    documented = set(re.findall(r"\*{0,2}\w+", " ".join(
        line.partition(" : ")[0] for line in section[1].splitlines()
        if not line.startswith(" ")))) if section else set()
    names = set(inspect.signature(value).parameters)
    if "**options" in documented:
        code = inspect.unwrap(value).__code__
        names = set(code.co_varnames[: code.co_argcount + code.co_kwonlyargcount])
    return names - documented - {"self", "cls", "options"}
