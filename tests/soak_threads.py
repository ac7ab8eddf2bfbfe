"""Eight threads that call every op while one of them forks: they get the same bits as a single thread."""

import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
from cells import attempt_in_a_child
from memory_growth import BOUNDS, MEASURES
from op_table import OPS
from soak_calls import Call, Results, are_same, forward, forward_and_backward

THREADS = 8
INTRA_OP = 3  # torch's own threads, for each of them
# One that a loop processes alone, and one that it splits among torch's threads, which start within rows.
SHAPES = [(4,), (33, 4099)]
# The allocator keeps the memory of large tensors for each thread: 80 MiB after a few dozen rounds.
BOUNDS_OF_THREADS = BOUNDS | {"resident": 128 << 20}


def calls() -> dict[str, Call]:
    """Calls on new tensors, with the same numbers each time. All threads that make a call share its tensors."""
    made = {}
    for shape in SHAPES:
        x = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 3
        for op in OPS:
            made[f"{op}, {shape}"] = forward(op, x)
            made[f"{op}, {shape}, backward"] = forward_and_backward(op, x)
    return made


class Soak:
    """Rounds of all calls in all threads, with a fork in the middle of each.

    Attributes:
        compared: Results so far.
        forks: Children so far.
        differences: Results that differ from those of a single thread, or how a child failed.
    """

    def __init__(self) -> None:
        torch.set_num_threads(1)
        self.calls = calls()
        self.expected: dict[str, Results] = {name: call() for name, call in self.calls.items()}
        torch.set_num_threads(INTRA_OP)
        self.compared = 0
        self.forks = 0
        self.differences: list[str] = []

    def round(self) -> None:
        """Run all calls in all threads; the place of the fork moves from round to round."""
        threads, before = MEASURES["threads"], MEASURES["threads"]()
        names = list(self.calls)
        begin, ended = threading.Barrier(THREADS), threading.Event()
        place = 7 * self.forks % len(names)

        def work(thread: int) -> int:
            first = thread * len(names) // THREADS
            compared = 0
            begin.wait()
            while True:
                compared += self.compare(names[first:] + names[:first])
                if ended.is_set():
                    return compared

        def work_that_forks() -> int:
            begin.wait()
            try:
                compared = self.compare(names[:place])
                self.fork()
                return compared + self.compare(names[place:])
            finally:
                ended.set()

        with ThreadPoolExecutor(THREADS) as pool:
            working = [pool.submit(work, thread) for thread in range(1, THREADS)]
            working.append(pool.submit(work_that_forks))
        self.compared += sum(each.result() for each in working)
        deadline = time.monotonic() + 10
        while threads() > before and time.monotonic() < deadline:  # each team of OpenMP's ends after its first thread
            time.sleep(0.001)

    def compare(self, names: Sequence[str]) -> int:
        self.differences += different(self.calls, self.expected, names)
        return len(names)

    def fork(self) -> None:
        """The child makes all calls twice: on one thread, and in a new thread of its own.

        It has only the thread that forked. That thread's team of OpenMP threads is gone, and a loop that is split among
        them would wait forever; a new thread gets a new team. What other threads held locked at the time of the fork
        stays locked in the child, including the metadata of tensors, so it creates its own tensors.
        """
        self.forks += 1
        outcome = attempt_in_a_child(self.work_in_the_child)
        if outcome.kind != "pass":
            self.differences.append(f"child {self.forks}: {outcome.error}")

    def work_in_the_child(self) -> None:
        torch.set_num_threads(1)
        own = calls()
        found = list(different(own, self.expected, list(own)))

        def work() -> None:
            torch.set_num_threads(INTRA_OP)
            found.extend(different(own, self.expected, list(own)))

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        assert not found, f"differ: {', '.join(found)}"


def different(calls: dict[str, Call], expected: dict[str, Results], names: Sequence[str]) -> Iterator[str]:
    return (name for name in names if not are_same(calls[name](), expected[name]))
