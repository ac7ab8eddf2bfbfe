"""Compiled autograd: the backward of eager code as a graph, with the gradients of eager code, to the bit."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import torch
from bits import assert_same_bits
from functorch.compile import make_boxed_func
from packaging.version import Version
from torch import Tensor
from torch._dynamo.backends.common import aot_autograd
from torch._dynamo.utils import counters

import ste

pytestmark = pytest.mark.skipif(
    ste.backend().name == "native" and Version(torch.__version__) < Version("2.13"),
    reason="the native nodes have what compiled autograd asks for with torch 2.13 and later",
)

# Whole numbers and powers of two: every sum is exact, in whatever order it is taken.
X = torch.tensor([[0.0, 1.0, 2.5, -6.0, 6.0, 0.25, -0.5, 1.75], [1.0, -0.75, 3.0, 4.0, -3.0, 0.5, 1.5, -8.0]])
G = (torch.arange(X.numel()).reshape(X.shape) - 5) / 4
LOW, HIGH = torch.tensor(-3.0), torch.tensor([1.0, 1.0, 1.0, 1.0, 2.0, 1.0, 0.0, 1.0])
SCALE, ZERO_POINT = torch.tensor(2.0), torch.tensor([1.0, 1.0, 0.0, 1.0, 1.0, 0.0, 2.0, 1.0])
RANDOM = torch.linspace(0, 0.9375, X.numel()).reshape(X.shape)

# Each with settings of which every two have other gradients, and the tensors that it is differentiable in.
Case = tuple[Callable[..., Tensor], list[Any], tuple[Tensor, ...]]
CASES: dict[str, Case] = {
    "round_ste": (lambda _, x: ste.round_ste(x), [None], (X,)),
    "scalar_clamp_ste": (lambda end, x: ste.scalar_clamp_ste(x, -end, end), [1.0, 2.0], (X,)),
    "binary_sign_ste": (
        lambda of, x: ste.binary_sign_ste(x, surrogate=of[0], alpha=of[1]),
        [("atan", 2.0), ("atan", 0.5), ("sigmoid", 2.0), ("clipped", 2.0), ("clipped", None), ("identity", None)],
        (X,),
    ),
    "tensor_clamp": (lambda _, *t: ste.tensor_clamp(*t), [None], (X, LOW, HIGH)),
    "tensor_clamp, between numbers": (
        lambda end, x: ste.tensor_clamp(x, torch.tensor(-end), torch.tensor(end)),
        [1.0, 2.0],
        (X,),
    ),
    "fake_quantize": (
        lambda of, *t: ste.fake_quantize(*t, *of),
        [(-2, 1, 0.25, "rounded"), (-2, 1, 0.5, "rounded"), (-2, 2, 0.5, "rounded"), (-2, 2, 0.5, "scaled")],
        (X, SCALE, ZERO_POINT),
    ),
    "fake_quantize, no zero point": (
        lambda of, x, scale: ste.fake_quantize(x, scale, None, *of),
        [(-2, 1), (-1, 1), (-2, 1, 2)],
        (X, SCALE),
    ),
    "fake_quantize, at random": (
        lambda of, x, scale: ste.fake_quantize(x, scale, None, -2, 1, random=of),
        [RANDOM, 0.9375 - RANDOM],
        (X, SCALE),
    ),
    "fake_quantize_float": (
        lambda of, *t: ste.fake_quantize_float(*t, *of),
        [("e2m1fn", 0.25), ("e2m1fn", 0.5), ("e2m3fn", 0.5), ("e4m3:bias=3:max=2", 0.5), ("e2m1fn", 0.5, False)],
        (X, torch.tensor(0.5)),
    ),
    "fake_quantize_blocks": (
        lambda of, x: ste.fake_quantize_blocks(x, *of),
        [("e2m1fn", 2, "floor"), ("e2m1fn", 4, "floor"), ("int2", 4, "floor"), ("int2", 2, "floor", 0)],
        (X,),
    ),
    "fake_quantize_blocks, two levels": (
        lambda of, x: ste.fake_quantize_blocks(x, "e2m1fn", 4, "e4m3fn", tensor_scale=torch.tensor(of)),
        [2.0**-8, 2.0**-12],
        (X,),
    ),
    "straight_through": (lambda _, x: ste.straight_through(x > 0, x), [None], (X,)),
}
SAVING = ["binary_sign_ste", "tensor_clamp", "fake_quantize", "fake_quantize_blocks"]
EVERY_CASE = pytest.mark.parametrize("case", CASES)


def quick(*names: str) -> pytest.MarkDecorator:
    """All cases, but these alone in the tests that are not slow."""
    marked = [pytest.param(case, marks=[] if case in names else [pytest.mark.slow]) for case in CASES]
    return pytest.mark.parametrize("case", marked)


ONE_OF_EACH = quick(*SAVING)


@pytest.fixture(autouse=True)
def nothing_compiled() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def compiled(backend: Any = "eager") -> Any:
    """Calls of the engine in this context are compiled. With `eager`, a graph calls the function of each node."""
    return torch._dynamo.compiled_autograd._enable(torch.compile(backend=backend))


def calls(case: str, x: Tensor = X, of: Any = None) -> tuple[Tensor, list[Tensor]]:
    """The result, and the leaves that it follows from."""
    function, settings, (_, *others) = CASES[case]
    leaves = [t.clone().to(x.dtype).requires_grad_() for t in (x, *others)]
    return function(settings[0] if of is None else of, *leaves), leaves


def gradients(case: str, x: Tensor = X, of: Any = None, g: Tensor = G) -> tuple[Tensor | None, ...]:
    y, leaves = calls(case, x, of)
    found: tuple[Tensor | None, ...] = torch.autograd.grad(y, leaves, g.to(y.dtype))
    return found


def assert_same(found: Sequence[Tensor | None], expected: Sequence[Tensor | None]) -> None:
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        assert (a is None) == (b is None)
        if a is not None and b is not None:
            assert_same_bits(a, b)


@EVERY_CASE
@pytest.mark.parametrize("backend", ["eager", "aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
@pytest.mark.parametrize("dtype", [torch.float32, pytest.param(torch.bfloat16, marks=pytest.mark.slow)], ids=str)
def test_the_gradients_of_eager_code(case: str, backend: str, dtype: torch.dtype) -> None:
    expected = gradients(case, X.to(dtype))
    with compiled(backend):
        assert_same(gradients(case, X.to(dtype)), expected)


@EVERY_CASE
def test_another_setting_has_other_gradients(case: str) -> None:
    """What differs in a number alone, as two clamps do, must not share a graph."""
    _, settings, _ = CASES[case]
    expected = [gradients(case, of=of) for of in settings]
    for _ in range(2):
        for of, of_eager_code in zip(settings, expected, strict=True):
            with compiled():
                assert_same(gradients(case, of=of), of_eager_code)


def test_the_same_call_is_compiled_once() -> None:
    counters.clear()
    for factor in (1, 2, 3):
        expected = gradients("fake_quantize", X * factor, g=G * factor)
        with compiled():
            assert_same(gradients("fake_quantize", X * factor, g=G * factor), expected)
    assert counters["compiled_autograd"]["captures"] == 1


def test_two_ops_in_one_graph() -> None:
    """Of one op, with other settings, and the same tensors."""

    def total(x: Tensor, scale: Tensor) -> Tensor:
        y = ste.fake_quantize(x, scale, None, -2, 1) + 3 * ste.fake_quantize(x, scale, None, -1, 2, grad_scale=0.5)
        return y + 5 * ste.fake_quantize_float(x, scale, "e2m1fn") + 7 * ste.binary_sign_ste(x, surrogate="atan")

    leaves = [X.clone().requires_grad_(), SCALE.clone().requires_grad_()]
    expected = torch.autograd.grad(total(*leaves), leaves, G)
    for backend in ("eager", "aot_eager"):
        with compiled(backend):
            assert_same(torch.autograd.grad(total(*leaves), leaves, G), expected)


def test_the_ops_of_the_dispatcher() -> None:
    """By its own name an op has another node, on the Python backend."""
    ops = torch.ops.ste
    calls: list[Callable[[Tensor, Tensor], Tensor]] = [
        lambda x, _: ops.binary_sign_ste(x, 0, "atan", torch.tensor(2.0)),
        lambda x, _: ops.binary_sign_ste(x, 0, "atan", torch.tensor(0.5)),
        lambda x, scale: ops.fake_quantize(x, scale, None, -2, 1, 0.25),
        lambda x, scale: ops.fake_quantize(x, scale, None, -2, 2, 0.25),
    ]
    leaves = [X.clone().requires_grad_(), SCALE.clone().requires_grad_()]
    expected = [torch.autograd.grad(call(*leaves), leaves, G, allow_unused=True) for call in calls]
    for _ in range(2):
        for call, of_eager_code in zip(calls, expected, strict=True):
            with compiled():
                assert_same(torch.autograd.grad(call(*leaves), leaves, G, allow_unused=True), of_eager_code)


@pytest.mark.parametrize("case", [case for case in CASES if len(CASES[case][2]) > 1])
def test_those_that_are_needed(case: str) -> None:
    y, leaves = calls(case)
    subsets = [leaves[:1], leaves[1:], leaves, leaves[::-1], leaves[-1:], leaves[:1]]
    for inputs in subsets:
        expected = torch.autograd.grad(y, inputs, G, retain_graph=True)
        with compiled():
            assert_same(torch.autograd.grad(y, inputs, G, retain_graph=True), expected)


@quick("fake_quantize")
@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("eager", marks=pytest.mark.slow)])
def test_another_size(case: str, backend: str) -> None:
    function, (of, *_), (_, *others) = CASES[case]
    for rows in (1, 3, 5):
        x, g = X.repeat(rows, 1) * rows, G.repeat(rows, 1)
        setting = RANDOM.repeat(rows, 1) if of is RANDOM else of
        leaves = [t.clone().requires_grad_() for t in (x, *others)]
        expected = torch.autograd.grad(function(setting, *leaves), leaves, g)
        with compiled(backend):
            assert_same(torch.autograd.grad(function(setting, *leaves), leaves, g), expected)


@quick("fake_quantize")
def test_layouts(case: str) -> None:
    for x, g in ((X.t().contiguous().t(), G), (X, G.t().contiguous().t()), (X, G[:1].expand_as(G))):
        expected = gradients(case, x, g=g)
        with compiled():
            found = gradients(case, x, g=g)
        assert_same(found, expected)
        assert [t.stride() for t in found if t is not None] == [t.stride() for t in expected if t is not None]


class Nothing(torch.autograd.Function):
    """Gives no gradient back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> None:
        return None


@ONE_OF_EACH
@pytest.mark.skipif(
    ste.backend().name == "python", reason="torch passes None on to a Function, which it gives zeros without a compiler"
)
def test_no_gradient_that_comes_in(case: str) -> None:
    y, leaves = calls(case)
    z = Nothing.apply(y)  # type: ignore[no-untyped-call]
    with compiled():
        z.backward(G)
    assert [leaf.grad for leaf in leaves] == [None] * len(leaves)


@quick("fake_quantize")
def test_hooks_and_writing_in_place(case: str) -> None:
    def step() -> list[Tensor | None]:
        y, leaves = calls(case)
        seen: list[Tensor] = []
        y.register_hook(lambda g: g * 2)
        leaves[0].register_hook(lambda g: g + 1)
        leaves[0].register_post_accumulate_grad_hook(lambda leaf: seen.append(leaf.grad.clone()))
        z = y * 1
        z.mul_(3)
        z.backward(G)
        return [*(leaf.grad for leaf in leaves), *seen]

    expected = step()
    with compiled():
        assert_same(step(), expected)


@ONE_OF_EACH
def test_hooks_for_saved_tensors(case: str) -> None:
    expected = gradients(case)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t.detach().clone(), lambda t: t):
        y, leaves = calls(case)
    with compiled():
        assert_same(torch.autograd.grad(y, leaves, G), expected)


@pytest.mark.parametrize("case", SAVING)
def test_what_autograd_refuses(case: str) -> None:
    """As without a compiler."""
    y, leaves = calls(case)
    with compiled():
        torch.autograd.grad(y, leaves, G)
        with pytest.raises(RuntimeError, match="second time"):
            torch.autograd.grad(y, leaves, G)
    inner = X.clone().requires_grad_() * 1
    function, settings, (_, *others) = CASES[case]
    y = function(settings[0], inner, *others)
    with torch.no_grad():
        inner.add_(1)
    with compiled(), pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.backward(G)


@quick("fake_quantize")
@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("eager", marks=pytest.mark.slow)])
# torch looks for the `.grad` of every tensor that was saved.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
def test_a_gradient_of_a_gradient(case: str, backend: str) -> None:
    def second() -> list[Tensor]:
        y, leaves = calls(case, X.double())
        g = G.double().requires_grad_()
        first = torch.autograd.grad(y, leaves, g, create_graph=True)
        total = torch.stack([(gradient**2).sum() for gradient in first]).sum()
        return list(torch.autograd.grad(total, [*leaves, g], materialize_grads=True))

    expected = second()
    with compiled(backend):
        assert_same(second(), expected)


@EVERY_CASE
def test_compilers_see_operations_of_torch(case: str) -> None:
    targets: list[Any] = []

    def keep(graph: torch.fx.GraphModule, _: Any) -> Any:
        targets.extend(node.target for node in graph.graph.nodes if node.op == "call_function")
        return make_boxed_func(graph.forward)

    expected = gradients(case)
    with compiled(aot_autograd(fw_compiler=keep, bw_compiler=keep)):
        assert_same(gradients(case), expected)
    assert not [t for t in targets if getattr(t, "namespace", "aten") not in ("aten", "prims")]
