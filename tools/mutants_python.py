"""All one-line changes to ste's Python from which the mutants are drawn."""

import ast
from collections.abc import Iterator

from mutants_change import ARITHMETIC, COMPARISONS, FUNCTIONS, PAIRS, ROOT, Change, Edit, changes_of

SOURCES = ROOT / "packages" / "ste-py" / "src" / "ste"

# These have no arithmetic: the choice of a backend, the calls to it, and what needs Brevitas.
_OTHERS = ("__init__", "__main__", "_backend", "_implement", "_schema", "autograd_ops", "brevitas")

_DTYPES = {"float32": "float64", "float64": "float32", "float16": "bfloat16", "bfloat16": "float16", "int64": "int32"}

Found = Iterator[tuple[int, Edit]]


class Editor(ast.NodeVisitor):
    """Collects the edits of a file, each with the number of its line."""

    def __init__(self, source: str) -> None:
        self.lines = source.splitlines()
        self.edits: list[tuple[int, Edit]] = []
        self.names: set[str] = set()  # of the visited function

    def add(self, operator: str, begin: ast.expr | ast.stmt, end: ast.expr | ast.stmt, text: str) -> None:
        """From the start of one node to the end of another on the same line."""
        if begin.lineno == end.end_lineno and end.end_col_offset is not None:
            self.edits.append((begin.lineno, Edit(operator, begin.col_offset, end.end_col_offset, text)))

    def between(self, operator: str, left: ast.expr, right: ast.expr, old: str, new: str) -> None:
        """An edit of the text between two nodes."""
        if left.end_lineno != right.lineno or left.end_col_offset is None:
            return
        line = self.lines[right.lineno - 1]
        begin = line.find(old, left.end_col_offset, right.col_offset)
        if begin >= 0:
            self.edits.append((right.lineno, Edit(operator, begin, begin + len(old), new)))

    def text(self, node: ast.expr) -> str:
        return self.lines[node.lineno - 1][node.col_offset : node.end_col_offset]

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        outer = self.names
        self.names = outer | {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}
        self.names |= {n.arg for n in ast.walk(node) if isinstance(n, ast.arg)}
        for child in (*node.args.defaults, *node.args.kw_defaults, *node.body):
            if child is not None:
                self.visit(child)
        self.names = outer

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None and self.text(node.annotation) != "TypeAlias":
            self.visit(node.value)

    def visit_Raise(self, node: ast.Raise) -> None:
        """The texts of errors have their own test."""

    def visit_Assign(self, node: ast.Assign) -> None:
        names = [n.id for n in ast.walk(node.value) if isinstance(n, ast.Name)]
        target = node.targets[0]
        if isinstance(target, ast.Name) and target.id in names and self.names:
            self.add("statement", node, node, "pass")
        if not (isinstance(target, ast.Name) and target.id == "__all__"):
            self.generic_visit(node)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        self.between("sum", node.target, node.value, "+=", "=")
        self.between("sum", node.target, node.value, "+=", "-=")
        self.generic_visit(node)

    def visit_Expr(self, node: ast.Expr) -> None:
        if isinstance(node.value, ast.Call):
            self.add("statement", node, node, "pass")
        if not isinstance(node.value, ast.Constant):
            self.generic_visit(node)

    def visit_If(self, node: ast.If) -> None:
        if self.text(node.test) == "TYPE_CHECKING":
            return
        self.branch(node.test)
        self.generic_visit(node)

    def visit_IfExp(self, node: ast.IfExp) -> None:
        self.branch(node.test)
        self.generic_visit(node)

    def branch(self, test: ast.expr) -> None:
        for constant in ("True or", "False and"):
            self.add("branch", test, test, f"{constant} ({self.text(test)})")

    def visit_Compare(self, node: ast.Compare) -> None:
        words = {
            ast.Is: ("is", "is not"),
            ast.IsNot: ("is not", "is"),
            ast.In: ("in", "not in"),
            ast.NotIn: ("not in", "in"),
        }
        signs = {ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">=", ast.Eq: "==", ast.NotEq: "!="}
        for left, operator, right in zip((node.left, *node.comparators), node.ops, node.comparators):
            if sign := signs.get(type(operator)):
                for other in COMPARISONS[sign]:
                    self.between("comparison", left, right, f" {sign} ", f" {other} ")
            elif pair := words.get(type(operator)):
                self.between("comparison", left, right, f" {pair[0]} ", f" {pair[1]} ")
        self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> None:
        is_text = any(
            isinstance(side, (ast.JoinedStr, ast.Constant)) and not isinstance(getattr(side, "value", ""), (int, float))
            for side in (node.left, node.right)
        )
        for old, new in () if is_text else ARITHMETIC.items():
            self.between("arithmetic", node.left, node.right, f" {old} ", f" {new} ")
        self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        old, new = (" and ", " or ") if isinstance(node.op, ast.And) else (" or ", " and ")
        for left, right in zip(node.values, node.values[1:]):
            self.between("logic", left, right, old, new)
        self.generic_visit(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> None:
        self.add("logic" if isinstance(node.op, (ast.Not, ast.Invert)) else "sign", node, node, self.text(node.operand))
        self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        if isinstance(node.value, bool):
            self.add("logic", node, node, str(not node.value))
        elif isinstance(node.value, (int, float)):
            for by in (1, -1):
                self.add("constant", node, node, str(node.value + by))

    def visit_Name(self, node: ast.Name) -> None:
        other = PAIRS.get(node.id)
        if other in self.names and isinstance(node.ctx, ast.Load):
            self.add("name", node, node, str(other))

    def visit_Attribute(self, node: ast.Attribute) -> None:
        self.visit(node.value)
        if node.attr in _DTYPES and self.text(node.value) == "torch":
            self.add("dtype", node, node, f"torch.{_DTYPES[node.attr]}")

    def visit_Call(self, node: ast.Call) -> None:
        function = node.func
        if isinstance(function, ast.Name) and function.id in FUNCTIONS:
            self.add("function", function, function, FUNCTIONS[function.id])
        if isinstance(function, ast.Attribute) and function.attr in FUNCTIONS:
            self.add("function", function, function, f"{self.text(function.value)}.{FUNCTIONS[function.attr]}")
        if isinstance(function, ast.Attribute) and function.attr in ("to", "clone", "contiguous", "double"):
            self.add("dtype", node, node, self.text(function.value))
        is_of_types = self.text(function) in ("isinstance", "getattr", "hasattr", "setattr")
        for first, second in () if is_of_types else zip(node.args, node.args[1:]):
            if not isinstance(first, ast.Starred) and not isinstance(second, ast.Starred):
                self.add("order", first, second, f"{self.text(second)}, {self.text(first)}")
        self.generic_visit(node)

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        """The texts of errors have their own test."""


def changes() -> Iterator[Change]:
    for path in sorted(SOURCES.rglob("*.py")):
        if path.stem not in _OTHERS:
            source = path.read_text()
            editor = Editor(source)
            editor.visit(ast.parse(source))
            yield from changes_of(str(path.relative_to(ROOT)), editor.edits)
