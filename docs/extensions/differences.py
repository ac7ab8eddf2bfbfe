"""Writes tables of inputs for which libraries give different results, by calling them.

The site builds without the libraries: if one is not installed, or in a version other than the recorded one, its rows
come from the record, `docs/peers/results.json`. `python docs/extensions/differences.py` writes the record, and `make
peers` compares it with the libraries.
"""

import json
import math
import warnings
from collections.abc import Callable
from functools import cache, partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

import ste

RECORD = Path(__file__).parents[1] / "peers" / "results.json"
INF, NAN = math.inf, math.nan


class Sample(NamedTuple):
    """A column: an input, and how many of its first numbers to show."""

    title: str
    x: Tensor
    shown: int


class Call(NamedTuple):
    """A row: a call, and the values or scales that it returns."""

    code: str
    run: Callable[[Tensor], Tensor]


class Table(NamedTuple):
    """A table of the page.

    Attributes:
        samples: Its columns.
        calls: For each library, a function that imports it and returns its rows.
    """

    samples: list[Sample]
    calls: dict[str, Callable[[], list[Call]]]


def block(title: str, *numbers: float, size: int = 32, shown: int = 0) -> Sample:
    """A block that begins with these numbers and is zero elsewhere."""
    x = torch.zeros(1, size)
    x[0, : len(numbers)] = torch.tensor(numbers)
    return Sample(title, x, shown or len(numbers))


def just(x: float, towards: float) -> float:
    """The next float32 number."""
    return torch.nextafter(torch.tensor(x), torch.tensor(towards)).item()


# FP8, scale 1.

FP8 = [Sample(title, torch.tensor([float(title)]), 1) for title in ("464", "465", "inf", "NaN")]


def fp8_of_ste() -> list[Call]:
    function = partial(ste.fake_quantize_float, scale=None, format="e4m3fn")
    return [
        Call('fake_quantize_float(x, None, "e4m3fn")', function),
        Call('fake_quantize_float(x, None, "e4m3fn", saturate=False)', partial(function, saturate=False)),
    ]


def fp8_of_torchao() -> list[Call]:
    from torchao.quantization.quant_primitives import _quantize_affine_float8

    return [Call("_quantize_affine_float8", lambda x: _quantize_affine_float8(x, torch.ones(1)).float())]


def fp8_of_brevitas() -> list[Call]:
    import brevitas.nn as qnn
    from brevitas.quant.float_quant_ocp import Fp8e4m3OCPActPerTensorFloat

    layer = qnn.QuantIdentity(Fp8e4m3OCPActPerTensorFloat, scaling_impl_type="const", scaling_init=448.0)
    return [Call("Fp8e4m3OCPActPerTensorFloat", layer.eval())]


def fp8_of_modelopt() -> list[Call]:
    from modelopt.torch.quantization.tensor_quant import scaled_e4m3

    return [Call("scaled_e4m3", lambda x: scaled_e4m3(x, torch.tensor(448.0), None, 4, 3))]


# MXFP4.

MXFP4 = [
    block("ties: 0.25, 0.75, 2.5, 3.5, 5, beside 6", 0.25, 0.75, 2.5, 3.5, 5.0, 6.0, shown=5),
    block("7.9, 1", 7.9, 1.0),
    block("just below 256", just(256.0, 0.0)),
    block("zeros", 0.0),
    block("1e-40, 3e-39", 1e-40, 3e-39),
    block("1, inf", 1.0, INF),
    block("1, NaN", 1.0, NAN),
]


def mxfp4_of_ste() -> list[Call]:
    return [
        Call(f'rule="{rule}"', partial(ste.fake_quantize_blocks, grid="e2m1fn", block=32, rule=rule))
        for rule in ("floor", "rceil")
    ]


def mxfp4_of_torchao() -> list[Call]:
    from torchao.prototype.mx_formats.config import ScaleCalculationMode
    from torchao.prototype.mx_formats.mx_tensor import MXTensor

    def run(mode: Any, x: Tensor) -> Tensor:
        y: Tensor = MXTensor.to_mx(x, torch.float4_e2m1fn_x2, 32, mode).dequantize()
        return y

    modes = (ScaleCalculationMode.FLOOR, ScaleCalculationMode.RCEIL)
    return [Call(f"MXTensor, {mode.name}", partial(run, mode)) for mode in modes]


def mxfp4_of_brevitas() -> list[Call]:
    import brevitas.nn as qnn
    from brevitas.quant.mx_quant_ocp import MXFloat8e4m3Act

    class MXFloat4Act(MXFloat8e4m3Act):
        bit_width = 4
        exponent_bit_width = 2
        mantissa_bit_width = 1

    layer = qnn.QuantIdentity(MXFloat4Act, group_dim=-1, group_size=32)
    return [Call("MXFloat4Act", layer.eval())]


def mxfp4_of_modelopt() -> list[Call]:
    from modelopt.torch.quantization.qtensor import MXFP4QTensor

    def run(x: Tensor) -> Tensor:
        # Casting a NaN exponent to uint8 is undefined in C.
        if not x.isfinite().all():
            return x.new_empty(1, 0)
        q, scale = MXFP4QTensor.quantize(x, 32)
        y: Tensor = q.dequantize(torch.float32, scale=scale, block_sizes={-1: 32})
        return y

    return [Call("MXFP4QTensor", run)]


# The scale of MXFP8 with rceil.

MXFP8_SCALE = [
    block("448 · 256", 448.0 * 256, shown=1),
    block("just above", just(448.0 * 256, INF), shown=1),
]


def mxfp8_scale_of_ste() -> list[Call]:
    return [Call('rule="rceil"', partial(ste.block_scale, grid="e4m3fn", block=32, rule="rceil"))]


def mxfp8_scale_of_torchao() -> list[Call]:
    from torchao.prototype.mx_formats.config import ScaleCalculationMode
    from torchao.prototype.mx_formats.mx_tensor import MXTensor

    def run(x: Tensor) -> Tensor:
        scale: Tensor = MXTensor.to_mx(x, torch.float8_e4m3fn, 32, ScaleCalculationMode.RCEIL).scale
        return scale.float()

    return [Call("MXTensor, RCEIL", run)]


def mxfp8_scale_of_modelopt() -> list[Call]:
    from modelopt.torch.quantization.qtensor import MXFP8QTensor

    return [Call("MXFP8QTensor", lambda x: torch.exp2(MXFP8QTensor.quantize(x)[1].float() - 127))]


# NVFP4 with a tensor scale of 1: the scale of the block.

NVFP4_SCALE = [block(f"6 · 2^{e}", 6 * 2.0**e, size=16) for e in (9, -6, -8, -9, -11)]
NVFP4_SCALE.append(block("zeros", 0.0, size=16))


def nvfp4_scale_of_ste() -> list[Call]:
    function = partial(ste.block_scale, grid="e2m1fn", block=16, rule="e4m3fn", tensor_scale=1.0)
    return [Call('rule="e4m3fn"', function)]


def nvfp4_scale_of_torchao() -> list[Call]:
    from torchao.prototype.mx_formats.nvfp4_tensor import nvfp4_quantize

    return [Call("nvfp4_quantize", lambda x: nvfp4_quantize(x, per_tensor_scale=torch.tensor(1.0))[0].float())]


def nvfp4_scale_of_modelopt() -> list[Call]:
    from modelopt.torch.quantization.qtensor import NVFP4QTensor

    def run(x: Tensor) -> Tensor:
        scale: Tensor = NVFP4QTensor.quantize(x, 16, None, torch.tensor(1.0))[1]
        return scale.float()

    return [Call("NVFP4QTensor", run)]


# int4 in groups of 32.

INT4 = [
    block("7, 0.5, -3.5, -7", 7.0, 0.5, -3.5, -7.0),
    block("7, 0.5, -3.5, -8", 7.0, 0.5, -3.5, -8.0),
    block("7.5, 0.5, -3.5, -7.5", 7.5, 0.5, -3.5, -7.5),
    block("zeros", 0.0),
]


def int4_of_ste() -> list[Call]:
    return [
        Call(f'rule="{rule}"', partial(ste.fake_quantize_blocks, grid="int4", block=32, rule=rule))
        for rule in ("absmax", "minmax")
    ]


def int4_of_torchao() -> list[Call]:
    from torchao.quantization.quant_primitives import (
        MappingType,
        choose_qparams_affine,
        dequantize_affine,
        quantize_affine,
    )

    def run(kind: Any, x: Tensor) -> Tensor:
        ends = (-8, 7)
        scale, zero_point = choose_qparams_affine(x, kind, (1, 32), torch.int8, *ends)
        q = quantize_affine(x, (1, 32), scale, zero_point, torch.int8, *ends)
        y: Tensor = dequantize_affine(q, (1, 32), scale, zero_point, torch.int8, *ends)
        return y

    kinds = (MappingType.SYMMETRIC, MappingType.SYMMETRIC_NO_CLIPPING_ERR, MappingType.ASYMMETRIC)
    return [Call(f"choose_qparams_affine, {kind.name}", partial(run, kind)) for kind in kinds]


def int4_layer_of_brevitas(weight: Tensor, of_kind: str = "NarrowIntQuant") -> Any:
    """A linear layer with that weight, in groups of 32."""
    import brevitas.nn as qnn
    from brevitas.inject.enum import RestrictValueType, ScalingPerOutputType
    from brevitas.proxy.groupwise_int_parameter_quant import GroupwiseWeightQuantProxyFromInjector
    from brevitas.quant import base
    from brevitas.quant.solver.weight import WeightQuantSolver

    settings: dict[str, Any] = {
        "proxy_class": GroupwiseWeightQuantProxyFromInjector,
        "bit_width": 4,
        "group_size": 32,
        "scaling_per_output_type": ScalingPerOutputType.GROUP,
        "restrict_scaling_type": RestrictValueType.FP,
    }
    kinds = (getattr(base, of_kind), base.MaxStatsScaling, WeightQuantSolver)
    quantizer = type(base.MaxStatsScaling)("Int4", kinds, settings)
    layer = qnn.QuantLinear(weight.shape[1], weight.shape[0], bias=False, weight_quant=quantizer, dtype=weight.dtype)
    layer.weight.data.copy_(weight)
    return layer


def int4_of_brevitas() -> list[Call]:
    def run(kind: str, x: Tensor) -> Tensor:
        y: Tensor = int4_layer_of_brevitas(x, kind).quant_weight().value
        return y.detach()

    return [Call(kind, partial(run, kind)) for kind in ("NarrowIntQuant", "IntQuant")]


def int4_of_modelopt() -> list[Call]:
    from modelopt.torch.quantization.config import QuantizerAttributeConfig
    from modelopt.torch.quantization.nn import TensorQuantizer

    config = QuantizerAttributeConfig(num_bits=4, block_sizes={-1: 32})
    return [Call("TensorQuantizer", lambda x: TensorQuantizer(config)(x))]


TABLES = {
    "fp8": Table(
        FP8,
        {
            "ste": fp8_of_ste,
            "torchao": fp8_of_torchao,
            "brevitas": fp8_of_brevitas,
            "nvidia-modelopt": fp8_of_modelopt,
        },
    ),
    "mxfp4": Table(
        MXFP4,
        {
            "ste": mxfp4_of_ste,
            "torchao": mxfp4_of_torchao,
            "brevitas": mxfp4_of_brevitas,
            "nvidia-modelopt": mxfp4_of_modelopt,
        },
    ),
    "mxfp8-scale": Table(
        MXFP8_SCALE,
        {"ste": mxfp8_scale_of_ste, "torchao": mxfp8_scale_of_torchao, "nvidia-modelopt": mxfp8_scale_of_modelopt},
    ),
    "nvfp4-scale": Table(
        NVFP4_SCALE,
        {"ste": nvfp4_scale_of_ste, "torchao": nvfp4_scale_of_torchao, "nvidia-modelopt": nvfp4_scale_of_modelopt},
    ),
    "int4": Table(
        INT4,
        {
            "ste": int4_of_ste,
            "torchao": int4_of_torchao,
            "brevitas": int4_of_brevitas,
            "nvidia-modelopt": int4_of_modelopt,
        },
    ),
}
LIBRARIES = {"torchao": "torchao", "brevitas": "Brevitas", "nvidia-modelopt": "ModelOpt"}

Rows = list[list[str]]


def in_words(number: float) -> str:
    if math.isnan(number):
        return "NaN"
    return f"{number:.4g}"


def rows_of(table: Table, library: str) -> Rows:
    """A call, and its result for each of the samples."""
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # the libraries' own
        rows = []
        for call in table.calls[library]():
            results = [call.run(sample.x.clone()).flatten()[: sample.shown].tolist() for sample in table.samples]
            rows.append([call.code, *(", ".join(map(in_words, numbers)) or "not run" for numbers in results)])
        return rows


def installed(library: str) -> str | None:
    """Its version, or None if it is not installed."""
    try:
        return version(library)
    except PackageNotFoundError:
        return None


@cache
def record() -> dict[str, Any]:
    data: dict[str, Any] = json.loads(RECORD.read_text())
    return data


@cache
def runs(library: str) -> bool:
    """Whether the library is installed in the recorded version, with everything that it imports."""
    if installed(library) != record()["versions"][library]:
        return False
    try:
        for table in TABLES.values():
            if library in table.calls:
                table.calls[library]()
    except ImportError:
        return False
    return True


def lines_of(name: str) -> list[str]:
    """The table in Markdown."""
    table = TABLES[name]
    lines = [f"| | {' | '.join(sample.title for sample in table.samples)} |", "|---" * (len(table.samples) + 1) + "|"]
    for library in table.calls:
        is_computed = library == "ste" or runs(library)
        rows: Rows = rows_of(table, library) if is_computed else record()["rows"][name][library]
        for code, *cells in rows:
            lines.append(f"| {LIBRARIES.get(library, library)}: `{code}` | {' | '.join(cells)} |")
    return lines


def versions() -> str:
    """Which libraries ran, and which rows come from the record."""
    named = {library: f"{title} {record()['versions'][library]}" for library, title in LIBRARIES.items()}
    ran = [name for library, name in named.items() if runs(library)]
    others = [name for library, name in named.items() if not runs(library)]
    parts = [f"Computed as this page was built: ste {ste.__version__}{''.join(f', {name}' for name in ran)}."]
    if others:
        parts.append(f"Not installed here, and so taken from the record: {', '.join(others)}.")
    return " ".join(parts)


def setup(app: Any) -> dict[str, bool]:
    from sphinx.util.docutils import SphinxDirective  # which `make peers` does not install

    class Differences(SphinxDirective):
        """A directive for Markdown pages: a table by its name, or the versions that ran."""

        required_arguments = 1

        def run(self) -> list[Any]:
            name = self.arguments[0]
            text = versions() if name == "versions" else "\n".join(lines_of(name))
            nodes: list[Any] = self.parse_text_to_nodes(text)
            return nodes

    app.add_directive("differences", Differences)
    return {"parallel_read_safe": True}


def main() -> None:
    """Write the record; all of the libraries must be installed."""
    data = {
        "versions": {library: version(library) for library in LIBRARIES},
        "rows": {
            name: {library: rows_of(table, library) for library in table.calls if library != "ste"}
            for name, table in TABLES.items()
        },
    }
    RECORD.parent.mkdir(exist_ok=True)
    RECORD.write_text(json.dumps(data, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
