"""Floating-point formats, and blocks with a scale of their own."""

import torch
from torch import Tensor, nn

from ste._float_format import FloatFormat, Format
from ste.blocks import BLOCK_RECIPES, block_scale, block_zero_point, fake_quantize_blocks
from ste.nn._scaled import ScaledQuantizer, largest_of
from ste.quantization import fake_quantize_float, quantize

__all__ = ["BlockQuantizer", "FloatQuantizer"]


class FloatQuantizer(ScaledQuantizer):
    """Quantize to a floating-point format of few bits, times a scale: :func:`ste.fake_quantize_float`.

    Args:
        format: A name, or a :class:`ste.FloatFormat`.
        scale: As in :class:`IntegerQuantizer`, with the largest number of the format in the place of the largest
            integer. A learned one is at first that of ``"absmax"``.
        saturate: Whether what is beyond that becomes that.
        axis: As in :class:`IntegerQuantizer`.
        channels: As in :class:`IntegerQuantizer`.
        momentum: As in :class:`IntegerQuantizer`.
        percentile: As in :class:`IntegerQuantizer`.
        device: Of what is kept.
        dtype: Of what is kept.

    Raises:
        ValueError: An argument is not one of these.

    Example:
        >>> quantizer = ste.nn.FloatQuantizer("e4m3fn", scale="absmax")
        >>> quantizer(torch.tensor([-448.0, 0.1, 33.0])).tolist()
        [-448.0, 0.1015625, 32.0]
    """

    def __init__(
        self,
        format: Format = "e4m3fn",
        *,
        scale: str = "absmax",
        saturate: bool = True,
        axis: int | None = None,
        channels: int = 1,
        momentum: float = 0.1,
        percentile: float = 99.9,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        known = FloatFormat.named(str(format))
        placement = {"device": device, "dtype": dtype}
        super().__init__(known.max, scale, axis, channels, momentum, percentile, placement)
        self.format = str(known)
        self.saturate = saturate

    def forward(self, x: Tensor) -> Tensor:
        scale = self._scale(x)
        return fake_quantize_float(x, scale, self.format, self._grad_scale(x), self.saturate, axis=self.axis)

    def quantize(self, x: Tensor) -> Tensor:
        """The numbers of the format, without the scale, in float32 (float64 for such an x)."""
        scale = self._scale(x).detach()
        wide = x.detach().to(torch.promote_types(x.dtype, torch.float32))
        if self.axis is not None:
            scale = scale.reshape([-1 if i == self.axis % x.dim() else 1 for i in range(x.dim())])
        return fake_quantize_float(wide / scale, 1.0, self.format, saturate=self.saturate)

    def _first_scale(self, x: Tensor) -> Tensor:
        return largest_of(self._rows(x).abs(), 100.0) / self.largest

    def extra_repr(self) -> str:
        return f"format={self.format!r}, {super().extra_repr()}"


class BlockQuantizer(nn.Module):
    """Quantize in blocks, each with a scale that follows from its numbers: :func:`ste.fake_quantize_blocks`.

    It keeps nothing.

    Args:
        grid: The name of a recipe, one of :data:`ste.BLOCK_RECIPES`; or ``"int2"`` to ``"int8"``, or a format.
        block: How many neighbors share a scale, or None for all along dim. With the name of a recipe, the recipe's.
        rule: How the scale follows from them. With the name of a recipe, the recipe's.
        dim: The dimension along which the blocks lie: the last is that of the inputs of a linear layer.

    Example:
        >>> quantizer = ste.nn.BlockQuantizer("mxfp4")
        >>> quantizer
        BlockQuantizer(grid='e2m1fn', block=32, rule='floor', dim=-1)
        >>> x = torch.tensor([0.1, -0.6, 2.9, 7.0])
        >>> quantizer(x).tolist(), quantizer.quantize(x).tolist()
        ([0.0, -0.5, 3.0, 6.0], [0.0, -0.5, 3.0, 6.0])
    """

    def __init__(self, grid: Format, block: int | None = None, rule: str = "absmax", dim: int = -1) -> None:
        super().__init__()
        name = str(grid)
        self.grid, self.block, self.rule = BLOCK_RECIPES.get(name, (name, block, rule))
        self.dim = dim

    def forward(self, x: Tensor) -> Tensor:
        return fake_quantize_blocks(x, self.grid, self.block, self.rule, self.dim)

    def quantize(self, x: Tensor) -> Tensor:
        """The numbers of the grid, without the scales: int8 for integers, else float32 (float64 for such an x)."""
        arguments = (self.grid, self.block, self.rule, self.dim)
        wide = x.detach().to(torch.promote_types(x.dtype, torch.float32))
        scale = self._along(block_scale(x, *arguments), x)
        if not self.grid.startswith("int"):
            return fake_quantize_float(torch.where(scale == 0, 0, wide / scale), None, self.grid)
        largest = 2 ** (int(self.grid[3:]) - 1) - 1
        if self.rule == "minmax":
            return quantize(wide, scale, self._along(block_zero_point(x, *arguments), x), -largest - 1, largest).to(
                torch.int8
            )
        return torch.where(scale == 0, 0, quantize(wide, scale, None, -largest, largest)).to(torch.int8)

    def _along(self, of_blocks: Tensor, x: Tensor) -> Tensor:
        """One for each element of x."""
        size = x.shape[self.dim]
        return of_blocks.repeat_interleave(self.block or size, self.dim).narrow(self.dim, 0, size)

    def right_inverse(self, x: Tensor) -> Tensor:
        """What a parametrized weight is set to is what is quantized then."""
        return x

    def extra_repr(self) -> str:
        return f"grid={self.grid!r}, block={self.block}, rule={self.rule!r}, dim={self.dim}"
