"""The page about what tools/soak.py found."""

from collections.abc import Iterator, Sequence
from typing import Any

from memory_growth import BOUNDS  # one of the tests, which tools/soak.py finds
from soak_calls import STEPS
from soak_threads import BOUNDS_OF_THREADS, INTRA_OP, THREADS

INTRODUCTION = f"""\
# The soak: a million calls of each op

Written by `make soak`, which calls each op, with the arguments shown, again and again on four float32 numbers:
forward; forward and backward, with all its gradients; with arguments that it refuses, two in each call; under
`torch.func.vmap`; and under `torch.func.grad`. {STEPS} times along the way, the process measures its memory:

| | may grow by | |
|---|---|---|
| heap | {BOUNDS["heap"]:,} bytes | allocated by malloc: torch's tensors, storages and nodes, and ste-core's memory |
| blocks | {BOUNDS["blocks"]:,} | allocated by Python's allocator: its small objects |
| tensors | {BOUNDS["tensors"]} | Python's tensors |
| resident | {BOUNDS["resident"]:,} bytes | pages in memory, for what neither allocator counts |
| files, threads | {BOUNDS["files"]} | |

The bounds limit the growth from the end of the first tenth of the calls to the last call, however many there are. At
both ends, the highest of a twentieth of the measurements counts. In a million calls, one Python object or 16 bytes of
malloc per thousand calls exceed the bounds, and so does a single tensor. The last call must return the same bits as the
first.

Then {THREADS} threads call all ops, forward and backward, on tensors that they share: small ones, and large ones
whose loops each run on {INTRA_OP} of torch's threads. In the middle of each round, at a different place each time, one
of them forks. The child calls all ops again, on one thread and on a new team of threads, while the others continue.
All results must have the same bits as those that one thread computed alone. The bounds are the same, except for
resident memory, which may grow by {BOUNDS_OF_THREADS["resident"] >> 20} MiB: the allocator keeps that of large tensors
for each thread.

The machine-readable results are beside this page, in `soak/`.
"""

SHOWN = ("heap", "blocks", "resident")

Row = dict[str, Any]


def failures(run: dict[str, Any]) -> list[str]:
    named = [(f"{row['op']}, {row['path']}", row) for row in run["rows"]] + [("threads and forks", run["threads"])]
    return [f"{name}: {row['failed']}" for name, row in named if row["failed"]]


def grown(row: Row) -> str:
    """The growth: of what usually varies, and of the rest if it did. If nothing did, 0."""
    if row["growth"] and not any(row["growth"].values()):
        return "0"
    rest = [f"{name} {by:+,}" for name, by in row["growth"].items() if name not in SHOWN and by]
    return " / ".join([*(f"{row['growth'][name]:,}" for name in SHOWN if name in row["growth"]), *rest])


def table(rows: Sequence[Row]) -> Iterator[str]:
    """A line for each op, a column for each way of calling it."""
    cells: dict[str, dict[str, Row]] = {}
    for row in rows:
        cells.setdefault(row["op"], {})[row["path"]] = row
    paths = list(dict.fromkeys(row["path"] for row in rows))
    yield f"| | {' | '.join(paths)} | seconds |"
    yield "|---" * (len(paths) + 2) + "|"
    for op, of_op in cells.items():
        shown = [f"{'**failed** ' if of_op[path]['failed'] else ''}{grown(of_op[path])}" for path in paths]
        yield f"| `{op}` | {' | '.join(shown)} | {sum(row['seconds'] for row in of_op.values()):,.0f} |"


def section(run: dict[str, Any]) -> Iterator[str]:
    threads, failed = run["threads"], failures(run)
    backend = run["backend"].replace("python", "Python")
    yield f"## The {backend} backend with torch {run['torch']}"
    yield ""
    seconds = run["seconds"] + threads["seconds"]
    yield f"Python {run['python']}, {run['libc']}, {run['cores']} cores, {seconds:,.0f} seconds."
    yield f"{len(failed)} failed:" if failed else "Nothing failed."
    yield ""
    yield from (f"- {failure}" for failure in failed)
    yield ""
    total = sum(row["calls"] for row in run["rows"])
    yield f"{run['calls']:,} calls in each cell, {total:,} in all. A cell is the growth of {', '.join(SHOWN)}, in"
    yield "bytes and blocks, or 0 if none of the measures grew; the seconds are those of one core."
    yield ""
    yield from table(run["rows"])
    yield ""
    compared, forks = threads.get("compared", 0), threads.get("forks", 0)
    yield f"Threads and forks: {threads['calls']:,} rounds in {threads['seconds']:,.0f} seconds, which compared"
    yield f"{compared:,} results, and in which {forks:,} children compared all of theirs."
    yield f"Growth: {grown(threads)}."
    yield ""


def page(runs: Sequence[dict[str, Any]]) -> str:
    return "\n".join([INTRODUCTION, *(line for run in runs for line in section(run))])
