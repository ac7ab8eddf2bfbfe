"""Tensor subclasses keep their type and their gradient."""

from typing import Any, ClassVar

import pytest
import torch
from op_table import DISTINCT_OPS, OPS, Op
from packaging.version import Version
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import ste

TORCH = Version(torch.__version__)
EVERY_OP = pytest.mark.parametrize("op", OPS, ids=str)


class Tagged(Tensor):
    """A subclass that checks only that ops return it again."""


class Recorder(Tensor):
    """A subclass that records the functions that get it."""

    calls: ClassVar[list[Any]] = []

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        cls.calls.append(func)
        return super().__torch_function__(func, types, args, kwargs or {})  # type: ignore[no-untyped-call]


@EVERY_OP
def test_subclass_keeps_type_and_gradient(op: Op, device: str) -> None:
    x = torch.tensor([-3.3, 0.4, 1.7], device=device).as_subclass(Tagged).requires_grad_()
    y = op(x)
    assert type(y) is Tagged
    assert torch.equal(y.as_subclass(Tensor), op(x.as_subclass(Tensor)))
    (gradient,) = torch.autograd.grad(y.sum(), x)
    plain = x.detach().as_subclass(Tensor).requires_grad_()
    assert torch.equal(gradient.as_subclass(Tensor), *torch.autograd.grad(op(plain).sum(), plain))


@EVERY_OP
def test_torch_function_is_told_of_the_public_function(op: Op) -> None:
    x = torch.tensor([-3.3, 0.4]).as_subclass(Recorder)
    arguments = op.arguments_for(x.as_subclass(Tensor))
    Recorder.calls.clear()
    op.function(x, *arguments)
    assert op.public in Recorder.calls


@pytest.mark.parametrize("name", ["tensor_clamp", "tensor_clamp_ste"])
def test_torch_function_of_a_bound(name: str) -> None:
    y = getattr(ste, name)(torch.zeros(2), torch.ones(2).as_subclass(Tagged), torch.ones(2))
    assert type(y) is Tagged


@EVERY_OP
def test_torch_function_mode(op: Op) -> None:
    seen = []

    class Mode(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            seen.append(func)
            return func(*args, **(kwargs or {}))

    x = torch.tensor([-3.3, 0.4])
    arguments = op.arguments_for(x)
    with Mode():
        y = op.function(x, *arguments)
    assert op.public in seen
    assert torch.equal(y, op(x))


@EVERY_OP
def test_torch_dispatch_mode(op: Op) -> None:
    seen = []

    class Mode(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            seen.append(func)
            return func(*args, **(kwargs or {}))

    x = torch.tensor([-3.3, 0.4], requires_grad=True)
    arguments = op.arguments_for(x.detach())
    with Mode():  # type: ignore[no-untyped-call]
        y = op.function(x, *arguments)
    if op.straight_through or ste.backend().name == "native":  # the fallback's tensor_clamp is a composition
        assert op.overload in seen
    assert y.requires_grad


@EVERY_OP
def test_parameter(op: Op) -> None:
    parameter = torch.nn.Parameter(torch.tensor([-3.3, 0.4]))
    y = op(parameter)
    assert type(y) is Tensor
    y.sum().backward()
    assert parameter.grad is not None


@pytest.mark.skipif(
    not torch.backends.cuda.is_built() or Version("2.13") > TORCH,
    reason="a CPU build of torch, and torch 2.6 on a machine without a GPU, abort the process here, for torch.sin too",
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("op", DISTINCT_OPS, ids=str)
def test_fake_cuda_tensors_take_the_cuda_autograd_key(op: Op, dtype: torch.dtype) -> None:
    with torch._subclasses.FakeTensorMode():
        x = torch.empty(4, 3, device="cuda", dtype=dtype, requires_grad=True)
        y = op(x)
        assert y.device.type == "cuda" and y.shape == x.shape and y.dtype == dtype and y.requires_grad
        if ste.backend().name == "native":
            # The node itself, because the engine requires a device that exists.
            node: Any = y.grad_fn
            nodes = ("StraightThrough", "TensorClamp", "FakeQuantize", "FakeQuantizeFloat", "FakeQuantizeBlocks")
            assert node.name().removesuffix("Backward") in nodes
            gradients = node(torch.empty_like(y))
            to_x = gradients[0] if isinstance(gradients, tuple) else gradients
            assert to_x.device.type == "cuda" and to_x.shape == x.shape and to_x.dtype == dtype
