"""Write the page docs/mutants.md about what `make mutants` found, which is in docs/mutants/results.json."""

import json
from collections.abc import Sequence
from typing import Any

from mutants_change import ROOT
from mutants_equivalent import REASONS

RESULTS = ROOT / "docs" / "mutants" / "results.json"
PAGE = ROOT / "docs" / "mutants.md"

INTRODUCTION = """\
# Mutants: would the tests notice?

Written by `make mutants`, which changes the packages in one place at a time, rebuilds what the change affects, and runs
tests until one fails.

## Arithmetic

{number} changes of one line, {split}, drawn by a seed (`tools/mutants_draw.py`) from
all changes that a set of rules makes to the sources: a comparison reversed, another operator, a constant off by one,
arguments swapped, a condition or a statement left out, a narrower dtype. Nobody chose them. Each kind has its turn, and
each family of ops its share; those that do not compile, or compile to the same code, were replaced: {again}. The
quick tests have one minute of processor time to find each change, and those of its family run first; a test that hangs
is killed after another minute.

**Found: {killed}. Without an effect that can be observed: {equivalent}. Surviving: {lost}.**
"""

REGISTRATION = """\
## Registration

Ways to register an op that look right but are wrong, chosen by hand, and how many rows of [the matrix](matrix.md) find
each of them.
"""


def code(text: str) -> str:
    return f"`` {text} ``"


def place(record: dict[str, Any]) -> str:
    return f"{record['file'].split('/', 2)[2]}:{record['line']}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)] + [""]


def outcome(record: dict[str, Any]) -> str:
    if record["how"]:
        test = record["test"].removeprefix("tests/")
        return f"{record['how']}: {code(test)}" if test else str(record["how"])
    return "cannot be observed" if record["identity"] in REASONS else "**survives**"


def page(results: dict[str, Any]) -> str:
    mutants = [record for record in results["arithmetic"] if "test" in record]
    killed = [record for record in mutants if record["how"]]
    equivalent = [record for record in mutants if not record["how"] and record["identity"] in REASONS]
    languages = [str(record["file"]).endswith(".py") for record in mutants]
    lines = [
        INTRODUCTION.format(
            number=len(mutants),
            split=f"{languages.count(False)} in C++ and {languages.count(True)} in Python",
            again=len(results["arithmetic"]) - len(mutants),
            killed=len(killed),
            equivalent=len(equivalent),
            lost=len(mutants) - len(killed) - len(equivalent),
        )
    ]
    kinds = dict.fromkeys(record["kind"] for record in mutants)
    counts = [[sum(record["kind"] == kind for record in group) for group in (mutants, killed)] for kind in kinds]
    lines += table(["kind", "mutants", "found"], [[kind, *map(str, count)] for kind, count in zip(kinds, counts)])
    lines += ["### Each change, and the test that finds it", ""]
    for record in sorted(mutants, key=lambda record: (list(kinds).index(record["kind"]), record["identity"])):
        lines += [f"{record['kind']}, {place(record)}: {outcome(record)} ({record['seconds']:.0f} s)", ""]
        lines += ["```diff", f"- {record['old']}", f"+ {record['new']}", "```", ""]
    if equivalent:
        lines += ["### Why some cannot be observed", ""]
        for record in equivalent:
            lines += [f"- {place(record)}, {code(record['new'])}: {REASONS[record['identity']]}"]
        lines.append("")
    if results["registration"]:
        lines.append(REGISTRATION)
        rows = []
        for record in results["registration"]:
            most = sorted(record["rows"].items(), key=lambda item: -item[1])[:3]
            rows.append([record["name"], str(len(record["rows"])), "; ".join(row for row, _ in most)])
        lines += table(["mutant", "rows", "those with the most cases"], rows)
    return "\n".join(lines)


def write_page() -> None:
    results = json.loads(RESULTS.read_text())
    PAGE.write_text(page(results))
    print(f"{PAGE.relative_to(ROOT)}: {sum('test' in record for record in results['arithmetic'])} mutants")
