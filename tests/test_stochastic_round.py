"""stochastic_round_ste: what the table of ops does not cover."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from bits import assert_same_bits, values
from op_table import FLOATING
from torch import Tensor

import ste

of_class: Any = ste.autograd_ops.stochastic_round_ste_fn.apply
EVERY_DTYPE = pytest.mark.parametrize("dtype", FLOATING, ids=str)
N = 1_000_000


@EVERY_DTYPE
def test_values(dtype: torch.dtype, device: str) -> None:
    """The result from NumPy in float32 (float64 for float64), with random numbers of either dtype."""
    x = values(dtype, device)
    wide = torch.promote_types(dtype, torch.float32)
    for of_random in {dtype, wide}:
        # A number that rounds to 1 is not a valid random number.
        random = torch.rand(x.shape, dtype=torch.float64).clamp(max=0.99).to(device, of_random)
        xs, rs = (t.to(wide).cpu().numpy() for t in (x, random))
        with np.errstate(all="ignore"):
            below = np.floor(xs)
            expected = torch.from_numpy(np.where(rs < xs - below, below + 1, below)).to(device, dtype)
        for function in (ste.stochastic_round_ste, of_class):
            assert_same_bits(function(x, random), expected, x)
        compiled = torch.compile(ste.stochastic_round_ste, fullgraph=True)
        assert_same_bits(compiled(x, random), expected, x)


@pytest.mark.parametrize("value", [0.25, -0.25, 0.001, -1.999, 2.5, -3.0, 100.75, 8_388_607.5])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_the_expected_value_is_x(value: float, dtype: torch.dtype, device: str) -> None:
    """Within 4 standard errors over 10^6 draws, and only the two neighbors."""
    x = torch.full((N,), value, dtype=dtype, device=device)
    generator = torch.Generator(device).manual_seed(0)
    y = ste.stochastic_round_ste(x, generator=generator).double()
    exact = x[0].double().item()
    below = math.floor(exact)
    share = exact - below
    assert set(y.unique().tolist()) <= {below, below + 1 if share else below}
    assert abs(y.mean().item() - exact) <= 4 * math.sqrt(share * (1 - share) / N)


def test_the_generator_decides(device: str) -> None:
    x = torch.randn(1000, device=device) * 3

    def rounded(seed: int) -> Tensor:
        return ste.stochastic_round_ste(x, generator=torch.Generator(device).manual_seed(seed))

    assert_same_bits(rounded(0), rounded(0))
    assert not torch.equal(rounded(0), rounded(1))
    torch.manual_seed(0)
    first = ste.stochastic_round_ste(x)
    assert not torch.equal(ste.stochastic_round_ste(x), first)
    torch.manual_seed(0)
    assert_same_bits(ste.stochastic_round_ste(x), first)


def test_what_is_drawn_lies_as_x_does() -> None:
    x = torch.randn(2, 3, 4, 5).contiguous(memory_format=torch.channels_last).requires_grad_()
    for generator in (None, torch.Generator().manual_seed(0)):
        y = ste.stochastic_round_ste(x, generator=generator)
        assert y.is_contiguous(memory_format=torch.channels_last)
        (to_x,) = torch.autograd.grad(y.sum(), x)
        assert torch.equal(to_x, torch.ones_like(x))


def test_vmap() -> None:
    x, random = torch.randn(3, 4), torch.rand(3, 4)
    expected = ste.stochastic_round_ste(x, random)
    assert_same_bits(torch.func.vmap(ste.stochastic_round_ste)(x, random), expected)
    with pytest.raises(RuntimeError, match="randomness"):
        torch.func.vmap(ste.stochastic_round_ste)(x)
    batched = torch.func.vmap(ste.stochastic_round_ste, randomness="different")(x)
    assert ((batched == x.floor()) | (batched == x.floor() + 1)).all()


def test_script() -> None:
    scripted: Any = torch.jit.script(ste.stochastic_round_ste)
    x, random = torch.randn(5), torch.rand(5)
    assert_same_bits(scripted(x, random), ste.stochastic_round_ste(x, random))
    drawn = scripted(x)
    assert ((drawn == x.floor()) | (drawn == x.floor() + 1)).all()


@pytest.mark.parametrize(
    ("x", "random", "error", "message"),
    [
        (torch.ones(3).long(), None, TypeError, "x has dtype int64; supported are float64, float32"),
        ([1.0], None, TypeError, "x must be a Tensor, got list"),
        (torch.ones(3), torch.ones(3).double(), TypeError, "random has dtype float64, but for x of float32 it must be"),
        (torch.ones(3), 0.5, TypeError, "random must be a Tensor, got float"),
        (torch.ones(3), torch.ones(()), RuntimeError, r"random has shape \[\], but x has shape \[3\]"),
        (torch.ones(3), torch.ones(3, device="meta"), RuntimeError, "random is on meta, but x is on cpu"),
    ],
)
def test_errors(x: Any, random: Any, error: type[Exception], message: str) -> None:
    for function in (ste.stochastic_round_ste, of_class):
        if random is not None or function is ste.stochastic_round_ste:
            with pytest.raises(error, match=f"^stochastic_round_ste: {message}"):
                function(x, random)
