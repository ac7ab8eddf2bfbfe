"""`random=` of the three ops to a grid: stochastic rounding between the two neighbors on the grid."""

import io
import math
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import onnxruntime
import pytest
import torch
import torch.autograd.forward_ad as fwAD
from bits import assert_same_bits, special_values
from op_table import FLOATING, round_at_random
from torch import Tensor
from torch.func import grad, jvp, vmap

import ste

Array = np.ndarray[Any, Any]
# Without their types, which do not accept an unpacked list of arguments.
fake_quantize: Callable[..., Any] = ste.fake_quantize
block_scale: Callable[..., Any] = ste.block_scale
of_integers: Any = ste.autograd_ops.fake_quantize_fn.apply
of_floats: Any = ste.autograd_ops.fake_quantize_float_fn.apply
of_blocks: Any = ste.autograd_ops.fake_quantize_blocks_fn.apply
EVERY_DTYPE = pytest.mark.parametrize("dtype", FLOATING, ids=str)
N = 1_000_000


class Expected(NamedTuple):
    y: Tensor
    passes: Tensor
    slope: Tensor  # to the scale


def on_integers(v: Array, random: Array, low: float, high: float, zero_point: float = 0) -> tuple[Array, Array]:
    """The integers without the zero point, and whether they were within the limits."""
    shifted = round_at_random(v, random) + v.dtype.type(zero_point)
    return np.clip(shifted, low, high) - v.dtype.type(zero_point), (low <= shifted) & (shifted <= high)


def on_format(v: Array, random: Array, name: str, *, saturate: bool = True) -> tuple[Array, Array]:
    """The numbers of the format, and whether they were within its limits."""
    format = ste.FloatFormat.named(name)
    wide = v.astype(np.float64)
    step = np.exp2(np.maximum(np.frexp(wide)[1] - 1, 1 - format.bias) - np.float64(format.mantissa_bits))
    step = step.astype(v.dtype)
    size = np.where(np.isinf(v), np.inf, np.abs(round_at_random(v / step, random) * step))
    beyond = format.max if saturate else (math.inf if format.has_infinity else math.nan)
    is_inside = size <= format.max
    return np.copysign(np.where(is_inside | np.isnan(v), size, beyond), v).astype(v.dtype), is_inside


def by_numpy(x: Tensor, random: Tensor, scale: Tensor, rounded: Callable[..., tuple[Array, Array]]) -> Expected:
    """The scale, in the dtype of the computation. A block of zeros has a scale of 0."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    xs, rs, scales = (t.detach().cpu().to(dtype).numpy() for t in (x, random, scale))
    with np.errstate(all="ignore"):
        v = xs / np.where(scales == 0, xs.dtype.type(math.inf), scales)
        q, is_inside = rounded(v, rs)
        y, slope = q * scales, q - np.where(is_inside, v, 0)
    device = x.device
    return Expected(*(torch.from_numpy(np.asarray(a)).to(device) for a in (y, is_inside, slope)))


class Case(NamedTuple):
    """An op as a function of x and random, its autograd class, and the result from NumPy."""

    call: Callable[..., Any]
    class_call: Callable[..., Any]
    expected: Callable[[Tensor, Tensor], Expected]


def integers(inside: str, low: int, high: int, zero_point: float | None = None) -> Case:
    def arguments(x: Tensor) -> Any:
        shift = None if zero_point is None else torch.tensor(zero_point, device=x.device)
        return torch.tensor(0.5, device=x.device), shift, low, high, 1.0, inside

    def expected(x: Tensor, random: Tensor) -> Expected:
        scale = torch.tensor(0.5)
        result = by_numpy(x, random, scale, lambda v, r: on_integers(v, r, low, high, zero_point or 0))
        # There is no -0.
        result = result._replace(y=result.y + 0)
        if inside == "rounded":
            return result
        exact = x.to(result.y.dtype) / 0.5 + (zero_point or 0)
        passes = (low < exact) & (exact < high)
        q = result.y / 0.5
        return result._replace(passes=passes, slope=q - torch.where(passes, x.to(q.dtype) / 0.5, 0))

    return Case(
        lambda x, random: fake_quantize(x, *arguments(x), random=random),
        lambda x, random: of_integers(x, *arguments(x), random),
        expected,
    )


def floats(name: str, *, saturate: bool = True) -> Case:
    scale = 0.75
    return Case(
        lambda x, random: ste.fake_quantize_float(x, scale, name, saturate=saturate, random=random),
        lambda x, random: of_floats(x, torch.tensor(scale, device=x.device), name, 1.0, saturate, random),
        lambda x, random: by_numpy(
            x, random, torch.tensor(scale), lambda v, r: on_format(v, r, name, saturate=saturate)
        ),
    )


def blocks(grid: str, block: int | None, rule: str, dim: int) -> Case:
    """With the scales from `block_scale`, which the tests of blocks check."""
    tensor_scale = 1 / 64 if rule == "e4m3fn" else None

    def expected(x: Tensor, random: Tensor) -> Expected:
        settings: Any = (x, grid, block, rule, dim)

        def along(scales: Tensor) -> Tensor:
            size = x.shape[dim] if block is None else block
            return scales.repeat_interleave(size, dim).narrow(dim, 0, x.shape[dim])

        scale = along(block_scale(*settings, tensor_scale))
        if not grid.startswith("int"):
            return by_numpy(x, random, scale, lambda v, r: on_format(v, r, grid))
        limit = 2.0 ** (int(grid[3:]) - 1)
        if rule != "minmax":
            result = by_numpy(x, random, scale, lambda v, r: on_integers(v, r, 1 - limit, limit - 1))
            return result._replace(y=result.y + 0)
        z = along(ste.block_zero_point(*settings)).cpu().numpy()
        return by_numpy(x, random, scale, lambda v, r: on_asymmetric(v, r, limit, z))

    def arguments(x: Tensor) -> Any:
        return -1 if block is None else block, rule, dim, None if tensor_scale is None else x.new_tensor(tensor_scale)

    return Case(
        lambda x, random: ste.fake_quantize_blocks(x, grid, block, rule, dim, tensor_scale, random),
        lambda x, random: of_blocks(x, grid, *arguments(x.detach().float()), random),
        expected,
    )


def on_asymmetric(v: Array, random: Array, limit: float, z: Array) -> tuple[Array, Array]:
    shifted = round_at_random(v, random) + z
    clamped = np.clip(shifted, -limit, limit - 1)
    return clamped - z, shifted == clamped


CASES: dict[str, Case] = {
    "integers": integers("rounded", -4, 3),
    "integers with a zero point": integers("rounded", 0, 7, zero_point=3.0),
    "integers, LSQ's mask": integers("scaled", -4, 3),
    **{name: floats(name) for name in ("e2m1fn", "e4m3fn", "e5m2fnuz")},
    "e5m2 with an infinity": floats("e5m2", saturate=False),
    "e3m2fn with NaN": floats("e3m2fn", saturate=False),
    "mxfp4": blocks("e2m1fn", 32, "floor", -1),
    "nvfp4": blocks("e2m1fn", 16, "e4m3fn", -1),
    "int4 in blocks": blocks("int4", 7, "absmax", 0),
    "int4, asymmetric": blocks("int4", None, "minmax", -1),
    "e4m3fn in blocks": blocks("e4m3fn", 5, "rceil", 1),
}
EVERY_CASE = pytest.mark.parametrize("case", CASES.values(), ids=list(CASES))


def drawn(shape: Any, dtype: torch.dtype, device: str, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """x, a gradient and the random numbers: multiples of 1/64, which every dtype can represent, including 0."""
    generator = torch.Generator().manual_seed(seed)
    x, g = (torch.randn(shape, generator=generator, dtype=torch.float64) * 3 for _ in range(2))
    random = torch.randint(0, 64, shape, generator=generator) / 64
    return x.to(device, dtype), g.to(device, dtype), random.to(device, dtype)


def samples(dtype: torch.dtype, device: str) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Special values, and other values in several layouts."""
    special = special_values(dtype, device)
    special = torch.cat([special, special.new_zeros(-special.numel() % 3)]).reshape(3, -1)
    _, g, random = drawn(special.shape, dtype, device)
    x, more_g, more_random = drawn((9, 77), dtype, device, 1)
    return [(special, g, random), (x, more_g, more_random.float()), (x.T, more_g.T, more_random.T.contiguous())]


@EVERY_CASE
@EVERY_DTYPE
def test_values_and_gradients(case: Case, dtype: torch.dtype, device: str) -> None:
    for x, g, random in samples(dtype, device):
        y, passes, _ = case.expected(x, random)
        for call in (case.call, case.class_call):
            leaf = x.detach().requires_grad_()
            found = call(leaf, random.to(dtype) if dtype == torch.float64 else random)
            assert_same_bits(found, y.to(dtype), x)
            assert_same_bits(torch.autograd.grad(found, leaf, g)[0], torch.where(passes, g, 0), x)
            assert found.stride() == torch.empty_like(x).stride()


@pytest.mark.parametrize("name", [name for name in CASES if "blocks" not in name and "int4" not in name])
@EVERY_DTYPE
def test_gradient_to_the_scale(name: str, dtype: torch.dtype, device: str) -> None:
    if "fp4" in name or "infinity" in name or "NaN" in name:
        return
    x, g, random = drawn((5, 33), dtype, device)
    _, _, slope = CASES[name].expected(x, random)
    by_integers = name.startswith("integers")
    scale = torch.tensor(0.5 if by_integers else 0.75, device=device, requires_grad=True)
    if by_integers:
        z = torch.tensor(3.0, device=device) if "zero point" in name else None
        ends = (0, 7) if "zero point" in name else (-4, 3)
        inside = "scaled" if "LSQ" in name else "rounded"
        y = ste.fake_quantize(x, scale, z, *ends, 0.25, inside, random=random)
    else:
        y = ste.fake_quantize_float(x, scale, name, 0.25, random=random)
    (found,) = torch.autograd.grad(y, scale, g)
    terms = g.double() * slope.double() / 4
    assert abs(found.item() - terms.sum().item()) <= 1e-5 * terms.abs().sum().item()


# Some of them take a minute.
QUICK_TO_COMPILE = ("integers with a zero point", "e2m1fn", "mxfp4", "int4, asymmetric")
COMPILED = [
    pytest.param(case, id=name, marks=[] if name in QUICK_TO_COMPILE else pytest.mark.slow)
    for name, case in CASES.items()
]


@pytest.mark.parametrize("case", COMPILED)
def test_compiled_and_exported(case: Case, device: str) -> None:
    """The same numbers give the same bits."""
    x, g, random = drawn((9, 70), torch.float32, device)
    y, passes, _ = case.expected(x, random)

    class Layer(torch.nn.Module):
        def forward(self, x: Tensor, random: Tensor) -> Any:
            return case.call(x, random)

    torch.compiler.reset()
    leaf = x.clone().requires_grad_()
    found = torch.compile(Layer(), fullgraph=True)(leaf, random)
    assert_same_bits(found, y, x)
    assert_same_bits(torch.autograd.grad(found, leaf, g)[0], torch.where(passes, g, 0), x)
    program = torch.export.export(Layer(), (x, random))
    for exported in (program, program.run_decompositions()):
        assert_same_bits(exported.module()(x, random), y, x)


def test_script(device: str) -> None:
    x, _, random = drawn((9, 70), torch.float32, device)
    scale = torch.tensor(0.5, device=device)
    integers_of: Any = torch.jit.script(ste.fake_quantize)
    assert_same_bits(integers_of(x, scale, random=random), ste.fake_quantize(x, scale, random=random))
    floats_of: Any = torch.jit.script(ste.fake_quantize_float)
    expected = ste.fake_quantize_float(x, scale, "e2m1fn", random=random)
    assert_same_bits(floats_of(x, scale, "e2m1fn", random=random), expected)
    blocks_of: Any = torch.jit.script(ste.fake_quantize_blocks)
    expected = ste.fake_quantize_blocks(x, "int4", 32, random=random)
    assert_same_bits(blocks_of(x, "int4", 32, random=random), expected)


@EVERY_CASE
def test_derivatives(case: Case, device: str) -> None:
    x, g, random = drawn((9, 70), torch.float64, device)
    v = drawn(x.shape, torch.float64, device, 1)[1]
    y, passes, _ = case.expected(x, random)
    for call in (case.call, case.class_call):
        leaf, to_y = x.clone().requires_grad_(), g.clone().requires_grad_()
        (to_x,) = torch.autograd.grad(call(leaf, random), leaf, to_y, create_graph=True)
        second: Any = torch.autograd.grad(to_x, (to_y, leaf), v, allow_unused=True)
        assert_same_bits(second[0], torch.where(passes, v, 0))
        assert second[1] is None or not second[1].any()
        assert_same_bits(jvp(lambda t: call(t, random), (x,), (v,))[1], torch.where(passes, v, 0))  # noqa: B023 - called at once
        with fwAD.dual_level():
            primal, tangent = fwAD.unpack_dual(call(fwAD.make_dual(x, v), random))
        assert_same_bits(primal, y)
        assert tangent is not None
        assert_same_bits(tangent, torch.where(passes, v, 0))


@EVERY_CASE
def test_vmap(case: Case, device: str) -> None:
    """Each sample with its own numbers, all samples with the same, or one sample with many."""
    x, g, random = drawn((4, 9, 35), torch.float32, device)
    for call in (case.call, case.class_call):
        for in_dims in ((0, 0), (0, None), (None, 0), (1, 2), (-1, 0)):
            xs, rs = (t[0] if dim is None else t.movedim(0, dim) for t, dim in zip((x, random), in_dims, strict=True))
            of_x = [x[0]] * 4 if in_dims[0] is None else x.unbind()
            of_random = [random[0]] * 4 if in_dims[1] is None else random.unbind()
            expected = [case.expected(*given) for given in zip(of_x, of_random)]
            assert_same_bits(vmap(call, in_dims)(xs, rs), torch.stack([e.y for e in expected]))

            def gradient(x: Tensor, random: Tensor, g: Tensor) -> Any:
                return grad(lambda t: (call(t, random) * g).sum())(x)  # noqa: B023 - called at once

            found = vmap(gradient, (*in_dims, 0))(xs, rs, g)
            passes = torch.stack([e.passes for e in expected])
            assert_same_bits(found + 0, torch.where(passes, g, 0) + 0)
        assert_same_bits(
            vmap(vmap(call))(x[..., None, :], random[..., None, :]),
            vmap(vmap(case.call))(x[..., None, :], random[..., None, :]),
        )


@EVERY_CASE
def test_the_numbers_get_no_gradient(case: Case, device: str) -> None:
    x, _, random = drawn((9, 70), torch.float32, device)
    for call in (case.call, case.class_call):
        numbers = random.clone().requires_grad_()
        assert not call(x, numbers).requires_grad
        leaf = x.clone().requires_grad_()
        call(leaf, numbers).sum().backward()
        assert leaf.grad is not None
        assert numbers.grad is None


@pytest.mark.parametrize("value", [0.25, -0.25, 0.001, -1.999, 2.5, -3.0, 5.75, -6.5, 0.0])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_the_expected_value_is_x(value: float, dtype: torch.dtype, device: str) -> None:
    """Within 4 standard errors over 10^6 draws, only the two neighbors, and never outside the grid."""
    x = torch.full((N,), value, dtype=dtype, device=device)
    exact = x[0].double().item()
    random = torch.rand(N, generator=torch.Generator(device).manual_seed(0), device=device)
    largest = {"int4": 7.0, "e2m1fn": 6.0}
    numbers = {
        "int4": torch.arange(-7.0, 8.0),
        "e2m1fn": torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6]).mul(torch.tensor([[-1.0], [1.0]])).flatten(),
    }
    for grid, end in largest.items():
        if grid == "int4":
            y = ste.fake_quantize(x, 1.0, None, -7, 7, random=random)
        else:
            y = ste.fake_quantize_float(x, None, grid, random=random)
        # In blocks with a scale of 1, because each contains the grid's largest number.
        xs, rs = x[: N // 8 * 8].view(-1, 8).clone(), random[: N // 8 * 8].view(-1, 8)
        xs[:, 0] = end
        in_blocks = ste.fake_quantize_blocks(xs, grid, 8, random=rs)
        if abs(exact) <= end:
            assert (in_blocks[:, 0] == end).all()
            assert_same_bits(in_blocks[:, 1:], y[: N // 8 * 8].view(-1, 8)[:, 1:])
        held = max(-end, min(end, exact))
        below = numbers[grid][numbers[grid] <= held].max().item()
        above = numbers[grid][numbers[grid] >= held].min().item()
        assert set(y.double().unique().tolist()) <= {below, above}
        error = math.sqrt((held - below) * (above - held) / N)
        assert abs(y.double().mean().item() - held) <= 4 * error


@EVERY_CASE
def test_empty_and_of_no_dimension(case: Case, device: str) -> None:
    x = torch.zeros(0, 3, device=device, requires_grad=True)
    assert case.call(x, torch.zeros(0, 3, device=device)).shape == (0, 3)
    number = torch.tensor(1.3, device=device, requires_grad=True)
    if case not in (CASES["e4m3fn in blocks"],):  # it has a dimension of size 1
        y = case.call(number, torch.tensor(0.25, device=device))
        assert y.shape == ()
        assert torch.autograd.grad(y, number)[0].item() in (0, 1)


OPS: dict[str, Callable[..., Any]] = {
    "fake_quantize": lambda x, random: ste.fake_quantize(x, 1.0, random=random),
    "fake_quantize_float": lambda x, random: ste.fake_quantize_float(x, 1.0, "e2m1fn", random=random),
    "fake_quantize_blocks": lambda x, random: ste.fake_quantize_blocks(x, "e2m1fn", 32, random=random),
}
BY_CLASS: dict[str, Callable[..., Any]] = {
    "fake_quantize": lambda x, random: of_integers(x, torch.ones(()), None, -128, 127, 1.0, "rounded", random),
    "fake_quantize_float": lambda x, random: of_floats(x, torch.ones(()), "e2m1fn", 1.0, True, random),
    "fake_quantize_blocks": lambda x, random: of_blocks(x, "e2m1fn", 32, "absmax", -1, None, random),
}


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("dynamo", [True, False])
def test_onnx(op: str, dynamo: bool) -> None:
    """With elementary operators, through both exporters; the older does not support blocks."""
    x, _, random = drawn((9, 70), torch.float32, "cpu")

    class Layer(torch.nn.Module):
        def forward(self, x: Tensor, random: Tensor) -> Any:
            return OPS[op](x, random)

    buffer: Any = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's warnings about itself
        if not dynamo and op == "fake_quantize_blocks":
            with pytest.raises(torch.onnx.errors.SymbolicValueError, match="only with dynamo=True"):
                torch.onnx.export(Layer(), (x, random), buffer, dynamo=False)
            return
        program = torch.onnx.export(Layer(), (x, random), None if dynamo else buffer, dynamo=dynamo, verbose=False)
    model = program.model_proto.SerializeToString() if program is not None else buffer.getvalue()
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    given = {value.name: t.numpy() for value, t in zip(session.get_inputs(), (x, random))}
    # Where is a sum in ONNX Runtime, which loses the sign of zero.
    assert_same_bits(torch.from_numpy(session.run(None, given)[0]) + 0, OPS[op](x, random) + 0)


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize(
    ("random", "error", "message"),
    [
        (torch.ones(3).double(), TypeError, "random has dtype float64, but for x of float32 it must be float32"),
        (torch.ones(3).long(), TypeError, "random has dtype int64, but for x of float32 it must be float32"),
        (0.5, TypeError, "random must be a Tensor, got float; torch.tensor makes one from a number"),
        (torch.ones(()), RuntimeError, r"random has shape \[\], but x has shape \[3\]"),
        (torch.ones(1, 3), RuntimeError, r"random has shape \[1, 3\], but x has shape \[3\]"),
        (torch.ones(3, device="meta"), RuntimeError, "random is on meta, but x is on cpu"),
    ],
)
def test_errors(op: str, random: Any, error: type[Exception], message: str) -> None:
    for function in (OPS[op], BY_CLASS[op]):
        with pytest.raises(error, match=f"^{op}: {message}$"):
            function(torch.ones(3), random)
    if isinstance(random, Tensor) and random.device.type == "cpu" and random.shape == (3,):
        with pytest.raises(error, match=f"^{op}: {message}$"):
            vmap(OPS[op])(torch.ones(2, 3), random.expand(2, 3))
