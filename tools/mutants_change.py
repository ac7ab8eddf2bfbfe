"""A mutant of the arithmetic: one line of a source, changed in one place. And what both languages share."""

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent

# The seed of the sample: another number draws another sample.
SEED = 28


@dataclass(frozen=True)
class Change:
    """A line of a file, and its replacement.

    Attributes:
        file: From the repository's root.
        line: Its number, from 1.
        count: The number of this change among the file's changes of this kind to identical lines, from 1.
        operator: The rule that made it.
        old: The line as it is.
        new: The line with the change.
    """

    file: str
    line: int
    count: int
    operator: str
    old: str
    new: str

    @property
    def identity(self) -> str:
        """Stays the same when lines move: the key of results and reasons."""
        nth = f" ({self.count})" if self.count > 1 else ""
        return f"{self.file}{nth}: {self.old.strip()} -> {self.new.strip()}"

    @property
    def order(self) -> str:
        """The place in the draw. It depends only on this change, so an edit elsewhere does not move it."""
        return hashlib.sha256(f"{SEED} {self.identity}".encode()).hexdigest()


@dataclass(frozen=True)
class Edit:
    """The characters of a line from `begin` to `end`, and their replacement."""

    operator: str
    begin: int
    end: int
    text: str


def changes_of(file: str, edits: list[tuple[int, Edit]]) -> Iterator[Change]:
    """The changes that result from the edits of a file's lines, with the number of each line from 1."""
    lines = (ROOT / file).read_text().splitlines()
    seen: dict[tuple[str, str], list[int]] = {}
    for number, edit in sorted(edits, key=lambda item: (item[0], item[1].begin, item[1].text)):
        old = lines[number - 1]
        new = old[: edit.begin] + edit.text + old[edit.end :]
        alike = seen.setdefault((old.strip(), new.strip()), [])
        if new != old and number not in alike:
            alike.append(number)
            yield Change(file, number, len(alike), edit.operator, old, new)


COMPARISONS = {"<": ("<=", ">"), "<=": ("<", ">="), ">": (">=", "<"), ">=": (">", "<="), "==": ("!=",), "!=": ("==",)}

ARITHMETIC = {"+": "-", "-": "+", "*": "/", "/": "*", "%": "/", "//": "/", "<<": ">>", ">>": "<<", "&": "|", "|": "&"}

# Functions, and what people might write by mistake.
_FUNCTIONS = [
    *[("min", "max"), ("minimum", "maximum"), ("amin", "amax"), ("floor", "ceil"), ("trunc", "round")],
    *[("all", "any"), ("all_of", "any_of")],
]
FUNCTIONS = {**dict(_FUNCTIONS), **{b: a for a, b in _FUNCTIONS}, "rint": "trunc", "mul": "div"}

# Pairs of names that occur together and are easily confused.
_NAMES = [
    *[("min_val", "max_val"), ("quant_min", "quant_max"), ("min_", "max_"), ("low", "high"), ("lower", "upper")],
    *[("first", "second"), ("outer", "inner"), ("row", "element"), ("size0", "size1"), ("begin", "end")],
    *[("scale", "zero_point"), ("to_scale", "to_zero_point"), ("by_scale", "by_zero_point"), ("is_min", "is_max")],
    *[("rows", "columns"), ("dim", "axis"), ("count", "size"), ("exponent", "mantissa"), ("below", "above")],
]
PAIRS = {**dict(_NAMES), **{b: a for a, b in _NAMES}}
WORD = re.compile(r"(?<![\w.>:])[a-z]\w*\b|(?<=\w\.)[a-z]\w*\b")


def other_names(line: str, nearby: str) -> Iterator[Edit]:
    """Each name of a pair replaced by the other, if the other occurs nearby too."""
    for match in WORD.finditer(line):
        other = PAIRS.get(match[0])
        if other is not None and re.search(rf"\b{other}\b", nearby):
            yield Edit("name", match.start(), match.end(), other)


NUMBER = re.compile(r"(?<![\w.'])(0x[0-9A-Fa-f]+|\d+\.\d+|\d+)(?![\w.'])")


def numbers(line: str) -> Iterator[Edit]:
    """Each number one more, and one less."""
    for match in NUMBER.finditer(line):
        for by in (1, -1):
            if match[0].startswith("0x"):
                text = f"0x{int(match[0], 16) + by:X}"
            else:
                text = str(float(match[0]) + by) if "." in match[0] else str(int(match[0]) + by)
            if not text.startswith(("-", "0x-")):
                yield Edit("constant", match.start(), match.end(), text)
