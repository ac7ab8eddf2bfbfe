"""fake_quantize_blocks, and the scales of blocks."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ste._arguments import (
    beside,
    check_is_floating,
    check_is_string,
    check_is_tensor,
    check_parameter,
    check_random,
    integer,
    tensor_parameter,
)
from ste._batching import logical, with_batch
from ste._fake_quantize_float import Numbers
from ste._float_format import FloatFormat, format_of
from ste._function import Rule, StraightThroughByRule
from ste._rounding import rounded

__all__ = ["fake_quantize_blocks_fn"]

RULES = ("absmax", "minmax", "floor", "ceil", "even", "rceil", "e4m3fn")


class Settings(NamedTuple):
    """The arguments that are not tensors.

    Attributes:
        format: The format, or None for integers.
        mantissa_bits: The format's; for integers of n bits n - 2, as in a format with the same largest number.
        max: The largest number of the grid.
        rule: How the scale of a block is computed from its numbers.
        block: The size of a block; -1: the whole of the dimension.
        dim: As it was given.
    """

    format: FloatFormat | None
    mantissa_bits: int
    max: float
    rule: str
    block: int
    dim: int

    @property
    def limit(self) -> float:
        """The power of two beyond max."""
        return 2.0 ** math.frexp(self.max)[1]


def settings_of(op: str, grid: Any, block: Any, rule: Any, dim: Any) -> Settings:
    """The settings, if they are valid."""
    check_is_string(op, "grid", grid)
    if not isinstance(block, torch.SymInt):
        block = integer(op, "block", block)
    check_is_string(op, "rule", rule)
    if not isinstance(dim, torch.SymInt):
        dim = integer(op, "dim", dim)
    format = None
    if len(grid) == 4 and grid.startswith("int") and grid[3] in "2345678":
        mantissa_bits = int(grid[3]) - 2
        largest = 2.0 ** (mantissa_bits + 1) - 1
    else:
        format = format_of(op, grid, "grid", "int2 to int8, ")
        mantissa_bits, largest = format.mantissa_bits, format.max
    if rule not in RULES:
        raise ValueError(f"{op}: rule must be one of {', '.join(RULES)}, got {rule}")
    if rule == "minmax" and format is not None:
        raise ValueError(f"{op}: rule minmax is for integers, but grid is {grid}")
    return Settings(format, mantissa_bits, largest, rule, block, dim)


def checked_settings(
    op: str, x: Tensor, grid: Any, block: Any, rule: Any, dim: Any, tensor_scale: Any
) -> tuple[Settings, Tensor | None]:
    """The settings and the tensor's scale, if all of the arguments are valid."""
    check_is_floating(op, "x", x)
    settings = settings_of(op, grid, block, rule, dim)
    if settings.block < 1 and settings.block != -1:
        raise ValueError(f"{op}: block must be at least 1, or None for the whole of dim, got {settings.block}")
    rank = max(x.dim(), 1)
    if not -rank <= settings.dim < rank:
        raise ValueError(f"{op}: dim={settings.dim}, but x has {x.dim()} dimension(s)")
    if tensor_scale is None:
        if rule == "e4m3fn":
            raise ValueError(f"{op}: rule e4m3fn needs tensor_scale")
        return settings, None
    tensor_scale = tensor_parameter(op, "tensor_scale", tensor_scale, x)
    check_is_tensor(op, "tensor_scale", tensor_scale)
    if rule != "e4m3fn":
        raise ValueError(f"{op}: tensor_scale is for rule e4m3fn, but rule is {rule}")
    check_parameter(op, "tensor_scale", tensor_scale, x)
    axis = (settings.dim if settings.dim < 0 else settings.dim - x.dim()) + tensor_scale.dim()
    if 0 <= axis < tensor_scale.dim() and tensor_scale.shape[axis] != 1:
        raise RuntimeError(f"{op}: tensor_scale varies along dim {settings.dim}, in which the blocks lie")
    return settings, beside(tensor_scale, x).detach()


class fake_quantize_blocks_fn(StraightThroughByRule):
    """Autograd class of :func:`ste.fake_quantize_blocks`."""

    is_pointwise = False

    @staticmethod
    def forward(
        x: Tensor,
        grid: str,
        block: int,
        rule: str,
        dim: int = -1,
        tensor_scale: Tensor | None = None,
        random: Tensor | None = None,
    ) -> Tensor:
        settings, scale = checked_settings("fake_quantize_blocks", x, grid, block, rule, dim, tensor_scale)
        check_random("fake_quantize_blocks", random, x)
        if x.numel() == 0:
            return x.round()
        return _lying_as(x, by_blocks(x, scale, settings, Blocks.values, random).to(x.dtype))

    @staticmethod
    def rule(
        x: Tensor,
        grid: str,
        block: int,
        rule: str,
        dim: int = -1,
        tensor_scale: Any = None,
        random: Tensor | None = None,
    ) -> tuple[Rule, tuple[Any, ...]]:
        settings, scale = checked_settings("fake_quantize_blocks", x, grid, block, rule, dim, tensor_scale)
        return partial(_passed, settings), (x, scale, None if random is None else random.detach())

    @classmethod
    def call_batched(
        cls, call: Callable[..., Tensor], batch_size: int, in_dims: Sequence[int | None], args: Sequence[Any]
    ) -> Tensor:
        # The dispatcher leaves out arguments that have their default values.
        defaults: list[Any] = [-1, None, None]
        x, grid, block, rule, dim, tensor_scale, random = [*args, *defaults[len(args) - 4 :]]
        scale_dim, random_dim = [*in_dims[5:], None, None][:2]
        shown = None if tensor_scale is None else logical(tensor_scale, scale_dim)
        settings, _ = checked_settings("fake_quantize_blocks", logical(x, in_dims[0]), grid, block, rule, dim, shown)
        if random is not None:
            check_random("fake_quantize_blocks", logical(random, random_dim), logical(x, in_dims[0]))
            random = with_batch(random, random_dim, batch_size)
        x = with_batch(x, in_dims[0], batch_size)
        # A sample without dimensions gets one, along which its block lies.
        has_none = x.dim() == 1
        rank = x.dim() - 1 + has_none
        if scale_dim is not None:
            assert shown is not None
            tensor_scale = tensor_scale.movedim(scale_dim, 0)
            tensor_scale = tensor_scale.reshape(batch_size, *[1] * (rank + 1 - tensor_scale.dim()), *shown.shape)
        if has_none:
            x, random = x.unsqueeze(1), None if random is None else random.unsqueeze(1)
        y = call(x, grid, block, rule, dim if settings.dim < 0 else dim + 1, tensor_scale, random)
        return y.squeeze(1) if has_none else y

    @staticmethod
    def symbolic(g: Any, x: Any, *_: Any) -> Any:
        from torch.onnx import errors

        raise errors.SymbolicValueError("fake_quantize_blocks: torch.onnx.export supports it only with dynamo=True", x)


def _passed(settings: Settings, g: Tensor, x: Tensor, tensor_scale: Tensor | None, random: Tensor | None) -> Tensor:
    """What the op makes of a gradient or a tangent."""
    x = x.detach()
    if x.numel() == 0:
        return g
    return torch.where(_lying_as(x, by_blocks(x, tensor_scale, settings, Blocks.is_inside, random)), g, 0)


def _lying_as(x: Tensor, result: Tensor) -> Tensor:
    """The result in x's memory format: concatenated pieces lie in the order of the dimensions, and x may not."""
    if x.is_contiguous() and result.is_contiguous():
        return result
    like_x = torch.empty_like(x, dtype=result.dtype)
    return result if result.stride() == like_x.stride() else like_x.copy_(result)


def has_no_block(x: Tensor, settings: Settings) -> bool:
    return x.dim() > 0 and x.shape[settings.dim] == 0


def by_blocks(
    x: Tensor,
    tensor_scale: Tensor | None,
    settings: Settings,
    function: Callable[["Blocks"], Tensor],
    random: Tensor | None = None,
) -> Tensor:
    """Apply the function to the blocks along a dimension, of which there is at least one.

    Whole blocks get a dimension of their own, and the rest at the end is a piece by itself: where an index is divided
    by a size that it is not a multiple of, torch 2.13's inductor generates wrong code for CPUs.
    """
    if x.dim() == 0:
        random = None if random is None else random.unsqueeze(0)
        return by_blocks(x.unsqueeze(0), tensor_scale, settings, function, random).squeeze(0)
    dim, block = settings.dim % x.dim(), settings.block
    length = x.shape[dim]
    if block < 0 or block >= length:
        return function(Blocks(x, tensor_scale, random, dim, settings))
    whole, rest = length // block, length % block
    scale_of_head = tensor_scale
    if tensor_scale is not None and dim - x.dim() + tensor_scale.dim() >= 0:
        scale_of_head = tensor_scale.unsqueeze(dim - x.dim() + tensor_scale.dim())

    def in_blocks(tensor: Tensor) -> Tensor:
        head = tensor if rest == 0 else tensor.narrow(dim, 0, whole * block)
        return head.reshape(*x.shape[:dim], whole, block, *x.shape[dim + 1 :])

    def at_end(tensor: Tensor) -> Tensor:
        return tensor.narrow(dim, whole * block, rest)

    def of_piece(piece: Callable[[Tensor], Tensor], scale: Tensor | None, axis: int) -> Tensor:
        return function(Blocks(piece(x), scale, None if random is None else piece(random), axis, settings))

    of_head = of_piece(in_blocks, scale_of_head, dim + 1).flatten(dim, dim + 1)
    return of_head if rest == 0 else torch.cat((of_head, of_piece(at_end, tensor_scale, dim)), dim)


class Blocks:
    """Blocks that are each the whole of x along an axis, in the dtype of the computation.

    Attributes:
        scale: One for each block.
        zero_point: One for each block with the rule minmax, else None.
    """

    zero_point: Tensor | None = None

    def __init__(
        self, x: Tensor, tensor_scale: Tensor | None, random: Tensor | None, axis: int, settings: Settings
    ) -> None:
        self._settings = settings
        self._dtype = torch.promote_types(x.dtype, torch.float32)
        wide = x.to(self._dtype)
        if settings.rule == "minmax":
            low = wide.amin(axis, keepdim=True).clamp(max=0)
            high = wide.amax(axis, keepdim=True).clamp(min=0)
            self.scale = (high - low) / self._constant(2 * settings.limit - 1, x)
            divisor = self._divisor()
            zero_point = (-low / divisor).round() - settings.limit
            self.zero_point = zero_point.clamp(-settings.limit, settings.limit - 1)
        else:
            self.scale = self._scale(wide.abs().amax(axis, keepdim=True), tensor_scale)
            divisor = self._divisor()
        self._scaled = wide / divisor
        self._random = random

    def values(self) -> Tensor:
        if self._settings.format is not None:
            q = self._rounded_to(self._settings.format)[1]
        else:
            clamped = self._integers()[1]
            # There is no -0. (Adding 0 would do too, but exporters drop the addition of a constant 0.)
            q = torch.where(clamped == 0, 0, clamped) if self.zero_point is None else clamped - self.zero_point
        return q * self.scale

    def is_inside(self) -> Tensor:
        """Where the gradient goes to x."""
        if self._settings.format is not None:
            return self._rounded_to(self._settings.format)[0] <= self._settings.max
        shifted, clamped = self._integers()
        return shifted == clamped

    def _rounded_to(self, format: FloatFormat) -> tuple[Tensor, Tensor]:
        return Numbers(format, True, self._dtype).round(self._scaled, self._random)

    def _integers(self) -> tuple[Tensor, Tensor]:
        """The integers, before and after the clamp."""
        steps = rounded(self._scaled, self._random)
        shifted = steps if self.zero_point is None else steps + self.zero_point
        low = -self._settings.max if self.zero_point is None else -self._settings.limit
        return shifted, shifted.clamp(low, self._settings.max)

    def _constant(self, value: float, beside: Tensor) -> Tensor:
        """A tensor, because CUDA multiplies by the reciprocal to divide by a number."""
        return torch.scalar_tensor(value, dtype=self._dtype, device=beside.device)

    def _divisor(self) -> Tensor:
        """The scale, or infinity where it is 0, so that the block's numbers are 0."""
        return torch.where(self.scale == 0, math.inf, self.scale)

    def _scale(self, largest: Tensor, tensor_scale: Tensor | None) -> Tensor:
        settings = self._settings
        scale = largest / self._constant(settings.max, largest)
        if settings.rule == "e4m3fn":
            assert tensor_scale is not None
            wide = tensor_scale.to(self._dtype)
            e4m3fn = Numbers(format_of("fake_quantize_blocks", "e4m3fn"), True, self._dtype)
            scale = torch.where(scale == 0, 0, e4m3fn.round(scale / wide, None)[1] * wide)
        elif settings.rule == "rceil":
            scale = self._power_of_two(scale, 1.0)
        elif settings.rule != "absmax":
            scale = self._power_of_two(largest, 2 / settings.limit)
        return torch.where(largest == 0, 0, torch.where(largest == largest, scale, math.nan))

    def _power_of_two(self, number: Tensor, unit: float) -> Tensor:
        """The largest power of two within a number, or twice that from some fraction on, in units of the grid.

        It is found by comparisons: first with every sixteenth power, then with those in between. An infinity counts as
        twice the largest power.
        """
        is_double = self._dtype == torch.float64
        raised_from = {
            "floor": 2.0,
            "even": 2 - 2.0 ** (-self._settings.mantissa_bits - 1),
        }.get(self._settings.rule, 1 + torch.finfo(self._dtype).eps)

        def constant(value: float) -> Tensor:
            return self._constant(value, number)

        is_small = number < 2.0**-100  # and may be subnormal
        normal = number * torch.where(is_small, constant(2.0**100), constant(1.0))
        first, last = (-206, 206) if is_double else (-126, 114)
        coarse = constant(2.0**first)
        for exponent in range(first + 16, last + 1, 16):
            coarse = torch.where(normal >= 2.0**exponent, 2.0**exponent, coarse)
        power = coarse
        for exponent in range(1, 16):
            larger = coarse * 2.0**exponent
            power = torch.where(normal >= larger, larger, power)
        power = power.clamp(max=2.0**206 if is_double else 2.0**127)
        units = torch.where(normal >= power * raised_from, constant(2 * unit), constant(unit))
        scale = power * units * torch.where(is_small, constant(2.0**-100), constant(1.0))
        return scale.clamp(2.0**-127, 2.0**127)
