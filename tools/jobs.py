"""Write docs/jobs.md from the results that `make jobs` records in docs/jobs.

Each row is a job, each column a quantizer. A cell says "pass" if the job passed on each backend with each torch.
"""

import json
import sys
from pathlib import Path
from typing import Any

from matrix import PASS, SYMBOLS

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests"))
from quantizers import PAIRS  # noqa: E402 (from the folder above)

RESULTS = ROOT / "docs" / "jobs"
PAGE = ROOT / "docs" / "jobs.md"

LIFE = ("Training", "What is kept", "Two processes", "Deployment")

INTRODUCTION = """\
# The life of a quantizer, job by job

Written by `make jobs`, from the results of tests that compare values. Each column is a pair of quantizers of
{{mod}}`ste.nn`, on the weights and the inputs of a small network; each row is something that people do with them.

| | |
|---|---|
| ✓ | **pass**: it works on {runs} |
| ⊘ | **refused**: an error that says [why](#why-some-are-refused) instead of a wrong number |

An empty cell means that the job does not apply to that quantizer. The machine-readable results are in `docs/jobs/`.
"""


def runs_of(results: list[dict[str, Any]]) -> str:
    return ", ".join(f"the {r['subject'].replace('python', 'Python')} backend with torch {r['torch']}" for r in results)


def cell(outcomes: list[tuple[str, str] | None], notes: list[str]) -> str:
    """The cell of one job and one quantizer, from the outcome of each run."""
    run = [outcome for outcome in outcomes if outcome is not None]
    if len(run) < len(outcomes):
        return "**not run everywhere**" if run else ""
    reasons = list(dict.fromkeys(reason for kind, reason in run if kind != "pass"))
    for reason in reasons:
        if reason not in notes:
            notes.append(reason)
    marks = "".join(f' <a href="#n{notes.index(reason) + 1}">[{notes.index(reason) + 1}]</a>' for reason in reasons)
    return f"{SYMBOLS['refused']}{marks}" if reasons else PASS


def page(results: list[dict[str, Any]]) -> str:
    jobs: dict[str, dict[str, dict[str, list[tuple[str, str] | None]]]] = {}
    for index, result in enumerate(results):
        for row in result["rows"]:
            job, quantizer = row["row"].split(" || ")
            cells = jobs.setdefault(row["group"], {}).setdefault(job, {})
            outcomes = cells.setdefault(quantizer, [None] * len(results))
            failed = list(row["not_passed"].values())
            outcomes[index] = (failed[0][0], failed[0][1]) if failed else ("pass", "")
    lines = [INTRODUCTION.format(runs=runs_of(results))]
    notes: list[str] = []
    for group in sorted(jobs, key=LIFE.index):
        rows = jobs[group]
        lines += [f"## {group}", "", f"| | {' | '.join(PAIRS)} |", "|---" * (len(PAIRS) + 1) + "|"]
        for job, cells in rows.items():
            found = [cell(cells.get(quantizer, [None] * len(results)), notes) for quantizer in PAIRS]
            lines.append(f"| {job} | {' | '.join(found)} |")
        lines.append("")
    if notes:
        lines += ["## Why some are refused", ""]
        lines += [
            f'{number}. <a id="n{number}"></a>{note[0].upper()}{note[1:]}.' for number, note in enumerate(notes, 1)
        ]
    return "\n".join(lines) + "\n"


def last_results() -> list[dict[str, Any]]:
    return [json.loads(file.read_text()) for file in sorted(RESULTS.glob("*.json"))]


def main() -> None:
    results = last_results()
    PAGE.write_text(page(results))
    print(f"{PAGE.relative_to(ROOT)}: {len(results)} runs")


if __name__ == "__main__":
    main()
