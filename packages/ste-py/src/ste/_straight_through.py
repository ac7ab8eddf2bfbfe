"""straight_through: the value of one tensor, the gradient of another."""

from collections.abc import Sequence
from functools import partial
from typing import Any

from torch import Tensor

from ste._arguments import check_hard_and_soft
from ste._batching import batch_of_one_shape
from ste._function import StraightThrough, onnx_like, without_gradient_to_bounds

__all__ = ["straight_through_fn"]


class straight_through_fn(StraightThrough):
    """Autograd class of :func:`ste.straight_through`."""

    place = 1

    @staticmethod
    def forward(hard: Tensor, soft: Tensor) -> Tensor:
        check_hard_and_soft("straight_through", hard, soft)
        # A copy in either case: if hard is not floating-point, its dtype is not soft's.
        return hard.clone() if hard.is_floating_point() else hard.to(soft.dtype)

    @staticmethod
    def differentiated(*args: Any) -> tuple[Any, ...]:
        hard, soft = args
        soft, hard = without_gradient_to_bounds(soft, hard)
        return hard, soft

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.dtype = output.dtype

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        return None, g  # autograd casts it to soft's dtype

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        tangent: Tensor = tangents[1].to(ctx.dtype)
        return tangent

    @classmethod
    def batched(cls, batch_size: int, in_dims: Sequence[int | None], args: Sequence[Any]) -> list[Any]:
        return batch_of_one_shape(partial(check_hard_and_soft, "straight_through"), batch_size, in_dims, args)

    @staticmethod
    def symbolic(g: Any, hard: Any, soft: Any) -> Any:
        is_floating = hard.type().scalarType() in ("Double", "Float", "Half", "BFloat16")
        return g.op("Identity", hard) if is_floating else onnx_like(g, soft, hard)
