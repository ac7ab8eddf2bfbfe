"""Write the page about what tools/bench.py measured, its plots and its tables, and print which targets are met."""

import json
import sys
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path

import bench_plots
import figures
from bench_targets import LARGE, NATIVE, PYTHON, TARGETS, Row, Target, of_one_thread, partner
from matrix import PASS, SYMBOLS

# Sections that do not measure time.
COUNTED = ("memory", "inexact", "instructions", "compiled kernels")


def without_all_threads(rows: Sequence[Row], threads: int) -> list[str]:
    """Large tensors that were measured on one thread only, where a loop that ignores the other threads looks fine."""
    ours = [row for row in rows if row["competitor"].startswith(NATIVE) and row["elements"] >= LARGE]
    timed = [row for row in ours if row["section"] not in COUNTED]
    on_all = {(row["section"], row["op"]) for row in timed if row["threads"] == threads}
    return sorted({f"{r['section']} of {r['op']}" for r in timed if (r["section"], r["op"]) not in on_all})


def where(row: Row) -> str:
    parts = [row["op"], row["dtype"], row["layout"], f"{row['elements']:,}"] if row["op"] else []
    return ", ".join(part for part in parts if part)


def judged(target: Target, rows: Sequence[Row], threads: int) -> tuple[bool | None, str, str]:
    """Whether the target is met, the value in the worst case, and that case, with the reason for a miss."""
    worst = target.worst(rows, threads)
    if worst is None:
        return None, "", "not measured"
    value, row = worst
    met = value <= target.bound
    return (
        met,
        f"{value:.3g} {target.unit}",
        ": ".join(part for part in (where(row), target.reason if not met else "") if part),
    )


def summary(rows: Sequence[Row], threads: int) -> list[str]:
    """One line for each target, to print."""
    lines = []
    for target in TARGETS:
        met, value, case = judged(target, rows, threads)
        verdict = {True: "met", False: "NOT MET", None: "not measured"}[met]
        lines.append(f"{verdict}: {target.title(threads)}: {value} (target {target.bound:.3g}){case and f': {case}'}")
    return lines


def targets(rows: Sequence[Row], threads: int) -> list[str]:
    """A table for each number of threads."""
    found = [(target, *judged(target, rows, threads)) for target in TARGETS]
    met = sum(1 for _, is_met, *_ in found if is_met)
    lines = ["## Targets", "", f"{met} of {len(found)} are met. Each is judged by its worst case.", ""]
    for kind, title in (
        ("one", "On one thread"),
        ("all", f"On {threads} threads"),
        ("", "On any number of threads"),
    ):
        lines += [f"### {title}", "", "| | target | measured | worst case |", "|---|---|---|---|"]
        for target, is_met, value, case in found:
            if target.threads == kind:
                mark = {True: PASS, False: SYMBOLS["wrong"], None: "?"}[is_met]
                lines.append(f"| {mark} {target.text} | {target.bound:.3g} | {value} | {case} |")
        lines.append("")
    return lines


def exactness(rows: Sequence[Row]) -> list[str]:
    """Where the idiom is wrong, in float32, most often first."""
    shares = {r["op"].split(",")[0]: r["ratio"] for r in rows if r["section"] == "inexact" and r["dtype"] == "float32"}
    wrong = [f"{share:.1%} (`{op}`)" for op, share in sorted(shares.items(), key=lambda pair: -pair[1]) if share]
    text = f"""\
The idiom `x + (f(x) - x).detach()` rounds twice. On numbers from a normal distribution with a standard deviation of 3,
in float32 and with the bounds -0.9 and 2.1, it differs from `f(x)` for this share of them: {", ".join(wrong)}. For
the roundings and the signs of these numbers it does not differ."""
    return ["## Exactness", "", textwrap.fill(text, 120), ""]


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
    """How much faster each large op is on all threads, beside the limit."""
    lines = []
    for row in rows:
        one = partner(row, rows, threads=1)
        if row["competitor"] == NATIVE and row["threads"] == threads > 1 and row["memory"] == memory and one:
            seconds = (row["seconds"], row["seconds"] / row["ratio"])
            of_one = (one["seconds"], one["seconds"] / one["ratio"])
            cells = [*(f"{s * 1e3:.1f} ms" for s in (of_one[0], seconds[0]))]
            cells += [f"{before / after:.2f}" for before, after in zip(of_one, seconds)]
            lines.append(f"| {row['section']}: {where(row)} | {' | '.join([*cells, ratio(row)])} |")
    head = f"| | one thread | {threads} threads | speedup | speedup of the limit | ratio on {threads} threads |"
    return [head, "|---|---|---|---|---|---|", *lines, ""]


def on_all_threads(rows: Sequence[Row], threads: int) -> list[str]:
    if threads == 1:
        return []
    rows = [row for row in rows if row["elements"] == LARGE]
    return [
        "## All threads",
        "",
        f"The time on one thread and on all {threads}, and the speedup, for the op and for the limit: `torch.round`;",
        "`x.clone()` for `fake_quantize`, with its backward where the op has its own; for the backward, that of",
        "`torch.clamp`.",
        "",
        "With each result in new memory from the system, as in a process that does not configure its allocator: most",
        "of the time goes into zeroing new pages.",
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
    """Training steps, on each number of threads."""
    named = []
    for row in rows:
        if row["section"].startswith("step"):
            compiled = ", compiled" if row["section"] == "step, compiled" else ""
            threads = "one thread" if row["threads"] == 1 else f"{row['threads']} threads"
            named.append({**row, "op": f"{row['op']}{compiled}, {threads}"})
    return [
        "## A training step",
        "",
        "Forward, backward and the SGD update, divided by the same step in float32, which is compiled if this one is.",
        "Weights have 4 bits with one scale per channel, inputs 4 bits with one scale. The scales are learned;",
        "torch.ao observes them. torchao has no convolutions; its inputs have 8 bits, with one scale per token.",
        "",
        *table(named, COLUMNS),
        "",
    ]


def instructions(rows: Sequence[Row]) -> list[str]:
    """Instructions of a call, by cause, and how many more ours takes."""
    if not rows:
        return []
    title = "## Instructions of a call"
    text = "One call with 8 elements and `requires_grad`, counted by callgrind, by where the instructions are spent."
    lines = [title, "", text, "", "| | torch.round | ste.round_ste | difference |", "|---|---|---|---|"]
    totals = [0.0, 0.0]
    for cause in dict.fromkeys(r["op"] for r in rows):
        of_cause = {r["competitor"]: r["ratio"] for r in rows if r["op"] == cause}
        counts = [of_cause[name] for name in ("torch.round", NATIVE)]
        totals = [total + count for total, count in zip(totals, counts)]
        lines.append(f"| {cause} | {counts[0]:,.0f} | {counts[1]:,.0f} | {counts[1] - counts[0]:+,.0f} |")
    return [*lines, f"| total | {totals[0]:,.0f} | {totals[1]:,.0f} | {totals[1] - totals[0]:+,.0f} |", ""]


def all_tables(rows: Sequence[Row], machine: Row) -> str:
    """Every number that was measured, in a file to download."""
    inexact = {(r["op"], r["dtype"]): r["ratio"] for r in rows if r["section"] == "inexact"}

    def with_errors(row: Row) -> str:
        share = inexact.get((row["op"], row["dtype"])) if row["competitor"] == "idiom" else None
        return ratio(row) if share is None else f"{ratio(row)}, **{share:.0%} wrong**"

    def section(title: str, text: str, name: str, cell: Callable[[Row], str] = ratio) -> list[str]:
        chosen = [row for row in of_one_thread(rows) if row["section"] == name]
        return [f"## {title}", "", text, "", *table(chosen, COLUMNS, cell), ""] if chosen else []

    lines = [
        "# Speed: all tables",
        "",
        "Written by `make bench`. Each number is a time divided by that of `torch.round` on the same tensor, measured",
        "in turns with it: the median, with the quartiles in parentheses. All are measured on one thread, except under",
        "“All threads”. The process keeps freed memory, except where new memory is mentioned, so that the time is that",
        "of the ops and not of new pages from the system.",
        "",
        described(machine),
        "",
        *section("The call", "8 elements, `requires_grad`, forward.", "call"),
        *section("The call with its backward", "8 elements, forward and backward.", "call and backward"),
        *instructions([r for r in rows if r["section"] == "instructions"]),
        *section(
            "Large tensors",
            "Forward. Beside the idiom's time is the share of elements, from a normal distribution with a standard\n"
            "deviation of 3, for which `x + (f(x) - x).detach()` is not `f(x)`.",
            "forward",
            with_errors,
        ),
        *on_all_threads(rows, machine["threads"]),
        *section("Backward of `tensor_clamp`", "Divided by that of `torch.clamp`.", "backward"),
        *section(
            "`fake_quantize`",
            "Forward, with 4 bits, divided by `x.clone()`. The composition consists of the detach idiom and a clamp.",
            "fake_quantize",
        ),
        *section(
            "`fake_quantize` and its backward",
            "Gradients to x and to the scale, divided by `x.clone()` and its backward.",
            "fake_quantize and backward",
        ),
        *section(
            "`fake_quantize_float`",
            "Forward, to e4m3fn, divided by `x.clone()`; `fake_quantize` to 8 bits for comparison.",
            "fake_quantize_float",
        ),
        *section(
            "`fake_quantize_blocks`",
            "Forward, in blocks of 32, divided by `x.clone()`.",
            "fake_quantize_blocks",
        ),
        *section(
            "Surrogate gradients",
            "The backward alone, divided by the product of g and x. For comparison: torch's own backward of the\n"
            "function whose derivative the surrogate is, and the formula in eager PyTorch, as other libraries have it.",
            "surrogate",
        ),
        *section("Memory", "Peak of forward and backward, in tensors of x's size.", "memory"),
        *steps(rows),
        *section(
            "Compiled",
            "A quantizer, forward and backward, divided by the same quantizer written with the idiom.",
            "compiled",
        ),
        "## Exactness",
        "",
        "The share of elements for which the idiom is wrong, by dtype. The bounds are -0.9 and 2.1. (With integer",
        "bounds it is exact at this size of x, except for the sign of a zero, which is not counted.)",
        "",
        *table(
            [{**r, "competitor": r["dtype"], "dtype": ""} for r in rows if r["section"] == "inexact"],
            ["float64", "float32", "float16", "bfloat16"],
            lambda r: f"{r['ratio']:.1%}",
        ),
        "",
    ]
    return "\n".join(lines)


def described(machine: Row) -> str:
    return f"Machine: {', '.join(f'{key} {value}' for key, value in machine.items())}."


def page(rows: Sequence[Row], machine: Row, folder: str) -> str:
    """The page to read: two plots, a table, and the targets."""

    def plot(name: str, text: str) -> list[str]:
        return [
            line
            for theme in bench_plots.THEMES
            for line in (
                f"```{{image}} {folder}/{name}-{theme}.svg",
                f":alt: {text}",
                f":class: only-{theme}",
                "```",
                "",
            )
        ]

    lines = [
        "# Speed",
        "",
        "Written by `make bench`. Each number is a time divided by another that was measured in turns with it: the",
        "median.",
        "",
        described(machine),
        "",
        "## A training step",
        "",
        "Forward, backward and the SGD update, divided by the same step in float32. Weights have 4 bits with one scale",
        "per channel, and inputs have 4 bits. The scales are learned; torch.ao observes them. torchao has no",
        "convolutions; its inputs have 8 bits, with one scale per token.",
        "",
        *plot("steps", "bars of the time of a training step with ste, torch.ao, torchao and Brevitas"),
        "## Large tensors",
        "",
        "Forward, 10 million numbers in float32, on one thread, divided by `torch.round`, or by `x.clone()` for",
        "`fake_quantize` and its siblings.",
        "",
        *plot(
            "large",
            "for each op, the time of ste, the detach idiom, a Function and compiled code, on a logarithmic scale",
        ),
        "## In six rows",
        "",
        *figures.costs(rows),
        "",
        "On one thread unless stated otherwise, in float32.",
        "",
        *exactness(rows),
        *targets(rows, machine["threads"]),
        "## Everything else",
        "",
        f"- {{download}}`All tables <{folder}/all.md>`: each op, dtype, layout and size, with quartiles.",
        f"- {{download}}`All numbers <{folder}/results.json>`, in JSON.",
        f"- {{download}}`Growth <{folder}/growth.png>`: a plot of the time from 1 element to 100 million.",
        "",
    ]
    return "\n".join(lines)


def load(file: Path) -> tuple[list[Row], Row]:
    """The results, and the machine that they come from."""
    data = json.loads(file.read_text())
    rows: list[Row] = data["results"]
    for row in rows:
        row["competitor"] = row["competitor"].replace("ste, Python", PYTHON)
    return rows, data["machine"]


def main() -> None:
    file = Path(sys.argv[1])
    rows, machine = load(file)
    if missing := without_all_threads(rows, machine["threads"]):
        sys.exit(f"measured on one thread but not on all {machine['threads']}: {'; '.join(missing)}")
    bench_plots.draw_all(rows, file.parent)
    file.with_name("all.md").write_text(all_tables(rows, machine))
    file.parent.with_suffix(".md").write_text(page(rows, machine, file.parent.name))
    print("\n".join(summary(rows, machine["threads"])))


if __name__ == "__main__":
    main()
