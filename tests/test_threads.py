"""The loops run on all of torch's threads and no others, and give the same bits with any number of them."""

import gc
import json
import time
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import torch
from op_table import OPS
from processes import run
from test_layouts import LAYOUTS
from torch import Tensor

import ste

pytestmark = pytest.mark.skipif(ste.backend().name != "native", reason="the Python backend has no loops of its own")

Call = Callable[[], Sequence[Tensor]]

# Enough for each of eight threads, which start within rows.
SHAPE = (32, 256, 127)
# Shapes of x and of two parameters: with few sums, and with too many for each thread to compute all of them.
WITH_SUMS: list[tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]] = [
    (SHAPE, (), ()),
    (SHAPE, (127,), (127,)),
    (SHAPE, (256, 1), ()),
    (SHAPE, (256, 1), (127,)),
    (SHAPE, (32, 1, 127), (127,)),
    (SHAPE, SHAPE, (256, 1)),
    ((8, 1 << 17), (1 << 17,), (1 << 17,)),
    ((8, 1 << 17), (1 << 17,), ()),
    ((1 << 17, 8), (1 << 17, 1), (1 << 17, 1)),
    ((4, 1 << 15, 8), (1 << 15, 1), (8,)),
]


# The part of its half that a second thread must take. If the processors have other work, the first thread also spends
# time on waiting.
SHARE = 0.25
ATTEMPTS = 5


@cache
def normal(shape: tuple[int, ...], seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def gradients(name: str, x: Tensor, *arguments: Any) -> Call:
    """The backward alone, to x and to the arguments that get a gradient."""
    learns = name in ("tensor_clamp", "fake_quantize", "fake_quantize_float")
    learned = [t for t in arguments if isinstance(t, Tensor)] if learns else []
    leaves = [t.detach().requires_grad_() for t in (x, *learned)]
    given = iter(leaves[1:])
    y = getattr(ste, name)(leaves[0], *(next(given) if learns and isinstance(a, Tensor) else a for a in arguments))
    g = torch.empty_like(y).copy_(normal(x.shape, 1))
    return partial(torch.autograd.grad, y, leaves, g, retain_graph=True)


def calls(dtype: torch.dtype) -> Iterator[tuple[str, Call]]:
    """Every loop, over contiguous and over strided elements."""
    for layout, lay_out in LAYOUTS.items():
        x = lay_out(normal(SHAPE, 0).to(dtype) * 3)
        for op in OPS:
            arguments = op.arguments_for(x)
            yield f"{op}, {layout}", partial(lambda f, *a: [f(*a)], op.function, x, *arguments)
            if not op.straight_through:
                yield f"{op}, {layout}, backward", gradients(op.name, x, *arguments)
        for kind in ste.surrogates.TABLE:
            yield f"{kind.name}, {layout}, backward", gradients("binary_sign_ste", x, -1.0, kind.name)
    for shape, first, second in WITH_SUMS:
        for layout in ("contiguous", "every second column", "transposed"):
            x = LAYOUTS[layout](normal(shape, 0).to(dtype) * 3)
            low, scale = normal(first, 2).to(dtype) - 1, normal(first, 2).abs().to(dtype) + 0.125
            high, zero_point = normal(second, 3).to(dtype) + 1, normal(second, 3).round().to(dtype)
            title = f"{shape}, {first}, {second}, {layout}"
            yield f"tensor_clamp, {title}", gradients("tensor_clamp", x, low, high)
            yield f"fake_quantize, {title}", gradients("fake_quantize", x, scale, zero_point, -4, 3)


def bytes_of(call: Call, threads: int) -> Tensor:
    torch.set_num_threads(threads)
    return torch.cat([tensor.flatten().view(torch.uint8) for tensor in call()])


def print_differences() -> None:
    """The number of calls, and those that give other bits with more threads than with one."""
    number, different = 0, []
    for dtype in (torch.float32, torch.bfloat16):
        for title, call in calls(dtype):
            number += 1
            of_one = bytes_of(call, 1)
            for threads in (2, 3, 8):
                if not torch.equal(bytes_of(call, threads), of_one):
                    different.append(f"{title}, {dtype}, {threads} threads")
    print(json.dumps([number, different]))


def test_any_number_of_threads_gives_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_WAIT_POLICY", "passive")  # threads that wait leave the cores to the others
    number, different = json.loads(run("import test_threads; test_threads.print_differences()", backend="native"))
    assert number > 2 * len(OPS)
    assert different == []


def print_shares(dtype: torch.dtype) -> None:
    """The share of each call's processor time that a second thread takes: the largest of some attempts."""
    torch.set_num_threads(2)
    gc.disable()  # a garbage collection takes as long as many calls
    shares: dict[str, float] = {}
    for title, call in calls(dtype):
        call()
        for _ in range(ATTEMPTS):
            all_before, own_before = time.process_time(), time.thread_time()
            for _ in range(20):
                call()
            of_all, own = time.process_time() - all_before, time.thread_time() - own_before
            shares[title] = max(shares.get(title, 0), (of_all - own) / of_all)
            if shares[title] >= SHARE:
                break
    print(json.dumps(shares))


# Processor time, which excludes other processes, of threads that sleep while they have no work.
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_second_thread_takes_part(dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    monkeypatch.setenv("OMP_WAIT_POLICY", "passive")
    code = f"import torch, test_threads; test_threads.print_shares(torch.{dtype})"
    shares = json.loads(run(code, backend="native"))
    assert {title: share for title, share in shares.items() if share < SHARE} == {}


RUNTIMES = """
import re, torch
def runtimes():
    paths = (line.split(maxsplit=5)[-1].strip() for line in open("/proc/self/maps"))
    return {path for path in paths if re.search(r"/lib(gomp|iomp|omp)[^/]*$", path)}
torch.set_num_threads(2)
x = torch.randn(1 << 20, requires_grad=True)
torch.round(x)
before = runtimes()
import ste
ste.fake_quantize(x, torch.tensor(0.1), None, -8, 7).sum().backward()
print(before == runtimes(), len(before))
"""


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="the libraries of a process, as Linux lists them")
def test_the_threads_are_those_of_torch() -> None:
    assert run(RUNTIMES, backend="native").split() == ["True", "1"]
