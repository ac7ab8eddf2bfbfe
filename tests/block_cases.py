"""What the tests of blocks and `make sweep` share: random cases, and a compiler's result compared with the oracle's."""

import math
import random
from collections.abc import Callable, Sequence
from typing import Any

import torch
from bits import assert_same_bits
from block_samples import (
    GRIDS,
    check,
    expected,
    fake_quantize_blocks,
    rules_of,
    sample,
    swapped,
    with_tensor_scale,
)
from op_table import FLOATING
from torch import Tensor

LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": lambda t: t,
    "transposed": lambda t: swapped(t, 0, -1),
    "first two swapped": lambda t: swapped(t, 0, 1),
    "last two swapped": lambda t: swapped(t, -2, -1),
    "every second column": lambda t: torch.stack([t, t], -1).flatten(-2)[..., ::2],
    "every second row": lambda t: torch.stack([t, t], 1).flatten(0, 1)[::2],
    "part of each row": lambda t: torch.cat([t, t], -1)[..., : t.shape[-1]],
    "not at the start of its memory": lambda t: torch.cat([t.new_zeros(1), t.flatten()])[1:].view(t.shape),
    "expanded along the first": lambda t: t[:1].expand(t.shape),
    "expanded along the last": lambda t: t[..., :1].expand(t.shape),
    "channels_last": lambda t: t.contiguous(memory_format=torch.channels_last) if t.dim() == 4 else t,
}


def shape_at_random(choose: random.Random) -> tuple[tuple[int, ...], int]:
    """A shape, and the dimension along which blocks lie."""
    kind = choose.randrange(7)
    if kind == 0:  # rows of many blocks
        return (choose.randint(1, 6), choose.randint(200, 700)), 1
    if kind == 1:  # single long rows
        return (choose.choice([(5000,), (1, 5000), (2, 5000), (5000, 1)])), 0 if choose.random() < 0.3 else -1
    if kind == 2:  # few columns
        return (choose.randint(20, 400), choose.choice([3, 9])), 0
    if kind == 3:  # many columns
        return (choose.randint(1, 40), choose.choice([300, choose.randint(256, 320)])), 0
    if kind == 4:
        return (choose.randint(1, 3), choose.randint(1, 40), choose.choice([3, 9, 33, 100])), 1
    if kind == 5:
        shape = tuple(choose.choice([1, 2, 3, 8, 17, 40]) for _ in range(choose.randint(1, 3)))
    else:
        shape = (choose.randint(1, 3), choose.choice([3, 16, 40]), choose.randint(1, 9), choose.randint(1, 9))
    return shape, choose.randrange(-len(shape), len(shape))


def values_at_random(shape: Sequence[int], dim: int, choose: random.Random) -> Tensor:
    """Numbers whose magnitude varies along all dimensions but one; often zeros, sometimes infinities and NaN."""
    generator = torch.Generator().manual_seed(choose.randrange(2**31))
    x = torch.randn(shape, generator=generator, dtype=torch.float64)
    sizes = [1 if i == dim % len(shape) else n for i, n in enumerate(shape)]
    spread = choose.choice([0, 2, 10, 50])
    x = x * 2.0 ** torch.randint(-spread, spread + 1, sizes, generator=generator)
    if choose.random() < 0.3:
        x = (x * 4).round() / 4
    for value in choose.sample([0.0, -0.0, math.nan, math.inf, -math.inf], choose.randint(0, 3)):
        share = choose.choice([0.001, 0.01, 0.9 if value == 0 else 0.1])
        x = x.masked_fill(torch.rand(shape, generator=generator) < share, value)
    return x


def tensor_scale_at_random(x: Tensor, dim: int, choose: random.Random) -> Tensor | None:
    if choose.random() < 0.3:
        return None
    shape = [1 if i == dim % x.dim() or choose.random() < 0.5 else n for i, n in enumerate(x.shape)]
    while shape and shape[0] == 1 and choose.random() < 0.5:
        shape.pop(0)
    generator = torch.Generator().manual_seed(choose.randrange(2**31))
    scale = 2.0 ** torch.randint(-8, 3, shape, generator=generator) * (torch.rand(shape, generator=generator) + 0.5)
    return swapped(scale.to(choose.choice([x.dtype, torch.float32])), 0, -1)


def check_at_random(case: int, device: str) -> None:
    """Everything that the number of a case determines."""
    choose = random.Random(case)
    shape, dim = shape_at_random(choose)
    dtype = choose.choice(FLOATING)
    x, g = (values_at_random(shape, dim, choose).to(dtype) for _ in range(2))
    of_x, of_g = (choose.choice(list(LAYOUTS)) for _ in range(2))
    x, g = LAYOUTS[of_x](x.to(device)), LAYOUTS[of_g](g.to(device))
    grid = choose.choice(list(GRIDS.values()))
    rule = choose.choice(rules_of(grid))
    block = choose.choice([1, 2, 3, 5, 8, 16, 31, 32, 33, 64, 100, 128, 1000, None])
    tensor_scale = tensor_scale_at_random(x, dim, choose) if rule == "e4m3fn" else None
    print(case, of_x, of_g)  # shown when a test fails
    check(x, g, grid, block, rule, dim, None if tensor_scale is None else tensor_scale.to(device))


class Layer(torch.nn.Module):
    def __init__(self, *arguments: Any) -> None:
        super().__init__()
        self.arguments = arguments

    def forward(self, x: Tensor) -> Any:
        return fake_quantize_blocks(x, *self.arguments)


def assert_compiled_is_eager(arguments: Any, dtype: torch.dtype, device: str, **options: Any) -> None:
    x, g = sample(dtype, device)
    given = with_tensor_scale(arguments, device)
    torch.compiler.reset()
    compiled = torch.compile(Layer(*given), fullgraph=True, **options)
    for part in (slice(None), slice(1, None)) if options.get("dynamic") else (slice(None),):
        leaf, to_y = x[part, part, part].clone().requires_grad_(), g[part, part, part]
        y, is_inside = expected(leaf, *given)
        found = compiled(leaf)
        assert_same_bits(found, y, leaf)
        assert_same_bits(torch.autograd.grad(found, leaf, to_y)[0], torch.where(is_inside, to_y, 0), leaf)
