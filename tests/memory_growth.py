"""How the memory of a process grows while it calls something again and again."""

import ctypes
import gc
import os
import sys
from array import array
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

PROCESS = Path("/proc/self")  # on Linux
PAGE = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 0


class Mallinfo2(ctypes.Structure):
    """glibc's statistics of all its heaps together, from version 2.33 on."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
            *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
        )
    ]


def heap() -> int:
    """The bytes that malloc has allocated, including C++'s and torch's, but not those of Python's small objects."""
    info = mallinfo2()
    return int(info.uordblks + info.hblkhd)


def resident() -> int:
    return int((PROCESS / "statm").read_text().split()[1]) * PAGE


def tensors() -> int:
    """Python's tensors that were created since gc.freeze()."""
    return sum(issubclass(type(each), torch.Tensor) for each in gc.get_objects())


def entries(folder: str) -> Callable[[], int]:
    return lambda: sum(1 for _ in (PROCESS / folder).iterdir())


mallinfo2: Any = getattr(ctypes.CDLL(None), "mallinfo2", None) if sys.platform == "linux" else None
MEASURES: dict[str, Callable[[], int]] = {"blocks": sys.getallocatedblocks, "tensors": tensors}
if mallinfo2 is not None:
    mallinfo2.restype = Mallinfo2
    MEASURES["heap"] = heap
if PROCESS.exists():
    MEASURES |= {"resident": resident, "files": entries("fd"), "threads": entries("task")}

# The attribute cache keeps the strings with which C++ has looked attributes up, such as `__name__` for the text of an
# error: hundreds at first, and at most 4096.
clear_caches: Callable[[], None] = getattr(sys, "_clear_internal_caches", sys._clear_type_cache)

# How much each may grow, no matter how many calls there are.
BOUNDS = {
    # Python's own allocator: nothing is left over, except from the first calls of a process.
    "blocks": 100,
    "tensors": 0,
    # It does not change by a byte after the first ten thousand calls, and by less than 4 KiB until then.
    "heap": 8 << 10,
    # For what neither allocator counts. It changes by 250 KiB, as pages are returned and requested again.
    "resident": 1 << 20,
    "files": 0,
    "threads": 0,
}


def growth_of(samples: Sequence[int]) -> int:
    """How much they grow from the end of their first tenth to their end.

    At both ends it is the highest of a twentieth of them: after a round of threads (tests/soak_threads.py), the heap is
    in one of two states that are 10 KiB apart.
    """
    few, end = max(1, len(samples) // 20), (len(samples) - 1) // 10 + 1
    return max(samples[-few:]) - max(samples[max(0, end - few) : end])


def growth(step: Callable[[], object], steps: int) -> dict[str, int]:
    """How much each measure grows while the step is repeated: see growth_of.

    The garbage collector ignores what exists when this begins: searching it takes a fifth of a second each time.
    """
    # Allocated beforehand: storing the samples would be growth itself.
    samples = {name: array("q", [0] * steps) for name in MEASURES}
    gc.collect()
    gc.freeze()
    for index in range(steps):
        step()
        gc.collect()
        clear_caches()
        for name, measure in MEASURES.items():
            samples[name][index] = measure()
    return {name: growth_of(taken) for name, taken in samples.items()}


def excess(grown: dict[str, int], bounds: dict[str, int] = BOUNDS) -> str:
    """What grew by more than its bound; empty if nothing did."""
    return ", ".join(
        f"{name} grew by {by:,}, at most {bounds[name]:,}" for name, by in grown.items() if by > bounds[name]
    )
