"""A process forked while another thread is within an op: in the child, the op does not wait for that thread."""

import sys
from concurrent.futures import ThreadPoolExecutor
from threading import Event
from typing import Any

import pytest
from cells import attempt_in_a_child
from op_table import OPS, Op
from soak_calls import Call, X, are_same, forward_and_backward
from torch.utils._python_dispatch import TorchDispatchMode

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere, a process with threads is not safe to fork")

TIME_LIMIT = 60  # seconds for a child, which takes a hundredth of one


class Pause(TorchDispatchMode):
    """Stops its thread at one of torch's operations.

    Attributes:
        operations: The number of operations so far.
        reached: Set at the one where the thread stops.
        ended: Ends the pause.
    """

    def __init__(self, place: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch's __init__ has no types
        self.place = place
        self.operations = 0
        self.reached, self.ended = Event(), Event()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if self.operations == self.place:
            self.reached.set()
            self.ended.wait()
        self.operations += 1
        return func(*args, **(kwargs or {}))

    def run(self, call: Call) -> int:
        with self:
            call()
        return self.operations


@pytest.mark.parametrize("op", OPS, ids=str)
def test_a_fork_within_an_op(op: Op) -> None:
    call = forward_and_backward(op, X)
    expected = call()
    places = Pause(-1).run(call)
    assert places > 0

    def in_the_child() -> None:
        assert are_same(forward_and_backward(op, X.clone())(), expected)

    outcomes = []
    with ThreadPoolExecutor(1) as pool:
        for place in range(places):
            pause = Pause(place)
            running = pool.submit(pause.run, call)
            assert pause.reached.wait(TIME_LIMIT)
            outcomes.append(attempt_in_a_child(in_the_child, TIME_LIMIT))
            pause.ended.set()
            assert running.result() == places
    assert [outcome for outcome in outcomes if outcome.kind != "pass"] == []
