"""Blocks under transforms, compilers and exporters: derivatives, vmap, compile, export, script."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
import torch.autograd.forward_ad as fwAD
from bits import assert_same_bits
from block_cases import Layer, assert_compiled_is_eager
from block_samples import (
    CONFIGURATIONS,
    EVERY_CALL,
    EVERY_CONFIGURATION,
    block_scale,
    block_zero_point,
    expected,
    fake_quantize_blocks,
    lines,
    normal,
    sample,
    swapped,
    with_tensor_scale,
)
from onnx_models import run, session_of, written
from op_table import FLOATING
from torch import Tensor
from torch.func import grad, hessian, jvp, vmap
from torch.utils._python_dispatch import TorchDispatchMode

import ste


@EVERY_CALL
@EVERY_CONFIGURATION
def test_higher_derivatives(call: Callable[..., Any], arguments: Any, device: str) -> None:
    given = with_tensor_scale(arguments, device)
    for dtype in FLOATING:
        x, g = sample(dtype, device)
        v = normal(x.shape, dtype, 2, device)
        y, is_inside = expected(x, *given)
        leaf, to_y = x.clone().requires_grad_(), g.clone().requires_grad_()
        (to_x,) = torch.autograd.grad(call(leaf, *given), leaf, to_y, create_graph=True)
        assert_same_bits(to_x, torch.where(is_inside, g, 0))
        second: Any = torch.autograd.grad(to_x, (to_y, leaf), v, allow_unused=True)
        assert_same_bits(second[0], torch.where(is_inside, v, 0))
        assert second[1] is None or not second[1].any()
        # Forward mode.
        for found in (jvp(lambda t: call(t, *given), (x,), (v,)), dual(lambda t: call(t, *given), x, v)):
            assert_same_bits(found[0], y)
            assert_same_bits(found[1], torch.where(is_inside, v, 0))


class EachOperation(TorchDispatchMode):
    """A dispatch mode, such as compilers use, which sees the operations of torch."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


@EVERY_CALL
@EVERY_CONFIGURATION
def test_what_operations_of_torch_make_lies_as_x_does(call: Callable[..., Any], arguments: Any, device: str) -> None:
    values = normal((2, 35, 4, 6), torch.float32, 0, device)
    for x in (values, values.mT.contiguous().mT, values.movedim(1, 3).contiguous().movedim(3, 1)):
        with EachOperation():  # type: ignore[no-untyped-call]  # torch's __init__ has no types
            y = call(x, *arguments)
        assert_same_bits(y, expected(values, *arguments)[0])
        assert y.stride() == call(x.to("meta"), *arguments).stride() == x.stride()


def dual(function: Callable[[Tensor], Any], x: Tensor, tangent: Tensor) -> tuple[Tensor, Tensor]:
    with fwAD.dual_level():
        primal, found = fwAD.unpack_dual(function(fwAD.make_dual(x, tangent)))
        assert found is not None
        return primal, found


def test_second_derivatives_by_x_are_zero(device: str) -> None:
    x, weights = (normal((3, 5), torch.float64, seed, device) for seed in (0, 1))
    for arguments in CONFIGURATIONS:
        found: Any = hessian(lambda t: (fake_quantize_blocks(t, *arguments) * weights).sum())(x)  # noqa: B023
        assert found.shape == (3, 5, 3, 5)
        assert not found.any()


@EVERY_CALL
@EVERY_CONFIGURATION
def test_vmap(call: Callable[..., Any], arguments: Any, device: str) -> None:
    """Each sample is quantized by itself, with its own largest magnitude."""

    def function(x: Tensor) -> Any:
        return call(x, *arguments)

    x = lines(torch.float32, 36).nan_to_num(0, 0, 0).reshape(3, 5, 4, 9).to(device)
    g = normal(x.shape, torch.float32, 1, device)

    def gradient(x: Tensor, g: Tensor) -> Any:
        return grad(lambda t: (function(t) * g).sum())(x)

    for in_dim in (0, 1, -1):
        samples, gs = x.unbind(in_dim), g.unbind(in_dim)
        y = torch.stack([expected(t, *arguments)[0] for t in samples])
        assert_same_bits(vmap(function, in_dim)(x), y)
        assert_same_bits(vmap(function, in_dim, out_dims=-1)(x), y.movedim(0, -1))
        to_x = torch.stack([torch.where(expected(t, *arguments)[1], u, 0) for t, u in zip(samples, gs)])
        # Multiplied by another gradient, a zero gets the sign of the product.
        assert_same_bits(vmap(gradient, in_dim)(x, g) + 0, to_x + 0)
        leaf = x.clone().requires_grad_()
        (found,) = torch.autograd.grad(vmap(function, in_dim)(leaf), leaf, torch.stack(gs))
        assert_same_bits(found, to_x.movedim(0, in_dim))
        assert_same_bits(jvp(vmap(function, in_dim), (x,), (g,))[1], to_x)
    nested = torch.stack([torch.stack([expected(t, *arguments)[0] for t in ts]) for ts in x])
    assert_same_bits(vmap(vmap(function))(x), nested)


@EVERY_CALL
def test_vmap_of_samples_without_dimensions(call: Callable[..., Any], device: str) -> None:
    x = lines(torch.float32, 12).flatten().to(device)
    for grid, _, rule, _ in CONFIGURATIONS:
        for block in (None, 1, 32):
            arguments = with_tensor_scale((grid, block, rule, -1), device)
            y, is_inside = expected(x, grid, 1, *arguments[2:])
            assert_same_bits(vmap(lambda t: call(t, *arguments))(x), y, x)  # noqa: B023
            to_x = vmap(grad(lambda t: call(t, *arguments)))(x)  # noqa: B023
            assert_same_bits(to_x, is_inside.to(x.dtype), x)


@EVERY_CALL
@pytest.mark.parametrize("grid", ["e2m1fn", "int4"])
def test_vmap_over_the_scale_of_the_tensor(call: Callable[..., Any], grid: str, device: str) -> None:
    x = normal((4, 5, 37), torch.float32, 0, device)
    in_batch = torch.tensor([0.1, 0.5, 0.0, 3.0], device=device)
    of_rows = torch.rand(4, 5, 1, generator=torch.Generator().manual_seed(0)).to(device) + 0.1

    def function(x: Tensor, tensor_scale: Tensor) -> Any:
        return call(x, grid, 16, "e4m3fn", -1, tensor_scale)

    def each(xs: Sequence[Tensor], tensor_scales: Sequence[Tensor]) -> Tensor:
        return torch.stack([expected(t, grid, 16, "e4m3fn", -1, s)[0] for t, s in zip(xs, tensor_scales)])

    for tensor_scale in (in_batch, of_rows, of_rows[:, :1], in_batch[:, None, None]):
        assert_same_bits(vmap(function)(x, tensor_scale), each(x.unbind(), tensor_scale.unbind()))
        assert_same_bits(vmap(function, (None, 0))(x[0], tensor_scale), each([x[0]] * 4, tensor_scale.unbind()))
        assert_same_bits(vmap(function, (0, None))(x, tensor_scale[0]), each(x.unbind(), [tensor_scale[0]] * 4))
        last = tensor_scale.movedim(0, -1)
        assert_same_bits(vmap(function, (1, -1))(x.movedim(0, 1), last), each(x.unbind(), tensor_scale.unbind()))
    numbers = x[:, 0, 0]
    assert_same_bits(vmap(function)(numbers, in_batch), each(numbers.unbind(), in_batch.unbind()))
    assert_same_bits(vmap(function, (None, 0))(numbers[0], in_batch), each([numbers[0]] * 4, in_batch.unbind()))


@EVERY_CALL
def test_saved_tensors_that_hooks_change(call: Callable[..., Any], device: str) -> None:
    x, g = sample(torch.float32, device)
    leaf = x.clone().requires_grad_()
    changes: list[Callable[[Tensor], Tensor]] = [Tensor.clone, lambda t: swapped(t, 0, -1)]
    for arguments, change in itertools.product(CONFIGURATIONS, changes):
        given = with_tensor_scale(arguments, device)
        with torch.autograd.graph.saved_tensors_hooks(lambda t: t, change):
            y = call(leaf, *given)
        (to_x,) = torch.autograd.grad(y, leaf, g)
        assert_same_bits(to_x, torch.where(expected(x, *given)[1], g, 0))


@EVERY_CALL
def test_x_written_to_after_the_forward(call: Callable[..., Any], device: str) -> None:
    """The gradient is that of the original x, or an error: never another one."""
    x, g = sample(torch.float32, device)
    leaf = x.clone().requires_grad_()
    copy = leaf * 1
    y = call(copy, "e2m1fn", 32, "floor")
    copy.detach().zero_()
    try:
        (to_x,) = torch.autograd.grad(y, leaf, g)
    except RuntimeError as error:
        assert "modified by an inplace operation" in str(error)  # noqa: PT017
    else:
        assert_same_bits(to_x, torch.where(expected(x, "e2m1fn", 32, "floor")[1], g, 0))


@EVERY_CALL
def test_the_scale_of_the_tensor_gets_no_gradient(call: Callable[..., Any], device: str) -> None:
    x = normal((3, 40), torch.float32, 0, device)
    for grid, shape in itertools.product(("e2m1fn", "int4"), ((), (3, 1))):
        tensor_scale = torch.full(shape, 0.01, device=device, requires_grad=True)
        assert not call(x, grid, 16, "e4m3fn", -1, tensor_scale).requires_grad
        assert not block_scale(x, grid, 16, "e4m3fn", -1, tensor_scale).requires_grad
        leaf = x.clone().requires_grad_()
        y = call(leaf, grid, 16, "e4m3fn", -1, tensor_scale)
        assert y.requires_grad
        gradients: Any = torch.autograd.grad(y.sum(), (leaf, tensor_scale), allow_unused=True)
        assert gradients[1] is None
        assert_same_bits(gradients[0], expected(x, grid, 16, "e4m3fn", -1, tensor_scale)[1].to(x.dtype))
        tangent = torch.ones_like(tensor_scale)
        found = jvp(lambda s: call(x, grid, 16, "e4m3fn", -1, s), (tensor_scale.detach(),), (tangent,))  # noqa: B023
        assert not found[1].any()


def test_scales_are_not_differentiable(device: str) -> None:
    leaf = normal((3, 40), torch.float32, 0, device).requires_grad_()
    for arguments in CONFIGURATIONS:
        assert not block_scale(leaf, *arguments).requires_grad
        with torch.no_grad():
            assert not fake_quantize_blocks(leaf, *arguments).requires_grad
        assert fake_quantize_blocks(leaf, *arguments).requires_grad
    assert not block_zero_point(leaf, "int4", 16).requires_grad


@EVERY_CONFIGURATION
def test_what_compilers_see(arguments: Any, device: str) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        assert_compiled_is_eager(arguments, dtype, device, backend="aot_eager")


def test_compiled(device: str) -> None:
    assert_compiled_is_eager(("e2m1fn", 32, "floor", -1), torch.float32, device)
    assert_compiled_is_eager(("int4", 16, "minmax", -1), torch.bfloat16, device)


@EVERY_CONFIGURATION
def test_exported(arguments: Any, device: str) -> None:
    x, g = sample(torch.float32, device)
    given = with_tensor_scale(arguments, device)
    program = torch.export.export(Layer(*given), (x,))
    y, is_inside = expected(x, *given)
    for module in (program.module(), program.run_decompositions().module()):
        assert_same_bits(module(x), y)
    leaf = x.clone().requires_grad_()
    (to_x,) = torch.autograd.grad(program.module()(leaf), leaf, g)
    assert_same_bits(to_x, torch.where(is_inside, g, 0))


def test_onnx_with_the_scale_of_the_tensor_from_x() -> None:
    x = normal((3, 40), torch.float32, 0, "cpu")
    layer = Layer("e2m1fn", 16, "e4m3fn")
    (y,) = run(session_of(written(layer, x)), x)
    assert_same_bits(y + 0, layer(x) + 0)  # Where is a sum in ONNX Runtime, which loses the sign of zero


def in_blocks(x: Tensor) -> Tensor:
    return ste.fake_quantize_blocks(x, "e2m1fn", 32, "floor")


def along_the_first(x: Tensor) -> Tensor:
    return ste.fake_quantize_blocks(x, "int4", rule="minmax", dim=0)


def of_a_tensor(x: Tensor) -> Tensor:
    return ste.fake_quantize_blocks(x, "e2m1fn", 16, "e4m3fn", tensor_scale=torch.full([], 0.25, device=x.device))


def of_its_own_largest(x: Tensor) -> Tensor:
    return ste.fake_quantize_blocks(x, "e2m1fn", 16, "e4m3fn")


@pytest.mark.parametrize("function", [in_blocks, along_the_first, of_a_tensor, of_its_own_largest])
def test_script(function: Callable[[Tensor], Tensor], device: str) -> None:
    scripted: Any = torch.jit.script(function)
    for dtype in FLOATING:
        x = normal((3, 40), dtype, 0, device)
        leaf = x.clone().requires_grad_()
        y = function(x)
        found = scripted(leaf)
        assert_same_bits(found, y)
        assert_same_bits(torch.autograd.grad(found.sum(), leaf)[0], grad(lambda t: function(t).sum())(x))
