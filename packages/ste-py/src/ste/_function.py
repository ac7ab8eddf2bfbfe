"""What the autograd classes of the ops share."""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch._C import _are_functorch_transforms_active
from torch.autograd import Function, forward_ad
from torch.autograd.function import FunctionMeta

from ste._arguments import FLOATING
from ste._batching import batch_first


class _OpMeta(FunctionMeta):
    """Keeps Dynamo from taking the classes for Functions.

    Dynamo traces into a Function, and torch.func.grad over the result is zero, without an error. Other classes it calls
    as they are written, and so gets to `apply`.
    """


class ElementwiseFunction(Function, metaclass=_OpMeta):
    """A Function of x and of what broadcasts to x's shape.

    Attributes:
        traced: The op, as compilers call it.
        is_pointwise: Whether each element of the result depends only on the same element of x.
    """

    traced: ClassVar[Callable[..., Tensor]]
    is_pointwise: ClassVar[bool] = True

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)

        # A function, not a method: Dynamo sees that the owner of a bound method is a Function.
        def apply(*args: Any) -> Any:
            if torch.compiler.is_dynamo_compiling():
                return cls.traced(*args)
            return super(ElementwiseFunction, cls).apply(*cls.differentiated(*args))  # type: ignore[no-untyped-call]

        cls.apply = staticmethod(apply)  # type: ignore[method-assign]

    @staticmethod
    def differentiated(*args: Any) -> tuple[Any, ...]:
        """The arguments, with those that get no gradient detached."""
        return args

    @classmethod
    def batched(cls, batch_size: int, in_dims: Sequence[int | None], args: Sequence[Any]) -> list[Any]:
        """Arguments on which the op gives the batched result, with the batch as its first dimension."""
        return batch_first(cls.__name__.removesuffix("_fn"), cls.forward, batch_size, in_dims, args)

    @classmethod
    def call_batched(
        cls, call: Callable[..., Tensor], batch_size: int, in_dims: Sequence[int | None], args: Sequence[Any]
    ) -> Tensor:
        """The batched result of the op, computed with `call`, with the batch as its first dimension."""
        return call(*cls.batched(batch_size, in_dims, args))

    @classmethod
    def vmap(cls, info: Any, in_dims: tuple[int | None, ...], *args: Any) -> tuple[Tensor, int]:
        return cls.call_batched(cls.apply, info.batch_size, in_dims, args), 0


# Maps a gradient or a tangent, with what was saved, to that on the other side of the op. None leaves it as it is.
Rule = Callable[..., Tensor] | None


class StraightThrough(ElementwiseFunction):
    """The gradient to x is the incoming one, or follows from it by a rule; other arguments get None.

    Attributes:
        place: The index of x among the arguments.
    """

    place: ClassVar[int] = 0

    @staticmethod
    def rule(*args: Any) -> tuple[Rule, tuple[Any, ...]]:
        """The rule, and what must be saved for it, for valid arguments."""
        return None, ()

    @staticmethod
    def differentiated(*args: Any) -> tuple[Any, ...]:
        return without_gradient_to_bounds(*args)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Nothing is saved."""

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        return g, None, None  # one for each argument that any of these ops has; autograd drops the surplus

    @staticmethod
    def jvp(ctx: Any, x_tangent: Tensor, *_: Any) -> Tensor:
        return x_tangent


class StraightThroughByRule(StraightThrough):
    """A straight-through op that may have a rule."""

    @classmethod
    def setup_context(cls, ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.rule, saved = cls.rule(*inputs)
        if saved:  # saving nothing takes time too
            ctx.save_for_backward(*saved)
            ctx.save_for_forward(*saved)

    @classmethod
    def backward(cls, ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        return cls.jvp(ctx, g), *(None, None, None, None, None, None)  # as above

    @staticmethod
    def jvp(ctx: Any, x_tangent: Tensor, *_: Any) -> Tensor:
        return x_tangent if ctx.rule is None else ctx.rule(x_tangent, *ctx.saved_tensors)


def without_gradient_to_bounds(x: Any, *bounds: Any) -> tuple[Any, ...]:
    """The arguments, detached such that the result requires grad exactly when x does.

    Function.mark_non_differentiable does not work here: it refuses forward mode in x.
    """
    return x, *(b.detach() if isinstance(b, Tensor) and b.requires_grad else b for b in bounds)


def sum_to(parameter: Tensor, change: Tensor, factor: Any = 1) -> Tensor:
    """The gradient of a parameter that broadcasts, summed from the change at each element of x."""
    summed: Any = change.sum() if parameter.dim() > change.dim() else change.sum_to_size(parameter.shape)
    gradient: Tensor = summed * factor
    # Saved-tensor hooks may have converted the parameter to integers, which its gradient is not.
    dtype = parameter.dtype if parameter.dtype in FLOATING else gradient.dtype
    return gradient.reshape(parameter.shape).to(dtype=dtype, device=parameter.device)


def may_be_differentiated(*tensors: Tensor) -> bool:
    return (
        _are_functorch_transforms_active()
        or forward_ad._current_level >= 0
        or (torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors))
    )


def onnx_is_none(value: Any) -> bool:
    return bool(value.type().kind() == "NoneType")


def onnx_like(g: Any, x: Any, value: Any) -> Any:
    """A number or a value of the graph, in x's dtype."""
    constant = g.op("Constant", value_t=torch.tensor(value)) if isinstance(value, float) else value
    return g.op("CastLike", constant, x)
