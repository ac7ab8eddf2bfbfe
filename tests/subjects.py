"""The subjects of the matrix: our ops, or what people use today. The same rows run with each.

STE_MATRIX_SUBJECT says which: `ste` (the default), `idiom` or `function`.
"""

import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import op_table
import plain
import torch
from torch import Tensor
from torch.autograd import Function

import ste

Functions = dict[str, Callable[..., Any]]


class Clamp(Function):
    """The gradients of a clamp to all three arguments."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, min_val: Tensor, max_val: Tensor) -> Tensor:
        return x.clamp(min_val, max_val)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, ...]:
        x, min_val, max_val = ctx.saved_tensors
        to_max = (x > max_val) | (min_val > max_val)
        to_min = (x < min_val) & ~to_max
        return (
            torch.where((min_val <= x) & (x <= max_val), g, 0),
            torch.where(to_min, g, 0).sum_to_size(min_val.shape),
            torch.where(to_max, g, 0).sum_to_size(max_val.shape),
        )


def idiom_fake_quantize(
    x: Tensor,
    scale: Tensor,
    zero_point: Tensor | None,
    quant_min: int,
    quant_max: int,
    grad_scale: float = 1.0,
    inside: str = "rounded",
) -> Tensor:
    def learned(parameter: Any) -> Any:
        """LSQ's factor: the value of the parameter, with its gradient times the factor."""
        if not isinstance(parameter, Tensor):
            return parameter
        return parameter.detach() + (parameter * grad_scale - (parameter * grad_scale).detach())

    scale = learned(scale)
    shift: Any = 0 if zero_point is None else learned(zero_point)
    scaled = x / scale
    if inside == "scaled":  # as in LSQ's pseudocode: the clamp comes first
        shifted = (scaled + shift).clamp(quant_min, quant_max)
        q = shifted + ((shifted - shift).round() + shift - shifted).detach()
    else:
        q = (scaled + (scaled.round() - scaled).detach() + shift).clamp(quant_min, quant_max)
    y: Tensor = (q - shift) * scale
    return y


class FakeQuantize(Function):
    """LSQ, as people write it."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        x: Tensor,
        scale: Tensor,
        zero_point: Tensor | None,
        quant_min: int,
        quant_max: int,
        grad_scale: float = 1.0,
        inside: str = "rounded",
    ) -> Tensor:
        shift = 0 if zero_point is None else zero_point
        return (((x / scale).round() + shift).clamp(quant_min, quant_max) - shift) * scale

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(*inputs[:3])
        ctx.ends, ctx.grad_scale, ctx.inside = inputs[3:5], inputs[5], inputs[6]

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        x, scale, zero_point = ctx.saved_tensors
        shift = 0 if zero_point is None else zero_point
        shifted = (x / scale).round() + shift
        exact = x / scale + shift
        inside = (
            (exact > ctx.ends[0]) & (exact < ctx.ends[1])
            if ctx.inside == "scaled"
            else (shifted >= ctx.ends[0]) & (shifted <= ctx.ends[1])
        )
        slope = shifted.clamp(*ctx.ends) - shift - torch.where(inside, x / scale, 0)
        to_zero_point = torch.where(inside, 0, -g * scale)
        return (
            torch.where(inside, g, 0),
            (g * slope).sum_to_size(scale.shape) * ctx.grad_scale,
            None if zero_point is None else to_zero_point.sum_to_size(zero_point.shape) * ctx.grad_scale,
            *(None, None, None, None),
        )


def function_fake_quantize(x: Tensor, *arguments: Any) -> Any:
    return FakeQuantize.apply(x, *arguments)  # type: ignore[no-untyped-call]  # so it is in torch


def float_grid(scaled: Tensor, format: str) -> tuple[Tensor, float]:
    """Round x to the format as if it had no largest number; and the format's largest number."""
    mantissa_bits, bias, largest = op_table.FLOAT_FORMATS[format]
    exponent = (torch.frexp(scaled).exponent - 1).clamp(min=1 - bias)
    step = torch.exp2((exponent - mantissa_bits).to(scaled.dtype))
    return (scaled / step).round() * step, largest


def idiom_fake_quantize_float(x: Tensor, scale: Tensor, format: str, *_: Any) -> Tensor:
    scaled = x / scale
    rounded, largest = float_grid(scaled.detach(), format)
    y: Tensor = (scaled + (rounded - scaled).detach()).clamp(-largest, largest) * scale
    return y


class FakeQuantizeFloat(Function):
    """The same, as people write it."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, scale: Tensor, format: str) -> Tensor:
        rounded, largest = float_grid(x / scale, format)
        return rounded.clamp(-largest, largest) * scale

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(*inputs[:2])
        ctx.format = inputs[2]

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        x, scale = ctx.saved_tensors
        rounded, largest = float_grid(x / scale, ctx.format)
        inside = rounded.abs() <= largest
        slope = rounded.clamp(-largest, largest) - torch.where(inside, x / scale, 0)
        return torch.where(inside, g, 0), (g * slope).sum_to_size(scale.shape), None


def function_fake_quantize_float(x: Tensor, *arguments: Any) -> Any:
    return FakeQuantizeFloat.apply(x, *arguments)  # type: ignore[no-untyped-call]  # so it is in torch


def float_blocks(x: Tensor, grid: str, block: int) -> tuple[Tensor, Tensor]:
    """The blocks, and their scales with the rule floor, as people write it: with a logarithm."""
    blocks = x.reshape(-1, block)
    exponent = torch.floor(torch.log2(blocks.detach().abs().amax(-1, keepdim=True)))
    return blocks, torch.exp2(exponent - math.floor(math.log2(op_table.FLOAT_FORMATS[grid][2])))


def idiom_fake_quantize_blocks(x: Tensor, grid: str, block: int, rule: str) -> Tensor:
    blocks, scale = float_blocks(x, grid, block)
    return idiom_fake_quantize_float(blocks, scale, grid).reshape(x.shape)


class FakeQuantizeBlocks(Function):
    """The same, as people write it."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, grid: str, block: int, rule: str) -> Tensor:
        blocks, scale = float_blocks(x, grid, block)
        rounded, largest = float_grid(blocks / scale, grid)
        return (rounded.clamp(-largest, largest) * scale).reshape(x.shape)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(inputs[0])
        ctx.grid, ctx.block = inputs[1:3]

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        (x,) = ctx.saved_tensors
        blocks, scale = float_blocks(x, ctx.grid, ctx.block)
        rounded, largest = float_grid(blocks / scale, ctx.grid)
        return torch.where((rounded.abs() <= largest).reshape(x.shape), g, 0), None, None, None


def function_fake_quantize_blocks(x: Tensor, *arguments: Any) -> Any:
    return FakeQuantizeBlocks.apply(x, *arguments)  # type: ignore[no-untyped-call]  # so it is in torch


def function_clamp(x: Tensor, min_val: Tensor, max_val: Tensor) -> Any:
    return Clamp.apply(x, min_val, max_val)  # type: ignore[no-untyped-call]  # so it is in torch


def idiom_binary_sign(x: Tensor, low: float = 0.0, surrogate: str = "identity", alpha: Tensor | None = None) -> Tensor:
    """The clipped surrogate."""
    soft = x if alpha is None else x.clamp(-alpha, alpha)
    return soft + (torch.where(x >= 0, 1.0, low).to(x.dtype) - soft).detach()


class BinarySign(Function):
    """The same, as people write it."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, low: float = 0.0, surrogate: str = "identity", alpha: Tensor | None = None) -> Tensor:
        return torch.where(x >= 0, 1.0, low).to(x.dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(inputs[0], inputs[3])

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        x, alpha = ctx.saved_tensors
        return g if alpha is None else torch.where(x.abs() <= alpha, g, 0), None, None, None


def function_binary_sign(x: Tensor, *arguments: Any) -> Any:
    return BinarySign.apply(x, *arguments)  # type: ignore[no-untyped-call]  # so it is in torch


# Written by hand: ops that are not straight-through for all arguments.
IDIOM: Functions = {
    **plain.IDIOM,
    "binary_sign_ste": idiom_binary_sign,
    "tensor_clamp": torch.clamp,
    "fake_quantize": idiom_fake_quantize,
    "fake_quantize_float": idiom_fake_quantize_float,
    "fake_quantize_blocks": idiom_fake_quantize_blocks,
}
CLASSES: dict[str, type[Function]] = {
    **plain.CLASSES,
    "binary_sign_ste": BinarySign,
    "tensor_clamp": Clamp,
    "fake_quantize": FakeQuantize,
    "fake_quantize_float": FakeQuantizeFloat,
    "fake_quantize_blocks": FakeQuantizeBlocks,
}
FUNCTION: Functions = {
    **plain.FUNCTION,
    "binary_sign_ste": function_binary_sign,
    "tensor_clamp": function_clamp,
    "fake_quantize": function_fake_quantize,
    "fake_quantize_float": function_fake_quantize_float,
    "fake_quantize_blocks": function_fake_quantize_blocks,
}


def control(x: Tensor, *_: Any, **__: Any) -> Tensor:
    """An operation of torch. If it fails too, our op is not at fault."""
    return x.clone()


SUBJECTS: dict[str, Functions] = {
    "ste": {op.name: op.function for op in op_table.DISTINCT_OPS},
    "idiom": IDIOM,
    "function": FUNCTION,
    "control": {op.name: control for op in op_table.DISTINCT_OPS},
}
subject = os.environ.get("STE_MATRIX_SUBJECT", "ste")


def column() -> str:
    """The column of the table that this run fills: the backend, or what replaces it."""
    return str(ste.backend().name) if subject == "ste" else subject


@contextmanager
def standing_in(name: str) -> Iterator[None]:
    global subject
    before, subject = subject, name
    # Processes that a row starts look it up here.
    os.environ["STE_MATRIX_SUBJECT"] = name
    try:
        yield
    finally:
        subject = before
        os.environ["STE_MATRIX_SUBJECT"] = before


@dataclass(frozen=True)
class Op(op_table.Op):
    """A row of the table of ops, with the subject instead of the op."""

    @property
    def function(self) -> Callable[..., Tensor]:
        return SUBJECTS[subject][self.name]

    def expected(self, x: Tensor) -> Tensor:
        return x.detach().clone() if subject == "control" else super().expected(x)

    def gradient(self, x: Tensor, g: Tensor) -> Tensor:
        return g if subject == "control" else super().gradient(x, g)

    def parameter_gradients(self, x: Tensor, g: Tensor) -> list[Tensor]:
        return [] if subject == "control" else super().parameter_gradients(x, g)

    def slope(self, x: Tensor) -> Tensor:
        return self.gradient(x.detach(), torch.ones_like(x, requires_grad=False))

    __str__ = op_table.Op.__str__


OPS = [Op(**vars(op)) for op in op_table.OPS]
WITH_PARAMETERS = [op for op in OPS if op.slopes is not None]
STRAIGHT_THROUGH_OPS = [op for op in OPS if op.straight_through]
DISTINCT_OPS = list({op.name: op for op in OPS}.values())

# Multiples of 1/4, on which the idiom is exact, and none of them at a bound, so that the rows about transforms test
# only transforms. Inexact values and values at a bound have their own rows.
X = torch.tensor([-3.25, -0.75, 0.5, 1.75])


def every_op(power: int) -> Callable[[Tensor], Any]:
    """All ops in one function, the sum of 2**(n - 1 - i) op_i(x)**power, for tests that are too slow for each op.

    Each op has its own binary digit, so that errors cannot cancel. Everything is exact in float64.
    """

    def function(x: Tensor) -> Any:
        total = OPS[0](x) ** power
        for op in OPS[1:]:
            # Not 2 * total: Dynamo fails if a constant multiplies inside nested forward mode, as in
            # jacfwd(jacfwd(lambda t: 2.0 * t)).
            total = total + total + op(x) ** power
        return total

    return function


def expected_of_every_op(power: int, order: int, x: Tensor) -> Tensor:
    """Its derivative of that order, given that the derivative of each op is its slope, a constant."""
    total = torch.zeros_like(x)
    for op in OPS:
        derivative = math.perm(power, order) * op.expected(x) ** (power - order) * (op.slope(x) if order else 1)
        total = 2 * total + derivative
    return total
