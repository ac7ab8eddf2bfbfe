"""Calls of the native ops with random tensors, each compared with the Python backend, to the bit.

The number of an input determines it. `tools/fuzz.py` runs any number of them.
"""

import random
from collections.abc import Callable, Sequence
from copy import copy
from typing import Any

import torch
from bits import assert_same_bits
from block_samples import INTEGERS, rules_of, wide_dtype
from op_table import FLOAT_FORMATS, FLOATING, INTEGER
from test_layouts import quarters
from torch import Tensor

import ste
from ste._surrogates import TABLE

# The errors that an input may raise, the same on both backends.
ERRORS = (RuntimeError, TypeError, ValueError, IndexError)
# Around the vector lengths of the instruction sets, the block size of the loops, and the share of a thread.
WIDTHS = [0, 1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129, 255, 257, 511, 513, 1025]
LARGE = [32767, 32768, 32769, 65537, 100_003]
SPECIAL = [0.0, -0.0, float("nan"), float("inf"), -float("inf"), 1e-40, -1e-40, 3e38, 65504.0, 1e300]
SURROGATES = [kind.name for kind in TABLE]
TRANSCENDENTAL = [kind.name for kind in TABLE if kind.is_transcendental]


def numbers(choose: random.Random, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Multiples of 1/4, and sometimes values with special rules."""
    seed = choose.randrange(2**31)
    x = quarters(tuple(shape), torch.float64, seed)
    if dtype.is_floating_point and choose.random() < 0.3:
        special = torch.tensor(choose.choice(SPECIAL), dtype=torch.float64)
        is_special = torch.rand(x.shape, generator=torch.Generator().manual_seed(seed)) < 0.1
        x = torch.where(is_special, special, x)
    return x.to(dtype) if dtype.is_floating_point else x.round().abs().to(dtype)


def shape_of(choose: random.Random) -> list[int]:
    if choose.random() < 0.05:
        return [choose.choice(LARGE)] if choose.random() < 0.5 else [choose.choice(LARGE) // 64, 64]
    shape = [choose.choice(WIDTHS) for _ in range(choose.choice([0, 1, 1, 2, 2, 3, 4, 5]))]
    while torch.Size(shape).numel() > 40_000:
        shape[shape.index(max(shape))] = choose.choice(WIDTHS[:8])
    return shape


def permuted(choose: random.Random, t: Tensor) -> Tensor:
    order = choose.sample(range(t.dim()), t.dim())
    return t.permute(order).contiguous().permute([order.index(dim) for dim in range(t.dim())])


def every_nth(choose: random.Random, t: Tensor) -> Tensor:
    step = choose.randint(2, 3)
    return torch.stack([t] * step, -1)[..., choose.randrange(step)]


def at_an_offset(choose: random.Random, t: Tensor) -> Tensor:
    offset = choose.randint(1, 70)
    return torch.cat([t.new_zeros(offset), t.flatten()])[offset:].view(t.shape)


def expanded(choose: random.Random, t: Tensor) -> Tensor:
    return t.narrow(choose.randrange(t.dim()), 0, 1).expand(t.shape) if t.dim() and t.numel() else t


def channels_last(choose: random.Random, t: Tensor) -> Tensor:
    return t.contiguous(memory_format=torch.channels_last) if t.dim() == 4 else t


def unaligned(choose: random.Random, t: Tensor) -> Tensor:
    if not t.numel():
        return t
    offset = choose.randrange(1, max(t.element_size(), 2))
    memory = bytearray(offset) + bytearray(t.reshape(-1).contiguous().view(torch.uint8).numpy().tobytes())
    return torch.frombuffer(memory, dtype=t.dtype, offset=offset).view(t.shape)


def overlapping(choose: random.Random, t: Tensor) -> Tensor:
    if not t.numel():
        return t
    strides = [choose.randint(0, 3) for _ in range(t.dim())]
    needed = 1 + sum((size - 1) * stride for size, stride in zip(t.shape, strides))
    return t.flatten().repeat(-(-needed // t.numel()))[:needed].clone().as_strided(t.shape, strides)


LAYOUTS: list[Callable[[random.Random, Tensor], Tensor]] = [
    permuted,
    every_nth,
    at_an_offset,
    expanded,
    channels_last,
    unaligned,
    overlapping,
    lambda _, t: t,
]


def laid_out(choose: random.Random, t: Tensor) -> Tensor:
    """The same numbers, or a part of them, with another layout in memory."""
    return choose.choice(LAYOUTS)(choose, t)


def tensor(choose: random.Random, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    return laid_out(choose, numbers(choose, shape, dtype))


def smaller(choose: random.Random, shape: Sequence[int]) -> list[int]:
    """A shape that broadcasts to this one, or rarely one that does not."""
    if choose.random() < 0.03:
        return [*shape, choose.choice(WIDTHS[:6])]
    whole = choose.random() < 0.2
    kept = [size if whole or choose.random() < 0.4 else 1 for size in shape]
    while kept and kept[0] == 1 and choose.random() < 0.5:
        kept.pop(0)
    return kept


def on_device(t: Tensor, device: str) -> Tensor:
    """With the strides that it has, and elements that overlap where its own do."""
    elements = 1 + sum((size - 1) * stride for size, stride in zip(t.shape, t.stride())) if t.numel() else 0
    return t.as_strided((elements,), (1,)).to(device).as_strided(t.shape, t.stride())


class Input:
    """Everything that a number determines: an op and its arguments."""

    def __init__(self, number: int) -> None:
        self.choose = random.Random(number)
        self.name = self.choose.choice(list(ARGUMENTS))
        self.threads = self.choose.randint(1, 4)
        self.dtype = self.choose.choice(FLOATING + (INTEGER if self.choose.random() < 0.2 else []))
        self.shape = shape_of(self.choose)
        self.x = tensor(self.choose, self.shape, self.dtype)
        self.is_exact = True
        self.arguments = ARGUMENTS[self.name](self)
        self.g = tensor(self.choose, self.shape, self.dtype)
        # Whether the sums of the parameters' gradients are exact: then they are the same in any order.
        self.is_exact &= all(bool((t.nan_to_num(0, 0, 0).abs() <= 4).all()) for t in (self.x, self.g))

    def on(self, device: str) -> "Input":
        """The same, on another device, laid out there as it is here."""
        moved = copy(self)
        moved.x, moved.g = on_device(self.x, device), on_device(self.g, device)
        moved.arguments = tuple(
            moved.x if a is self.x else on_device(a, device) if isinstance(a, Tensor) else a for a in self.arguments
        )
        return moved

    def parameter(self, *dtypes: torch.dtype) -> Tensor:
        dtype = self.choose.choice(dtypes or (self.dtype, torch.float32))
        return tensor(self.choose, smaller(self.choose, self.shape), dtype)

    def scale(self) -> Tensor:
        exponents = self.parameter(wide_dtype(self.x)).nan_to_num(0, 0, 0).clamp(-4, 4).round()
        if self.choose.random() < 0.3:
            self.is_exact = False
            return laid_out(self.choose, exponents * 0.3 + 0.1)
        return laid_out(self.choose, torch.exp2(exponents))

    def random(self) -> Tensor | None:
        if self.choose.random() < 0.7:
            return None
        return laid_out(self.choose, torch.rand(self.shape, generator=torch.Generator().manual_seed(0)).to(self.dtype))

    def surrogate(self) -> tuple[Any, ...]:
        if self.choose.random() < 0.5:
            return ()
        alpha = self.parameter().abs() + 0.25 if self.choose.random() < 0.5 else None
        return (self.choose.choice(SURROGATES), alpha)

    def __str__(self) -> str:
        def shown(value: Any) -> str:
            if not isinstance(value, Tensor):
                return repr(value)
            place = value.data_ptr() % max(value.element_size(), 1) if value.layout == torch.strided else 0
            return f"{value.dtype}{list(value.shape)} by {list(value.stride())}" + (f" + {place} bytes" * bool(place))

        return f"{self.name}({', '.join(map(shown, self.arguments))}), {self.threads} threads"


def clamp_arguments(i: Input) -> tuple[Any, ...]:
    return (i.x, i.parameter(), i.parameter())


def sign_arguments(i: Input, first: Any) -> tuple[Any, ...]:
    return (i.x, first, *i.surrogate())


def fake_quantize_arguments(i: Input) -> tuple[Any, ...]:
    low, high = i.choose.choice([(-128, 127), (0, 15), (-4, 3), (0, 255), (-1, 1)])
    zero_point = (
        i.parameter(wide_dtype(i.x), torch.int32).nan_to_num(0, 0, 0).clamp(-8, 8) if i.choose.random() < 0.5 else None
    )
    grad_scale = i.choose.choice([1.0, 0.25])
    return (i.x, i.scale(), zero_point, low, high, grad_scale, i.choose.choice(["rounded", "scaled"]), i.random())


def blocks_arguments(i: Input) -> tuple[Any, ...]:
    grid = i.choose.choice([*FLOAT_FORMATS, *INTEGERS])
    rule = i.choose.choice(rules_of(grid))
    tensor_scale = tensor(i.choose, [], wide_dtype(i.x)).abs() + 0.25 if rule == "e4m3fn" else None
    dim = i.choose.randrange(len(i.shape)) if i.shape else -1
    return (i.x, grid, i.choose.choice([-1, 1, 2, 3, 8, 16, 31, 32, 33, 64, 100]), rule, dim, tensor_scale, i.random())


ARGUMENTS: dict[str, Callable[[Input], tuple[Any, ...]]] = {
    **{f"{name}_ste": lambda i: (i.x,) for name in ("round", "ceil", "floor", "trunc")},
    "stochastic_round_ste": lambda i: (i.x, laid_out(i.choose, numbers(i.choose, i.shape, torch.float32).abs() / 4)),
    "binary_sign_ste": lambda i: sign_arguments(i, i.choose.choice([0.0, -1.0])),
    "ternary_sign_ste": lambda i: sign_arguments(i, i.parameter() if i.choose.random() < 0.5 else None),
    "scalar_clamp_ste": lambda i: (i.x, i.choose.choice([-1, 0, 0.5]), i.choose.choice([-2, 1, 2.5, 1e39])),
    "tensor_clamp_ste": clamp_arguments,
    "tensor_clamp": clamp_arguments,
    "straight_through": lambda i: (tensor(i.choose, i.shape, i.choose.choice([*FLOATING, *INTEGER])), i.x),
    "fake_quantize": fake_quantize_arguments,
    "fake_quantize_float": lambda i: (
        *(i.x, i.scale(), i.choose.choice(list(FLOAT_FORMATS)), i.choose.choice([1.0, 0.25])),
        *(i.choose.random() < 0.5, i.random()),
    ),
    "fake_quantize_blocks": blocks_arguments,
}
LEARNED = ("tensor_clamp", "fake_quantize", "fake_quantize_float")

Result = list[Tensor] | str


def result_of(call: Callable[..., Any], case: Input, mode: str) -> Result:
    """The result and the gradients, or the error."""
    leaves = []
    arguments = []
    for place, argument in enumerate(case.arguments):
        learns = argument is case.x or (case.name in LEARNED and place < 3)
        if learns and isinstance(argument, Tensor) and argument.is_floating_point():
            # Detached and not cloned, because the test is about its place in memory.
            argument = argument.detach().requires_grad_()
            leaves.append(argument)
        arguments.append(argument)
    try:
        y = call(*arguments)
        if not leaves or not y.requires_grad:
            return [y.detach()]
        gradients = torch.autograd.grad(y, leaves, case.g.to(y.dtype), create_graph=mode == "twice")
        return [t.detach() for t in (y, *gradients)]
    except ERRORS as error:
        return f"{type(error).__name__}: {error}"


def assert_same_gradient(actual: Tensor, expected: Tensor, is_transcendental: bool) -> None:
    """To the bit, except for a transcendental surrogate: torch has several exponentials."""
    if is_transcendental:
        rtol = 4 * torch.finfo(actual.dtype).eps
        torch.testing.assert_close(actual, expected, rtol=rtol, atol=1e-40, equal_nan=True)
    else:
        assert_same_bits(actual, expected)


def compare(case: Input, ours: Result, theirs: Result) -> None:
    if isinstance(ours, str) or isinstance(theirs, str):
        if ours != theirs:
            raise AssertionError(f"native: {ours}\nPython: {theirs}")
        return
    for place, (actual, expected) in enumerate(zip(ours, theirs)):
        if place > 1 and not case.is_exact:
            continue
        if "clamp" in case.name or place > 1:  # the sign of a zero at a bound, and that of a sum, are unspecified
            actual, expected = (torch.where(t == 0, 0.0, t).to(t.dtype) for t in (actual, expected))
        names = [argument for argument in case.arguments if isinstance(argument, str)]
        assert_same_gradient(actual, expected, is_transcendental=place == 1 and any(n in TRANSCENDENTAL for n in names))


def native(case: Input) -> Callable[..., Any]:
    call: Callable[..., Any] = getattr(torch.ops.ste, case.name).default
    return call


def beside_the_class(case: Input) -> str:
    mode = case.choose.choice(["once", "twice"])
    of_class = getattr(ste.autograd_ops, f"{case.name}_fn").apply
    compare(case, result_of(native(case), case, mode), result_of(of_class, case, mode))
    return f"beside the Python backend, differentiated {mode}"


def batched(case: Input) -> str:
    """torch.func.vmap of the op and of its gradient, over each of x's dimensions."""
    dim = case.choose.randrange(max(len(case.shape), 1))
    in_dims = tuple(
        dim if isinstance(a, Tensor) and list(a.shape) == case.shape and a.dim() > dim else None for a in case.arguments
    )
    of_class = getattr(ste.autograd_ops, f"{case.name}_fn").apply
    calls = (torch.func.vmap(call, in_dims, dim, randomness="error") for call in (native(case), of_class))
    results: list[Result] = []
    for call in calls:
        try:
            results.append([call(*case.arguments)])
        except ERRORS:
            results.append("refused")
    compare(case, *results)
    return "under vmap"


def other_saved_tensors(case: Input) -> str:
    """Hooks that return something other than what was saved: an error or a gradient, but no crash."""
    changes: list[Callable[[Tensor], Tensor]] = [
        lambda t: t.to(case.choose.choice([*FLOATING, *INTEGER])),
        lambda t: t.flatten(),
        lambda t: t.new_zeros(()),
        lambda t: t[..., :1] if t.dim() else t,
        lambda t: t.to("meta"),
        lambda t: torch.cat([t.flatten(), t.flatten()]),
    ]
    change = case.choose.choice(changes)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t.detach(), change):
        result_of(native(case), case, "once")
    return "with other tensors than were saved"


def other_layouts(case: Input) -> str:
    """Tensors that are not dense, or not on the CPU: an error or a result, but no crash."""
    makers: list[Callable[[Tensor], Tensor]] = [
        lambda t: t.to("meta"),
        lambda t: t.to_sparse(),
        lambda t: t.to_sparse_csr(),
        lambda t: t.to_mkldnn(),
        lambda t: torch.quantize_per_tensor(t.float(), 0.1, 0, torch.qint8),
        lambda t: torch.nested.nested_tensor([t, t]),
        lambda t: torch.nested.nested_tensor([t, t], layout=torch.jagged),
        lambda t: t.to(torch.complex64),
        lambda t: torch._efficientzerotensor(t.shape, dtype=t.dtype),
        lambda t: torch.view_as_complex(torch.stack([t.float(), t.float()], -1)).conj(),
        lambda t: torch.view_as_complex(torch.stack([t.float(), t.float()], -1)).conj().imag,
    ]
    maker = case.choose.choice(makers)
    try:
        changed = maker(case.x)
        arguments = [changed if argument is case.x else argument for argument in case.arguments]
        native(case)(*arguments)
    except (*ERRORS, NotImplementedError, AttributeError):
        # AttributeError where torch takes the second argument of an op of jagged tensors for a tensor.
        pass
    return "with what is no dense tensor"


WAYS = [*[beside_the_class] * 7, batched, other_saved_tensors, other_layouts]


def check(case: Input) -> str:
    """The way in which the op was called; an AssertionError if something went wrong."""
    torch.set_num_threads(case.threads)
    return case.choose.choice(WAYS)(case)
