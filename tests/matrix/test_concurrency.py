"""Threads, data-loader workers, the end of the interpreter, and determinism."""

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import processes
import pytest
import torch
from bits import assert_same_bits
from loaded_samples import Samples
from subjects import OPS, WITH_PARAMETERS, Op, X
from torch import Tensor
from torch.utils.data import DataLoader

row = pytest.mark.row
EVERY_OP = pytest.mark.parametrize("op", OPS, ids=str)
THREADS = 8
ROUNDS = 25


def at_once(work: Callable[[int], Any]) -> list[Any]:
    """Call a function in many threads that start together."""
    barrier = threading.Barrier(THREADS)

    def started(index: int) -> Any:
        barrier.wait()
        return [work(index) for _ in range(ROUNDS)]

    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(started, range(THREADS)))


def data_of(thread: int) -> tuple[Tensor, Tensor]:
    """Each thread has its own numbers, so that a mix-up between threads would show. None is at a bound."""
    x = (torch.arange(-32, 32, dtype=torch.float64) + 0.5) * (2 * thread + 1) / 4
    return x, torch.arange(64, dtype=torch.float64) + thread


@row("threads: forward and backward of all of the ops at once")
def test_backward_in_threads() -> None:
    def work(thread: int) -> list[tuple[Tensor, Tensor]]:
        x, g = data_of(thread)
        x.requires_grad_()
        found = []
        for i in range(len(OPS)):  # every thread starts with a different op
            op = OPS[(i + thread) % len(OPS)]
            y = op.function(x, *op.arguments_for(x.detach()))
            (gradient,) = torch.autograd.grad(y, x, g)
            found.append((y.detach(), gradient))
        return found

    check_threads(at_once(work))


@row("threads: `torch.func.grad` and `vmap` of all of the ops at once")
def test_func_in_threads() -> None:
    def work(thread: int) -> list[tuple[Tensor, Tensor]]:
        x, g = data_of(thread)
        found = []
        for i in range(len(OPS)):
            op = OPS[(i + thread) % len(OPS)]
            arguments = op.arguments_for(x)
            gradient = torch.func.grad(lambda t, op=op, rest=arguments: (op.function(t, *rest) * g).sum())(x)
            (y,) = torch.func.vmap(lambda t, op=op, rest=arguments: op.function(t, *rest))(x[None])
            found.append((y, gradient))
        return found

    check_threads(at_once(work))


def check_threads(found: list[list[list[tuple[Tensor, Tensor]]]]) -> None:
    for thread, rounds in enumerate(found):
        x, g = data_of(thread)
        for one in rounds:
            for i, (y, gradient) in enumerate(one):
                op = OPS[(i + thread) % len(OPS)]
                assert torch.equal(y, op.expected(x))
                assert torch.equal(gradient, op.gradient(x, g))


@row("threads: one graph, backward from all of them at once")
@EVERY_OP
def test_one_graph_in_threads(op: Op) -> None:
    x, g = data_of(0)
    x.requires_grad_()
    y = op.function(x, *op.arguments_for(x.detach()))
    assert torch.equal(y, op.expected(x.detach()))
    found = at_once(lambda thread: torch.autograd.grad(y, x, g + thread, retain_graph=True)[0])
    for thread, rounds in enumerate(found):
        for gradient in rounds:
            assert torch.equal(gradient, op.gradient(x.detach(), g + thread))


@row("`DataLoader(num_workers=2)`, workers by `{start}`")
@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_data_loader(start: str, monkeypatch: pytest.MonkeyPatch) -> None:
    samples = Samples()
    # What the process did before the fork, such as starting the engine's threads, must not disturb the workers.
    samples[0]
    monkeypatch.setenv("PYTHONPATH", processes.search_path())
    loader = DataLoader(samples, batch_size=2, num_workers=2, multiprocessing_context=start)
    x = torch.stack([X, 3 * X])
    batches = list(loader)
    assert len(batches) == len(OPS)
    for op, (y, gradient) in zip(OPS, batches):
        assert torch.equal(y, torch.stack([op.expected(each) for each in x]))
        assert torch.equal(gradient, torch.stack([op.gradient(each, X) for each in x]))


LIVE_GRAPHS = """
import sys, threading, warnings
warnings.simplefilter("ignore")  # a ste-core for another torch is told of
import torch
from subjects import OPS, X

class Cycle:
    pass

def graph(op):
    x = X.clone().requires_grad_()
    y = op(x * 3)
    y.register_hook(lambda g: g * 1)
    return x, y

local = threading.local()
local.graphs = [graph(op) for op in OPS]
in_globals = [graph(op) for op in OPS]
for op in OPS:
    cycle = Cycle()
    cycle.graph, cycle.itself = graph(op), cycle
    y = cycle.graph[1]
    y.grad_fn.register_hook(lambda inputs, outputs, cycle=cycle: None)  # a cycle through the graph
    (g,) = torch.autograd.grad((op(cycle.graph[0]) ** 2).sum(), cycle.graph[0], create_graph=True)
    cycle.derivative = g
    torch.func.grad(lambda t: op(t).sum())(X)
kept = torch.func.vjp(OPS[0], X)

ready = threading.Event()
def wait(local=local):
    local.graphs = [graph(op) for op in OPS]
    for _, y in local.graphs:
        y.sum().backward(retain_graph=True)
    ready.set()
    threading.Event().wait()
threading.Thread(target=wait, daemon=True).start()
ready.wait()
for x, y in [*in_globals, *local.graphs]:
    y.sum().backward(retain_graph=True)
torch.save([x.grad for x, _ in in_globals] , sys.argv[1])
"""


@row("the end of the interpreter, with graphs in globals, in cycles, in threads and in hooks")
def test_end_of_the_interpreter(tmp_path: Path) -> None:
    printed = processes.run(LIVE_GRAPHS, tmp_path / "gradients.pt", backend=os.environ.get("STE_BACKEND"))
    assert printed == ""
    for op, gradient in zip(OPS, torch.load(tmp_path / "gradients.pt")):
        assert torch.equal(gradient, 3 * op.slope(X * 3))


@contextmanager
def deterministic() -> Iterator[None]:
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


@row("`torch.use_deterministic_algorithms(True)`: values and gradients")
@EVERY_OP
def test_deterministic(op: Op) -> None:
    x = torch.arange(-4096, 4096).reshape(64, 128) / 512 + 1 / 1024
    g = torch.arange(8192.0).reshape(64, 128)
    with deterministic():
        t = x.clone().requires_grad_()
        y = op.function(t, *op.arguments_for(x))
        (gradient,) = torch.autograd.grad(y, t, g)
    assert torch.equal(y, op.expected(x))
    assert torch.equal(gradient, op.gradient(x, g))


@row("`torch.use_deterministic_algorithms(True)`: gradients to bounds, scales and zero points, the same bits each time")
@pytest.mark.parametrize("op", WITH_PARAMETERS, ids=str)
def test_deterministic_parameters(op: Op) -> None:
    # Sums that depend on their order: g is not dyadic, and each element of a bound sums many of its elements.
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1 << 14, 4, generator=generator) * 4
    g = torch.randn(1 << 14, 4, generator=generator)
    found = []
    with deterministic():
        for _ in range(5):
            t = x.clone().requires_grad_()
            arguments = op.arguments_for(x)
            learned = [a.requires_grad_() for a in arguments if isinstance(a, torch.Tensor)]
            found.append(torch.autograd.grad(op.function(t, *arguments), [t, *learned], g))
    for gradients in found[1:]:
        for again, first in zip(gradients, found[0]):
            assert_same_bits(again, first)
    assert torch.equal(found[0][0], op.gradient(x, g))
    for gradient, exact in zip(found[0][1:], op.parameter_gradients(x, g)):
        # In float64: the contract does not say how the sum is rounded.
        assert torch.allclose(gradient.double(), exact, rtol=0, atol=1e-3)
