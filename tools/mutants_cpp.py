"""All one-line changes to ste-core's C++ from which the mutants are drawn.

clang-format formats the sources, so spaces tell what a character is: ` < ` is a comparison, and `<` without spaces
begins the arguments of a template.
"""

import re
from collections.abc import Iterator
from itertools import pairwise

from mutants_change import ARITHMETIC, COMPARISONS, FUNCTIONS, ROOT, Change, Edit, changes_of, numbers, other_names

SOURCES = ROOT / "packages" / "ste-core" / "csrc"

# Declarations, and other lines without an expression.
_OTHER = re.compile(
    r"\s*(#|using |template |namespace |static_assert|class |struct |friend |typedef |extern |enum |private:)"
)

_RULES = [
    *(("comparison", rf" {old} ", f" {new} ") for old, others in COMPARISONS.items() for new in others),
    *(("arithmetic", f" {re.escape(old)} ", f" {new} ") for old, new in ARITHMETIC.items() if old != "//"),
    *(("sum", " \\+= ", new) for new in (" = ", " -= ")),
    *(("logic", " && ", " || "), ("logic", r" \|\| ", " && "), ("logic", r"!(?=[\w(])", "")),
    *(("logic", r"\btrue\b", "false"), ("logic", r"\bfalse\b", "true")),
    *(("function", rf"\b{old}(?=(<\w+>)?\()", new) for old, new in FUNCTIONS.items()),
    *(("dtype", r"\bdouble\b", "float"), ("dtype", r"\bkDouble\b", "kFloat"), ("dtype", r"\bkFloat\b", "kDouble")),
    *(("dtype", r"at::opmath_type<(\w+)>", r"\1"), ("dtype", r"static_cast<[\w:<>]+>(?=\()", "")),
    ("dtype", r"int64_t(?= \w+ = )", "int32_t"),
    *(("branch", r"(?<=if \()(?=[^;]*\) \{$)", f"{constant} ") for constant in ("true ||", "false &&")),
]
_STATEMENT = re.compile(
    r"\s*(?!return|throw|break|continue|case|const |auto |using |[A-Z]\w*(<.*>)? \w+[ ({;])"
    r"[\w.>\[\]:-]+(<\w+>)?(\(.*\)| [+*|-]?= .*);$"
)


def masked(source: str) -> str:
    """The source with spaces instead of comments and quoted text."""

    def blank(match: re.Match[str]) -> str:
        return (
            re.sub(r"[^\n]", " ", match[0])
            if match[0][0] == "/"
            else match[0][0] + " " * (len(match[0]) - 2) + match[0][0]
        )

    return re.sub(r"//[^\n]*|/\*.*?\*/|\"(\\.|[^\"\\\n])*\"|'(\\.|[^'\\\n])'", blank, source, flags=re.DOTALL)


def is_compiled(condition: str) -> bool:
    """Whether a preprocessor condition holds when the mutants are compiled: for AVX2, and only for CPUs."""
    return "AVX2" in condition or condition.startswith("!") or "defined" not in condition


def compiled_lines(source: str) -> Iterator[tuple[int, str]]:
    """The lines that the preprocessor keeps, with their numbers."""
    taken: list[list[bool]] = []  # for each open #if, which of its parts so far were kept
    for number, line in enumerate(source.splitlines(), 1):
        directive, _, condition = line.strip().partition(" ")
        if directive in ("#if", "#ifdef"):
            taken.append([directive == "#if" and is_compiled(condition)])
        elif directive == "#elif":
            taken[-1].append(not any(taken[-1]) and is_compiled(condition))
        elif directive == "#else":
            taken[-1].append(not any(taken[-1]))
        elif directive == "#endif":
            taken.pop()
        elif all(parts[-1] for parts in taken):
            yield number, line


def arguments_at(line: str, opening: int) -> list[tuple[int, int]] | None:
    """The positions of the arguments in the parentheses at `opening`; None if they are not closed on this line."""
    found = []
    begin, depth = opening + 1, 0
    for at in range(opening + 1, len(line)):
        character = line[at]
        if character in ")]}" and depth == 0:
            found.append((begin, at))
            return found
        if character == "," and depth == 0:
            found.append((begin, at))
            begin = at + 2
        depth += (character in "([{") - (character in ")]}")
    return None


def swaps(line: str, written: str) -> Iterator[Edit]:
    """The arguments of each call, with two neighbors swapped."""
    for match in re.finditer(r"(?<=[\w>])\(", line):
        arguments = arguments_at(line, match.start()) or []
        for (begin, middle), (after, end) in pairwise(arguments):
            yield Edit("order", begin, end, f"{written[after:end]}, {written[begin:middle]}")


def edits_of(line: str, written: str, nearby: str, is_statement: bool) -> Iterator[Edit]:
    for operator, pattern, text in _RULES:
        for match in re.finditer(pattern, line):
            if operator == "branch" or match.group():
                yield Edit(operator, match.start(), match.end(), match.expand(text))
    yield from numbers(line)
    yield from swaps(line, written)
    yield from other_names(line, nearby)
    if is_statement and _STATEMENT.match(line):
        yield Edit("statement", len(line) - len(line.lstrip()), len(line), ";")


def changes() -> Iterator[Change]:
    for path in sorted(SOURCES.rglob("*")):
        if path.suffix not in (".cpp", ".h") or "cuda" in path.name:
            continue
        written = path.read_text().splitlines()
        source = masked(path.read_text())
        lines = source.splitlines()
        edits = []
        before = ";"
        for number, line in compiled_lines(source):
            if line.strip():
                if not _OTHER.match(line) and "cuda" not in line:
                    nearby = "\n".join(lines[max(0, number - 12) : number + 12])
                    found = edits_of(line, written[number - 1], nearby, before.rstrip()[-1] in ";{}:")
                    edits += [(number, edit) for edit in found]
                before = line
        yield from changes_of(str(path.relative_to(ROOT)), edits)
