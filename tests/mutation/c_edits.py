"""What may be changed in a file of C so that a test should notice.

Edits are found by what the code looks like, comments and strings apart, in lines of functions that
are compiled. None adds or removes a line. What only fetches ahead is left alone: nothing depends on
it.
"""

from __future__ import annotations

import random
import re
from bisect import bisect_right
from typing import NamedTuple


class Edit(NamedTuple):
    """Columns [first, last) of a line become `new`."""

    line: int
    first: int
    last: int
    new: str

    def made(self, source: str) -> str:
        lines = source.splitlines(keepends=True)
        text = lines[self.line - 1]
        lines[self.line - 1] = text[:self.first] + self.new + text[self.last:]
        return "".join(lines)


SWAPS = {
    "<": ["<=", ">="], "<=": ["<"], ">": [">=", "<="], ">=": [">"], "==": ["!="], "!=": ["=="],
    "&&": ["||"], "||": ["&&"], "+": ["-"], "-": ["+"], "*": ["+"], "/": ["*"], "%": ["/"],
    "&": ["|"], "|": ["&"], ">>": ["<<"], "<<": [">>"], "+=": ["-=", "="], "-=": ["+="],
    "*=": ["+="], "|=": ["&="], "&=": ["|="], "/=": ["*="], "++": ["--"],
}
NAMES = {
    "vmax": "vmin", "vmin": "vmax", "rmax": "rmin", "rmin": "rmax", "vadd": "vsub", "vsub": "vadd",
    "radd": "rsub", "rsub": "radd", "vmul": "vadd", "vdiv": "vmul", "vfma": "vnfma",
    "vnfma": "vfma", "rfma": "rnfma", "rnfma": "rfma", "vlt": "vle", "vle": "vlt", "vnlt": "vlt",
    "veq": "vlt", "vlow": "vhigh", "vhigh": "vlow",
    "vround": "", "vabs": "", "first": "last", "last": "first", "continue": "break",
    "break": "continue", "rlow": "rhigh", "rhigh": "rlow", "ror": "rle",
}
BINARY = re.compile(r"(?<=[\w)\]] )(<<|>>|<=|>=|==|!=|&&|\|\||[-+*/|&]=|[-+*/%&|<>])(?= )")
NUMBER = re.compile(r"(?<![\w.])(\d+)(u?)(?![\w.])")
NAME = re.compile(rf"(?<![\w.>])({'|'.join(NAMES)})\b")
CONDITION = re.compile(r"\b(if|while) \((?=.*\)( \{)?$)")
STATEMENT = re.compile(r"^( +)(?!return|const|static|struct|else|do\b|case|for|if|while|switch)"
                       r"([\w*(][^{}]*?(?:[^<>=!]=|\+\+|\(|\|=)[^{}]*;)$")
DECLARATION = re.compile(r"^ +(?:const )?[a-z]\w*(?: \w+)* \**\w+(?:\[.*\])?(?: = |, |;)")
RETURN = re.compile(r"\breturn (?!0;)([^;]+);(?= \}$|$)")


def without_comments(source: str) -> str:
    """The same columns and lines, without what is in comments and strings."""
    def blank(match: re.Match[str]) -> str:
        return re.sub(r"[^\n]", " ", match[0])

    return re.sub(r'/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\\n])*"', blank, source, flags=re.S)


def edits_of_line(number: int, text: str, start: int) -> list[Edit]:
    """Edits of a line from a column on."""
    found = []

    def add(first: int, last: int, new: str) -> None:
        if first >= start:
            found.append(Edit(number, first, last, new))

    for match in BINARY.finditer(text):
        for new in SWAPS[match[1]]:
            add(*match.span(1), new)
    for match in re.finditer(r"(?<=\w|\])\+\+|\+\+(?=\w)", text):
        add(*match.span(), "--")
    for match in NUMBER.finditer(text):
        for new in {int(match[1]) + 1, max(int(match[1]) - 1, 0)} - {int(match[1])}:
            add(*match.span(1), str(new))
    for match in NAME.finditer(text):
        add(*match.span(1), NAMES[match[1]])
    if match := CONDITION.search(text):
        end = text.rstrip("{ ").rindex(")")
        add(match.end(), end, f"!({text[match.end():end]})")
    if (match := STATEMENT.match(text)) and not DECLARATION.match(text):
        add(*match.span(2), ";")
    if match := RETURN.search(text):
        add(*match.span(1), "0")
        if " " not in match[1]:
            add(*match.span(1), f"!{match[1]}")
    for match in re.finditer(r"(?<=\[)[a-z]\w*(?=\])", text):
        add(*match.span(), f"{match[0]} + 1")
    return found


def bodies(lines: list[str]) -> list[tuple[int, int]]:
    """First and last lines of what is in functions: braces at the margin, or all on one line."""
    found, begun = [], 0
    for number, text in enumerate(lines, 1):
        if text.startswith("{"):
            begun = number
        elif text.startswith("}") and begun:
            found.append((begun, number))
            begun = 0
        elif re.match(r"[a-z].*\) \{ .* \}$", text):
            found.append((number, number))
    return found


def edits(source: str, code: list[int]) -> list[tuple[Edit, int]]:
    """Edits and the line, among those that are known as code, whose tests may notice them."""
    lines, found = without_comments(source).splitlines(), []
    for first, last in bodies(lines):
        for number in range(first, last + 1):
            text, at = lines[number - 1].rstrip(), bisect_right(code, number) - 1
            if at < 0 or code[at] < first or re.match(r" *#|.*prefetch", text):
                continue
            found += [(edit, code[at]) for edit in edits_of_line(
                number, text, text.index(") {") if first == last else 0)]
    return found


def shuffled(all_edits: list[tuple[str, Edit, int]], seed: int) -> list[tuple[str, Edit, int]]:
    return random.Random(seed).sample(all_edits, len(all_edits))
