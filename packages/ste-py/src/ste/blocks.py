r"""Quantization in blocks, each with a scale of its own that is computed from its numbers.

MX formats, NVFP4, integers in groups, and one scale for each token or channel: see :data:`ste.BLOCK_RECIPES`.

References: "OCP Microscaling Formats (MX) Specification", version 1.0, 2023; B. D. Rouhani et al., "Microscaling Data
Formats for Deep Learning", 2023, arXiv:2310.10537; NVIDIA, "Pretraining Large Language Models with NVFP4", 2025,
arXiv:2509.25149.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function

from ste._arguments import Parameter, check_is_floating, check_is_string
from ste._blocks import Blocks, by_blocks, checked_settings, has_no_block, settings_of
from ste._float_format import FloatFormat, Format
from ste._implement import implement
from ste.autograd_ops import fake_quantize_blocks_fn
from ste.quantization import fake_quantize_float

__all__ = ["BLOCK_RECIPES", "BlockRecipe", "block_scale", "block_zero_point", "fake_quantize_blocks"]


class BlockRecipe(NamedTuple):
    """A grid, a block size and a rule that have a common name, in the order of an op's arguments.

    Attributes:
        grid: As in :func:`fake_quantize_blocks`.
        block: As in :func:`fake_quantize_blocks`.
        rule: As in :func:`fake_quantize_blocks`.

    Example:
        >>> ste.BLOCK_RECIPES["mxfp4"]
        BlockRecipe(grid='e2m1fn', block=32, rule='floor')
        >>> x = torch.tensor([0.1, -0.6, 2.9, 7.0])
        >>> ste.fake_quantize_blocks(x, *ste.BLOCK_RECIPES["mxfp4"])
        tensor([ 0.0000, -0.5000,  3.0000,  6.0000])
    """

    grid: str
    block: int | None
    rule: str


BLOCK_RECIPES = {
    "mxfp8_e4m3": BlockRecipe("e4m3fn", 32, "floor"),
    "mxfp8_e5m2": BlockRecipe("e5m2", 32, "floor"),
    "mxfp6_e3m2": BlockRecipe("e3m2fn", 32, "floor"),
    "mxfp6_e2m3": BlockRecipe("e2m3fn", 32, "floor"),
    "mxfp4": BlockRecipe("e2m1fn", 32, "floor"),
    "nvfp4": BlockRecipe("e2m1fn", 16, "e4m3fn"),
    "int4_32": BlockRecipe("int4", 32, "absmax"),
    "int4_128": BlockRecipe("int4", 128, "absmax"),
    "int8_token": BlockRecipe("int8", None, "absmax"),
}
"""The recipes: MX formats (OCP, version 1.0), NVFP4, integers in groups, and one scale for each token."""


def fake_quantize_blocks(
    x: Tensor,
    grid: Format,
    block: int | None = None,
    rule: str = "absmax",
    dim: int = -1,
    tensor_scale: Parameter | None = None,
    random: Tensor | None = None,
) -> Tensor:
    r"""Quantize in blocks and dequantize, with a scale for each block that is computed from its numbers.

    .. math::
        s &= \mathit{rule}(\text{the block}) \\
        r &= \operatorname{round}_{\mathit{grid}}(x / s) \\
        q &= \operatorname{clamp}(r, -M, M) \\
        y &= q \, s

    where :math:`M` is the largest number of the grid: the format's, or :math:`2^{n-1} - 1` for integers of n bits. An
    incoming gradient :math:`g` becomes :math:`g \, m`, where :math:`m` is 1 if :math:`|r| \le M`, and 0 otherwise; no
    gradient passes through the scale. Second derivatives are 0.

    The scale is computed from :math:`b`, the largest magnitude in the block; :math:`e` is the exponent of :math:`M`:

    ========== =========================================================================================
    ``rule``   scale
    ========== =========================================================================================
    ``absmax`` :math:`b / M`
    ``minmax`` integers only, and asymmetric: :math:`(h - l) / (2^n - 1)`, with :math:`l \le 0 \le h`
               the ends of the block; the zero point is whole, and the grid starts at :math:`-2^{n-1}`
    ``floor``  :math:`2^{\lfloor \log_2 b \rfloor - e}` (OCP MX)
    ``ceil``   :math:`2^{\lceil \log_2 b \rceil - e}`
    ``even``   as floor, with :math:`b` rounded to the grid's mantissa bits first
    ``rceil``  :math:`2^{\lceil \log_2 (b / M) \rceil}` (cuBLAS, Transformer Engine)
    ``e4m3fn`` :math:`\operatorname{e4m3fn}(b / M / t) \, t`, saturated (NVFP4), with the scale
               :math:`t` of the whole tensor
    ========== =========================================================================================

    The rules that give a power of two read exponents from the bits, and clamp the scale's exponent to [-127, 127]
    (E8M0). They treat an infinity as the next power of two; with the other rules, the result is what the formula gives
    in IEEE arithmetic. Where :math:`b` is 0, or the scale underflows to 0, the block becomes 0, and its gradient is g.
    A block with a NaN becomes NaN.

    float16 and bfloat16 are computed in float32 and rounded once, at the end. Rounding is as in
    :func:`ste.fake_quantize` and :func:`ste.fake_quantize_float`.

    Args:
        x: Any shape; float64, float32, float16 or bfloat16.
        grid: ``"int2"`` to ``"int8"``, or a format as in :func:`ste.fake_quantize_float`.
        block: How many neighbors along dim share a scale; the last block may be shorter. None, or -1, is the whole of
            dim (one scale for each token, say).
        rule: One of the table above.
        dim: The dimension of x along which the blocks lie.
        tensor_scale: The scale :math:`t` of the rule e4m3fn, in x's dtype or float32: a number, or a tensor that
            broadcasts to x's shape and does not vary along dim. It gets no gradient. None is the largest magnitude in
            x, divided by :math:`448 \, M`.
        random: Numbers in [0, 1), of x's shape, as in :func:`ste.fake_quantize`. With them, rounding is stochastic, to
            one of the two neighbors on the grid; the scales do not change.

    Returns:
        Tensor of x's shape, dtype, device and memory format.

    Raises:
        TypeError: x, tensor_scale or random is not a Tensor, or has another dtype; grid is neither a string nor a
            FloatFormat; rule is not a string; block or dim is not an integer.
        ValueError: There is no such grid, rule or dimension; block is 0 or less than -1; rule is minmax and grid is a
            format; tensor_scale is given and rule is not e4m3fn.
        RuntimeError: tensor_scale does not broadcast to x's shape, varies along dim, or is on another device; random
            has another shape or is on another device.

    Example:
        >>> x = torch.tensor([0.1, -0.6, 2.9, 7.0, 0.01, -0.02], requires_grad=True)
        >>> y = ste.fake_quantize_blocks(x, "e2m1fn", 4, "floor")
        >>> y.tolist()
        [0.0, -0.5, 3.0, 6.0, 0.01171875, -0.0234375]
        >>> y.sum().backward()
        >>> x.grad
        tensor([1., 1., 1., 0., 1., 1.])
    """
    if block is None:
        block = -1
    if torch.jit.is_scripting():  # type: ignore[attr-defined]
        if tensor_scale is None and rule == "e4m3fn":
            if grid.startswith("int"):  # type: ignore[union-attr]
                largest = 2.0 ** (int(grid[3:]) - 1) - 1  # type: ignore[index]
            else:
                largest = fake_quantize_float(torch.full([], math.inf), None, grid).item()
            tensor_scale = _tensor_scale(x, largest)
    else:
        if isinstance(grid, FloatFormat):
            grid = str(grid)
        if tensor_scale is None and rule == "e4m3fn":
            if has_torch_function((x, random)):
                arguments: Any = (x, grid, block, rule, dim, tensor_scale, random)
                return handle_torch_function(fake_quantize_blocks, (x, random), *arguments)
            check_is_floating("fake_quantize_blocks", "x", x)
            tensor_scale = _tensor_scale(x, settings_of("fake_quantize_blocks", grid, block, rule, dim).max)
    return _fake_quantize_blocks(x, grid, block, rule, dim, tensor_scale, random)


_fake_quantize_blocks: Callable[..., Tensor] = implement(fake_quantize_blocks, fake_quantize_blocks_fn)


def _tensor_scale(x: Tensor, largest: float) -> Tensor:
    dtype = torch.promote_types(x.dtype, torch.float32)
    if x.numel() == 0:
        return torch.ones([], dtype=dtype, device=x.device)
    values = x.detach()
    # A tensor, because CUDA multiplies by the reciprocal to divide by a number.
    unit = torch.full([], 448.0 * largest, dtype=dtype, device=x.device)
    dims = list(range(x.dim()))  # all of them, which the ONNX exporter has to be told
    return torch.maximum(values.amax(dims), -values.amin(dims)).to(dtype) / unit


def block_scale(
    x: Tensor,
    grid: Format,
    block: int | None = None,
    rule: str = "absmax",
    dim: int = -1,
    tensor_scale: Parameter | None = None,
) -> Tensor:
    """The scales of :func:`fake_quantize_blocks`.

    Args:
        x: As in :func:`fake_quantize_blocks`.
        grid: As in :func:`fake_quantize_blocks`.
        block: As in :func:`fake_quantize_blocks`.
        rule: As in :func:`fake_quantize_blocks`.
        dim: As in :func:`fake_quantize_blocks`.
        tensor_scale: As in :func:`fake_quantize_blocks`.

    Returns:
        Tensor of x's shape, but with one scale for each block along dim, in float32, or in float64 if x is float64. It
        has no gradient.

    Raises:
        TypeError, ValueError, RuntimeError: As in :func:`fake_quantize_blocks`.

    Example:
        >>> x = torch.tensor([0.1, -0.6, 2.9, 7.0, 0.01, -0.02])
        >>> ste.block_scale(x, "int4", 4).tolist()
        [1.0, 0.0028571428265422583]
        >>> ste.block_scale(x, *ste.BLOCK_RECIPES["mxfp4"])
        tensor([1.])
    """
    return _of_blocks(block_scale, x, grid, block, rule, dim, tensor_scale)


def block_zero_point(x: Tensor, grid: Format, block: int | None = None, rule: str = "minmax", dim: int = -1) -> Tensor:
    """The zero points of :func:`fake_quantize_blocks` with the rule minmax: the integers that stand for 0.

    Args:
        x: As in :func:`fake_quantize_blocks`.
        grid: As in :func:`fake_quantize_blocks`.
        block: As in :func:`fake_quantize_blocks`.
        rule: Only ``"minmax"``.
        dim: As in :func:`fake_quantize_blocks`.

    Returns:
        Tensor of the same shape and dtype as that of :func:`block_scale`, with whole numbers, or NaN where the block
        has a NaN.

    Raises:
        TypeError, ValueError: As in :func:`fake_quantize_blocks`, or rule is not minmax.

    Example:
        >>> ste.block_zero_point(torch.tensor([-1.0, 0.0, 2.0]), "int4")
        tensor([-3.])
    """
    if rule != "minmax":
        check_is_string("block_zero_point", "rule", rule)
        raise ValueError(f"block_zero_point: rule must be minmax, got {rule}")
    return _of_blocks(block_zero_point, x, grid, block, rule, dim, None)


def _of_blocks(
    function: Any, x: Tensor, grid: Format, block: int | None, rule: str, dim: int, tensor_scale: Parameter | None
) -> Tensor:
    if has_torch_function((x, tensor_scale)):
        arguments: Any = (x, grid, block, rule, dim, tensor_scale)
        if function is block_zero_point:
            arguments = arguments[:5]
        overridden: Tensor = handle_torch_function(function, (x, tensor_scale), *arguments)
        return overridden
    op: str = function.__name__
    if isinstance(grid, FloatFormat):
        grid = str(grid)
    if block is None:
        block = -1
    if tensor_scale is None and rule == "e4m3fn":
        check_is_floating(op, "x", x)
        tensor_scale = _tensor_scale(x, settings_of(op, grid, block, rule, dim).max)
    settings, scale = checked_settings(op, x, grid, block, rule, dim, tensor_scale)
    x = x.detach()
    if has_no_block(x, settings):
        return x.to(torch.promote_types(x.dtype, torch.float32))
    return by_blocks(x, scale, settings, _zero_point if function is block_zero_point else _scale)


def _scale(blocks: Blocks) -> Tensor:
    return blocks.scale


def _zero_point(blocks: Blocks) -> Tensor:
    assert blocks.zero_point is not None
    return blocks.zero_point
