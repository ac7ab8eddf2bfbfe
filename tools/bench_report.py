"""Make the page and the plots of what tools/bench.py measured, and say which targets are met."""

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
from bench_targets import LARGE, NATIVE, PYTHON, TARGETS, Row, partner

# What is no time.
COUNTED = ("memory", "inexact", "instructions", "compiled kernels")


def without_all_threads(rows: Sequence[Row], threads: int) -> list[str]:
    """What is measured of a large tensor on one thread alone, where a loop that has forgotten the others looks fine."""
    ours = [row for row in rows if row["competitor"].startswith(NATIVE) and row["elements"] >= LARGE]
    timed = [row for row in ours if row["section"] not in COUNTED]
    on_all = {(row["section"], row["op"]) for row in timed if row["threads"] == threads}
    return sorted({f"{r['section']} of {r['op']}" for r in timed if (r["section"], r["op"]) not in on_all})


def where(row: Row) -> str:
    parts = [row["op"], row["dtype"], row["layout"], f"{row['elements']:,}"] if row["op"] else []
    return ", ".join(part for part in parts if part)


def summary(rows: Sequence[Row], threads: int) -> list[str]:
    lines = []
    for target in TARGETS:
        text = target.title(threads)
        worst = target.worst(rows, threads)
        if worst is None:
            lines.append(f"not measured: {text}: at most {target.bound:.3g}")
        else:
            value, row = worst
            met = "met" if value <= target.bound else "NOT MET"
            place = f" ({where(row)})" if where(row) else ""
            reason = f": {target.reason}" if target.reason and met != "met" else ""
            lines.append(f"{met}: {text}: at most {target.bound:.3g}, measured {value:.3g}{place}{reason}")
    return lines


def ratio(row: Row) -> str:
    return f"{row['ratio']:.2f} ({row['low']:.2f}-{row['high']:.2f})"


def table(rows: Sequence[Row], columns: Sequence[str], cell: Callable[[Row], str] = ratio) -> list[str]:
    """A line for each op and place, a column for each competitor."""
    lines: dict[str, dict[str, str]] = {}
    for row in rows:
        lines.setdefault(where(row), {}).setdefault(row["competitor"], cell(row))
    present = [c for c in columns if any(c in cells for cells in lines.values())]
    out = [f"| | {' | '.join(present)} |", f"|---|{'---|' * len(present)}"]
    return out + [f"| {name} | {' | '.join(cells.get(c, '') for c in present)} |" for name, cells in lines.items()]


def faster_on_all(rows: Sequence[Row], threads: int, memory: str) -> list[str]:
    """Of each large op, how much faster it is on all threads, beside the limit."""
    lines = []
    for row in rows:
        one = partner(row, rows, threads=1)
        if row["competitor"] == NATIVE and row["threads"] == threads > 1 and row["memory"] == memory and one:
            seconds = (row["seconds"], row["seconds"] / row["ratio"])
            of_one = (one["seconds"], one["seconds"] / one["ratio"])
            cells = [*(f"{s * 1e3:.1f} ms" for s in (of_one[0], seconds[0]))]
            cells += [f"{before / after:.2f}" for before, after in zip(of_one, seconds)]
            lines.append(f"| {row['section']}: {where(row)} | {' | '.join([*cells, ratio(row)])} |")
    head = f"| | one thread | {threads} threads | faster | the limit: faster | {threads} threads: ratio |"
    return [head, "|---|---|---|---|---|---|", *lines, ""]


def on_all_threads(rows: Sequence[Row], threads: int) -> list[str]:
    if threads == 1:
        return []
    rows = [row for row in rows if row["elements"] == LARGE]
    return [
        "## All threads",
        "",
        f"The time on one thread and on all {threads}, and how many times faster that is, for the op and for the",
        "limit: `torch.round`; of `fake_quantize`, `x.clone()`, with its backward where the op has its own; of the",
        "backward, that of `torch.clamp`.",
        "",
        "With each result in new memory from the system, as a process has it that does not ask its allocator for",
        "anything else: most of the time is that of the zeroing of new pages.",
        "",
        *faster_on_all(rows, threads, "new"),
        "With memory that the process has kept:",
        "",
        *faster_on_all(rows, threads, "kept"),
    ]


COLUMNS = [
    NATIVE,
    PYTHON,
    "torch.round",
    "clone",
    "torch.clamp",
    "torch.addcmul",
    "idiom",
    "Function",
    "torch.compile",
    "Brevitas, Python",
    "Brevitas, JIT",
    "Brevitas",
    "torch.ao",
    "torchao",
    "fake_quantize",
    "composition",
    "learnable op of torch",
    "torch.mul",
    "torch's own",
    "as it is written",
]


def steps(rows: Sequence[Row]) -> list[str]:
    """Of training, on each number of threads."""
    named = []
    for row in rows:
        if row["section"].startswith("step"):
            compiled = ", compiled" if row["section"] == "step, compiled" else ""
            threads = "one thread" if row["threads"] == 1 else f"{row['threads']} threads"
            named.append({**row, "op": f"{row['op']}{compiled}, {threads}"})
    return [
        "## A training step",
        "",
        "Forward, backward and the update of SGD, as a ratio to the same step in float32, which is compiled where this",
        "is. Weights of 4 bits with a scale per channel, inputs of 4 bits with one scale: learned; of torch.ao,",
        "observed. torchao has no convolutions; its inputs have 8 bits, with a scale for each token.",
        "",
        *table(named, COLUMNS),
        "",
    ]


def of_one_thread(rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows if row["threads"] == 1 and row["memory"] == "kept" and row["elements"] != LARGE]


def plot_forward(rows: Sequence[Row], file: Path) -> None:
    """The ratio of each op, at each size."""
    chosen = [
        row
        for row in of_one_thread(rows)
        if row["section"] == "forward" and row["dtype"] == "float32" and row["layout"] == "contiguous"
    ]
    sizes = sorted({r["elements"] for r in chosen})
    figure, axes = plt.subplots(
        1, len(sizes), figsize=(5 * len(sizes), 5), sharey=True, squeeze=False, layout="constrained"
    )
    for axis, size in zip(axes[0], sizes):
        ops = list(dict.fromkeys(r["op"] for r in chosen))
        for competitor in (NATIVE, PYTHON, "idiom", "Function", "torch.compile"):
            by_op = {r["op"]: r["ratio"] for r in chosen if r["elements"] == size and r["competitor"] == competitor}
            axis.plot([by_op.get(op) for op in ops], range(len(ops)), "o", label=competitor)
        axis.axvline(1, color="grey", linewidth=0.8)
        axis.set(xscale="log", title=f"{size:,} elements", xlabel="time / time of torch.round")
        axis.set_yticks(range(len(ops)), ops)
    axes[0, 0].invert_yaxis()
    axes[0, -1].legend()
    figure.savefig(file, dpi=110)
    plt.close(figure)


def plot_growth(rows: Sequence[Row], file: Path) -> None:
    chosen = [r for r in rows if r["section"] == "growth"]
    ops = list(dict.fromkeys(r["op"] for r in chosen))
    figure, axes = plt.subplots(1, len(ops), figsize=(4.5 * len(ops), 4.5), sharey=True, layout="constrained")
    for axis, op in zip(axes, ops):
        for threads, style in zip(sorted({r["threads"] for r in chosen}), ("-", "--")):
            for competitor in ("torch.round", NATIVE, "idiom"):
                line = [r for r in chosen if (r["op"], r["threads"], r["competitor"]) == (op, threads, competitor)]
                points = sorted((r["elements"], r["seconds"]) for r in line)
                axis.plot(*zip(*points), style, label=f"{competitor}, {threads} thread{'s' * (threads > 1)}")
        axis.set(xscale="log", yscale="log", title=op, xlabel="elements")
    axes[0].set_ylabel("seconds")
    axes[0].legend()
    figure.savefig(file, dpi=110)
    plt.close(figure)


def instructions(rows: Sequence[Row]) -> list[str]:
    """Instructions of a call, by cause, and what ours takes more."""
    if not rows:
        return []
    title = "## Instructions of a call"
    text = "As callgrind counts them, of one call with 8 elements and `requires_grad`, by where they are spent."
    lines = [title, "", text, "", "| | torch.round | ste.round_ste | difference |", "|---|---|---|---|"]
    totals = [0.0, 0.0]
    for cause in dict.fromkeys(r["op"] for r in rows):
        of_cause = {r["competitor"]: r["ratio"] for r in rows if r["op"] == cause}
        counts = [of_cause[name] for name in ("torch.round", NATIVE)]
        totals = [total + count for total, count in zip(totals, counts)]
        lines.append(f"| {cause} | {counts[0]:,.0f} | {counts[1]:,.0f} | {counts[1] - counts[0]:+,.0f} |")
    return [*lines, f"| total | {totals[0]:,.0f} | {totals[1]:,.0f} | {totals[1] - totals[0]:+,.0f} |", ""]


def main() -> None:
    file = Path(sys.argv[1])
    data = json.loads(file.read_text())
    rows: list[Row] = data["results"]
    for row in rows:
        row["competitor"] = row["competitor"].replace("ste, Python", PYTHON)
    plot_forward(rows, file.parent / "forward.png")
    plot_growth(rows, file.parent / "growth.png")
    threads: int = data["machine"]["threads"]
    lines = summary(rows, threads)
    if missing := without_all_threads(rows, threads):
        sys.exit(f"measured on one thread, and not on all {threads}: {'; '.join(missing)}")
    inexact = {(r["op"], r["dtype"]): r["ratio"] for r in rows if r["section"] == "inexact"}

    def with_errors(row: Row) -> str:
        share = inexact.get((row["op"], row["dtype"])) if row["competitor"] == "idiom" else None
        return ratio(row) if share is None else f"{ratio(row)}, **{share:.0%} wrong**"

    def section(title: str, text: str, name: str, cell: Callable[[Row], str] = ratio) -> list[str]:
        chosen = [row for row in of_one_thread(rows) if row["section"] == name]
        return [f"## {title}", "", text, "", *table(chosen, COLUMNS, cell), ""] if chosen else []

    described = ", ".join(f"{key} {value}" for key, value in data["machine"].items())
    page = [
        "# Speed",
        "",
        "Made by `make bench`. Each number is a ratio to `torch.round` on the same tensor, measured in turns with it:",
        "the median, and the quartiles in brackets. It is measured on one thread, but for “All threads”, the dashed",
        "lines of “Growth”, and the targets that name all threads. Memory that is freed stays with the process, but",
        "where new memory is named: the time is that of the ops and not of new pages from the system.",
        "",
        f"Machine: {described}.",
        "",
        "## Targets",
        "",
        "The worst of all the cases that a target is for.",
        "",
        *(f"- {line}" for line in lines),
        "",
        *section("The call", "8 elements, `requires_grad`, forward.", "call"),
        *section("The call with its backward", "8 elements, forward and backward.", "call and backward"),
        *instructions([r for r in rows if r["section"] == "instructions"]),
        *section(
            "Large tensors",
            "Forward. Beside the idiom's time, the share of elements, of a normal distribution with a standard\n"
            "deviation of 3, for which `x + (f(x) - x).detach()` is not `f(x)`.",
            "forward",
            with_errors,
        ),
        f"![ratios]({file.parent.name}/forward.png)",
        "",
        *on_all_threads(rows, threads),
        *section("Backward of `tensor_clamp`", "As a ratio to that of `torch.clamp`.", "backward"),
        *section(
            "`fake_quantize`",
            "Forward, with 4 bits, as a ratio to `x.clone()`; the composition is that of the detach idiom and a clamp.",
            "fake_quantize",
        ),
        *section(
            "`fake_quantize` and its backward",
            "Gradients to x and to the scale, as a ratio to `x.clone()` and its backward.",
            "fake_quantize and backward",
        ),
        *section(
            "`fake_quantize_float`",
            "Forward, to e4m3fn, as a ratio to `x.clone()`; beside it `fake_quantize` to 8 bits.",
            "fake_quantize_float",
        ),
        *section(
            "`fake_quantize_blocks`",
            "Forward, in blocks of 32, as a ratio to `x.clone()`.",
            "fake_quantize_blocks",
        ),
        *section(
            "Surrogate gradients",
            "The backward alone, as a ratio to the product of g and x. Beside it torch's own backward of the function\n"
            "that the surrogate is the derivative of, and the formula in eager PyTorch, as others have it.",
            "surrogate",
        ),
        *section("Memory", "Peak of forward and backward, in tensors of x's size.", "memory"),
        *steps(rows),
        *section("Compiled", "A quantizer, forward and backward, as a ratio to the same one by the idiom.", "compiled"),
        "## Growth",
        "",
        f"![growth]({file.parent.name}/growth.png)",
        "",
        "## Exactness",
        "",
        "The share of elements for which the idiom is wrong, by dtype. The bounds are -0.9 and 2.1. (With integers as",
        "bounds it is exact at this size of x, but for the sign of a zero, which is not counted.)",
        "",
        *table(
            [{**r, "competitor": r["dtype"], "dtype": ""} for r in rows if r["section"] == "inexact"],
            ["float64", "float32", "float16", "bfloat16"],
            lambda r: f"{r['ratio']:.1%}",
        ),
        "",
    ]
    file.parent.with_suffix(".md").write_text("\n".join(page))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
