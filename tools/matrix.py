"""Make the table of docs/matrix.md from the results of the matrix, which `make matrix` records in docs/matrix.

One row a transform, one column a backend (or what stands in its place) and torch. Nothing in the table is untested: a
column that was run when there were other rows than in the last run is left out until it is run again.
"""

import json
from pathlib import Path
from typing import Any

from packaging.version import Version

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "docs" / "matrix"
PAGE = ROOT / "docs" / "matrix.md"

SUBJECTS = {"native": "native", "python": "Python", "idiom": "detach idiom", "function": "Function"}

INTRODUCTION = """\
# The matrix: every transform, on both backends

Made by `make matrix`, from the results of tests that compare values: forward, first derivative, and second where there
is one. A column is a backend and a version of torch. The last two are what people use in our place, run by the same
code: the detach idiom `x + (f(x) - x).detach()`, and a `torch.autograd.Function` as PyTorch's guide has it
(`setup_context`, `generate_vmap_rule = True`).

- **pass**: all cases of the row, over all ops, hold.
- **refused**: an error, and no wrong number. Ours say why below the table; where it is PyTorch itself that fails,
  the test shows that `x.clone()` in the op's place fails in the same row.
- **wrong**: other values than the contract's, and no error.

Where only some of the cases are not passed, their number is stated: "wrong 3/12" is three of twelve. Outside the rows
on values to the bit, x is a multiple of 1/4, on which the idiom's `x + (f(x) - x)` is exact. The machine-readable
results are beside this page, in `matrix/`.
"""


def cell(row: dict[str, Any], notes: list[str], ours: bool) -> str:
    total = row["passed"] + len(row["not_passed"])
    if not row["not_passed"]:
        return "pass"
    parts = []
    for kind in ("wrong", "refused"):
        reasons = [reason for case_kind, reason in row["not_passed"].values() if case_kind == kind]
        if reasons:
            share = "" if len(reasons) == total else f" {len(reasons)}/{total}"
            parts.append(f"**wrong**{share}" if kind == "wrong" else f"refused{share}")
            for reason in dict.fromkeys(reasons) if ours else ():
                if reason not in notes:
                    notes.append(reason)
                number = notes.index(reason) + 1
                parts[-1] += f' <a href="#n{number}">[{number}]</a>'
    return ", ".join(parts)


def page(results: list[dict[str, Any]]) -> str:
    order = list(SUBJECTS)
    results = sorted(results, key=lambda r: (order.index(r["subject"]) // 2, Version(r["torch"]), r["subject"]))
    groups: dict[str, list[str]] = {}
    for result in results:
        for row in result["rows"]:
            rows = groups.setdefault(row["group"], [])
            if row["row"] not in rows:
                rows.append(row["row"])
    columns = [{(row["group"], row["row"]): row for row in result["rows"]} for result in results]
    heads = [f"{SUBJECTS[result['subject']]}, {result['torch']}" for result in results]
    lines = [INTRODUCTION]
    notes: list[str] = []
    for group, rows in groups.items():
        lines += [f"## {group}", "", f"| | {' | '.join(heads)} |", "|---" * (len(heads) + 1) + "|"]
        for name in rows:
            cells = [
                cell(column[group, name], notes, result["subject"] in ("native", "python"))
                for result, column in zip(results, columns)
            ]
            lines.append(f"| {name} | {' | '.join(cells)} |")
        lines.append("")
    lines += ["## Why some are refused", ""]
    lines += [f'{number}. <a id="n{number}"></a>{note}.' for number, note in enumerate(notes, 1)]
    return "\n".join(lines) + "\n"


def rows_of(result: dict[str, Any]) -> set[tuple[str, str]]:
    return {(row["group"], row["row"]) for row in result["rows"]}


def main() -> None:
    files = {file: json.loads(file.read_text()) for file in sorted(RESULTS.glob("*.json"))}
    last = max(files, key=lambda file: file.stat().st_mtime)
    results = []
    for file, result in files.items():
        if rows_of(result) == rows_of(files[last]):
            results.append(result)
        else:
            print(f"{file.relative_to(ROOT)} has other rows than {last.name}, and is left out until it is run again")
    PAGE.write_text(page(results))
    print(f"{PAGE.relative_to(ROOT)}: {len(results)} columns")


if __name__ == "__main__":
    main()
