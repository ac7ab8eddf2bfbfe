"""`torch.compile(fullgraph=True)`."""

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from bits import assert_same_bits, values
from functorch.compile import make_boxed_func
from processes import run
from subjects import DISTINCT_OPS, OPS, Op, X, every_op, expected_of_every_op
from torch import Tensor, vmap
from torch._dynamo.backends.common import aot_autograd
from torch._dynamo.testing import CompileCounterWithBackend
from torch._inductor.utils import run_and_get_code
from torch.func import grad

import ste

row = pytest.mark.row
EVERY_OP = pytest.mark.parametrize("op", OPS, ids=str)
EVERY_OP_ONCE = pytest.mark.parametrize("op", DISTINCT_OPS, ids=str)
DTYPES = pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str)
G = torch.tensor([1.0, -2.0, 3.0, 4.0])
DOUBLE = X.double()


class Graphs:
    """A compiler that keeps the graphs that it gets from AOTAutograd."""

    def __init__(self) -> None:
        self.targets: list[Any] = []
        self.backend = aot_autograd(fw_compiler=self._keep, bw_compiler=self._keep)

    def _keep(self, graph: torch.fx.GraphModule, _: Any) -> Any:
        self.targets += [node.target for node in graph.graph.nodes if node.op == "call_function"]
        return make_boxed_func(graph.forward)


@row("inductor, values and gradients to the bit, of every value of 16 bits and the special values")
@pytest.mark.slow
@EVERY_OP
@DTYPES
def test_inductor_to_the_bit(op: Op, dtype: torch.dtype) -> None:
    x = values(dtype).requires_grad_()
    g = torch.linspace(-3, 3, x.numel(), dtype=torch.float64).to(dtype)
    y = torch.compile(lambda t: op(t), fullgraph=True)(x)
    assert_same_bits(y, op.expected(x), x)
    (gradient,) = torch.autograd.grad(y, x, g)
    assert_same_bits(gradient, op.gradient(x, g), x)


def square(op: Op) -> Callable[[Tensor], Any]:
    def function(x: Tensor) -> Any:
        y = op(x)
        return y * y  # not y**2: with dynamic=True, Dynamo turns an exponent from a closure into a symbol

    return function


def check_training(function: Callable[[Tensor], Any], op: Op, x: Tensor) -> None:
    leaf = x.clone().requires_grad_()
    y = function(leaf)
    assert torch.equal(y, op.expected(x) ** 2)
    (gradient,) = torch.autograd.grad(y.sum(), leaf)
    assert torch.equal(gradient, 2 * op.expected(x) * op.slope(x))


def check_inference(function: Callable[[Tensor], Any], op: Op, x: Tensor) -> None:
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            assert torch.equal(function(x), op.expected(x) ** 2)


def with_cost(parameters: list[tuple[str, Op]]) -> list[Any]:
    """Inductor runs a C++ compiler for seconds: `make test` does so for one op only."""
    return [
        pytest.param(
            backend,
            op,
            marks=[pytest.mark.slow] if backend == "inductor" and op is not DISTINCT_OPS[0] else [],
            id=f"{backend}-{op}",
        )
        for backend, op in parameters
    ]


EVERY_BACKEND = pytest.mark.parametrize(
    ("backend", "op"), with_cost([(backend, op) for backend in ("aot_eager", "inductor") for op in DISTINCT_OPS])
)


@row("`backend='{backend}'`, static shapes, training and inference")
@EVERY_BACKEND
def test_static(backend: str, op: Op) -> None:
    counter = CompileCounterWithBackend(backend)
    function = torch.compile(square(op), dynamic=False, fullgraph=True, backend=counter)
    check_training(function, op, X)
    check_inference(function, op, X)
    assert counter.frame_count == 3


@row("`backend='{backend}'`, dynamic shapes, a second batch size without recompiling")
@EVERY_BACKEND
def test_dynamic(backend: str, op: Op) -> None:
    counter = CompileCounterWithBackend(backend)
    function = torch.compile(square(op), dynamic=True, fullgraph=True, backend=counter)
    compilations = []
    for size in (3, 7):
        check_training(function, op, torch.arange(-4 * size, 4 * size).reshape(-1, 4) / 4 + 0.125)
        compilations.append(counter.frame_count)
    # For a float, Dynamo first compiles with a symbol instead, and then once more without it.
    assert compilations in ([1, 1], [2, 2])


@row("`mode='{mode}'`")
@pytest.mark.slow
@EVERY_OP_ONCE
@pytest.mark.parametrize("mode", ["reduce-overhead", "max-autotune-no-cudagraphs"])
def test_modes(mode: str, op: Op) -> None:
    check_training(torch.compile(square(op), fullgraph=True, mode=mode), op, X)


@row("each op by itself, called by its own name, keywords included")
@EVERY_OP
def test_the_function_itself(op: Op) -> None:
    x = X.clone().requires_grad_()
    y = torch.compile(op.function, fullgraph=True, backend="aot_eager")(x, *op.arguments_for(X))
    assert torch.equal(y, op.expected(X))
    (gradient,) = torch.autograd.grad(y, x, G)
    assert torch.equal(gradient, op.gradient(X, G))


@row("`vmap` of the function itself")
@EVERY_OP
def test_vmap_of_the_function_itself(op: Op) -> None:
    rows = torch.stack([X, X / 2])
    arguments = op.arguments_for(X)
    in_dims = (0, *[None] * len(arguments))
    mapped = torch.compile(vmap(op.function, in_dims=in_dims), fullgraph=True, backend="aot_eager")
    assert torch.equal(mapped(rows, *arguments), op.expected(rows))


@row("no op of its own in the graphs: `aten` only")
@EVERY_OP
def test_graphs_hold_aten_only(op: Op) -> None:
    graphs = Graphs()
    x = X.clone().requires_grad_()
    y = torch.compile(lambda t: op(t * 2) * 3, fullgraph=True, backend=graphs.backend)(x)
    y.backward(G)
    assert graphs.targets
    assert not [t for t in graphs.targets if getattr(t, "namespace", "aten") != "aten"]
    assert torch.equal(y, op.expected(X * 2) * 3)
    assert x.grad is not None
    assert torch.equal(x.grad, 6 * op.gradient(X * 2, G))


@row("one fused loop for `op(x * a + b) * c`, forward and backward")
@pytest.mark.slow
@EVERY_OP_ONCE
def test_one_fused_loop(op: Op) -> None:
    x = X.repeat(16).requires_grad_()
    # Half a mantissa each, so that nothing rounds and a fused multiply-add gives the same result.
    a, b, c = (torch.full_like(x, number).detach() for number in (0.5, 0.25, 3.0))

    def step(x: Tensor) -> tuple[Tensor, Tensor]:
        y = torch.compile(lambda t: op(t * a + b) * c, fullgraph=True)(x)
        (gradient,) = torch.autograd.grad(y.sum(), x)
        return y.detach(), gradient

    (y, gradient), code = run_and_get_code(step, x)
    inner = (x * a + b).detach()
    assert torch.equal(y, op.expected(inner) * c)
    assert torch.equal(gradient, op.gradient(inner, c) * a)
    assert len(code) == 2
    for source in code:
        # One kernel, with one loop over the elements. (Code that cannot be vectorized has an inner loop over the
        # lanes.)
        assert len(re.findall(r"async_compile\.cpp", source)) == 1, source
        assert len(re.findall(r"\bfor ?\(int64_t x0", source)) == 1, source
        assert not re.findall(r"\bfor ?\(int64_t x1", source), source


TRANSFORMED: dict[str, Callable[[Any], Any]] = {
    "grad": lambda f: grad(lambda t: f(t).sum()),
    "vmap(grad)": lambda f: vmap(grad(lambda t: f(t).sum())),
}


@row("`torch.func`'s `{transform}` on inductor")
@pytest.mark.slow
@pytest.mark.parametrize("transform", TRANSFORMED)
def test_transforms_on_inductor(transform: str) -> None:
    rows = torch.stack([DOUBLE, DOUBLE / 2])
    function: Callable[[Tensor], Tensor] = torch.compile(TRANSFORMED[transform](every_op(2)), fullgraph=True)
    assert torch.equal(function(rows), expected_of_every_op(2, 1, rows))


@row("a scalar bound that changes")
@pytest.mark.parametrize("op", [op for op in DISTINCT_OPS if op.name == "scalar_clamp_ste"], ids=str)
def test_a_scalar_bound_may_change(op: Op) -> None:
    function = torch.compile(op.function, fullgraph=True, backend="aot_eager")
    for bound in (1.0, 2.0, 2.5, 3):
        x = X.clone().requires_grad_()
        y = function(x, -bound, bound)
        assert torch.equal(y, x.detach().clamp(-bound, bound))
        (gradient,) = torch.autograd.grad(y, x, G)
        assert torch.equal(gradient, G)


@row("a module that trains, compiled by `Module.compile`")
@EVERY_OP_ONCE
def test_a_module_that_trains(op: Op) -> None:
    class Quantized(torch.nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return torch.nn.functional.linear(x, op(self.weight))

    sample = torch.tensor([[1.0, 2.0, -1.0, 0.5]])
    weights = []
    for is_compiled in (False, True):
        model = Quantized(4, 2, bias=False)
        model.weight.data = torch.stack([X, X / 2])
        if is_compiled:
            model.compile(fullgraph=True, backend="aot_eager")
        optimizer = torch.optim.SGD(model.parameters(), lr=0.25)
        for _ in range(3):
            optimizer.zero_grad()
            model(sample).sum().backward()
            optimizer.step()
        weights.append(model.weight.detach())
    assert torch.equal(*weights)
    expected = torch.stack([X, X / 2])
    for _ in range(3):
        expected = expected - 0.25 * op.gradient(expected, sample.expand(2, 4))
    assert torch.equal(weights[0], expected)


COMPILED_AUTOGRAD = """
import torch
from subjects import X, every_op
x = X.double().requires_grad_()
with torch._dynamo.config.patch(compiled_autograd=True):

    @torch.compile(backend="aot_eager")
    def step(x):
        every_op(2)(x).sum().backward()

    step(x)
print(*x.grad.tolist())
"""


# In a process that is not forked: if another test has started autograd's threads before, torch 2.14 refuses a fork,
# "Unable to handle autograd's threading in combination with fork-based multiprocessing".
@row("compiled autograd, of compiled code")
def test_compiled_autograd_of_compiled_code() -> None:
    *_, printed = run(COMPILED_AUTOGRAD, backend=ste.backend().name).splitlines()
    gradient = torch.tensor([float(word) for word in printed.split()], dtype=torch.float64)
    assert torch.equal(gradient, expected_of_every_op(2, 1, DOUBLE))


@row("compiled autograd, of eager code")
@EVERY_OP_ONCE
@pytest.mark.refused(
    "the nodes of the native backend have compiled autograd's interface of torch 2.13 and later alone",
    error="compiled_args not implemented",
    backend="native",
    torch="<2.13",
)
@pytest.mark.isolated
def test_compiled_autograd_of_eager_code(op: Op) -> None:
    x = X.clone().requires_grad_()
    with torch._dynamo.compiled_autograd._enable(torch.compile(backend="aot_eager")):
        op(x).backward(G)
    assert x.grad is not None
    assert torch.equal(x.grad, op.gradient(X, G))
