"""Make the page of what tools/bench.py measured, its plots, and the tables beside it, and say which targets are met."""

import json
import sys
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path

import bench_plots
import figures
from bench_targets import LARGE, NATIVE, PYTHON, TARGETS, Row, Target, of_one_thread, partner
from matrix import PASS, SYMBOLS

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


def judged(target: Target, rows: Sequence[Row], threads: int) -> tuple[bool | None, str, str]:
    """Whether it is met, what was measured in the worst of its cases, and which that is, with the reason of a miss."""
    worst = target.worst(rows, threads)
    if worst is None:
        return None, "", "not measured"
    value, row = worst
    met = value <= target.bound
    return met, f"{value:.3g}", ": ".join(part for part in (where(row), target.reason if not met else "") if part)


def summary(rows: Sequence[Row], threads: int) -> list[str]:
    """What is printed: a line for each target."""
    lines = []
    for target in TARGETS:
        met, value, case = judged(target, rows, threads)
        verdict = {True: "met", False: "NOT MET", None: "not measured"}[met]
        lines.append(f"{verdict}: {target.title(threads)}: at most {target.bound:.3g}, measured {value} ({case})")
    return lines


def targets(rows: Sequence[Row], threads: int) -> list[str]:
    """A table for each number of threads."""
    found = [(target, *judged(target, rows, threads)) for target in TARGETS]
    met = sum(1 for _, is_met, *_ in found if is_met)
    lines = ["## Targets", "", f"{met} of {len(found)} are met. Each is judged by the worst of its cases.", ""]
    for kind, title in (
        ("one", "On one thread"),
        ("all", f"On all {threads} threads"),
        ("", "On any number of threads"),
    ):
        lines += [f"### {title}", "", "| | at most | measured | in the worst case |", "|---|---|---|---|"]
        for target, is_met, value, case in found:
            if target.threads == kind:
                mark = {True: PASS, False: SYMBOLS["wrong"], None: "?"}[is_met]
                lines.append(f"| {mark} {target.text} | {target.bound:.3g} | {value} | {case} |")
        lines.append("")
    return lines


def exactness(rows: Sequence[Row]) -> list[str]:
    """Where the idiom is wrong, in float32, from the most to the least."""
    shares = {r["op"].split(",")[0]: r["ratio"] for r in rows if r["section"] == "inexact" and r["dtype"] == "float32"}
    wrong = [f"`{op}` {share:.1%}" for op, share in sorted(shares.items(), key=lambda pair: -pair[1]) if share]
    text = f"""\
The idiom `x + (f(x) - x).detach()` rounds twice. Of numbers from a normal distribution with a standard deviation of 3,
in float32 and with the bounds -0.9 and 2.1, it gives another value than `f(x)` for {", ".join(wrong)}. For the
roundings and the signs of such numbers it gives the same."""
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


def all_tables(rows: Sequence[Row], machine: Row) -> str:
    """Each number that was measured, in a file to be downloaded."""
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
        "Made by `make bench`. Each number is a ratio to `torch.round` on the same tensor, measured in turns with it:",
        "the median, and the quartiles in brackets. It is measured on one thread, but for “All threads”. Memory that",
        "is freed stays with the process, but where new memory is named: the time is that of the ops and not of new",
        "pages from the system.",
        "",
        described(machine),
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
        *on_all_threads(rows, machine["threads"]),
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
    return "\n".join(lines)


def described(machine: Row) -> str:
    return f"Machine: {', '.join(f'{key} {value}' for key, value in machine.items())}."


def page(rows: Sequence[Row], machine: Row, folder: str) -> str:
    """What is to be read: two plots, a table, and the targets."""

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
        "Made by `make bench`. Each number is a time as a multiple of another one, measured in turns with it: the",
        "median.",
        "",
        described(machine),
        "",
        "## A training step",
        "",
        "Forward, backward and the update of SGD, with weights of 4 bits, a scale for each channel, and inputs of 4",
        "bits: the time of the same step in float32 is 1. The scales are learned; torch.ao observes them. torchao has",
        "no convolutions, and inputs of 8 bits, with a scale for each token.",
        "",
        *plot("steps", "bars of the time of a training step, of ste, torch.ao, torchao and Brevitas"),
        "## Large tensors",
        "",
        "Forward, 10 million numbers in float32, on one thread. The time of `torch.round` is 1, or that of `x.clone()`",
        "for `fake_quantize` and its siblings.",
        "",
        *plot(
            "large",
            "for each op, the time of ste, the detach idiom, a Function and compiled code, on a logarithmic scale",
        ),
        "## In six rows",
        "",
        *figures.costs(rows),
        "",
        "On one thread where no other number is given, in float32.",
        "",
        *exactness(rows),
        *targets(rows, machine["threads"]),
        "## Everything else",
        "",
        f"- {{download}}`All tables <{folder}/all.md>`: each op, dtype, layout and size, with quartiles.",
        f"- {{download}}`All numbers <{folder}/results.json>`, in JSON.",
        f"- {{download}}`Growth <{folder}/growth.png>`: the time from 8 to 100 million elements, as a plot.",
        "",
    ]
    return "\n".join(lines)


def load(file: Path) -> tuple[list[Row], Row]:
    """The results, and the machine that they are from."""
    data = json.loads(file.read_text())
    rows: list[Row] = data["results"]
    for row in rows:
        row["competitor"] = row["competitor"].replace("ste, Python", PYTHON)
    return rows, data["machine"]


def main() -> None:
    file = Path(sys.argv[1])
    rows, machine = load(file)
    if missing := without_all_threads(rows, machine["threads"]):
        sys.exit(f"measured on one thread, and not on all {machine['threads']}: {'; '.join(missing)}")
    bench_plots.draw_all(rows, file.parent)
    file.with_name("all.md").write_text(all_tables(rows, machine))
    file.parent.with_suffix(".md").write_text(page(rows, machine, file.parent.name))
    print("\n".join(summary(rows, machine["threads"])))


if __name__ == "__main__":
    main()
