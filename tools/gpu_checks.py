"""What tools/gpu.py runs in a process with its build: checks, and small calls for a sanitizer.

Each line of the output is one result, as JSON. A failed check is a result too, and the next one follows.
"""

import argparse
import itertools
import json
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
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
from bits import all_patterns, assert_same_bits, special_values  # noqa: E402
from block_samples import wide_dtype  # noqa: E402
from op_table import FLOATING, INTEGER, OPS, Op  # noqa: E402
from random_calls import TRANSCENDENTAL, Input, assert_same_gradient, compare, native, result_of  # noqa: E402
from test_layouts import LAYOUTS as LAYOUTS_OF_THREE  # noqa: E402

SMALL = (2, 8, 6, 16)  # of each kernel's calls under a sanitizer
RANDOM_CALLS = 3000

Leaves = list[Tensor]
Check = Callable[[str], None]
CHECKS: dict[str, Check] = {}


def check(function: Check) -> Check:
    CHECKS[function.__name__.replace("_", " ")] = function
    return function


def synchronize(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize()


def moved(value: Any, device: str) -> Any:
    return value.to(device) if isinstance(value, Tensor) else value


def same_on(device: str, op: Op, x: Tensor) -> None:
    """The op gives the same bits on the device as on the CPU."""
    arguments = op.arguments_for(x)
    expected = op.function(x, *arguments)
    actual = op.function(x.to(device), *(moved(a, device) for a in arguments))
    assert_same_bits(actual.cpu(), expected, x)


def dtypes_of(op: Op) -> list[torch.dtype]:
    """The dtypes that can hold the op's arguments: uint8 has no -1."""
    return [dtype for dtype in op.dtypes if dtype != torch.uint8 or -1.0 not in op.arguments]


@check
def every_16_bit_pattern(device: str) -> None:
    for op, dtype in itertools.product(OPS, (torch.float16, torch.bfloat16)):
        same_on(device, op, all_patterns(dtype))


@check
def ten_million_patterns_of_float32(device: str) -> None:
    generator = torch.Generator().manual_seed(0)
    patterns = torch.randint(-(1 << 31), 1 << 31, (10_000_000,), generator=generator).to(torch.int32)
    x = torch.cat([patterns.view(torch.float32), special_values(torch.float32)])
    for op in OPS:
        same_on(device, op, x)


@check
def other_dtypes(device: str) -> None:
    generator = torch.Generator().manual_seed(0)
    for op in OPS:
        for dtype in dtypes_of(op):
            if dtype in INTEGER:
                info = torch.iinfo(dtype)
                same_on(device, op, torch.randint(info.min, info.max, (100_003,), generator=generator, dtype=dtype))
        same_on(device, op, special_values(torch.float64))


# How x may lie in memory, with four dimensions.
LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    **LAYOUTS_OF_THREE,
    "channels_last": lambda t: t.contiguous(memory_format=torch.channels_last),
}


def parameters(x: Tensor) -> Iterator[tuple[str, Tensor, Tensor]]:
    """A scale and a zero point, which also serve as a lower and an upper bound, for each way to lie along x."""
    along = {
        "one": (),
        "last": x.shape[-1:],
        "rows": (x.shape[-2], 1),
        "channels": (x.shape[-3], 1, 1),
        "first": (x.shape[0], *(1 for _ in x.shape[1:])),
        "first and last": (x.shape[0], *(1 for _ in x.shape[2:]), x.shape[-1]),
        "full": x.shape,
    }
    for kind, shape in along.items():
        low = (torch.rand(shape, device=x.device) + 0.25).to(x.dtype)
        yield kind, low, (torch.rand(shape, device=x.device) * 2 + 1).round().to(x.dtype)
    yield "last and one", low.new_full(x.shape[-1:], 0.5), low.new_tensor(1.0)


def in_blocks(x: Tensor, grid: str, block: int, rule: str, dim: int, at_random: bool = False) -> Tensor:
    scale = torch.full((), 0.5, dtype=wide_dtype(x), device=x.device) if rule == "e4m3fn" else None
    return ste.fake_quantize_blocks(x, grid, block, rule, dim, scale, torch.full_like(x, 0.4) if at_random else None)


# Of x, a scale and a zero point, where they have one; of x, a threshold and an alpha.
FUNCTIONS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "tensor_clamp": ste.tensor_clamp,
    "fake_quantize": lambda x, scale, zero_point: ste.fake_quantize(x, scale, zero_point, -4, 3, 0.5),
    "fake_quantize, scaled": lambda x, scale, zero_point: ste.fake_quantize(x, scale, zero_point, -4, 3, 1.0, "scaled"),
    "fake_quantize, random": lambda x, scale, zero_point: ste.fake_quantize(
        x, scale, zero_point, -4, 3, random=torch.full_like(x, 0.4)
    ),
    "fake_quantize_float": lambda x, scale, _: ste.fake_quantize_float(x, scale, "e2m1fn", 0.5),
    "fake_quantize_float, random": lambda x, scale, _: ste.fake_quantize_float(
        x, scale, "e5m2", saturate=False, random=torch.full_like(x, 0.4)
    ),
    "binary_sign_ste, polynomial": lambda x, _, alpha: ste.binary_sign_ste(x, -1.0, "polynomial", alpha.detach()),
    "ternary_sign_ste, triangle": lambda x, threshold, alpha: ste.ternary_sign_ste(
        x, threshold.detach(), "triangle", alpha.detach()
    ),
}
OF_X: dict[str, Callable[[Tensor], Tensor]] = {
    "stochastic_round_ste": lambda x: ste.stochastic_round_ste(x, torch.full_like(x, 0.4)),
    "straight_through": lambda x: ste.straight_through(x.detach().round(), x),
    **{
        f"fake_quantize_blocks, {grid}, {block}, {rule}": partial(in_blocks, grid=grid, block=block, rule=rule, dim=dim)
        for grid, block, rule, dim in (
            ("e2m1fn", 16, "floor", 0),
            ("e2m1fn", 16, "e4m3fn", -1),
            ("e4m3fn", 32, "rceil", -1),
            ("e3m2fn", 32, "even", -1),
            ("int4", 32, "absmax", -1),
            ("int3", 5, "minmax", 1),
            ("int8", -1, "ceil", -1),
        )
    },
    "fake_quantize_blocks, random": partial(in_blocks, grid="e2m1fn", block=32, rule="floor", dim=-1, at_random=True),
    **{f"binary_sign_ste, {kind.name}": partial(ste.binary_sign_ste, low=-1.0, surrogate=kind.name) for kind in TABLE},
    **{f"ternary_sign_ste, {kind.name}": partial(ste.ternary_sign_ste, surrogate=kind.name) for kind in TABLE},
}


def gradients(function: Callable[..., Tensor], *tensors: Tensor) -> Leaves:
    leaves = [t.detach().requires_grad_() for t in tensors]
    y = function(*leaves)
    g = torch.linspace(-1, 1, y.numel(), device="cpu").to(y.device, y.dtype).view(y.shape)
    return list(torch.autograd.grad(y, leaves, g, materialize_grads=True))


def all_gradients(device: str, shape: Sequence[int]) -> Iterator[tuple[str, Callable[..., Tensor], Leaves]]:
    torch.manual_seed(0)
    for dtype in FLOATING:
        for layout, lay_out in LAYOUTS.items():
            x = lay_out(torch.randn(shape, device=device).to(dtype) * 3)
            for name, of_x in OF_X.items():
                yield f"{name}, {dtype}, {layout}", of_x, [x]
            for kind, low, high in parameters(x):
                for name, function in FUNCTIONS.items():
                    yield f"{name}, {dtype}, {layout}, {kind}", function, [x, low, high]


@check
def gradients_are_those_of_the_cpu(device: str) -> None:
    """The gradient to x, to the bit; those to parameters, summed in another order, as closely as the dtype allows."""
    for title, function, tensors in all_gradients(device, (4, 16, 6, 40)):
        on_cpu = gradients(function, *(t.cpu() for t in tensors))
        here = gradients(function, *tensors)
        is_transcendental = any(title.partition(", ")[2].startswith(f"{name},") for name in TRANSCENDENTAL)
        assert_same_gradient(here[0].cpu(), on_cpu[0], is_transcendental)
        for actual, expected in zip(here[1:], on_cpu[1:]):
            eps = torch.finfo(actual.dtype).eps
            bound = max(4 * eps, 1e-12) * expected.double().abs().max().clamp(min=1)
            error = (actual.cpu().double() - expected.double()).abs().max()
            assert error <= bound, f"{title}: the gradient to a parameter is off by {float(error / bound):.3g} bounds"


@check
def calls_at_random(device: str) -> None:
    """The fuzzer's inputs give there what they give on the CPU; or they are refused on both."""
    for number in range(RANDOM_CALLS):
        case = Input(number)
        there = case.on(device)
        try:
            results = [result_of(native(each), each, "once") for each in (there, case)]
            if all(isinstance(result, str) for result in results):
                continue
            compare(case, *([t.cpu() for t in r] if isinstance(r, list) else r for r in results))
        except AssertionError as error:
            raise AssertionError(f"{number} {case}: {error}") from error


@check
def sums_are_the_same_ten_times(device: str) -> None:
    for shape in ((1 << 22,), (64, 128, 512), (1 << 18, 8), (8, 1 << 18)):
        x = torch.randn(shape, device=device)
        for along in ((), shape[-1:], (shape[0], *(1 for _ in shape[1:]))):
            scale, zero_point = torch.rand(along, device=device) + 0.5, torch.rand(along, device=device)
            for function in FUNCTIONS.values():
                first = gradients(function, x, scale, zero_point)
                for _ in range(9):
                    for actual, expected in zip(gradients(function, x, scale, zero_point), first):
                        assert_same_bits(actual, expected)


@check
def empty_tensors(device: str) -> None:
    for shape in ((0,), (0, 3), (3, 0)):
        x = torch.empty(shape, device=device)
        for function in FUNCTIONS.values():
            for gradient in gradients(function, x, torch.tensor(0.5, device=device), torch.tensor(1.0, device=device)):
                assert not gradient.any()
        assert ste.round_ste(x).shape == x.shape


@check
def more_than_two_to_the_31(device: str) -> None:
    if device == "cpu":
        return  # only the kernels, with much memory
    elements = (1 << 31) + 4096
    row = torch.randn(4096, device=device, dtype=torch.bfloat16) * 3
    x = row.repeat(elements // 4096)
    scale = torch.tensor(0.5, device=device)
    y = ste.fake_quantize(x, scale, None, -4, 3)
    expected = ste.fake_quantize(row, scale, None, -4, 3)
    assert bool((y.view(-1, 4096) == expected).all())
    del y
    assert bool((ste.binary_sign_ste(x).view(-1, 4096) == ste.binary_sign_ste(row)).all())
    # With x as the incoming gradient, the gradient of x is x itself, and that of the scale is the row's, many times.
    to_x, to_scale = training_gradients(x, scale)
    of_row, of_scale = training_gradients(row, scale)
    assert bool((to_x.view(-1, 4096) == of_row).all())
    torch.testing.assert_close(to_scale, of_scale * (elements // 4096))


def training_gradients(x: Tensor, scale: Tensor) -> tuple[Tensor, ...]:
    leaves = (x.detach().requires_grad_(), scale.detach().requires_grad_())
    return torch.autograd.grad(ste.fake_quantize(*leaves, None, -4, 3), leaves, x)


@check
def a_stream_of_its_own(device: str) -> None:
    """A kernel on a stream other than the current one would read data that is not there yet."""
    if device == "cpu":
        return
    x = torch.randn(1 << 24, device=device)
    scale = torch.tensor(0.5, device=device)
    expected = ste.fake_quantize(x, scale, None, -4, 3) * 2
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)
        late = x * 1
        y = ste.fake_quantize(late, scale, None, -4, 3) * 2
        signs = ste.binary_sign_ste(late)
        to_x, to_scale = gradients(lambda x, s: ste.fake_quantize(x, s, None, -4, 3), late, scale)
    stream.synchronize()
    assert_same_bits(y, expected)
    assert_same_bits(signs, ste.binary_sign_ste(x))
    for actual, wanted in zip((to_x, to_scale), gradients(lambda x, s: ste.fake_quantize(x, s, None, -4, 3), x, scale)):
        assert_same_bits(actual, wanted)


@check
def no_call_waits(device: str) -> None:
    """Neither forward nor backward synchronizes: torch is set to raise an error if something does."""
    if device == "cpu":
        return
    x = torch.randn(64, 128, device=device)
    scale = torch.rand(64, 1, device=device) + 0.5
    g = torch.randn_like(x)
    leaves = [x.requires_grad_(), scale.requires_grad_(), scale.detach().round().requires_grad_()]
    torch.cuda.set_sync_debug_mode("error")
    try:
        for function in FUNCTIONS.values():
            torch.autograd.grad(function(*leaves), leaves, g, materialize_grads=True)
        for of_x in OF_X.values():
            torch.autograd.grad(of_x(x), x, g)
        for op in OPS:
            if not any(callable(a) for a in op.arguments):
                op(x.detach())
    finally:
        torch.cuda.set_sync_debug_mode("default")


@check
def a_cuda_graph(device: str) -> None:
    """A training step, captured and replayed."""
    if device == "cpu":
        return
    torch.manual_seed(0)
    weight = torch.randn(256, 256, device=device).requires_grad_()
    scale = torch.full((256, 1), 0.1, device=device).requires_grad_()
    x = torch.randn(32, 256, device=device)

    def step() -> Leaves:
        y = x @ ste.fake_quantize(weight, scale, None, -8, 7).t()
        return list(torch.autograd.grad(ste.binary_sign_ste(y, -1.0).square().sum() + y.sum(), (weight, scale)))

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    for seed in range(3):
        torch.manual_seed(seed)
        x.copy_(torch.randn_like(x))
        graph.replay()
        for actual, expected in zip(captured, step()):
            torch.testing.assert_close(actual, expected)


@check
def compiled(device: str) -> None:
    """In few programs: compiling takes seconds for each."""
    x = torch.randn(64, 128, device=device)
    arguments = [op.arguments_for(x) for op in OPS]

    def results(x: Tensor) -> list[Tensor]:
        return [op.function(x, *given) for op, given in zip(OPS, arguments)]

    for op, actual, expected in zip(OPS, torch.compile(results, fullgraph=True)(x), results(x)):
        if op.name == "fake_quantize":  # the compiler contracts a product and a sum into one operation
            torch.testing.assert_close(actual, expected)
        else:
            assert_same_bits(actual, expected, x)

    def stacked(*tensors: Tensor) -> Tensor:
        """Each function of three tensors of its own."""
        return torch.stack([f(*tensors[3 * k : 3 * k + 3]) for k, f in enumerate(FUNCTIONS.values())])

    for dtype in (torch.float32, torch.bfloat16):
        scale = torch.rand(64, 1, device=device) + 0.5
        own = [x.to(dtype), scale.to(dtype), scale.to(dtype).round()]
        tensors = [t.clone() for _ in FUNCTIONS for t in own]  # no two of them the same, which compiles otherwise
        for actual, expected in zip(
            gradients(torch.compile(stacked, fullgraph=True), *tensors), gradients(stacked, *tensors)
        ):
            torch.testing.assert_close(actual, expected, rtol=0.02, atol=0.02)


@check
def autocast(device: str) -> None:
    layer = torch.nn.Linear(64, 64, device=device)
    scale = torch.full((64, 1), 0.1, device=device, requires_grad=True)
    with torch.autocast(device, torch.bfloat16):
        weight = ste.fake_quantize(layer.weight, scale, None, -8, 7)
        assert weight.dtype == torch.float32
        y = torch.nn.functional.linear(torch.randn(8, 64, device=device), weight)
        assert y.dtype == torch.bfloat16 and ste.round_ste(y).dtype == torch.bfloat16
    y.float().sum().backward()
    assert scale.grad is not None and scale.grad.dtype == torch.float32


@check
def parameters_on_the_cpu(device: str) -> None:
    x = torch.randn(8, 16, device=device)
    scale = torch.tensor(0.5, requires_grad=True)
    y = ste.fake_quantize(x, scale, torch.tensor(1), -4, 3)
    assert_same_bits(y.detach(), ste.fake_quantize(x, scale.detach().to(device), torch.tensor(1, device=device), -4, 3))
    y.sum().backward()
    assert scale.grad is not None and scale.grad.device.type == "cpu"


@check
def a_second_device(device: str) -> None:
    if device == "cpu" or torch.cuda.device_count() < 2:
        return
    x = torch.randn(SMALL, device="cuda:1")
    assert torch.cuda.current_device() == 0
    for kind, low, high in parameters(x):
        for name, function in FUNCTIONS.items():
            for gradient in gradients(function, x, low, high):
                assert gradient.device == x.device, (kind, name)
    assert ste.binary_sign_ste(x).device == x.device


def checks(device: str) -> Iterator[dict[str, Any]]:
    for name, function in CHECKS.items():
        start = time.perf_counter()
        error = ""
        try:
            function(device)
            synchronize(device)
        except Exception:  # a failure is a result, as is a pass
            error = traceback.format_exc(limit=-3)
        yield {"check": name, "error": error, "seconds": time.perf_counter() - start}


def calls(device: str) -> Iterator[dict[str, Any]]:
    """One small call of each kernel, dtype and layout, for compute-sanitizer."""
    count = 0
    for op in OPS:
        for dtype in dtypes_of(op):
            op(torch.ones(SMALL, dtype=dtype, device=device))
            count += 1
    for _, function, tensors in all_gradients(device, SMALL):
        gradients(function, *tensors)
        count += 1
    synchronize(device)
    yield {"calls": count}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=("checks", "calls"))
    parser.add_argument("--device", default="cuda")
    options = parser.parse_args()
    for result in (checks if options.kind == "checks" else calls)(options.device):
        print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
