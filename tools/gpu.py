"""Run on a GPU what a machine without one only compiles: all tests that have a parameter for the device, and timings.

Build and install ste-core with its CUDA kernels first:

    pip install --no-build-isolation -Ccmake.define.STE_CUDA=ON ./packages/ste-core
    pip install --group test
    python tools/gpu.py
"""

import argparse
import itertools
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from bench import VARIANTS, Bench, Call, Result
from subjects import IDIOM

import ste

ROOT = Path(__file__).parent.parent
SHAPES = [(1, 64, 32, 32), (1, 64, 128, 128), (16, 64, 125, 80)]  # 65,536, 1,048,576 and 10,240,000 elements
DTYPES = (torch.float32, torch.bfloat16)


def races(bench: Bench, device: str) -> Iterator[Result]:
    for shape, dtype in itertools.product(SHAPES, DTYPES):
        x = torch.randn(shape, device=device, dtype=dtype, requires_grad=True)
        where: dict[str, Any] = {"elements": x.numel(), "dtype": str(dtype).removeprefix("torch.")}
        for variant in VARIANTS:
            calls = bench.competitors(variant, x)
            yield from bench.race("forward", variant, calls, **where)
            calls = {name: call.with_backward() for name, call in calls.items()}
            yield from bench.race("forward and backward", variant, calls, **where)
        for kind, extent in (("per tensor", ()), ("per channel", (64, 1, 1))):
            scale = torch.full(extent, 0.6, device=device, requires_grad=True)
            arguments = (x, scale, None, -8, 7)
            calls = {
                "clone": Call(torch.clone, (x,)),
                bench.ours: Call(ste.fake_quantize, arguments, inputs=2),
                "composition": Call(IDIOM["fake_quantize"], arguments, inputs=2),
            }
            yield from bench.race("forward", f"fake_quantize, {kind}", calls, **where)
            calls = {name: call.with_backward() for name, call in calls.items()}
            yield from bench.race("forward and backward", f"fake_quantize, {kind}", calls, **where)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda", help="cpu is a trial of this program")
    parser.add_argument("--only-time", action="store_true", help="no tests")
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        sys.exit("torch finds no GPU here")
    print(ste.backend())
    failed = 0
    if not options.only_time:
        tests = [sys.executable, "-m", "pytest", "-q", "-m", "not slow", "--ignore=tests/matrix", "tests"]
        failed = subprocess.run(tests, cwd=ROOT, env={**os.environ, "STE_BACKEND": "native"}, check=False).returncode
    print("median, as a multiple of the first of each set; microseconds")
    for result in races(Bench("", quick=True), options.device):
        where = f"{result.section}, {result.op}, {result.dtype}, {result.elements:,}"
        print(f"{where:70} {result.competitor:14} {result.ratio:7.2f} {result.seconds * 1e6:10.1f}", flush=True)
    return failed


if __name__ == "__main__":
    sys.exit(main())
