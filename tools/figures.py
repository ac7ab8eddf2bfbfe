"""Write the figures in the README and on the site's front page, from the results in docs.

`make bench` and `make matrix` run this. Two comments enclose each figure, and the first names it; the rest of the two
files does not change.
"""

import json
import re
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matrix
from bench_targets import NATIVE, Row

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
# The pages that have figures, and the path from each to the folder of the site's pages.
PAGES = {ROOT / "README.md": "docs/", DOCS / "index.md": ""}

TEN_MILLION = 10**7
LARGE = {"dtype": "float32", "layout": "contiguous", "elements": TEN_MILLION, "threads": 1, "memory": "kept"}

# Rows of the matrix that ours pass and neither the idiom nor a Function does: a plain title, the group and the row.
SHOWN = {
    "`torch.compile`: the same bits as eager mode": (
        "`torch.compile(fullgraph=True)`",
        "inductor, values and gradients to the bit, of every value of 16 bits and the special values",
    ),
    "`torch.compile(dynamic=True)`: a quantizer whose scale depends on the batch": (
        "Quantizers in use",
        "`Dynamic` scale, `compile(dynamic=True)`: 8 batch sizes in at most two graphs",
    ),
    "`torch.export`, saved and loaded: values and gradients": (
        "`torch.export` and AOTInductor",
        "saved, and loaded in a fresh process, `STE_BACKEND=auto`, values and gradients",
    ),
    "ONNX: the same bits in ONNX Runtime": (
        "ONNX",
        "`export(dynamo=True)`: standard operators, the same bits in ONNX Runtime (but for a zero's sign, in four ops)",
    ),
    "`torch.autocast`: bounds in float32, x in the lower precision": (
        "Modules, autocast and memory formats",
        "`torch.autocast`: bounds in float32, x in autocast's dtype",
    ),
}


def of(rows: Sequence[Row], **chosen: Any) -> dict[str, float]:
    """The ratio of each competitor in one race. Of one that ran in a process for each backend, the first."""
    raced = [r for r in rows if all(r[field] == value for field, value in chosen.items())]
    return {r["competitor"]: r["ratio"] for r in reversed(raced)}


def costs(rows: Sequence[Row]) -> list[str]:
    """A table of six rows: two steps of training, a call, and three large tensors."""
    threads = sorted({r["threads"] for r in rows if r["section"] == "step"})

    def line(title: str, base: str, names: dict[str, str], *races: dict[str, float], digits: int = 1) -> list[str]:
        if not all(NATIVE in race for race in races):  # make bench QUICK=1 leaves some out
            return []

        def shown(competitor: str) -> str:
            return " / ".join(f"{race[competitor]:.{digits}f}" for race in races)

        others = [f"{name} {shown(key)}" for key, name in names.items() if key in races[0]]
        return [f"| {title} | {base} | **{shown(NATIVE)}** | {', '.join(others)} |"]

    libraries = {"torch.ao": "torch.ao", "torchao": "torchao", "Brevitas": "Brevitas"}
    eager = {"idiom": "detach idiom", "Function": "`autograd.Function`", "Brevitas, Python": "Brevitas"}
    fused = {"composition": "detach idiom", "learnable op of torch": "torch's own", "torch.compile": "compiled idiom"}
    on = " / ".join(map(str, threads))
    steps = [
        line(
            f"training step of {network} with 4 bits, on {on} threads",
            "the same step in float32",
            libraries,
            *(of(rows, section="step", op=name, threads=count) for count in threads),
            digits=2,
        )
        for name, network in (("ResNet-8", "ResNet-8"), ("transformer", "a transformer"))
    ]
    sign = "binary_sign_ste, low=-1"
    return [
        "| time of | relative to | ste | others |",
        "|---|---|---|---|",
        *(row for step in steps for row in step),
        *line("call of `round_ste`", "`torch.round`", eager, of(rows, section="call", op="round_ste")),
        *line(
            "`binary_sign_ste(x, low=-1)` on 10 million numbers",
            "`torch.round`",
            eager,
            of(rows, section="forward", op=sign, **LARGE),
        ),
        *line(
            "`fake_quantize` on 10 million numbers, forward and backward",
            "`x.clone()`, forward and backward",
            fused,
            of(rows, section="fake_quantize and backward", op="per tensor", **LARGE),
        ),
        *line(
            "`fake_quantize_blocks` on 10 million numbers, to MXFP4",
            "`x.clone()`",
            fused | libraries,
            of(rows, section="fake_quantize_blocks", op="mxfp4", **LARGE),
        ),
    ]


def reasons(rows: Sequence[Row], results: Sequence[matrix.Result], docs: str) -> list[str]:
    wrong = {r["op"]: r["ratio"] for r in rows if r["section"] == "inexact" and r["dtype"] == "float32"}
    forward = of(rows, section="fake_quantize", op="per tensor", **LARGE)
    memory = of(rows, section="memory", op="round_ste")
    total = len(results[0]["rows"])
    passed = {
        subject: min(
            sum(not row["not_passed"] for row in result["rows"]) for result in results if result["subject"] == subject
        )
        for subject in matrix.SUBJECTS
    }
    ours = min(passed[subject] for subject in matrix.OURS)
    texts = [
        f"""\
**Exact.** Every value is that of the step, to the bit. The idiom's `x + (f(x) - x)` rounds twice: it gets
{wrong["scalar_clamp_ste"]:.0%} of the values of a clamp to [-0.9, 2.1] in float32 wrong.""",
        f"""\
**One pass.** `fake_quantize` of 10 million numbers takes {forward[NATIVE]:.2f} times as long as copying them; the idiom
takes {forward["composition"]:.1f} times as long. At their peak, forward and backward of `round_ste` need the memory of
{memory[NATIVE]:.0f} tensor; those of the idiom need {memory["idiom"]:.0f}. [All figures]({docs}bench.md).""",
        f"""\
**Every transform.** Of the {total} rows of [the matrix]({docs}matrix.md), from `torch.compile` to ONNX, ste passes
{ours} and refuses the others with an error. The idiom passes {passed["idiom"]}, an `autograd.Function`
{passed["function"]}.""",
    ]
    return [textwrap.fill(f"- {text}", 120, subsequent_indent="  ", break_on_hyphens=False) for text in texts]


def beside_others(results: Sequence[matrix.Result]) -> list[str]:
    """Five rows of the matrix."""
    lines = ["| | ste | detach idiom | Function |", "|---|---|---|---|"]
    for title, (group, name) in SHOWN.items():
        cells: dict[str, set[str]] = {}
        for result in results:
            (row,) = (row for row in result["rows"] if (row["group"], row["row"]) == (group, name))
            cells.setdefault(result["subject"], set()).add(", ".join(matrix.outcomes(row)))
        assert all(cells[subject] == {matrix.PASS} for subject in matrix.OURS)
        (idiom,), (function,) = cells["idiom"], cells["function"]
        assert matrix.PASS not in (idiom, function)
        lines.append(f"| {title} | {matrix.PASS} | {idiom} | {function} |")
    return lines


def trained(networks: Sequence[dict[str, Any]]) -> list[str]:
    right = {network["name"]: network["accuracy"] for network in networks}
    text = f"""\
With `torch.round`, a 4-bit network stays at an accuracy of {right["4 bits, torch.round"]:.1%}: chance. With ste it
reaches {right["4 bits"]:.1%}, or {right["4 bits, learned"]:.1%} with learned scales; full precision reaches
{right["full precision"]:.1%}."""
    return [textwrap.fill(text, 120)]


def figures() -> dict[str, Callable[[str], list[str]]]:
    """By name, a function that takes the path to the folder of the pages."""
    rows: list[Row] = json.loads((DOCS / "bench" / "results.json").read_text())["results"]
    results = matrix.last_results()
    networks = json.loads((DOCS / "demo" / "digits.json").read_text())["networks"]
    return {
        "reasons": lambda docs: reasons(rows, results, docs),
        "demo": lambda _: trained(networks),
        "matrix": lambda _: beside_others(results),
        "costs": lambda _: costs(rows),
    }


def with_figures(text: str, docs: str) -> str:
    for name, lines in figures().items():
        written = "\n".join(["", *lines(docs), "", ""])
        text = re.sub(
            rf"(<!-- figures: {name} -->\n).*?(<!-- end of figures -->)",
            lambda found: found[1] + written + found[2],  # noqa: B023 - called at once
            text,
            flags=re.DOTALL,
        )
    return text


def write() -> None:
    for page, docs in PAGES.items():
        page.write_text(with_figures(page.read_text(), docs))


if __name__ == "__main__":
    write()
