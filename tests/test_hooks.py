"""Saved-tensor hooks that return something other than what was saved: never a crash, and no gradient is cut off."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from bits import assert_same_bits
from torch import Tensor

import ste

# Integers and a power of two, which every dtype here can represent.
X = torch.tensor([[0.0, 1.0, 2.0, -6.0, 6.0], [1.0, 0.0, 3.0, 4.0, -3.0]])
CASES: dict[str, tuple[Callable[..., Tensor], tuple[Tensor, ...]]] = {
    "tensor_clamp": (ste.tensor_clamp, (X, torch.tensor(-3.0), torch.tensor([1.0, 1.0, 1.0, 1.0, 2.0]))),
    "fake_quantize": (
        lambda x, scale, zero_point: ste.fake_quantize(x, scale, zero_point, -2, 1, grad_scale=0.25),
        (X, torch.tensor(2.0), torch.tensor([1.0, 1.0, 0.0, 1.0, 1.0])),
    ),
    "fake_quantize, no zero point": (
        lambda x, scale: ste.fake_quantize(x, scale, None, -2, 1, grad_scale=0.25),
        (X, torch.tensor([2.0, 2.0, 1.0, 2.0, 2.0])),
    ),
    "fake_quantize_float": (
        lambda x, scale: ste.fake_quantize_float(x, scale, "e2m1fn", grad_scale=0.25),
        (X, torch.tensor([2.0, 2.0, 1.0, 2.0, 4.0])),
    ),
    "fake_quantize_blocks": (lambda x: ste.fake_quantize_blocks(x, "e2m1fn", 2, "floor"), (X,)),
}
of_class: Any = ste.autograd_ops.fake_quantize_fn
CLASSES: dict[str, Callable[..., Tensor]] = {
    "tensor_clamp": ste.autograd_ops.tensor_clamp_fn.apply,
    "fake_quantize": lambda *t: of_class.apply(*t, -2, 1, 0.25),
    "fake_quantize, no zero point": lambda *t: of_class.apply(*t, None, -2, 1, 0.25),
    "fake_quantize_float": lambda *t: ste.autograd_ops.fake_quantize_float_fn.apply(*t, "e2m1fn", 0.25),  # type: ignore[no-untyped-call]
    "fake_quantize_blocks": lambda x: ste.autograd_ops.fake_quantize_blocks_fn.apply(x, "e2m1fn", 2, "floor"),  # type: ignore[no-untyped-call]
}
G = (torch.arange(X.numel()).reshape(X.shape) - 5) / 4
EVERY_CASE = pytest.mark.parametrize("case", CASES)


def gradients(case: str, unpack: Callable[[int, Tensor], Tensor], device: str, **options: Any) -> tuple[Tensor, ...]:
    """The gradients to all arguments; `unpack` gets the position of each saved tensor."""
    name = case.removeprefix("the class: ")
    function, arguments = CASES[name]
    function = function if name == case else CLASSES[name]
    leaves = [t.to(device).clone().requires_grad_() for t in arguments]
    # For a leaf, torch itself refuses to unpack a tensor that cannot require a gradient.
    inner = [leaf.clone() for leaf in leaves]
    positions = {tensor.data_ptr(): i for i, tensor in enumerate(inner)}

    def unpacked(packed: tuple[int, Tensor]) -> Tensor:
        return unpack(*packed)

    def packed(tensor: Tensor) -> tuple[int, Tensor]:
        return positions[tensor.data_ptr()], tensor.detach()

    with torch.autograd.graph.saved_tensors_hooks(packed, unpacked):
        y = function(*inner)
    return torch.autograd.grad(y, leaves, G.to(device), **options)


def subsets(case: str) -> Iterator[set[int]]:
    count = len(CASES[case][1])
    yield set(range(count))
    yield from ({i} for i in range(count))


@EVERY_CASE
@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int8], ids=str
)
@pytest.mark.parametrize("create_graph", [False, True])
def test_another_dtype(case: str, dtype: torch.dtype, create_graph: bool, device: str) -> None:
    expected = gradients(case, lambda _, t: t, device)
    assert len(expected) == 1 or any((gradient % 1).any() for gradient in expected[1:])  # something to cut off
    for changed in subsets(case):
        found = gradients(
            case,
            lambda i, t: t.to(dtype) if i in changed else t,  # noqa: B023
            device,
            create_graph=create_graph,
        )
        for actual, wanted in zip(found, expected):
            assert_same_bits(actual, wanted)


@EVERY_CASE
@pytest.mark.parametrize("dtype", [torch.bool, torch.float8_e4m3fn, torch.complex64, torch.uint8, torch.int16], ids=str)
@pytest.mark.filterwarnings("ignore:Casting complex values to real discards the imaginary part")
def test_a_dtype_that_does_not_hold_the_values(case: str, dtype: torch.dtype, device: str) -> None:
    """Gradients for what the hook returned, or torch's own error."""
    for changed in subsets(case):
        try:
            found = gradients(case, lambda i, t: t.to(dtype) if i in changed else t, device)  # noqa: B023
        except (RuntimeError, TypeError):  # NotImplementedError is one
            assert dtype in (torch.float8_e4m3fn, torch.complex64)
            continue
        for gradient, argument in zip(found, CASES[case][1]):
            assert gradient.shape == argument.shape and gradient.dtype == argument.dtype
            assert gradient.isfinite().all() or dtype == torch.bool  # a scale that is False is 0


@EVERY_CASE
@pytest.mark.parametrize(
    "change",
    [
        lambda t: t[..., :3],
        lambda t: t.flatten(),
        lambda t: t.expand(4, 2, *t.shape[1:]),
        lambda t: t.reshape(-1)[:0],
        lambda t: t[:1],
        lambda t: t.flatten()[:1],
        lambda t: t.reshape(1, -1),
    ],
    ids=["shorter", "flat", "larger", "empty", "one row", "one element", "one more dimension"],
)
def test_another_shape(case: str, change: Callable[[Tensor], Tensor], device: str) -> None:
    """An error or, if the shape still broadcasts, the gradients for what the hook returned, summed by autograd."""

    def outcome(wanted: str) -> list[list[Tensor] | None]:
        found: list[list[Tensor] | None] = []
        for changed in subsets(case):
            try:
                found.append([*gradients(wanted, lambda i, t: change(t) if i in changed else t, device)])  # noqa: B023
            except (RuntimeError, IndexError):
                found.append(None)
        return found

    for actual, expected in zip(outcome(case), outcome(f"the class: {case}")):
        assert (actual is None) == (expected is None)
        for one, other, argument in zip(actual or [], expected or [], CASES[case][1]):
            assert one.shape == argument.shape
            assert_same_bits(one, other)


@EVERY_CASE
def test_another_device(case: str, device: str) -> None:
    for changed in subsets(case):
        with pytest.raises(RuntimeError):
            sum(t.sum() for t in gradients(case, lambda i, t: t.to("meta") if i in changed else t, device)).item()  # type: ignore[union-attr]  # noqa: B023


@pytest.mark.skipif(ste.backend().name != "native", reason="of the native backend's nodes")
@EVERY_CASE
@pytest.mark.parametrize("dtype", [torch.int32, torch.bool, torch.float64], ids=str)
def test_a_node_called_with_any_gradient(case: str, dtype: torch.dtype, device: str) -> None:
    """Autograd calls a node with a gradient of its result's dtype and shape; a manual call may not."""
    function, arguments = CASES[case]
    leaves = [t.to(device).clone().requires_grad_() for t in arguments]
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t.detach(), lambda t: t.to(dtype)):
        y = function(*(leaf.clone() for leaf in leaves))
    node: Any = y.grad_fn
    ones = torch.ones(X.shape, dtype=dtype, device=device)
    with torch.no_grad():
        found = node(ones)
    to_x = found[0] if isinstance(found, tuple) else found
    assert to_x.shape == X.shape
