"""The shapes over which statistics are computed."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import ste

CASES: list[tuple[Callable[[Tensor], int | tuple[int, ...]], tuple[int, ...], int | tuple[int, ...]]] = [
    (ste.over_tensor, (4, 3, 2), -1),
    (ste.over_tensor, (), -1),
    (ste.over_output_channels, (4, 3, 2), (4, -1)),
    (ste.over_output_channels, (4,), (4, -1)),
    (ste.over_batch_over_tensor, (4, 3, 2), (4, -1)),
    (ste.over_batch_over_output_channels, (4, 3, 2, 5), (4, 3, -1)),
    (ste.over_batch_over_output_channels, (4, 3), (4, 3, -1)),
    (ste.over_output_features, (4, 3, 2), (-1, 2)),
    (ste.over_output_features, (4,), (-1, 4)),
]
EVERY_CASE = pytest.mark.parametrize(("function", "shape", "expected"), CASES)


@EVERY_CASE
def test_value(
    function: Callable[[Tensor], int | tuple[int, ...]], shape: tuple[int, ...], expected: int | tuple[int, ...]
) -> None:
    x = torch.arange(float(torch.Size(shape).numel())).reshape(shape)
    result = function(x)
    assert result == expected
    assert torch.equal(x.view(result).flatten(), x.flatten())
    assert torch.equal(x.reshape(result).flatten(), x.flatten())


@EVERY_CASE
def test_scripted(
    function: Callable[[Tensor], int | tuple[int, ...]], shape: tuple[int, ...], expected: int | tuple[int, ...]
) -> None:
    assert torch.jit.script(function)(torch.zeros(shape)) == expected


@EVERY_CASE
def test_traced_by_fx(
    function: Callable[[Tensor], int | tuple[int, ...]], shape: tuple[int, ...], expected: int | tuple[int, ...]
) -> None:
    traced = torch.fx.symbolic_trace(lambda x: x.reshape(function(x)))
    x = torch.zeros(shape)
    assert traced(x).shape == x.reshape(expected).shape
    # The graph has the call itself, and not the numbers of one shape.
    twice = torch.zeros([2 * n for n in shape])
    assert traced(twice).shape == twice.reshape(function(twice)).shape


@pytest.mark.parametrize(
    ("function", "dims"),
    [
        (ste.over_output_channels, 0),
        (ste.over_batch_over_tensor, 0),
        (ste.over_output_features, 0),
        (ste.over_batch_over_output_channels, 0),
        (ste.over_batch_over_output_channels, 1),
    ],
)
def test_too_few_dimensions(function: Callable[[Tensor], object], dims: int) -> None:
    least = 2 if function is ste.over_batch_over_output_channels else 1
    message = rf"{function.__name__}: x must have at least {least} dimension\(s\), got {dims}"
    with pytest.raises(ValueError, match=message):
        function(torch.zeros((3,) * dims))
    with pytest.raises(torch.jit.Error, match=message):
        torch.jit.script(function)(torch.zeros((3,) * dims))
