"""The limits of integer ranges: every width from 1 to 62, in every dtype, compared with Python's integers."""

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from op_table import FLOATING, INTEGER
from torch import Tensor

import ste

WIDTHS = st.integers(1, 62)
FLAG = st.booleans()


def max_uint(narrow_range: bool, bit_width: int) -> int:
    return (1 << bit_width) - 1 - narrow_range


def max_int(signed: bool, bit_width: int) -> int:
    return (1 << (bit_width - signed)) - 1


def min_int(signed: bool, narrow_range: bool, bit_width: int) -> int:
    return -(1 << (bit_width - 1)) + narrow_range if signed else 0


def all_three(first: bool, second: bool, bit_width: Tensor | int) -> list[Tensor]:
    return [ste.max_uint(first, bit_width), ste.max_int(first, bit_width), ste.min_int(first, second, bit_width)]


def expected(first: bool, second: bool, bit_width: int) -> list[int]:
    return [max_uint(first, bit_width), max_int(first, bit_width), min_int(first, second, bit_width)]


@given(WIDTHS, FLAG, FLAG)
def test_python_int(bit_width: int, first: bool, second: bool) -> None:
    results = all_three(first, second, bit_width)
    assert [r.dtype for r in results] == [torch.int64] * 3
    assert [r.item() for r in results] == expected(first, second, bit_width)


@pytest.mark.parametrize("kind", [np.int8, np.uint8, np.int64, np.uint64])
@given(bit_width=WIDTHS, first=FLAG, second=FLAG)
def test_numpy_integer(kind: Any, bit_width: int, first: bool, second: bool) -> None:
    results = all_three(first, second, kind(bit_width))
    assert [r.dtype for r in results] == [torch.int64] * 3
    assert [r.item() for r in results] == expected(first, second, bit_width)


@pytest.mark.parametrize("name", ["max_uint", "max_int", "min_int"])
@pytest.mark.parametrize("bit_width", [0, -1, 63, 64, 2**70, np.int64(0), np.uint8(63)], ids=str)
def test_widths_that_int64_does_not_hold(name: str, bit_width: int) -> None:
    flags = (True, True) if name == "min_int" else (True,)
    with pytest.raises(ValueError, match=f"{name}: bit_width must be from 1 to 62, got {bit_width}$"):
        getattr(ste, name)(*flags, bit_width)


@torch.jit.script
def scripted(first: bool, second: bool, bit_width: int) -> list[Tensor]:
    return [ste.max_uint(first, bit_width), ste.max_int(first, bit_width), ste.min_int(first, second, bit_width)]


def test_widths_in_torchscript() -> None:
    for bit_width in (1, 4, 62):
        assert scripted(True, False, bit_width) == all_three(True, False, bit_width)
    for bit_width in (0, 63):
        with pytest.raises(torch.jit.Error, match=f"max_uint: bit_width must be from 1 to 62, got {bit_width}"):
            scripted(True, False, bit_width)


def test_of_an_integer_on_the_cpu_whatever_the_default_device() -> None:
    with torch.device("meta"):
        results = all_three(True, True, 4)
    assert [int(r) for r in results] == expected(True, True, 4)


@pytest.mark.parametrize("bit_width", [4, np.int64(4)], ids=repr)
def test_compiled(bit_width: int) -> None:
    compiled = torch.compile(lambda x: x + torch.stack(all_three(True, False, bit_width)), fullgraph=True)
    assert compiled(torch.zeros(3, dtype=torch.int64)).tolist() == expected(True, False, 4)


def test_compiled_for_every_width_at_once() -> None:
    compiled = torch.compile(lambda bit_width: torch.stack(all_three(True, True, bit_width)), fullgraph=True)
    widths = torch.arange(1, 63, dtype=torch.int8)
    assert compiled(widths).T.tolist() == [expected(True, True, width) for width in range(1, 63)]


def test_vmapped() -> None:
    widths = torch.arange(1, 63)
    results = torch.vmap(lambda bit_width: torch.stack(all_three(False, True, bit_width)))(widths)
    assert results.tolist() == [expected(False, True, width) for width in range(1, 63)]


def test_traced_by_fx() -> None:
    traced = torch.fx.symbolic_trace(lambda bit_width: all_three(True, False, bit_width))
    for bit_width in (3, np.int64(4), torch.tensor(5, dtype=torch.int8)):
        assert [int(r) for r in traced(bit_width)] == expected(True, False, int(bit_width))


class Ends(torch.nn.Module):
    """The limits for a width that is a number, for a buffer of widths, and for an input."""

    def __init__(self, number: Any) -> None:
        super().__init__()
        self.number = number
        self.register_buffer("widths", torch.arange(1, 63, dtype=torch.int8))

    def forward(self, bit_width: Tensor) -> tuple[Tensor, ...]:
        assert isinstance(self.widths, Tensor)
        return tuple(
            torch.stack(all_three(True, False, width) + all_three(False, True, width))
            for width in (self.number, self.widths, bit_width)
        )


@pytest.mark.parametrize("number", [4, np.int64(4)], ids=repr)
def test_onnx(number: Any) -> None:
    import onnxruntime  # a machine with a GPU may not have it

    module, widths = Ends(number).eval(), torch.arange(1, 63)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's warnings about itself
        program = torch.onnx.export(module, (widths,), dynamo=True, verbose=False)
    assert program is not None
    session = onnxruntime.InferenceSession(program.model_proto.SerializeToString(), providers=["CPUExecutionProvider"])
    results = session.run(None, {session.get_inputs()[0].name: widths.numpy()})
    for result, wanted in zip(results, module(widths), strict=True):
        assert torch.equal(torch.from_numpy(np.asarray(result)), wanted)


@pytest.mark.parametrize("dtype", INTEGER, ids=str)
@given(widths=st.lists(WIDTHS, min_size=1, max_size=5), first=FLAG, second=FLAG)
def test_integer_tensor_never_wraps(dtype: torch.dtype, widths: list[int], first: bool, second: bool) -> None:
    results = all_three(first, second, torch.tensor(widths, dtype=dtype))
    assert [r.dtype for r in results] == [torch.int64] * 3
    assert [r.tolist() for r in results] == [
        list(column) for column in zip(*(expected(first, second, w) for w in widths))
    ]


@pytest.mark.parametrize("dtype", FLOATING, ids=str)
@given(bit_width=WIDTHS, first=FLAG, second=FLAG)
def test_floating_tensor_is_rounded_once(dtype: torch.dtype, bit_width: int, first: bool, second: bool) -> None:
    results = all_three(first, second, torch.tensor(float(bit_width), dtype=dtype))
    assert [r.dtype for r in results] == [dtype] * 3
    # Through float64, from Python's integers: what the dtype cannot represent is rounded, not approximated.
    exact = [torch.tensor(value, dtype=torch.int64).to(dtype) for value in expected(first, second, bit_width)]
    assert [r.item() for r in results] == [e.item() for e in exact]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_floating_width_is_differentiable(dtype: torch.dtype) -> None:
    bit_width = torch.tensor([2.0, 4.5], dtype=dtype, requires_grad=True)
    ln2 = torch.log(torch.tensor(2.0, dtype=dtype))
    for result, power in [
        (ste.max_uint(True, bit_width), bit_width),
        (ste.max_int(False, bit_width), bit_width),
        (ste.max_int(True, bit_width), bit_width - 1),
        (-ste.min_int(True, True, bit_width), bit_width - 1),
    ]:
        (gradient,) = torch.autograd.grad(result.sum(), bit_width)
        torch.testing.assert_close(gradient, torch.exp2(power.detach()) * ln2)
    (gradient,) = torch.autograd.grad(ste.min_int(False, False, bit_width).sum(), bit_width)
    assert not gradient.any()


def test_nothing_syncs_or_breaks_a_graph() -> None:
    for dtype in (torch.int8, torch.float32):
        on_meta = torch.empty(3, dtype=dtype, device="meta")  # its values cannot be read
        for result in all_three(True, True, on_meta):
            assert result.device.type == "meta" and result.shape == (3,)


@pytest.mark.parametrize("name", ["max_uint", "max_int", "min_int"])
@pytest.mark.parametrize(
    ("bit_width", "message"),
    [
        (
            8.0,
            "bit_width must be a Tensor or an int, got float; pass a floating-point one as a tensor: torch.tensor(4.0)",
        ),
        (np.float32(8), "bit_width must be a Tensor or an int, got float32; pass a floating-point one as a tensor"),
        (None, "bit_width must be a Tensor or an int, got NoneType"),
        (True, "bit_width must be a Tensor or an int, got bool"),
        (torch.tensor(True), "bit_width has dtype bool; supported are float64, float32, float16, bfloat16, int64"),
        (torch.tensor(1j), "bit_width has dtype complex64; supported are float64, float32, float16, bfloat16, int64"),
    ],
)
def test_errors(name: str, bit_width: object, message: str) -> None:
    flags = (True, True) if name == "min_int" else (True,)
    with pytest.raises(TypeError) as error:
        getattr(ste, name)(*flags, bit_width)
    assert str(error.value).startswith(f"{name}: {message}")
