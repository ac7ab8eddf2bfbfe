"""The table of ops. It drives every test, on every backend and device: a new op is one new row.

A row's reference is NumPy code in float64, written from the contract and not from the code. float64 represents all
values that the ops produce exactly.
"""

import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import block_oracle
import numpy as np
import torch
from float_formats import FLOAT_FORMATS as FLOAT_FORMATS
from torch import Tensor

import ste

Array = np.ndarray[Any, Any]

FLOATING = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
INTEGER = [torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8]


def clamp(x: Array, low: Array, high: Array) -> Array:
    raised = np.where((x < low) | np.isnan(low), low, x)
    return np.where((raised > high) | np.isnan(high), high, raised)


def clamp_gradient(x: Array, low: Array, high: Array) -> tuple[Array, Array, Array]:
    """The parts of g that go to x, to the lower bound and to the upper bound."""
    to_high = (x > high) | (low > high)
    return (low <= x) & (x <= high), (x < low) & ~to_high, to_high


def clamp_passes(x: Array, low: Array, high: Array) -> Array:
    return clamp_gradient(x, low, high)[0]


def clamp_slopes(x: Array, low: Array, high: Array) -> Sequence[Array]:
    return clamp_gradient(x, low, high)[1:]


def fake_quantize(
    x: Array, scale: Array, zero_point: Array | None, quant_min: Array, quant_max: Array, *_: Any
) -> Array:
    shift = 0 if zero_point is None else zero_point
    return (clamp(np.rint(x / scale) + shift, quant_min, quant_max) - shift) * scale


def fake_quantize_passes(
    x: Array,
    scale: Array,
    zero_point: Array | None,
    low: Array,
    high: Array,
    grad_scale: Any = 1,
    inside: str = "rounded",
) -> Array:
    shift = 0 if zero_point is None else zero_point
    if inside == "scaled":
        return (low < x / scale + shift) & (x / scale + shift < high)
    return (low <= np.rint(x / scale) + shift) & (np.rint(x / scale) + shift <= high)


def fake_quantize_slopes(
    x: Array, scale: Array, zero_point: Array | None, low: Array, high: Array, *rest: Any
) -> Sequence[Array]:
    shift = 0 if zero_point is None else zero_point
    passes = fake_quantize_passes(x, scale, zero_point, low, high, *rest)
    steps = clamp(np.rint(x / scale) + shift, low, high) - shift
    return steps - np.where(passes, x / scale, 0), np.where(passes, 0, -scale)


def round_to_format(scaled: Array, format: str) -> Array:
    """The nearest number with the format's bits, ties to even, without a largest exponent."""
    mantissa_bits, bias, _ = FLOAT_FORMATS[format]
    return block_oracle.round_to_format(scaled, mantissa_bits, 1 - bias)


def fake_quantize_float(x: Array, scale: Array, format: str, *_: Any) -> Array:
    largest = FLOAT_FORMATS[format][2]
    return clamp(round_to_format(x / scale, format), x.dtype.type(-largest), x.dtype.type(largest)) * scale


def fake_quantize_float_passes(x: Array, scale: Array, format: str, *_: Any) -> Array:
    return np.abs(round_to_format(x / scale, format)) <= FLOAT_FORMATS[format][2]


def fake_quantize_float_slopes(x: Array, scale: Array, format: str, *_: Any) -> Sequence[Array]:
    largest = FLOAT_FORMATS[format][2]
    steps = clamp(round_to_format(x / scale, format), -largest, largest)  # type: ignore[arg-type]
    return (steps - np.where(fake_quantize_float_passes(x, scale, format), x / scale, 0),)


def fake_quantize_blocks(x: Array, grid: str, block: Array, rule: str) -> Array:
    return block_oracle.fake_quantize_blocks(x, grid, int(block), rule)[0]


def fake_quantize_blocks_passes(x: Array, grid: str, block: Array, rule: str) -> Array:
    return block_oracle.fake_quantize_blocks(x, grid, int(block), rule)[1]


def round_at_random(x: Array, random: Array) -> Array:
    return np.where(random < x - np.floor(x), np.floor(x) + 1, np.floor(x))


def sign(x: Array) -> Array:
    return np.where(x > 0, 1.0, np.where(x < 0, -1.0, 0.0))


def per_channel(*values: float) -> Callable[[Tensor], Tensor]:
    """A bound that varies along the last dimension of x, with the smallest possible shape."""

    def make(x: Tensor) -> Tensor:
        values_in_dtype = [value_in(x.dtype, value) for value in values]
        if x.dim() == 0:
            return torch.tensor(values_in_dtype[0], dtype=x.dtype, device=x.device)
        bound = torch.tensor(values_in_dtype, dtype=x.dtype, device=x.device)
        return bound.repeat(-(-x.shape[-1] // len(values)))[: x.shape[-1]]

    return make


def full(value: float) -> Callable[[Tensor], Tensor]:
    """A bound with x's shape."""
    return lambda x: torch.full_like(x, value_in(x.dtype, value))


def mask(x: Tensor) -> Tensor:
    """An argument with x's shape that is True everywhere."""
    return torch.ones_like(x, dtype=torch.bool)


def value_in(dtype: torch.dtype, value: float) -> float:
    return value if dtype.is_signed else max(value, 0.0)


@dataclass(frozen=True)
class Op:
    """An op with arguments.

    Attributes:
        name: The name in `ste`.
        expression: The forward in PyTorch, as an expression of the op's parameters, as people write it without ste.
        reference: The forward according to the contract.
        arguments: The arguments after x: numbers, or functions that create tensors for x.
        passes: Where the incoming gradient passes to x; everywhere if None.
        slopes: The derivatives with respect to the arguments that are tensors; None if they have no gradient.
        floating_only: Whether it refuses integers.
        is_rounded: Whether the reference computes like the op, in float32 if x is no wider. Otherwise it is exact in
        float64.
        onnx_keeps_sign_of_zero: Whether the model that torch exports keeps -0.0, in ONNX Runtime.
        x: The op's name for the argument that is differentiated.
        call: The op with that argument first, if it is not the op's first argument.
        broadcasts: Whether its tensors may be smaller than x.
    """

    name: str
    expression: str
    reference: Callable[..., Array]
    arguments: Sequence[float | str | Callable[[Tensor], Tensor] | None] = ()
    passes: Callable[..., Array] | None = None
    slopes: Callable[..., Sequence[Array]] | None = None
    floating_only: bool = False
    is_rounded: bool = False
    onnx_keeps_sign_of_zero: bool = True
    x: str = "x"
    call: Callable[..., Tensor] | None = None
    broadcasts: bool = True

    @property
    def straight_through(self) -> bool:
        return self.passes is None

    @property
    def dtypes(self) -> list[torch.dtype]:
        return FLOATING if self.floating_only else FLOATING + INTEGER

    @property
    def public(self) -> Callable[..., Tensor]:
        """The function of `ste`."""
        function: Callable[..., Tensor] = getattr(ste, self.name)
        return function

    @property
    def function(self) -> Callable[..., Tensor]:
        """The same function, with x first."""
        return self.call or self.public

    def in_order(self, x: Any, *arguments: Any) -> tuple[Any, ...]:
        """The arguments in the op's own order."""
        place = list(inspect.signature(self.public).parameters).index(self.x)
        return (*arguments[:place], x, *arguments[place:])

    @property
    def autograd_class(self) -> Any:
        return getattr(ste.autograd_ops, f"{self.name}_fn")

    @property
    def overload(self) -> Any:
        return getattr(torch.ops.ste, self.name).default

    def arguments_for(self, x: Tensor) -> tuple[Any, ...]:
        return tuple(argument(x) if callable(argument) else argument for argument in self.arguments)

    def __call__(self, x: Tensor) -> Tensor:
        return self.function(x, *self.arguments_for(x))

    def expected(self, x: Tensor) -> Tensor:
        """The reference's result, in x's dtype."""
        return torch.from_numpy(self._computed(self.reference, x)).to(x.dtype).to(x.device)

    def gradient(self, x: Tensor, g: Tensor) -> Tensor:
        """The gradient to x for an incoming gradient g."""
        if self.passes is None:
            return g
        return torch.where(torch.from_numpy(self._computed(self.passes, x)).to(x.device), g, 0)

    def parameter_gradients(self, x: Tensor, g: Tensor) -> list[Tensor]:
        """The gradients to the arguments that are tensors, in float64."""
        if self.slopes is None:
            return []
        slopes = torch.from_numpy(self._computed(self.slopes, x).astype(np.float64)).to(x.device)
        tensors = [a for a in self.arguments_for(x) if isinstance(a, Tensor)]
        return [(g.double() * slope).sum_to_size(t.shape) for slope, t in zip(slopes, tensors)]

    def _computed(self, function: Callable[..., Any], x: Tensor) -> Array:
        wide = torch.float32 if self.is_rounded and x.dtype != torch.float64 else torch.float64
        arrays = [
            in_dtype(wide, a)
            if isinstance(a, Tensor)
            else a
            if a is None or isinstance(a, str)
            else in_dtype(wide, rounded(a, x.dtype))
            for a in (x, *self.arguments_for(x))
        ]
        with np.errstate(all="ignore"):
            result = function(*arrays)
        return np.asarray(np.broadcast_arrays(*result) if isinstance(result, tuple) else result)

    def __str__(self) -> str:
        shown = [a.__qualname__.split(".")[0] if callable(a) else str(a) for a in self.arguments]
        return f"{self.name}({', '.join(shown)})" if shown else self.name


def in_dtype(dtype: torch.dtype, tensor: Tensor) -> Array:
    array: Array = tensor.detach().cpu().to(dtype).numpy()
    return array


def in_float64(tensor: Tensor) -> Array:
    return in_dtype(torch.float64, tensor)


def rounded(number: float, dtype: torch.dtype) -> Tensor:
    """A number as the op uses it, rounded to x's dtype."""
    return torch.tensor(number, dtype=torch.float64).to(dtype)


def straight_through(x: Tensor, hard: Tensor) -> Tensor:
    return ste.straight_through(hard, x)


BINARY_SIGN = "torch.where(x >= 0, 1.0, low).to(x.dtype)"
TERNARY_SIGN = (
    "(x.sign() if threshold is None else torch.where(x.abs() > threshold, x.sign(), torch.zeros_like(x))).to(x.dtype)"
)
CLAMP = "x.clamp(min_val, max_val)"
FAKE_QUANTIZE = "(((x / scale).round() + zero_point).clamp(quant_min, quant_max) - zero_point) * scale"
FAKE_QUANTIZE_FLOAT = "round_to_format(x / scale, format).clamp(-max, max) * scale"
FAKE_QUANTIZE_BLOCKS = "round_to_format(x / scale_of(blocks), format).clamp(-max, max) * scale_of(blocks)"
PER_CHANNEL = (per_channel(-1.0, -2.0, 1.0), per_channel(3.0, 1.0))
FULL = (full(-1.0), full(2.0))

OPS = [
    Op("round_ste", "x.round()", np.rint),
    Op("ceil_ste", "x.ceil()", np.ceil),
    Op("floor_ste", "x.floor()", np.floor),
    Op("trunc_ste", "x.trunc()", np.trunc, onnx_keeps_sign_of_zero=False),  # torch exports sign(x) * floor(abs(x))
    Op(
        *("stochastic_round_ste", "torch.where(random < x - x.floor(), x.floor() + 1, x.floor())", round_at_random),
        (full(0.25),),
        floating_only=True,
        onnx_keeps_sign_of_zero=False,  # Where is a sum in ONNX Runtime
        broadcasts=False,
    ),
    # Surrogates with another gradient: test_surrogates.
    Op(
        *("binary_sign_ste", BINARY_SIGN, lambda x, low, *_: np.where(x >= 0, 1.0, low)),
        (-1.0, "clipped", per_channel(1.0, 2.0, 0.25)),
        passes=lambda x, low, surrogate, alpha: np.abs(x) <= alpha,
        floating_only=True,
    ),
    Op("binary_sign_ste", BINARY_SIGN, lambda x: np.where(x >= 0, 1.0, 0.0)),
    Op("binary_sign_ste", BINARY_SIGN, lambda x, low: np.where(x >= 0, 1.0, low), (-1.0,)),
    Op(
        *("ternary_sign_ste", TERNARY_SIGN, lambda x, threshold: np.where(np.abs(x) > threshold, sign(x), 0.0)),
        (per_channel(0.5, 1.0),),
        floating_only=True,
    ),
    Op("ternary_sign_ste", TERNARY_SIGN, sign),
    Op("scalar_clamp_ste", CLAMP, clamp, (-1.0, 2.0)),
    # With a bound of 0 it exports as Where (inductor's maximum loses the sign), which is a sum in ONNX Runtime.
    Op("scalar_clamp_ste", CLAMP, clamp, (0.0, 6.0), onnx_keeps_sign_of_zero=False),
    Op("tensor_clamp_ste", CLAMP, clamp, PER_CHANNEL),
    Op("tensor_clamp_ste", CLAMP, clamp, FULL),
    *(
        Op(
            *("straight_through", "hard.to(x.dtype, copy=True)", lambda x, hard: hard, (hard,)),
            floating_only=True,
            x="soft",
            call=straight_through,
            broadcasts=False,
        )
        for hard in (mask, full(-1.5))
    ),
    Op("tensor_clamp", CLAMP, clamp, PER_CHANNEL, clamp_passes, clamp_slopes),
    Op("tensor_clamp", CLAMP, clamp, FULL, clamp_passes, clamp_slopes),
    *(
        Op(
            *("fake_quantize", FAKE_QUANTIZE, fake_quantize, arguments),
            passes=fake_quantize_passes,
            slopes=fake_quantize_slopes,
            floating_only=True,
            is_rounded=True,
        )
        for arguments in (
            (per_channel(0.5, 0.25), None, -4, 3),
            (per_channel(0.5, 0.25, 1.0), per_channel(1.0, 3.0), 0, 7),
            (full(0.5), full(-1.0), -7, 8),
            (per_channel(0.5, 0.25), per_channel(1.0, 0.0), -4, 3, 1.0, "scaled"),
        )
    ),
    *(
        Op(
            *("fake_quantize_float", FAKE_QUANTIZE_FLOAT, fake_quantize_float, arguments),
            passes=fake_quantize_float_passes,
            slopes=fake_quantize_float_slopes,
            floating_only=True,
            is_rounded=True,
            onnx_keeps_sign_of_zero=False,  # Where is a sum in ONNX Runtime
        )
        for arguments in ((per_channel(0.5, 0.25), "e2m1fn"), (full(0.25), "e4m3fn"))
    ),
    # Larger blocks, in which an element depends on its neighbors: test_fake_quantize_blocks.
    Op(
        *("fake_quantize_blocks", FAKE_QUANTIZE_BLOCKS, fake_quantize_blocks, ("e2m1fn", 1, "floor")),
        passes=fake_quantize_blocks_passes,
        floating_only=True,
        is_rounded=True,
        onnx_keeps_sign_of_zero=False,  # Where is a sum in ONNX Runtime
    ),
]

# One row for each op, for tests in which arguments do not matter.
DISTINCT_OPS = list({op.name: op for op in OPS}.values())
INTEGER_OPS = [op for op in OPS if not op.floating_only]
STRAIGHT_THROUGH_OPS = [op for op in OPS if op.straight_through]

# Pairs of bounds that are corners of a clamp, in some dtype or in all.
BOUNDS = [
    *[(1.0, -1.0), (math.nan, 1.0), (-1.0, math.nan), (math.nan, math.nan), (-math.inf, math.inf), (math.inf, 0.0)],
    *[
        (-0.0, 0.0),
        (0.0, 1.0),
        (-1.0, -0.0),
        (0.1, 0.7),
        (-5e-324, 5e-324),
        (-1e6, 1e6),
        (-1e300, 1e300),
        (1e39, 1e300),
    ],
    *[
        (-65519.0, 65519.0),
        (-65519.9999999, 65520.0),
        (-3.4e38, 3.4e38),
        (-3.39e38, 3.395e38),
        (-3.4028236e38, 3.40282356e38),
    ],
]
