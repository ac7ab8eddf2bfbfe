"""The guides' quantizers in real use. The code is extracted from the pages of the guides."""

import copy
import json
import os
import re
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import processes
import pytest
import torch
import torch.distributed as dist
from packaging.version import Version
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend

import ste

pytestmark = pytest.mark.repository

ROOT = Path(__file__).parent.parent
GUIDES = ROOT / "docs" / "guides"


def source(page: Path) -> str:
    """The page as Markdown; the code of a notebook becomes blocks."""
    if page.suffix != ".ipynb":
        return page.read_text()
    cells = [cell for cell in json.loads(page.read_text())["cells"] if cell["cell_type"] == "code"]
    return "\n".join("```python\n{}\n```".format("".join(cell["source"])) for cell in cells)


def definitions(page: Path, *names: str) -> list[Any]:
    """Run the blocks of a page that define these names, with its imports, and return the definitions."""
    blocks = re.findall(r"^```(?:\{code-cell\}|python)\n(?::[^\n]*\n+)*(.*?)^```", source(page), re.M | re.S)
    namespace: dict[str, Any] = {"torch": torch, "nn": nn, "ste": ste}
    for block in blocks:
        if any(re.search(rf"^(class|def) {name}\b", block, re.M) for name in names):
            exec(block, namespace)
    return [namespace[name] for name in names]


@pytest.fixture(scope="module")
def lsq() -> list[Any]:
    return definitions(GUIDES / "lsq.md", "LearnedScale", "initialize_scales")


@pytest.fixture
def learned(lsq: list[Any]) -> Any:
    """Scaled for a batch of 8."""
    make, initialize_scales = lsq
    quantizer: Any = make(bits=4)
    initialize_scales(quantizer, batch(8))
    return quantizer


def batch(size: int) -> Tensor:
    return torch.randn(size, 4, generator=torch.Generator().manual_seed(size))


def gradients(quantizer: Any, x: Tensor) -> list[Tensor]:
    """The result, and the gradients to x and to the scale."""
    leaf = x.clone().requires_grad_()
    y = quantizer(leaf)
    weights = torch.linspace(-1, 1, y.numel()).view_as(y)
    return [y.detach(), *torch.autograd.grad(y, [leaf, *quantizer.parameters()], weights)]


def assert_same(found: list[Tensor], expected: list[Tensor]) -> None:
    assert len(found) == len(expected) == 3
    for one, other in zip(found[:2], expected):
        assert torch.equal(one, other)
    # A sum of many numbers, in an order that the compiler chooses.
    torch.testing.assert_close(found[2], expected[2], rtol=1e-5, atol=1e-6)


def test_the_scale_is_of_the_first_batch(lsq: list[Any]) -> None:
    make, initialize_scales = lsq
    model: Any = nn.Sequential(make(bits=4), nn.ReLU(), make(bits=2, signed=False))
    x = batch(8)
    initialize_scales(model, x)
    first, last = model[0].scale.detach().clone(), model[2].scale.detach().clone()
    assert first.shape == last.shape == (1,)
    assert torch.allclose(first, 2 * x.abs().mean() / 7**0.5)
    assert torch.allclose(last, 2 * model[1](model[0](x)).mean() / 3**0.5)
    model(100 * x)
    assert torch.equal(model[0].scale, first)  # later batches do not change it


def test_compile(learned: Any) -> None:
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(learned, dynamic=True, fullgraph=True, backend=counter)
    for size in (8, 3, 5, 2, 16, 7, 33, 12):
        assert_same(gradients(compiled, batch(size)), gradients(learned, batch(size)))
    assert counter.frame_count <= 2


BATCH = ({0: torch.export.Dim("batch", max=64)},)


def test_export(learned: Any) -> None:
    program = torch.export.export(learned, (batch(8),), dynamic_shapes=BATCH).module()
    for size in (8, 3, 16):
        assert_same(gradients(program, batch(size)), gradients(learned, batch(size)))


def test_onnx(learned: Any, tmp_path: Path) -> None:
    import onnxruntime  # a machine with a GPU may not have it

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own warnings, different in every version
        program = torch.onnx.export(
            learned.eval(), (batch(8),), dynamo=True, dynamic_shapes=({0: "batch"},), verbose=False
        )
    assert program is not None
    file = tmp_path / "quantizer.onnx"
    program.save(file)
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    for size in (8, 3, 16):
        (y,) = session.run(None, {name: batch(size).numpy()})
        # ONNX Runtime returns 0.0 for -0.0.
        np.testing.assert_array_equal(y, learned(batch(size)).detach().numpy())


def test_fully_shard(learned: Any) -> None:
    from torch.distributed import HashStore  # type: ignore[attr-defined]
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    expected = copy.deepcopy(learned)
    dist.init_process_group("gloo", store=HashStore(), rank=0, world_size=1)
    try:
        sharded: Any = fully_shard(learned, mesh=init_device_mesh("cpu", (1,)))
        for size in (8, 3):
            optimizers = [torch.optim.SGD(model.parameters(), lr=0.1) for model in (sharded, expected)]
            for model, optimizer in zip((sharded, expected), optimizers):
                optimizer.zero_grad()
                model(batch(size)).square().sum().backward()
                optimizer.step()
        (scale,) = sharded.parameters()
        assert torch.equal(scale.full_tensor(), expected.scale)
    finally:
        dist.destroy_process_group()


def test_meta_device(lsq: list[Any]) -> None:
    make, initialize_scales = lsq
    with torch.device("meta"):
        model: Any = nn.Sequential(nn.Linear(4, 4), make(bits=4))
    assert model(torch.empty(3, 4, device="meta")).shape == (3, 4)
    model.to_empty(device="cpu")
    model[0].reset_parameters()
    initialize_scales(model, batch(8))
    expected = make(bits=4)
    expected.initialize(model[0](batch(8)))
    assert_same(gradients(model[1], batch(8)), gradients(expected, batch(8)))


def test_symbolic_trace(learned: Any) -> None:
    traced = torch.fx.symbolic_trace(learned)
    for size in (8, 3):  # the factor depends on the batch
        assert_same(gradients(traced, batch(size)), gradients(learned, batch(size)))


def test_deepcopy(learned: Any) -> None:
    copied = copy.deepcopy(learned)
    assert_same(gradients(copied, batch(8)), gradients(learned, batch(8)))
    with torch.no_grad():
        copied.scale.mul_(2)
    assert not torch.equal(copied(batch(8)), learned(batch(8)))


def test_state_dict(lsq: list[Any], learned: Any) -> None:
    other: Any = lsq[0](bits=4)
    other.load_state_dict(learned.state_dict())
    assert_same(gradients(other, batch(8)), gradients(learned, batch(8)))


def test_a_scale_recovers(learned: Any) -> None:
    """A step that is too large moves a scale below 0. Its gradient moves it back."""
    with torch.no_grad():
        learned.scale.fill_(-0.1)
    optimizer = torch.optim.SGD(learned.parameters(), lr=0.1)
    for _ in range(20):
        optimizer.zero_grad()
        (learned(batch(8)) - batch(8)).square().sum().backward()
        optimizer.step()
    (scale,) = learned.parameters()
    assert scale.item() > 0


def test_lsq_to_the_letter(learned: Any) -> None:
    """Equations 3 and 5: between quant_max and quant_max + 1/2, nothing to x and quant_max to the scale."""
    with torch.no_grad():
        learned.scale.fill_(1.0)
    x = torch.tensor([7.25], requires_grad=True)
    learned(x).sum().backward()
    (scale,) = learned.parameters()
    assert x.grad is not None
    assert scale.grad is not None
    assert x.grad.tolist() == [0.0]
    assert scale.grad.item() == pytest.approx(7 * 7**-0.5)


def parametrized(quantizer: Any) -> type[nn.Linear]:
    class Parametrized(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.linear(x, quantizer(self.weight), self.bias)

    return Parametrized


def recipe(name: str) -> Any:
    """A linear layer that is quantized as a page describes."""
    if name == "quantizers":
        return parametrized(definitions(GUIDES / "quantizers.md", "FourBits")[0]())
    if name == "lsq":
        quantizer = definitions(GUIDES / "lsq.md", "LearnedScale")[0](bits=4)
        quantizer.initialize(torch.zeros(2))
        return parametrized(quantizer)
    if name == "int4_groups":
        return parametrized(definitions(GUIDES / "int4_groups.md", "Groups")[0]("int4", 2, "absmax"))
    page, layer = {
        "readme": (ROOT / "README.md", "QuantLinear"),
        "quick_start": (GUIDES / "quick_start.ipynb", "QuantLinear"),
        "binary": (GUIDES / "binary.md", "BinaryLinear"),
        "ternary": (GUIDES / "binary.md", "TernaryLinear"),
    }[name]
    return definitions(page, layer)[0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", ["readme", "quick_start", "binary", "ternary", "quantizers", "lsq", "int4_groups"])
def test_zero_weights_heal(name: str, dtype: torch.dtype) -> None:
    layer = recipe(name)(4, 2, bias=False).to(dtype)
    nn.init.zeros_(layer.weight)
    y = layer(torch.ones(1, 4, dtype=dtype))
    # One bit has no zero: its smallest magnitude is the minimum of the scale.
    assert (y.abs().max() < 1e-5) if name == "binary" else y.eq(0).all()
    y.float().sum().backward()
    assert layer.weight.grad.isfinite().all()
    assert layer.weight.grad.ne(0).all()


SCALES = re.compile(r"^ *(?:scale|size|largest) = .*(?:amax|mean)\(.*$", re.M)


def test_every_recipe_has_a_floor() -> None:
    found = 0
    for page in [ROOT / "README.md", *sorted(GUIDES.glob("*.md")), *GUIDES.glob("*.ipynb")]:
        text = source(page)
        for match in SCALES.finditer(text):
            found += 1
            two_lines = text[match.start() :].splitlines()[:2]
            assert "clamp(min=" in " ".join(two_lines), (page.name, match[0])
    assert found >= 6


def test_a_scale_that_is_updated_in_place() -> None:
    (make,) = definitions(GUIDES / "from_torchao.md", "Observed")
    quantizer, x = make(), torch.randn(4, requires_grad=True)
    (quantizer(x) + quantizer(2 * x)).sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()
    # Without the copy that the page explains:
    scale = torch.tensor([0.1])
    y = ste.fake_quantize(x, scale, None, -127, 127)
    scale.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_the_observers_of_torch_ao() -> None:
    """The scales and zero points are as the guide says: its table has no code."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.ao announces its removal
        observer = pytest.importorskip("torch.ao.quantization.observer").MovingAverageMinMaxObserver
        affine = observer(averaging_constant=0.1, dtype=torch.quint8, qscheme=torch.per_tensor_affine)
        symmetric = observer(averaging_constant=0.1, dtype=torch.qint8, qscheme=torch.per_tensor_symmetric)
    ours: Any = ste.nn.IntegerQuantizer(signed=False, scale="ema", zero_point="observed", momentum=0.1)
    signed: Any = ste.nn.IntegerQuantizer(scale="ema", momentum=0.1)
    for seed in range(20):
        for each in (affine, symmetric, ours, signed):
            each(batch(seed + 64) + 0.5)
    scale, zero_point = ours.scale_and_zero_point(torch.zeros(0, 4))
    expected, expected_zero_point = affine.calculate_qparams()
    assert torch.allclose(scale, expected, rtol=1e-5, atol=0)
    assert zero_point.tolist() == expected_zero_point.tolist()
    scale, _ = signed.scale_and_zero_point(torch.zeros(0, 4))
    assert torch.allclose(scale * 127, symmetric.calculate_qparams()[0] * 127.5, rtol=1e-5, atol=0)


def test_the_learned_clip_of_pact() -> None:
    """Values and gradients, from equations 1 to 3 of the paper."""
    (make,) = definitions(GUIDES / "pact_dorefa.md", "PACT")
    pact = make(bits=3, alpha=2.0)
    x = torch.linspace(-1, 4, 64).requires_grad_()
    y = pact(x)
    g = torch.linspace(-1, 1, 64)
    y.backward(g)
    clipped = 0.5 * (x.abs() - (x - 2).abs() + 2)
    assert torch.allclose(y, (clipped * 7 / 2).round() * 2 / 7, atol=1e-6)
    assert x.grad is not None
    assert torch.allclose(x.grad, torch.where((x > 0) & (x < 2), g, 0.0), rtol=1e-5, atol=0)
    assert torch.allclose(pact.alpha.grad, g[x >= 2].sum(), rtol=1e-5, atol=0)


def test_dorefa_net() -> None:
    """The paper's equations 7 to 12: of one bit the gradient is the identity, and quantized gradients are unbiased."""
    page = GUIDES / "pact_dorefa.md"
    _, weight_of, gradient_of = definitions(page, "PACT", "dorefa_weight", "dorefa_gradient")
    weight = batch(16).requires_grad_()
    for bits in (1, 2, 5):
        t = weight.detach().tanh()
        r = (t / (2 * t.abs().max()) + 0.5) * (2**bits - 1)
        expected = 2 * r.round() / (2**bits - 1) - 1
        if bits == 1:
            expected = weight.detach().sign() * weight.detach().abs().mean()
        y = weight_of(weight, bits)
        assert torch.allclose(y, expected, atol=1e-6)
        if bits == 1:
            (gradient,) = torch.autograd.grad(y, weight, batch(16) * 2)
            assert torch.allclose(gradient, batch(16) * 2, rtol=1e-5)
    torch.manual_seed(0)
    g = batch(3)
    drawn = torch.stack([gradient_of(g, 3) for _ in range(4000)])
    largest = g.abs().amax(1, keepdim=True)
    steps = (drawn / (2 * largest) + 0.5) * 7
    assert torch.allclose(steps, steps.round(), atol=1e-4)
    assert steps.unique().numel() > 2
    assert torch.allclose(drawn.mean(0), g, atol=0.03)


def test_xnor_net() -> None:
    """The gradient of section 3.1: 1/n + alpha where |w| is at most 1, and 1/n elsewhere."""
    (weight_of,) = definitions(GUIDES / "binary.md", "xnor_weight")
    weight, g = (1.5 * batch(6)).requires_grad_(), batch(6).flip(0)
    y = weight_of(weight)
    y.backward(g)
    size = weight.detach().abs().mean(1, keepdim=True)
    assert torch.allclose(y, weight.detach().sign() * size)
    inside = (weight.detach().abs() <= 1).float()
    assert not inside.all()
    assert weight.grad is not None
    assert torch.allclose(weight.grad, g * (0.25 + size * inside))


def test_onnx_runtime_has_no_convolution_of_uint4() -> None:
    """Else, the guide is wrong: with activations of 4 bits, a convolution of integers up to opset 20, and then none."""
    onnxruntime = pytest.importorskip("onnxruntime")
    make, optimized, exported = definitions(GUIDES / "onnx.md", "Network", "optimized", "exported")
    network, images = make(signed=False, bits=4), torch.rand(2, 3, 12, 12)
    ste.nn.initialize(network, images)
    table = ste.onnx.quantize_dequantize()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own
        old, new = (exported(network, images, opset_version=v, custom_translation_table=table) for v in (20, 21))
    assert optimized(old)["QLinearConv"] == 2
    with pytest.raises(onnxruntime.capi.onnxruntime_pybind11_state.InvalidGraph, match="uint4"):
        optimized(new)


def tensor_parallel(rank: int, folder: Path, layer: type[nn.Linear]) -> None:
    """One of two processes: a few steps of the guide's layers, distributed and whole."""
    from torch.distributed import FileStore, init_device_mesh  # type: ignore[attr-defined]
    from torch.distributed.tensor import DTensor
    from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

    torch.set_num_threads(1)
    dist.init_process_group("gloo", store=FileStore(str(folder / "store"), 2), rank=rank, world_size=2)
    plan: dict[str, Any] = {"0": ColwiseParallel(), "2": RowwiseParallel()}
    mesh = init_device_mesh("cpu", (2,))
    torch.manual_seed(0)
    for quantizer in (None, ste.nn.IntegerQuantizer(4, scale="absmax", axis=0), ste.nn.BlockQuantizer("int4", 8)):
        kind = layer if quantizer is None else nn.Linear
        whole: Any = nn.Sequential(kind(16, 32), nn.ReLU(), kind(32, 16))
        model = parallelize_module(copy.deepcopy(whole), mesh, plan)
        for each in (model, whole):
            if quantizer is not None:
                ste.nn.quantize(each, quantizer, verbose=False)
            optimizer = torch.optim.SGD(each.parameters(), lr=0.1)
            for _ in range(3):
                optimizer.zero_grad()
                each(batch(8).repeat(1, 4)).square().mean().backward()
                optimizer.step()
        parameters = dict(whole.named_parameters())
        found: dict[str, Any] = dict(model.named_parameters())
        assert found.keys() == parameters.keys()
        assert sum(isinstance(parameter, DTensor) for parameter in found.values()) == len(parameters)
        for name, parameter in found.items():
            torch.testing.assert_close(parameter.full_tensor(), parameters[name], rtol=1e-5, atol=1e-6)
    dist.destroy_process_group()


def start_tensor_parallel() -> None:
    from torch.multiprocessing.spawn import start_processes

    (layer,) = definitions(GUIDES / "distributed.md", "QuantLinear")
    start_processes(tensor_parallel, (Path(sys.argv[1]), layer), 2, start_method="fork")


def test_tensor_parallel(tmp_path: Path) -> None:
    if Version(torch.__version__).release < (2, 8):
        pytest.skip("DTensor refuses the ops under torch 2.6")
    # In a process of its own, whose autograd has started no threads: torch 2.14 refuses to fork after that.
    start = "import test_guides; test_guides.start_tensor_parallel()"
    processes.run(start, tmp_path, backend=os.environ.get("STE_BACKEND"))


def test_learned_groups_begin_as_the_rule() -> None:
    _, make = definitions(GUIDES / "int4_groups.md", "Groups", "LearnedGroups")  # the first has the imports
    weight = batch(64).view(4, 64).requires_grad_()
    quantizer = make(weight)
    y = quantizer(weight)
    assert torch.equal(y, ste.fake_quantize_blocks(weight, *ste.BLOCK_RECIPES["int4_32"]))
    y.square().sum().backward()
    assert quantizer.scale.shape == (4, 2, 1)
    assert quantizer.scale.grad.ne(0).all()


def test_the_tables_of_differences_need_no_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each row has as many cells as there are columns, from the record if no library is installed."""
    monkeypatch.syspath_prepend(ROOT / "docs" / "extensions")
    import differences

    for name, table in differences.TABLES.items():
        head, rule, *rows = differences.lines_of(name)
        assert len(rows) > len(table.calls) - 1
        assert {line.count("|") for line in (head, rule, *rows)} == {len(table.samples) + 2}
        assert f"```{{differences}} {name}\n" in (GUIDES / "peers.md").read_text()
