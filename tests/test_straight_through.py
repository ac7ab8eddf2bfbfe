"""straight_through: the value of one tensor, with the gradient, tangent and second derivative of another."""

import math
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.autograd.forward_ad as fwAD
from bits import assert_same_bits, values
from op_table import FLOATING, INTEGER
from torch import Tensor, vmap
from torch.func import grad, hessian, jacfwd, jacrev, jvp

import ste

of_class: Any = ste.autograd_ops.straight_through_fn
CALLS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "function": ste.straight_through,
    "class": of_class.apply,
    "dispatcher": torch.ops.ste.straight_through,
}
EVERY_CALL = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
EVERY_PAIR = pytest.mark.parametrize(
    ("hard_dtype", "soft_dtype"), [(h, s) for h in [*FLOATING, *INTEGER, torch.bool] for s in FLOATING], ids=str
)
Call = Callable[[Tensor, Tensor], Tensor]

SPECIAL = torch.tensor([0.0, -0.0, 1.5, -1e30, math.inf, -math.inf, math.nan])
# Multiples of 1/4, on which a square is exact.
HARD = torch.tensor([[1.0, -2.0, 0.5], [3.0, 0.25, -1.5]], dtype=torch.float64)
SOFT = torch.tensor([[-3.25, -0.75, 0.5], [1.75, 2.0, 0.25]], dtype=torch.float64)


def dtype_of_result(hard: torch.dtype, soft: torch.dtype) -> torch.dtype:
    return hard if hard.is_floating_point else soft


@EVERY_CALL
@EVERY_PAIR
def test_values_to_the_bit(call: Call, hard_dtype: torch.dtype, soft_dtype: torch.dtype, device: str) -> None:
    hard = torch.tensor([True, False], device=device) if hard_dtype == torch.bool else values(hard_dtype, device)
    soft = torch.linspace(-2, 2, hard.numel(), device=device).to(soft_dtype)
    y = call(hard, soft)
    assert_same_bits(y, hard.to(dtype_of_result(hard_dtype, soft_dtype)), soft)


@EVERY_CALL
def test_nothing_of_soft_leaks_into_the_value(call: Call, device: str) -> None:
    hard, soft = (t.flatten().to(device) for t in torch.meshgrid(SPECIAL, SPECIAL, indexing="ij"))
    for leaf in (soft.clone(), soft.clone().requires_grad_()):
        assert_same_bits(call(hard, leaf), hard, soft)
    g = torch.linspace(-1, 1, len(hard), device=device)
    assert_same_bits(torch.autograd.grad(call(hard, leaf), leaf, g)[0], g)
    assert_same_bits(grad(lambda s: (call(hard, s) * g).sum())(soft), g)
    y, tangent, *_ = jvp(lambda s: call(hard, s), (soft,), (g,))
    assert_same_bits(y, hard, soft)
    assert_same_bits(tangent, g)


@EVERY_CALL
@EVERY_PAIR
def test_the_gradient_arrives_in_the_dtype_of_soft(
    call: Call, hard_dtype: torch.dtype, soft_dtype: torch.dtype, device: str
) -> None:
    hard = torch.tensor([1, 0, 1], device=device).to(hard_dtype)
    soft = torch.tensor([0.5, -1.0, 2.0], device=device).to(soft_dtype).requires_grad_()
    y = call(hard, soft)
    assert y.dtype == dtype_of_result(hard_dtype, soft_dtype)
    g = torch.tensor([1.0, -2.0, 3.0], device=device).to(y.dtype)
    assert_same_bits(torch.autograd.grad(y, soft, g)[0], g.to(soft_dtype))
    tangent = torch.tensor([1.0, -2.0, 3.0], device=device).to(soft_dtype)
    with fwAD.dual_level():
        dual = fwAD.unpack_dual(call(hard, fwAD.make_dual(soft.detach(), tangent)))
        assert_same_bits(dual.tangent, tangent.to(y.dtype))
    found, pushed, *_ = jvp(lambda s: call(hard, s), (soft.detach(),), (tangent,))
    assert_same_bits(found, y)
    assert_same_bits(pushed, tangent.to(y.dtype))
    pulled = grad(lambda s: (call(hard, s) * g).sum())(soft.detach())
    assert_same_bits(pulled, g.to(soft_dtype))


@EVERY_CALL
def test_who_requires_grad(call: Call, device: str) -> None:
    for hard_does in (False, True):
        for soft_does in (False, True):
            hard = HARD.to(device).clone().requires_grad_(hard_does)
            soft = SOFT.to(device).clone().requires_grad_(soft_does)
            y = call(hard, soft)
            assert y.requires_grad == soft_does
            with torch.no_grad():
                assert not call(hard, soft).requires_grad
            if soft_does:
                found = torch.autograd.grad(y.sum(), [soft, *([hard] if hard_does else [])], allow_unused=True)
                assert torch.equal(found[0], torch.ones_like(soft))
                assert all(gradient is None for gradient in found[1:])


@EVERY_CALL
def test_hard_gets_no_gradient_where_both_come_from_one_tensor(call: Call, device: str) -> None:
    x = SOFT.to(device).clone().requires_grad_()
    y = call(3 * x, x**2)
    (first,) = torch.autograd.grad((y**2).sum(), x, create_graph=True)
    assert torch.equal(first, 2 * (3 * x) * 2 * x)
    (second,) = torch.autograd.grad(first.sum(), x)
    # d(2 y 2x)/dx, where dy/dx is 2x, the derivative of soft.
    assert torch.equal(second, 2 * (2 * x) * 2 * x + 2 * (3 * x) * 2)


def loss(call: Call, hard: Tensor, soft: Tensor) -> Any:
    return (call(hard, soft**2) ** 2).sum()


def second_derivative(hard: Tensor, soft: Tensor) -> Tensor:
    return 8 * soft**2 + 4 * hard


@EVERY_CALL
def test_transforms(call: Call, device: str) -> None:
    hard, soft = HARD[0].to(device), SOFT[0].to(device)
    first, second = 4 * hard * soft, torch.diag(second_derivative(hard, soft))
    assert torch.equal(grad(loss, 2)(call, hard, soft), first)
    assert torch.equal(grad(loss, 1)(call, hard, soft), torch.zeros_like(hard))
    assert torch.equal(hessian(loss, 2)(call, hard, soft), second)
    for outer, inner in ((jacrev, jacrev), (jacfwd, jacfwd), (jacrev, jacfwd), (jacfwd, jacrev)):
        assert torch.equal(outer(inner(loss, 2), 2)(call, hard, soft), second)
    tangent = torch.ones_like(soft)
    y, pushed, *_ = jvp(lambda s: loss(call, hard, s), (soft,), (tangent,))
    assert torch.equal(y, (hard**2).sum())
    assert torch.equal(pushed, first.sum())
    y, pushed, *_ = jvp(lambda h: call(h, soft), (hard,), (tangent,))
    assert torch.equal(y, hard)
    assert torch.equal(pushed, torch.zeros_like(hard))
    y, pushed, *_ = jvp(call, (hard, soft), (tangent, 2 * tangent))
    assert torch.equal(pushed, 2 * tangent)


@EVERY_CALL
def test_a_tangent_of_hard_alone(call: Call, device: str) -> None:
    hard, soft = HARD.to(device), SOFT.to(device)
    with fwAD.dual_level():
        y = fwAD.unpack_dual(call(fwAD.make_dual(hard, torch.ones_like(hard)), soft))
        assert torch.equal(y.primal, hard)
        assert y.tangent is None or not y.tangent.any()


@EVERY_CALL
@pytest.mark.parametrize("in_dims", [(0, None), (None, 0), (0, 0), (1, 0), (-1, None), (None, 1), (0, -1)], ids=str)
def test_vmap_over_each(call: Call, in_dims: tuple[int | None, int | None], device: str) -> None:
    both = [torch.stack([t, -t]).to(device) for t in (HARD, SOFT)]
    batched = [t[0] if dim is None else t.movedim(0, dim).contiguous() for t, dim in zip(both, in_dims)]
    calls = [[t[0] if dim is None else t[i] for t, dim in zip(both, in_dims)] for i in range(2)]
    expected = torch.stack([hard for hard, _ in calls])
    y = vmap(call, in_dims)(*batched)
    assert torch.equal(y, expected)
    y.fill_(7)  # a copy, even of an expanded tensor
    assert torch.equal(vmap(call, in_dims)(*batched), expected)

    of_each = vmap(grad(loss, 2), (None, *in_dims))(call, *batched)
    assert torch.equal(of_each, torch.stack([4 * hard * soft for hard, soft in calls]))
    to_soft = grad(lambda h, s: vmap(lambda a, b: loss(call, a, b), in_dims)(h, s).sum(), 1)(*batched)
    parts = torch.stack([4 * hard * soft for hard, soft in calls])
    assert torch.equal(to_soft, parts.sum(0) if in_dims[1] is None else parts.movedim(0, in_dims[1]))
    leaf = batched[1].clone().requires_grad_()
    (gradient,) = torch.autograd.grad(vmap(call, in_dims)(batched[0], leaf).sum(), leaf)
    assert torch.equal(gradient, torch.full_like(leaf, 2 if in_dims[1] is None else 1))
    _, pushed, *_ = jvp(lambda s: vmap(call, in_dims)(batched[0], s), (batched[1],), (batched[1],))
    assert torch.equal(pushed, torch.stack([soft for _, soft in calls]))


NESTED = {
    "hard outside": ((0, None), (None, 0), (3, 1, 2), (1, 4, 2)),
    "soft outside": ((None, 0), (0, None), (1, 4, 2), (3, 1, 2)),
    "hard in both": ((0, 0), (0, None), (3, 4, 2), (3, 1, 2)),
    "soft in both": ((0, 0), (None, 0), (3, 1, 2), (3, 4, 2)),
    "both in both": ((0, 0), (0, 0), (3, 4, 2), (3, 4, 2)),
}


@EVERY_CALL
@pytest.mark.parametrize("case", NESTED)
def test_nested_vmap(call: Call, case: str, device: str) -> None:
    """Tensors of shape (3, 4, 2), with 1 instead of the dimension over which a tensor is not mapped."""
    outer, inner, *shapes = NESTED[case]
    hard, soft = (torch.arange(float(math.prod(shape)), device=device).reshape(shape) for shape in shapes)
    given = [t.squeeze(1 if t.shape[1] == 1 else 0) if 1 in t.shape else t for t in (hard, soft)]
    nested = vmap(vmap(call, inner), outer)
    assert torch.equal(nested(*given), hard.expand(3, 4, 2))
    gradient = grad(lambda s: (nested(given[0], s) * 3).sum())(given[1])
    assert torch.equal(gradient, torch.full_like(given[1], 3 * 24 / soft.numel()))
    _, tangent, *_ = jvp(lambda s: nested(given[0], s), (given[1],), (given[1],))
    assert torch.equal(tangent, soft.expand(3, 4, 2))


def test_vmap_speaks_of_the_shapes_that_the_caller_sees(device: str) -> None:
    hard, soft = torch.zeros(4, 3, device=device), torch.zeros(4, 2, device=device)
    for call in CALLS.values():
        for in_dims, arguments in (((0, 0), (hard, soft)), ((0, None), (hard, soft[0])), ((None, 0), (hard[0], soft))):
            with pytest.raises(RuntimeError, match=r"straight_through: hard has shape \[3\], but soft has shape \[2\]"):
                vmap(call, in_dims)(*arguments)
        # The same shape with the batch, but two shapes without it.
        with pytest.raises(RuntimeError, match=r"straight_through: hard has shape \[3\], but soft has shape \[4, 3\]"):
            vmap(call, (0, None))(hard, hard)


class Module(torch.nn.Module):
    def forward(self, hard: Tensor, soft: Tensor) -> Tensor:
        return ste.straight_through(hard, soft * 2) * 3


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int64, torch.bool], ids=str)
def test_compiled(backend: str, dtype: torch.dtype, device: str) -> None:
    hard, g = torch.tensor([1, 0, 1, 1], device=device).to(dtype), torch.tensor([1.0, -2.0, 3.0, 4.0], device=device)
    for dynamic in (False, True):
        compiled = torch.compile(Module(), fullgraph=True, backend=backend, dynamic=dynamic)
        soft = torch.tensor([math.inf, -1.0, math.nan, 0.5], device=device, requires_grad=True)
        y = compiled(hard, soft)
        assert_same_bits(y, Module()(hard, soft))
        assert_same_bits(torch.autograd.grad(y, soft, g.to(y.dtype))[0], 6 * g)
        if dtype.is_floating_point:
            leaf = hard.clone().requires_grad_()
            assert not compiled(leaf, soft.detach()).requires_grad
            y = compiled(leaf, soft)
            found: Any = torch.autograd.grad(y.sum(), (leaf, soft), allow_unused=True)
            assert found[0] is None or not found[0].any()
            assert torch.equal(found[1], torch.full_like(soft, 6))


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_compiled_transforms(backend: str, device: str) -> None:
    def total(hard: Tensor, soft: Tensor) -> Any:
        return loss(ste.straight_through, hard, soft)

    hard, soft = HARD.to(device), SOFT.to(device)
    options: dict[str, Any] = {"fullgraph": True, "backend": backend}
    assert torch.equal(torch.compile(grad(total, 1), **options)(hard, soft), 4 * hard * soft)
    over_hard = vmap(grad(total, 1), (0, None))
    assert torch.equal(torch.compile(over_hard, **options)(hard, soft[0]), 4 * hard * soft[0])
    over_soft = vmap(grad(total, 1), (None, 0))
    assert torch.equal(torch.compile(over_soft, **options)(hard[0], soft), 4 * hard[0] * soft)
    if backend == "aot_eager":  # torch deprecates what inductor itself calls for a diagonal
        second = torch.compile(hessian(total, 1), **options)(hard[0], soft[0])
        assert torch.equal(second, torch.diag(second_derivative(hard[0], soft[0])))


@pytest.mark.parametrize("dtype", [torch.float32, torch.int64, torch.bool], ids=str)
@pytest.mark.parametrize("strict", [False, True])
def test_exported(strict: bool, dtype: torch.dtype, device: str) -> None:
    hard = torch.tensor([[1, 0, 1], [0, 0, 1], [1, 1, 0]], device=device).to(dtype)
    soft = torch.tensor([[0.25, -1.0, 0.5], [4.0, 2.0, -3.0], [0.0, 1.0, -2.0]], device=device)
    batch = torch.export.Dim("batch")
    program = torch.export.export(
        Module(), (hard, soft), dynamic_shapes={"hard": {0: batch}, "soft": {0: batch}}, strict=strict
    )
    for rows in (2, 3):
        leaf = soft[:rows].clone().requires_grad_()
        y = program.module()(hard[:rows], leaf)
        assert torch.equal(y, hard[:rows].float() * 3)
        assert torch.equal(torch.autograd.grad(y.sum(), leaf)[0], torch.full_like(leaf, 6))
    decomposed = program.run_decompositions()
    targets = {node.target for node in decomposed.graph.nodes if node.op == "call_function"}
    assert {getattr(target, "namespace", "aten") for target in targets} == {"aten"}
    assert torch.equal(decomposed.module()(hard, soft), hard.float() * 3)


@EVERY_CALL
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int64, torch.bool], ids=str)
def test_the_result_may_be_written_to(call: Call, dtype: torch.dtype, device: str) -> None:
    hard = torch.tensor([1, 0, 1], device=device).to(dtype)
    soft = torch.tensor([0.5, -1.0, 2.0], device=device)
    before = [hard.clone(), soft.clone()]
    call(hard, soft).fill_(7)
    leaf = soft.clone().requires_grad_()
    y = call(hard, leaf)
    y.mul_(2)
    y[0] = 5
    assert y.tolist() == [5, 0, 2]
    assert torch.autograd.grad(y.sum(), leaf)[0].tolist() == [0, 2, 2]
    assert torch.equal(hard, before[0]) and torch.equal(soft, before[1])


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": lambda t: t,
    "transposed": lambda t: t.mT.contiguous().mT,
    "every second": lambda t: t.repeat_interleave(2, -1)[..., ::2],
    "expanded": lambda t: t[..., :1].expand(t.shape),
}


@EVERY_CALL
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_layout_is_that_of_hard(call: Call, layout: str, device: str) -> None:
    hard, soft = LAYOUTS[layout](torch.randn(3, 4, device=device)), torch.randn(4, 3, device=device).mT
    for given in (hard, hard > 0):
        y = call(given, soft)
        assert torch.equal(y, given.to(y.dtype))
        assert y.stride() == torch.neg(hard).stride()


@EVERY_CALL
def test_nothing_is_kept(call: Call, device: str) -> None:
    saved = []
    soft = SOFT.to(device).clone().requires_grad_()

    def pack(tensor: Tensor) -> Tensor:
        saved.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        y = call(HARD.to(device), soft)
    assert not saved
    assert y.grad_fn is not None
    assert not getattr(y.grad_fn, "saved_tensors", ())
    (gradient,) = torch.autograd.grad(y, soft, HARD.to(device))
    assert torch.equal(gradient, HARD.to(device))


def test_the_idiom_is_neither_exact_nor_finite() -> None:
    """What the migration guide says about it."""
    hard = torch.tensor([0.1, 1.0, 2.0])
    soft = torch.tensor([1e8, 0.5, math.inf], requires_grad=True)
    idiom = soft + (hard - soft).detach()
    assert idiom[0] != hard[0] and idiom[2].isnan()
    assert_same_bits(ste.straight_through(hard, soft), hard)


@EVERY_CALL
def test_quantized_tensors_are_refused(call: Call) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch deprecates them
        hard = torch.quantize_per_tensor(torch.tensor([1.0]), 1.0, 0, torch.qint8)
    with pytest.raises(TypeError, match=r"^straight_through: hard has dtype qint8; supported are float64, float32,"):
        call(hard, torch.tensor([1.0]))


def test_keywords_and_errors_by_name() -> None:
    hard, soft = torch.tensor([True]), torch.tensor([0.25])
    assert ste.straight_through(soft=soft, hard=hard).tolist() == [1.0]
    with pytest.raises(TypeError, match=r"straight_through\(\) missing 1 required positional argument: 'soft'"):
        ste.straight_through(hard)  # type: ignore[call-arg]
