"""Write docs/matrix.md from the results of the matrix, which `make matrix` records in docs/matrix.

Each row is a transform, each column a backend, or what replaces it, with one torch. Everything in the table was tested:
a column whose rows differ from those of the last run is left out until it is run again.
"""

import json
import re
from pathlib import Path
from typing import Any

from packaging.version import Version

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "docs" / "matrix"
PAGE = ROOT / "docs" / "matrix.md"

SUBJECTS = {"native": "native", "python": "Python", "idiom": "detach idiom", "function": "Function"}
OURS = ("native", "python")

# The site colors a cell by the symbol that it begins with: docs/extensions/tables.py.
PASS = "✓"
SYMBOLS = {"wrong": "✗", "refused": "⊘"}

Result = dict[str, Any]

INTRODUCTION = """\
# The matrix: every transform, on both backends

Written by `make matrix`, from the results of tests that compare values: the forward, the first derivative, and the
second if there is one. Each column is a backend with one version of torch. The last two are what people use instead,
run by the same code: a `torch.autograd.Function` as in PyTorch's guide (`setup_context`, `generate_vmap_rule = True`),
and the detach idiom `x + (f(x) - x).detach()`.

| | |
|---|---|
| ✓ | **pass**: all cases of the row pass, for all ops |
| ⊘ | **refused**: an error instead of a wrong number. [Below](#why-some-are-refused) are the reasons for ours; if \
PyTorch itself fails, the test shows that `x.clone()` fails in the same row |
| ✗ | **wrong**: values that differ from the contract's, without an error |

✗ 3/12 means three of twelve cases. Except in the rows that compare bits, x is a multiple of 1/4, for which the idiom's
`x + (f(x) - x)` is exact. The machine-readable results are in `docs/matrix/`.

## Counts

The number of rows that pass.
"""


def outcomes(row: dict[str, Any]) -> list[str]:
    """How many cases of one cell are wrong and how many are refused, or that all pass."""
    total = row["passed"] + len(row["not_passed"])
    kinds = [kind for kind, _ in row["not_passed"].values()]
    parts = []
    for kind, symbol in SYMBOLS.items():
        if count := kinds.count(kind):
            parts.append(symbol if count == total else f"{symbol}\N{NO-BREAK SPACE}{count}/{total}")
    return parts or [PASS]


def cell(row: dict[str, Any], notes: list[str], ours: bool) -> str:
    reasons = dict.fromkeys(reason for _, reason in row["not_passed"].values()) if ours else {}
    notes += [reason for reason in reasons if reason not in notes]
    numbers = [notes.index(reason) + 1 for reason in reasons]
    return ", ".join(outcomes(row)) + "".join(f' <a href="#n{number}">[{number}]</a>' for number in numbers)


def head(result: Result) -> str:
    return f"{SUBJECTS[result['subject']]}, {result['torch']}"


def anchor(title: str) -> str:
    """The anchor of a heading, as GitHub and the site generate it."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def counts(results: list[Result], groups: dict[str, list[str]]) -> list[str]:
    """A line for each group, with the number of its rows that pass in each column, marked if all of them do."""

    def line(title: str, chosen: list[str]) -> str:
        total = sum(len(groups[group]) for group in chosen)
        passed = [sum(not row["not_passed"] for row in r["rows"] if row["group"] in chosen) for r in results]
        cells = [f"{PASS}\N{NO-BREAK SPACE}{count}" if count == total else str(count) for count in passed]
        return f"| {title} | {' | '.join(cells)} | {total} |"

    return [
        f"| | {' | '.join(map(head, results))} | of |",
        "|---" * (len(results) + 2) + "|",
        *(line(f"[{group}](#{anchor(group)})", [group]) for group in groups),
        line("**all**", list(groups)),
        "",
    ]


def page(results: list[Result]) -> str:
    groups: dict[str, list[str]] = {}
    for result in results:
        for row in result["rows"]:
            rows = groups.setdefault(row["group"], [])
            if row["row"] not in rows:
                rows.append(row["row"])
    columns = [{(row["group"], row["row"]): row for row in result["rows"]} for result in results]
    heads = " | ".join(map(head, results))
    lines = [INTRODUCTION, *counts(results, groups)]
    notes: list[str] = []
    for group, rows in groups.items():
        lines += [f"## {group}", "", f"| | {heads} |", "|---" * (len(results) + 1) + "|"]
        for name in rows:
            cells = [
                cell(column[group, name], notes, result["subject"] in OURS) for result, column in zip(results, columns)
            ]
            lines.append(f"| {name} | {' | '.join(cells)} |")
        lines.append("")
    lines += ["## Why some are refused", ""]
    lines += [f'{number}. <a id="n{number}"></a>{note[0].upper()}{note[1:]}.' for number, note in enumerate(notes, 1)]
    return "\n".join(lines) + "\n"


def rows_of(result: Result) -> set[tuple[str, str]]:
    return {(row["group"], row["row"]) for row in result["rows"]}


def last_results() -> list[Result]:
    """In the order of the columns."""
    files = {file: json.loads(file.read_text()) for file in sorted(RESULTS.glob("*.json"))}
    last = max(files, key=lambda file: file.stat().st_mtime)
    results = []
    for file, result in files.items():
        if rows_of(result) == rows_of(files[last]):
            results.append(result)
        else:
            print(f"{file.relative_to(ROOT)} has other rows than {last.name} and is left out until it is run again")
    order = list(SUBJECTS)
    return sorted(results, key=lambda r: (order.index(r["subject"]) // 2, Version(r["torch"]), r["subject"]))


def main() -> None:
    results = last_results()
    PAGE.write_text(page(results))
    print(f"{PAGE.relative_to(ROOT)}: {len(results)} columns")


if __name__ == "__main__":
    main()
