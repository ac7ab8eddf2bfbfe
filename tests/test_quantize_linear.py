"""``ste.onnx.quantize_dequantize`` exports what QuantizeLinear can express, to the bit, and refuses the rest."""

import re
from collections.abc import Callable
from typing import Any

import onnx
import pytest
import torch
from bits import assert_same_bits, special_values
from onnx_models import causes, computed, exported
from packaging.version import Version
from processes import run
from torch import Tensor, tensor
from torch.export import Dim

import ste

pytestmark = pytest.mark.skipif(
    Version(torch.__version__).release < (2, 8), reason="torch's exporter takes the op apart"
)

Computed = Callable[[Tensor, Tensor], Tensor]
# The shape of a grouped weight, with values outside every grid.
X = torch.cat([torch.linspace(-60, 60, 8 * 4 * 32 - 4), tensor([torch.inf, -torch.inf, -0.0, 1e30])]).view(8, 4, 32)
GROUPS = torch.linspace(0.02, 2, 32).view(8, 4, 1)


class Quantizer(torch.nn.Module):
    """A model with learned parameters; `computed` computes the zero point from x and from its parameter."""

    def __init__(
        self, scale: Tensor, zero_point: Tensor | None, low: int, high: int, computed: Computed | None = None
    ) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(scale)
        self.zero_point = zero_point
        if zero_point is not None:
            self.zero_point = torch.nn.Parameter(zero_point, requires_grad=zero_point.is_floating_point())
        self.grid = low, high
        self.computed = computed

    def forward(self, x: Tensor) -> Tensor:
        zero_point = self.zero_point
        if self.computed is not None and zero_point is not None:
            zero_point = self.computed(x, zero_point)
        return ste.fake_quantize(x, self.scale, zero_point, *self.grid)


def assert_exports(module: torch.nn.Module, x: Tensor, model: onnx.ModelProto) -> None:
    (y,) = computed(model, x)
    assert_same_bits(y, module(x).detach(), x)


GRIDS: dict[str, tuple[Tensor, Tensor | None, int, int]] = {
    "int8": (tensor(0.3), None, -128, 127),
    "uint8 with a zero point": (tensor(0.3), tensor(100.0), 0, 255),
    "4 bits": (tensor([0.3]), None, -8, 7),
    "3 bits, unsigned": (tensor(0.7), tensor(2), 0, 7),
    "per channel": (tensor([[0.3], [0.01], [2.0]]), None, -127, 127),
    "per channel, one zero point": (tensor([[0.3], [0.01], [2.0]]), tensor(-3), -8, 7),
    "along the last dimension": (torch.linspace(0.1, 2, 40), torch.arange(40), 0, 63),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("grid", GRIDS)
def test_special_values(grid: str, dtype: torch.dtype) -> None:
    x = special_values(dtype)
    x = x[~x.isnan()]  # how QuantizeLinear handles it is up to the runtime
    x = torch.cat([x, torch.linspace(-40, 40, -len(x) % 120).to(dtype)]).reshape(-1, 3, 40)
    module = Quantizer(*GRIDS[grid])
    model = exported(module, x, 20)
    assert_exports(module, x, model)
    assert not {"Round", "Div"} & {node.op_type for node in model.graph.node}


@pytest.mark.parametrize(
    ("scale", "ends", "message"),
    [
        (tensor(0.5), (-129, 127), "the grid from -129 to 127 is not within the range of a byte"),
        (tensor(0.5), (0, 256), "the grid from 0 to 256 is not within the range of a byte"),
        (torch.full((2, 3), 0.5), (-8, 7), r"one dimension; scale has shape \[2, 3\], zero_point \[\]"),
    ],
)
def test_what_it_has_no_operator_for(scale: Tensor, ends: tuple[int, int], message: str) -> None:
    with pytest.raises(torch.onnx.OnnxExporterError) as raised:
        exported(Quantizer(scale, None, *ends), torch.randn(2, 3), 20)
    assert re.search(message, causes(raised))


EXPRESSED: dict[str, tuple[Any, ...]] = {
    "a zero point that is whole": (tensor(0.1), tensor(3.0), 0, 255),
    "one that only the other kind of byte holds": (tensor(0.1), tensor(-3), 0, 7),
    "one at the end of the byte": (tensor(0.1), tensor(255.0), 0, 255),
    "one that is rounded in the graph": (tensor(0.1), tensor(2.5), 0, 255, lambda x, z: z.round()),
    "one of the inputs, in a byte": (tensor(0.1), tensor(0), 0, 255, lambda x, z: x[0, 0, 0].abs().to(torch.uint8)),
    "the same for each channel": (
        torch.rand(4, 1) + 0.1,
        tensor(0),
        -8,
        7,
        lambda x, z: x[0, :, :1].clamp(-9, 9).to(torch.int8),
    ),
    "one zero point for all channels": (torch.rand(4, 1) + 0.1, tensor([[3]]), 0, 255),
    "one scale for all zero points": (tensor([0.1]), torch.arange(4.0).view(4, 1), 0, 255),
    "more dimensions than it needs": (torch.full((1, 1, 1), 0.5), tensor([2]), -128, 127),
}
EXPRESSED_IN_BLOCKS: dict[str, tuple[Any, ...]] = {
    "one scale for each group": (GROUPS, None, -8, 7),
    "one scale for each group, of 8 bits": (GROUPS, torch.arange(4).view(4, 1), -128, 127),
    "scale and zero point along different dimensions": (torch.rand(4, 1) + 0.1, torch.arange(32.0), 0, 255),
    "along the dimensions outside": (torch.rand(8, 1, 32) + 0.1, None, -100, 7),
    "one scale for each element": (torch.rand(8, 4, 32) + 0.1, None, 0, 15),
}


@pytest.mark.parametrize("opset", [20, *(pytest.param(opset, marks=pytest.mark.slow) for opset in (18, 21, 23))])
@pytest.mark.parametrize("case", EXPRESSED)
def test_what_it_can_express(case: str, opset: int) -> None:
    module = Quantizer(*EXPRESSED[case])
    assert_exports(module, X, exported(module, X, opset))


@pytest.mark.parametrize("opset", [21, pytest.param(23, marks=pytest.mark.slow)])
@pytest.mark.parametrize("case", EXPRESSED_IN_BLOCKS)
def test_blocks(case: str, opset: int) -> None:
    module = Quantizer(*EXPRESSED_IN_BLOCKS[case])
    assert_exports(module, X, exported(module, X, opset))
    with pytest.raises(torch.onnx.OnnxExporterError) as raised:
        exported(module, X, 20)
    assert "before opset 21, QuantizeLinear has one scale for each index of at most one dimension" in causes(raised)


@pytest.mark.parametrize("opset", [21, 20])
@pytest.mark.parametrize(
    ("grid", "kind"), [((-8, 7), "INT4"), ((0, 15), "UINT4"), ((-7, 7), "INT8"), ((0, 14), "UINT8")], ids=str
)
def test_four_bits(grid: tuple[int, int], kind: str, opset: int) -> None:
    """From opset 21 on, if the grid is the whole range: Clip does not support 4-bit integers."""
    module = Quantizer(torch.rand(4, 1) + 0.1, tensor(3), *grid)
    model = exported(module, X, opset)
    assert_exports(module, X, model)
    (node,) = (node for node in model.graph.node if node.op_type == "QuantizeLinear")
    (zeros,) = (i for i in model.graph.initializer if i.name == node.input[2])
    in_a_byte = "INT8" if grid[0] < 0 else "UINT8"
    assert onnx.TensorProto.DataType.Name(zeros.data_type) == (kind if opset >= 21 else in_a_byte)


def test_a_zero_point_that_four_bits_do_not_hold() -> None:
    module = Quantizer(tensor(0.1), tensor(9), -8, 7)
    assert_exports(module, X, exported(module, X, 21))


@pytest.mark.parametrize("case", ["one scale for each group", "along the dimensions outside", "for each channel"])
def test_blocks_of_a_batch_of_any_size(case: str) -> None:
    module = Quantizer(*{**EXPRESSED_IN_BLOCKS, "for each channel": (GROUPS[0], tensor(3), 0, 15)}[case])
    batch = torch.stack([X, X / 3, X * 2])
    model = exported(module, batch, 21, dynamic_shapes={"x": {0: Dim("batch")}})
    for x in (batch, batch[:2], torch.cat([batch, batch])):
        assert_exports(module, x, model)


class OfEachToken(torch.nn.Module):
    """A scale that depends on x."""

    def forward(self, x: Tensor) -> Tensor:
        return ste.fake_quantize(x, x.abs().amax(-1, keepdim=True).clamp(min=1e-5) / 7, None, -8, 7)


@pytest.mark.parametrize(("dims", "opset"), [(2, 18), (2, 21), (3, 21)])
def test_a_scale_for_each_token(dims: int, opset: int) -> None:
    x = torch.linspace(-3, 3, 5 * 4 * 16).view(5, 4, 16)
    x = x[:, 0] if dims == 2 else x
    model = exported(OfEachToken(), x, opset, dynamic_shapes={"x": {0: Dim("batch")}})
    for inputs in (x, x[:2]):
        assert_exports(OfEachToken(), inputs, model)


@pytest.mark.parametrize("shape", [(), (1,), (1, 1)], ids=str)
def test_x_without_dimensions(shape: tuple[int, ...]) -> None:
    module = Quantizer(tensor(0.1).reshape(shape), tensor(3).reshape(shape), -8, 7)
    assert_exports(module, tensor(0.34), exported(module, tensor(0.34), 21))


def of_inputs(x: Tensor, z: Tensor) -> Tensor:
    return x[0, 0, 0].abs().round()


@pytest.mark.parametrize("opset", [20, pytest.param(21, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((tensor(2.5), 0, 255), "QuantizeLinear's zero points are integers, but zero_point is not whole"),
        ((tensor([[1.0], [2.0], [2.5], [3.0]]), 0, 255), "zero_point is not whole"),
        ((tensor(torch.inf), 0, 255), "zero_point is not within the range of a byte"),
        ((tensor(torch.nan), 0, 255), "zero_point is not whole"),
        ((tensor(300.0), 0, 255), "zero_point is not within the range of a byte that holds the grid from 0 to 255"),
        ((tensor(-1), 0, 255), "zero_point is not within the range of a byte that holds the grid from 0 to 255"),
        ((tensor(150), -8, 7), "zero_point is not within the range of a byte that holds the grid from -8 to 7"),
        ((tensor(0.0), -129, 127), "the grid from -129 to 127 is not within the range of a byte"),
        ((tensor(2.2), 0, 255, lambda x, z: z * 2), "zero_point is not whole"),
        ((tensor(0.0), 0, 255, of_inputs), r"computed from the model's inputs, in float; .* needs it in uint8$"),
        ((tensor(0.0), 0, 15, of_inputs), r"computed from the model's inputs, in float; .* needs it in uint8 or int8$"),
        ((tensor(0), -8, 7, lambda x, z: of_inputs(x, z).to(torch.uint8)), "in uint8; .* needs it in int8"),
        ((tensor(0.0), 0, 255, lambda x, z: torch.rand(()).round()), "is computed from the model's inputs"),
    ],
)
def test_what_it_cannot_express(arguments: tuple[Any, ...], message: str, opset: int) -> None:
    with pytest.raises(torch.onnx.OnnxExporterError) as raised:
        exported(Quantizer(tensor(0.1), *arguments), X, opset)
    assert re.search(f"fake_quantize: .*{message}", causes(raised), re.MULTILINE)


def test_float64() -> None:
    with pytest.raises(torch.onnx.OnnxExporterError) as raised:
        exported(Quantizer(tensor(0.1), None, -8, 7), X.double(), 20)
    assert "fake_quantize: QuantizeLinear computes in float32, but x is float64" in causes(raised)


QUIET = """
import sys, torch, ste
class Quantizer(torch.nn.Module):
    def forward(self, x):
        return ste.fake_quantize(x, torch.tensor(0.1), torch.tensor(3.0), -8, 7)
table = ste.onnx.quantize_dequantize() if sys.argv[1] == "table" else None
options = {"dynamo": True, "verbose": False, "opset_version": int(sys.argv[2]), "custom_translation_table": table}
torch.onnx.export(Quantizer().eval(), (torch.randn(3),), **options)
"""


@pytest.mark.parametrize("opset", [20, 21])
def test_an_export_that_works_is_silent(opset: int) -> None:
    """No output except what torch's exporter prints about itself, with and without the table."""

    def printed(which: str) -> list[str]:
        return [re.sub(r"^W\S+ \S+ \d+", "", line) for line in run(QUIET, which, opset).splitlines()]

    assert printed("table") == printed("none")
