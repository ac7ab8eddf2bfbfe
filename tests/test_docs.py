"""Every example runs, and every public name has one."""

import ast
import doctest
import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from packaging.version import Version

import ste
from ste import _backend, autograd_ops, blocks, brevitas, nn, onnx, ops, ops_ste, quantization, shape, surrogates

ROOT = Path(__file__).parent.parent
MODULES = [ops, ops_ste, quantization, blocks, nn, autograd_ops, onnx, brevitas, shape, surrogates]
PUBLIC = [getattr(m, name) for m in MODULES for name in m.__all__] + [ste.backend]
FUNCTIONS = [value for value in PUBLIC if inspect.isfunction(value)]


IN_NN = [sys.modules[name] for name in sorted(sys.modules) if name.startswith("ste.nn._")]


@pytest.mark.parametrize("module", [*MODULES, _backend, *IN_NN], ids=lambda m: m.__name__)
def test_examples(module: ModuleType) -> None:
    if module is onnx and Version(torch.__version__).release < (2, 8):
        pytest.skip("an error: test_fake_quantize")
    result = doctest.testmod(module, extraglobs={"ste": ste, "torch": torch}, optionflags=doctest.FAIL_FAST)
    assert result.failed == 0
    # The examples of ste.brevitas run in peers/, where Brevitas is installed.
    assert result.attempted > 0 or module in (autograd_ops, brevitas, nn, nn._scaled)


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda f: f.__name__)
def test_docstrings_are_complete(function: object) -> None:
    doc = inspect.getdoc(function)
    assert doc is not None
    signature = inspect.signature(function)  # type: ignore[arg-type]  # all are functions
    for section in ("Example:",) if signature.return_annotation is None else ("Returns:", "Example:"):
        assert section in doc
    parameters = signature.parameters
    for name in parameters:
        assert re.search(rf"^    {name}: ", doc, re.MULTILINE), name
    assert not parameters or "Args:" in doc
    assert "grad_fn" not in doc  # it differs between backends


def test_public_names() -> None:
    for module in MODULES:
        # Constants first, as isort sorts them.
        assert list(module.__all__) == sorted(module.__all__, key=lambda name: (not name.isupper(), name))
    for module in [ste, *MODULES]:
        assert len(set(module.__all__)) == len(module.__all__)
        for name in module.__all__:
            assert hasattr(module, name)
    for module in (blocks, ops, ops_ste, quantization, shape):
        for name in module.__all__:
            assert getattr(ste, name) is getattr(module, name)


REFERENCE = {
    "ops": ["max_int", "max_uint", "min_int", "tensor_clamp"],
    "ops_ste": [
        *["binary_sign_ste", "ceil_ste", "floor_ste", "round_ste", "scalar_clamp_ste", "tensor_clamp_ste"],
        "ternary_sign_ste",
    ],
    "autograd_ops": [
        *["binary_sign_ste_fn", "ceil_ste_fn", "floor_ste_fn", "round_ste_fn", "scalar_clamp_ste_fn"],
        *["tensor_clamp_ste_fn", "ternary_sign_ste_fn"],
    ],
    "shape": [
        *["over_batch_over_output_channels", "over_batch_over_tensor", "over_output_channels", "over_output_features"],
        "over_tensor",
    ],
}


@pytest.mark.parametrize("module", REFERENCE)
def test_the_names_of_the_reference(module: str) -> None:
    assert set(REFERENCE[module]) <= set(getattr(ste, module).__all__)


PYTHON_BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


@pytest.mark.repository
@pytest.mark.parametrize("page", ["README.md", "docs/index.md"])
def test_the_code_of_the_front_page_runs(page: str) -> None:
    """Its first two blocks, before and after, give the same result."""
    x, s = torch.linspace(-3, 3, 1001), torch.tensor(0.25)
    namespace: dict[str, Any] = {"ste": ste, "x": x, "s": s}
    before, after, *blocks = PYTHON_BLOCK.findall((ROOT / page).read_text())
    found = []
    for block in (before, after):
        exec(block, namespace)
        found.append(namespace.pop("y"))
    assert torch.equal(*found)
    for block in blocks:
        exec(block, namespace)


def messages() -> Iterator[str]:
    """The longest constant part of each error message, of exceptions and of the build."""
    for file in sorted((ROOT / "packages").glob("*/src/**/*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
                parts = [part.value for part in ast.walk(node.exc) if isinstance(part, ast.Constant)]
                yield max((part for part in parts if isinstance(part, str)), key=len)
    for file in sorted((ROOT / "cmake").glob("*.cmake")):
        for message in re.findall(r"FATAL_ERROR\s+\"([^\"\\]*)", file.read_text()):
            yield max(re.split(r"\$\{\w+\}", message), key=len)


@pytest.mark.repository
def test_every_error_has_a_cure() -> None:
    page = " ".join((ROOT / "docs" / "guides" / "troubleshooting.md").read_text().split())
    found = list(messages())
    assert len(found) > 20
    missing = [message for message in found if message.strip(" .:") not in page]
    assert not missing
