"""``ste.onnx.quantize_dequantize``: 8-bit formats and blocks, to the bit, and the cases that it refuses."""

import re
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import onnx
import pytest
import torch
from bits import assert_same_bits, special_values
from onnx_models import causes, computed, exported
from packaging.version import Version
from torch import Tensor, tensor
from torch.export import Dim

import ste

pytestmark = pytest.mark.skipif(
    Version(torch.__version__).release < (2, 8), reason="torch's exporter takes the op apart"
)

FORMATS = ["e4m3fn", "e5m2", "e4m3fnuz", "e5m2fnuz"]
DTYPES = [torch.float32, torch.float16, torch.bfloat16]


class Results(torch.nn.Module):
    """Functions of x in a dtype. NumPy has no bfloat16, so inputs and outputs are float32."""

    def __init__(self, *functions: Callable[[Tensor], Tensor], dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.functions = functions
        self.dtype = dtype

    def forward(self, x: Tensor) -> list[Tensor]:
        x = x.to(self.dtype)
        results = [function(x) for function in self.functions]
        assert all(y.dtype == self.dtype for y in results)
        return [y.float() for y in results]


def assert_exports(module: Results, x: Tensor, model: onnx.ModelProto, *, signed_zeros: bool = True) -> None:
    for actual, expected in zip(computed(model, x), module(x), strict=True):
        # The fnuz formats have no -0; adding 0 turns it into 0.
        assert_same_bits(actual, expected if signed_zeros else expected + 0.0, x)


def with_ties(format: str, dtype: torch.dtype) -> Tensor:
    """The numbers of the format, the midpoints between them, the neighbors of both, and special values."""
    numbers = torch.arange(256, dtype=torch.uint8).view(getattr(torch, f"float8_{format}")).float()
    numbers = numbers[numbers.isfinite()].sort().values
    numbers = torch.cat([numbers, (numbers[1:] + numbers[:-1]) / 2, tensor([464.0, 490.0, 248.0, 61440.0, 63000.0])])
    ulp = torch.finfo(dtype).eps
    x = torch.cat([numbers, numbers * (1 + ulp), numbers * (1 - ulp)]).to(dtype).float()
    x = torch.cat([x, -x, special_values(dtype).float()])
    return torch.cat([x, torch.linspace(-500, 500, -len(x) % 192)]).view(-1, 3, 64)


@pytest.mark.parametrize(("dtype", "opset"), [(torch.float32, 19), *((dtype, 21) for dtype in DTYPES)], ids=str)
@pytest.mark.parametrize("format", FORMATS)
def test_formats(format: str, dtype: torch.dtype, opset: int) -> None:
    x = with_ties(format, dtype)
    scale = tensor([1.0, 0.3, 1e-3])
    own_name = str(ste.FloatFormat.named(format))
    functions: list[Callable[[Tensor], Tensor]] = [
        lambda x: ste.fake_quantize_float(x, tensor(1.0), f"float8_{format}"),
        lambda x: ste.fake_quantize_float(x, scale.to(dtype).view(3, 1), own_name),
    ]
    if opset >= 21:
        scales = torch.linspace(0.01, 2, 6).repeat_interleave(32).view(3, 64)
        functions.append(lambda x: ste.fake_quantize_float(x, scales, format))
        functions.append(lambda x: ste.fake_quantize_float(x.unflatten(-1, (4, 16)), scales[:, ::16, None], format))
    is_fnuz = format.endswith("fnuz")
    if is_fnuz:
        functions.append(lambda x: ste.fake_quantize_float(x, tensor(0.3), format, saturate=False))
    module = Results(*functions, dtype=dtype)
    model = exported(module, x, opset)
    assert_exports(module, x, model, signed_zeros=not is_fnuz)
    kinds = {node.op_type for node in model.graph.node}
    assert kinds <= {"QuantizeLinear", "DequantizeLinear", "Cast", "Reshape", "Expand", "Identity"}


@pytest.mark.parametrize("format", ["e4m3fn", "e5m2"])
def test_any_scale(format: str) -> None:
    scale = tensor([0.0, -0.0, -0.3, torch.inf, 1e-45, 1e-40, 3e38]).view(-1, 1)
    x = special_values(torch.float32).expand(7, -1).contiguous()
    module = Results(lambda x: ste.fake_quantize_float(x, scale, format))
    assert_exports(module, x, exported(module, x, 19))


def test_a_format_with_a_scale_for_each_token() -> None:
    x = torch.linspace(-3, 3, 6 * 16).view(6, 16)
    module = Results(lambda x: ste.fake_quantize_float(x, x.abs().amax(-1, keepdim=True) / 448, "e4m3fn"))
    model = exported(module, x, 19, dynamic_shapes={"x": {0: Dim("batch")}})
    for inputs in (x, x[:2]):
        assert_exports(module, inputs, model)


def in_blocks(*arguments: Any) -> Callable[[Tensor], Tensor]:
    return lambda x: ste.fake_quantize_blocks(x, *arguments)


INTEGERS = [("int4", "absmax"), ("int8", "absmax"), ("int4", "minmax"), ("int8", "minmax")]
GRIDS = [*INTEGERS, ("e4m3fn", "absmax"), ("float8_e5m2", "absmax")]


def blocks_of_all_sizes(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Numbers of many magnitudes: blocks of zeros, blocks whose scale underflows, and a shorter block at the end."""
    generator = torch.Generator().manual_seed(0)
    exponents = torch.linspace(-149, 100 if dtype != torch.float16 else 12, shape[0]).view(-1, *[1] * (len(shape) - 1))
    x = torch.randn(shape, generator=generator) * exponents.exp2()
    return torch.where(torch.rand(shape, generator=generator) < 0.05, 0.0, x).index_fill(0, tensor(1), 0.0)


@pytest.mark.parametrize(
    ("dim", "dtype"), [(0, torch.float32), (1, torch.float32), *((-1, d) for d in DTYPES)], ids=str
)
def test_blocks(dim: int, dtype: torch.dtype) -> None:
    x = blocks_of_all_sizes((40, 12, 36), dtype)
    # Whole blocks; a shorter one at the end; a single one, written in two ways.
    sizes = {0: (8, 16, None), 1: (4, 5, 100), -1: (12, 32, None)}[dim]
    functions = [in_blocks(grid, size, rule, dim) for grid, rule in GRIDS for size in sizes]
    module = Results(*functions, dtype=dtype)
    assert_exports(module, x, exported(module, x, 21))


@pytest.mark.parametrize("units", [50, 17_000])
def test_blocks_whose_scale_is_subnormal(units: int) -> None:
    """The scale is rounded to so few bits that x may be -10 times the scale: no int4 value becomes -8."""
    x = torch.randint(-units, units + 1, (64, 64), generator=torch.Generator().manual_seed(0)) * 2.0**-149
    module = Results(*(in_blocks(grid, 8, rule) for grid, rule in GRIDS))
    assert_exports(module, x, exported(module, x, 21))
    assert ((x.view(-1, 8) / ste.block_scale(x, "int4", 8).view(-1, 1)) < -7.5).any() == (units == 50)


@pytest.mark.parametrize(
    ("shape", "size"),
    [((), None), ((1,), 16), ((40,), None), ((40,), 16), ((1, 32), None), ((1, 1, 32), 16), ((2, 0), 2)],
)
def test_blocks_of_few_dimensions(shape: tuple[int, ...], size: int | None) -> None:
    x = torch.linspace(-3, 2, 40)[: torch.Size(shape).numel()].reshape(shape)
    module = Results(*(in_blocks(grid, size, rule) for grid, rule in INTEGERS))
    model = exported(module, x, 21)
    if x.numel() > 0:
        assert_exports(module, x, model)
    else:
        assert {node.op_type for node in model.graph.node} <= {"Identity"}


@pytest.mark.parametrize("dim", [0, 1])
def test_blocks_of_a_batch_of_any_size(dim: int) -> None:
    x = torch.linspace(-3, 2, 4 * 40 * 6).view(4, 40, 6).movedim(1, -1 if dim == 0 else 0).contiguous()
    module = Results(*(in_blocks(grid, 16, rule, dim - 1) for grid, rule in GRIDS[::2]))
    model = exported(module, x, 21, dynamic_shapes={"x": {dim: Dim("batch")}})
    for inputs in (x, x.narrow(dim, 0, 2), torch.cat([x, x], dim)):
        assert_exports(module, inputs.contiguous(), model)


class QuantizedLinear(torch.nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        weight = ste.fake_quantize_blocks(self.weight, *ste.BLOCK_RECIPES["int4_32"])
        return torch.nn.functional.linear(x, weight, self.bias)


def test_linear_weights_in_groups() -> None:
    torch.manual_seed(0)
    layers = QuantizedLinear(96, 40), QuantizedLinear(40, 8)
    model = torch.nn.Sequential(layers[0], torch.nn.ReLU(), layers[1])
    x = torch.randint(-8, 8, (5, 96)).float()
    with torch.no_grad():
        # All scales are 1, so that all sums are integers: the runtime and PyTorch add in different orders.
        for layer in layers:
            layer.weight.copy_(torch.empty_like(layer.weight).uniform_(-7, 7))
            layer.weight[:, ::32] = 7.0
            layer.bias.round_()
    program = exported(model, x, 21)
    (y,) = computed(program, x, quantized=2)
    assert_same_bits(y, model(x).detach())
    quantized = [node for node in program.graph.node if node.op_type == "QuantizeLinear"]
    kinds = {i.name: onnx.TensorProto.DataType.Name(i.data_type) for i in program.graph.initializer}
    assert [kinds[node.input[2]] for node in quantized] == ["INT4", "INT4"]
    assert [a.i for node in quantized for a in node.attribute if a.name == "block_size"] == [32, 32]


def as_float(*arguments: Any, **options: Any) -> Callable[[Tensor], Tensor]:
    return lambda x: ste.fake_quantize_float(x, *arguments, **options)


@pytest.mark.parametrize(
    ("function", "opset", "message"),
    [
        (as_float(tensor(0.5), "e2m1fn"), 21, "float: the table has e4m3fn, e5m2, e4m3fnuz, e5m2fnuz, got e2m1fn"),
        (as_float(tensor(0.5), "float6_e3m2fn"), 21, "float: the table has .*, got e3m2fn"),
        (as_float(tensor(0.5), ste.FloatFormat(4, 3, 7, 240.0)), 21, "got e4m3:bias=7:max=240.0"),
        (as_float(tensor(0.5), "e4m3fn"), 18, "float: QuantizeLinear has e4m3fn from opset 19 on, got opset 18"),
        (as_float(torch.ones(6, 32), "e5m2"), 20, r"float: before opset 21, .*; scale has shape \[6, 32\]$"),
        (as_float(tensor(0.5), "e4m3fn", saturate=False), 21, "other numbers beyond the largest of e4m3fn"),
        (as_float(tensor(0.5), "e5m2", saturate=False), 21, "float: with saturate=False, ONNX Runtime .* of e5m2"),
        (lambda x: ste.fake_quantize_float(x.double(), tensor(0.5), "e5m2"), 21, "float: .*, but x is float64"),
        (in_blocks("int5", 16), 21, "blocks: the table has int4, int8, e4m3fn, .*, got int5"),
        (in_blocks(*ste.BLOCK_RECIPES["mxfp4"]), 21, "blocks: the table has .*, got e2m1fn"),
        (in_blocks(*ste.BLOCK_RECIPES["mxfp8_e4m3"]), 21, "blocks: .* the rules absmax and minmax, got floor"),
        (in_blocks("int4", 16, "e4m3fn", -1, tensor(0.1)), 21, "blocks: .* the rules absmax and minmax, got e4m3fn"),
        (in_blocks("int4", 16), 20, "blocks: QuantizeLinear has blocks from opset 21 on, got opset 20"),
        (in_blocks("int4", 16, "absmax", 0), 21, "blocks are fixed, but the length of dim 0 is dynamic"),
        (lambda x: ste.fake_quantize_blocks(x, "int4", x.shape[0]), 21, "fixed, but block or dim is computed"),
        (lambda x: ste.fake_quantize_blocks(x.double(), "int4", 16), 21, "blocks: .*, but x is float64"),
    ],
)
def test_what_it_cannot_express(function: Callable[[Tensor], Tensor], opset: int, message: str) -> None:
    module = torch.nn.Module()
    module.forward = function
    dynamic = {"dynamic_shapes": ({0: Dim("batch")},)} if "fixed" in message else {}
    with pytest.raises(torch.onnx.OnnxExporterError) as raised:
        exported(module, torch.randn(6, 32), opset, **dynamic)
    assert re.search(f"fake_quantize_.*{message}", causes(raised), re.MULTILINE)


@pytest.mark.parametrize("op", ["fake_quantize", "fake_quantize_float", "fake_quantize_blocks"])
def test_random(op: str) -> None:
    translation = ste.onnx.quantize_dequantize()[getattr(torch.ops.ste, op).default]
    x = SimpleNamespace(dtype=None)
    with pytest.raises(ValueError, match=f"^{op}: QuantizeLinear rounds to the nearest, but random was given$"):
        translation(x, "int4", 16, "absmax", random=x)
