"""The cases for `make sweep` and for the tests of a sample: every op with arguments, on all patterns of float32."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import block_oracle
import numpy as np
import torch
from float_formats import FLOAT_FORMATS
from ml_casts import cast
from op_table import FULL, OPS, Array, Op, clamp, fake_quantize_passes, full, per_channel, round_at_random
from patterns import IN_ORDER, LARGEST, SPREAD, Arrangement, Case, Expected, by_table, random
from surrogate_slopes import SLOPES
from torch import Tensor

from ste.surrogates import TABLE, Definition

Arguments = Sequence[float | str | Callable[[Tensor], Tensor] | None]

ROWS = {op.name: op for op in reversed(OPS)}


def row(name: str, *arguments: Any, **changes: Any) -> Op:
    """A row of the table of ops with other arguments."""
    return replace(ROWS[name], arguments=arguments, **changes)


def sign(name: str, *arguments: Any, passes: Callable[..., Array] | None = None) -> Op:
    """A sign with the given low value or threshold, which may be 0."""
    references = {
        "binary_sign_ste": lambda x, low, *_: np.where(x >= 0, 1.0, low),
        "ternary_sign_ste": lambda x, *_: np.sign(np.nan_to_num(x)),
    }
    return row(name, *arguments, reference=references[name], passes=passes, is_rounded=True)


def number(value: float) -> Callable[[Tensor], Tensor]:
    """A 0-dimensional tensor."""
    return lambda x: torch.tensor(value)


def with_parameters(op: Op, x: Tensor, g: Tensor) -> list[Tensor]:
    """The gradients to the arguments too, each with x's shape."""
    to_arguments = [t.float() + 0 for t in op.parameter_gradients(x, g)]
    return [op.expected(x), op.gradient(x, g), *to_arguments]


def straight_through_cases() -> list[Case]:
    at_random = {"0.25": full(0.25), "any": random}
    hard: dict[str, Callable[[Tensor], Tensor]] = {"numbers": lambda x: x, "a mask": lambda x: x > 0}
    channels = per_channel(-1.0, -2.0, 1.0), per_channel(3.0, 1.0)
    cases = [
        *(Case(name, row(name)) for name in ("round_ste", "ceil_ste", "floor_ste", "trunc_ste")),
        *(
            Case(f"stochastic_round_ste, random={name}", row("stochastic_round_ste", given, is_rounded=True))
            for name, given in at_random.items()
        ),
        *(Case(f"binary_sign_ste, low={low:g}", sign("binary_sign_ste", low)) for low in (0.0, -1.0)),
        Case("ternary_sign_ste", sign("ternary_sign_ste", None)),
        Case("ternary_sign_ste, threshold=0.7", row("ternary_sign_ste", 0.7)),
        *(
            Case(f"scalar_clamp_ste, {low:g} to {high:g}", row("scalar_clamp_ste", low, high))
            for low, high in ((0.1, 0.7), (1.0, -1.0))
        ),
        Case("tensor_clamp_ste, per channel", row("tensor_clamp_ste", *channels)),
        Case("tensor_clamp, per element", row("tensor_clamp", *FULL), with_parameters),
        *(Case(f"straight_through, hard={name}", row("straight_through", given)) for name, given in hard.items()),
    ]
    return [replace(case, beside_python="all") for case in cases]


def quantize(x: Array, scale: Array, zero_point: Array, low: Array, high: Array) -> Array:
    return clamp(np.rint(x / scale) + zero_point, low, high)


def of_quantize(op: Op, x: Tensor, g: Tensor) -> list[Tensor]:
    scale = op.arguments_for(x)[0]
    return [op.expected(x), op.gradient(x, g) / scale]


def integers_at_random(x: Array, scale: Array, zero_point: None, low: Array, high: Array, *rest: Any) -> Array:
    return clamp(round_at_random(x / scale, rest[-1]) + 0, low, high) * scale


def integers_at_random_passes(x: Array, scale: Array, zero_point: None, low: Array, high: Array, *rest: Any) -> Array:
    rounded = round_at_random(x / scale, rest[-1])
    return (low <= rounded) & (rounded <= high)


# Signed and unsigned grids, narrow and wide ones; steps that are powers of two (which have ties) and others, subnormal
# ones, and steps near the largest number.
INTEGER_GRIDS: dict[str, Arguments] = {
    "8 bits, scale 0.1": (0.1, None, -128, 127),
    "8 unsigned bits, scale 0.02, zero point 100": (0.02, number(100.0), 0, 255),
    "8 narrow bits, scale 2^-3": (2.0**-3, None, -127, 127),
    "4 bits, scale per channel": (per_channel(0.3, 0.25, 7.0), None, -8, 7),
    "4 bits, scale 2^-140": (2.0**-140, None, -8, 7),
    "4 unsigned bits, scale 10^38": (1e38, number(2.0), 0, 15),
    "2 bits, scale -0.5, zero point 0.25": (-0.5, number(0.25), -2, 1),
    "24 bits, scale 2^-20": (2.0**-20, None, -(2**23), 2**23 - 1),
    "4 bits, scale 0.25, inside scaled": (0.25, number(1.0), -8, 7, 1.0, "scaled"),
}


def integer_cases() -> list[Case]:
    cases = [Case(f"fake_quantize, {name}", row("fake_quantize", *given)) for name, given in INTEGER_GRIDS.items()]
    cases[:2] = [replace(case, beside_python="all") for case in cases[:2]]
    of_elements = row("fake_quantize", full(0.3), full(3.0), -8, 7)
    cases.append(Case("fake_quantize, 4 bits, scale and zero point per element", of_elements, with_parameters))
    at_random = row(
        *("fake_quantize", 0.3, None, -8, 7, 1.0, "rounded", random),
        reference=integers_at_random,
        passes=integers_at_random_passes,
    )
    cases.append(Case("fake_quantize, 4 bits, scale 0.3, random", at_random))
    # Consists of operations on both backends, and has no class.
    op = Op("quantize", "", quantize, (0.1, number(100.0), 0, 255), passes=fake_quantize_passes, is_rounded=True)
    cases.append(Case("quantize, 8 unsigned bits, scale 0.1, zero point 100", op, of_quantize, beside_python="none"))
    return cases


def by_ml_dtypes(x: Array, scale: Array, format: str, grad_scale: Any = 1, saturate: Any = True) -> Array:
    return cast(x / scale, format, saturate=bool(saturate)) * scale


def format_at_random(x: Array, scale: Array, format: str, *rest: Any) -> Array:
    """The position between the neighbors, in units of the distance between them."""
    return _format_at_random(x / scale, format, rest[-1])[0] * scale


def format_at_random_passes(x: Array, scale: Array, format: str, *rest: Any) -> Array:
    return _format_at_random(x / scale, format, rest[-1])[1]


def _format_at_random(v: Array, format: str, random: Array) -> tuple[Array, Array]:
    mantissa_bits, bias, largest = FLOAT_FORMATS[format]
    step = block_oracle.step_of_format(v, mantissa_bits, 1 - bias)
    size = np.where(np.isinf(v), v.dtype.type(np.inf), np.abs(round_at_random(v / step, random) * step))
    return np.copysign(np.where(size > largest, v.dtype.type(largest), size), v), size <= largest


def float_cases() -> list[Case]:
    scales = {"e5m2": 0.3, "e2m1fn": 2.0**-140}
    cases = []
    for format in FLOAT_FORMATS:
        op = row("fake_quantize_float", 1.0, format, reference=by_ml_dtypes)
        everywhere = format in ("e4m3fn", "e2m1fn")
        cases.append(Case(f"fake_quantize_float, {format}", op, beside_python="all" if everywhere else "an eighth"))
        if format in scales:
            scaled = replace(op, arguments=(scales[format], format))
            cases.append(Case(f"fake_quantize_float, {format}, scale {scales[format]:.3g}", scaled))
    for format in ("e5m2", "e4m3fn"):  # one with infinity, and one with only NaN
        op = row("fake_quantize_float", 1.0, format, 1.0, False, reference=by_ml_dtypes)
        cases.append(Case(f"fake_quantize_float, {format}, saturate=False", op))
    of_elements = row("fake_quantize_float", full(0.3), "e4m3fn")
    cases.append(Case("fake_quantize_float, e4m3fn, scale per element", of_elements, with_parameters))
    at_random = row(
        *("fake_quantize_float", 0.3, "e2m1fn", 1.0, True, random),
        reference=format_at_random,
        passes=format_at_random_passes,
    )
    cases.append(Case("fake_quantize_float, e2m1fn, scale 0.3, random", at_random))
    return cases


def in_blocks(op: Op, x: Tensor, g: Tensor) -> list[Tensor]:
    grid, block, rule, *rest = op.arguments_for(x)
    tensor_scale = np.float32(rest[1]) if rest else None
    y, is_inside = block_oracle.fake_quantize_blocks(x.numpy(), grid, block, rule, -1, tensor_scale)
    return [torch.from_numpy(y), torch.where(torch.from_numpy(is_inside), g, 0)]


def block_case(grid: str, block: int, rule: str, arrangement: Arrangement, order: str, **options: Any) -> Case:
    # One tensor scale for all, with which the scales of blocks are at both ends of e4m3fn and between them.
    rest = (-1, 2.0**-20) if rule == "e4m3fn" else ()
    op = row("fake_quantize_blocks", grid, block, rule, *rest)
    return Case(f"fake_quantize_blocks, {grid}, {block} {order}, {rule}", op, in_blocks, arrangement, **options)


def block_cases() -> list[Case]:
    # Narrow grids: on a wide floating-point grid, a number stays the same if the scale is the next power of two.
    rules = {"int4": "absmax", "e2m1fn": "floor", "int8": "ceil", "e2m3fn": "even", "int3": "rceil"}
    grids = [*rules.items(), ("e2m1fn", "e4m3fn")]
    cases = [block_case(grid, 2, rule, LARGEST, "each as the largest") for grid, rule in grids]
    for grid, rule in (("e4m3fn", "floor"), ("e2m1fn", "e4m3fn")):
        cases.append(block_case(grid, 32, rule, SPREAD, "spread"))
    for grid, rule in (("int4", "minmax"), ("e2m1fn", "floor")):
        cases.append(block_case(grid, 32, rule, SPREAD, "spread", beside_python="all"))
    cases.append(block_case("int8", 32, "absmax", IN_ORDER, "in order", beside_python="all"))
    return cases


def slack(kind: Definition, alpha: float) -> float:
    """Beside the ulps: where h is a difference, those of its terms; where it is a square, what may underflow."""
    info = torch.finfo(torch.float32)
    squares = {"atan": info.smallest_normal, "fast_sigmoid": info.smallest_normal}
    differences = {"polynomial": 8 / alpha * info.eps, "triangle": 4 * alpha * info.eps}
    return {**squares, **differences}.get(kind.name, 0)


def with_slope(kind: Definition, alpha: float) -> Expected:
    """The gradient in float64, rounded."""

    def expected(op: Op, x: Tensor, g: Tensor) -> list[Tensor]:
        with np.errstate(all="ignore"):
            slope = SLOPES[kind.name](x.double().numpy(), np.float64(alpha))
        return [op.expected(x), (g.double() * torch.from_numpy(slope)).float()]

    return expected


def surrogate_case(kind: Definition, name: str, first: float | None, alpha: float | None) -> Case:
    used = kind.alpha if alpha is None else alpha
    case = Case(
        f"{name}, {kind.name}, alpha {used:g}",
        sign(name, first, kind.name, alpha),
        with_slope(kind, used),
        beside_python="all" if alpha is None else "an eighth",
        # A quotient, whose constants and factors are rounded too, may differ by 4 eps, which is up to 8 ulp.
        ulps=4 if kind.is_transcendental else 8,
        slack=slack(kind, used),
        ulps_of_backends=2 if kind.is_transcendental else 0,
    )
    if kind.name == "clipped":
        op = sign(name, first, kind.name, alpha, passes=lambda x, *_: np.abs(x) <= used)
        return replace(case, op=op, expected=by_table, ulps=0)
    return case


def surrogate_cases() -> list[Case]:
    """Each surrogate with its own alpha in one sign, and with another alpha in the other."""
    own = [surrogate_case(kind, "binary_sign_ste", 0.0, None) for kind in TABLE]
    return own + [surrogate_case(kind, "ternary_sign_ste", None, 1.75) for kind in TABLE]


CASES = [*straight_through_cases(), *integer_cases(), *float_cases(), *block_cases(), *surrogate_cases()]
