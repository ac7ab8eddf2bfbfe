"""Writes the pages of the reference: each public name, by module, and what the dispatcher has registered.

The modules' `__all__` and the table of ops say what is public, so a new op appears here by itself.
"""

import inspect
import math
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from op_table import DISTINCT_OPS, OPS, Op
from pictures import call
from sphinx.application import Sphinx
from surrogates import slope
from torch import Tensor
from torch.autograd import Function

import ste
from ste.blocks import BLOCK_RECIPES
from ste.surrogates import TABLE

# Names from several files that share a page, the usual ones first.
ORDER = [
    *["IntegerQuantizer", "FloatQuantizer", "BlockQuantizer", "BinaryQuantizer", "TernaryQuantizer"],
    *["round_ste", "ceil_ste", "floor_ste", "trunc_ste", "stochastic_round_ste", "binary_sign_ste", "ternary_sign_ste"],
    *["scalar_clamp_ste", "tensor_clamp_ste", "straight_through", "tensor_clamp"],
    *["fake_quantize", "fake_quantize_float", "fake_quantize_blocks"],
    *["quantize", "unquantize", "initialize"],
]
HEADER = Path(__file__).parents[2] / "packages" / "ste-core" / "include" / "ste" / "ops.h"
FOLDER = "reference"

# In the order of the menu: the title, the module, and the name under which its functions are documented.
METHODS_OF_QUANTIZERS = ("quantize", "scale_and_zero_point", "initialize", "reset_parameters")

PAGES: list[tuple[str, ModuleType, str]] = [
    ("Straight-through ops", ste.ops_ste, "ste"),
    ("Surrogate gradients", ste.surrogates, "ste.surrogates"),
    ("Clamp and integer ranges", ste.ops, "ste"),
    ("Fake quantization", ste.quantization, "ste"),
    ("Block formats", ste.blocks, "ste"),
    ("Quantizers as modules", ste.nn, "ste.nn"),
    ("Shapes", ste.shape, "ste"),
    ("ONNX", ste.onnx, "ste.onnx"),
    ("Brevitas", ste.brevitas, "ste.brevitas"),
    ("Autograd classes", ste.autograd_ops, "ste.autograd_ops"),
]

BACKEND = """\
# Backend and ste-core

Which backend runs, and what you need from ste-core to build on it in C++. The guides are
[backends](../guides/backends.md) and [C++](../guides/cpp.md).

```{eval-rst}
OVERVIEW
.. currentmodule:: ste

.. autofunction:: backend

.. autoclass:: Backend

.. py:data:: __version__
   :type: str

   The version of ste-py. ste-core must have the same one.

.. automodule:: ste_core

"""

CPP = """\
# C++

What `#include <ste/ops.h>` declares. The guide is [From C++](../guides/cpp.md).

```{eval-rst}
OVERVIEW
.. autodoxygenfile:: ops.h
   :sections: briefdescription detaileddescription innernamespace func
```
"""

SCHEMAS = """\
# Dispatcher schemas

The ops as PyTorch knows them: `torch.ops.ste.round_ste` and so on, in graphs, in TorchScript and in profiles. Both
backends register the same schemas.

| Python | schema | C++ |
|---|---|---|
"""

# Indented like the text around it.
SURROGATES = "   All surrogates, as data. :doc:`The guide </guides/surrogates>` tabulates and draws them."
RECIPES = "   Recipes of :func:`ste.fake_quantize_blocks` by name. :doc:`The guide </guides/block_formats>` lists them."

VALUES = """\
# Special values

What the ops return where formulas say too little: this page calls them, in float32, with the arguments of the first
column. [The contract](../contract.md) says the same in words.

"""

SLOPES = """
The gradients of the signs, $h(x)$, by [surrogate](../guides/surrogates.md), with its default alpha, to three digits:

"""


def overview(lines: dict[str, str]) -> str:
    """The top of a page: a line for each name, with the markup that refers to it."""
    rows = [row for name, text in lines.items() for row in (f"   * - {name}", f"     - {text}")]
    return "\n".join([".. list-table::", "   :widths: auto", "", *rows, ""])


def first_line(public: Any) -> str:
    if public is TABLE:
        return SURROGATES.strip().split(". ")[0] + "."
    if public is BLOCK_RECIPES:
        return RECIPES.strip().split(". ")[0] + "."
    return " ".join((inspect.getdoc(public) or "").split("\n\n")[0].split())


def reference_to(name: str, public: Any) -> str:
    role = "class" if inspect.isclass(public) else "func" if inspect.isfunction(public) else "data"
    return f":{role}:`~{name}`"


def place_of(public: Any) -> tuple[bool, int, str, int]:
    """The sort key of a name: data first, then by the order below, then by file and line of its definition."""
    if not callable(public):
        return False, 0, "", 0
    name = public.__name__.removesuffix("_fn")
    rank = ORDER.index(name) if name in ORDER else len(ORDER)
    return True, rank, inspect.getfile(public), inspect.getsourcelines(public)[1]


def entry(name: str, public: Any) -> list[str]:
    if public is TABLE:  # autodoc would show the docstring of all tuples; likewise for the recipes
        return [f".. py:data:: {name}", "   :type: tuple[Definition, ...]", "", SURROGATES]
    if public is BLOCK_RECIPES:
        return [f".. py:data:: {name}", "   :type: dict[str, BlockRecipe]", "", RECIPES]
    if not inspect.isclass(public):
        return [f".. autofunction:: {name}"]
    if issubclass(public, torch.nn.Module):
        methods = [method for method in METHODS_OF_QUANTIZERS if hasattr(public, method)]
        return [f".. autoclass:: {name}", f"   :members: {', '.join(methods)}"]
    calls = [] if issubclass(public, Function) else ["   :special-members: __call__"]
    return [f".. autoclass:: {name}", *calls]


def module_page(title: str, module: ModuleType, documented_as: str) -> str:
    names = sorted(module.__all__, key=lambda name: place_of(getattr(module, name)))
    public = {name: getattr(module, name) for name in names}
    described = {reference_to(f"{documented_as}.{name}", public[name]): first_line(public[name]) for name in names}
    here = [f".. currentmodule:: {documented_as}", ""]
    lines = [f"# {title}", "", "```{eval-rst}", *here, overview(described)]
    lines += [f".. automodule:: {module.__name__}", "", *here]
    for name in names:
        lines += [*entry(name, public[name]), ""]
    return "\n".join([*lines, "```", ""])


def backend_page() -> str:
    import ste_core

    described = {
        reference_to("ste.backend", ste.backend): first_line(ste.backend),
        reference_to("ste.Backend", ste.Backend): first_line(ste.Backend),
    }
    lines = []
    for name in ste_core.__all__:
        value = getattr(ste_core, name)
        if name == "__version__":
            lines += [".. py:data:: __version__", "   :type: str", "", "   The version of ste-core."]
        elif inspect.isclass(value):
            lines += [f".. autoclass:: ste_core.{name}", "   :members: library"]
        elif inspect.isfunction(value):
            lines.append(f".. autofunction:: ste_core.{name}")
        else:
            lines += [f".. autodata:: ste_core.{name}", "   :no-value:"]
        lines.append("")
        if callable(value):
            described[reference_to(f"ste_core.{name}", value).replace("~", "")] = first_line(value)
    return "\n".join([BACKEND.replace("OVERVIEW", overview(described)), *lines, "```", ""])


def first_sentence(text: str) -> str:
    """Up to the first stop that is not in parentheses, and without what is in them behind a word."""
    plain = re.sub(r"(?<=[a-z]) \([^)]*\)", "", text)
    return re.split(r"[.:;](?: |$)", plain)[0] + "."


def cpp_page() -> str:
    """The functions of the header, with the first sentence of each comment."""
    found = re.findall(r"((?:^///.*\n)+)STE_API at::Tensor (\w+)\(", HEADER.read_text(), re.MULTILINE)
    comments = {name: " ".join(line.removeprefix("///").strip() for line in text.splitlines()) for text, name in found}
    sentences = {name: first_sentence(text.replace("`", "``")) for name, text in comments.items()}
    return CPP.replace("OVERVIEW", overview({f":cpp:func:`ste::{name}`": text for name, text in sentences.items()}))


def is_in_header(op: Op) -> bool:
    return re.search(rf"\b{op.name}\(", HEADER.read_text()) is not None


def schemas_page() -> str:
    rows = []
    for op in sorted(DISTINCT_OPS, key=lambda op: op.name):
        in_cpp = f"{{cpp:func}}`ste::{op.name}`" if is_in_header(op) else ""
        rows.append(f"| {{func}}`ste.{op.name}` | `{op.overload._schema}` | {in_cpp} |")
    return SCHEMAS + "\n".join(rows) + "\n"


def values_page() -> str:
    x = torch.tensor([-math.inf, -2.5, -1.5, -0.5, -0.0, 0.0, 0.5, 1.5, 2.5, math.inf, math.nan])
    lines = [f"| x | {' | '.join(map(shown, x.tolist()))} |", "|---" * (len(x) + 1) + "|"]
    for op in OPS:
        if all(a.unique().numel() == 1 for a in op.arguments_for(x) if isinstance(a, Tensor)):
            lines.append(f"| `{call(op, x)}` | {' | '.join(map(shown, op(x).tolist()))} |")
    return VALUES + "\n".join(lines) + "\n" + SLOPES + "\n".join(slopes()) + "\n"


def slopes() -> list[str]:
    x = torch.tensor([-math.inf, -1.5, -1.0, -0.5, -0.0, 0.0, 0.5, 1.0, 1.5, math.inf, math.nan])
    lines = [f"| x | {' | '.join(map(shown, x.tolist()))} |", "|---" * (len(x) + 1) + "|"]
    return lines + [f"| `{kind.name}` | {' | '.join(shown(h, 3) for h in slope(kind, x).tolist())} |" for kind in TABLE]


def shown(number: float, digits: int = 6) -> str:
    return f"{number:.{digits}g}".replace("-", "−").replace("inf", "∞")  # noqa: RUF001 - signs of mathematics, on purpose


def write_pages(app: Sphinx) -> None:
    folder = Path(app.srcdir, FOLDER)
    folder.mkdir(exist_ok=True)
    pages = {module.__name__.removeprefix("ste."): module_page(title, module, to) for title, module, to in PAGES}
    pages |= {"backend": backend_page(), "cpp": cpp_page(), "schemas": schemas_page(), "special_values": values_page()}
    for name, text in pages.items():
        (folder / f"{name}.md").write_text(text)


def add_links(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """For an op, its schema, its C++ function and its autograd class; for an autograd class, how to call it."""
    if inspect.isclass(obj) and issubclass(obj, Function):
        lines += ["", f"``{obj.__name__}.apply({', '.join(inspect.signature(obj.forward).parameters)})``"]
    for op in DISTINCT_OPS:
        if op.public is obj:
            links = [f":doc:`schema </{FOLDER}/schemas>` ``{op.overload._schema}``"]
            if is_in_header(op):
                links.append(f"C++ :cpp:func:`ste::{op.name}`")
            links.append(f"class :class:`ste.autograd_ops.{op.name}_fn`")
            lines += ["", f"**See also:** {'; '.join(links)}."]


def without_signature(
    app: Sphinx, what: str, name: str, obj: Any, options: Any, signature: str, returns: str
) -> tuple[str, str] | None:
    """None for an autograd class, which is called by `apply`, and for the list that `ste.nn.quantize` returns."""
    return ("", "") if inspect.isclass(obj) and issubclass(obj, Function | list) else None


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("builder-inited", write_pages)
    app.connect("autodoc-process-docstring", add_links, priority=950)
    app.connect("autodoc-process-signature", without_signature)
    return {"parallel_read_safe": True}
