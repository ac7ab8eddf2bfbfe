"""torch.compile, torch.export: values, gradients, and graphs that hold operations of ATen only."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from bits import assert_same_bits, values
from functorch.compile import make_boxed_func
from op_table import BOUNDS, FLOATING, OPS, STRAIGHT_THROUGH_OPS, Op
from test_gradient import expected_gradient
from torch import Tensor, vmap
from torch._dynamo.backends.common import aot_autograd
from torch._dynamo.testing import CompileCounter
from torch.func import grad

import ste

EVERY_OP = pytest.mark.parametrize("op", OPS, ids=str)


class Graphs:
    """A compiler that keeps the graphs that it is given, after autograd."""

    def __init__(self) -> None:
        self.targets: list[Any] = []
        self.backend = aot_autograd(fw_compiler=self._keep, bw_compiler=self._keep)

    def _keep(self, graph: torch.fx.GraphModule, _: Any) -> Any:
        self.targets += [node.target for node in graph.graph.nodes if node.op == "call_function"]
        return make_boxed_func(graph.forward)


@EVERY_OP
@pytest.mark.parametrize("dtype", FLOATING, ids=str)
def test_inductor(op: Op, dtype: torch.dtype, device: str) -> None:
    x = values(dtype, device).requires_grad_()
    g = torch.linspace(-3, 3, x.numel(), dtype=torch.float64, device=device).to(dtype)
    y = torch.compile(lambda t: op(t), fullgraph=True)(x)
    expected = op.expected(x)
    assert_same_bits(y, expected, x)
    (gradient,) = torch.autograd.grad(y, x, g)
    assert_same_bits(gradient, expected_gradient(op, x, g), x)


def test_inductor_keeps_the_sign_of_zeros_beside_another_zero(device: str) -> None:
    """In one kernel, inductor takes the constants -0.0 and 0.0 for the same."""
    x, low = (torch.tensor([-0.0, -1.0], device=device) for _ in range(2))
    high = torch.ones(2, device=device)

    def clamp_and_relu(x: Tensor) -> tuple[Tensor, Tensor]:
        return ste.tensor_clamp(x, low, high), torch.where(x > 0.0, x, 0.0)

    assert_same_bits(torch.compile(clamp_and_relu, fullgraph=True)(x)[0], x)


@EVERY_OP
def test_the_function_itself_compiles(op: Op, device: str) -> None:
    x = torch.tensor([-3.3, 0.4], device=device)
    arguments = op.arguments_for(x)
    function = torch.compile(op.function, fullgraph=True, backend="aot_eager")
    assert_same_bits(function(x, *arguments), op(x))
    mapped = torch.compile(
        vmap(op.function, in_dims=(0, *[None] * len(arguments))), fullgraph=True, backend="aot_eager"
    )
    scalars = tuple(a[0] if isinstance(a, Tensor) and a.dim() else a for a in arguments)
    assert_same_bits(mapped(x, *scalars), op.function(x, *scalars))


@EVERY_OP
def test_graphs_hold_no_op_of_ours(op: Op, device: str) -> None:
    graphs = Graphs()
    x = torch.tensor([-3.3, -0.6, 0.4, 1.7], device=device, requires_grad=True)
    y = torch.compile(lambda t: op(t * 2) * 3, fullgraph=True, backend=graphs.backend)(x)
    y.sum().backward()
    assert graphs.targets
    assert not [t for t in graphs.targets if getattr(t, "namespace", "aten") != "aten"]
    assert_same_bits(y, op(x * 2) * 3)
    assert x.grad is not None
    assert_same_bits(x.grad, 6 * expected_gradient(op, (x * 2).detach(), torch.ones_like(x)))


@EVERY_OP
def test_a_second_batch_size_does_not_recompile(op: Op, device: str) -> None:
    counter = CompileCounter()
    function = torch.compile(lambda t: op(t), fullgraph=True, dynamic=True, backend=counter)
    for size in (5, 9):
        x = torch.linspace(-4, 4, 3 * size, device=device).reshape(size, 3)
        assert_same_bits(function(x), op(x))
    assert counter.frame_count == 1


@pytest.mark.parametrize("name", ["scalar_clamp_ste", "tensor_clamp_ste", "tensor_clamp"])
@pytest.mark.parametrize("bounds", BOUNDS, ids=str)
def test_bounds_of_every_kind(name: str, bounds: tuple[float, float], device: str) -> None:
    """What compilers see of a clamp, by other operations than in eager mode: the same values and the same gradients."""
    clamp: Callable[..., Tensor] = getattr(ste, name)
    arguments = bounds if name == "scalar_clamp_ste" else [torch.tensor(b, device=device) for b in bounds]
    x = values(torch.float32, device).requires_grad_()
    expected = clamp(x, *arguments)
    y = torch.compile(clamp, fullgraph=True, backend="aot_eager")(x, *arguments)
    if name == "scalar_clamp_ste" and bounds not in ((-0.0, 0.0), (-5e-324, 5e-324)):
        assert_same_bits(y, expected, x)
    else:
        # The sign of a zero is unspecified where a tensor bound is a zero; and torch.compile merges constants that
        # compare equal, in AOTAutograd as in inductor, so that the bounds -0.0 and 0.0 become one.
        assert_same_bits(torch.where(y == 0, 0.0, y), torch.where(expected == 0, 0.0, expected), x)
    assert_same_bits(*(torch.autograd.grad(out.sum(), x)[0] for out in (y, expected)))


def test_a_scalar_bound_may_change(device: str) -> None:
    function = torch.compile(ste.scalar_clamp_ste, fullgraph=True, backend="aot_eager")
    x = torch.linspace(-4, 4, 9, device=device)
    for bound in (1.0, 2.0, 2.5, 3):
        assert_same_bits(function(x, -bound, bound), ste.scalar_clamp_ste(x, -bound, bound))


def test_integer_ranges_compile(device: str) -> None:
    def quantize(x: Tensor, bits: Tensor) -> Tensor:
        return ste.tensor_clamp_ste(ste.round_ste(x), ste.min_int(True, False, bits), ste.max_int(True, bits))

    x = torch.linspace(-200, 200, 33, device=device)
    for bits in (torch.tensor(8, device=device), torch.tensor(4.0, device=device)):
        assert_same_bits(torch.compile(quantize, fullgraph=True, backend="aot_eager")(x, bits), quantize(x, bits))
    fixed = torch.compile(lambda: (ste.max_uint(True, 8), ste.max_int(True, 4)), fullgraph=True, backend="aot_eager")
    assert fixed() == (torch.tensor(254), torch.tensor(7))


def test_shapes_compile(device: str) -> None:
    x = torch.randn(2, 3, 4, 5, device=device)
    for name in ste.shape.__all__:
        function = getattr(ste, name)
        compiled = torch.compile(lambda t: t.reshape(function(t)), fullgraph=True, backend="aot_eager", dynamic=True)  # noqa: B023
        assert torch.equal(compiled(x), x.reshape(function(x)))


class Module(torch.nn.Module):
    def __init__(self, op: Op, x: Tensor) -> None:
        super().__init__()
        self.function = op.function
        self.count = len(op.arguments)
        for i, argument in enumerate(op.arguments_for(x)):
            if isinstance(argument, Tensor):
                self.register_buffer(f"argument{i}", argument)
            else:
                setattr(self, f"argument{i}", argument)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x * 2, *[getattr(self, f"argument{i}") for i in range(self.count)]) * 3


@EVERY_OP
@pytest.mark.parametrize("strict", [False, True])
def test_export_keeps_the_op_and_decomposes_on_request(op: Op, strict: bool) -> None:
    x = torch.tensor([-3.3, -0.6, 0.4, 1.7])
    module = Module(op, x)
    program = torch.export.export(module, (x,), strict=strict)
    assert op.overload in [node.target for node in program.graph.nodes]
    assert_same_bits(program.module()(x), module(x))
    x.requires_grad_()
    (gradient,) = torch.autograd.grad(program.module()(x).sum(), x)
    assert_same_bits(gradient, 6 * expected_gradient(op, (x * 2).detach(), torch.ones_like(x)))
    decomposed = program.run_decompositions()
    targets = [node.target for node in decomposed.graph.nodes if node.op == "call_function"]
    assert {target.namespace for target in targets} == {"aten"}
    assert_same_bits(decomposed.module()(x.detach()), module(x.detach()))


@pytest.mark.parametrize("op", STRAIGHT_THROUGH_OPS, ids=str)
def test_compile_under_inductor_of_a_transform(op: Op, device: str) -> None:
    x = torch.tensor([[-3.3, -0.6], [0.4, 1.7]], device=device)
    f = torch.compile(vmap(grad(lambda t: (op(t) ** 2).sum())), fullgraph=True)
    assert_same_bits(f(x), 2 * op(x))
