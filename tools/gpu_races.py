"""The races that tools/gpu.py runs in a process with its build.

Each line of the output is one race, as JSON.
"""

import argparse
import itertools
import json
import math
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import ste
from ste.surrogates import TABLE

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tools")]

# Neither the tests nor the tools are packages: the path above finds them.
from bench import LIMIT, Bench  # noqa: E402
from bench_calls import VARIANTS, Call, detached, written  # noqa: E402
from bench_grids import block_formats, float_formats, learnable  # noqa: E402
from bench_surrogates import gradients as surrogate_gradients  # noqa: E402
from gpu_checks import synchronize  # noqa: E402
from subjects import IDIOM  # noqa: E402

MILLION = 1 << 20
SIZES = [8, 4096, 65_536, MILLION, 16 * MILLION, 64 * MILLION]
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
CHANNELS = 1024
GROUP = 128


@dataclass(frozen=True)
class Race:
    """Competitors on the same tensors.

    Attributes:
        section: What is measured: a forward, a backward, or both.
        op: The op, and the kind of its parameters.
        calls: What runs, by name.
        tensors: How many tensors of x's size the fastest possible program reads and writes; NaN if that is not known.
    """

    section: str
    op: str
    calls: Mapping[str, Callable[[], Any]]
    tensors: float


def median_seconds(call: Callable[[], Any], device: str) -> float:
    """The time of one call, from as many as take some milliseconds, by the device's own clock."""
    for _ in range(2):
        call()
    synchronize(device)
    start = time.perf_counter()
    call()
    synchronize(device)
    count = max(1, min(100, int(2e-3 / (time.perf_counter() - start))))
    samples = []
    for _ in range(7):
        if device == "cpu":
            start = time.perf_counter()
            for _ in range(count):
                call()
            samples.append((time.perf_counter() - start) / count)
        else:
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            for _ in range(count):
                call()
            end.record()
            end.synchronize()
            samples.append(begin.elapsed_time(end) / 1e3 / count)
    return statistics.median(samples)


def forward_and_backward(op: str, calls: Mapping[str, Call], tensors: float) -> Iterator[Race]:
    yield Race("forward", op, {name: replace(call, arguments=detached(call)) for name, call in calls.items()}, tensors)
    yield Race("forward and backward", op, {name: call.with_backward() for name, call in calls.items()}, math.nan)


def races_of_ops(bench: Bench, x: Tensor, *, with_compiler: bool) -> Iterator[Race]:
    for variant, (op, arguments) in VARIANTS.items():
        calls = bench.competitors(variant, x)
        if with_compiler:
            torch._dynamo.reset()  # it compiles a function at most eight times
            calls["torch.compile"] = Call(torch.compile(written(op)), (x, *arguments(x.detach())))
        yield from forward_and_backward(variant, calls, 4 if variant.endswith("full") else 2)


def races_of_fake_quantize(bench: Bench, x: Tensor, *, with_compiler: bool) -> Iterator[Race]:
    """Four bits, with a learned scale."""
    kinds: dict[str, tuple[Tensor, tuple[int, ...]]] = {"per tensor": (x, ()), "per channel": (x, (x.shape[1], 1, 1))}
    if x.numel() % GROUP == 0:
        kinds["per group"] = (x.view(1, -1, GROUP), (x.numel() // GROUP, 1))
    for kind, (of_kind, shape) in kinds.items():
        leaf = of_kind.detach().requires_grad_()
        arguments = (leaf, torch.full(shape, 0.6, device=x.device, requires_grad=True), None, -8, 7)
        calls = {
            "clone": Call(torch.clone, (leaf,)),
            LIMIT: Call(torch.round, (leaf,)),
            bench.ours: Call(ste.fake_quantize, arguments, inputs=2),
            "composition": Call(IDIOM["fake_quantize"], arguments, inputs=2),
        }
        if with_compiler:
            torch._dynamo.reset()
            calls["torch.compile"] = Call(torch.compile(IDIOM["fake_quantize"]), arguments, inputs=2)
        if x.dtype == torch.float32:
            calls["learnable op of torch"] = learnable(leaf, arguments[1])
        yield from forward_and_backward(f"fake_quantize, {kind}", calls, 2)
        y = ste.fake_quantize(*arguments)
        backward = partial(torch.autograd.grad, y, arguments[:2], torch.randn_like(of_kind), retain_graph=True)
        copy = partial(torch.clone, of_kind)
        yield Race("backward", f"fake_quantize, {kind}", {"clone": copy, bench.ours: backward}, 3)


def races_of_formats(bench: Bench, x: Tensor, *, with_compiler: bool) -> Iterator[Race]:
    """FP8, and blocks whose scales follow from them."""
    found = {"fake_quantize_float, e4m3fn": float_formats(x, bench.ours, peers=False)}
    if x.numel() % GROUP == 0:
        for recipe in ("mxfp4", "int4_128"):
            found[f"fake_quantize_blocks, {recipe}"] = block_formats(recipe, x, bench.ours, peers=False)
    for op, calls in found.items():
        if not with_compiler:
            del calls["torch.compile"]
        torch._dynamo.reset()  # it compiles a function no more than eight times
        yield Race("forward", op, {name: replace(call, arguments=detached(call)) for name, call in calls.items()}, 2)


def races_of_surrogates(bench: Bench, x: Tensor) -> Iterator[Race]:
    """The gradient alone, which reads two tensors and writes one."""
    x = x.detach()
    g = torch.randn_like(x)
    for kind in TABLE:
        calls = {"clone": Call(torch.clone, (x,)), **surrogate_gradients(kind, bench.ours, x, g)}
        yield Race("gradient", f"binary_sign_ste, {kind.name}", calls, 3)


def races(device: str) -> Iterator[dict[str, Any]]:
    bench = Bench("", quick=True)
    sizes = SIZES if device != "cpu" else SIZES[:3]
    for elements, dtype in itertools.product(reversed(sizes), DTYPES):
        channels = min(CHANNELS, elements // 4)
        x = torch.randn(1, channels, elements // channels, 1, device=device).to(dtype).mul_(3).requires_grad_()
        with_compiler = elements == sizes[-1] and dtype != torch.float16
        everything = itertools.chain(
            races_of_fake_quantize(bench, x, with_compiler=with_compiler),
            races_of_formats(bench, x, with_compiler=with_compiler),
            races_of_surrogates(bench, x),
            races_of_ops(bench, x, with_compiler=with_compiler and dtype == torch.float32),
        )
        for race in everything:
            seconds: dict[str, float] = {}
            errors: dict[str, str] = {}
            for name, call in race.calls.items():
                try:
                    seconds[name] = median_seconds(call, device)
                except Exception as error:  # a competitor refuses a dtype: the others race on
                    errors[name] = f"{type(error).__name__}: {str(error).splitlines()[0]}"
            is_known = bench.ours in seconds and "clone" in seconds and not math.isnan(race.tensors)
            yield {
                "section": race.section,
                "op": race.op,
                "dtype": str(dtype).removeprefix("torch."),
                "elements": elements,
                "seconds": seconds,
                "errors": errors,
                # Relative to the bandwidth of the copy, which reads one tensor and writes another.
                "share": race.tensors / 2 * seconds["clone"] / seconds[bench.ours] if is_known else None,
            }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda")
    options = parser.parse_args()
    for result in races(options.device):
        print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
