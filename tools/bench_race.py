"""Competitors that take turns, and how long they took."""

import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from bench_calls import Call

# A race has this many turns, and as many again until its ratios are known or it has lasted long enough: longer if a
# call accesses memory, which others use too.
TURNS = 9
KNOWN = 0.01
SECONDS = 0.7
SECONDS_IN_MEMORY = 3
IN_MEMORY = 1_000_000  # elements: too many for a core's own caches


@dataclass(frozen=True)
class Result:
    """The time of one competitor, as a multiple of the limit's.

    Attributes:
        section: What was measured.
        op: The op, and the kind of its bounds.
        competitor: What ran.
        ratio: The median over the turns.
        low: The first quartile.
        high: The third quartile.
        seconds: One call, the median.
        memory: Whether freed memory is kept for the next call, or each result gets new memory from the system.
    """

    section: str
    op: str
    competitor: str
    ratio: float
    low: float
    high: float
    seconds: float = 0.0
    dtype: str = "float32"
    layout: str = "contiguous"
    elements: int = 0
    threads: int = 1
    memory: str = "kept"


def race(
    section: str,
    op: str,
    *sets: dict[str, Call],
    turns: int = TURNS,
    known: float = KNOWN,
    seconds: float | None = None,
    **where: Any,
) -> Iterator[Result]:
    """Run the competitors in turns; the first is the limit.

    Each turn uses the next set of calls, whose tensors lie elsewhere in memory: a loop may be 20% slower if the
    addresses that it reads and writes differ by a multiple of 4096 bytes.
    """
    timers = [{name: call.timer(where.get("threads", 1)) for name, call in calls.items()} for calls in sets]
    numbers = {}
    for name, timer in timers[0].items():
        timer.timeit(2)
        numbers[name] = max(1, min(20_000, int(0.005 / timer.timeit(2).median)))
    times: dict[str, list[float]] = {name: [] for name in numbers}
    limit = next(iter(numbers))
    if seconds is None:
        seconds = SECONDS if where["elements"] < IN_MEMORY else SECONDS_IN_MEMORY
    start = time.perf_counter()
    while True:
        for turn in range(turns):
            for name in list(numbers)[:: -1 if turn % 2 else 1]:
                times[name].append(timers[turn % len(timers)][name].timeit(numbers[name]).median)
        ratios = {name: [t / base for t, base in zip(of_name, times[limit])] for name, of_name in times.items()}
        quartiles = {name: statistics.quantiles(of_name, n=4) for name, of_name in ratios.items()}
        count = len(times[limit])
        if time.perf_counter() - start > seconds or all(
            (high - low) / count**0.5 < known * middle for low, middle, high in quartiles.values()
        ):
            break
    for name, (low, middle, high) in quartiles.items():
        yield Result(section, op, name, middle, low, high, statistics.median(times[name]), **where)
