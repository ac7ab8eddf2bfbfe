"""Memory does not grow over some thousands of calls, as over the million of `make soak`; leaks are found."""

import ctypes
import json
import mmap
import os
import sys
import threading
from collections.abc import Callable
from itertools import count
from typing import Any

import pytest
import torch
from memory_growth import MEASURES, excess, growth_of
from op_table import OPS
from processes import run
from soak_calls import PATHS, STEPS, Results, X, forward, soak
from soak_threads import Soak

import ste

CALLS = 3000
QUICK_PATHS = ("forward and backward", "errors")

CALLS_WITH_A_LEAK = 100_000
kept: list[Any] = []
libc: Any = ctypes.CDLL(None) if "heap" in MEASURES else None


def keep_a_page() -> None:
    page = mmap.mmap(-1, mmap.PAGESIZE)
    page[0] = 1
    kept.append(page)


def keep_a_thread() -> None:
    threading.Thread(target=threading.Event().wait, daemon=True).start()


# By the measure that must find each leak: after how many calls it recurs, and what leaks.
LEAKS: dict[str, tuple[int, Callable[[], object]]] = {
    "blocks": (100, lambda: kept.append(object())),
    "tensors": (10_000, lambda: kept.append(torch.zeros(1))),
    "heap": (100, lambda: libc.malloc(16)),
    "resident": (100, keep_a_page),
    "files": (10_000, lambda: kept.append(os.open(os.devnull, os.O_RDONLY))),
    "threads": (40_000, keep_a_thread),
}


def print_excesses() -> None:
    torch.set_num_threads(1)
    found = {f"{op}, {path}": excess(soak(PATHS[path](op, X), CALLS)) for op in OPS for path in QUICK_PATHS}
    print(json.dumps(found))


def print_leaks() -> None:
    torch.set_num_threads(1)
    call = forward(OPS[0], X)

    def leaking(every: int, leak: Callable[[], object]) -> Callable[[], Results]:
        calls = count(1)

        def call_and_leak() -> Results:
            if next(calls) % every == 0:
                leak()
            return call()

        return call_and_leak

    found = {name: excess(soak(leaking(*LEAKS[name]), CALLS_WITH_A_LEAK)) for name in MEASURES}
    numbers = count()
    try:
        soak(lambda: (str(next(numbers)),), STEPS)
    except AssertionError as error:
        found["results"] = str(error)
    print(json.dumps(found))


def print_differences() -> None:
    threads = Soak()
    threads.round()
    alone = threads.differences.copy()
    wrong = next(reversed(threads.expected))
    threads.expected[wrong][-1].view(torch.int32)[-1] ^= 1  # type: ignore[union-attr]  # a gradient
    threads.round()
    print(json.dumps([alone, wrong, sorted(set(threads.differences))]))


def printed(function: Callable[[], None]) -> Any:
    """In a separate process, whose memory no other test changes."""
    return json.loads(run(f"import test_soak; test_soak.{function.__name__}()", backend=ste.backend().name))


def test_growth_is_that_of_the_highest() -> None:
    threads = [10_000 if index % 5 else 0 for index in range(1000)]
    assert growth_of(threads) == growth_of(threads[1:]) == 0
    assert growth_of([each + 16 * index for index, each in enumerate(threads)]) == 16 * 900
    assert growth_of([0, 5, *range(5, 23)]) == 17
    assert growth_of([3, 1, 4]) == 1


def test_memory_is_flat() -> None:
    found = printed(print_excesses)
    assert len(found) == len(OPS) * len(QUICK_PATHS)
    assert {name: grown for name, grown in found.items() if grown} == {}


def test_what_leaks_is_found_and_what_returns_something_else() -> None:
    found = printed(print_leaks)
    assert found.pop("results") == "the last call returns something else than the first"
    assert set(found) >= {"blocks", "tensors"}
    assert [name for name, grown in found.items() if f"{name} grew by" not in grown] == []


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere, a process with threads is not safe to fork")
def test_threads_and_a_fork_among_them_give_the_bits_of_one_thread() -> None:
    alone, wrong, found = printed(print_differences)
    assert alone == []
    assert found == sorted([wrong, f"child 2: AssertionError: differ: {wrong}, {wrong}"])
