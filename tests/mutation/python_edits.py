"""What may be changed in a file of Python or Cython so that a test should notice.

Edits of Python are found in its syntax tree and made in its bytes, so that lines stay where they
are; those of Cython, which has no tree at hand, by what a line looks like. Messages, docstrings,
annotations and what only type checkers see are left alone.
"""

from __future__ import annotations

import ast
import re
from typing import NamedTuple


class Edit(NamedTuple):
    """Bytes [first, last) of a file become `new`."""

    first: int
    last: int
    new: str
    line: int
    nearest: tuple[int, int]
    """Lines of the statement, or of the head of one that has a body."""
    around: tuple[int, int]
    """Lines of the function: where to look for tests if none runs the lines of the statement."""


SWAPS: dict[type[ast.AST], tuple[str, str]] = {
    ast.Lt: ("<", "<="), ast.LtE: ("<=", "<"), ast.Gt: (">", ">="), ast.GtE: (">=", ">"),
    ast.Eq: ("==", "!="), ast.NotEq: ("!=", "=="), ast.Is: ("is", "is not"),
    ast.IsNot: ("is not", "is"), ast.In: ("in", "not in"), ast.NotIn: ("not in", "in"),
    ast.Add: ("+", "-"), ast.Sub: ("-", "+"), ast.Mult: ("*", "//"), ast.Div: ("/", "*"),
    ast.FloorDiv: ("//", "*"), ast.Mod: ("%", "*"), ast.Pow: ("**", "*"), ast.BitAnd: ("&", "|"),
    ast.BitOr: ("|", "&"), ast.LShift: ("<<", ">>"), ast.RShift: (">>", "<<"),
    ast.MatMult: ("@", "*"), ast.And: ("and", "or"), ast.Or: ("or", "and"),
}


class _Python(ast.NodeVisitor):
    """Collects edits; a node is met with the statement and the function that it is in."""

    def __init__(self, source: bytes):
        self.source, self.found = source, []
        self.starts = [0]
        for line in source.splitlines(keepends=True):
            self.starts.append(self.starts[-1] + len(line))
        self.nearest, self.around = (1, 1), (1, len(self.starts))

    def add(self, first: int, last: int, new: str, line: int) -> None:
        self.found.append(Edit(first, last, new, line, self.nearest, self.around))

    def begin(self, node: ast.AST) -> int:
        return self.starts[node.lineno - 1] + node.col_offset

    def end(self, node: ast.AST) -> int:
        return self.starts[node.end_lineno - 1] + node.end_col_offset

    def text(self, node: ast.AST) -> str:
        return self.source[self.begin(node):self.end(node)].decode()

    def replace(self, node: ast.AST, new: str) -> None:
        self.add(self.begin(node), self.end(node), new, node.lineno)

    def operator(self, op: ast.AST, left: ast.AST, right: ast.AST) -> None:
        """Swap what stands between two operands."""
        if type(op) not in SWAPS:
            return
        old, new = SWAPS[type(op)]
        between = self.source[self.end(left):self.begin(right)].decode()
        pattern = re.escape(old).replace(r"\ ", r"\s+")
        place = re.search(rf"\b{pattern}\b" if old[0].isalpha() else pattern, between)
        if place:
            first = self.end(left) + len(between[:place.start()].encode())
            self.add(first, first + len(place[0]), new, left.end_lineno)

    def negate(self, test: ast.AST) -> None:
        self.replace(test, f"(not ({self.text(test)}))")

    # Where no edit is of any use.

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        """Messages; and before Python 3.12 their nodes have no places."""

    def visit_Import(self, node: ast.Import) -> None:
        """A name that is missing is found by any test."""

    visit_ImportFrom = visit_Import

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self.visit(node.value)

    def visit_arg(self, node: ast.arg) -> None:
        """Its annotation."""

    # Statements.

    def statements(self, body: list[ast.stmt]) -> None:
        for node in body:
            last = node.end_lineno
            if isinstance(node, (ast.If, ast.While, ast.For, ast.With, ast.Try, ast.ClassDef,
                                 ast.FunctionDef)):
                last = max(node.lineno, node.body[0].lineno - 1)
            before, self.nearest = self.nearest, (node.lineno, last)
            self.statement(node)
            self.visit(node)
            self.nearest = before

    def statement(self, node: ast.stmt) -> None:
        """Leave a statement out where what follows does not need it to be there."""
        target = node.targets[0] if isinstance(node, ast.Assign) else None
        if (isinstance(node, (ast.AugAssign, ast.Raise, ast.Break, ast.Continue))
                or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Call))
                or isinstance(target, (ast.Attribute, ast.Subscript))):
            self.replace(node, "pass")
        elif isinstance(node, ast.Return) and node.value is not None:
            constant = isinstance(node.value, ast.Constant)
            if not constant or node.value.value is not None:
                self.replace(node, "return None")

    def generic_visit(self, node: ast.AST) -> None:
        for name, value in ast.iter_fields(node):
            if name in {"body", "orelse", "finalbody"} and isinstance(value, list):
                self.statements(value)
            elif isinstance(value, list):
                for item in value:
                    if isinstance(item, ast.AST):
                        self.visit(item)
            elif isinstance(value, ast.AST):
                self.visit(value)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        if any(isinstance(mark, ast.Name) and mark.id == "overload"
               for mark in node.decorator_list):
            return
        before, self.around = self.around, (node.body[0].lineno, node.end_lineno)
        for mark in node.decorator_list:
            self.visit(mark)
        self.visit(node.args)
        self.statements(node.body)
        self.around = before

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        before, self.around = self.around, (node.lineno, node.end_lineno)
        self.statements(node.body)
        self.around = before

    def visit_Assign(self, node: ast.Assign) -> None:
        names = {target.id for target in node.targets if isinstance(target, ast.Name)}
        if not names & {"__slots__", "__all__"}:
            self.generic_visit(node)

    def visit_If(self, node: ast.If) -> None:
        if isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            return
        self.negate(node.test)
        self.generic_visit(node)

    def visit_While(self, node: ast.While) -> None:
        self.negate(node.test)
        self.generic_visit(node)

    def visit_IfExp(self, node: ast.IfExp) -> None:
        self.negate(node.test)
        self.generic_visit(node)

    def visit_comprehension(self, node: ast.comprehension) -> None:
        for test in node.ifs:
            self.negate(test)
        self.generic_visit(node)

    # Expressions.

    def visit_Compare(self, node: ast.Compare) -> None:
        operands = [node.left, *node.comparators]
        for i, op in enumerate(node.ops):
            self.operator(op, operands[i], operands[i + 1])
        self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> None:
        self.operator(node.op, node.left, node.right)
        self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        for left, right in zip(node.values, node.values[1:], strict=False):
            self.operator(node.op, left, right)
        self.generic_visit(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> None:
        if isinstance(node.op, (ast.Not, ast.USub, ast.Invert)):
            mark = 3 if isinstance(node.op, ast.Not) else 1
            self.add(self.begin(node), self.begin(node) + mark, "", node.lineno)
        if not (isinstance(node.op, ast.USub) and isinstance(node.operand, ast.Constant)):
            self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        if isinstance(node.value, bool):
            self.replace(node, str(not node.value))
        elif isinstance(node.value, (int, float)):
            self.replace(node, repr(node.value + 1))

    def visit_Slice(self, node: ast.Slice) -> None:
        for bound in (node.lower, node.upper):
            if bound is not None:
                self.replace(bound, "")
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        """Arguments by name are left out, too."""
        before = [*node.args, *(word.value for word in node.keywords)]
        for i, word in enumerate(node.keywords, len(node.args)):
            first = self.end(before[i - 1]) if i else self.begin(word)
            last = self.end(word.value)
            last += not i and self.source[last:last + 1] == b","
            if word.arg is not None and b"#" not in self.source[first:last]:
                self.add(first, last, "", word.value.lineno)
        self.generic_visit(node)


CYTHON = [(re.compile(pattern), new) for pattern, new in [
    (r"(?<= )<(?= )", "<="), (r"(?<= )<=(?= )", "<"), (r"(?<= )>(?= )", ">="),
    (r"(?<= )>=(?= )", ">"), (r"(?<= )==(?= )", "!="), (r"(?<= )!=(?= )", "=="),
    (r"(?<= )\+(?= )", "-"), (r"(?<= )-(?= )", "+"), (r"(?<= )\*(?= )", "//"),
    (r"(?<= )//(?= )", "*"), (r"(?<= )\+=(?= )", "-="), (r"\band\b", "or"), (r"\bor\b", "and"),
    (r"\bnot (?=\w)(?!None|in )", ""), (r"\bis not\b", "is"), (r"\bTrue\b", "False"),
    (r"\bFalse\b", "True"), (r"(?<![\w.\"'])0(?![\w.])", "1"), (r"(?<![\w.\"'])1(?![\w.])", "2"),
    (r"^(?<=)\s*\w[\w.]*\([^=]*\)$", "pass"), (r"^\s*self\.[\w.]+ = .*[\w)\]]$", "pass"),
]]
_NO_CODE = re.compile(r"\s*(#|import|from|cimport|cdef extern|ctypedef|include|@|class|cdef class"
                      r"|raise|\"|f\"|$)")


def of_cython(source: bytes) -> list[Edit]:
    """Edits of lines of Cython that look like code: outside docstrings and declarations of C."""
    found, place, text = [], 0, False
    lines = source.decode().split("\n")
    for number, line in enumerate(lines, 1):
        quotes = line.count('"""')
        if not (text or quotes or _NO_CODE.match(line) or re.match(r"\s*(cp?def|def) ", line)):
            code = line.split("  #")[0]
            for pattern, new in CYTHON:
                for match in pattern.finditer(code):
                    old = match[0].lstrip() if new == "pass" else match[0]
                    first = place + len(code[:match.end() - len(old)].encode())
                    found.append(Edit(first, first + len(old.encode()), new, number,
                                      (number, number), (1, len(lines))))
        text ^= quotes % 2 == 1
        place += len(line.encode()) + 1
    return found


def of_python(source: bytes) -> list[Edit]:
    """Edits of a module."""
    visitor = _Python(source)
    visitor.visit(ast.parse(source))
    return visitor.found
