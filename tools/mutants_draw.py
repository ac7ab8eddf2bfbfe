"""The sample of mutants: a number for each language, from all kinds in turn, and for each kind from all families.

Nobody chooses them: within a kind and a family, the mutant whose identity has the smallest hash comes next. One that
does not compile, or compiles to the same code, is replaced by the next.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import cycle

import mutants_cpp
import mutants_python
from mutants_change import Change

NUMBER = {"C++": 30, "Python": 20}

# The kind of a change is the first that matches: its language, its operator and its line.
_KINDS = {
    "argument order": r"^\w+ (order|name) ",
    "dtypes": r"dtype|opmath|convert|widen|narrow|in_double|in_float|is_16_bit|promote|float(16|32|64)",
    "thread splits": r"^C.*(parallel|\bparts\b|kPart|kUnit|GRAIN|copies|of_part|is_by_argument|first, end)",
    "NaN and zeros": r"nan\b|nan_|NAN|(\w+) != \1\b|infinity|is_?finite|isinf|\bZero\b|-0\.0",
    "layouts": r"contiguous|layout|order_of|rows_of|is_whole_|is_inner|varies|memory_|movedim|reshape|permute|\.view\(",
    "strides": r"stride|offset|at_byte|data\[|begin_",
    "sums": r"\bsum|total|lanes|accumulate|mean|sum_to",
    "masks": r"is_inside|keep|select|mask|where|owner|passes",
    "rounding": r"round|floor|ceil|trunc|rint|random",
    "ends and formats": r"mantissa|exponent|bias|largest|quant_m|end_in|smallest|limit|_max|min_|emax",
    "batches": r"batch|in_dims|rank|logical",
    "checks": r"check|CHECK|\braise\b|is_supported|broadcasts",
    "gradients": r"grad|slope|by_|tangent|\bg\b",
    "tails": r"count|size|kBlock|i <|step|vector|block",
    "values": r"",
}

_FAMILIES = {
    "nn": r"/nn/",
    "rounding": r"/rounding/|/_rounding\.py",
    "signs": r"/signs/|/_?surrogates\.py|/_signs\.py",
    "clamp": r"/clamp/|/_clamp\.py",
    "fake_quantize": r"/fake_quantize/|/_fake_quantize\.py|/_grid\.py",
    "fake_quantize_float": r"/fake_quantize_float/|/_fake_quantize_float\.py|/_float_format\.py",
    "fake_quantize_blocks": r"/fake_quantize_blocks/|/_?blocks\.py|composite",
    "straight_through": r"/straight_through/|/_straight_through\.py",
    "quantization": r"/quantization\.py|/shape\.py|/ops(_ste)?\.py",
    "onnx": r"/onnx\.py|/_quantize_linear\.py",
    "memory": r"/memory/",
    "register": r"",
}


def kind_of(change: Change) -> str:
    language = "Python" if change.file.endswith(".py") else "C"
    text = f"{language} {change.operator} {change.old.strip()}"
    return next(kind for kind, pattern in _KINDS.items() if re.search(pattern, text))


def family_of(change: Change) -> str:
    return next(family for family, pattern in _FAMILIES.items() if re.search(pattern, change.file))


class Draw:
    """The mutants of one language."""

    def __init__(self, changes: Iterator[Change]) -> None:
        self._left: dict[str, dict[str, list[Change]]] = {}
        for change in sorted(changes, key=lambda change: change.order, reverse=True):
            self._left.setdefault(kind_of(change), {}).setdefault(family_of(change), []).append(change)
        self._taken: Counter[str] = Counter()
        self._lines: set[tuple[str, int]] = set()

    def take(self, number: int, is_mutant: Callable[[Change], bool]) -> None:
        """This many mutants, from all kinds in turn."""
        for kind in cycle(kind for kind in _KINDS if kind in self._left):
            if sum(self._taken.values()) == number:
                return
            while (change := self._next_of(kind)) is not None:
                if is_mutant(change):
                    self._taken[family_of(change)] += 1
                    self._lines.add((change.file, change.line))
                    break

    def _next_of(self, kind: str) -> Change | None:
        """From the family with the fewest mutants so far, in a line that has none."""
        for left in self._left[kind].values():
            while left and (left[-1].file, left[-1].line) in self._lines:
                left.pop()
        families = {family: left for family, left in self._left[kind].items() if left}
        family = min(families, key=lambda name: (self._taken[name], families[name][-1].order), default=None)
        return None if family is None else families[family].pop()


def draws() -> dict[str, Draw]:
    return {"Python": Draw(mutants_python.changes()), "C++": Draw(mutants_cpp.changes())}
