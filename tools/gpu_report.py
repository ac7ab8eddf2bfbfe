"""Write the site's page about what tools/gpu.py found on a GPU, from its JSON.

    python tools/gpu_report.py OUT/gpu.json

The JSON is kept beside the page, in docs/gpu/. Without any, the page says that nothing has run yet.
"""

import json
import math
import re
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "gpu.md"
RESULTS = ROOT / "docs" / "gpu"
LARGEST = 64 * (1 << 20)
SMALLEST = 8

OURS = "ste, native"

Race = dict[str, Any]


@dataclass(frozen=True)
class Target:
    """A promise about some of the races.

    Attributes:
        text: What is promised.
        bound: The value to reach, or not to exceed.
        applies: Whether the target applies to a race.
        value: The value to compare with the bound.
        at_least: Whether more is better.
    """

    text: str
    bound: float
    applies: Callable[[Race], bool]
    value: Callable[[Race], float]
    at_least: bool = True

    def line(self, races: Sequence[Race]) -> str:
        found = [(value, race) for race in races if self.applies(race) and not math.isnan(value := self.value(race))]
        sign = "at least" if self.at_least else "at most"
        if not found:
            return f"not measured: {self.text}: {sign} {self.bound:g}"
        value, race = (min if self.at_least else max)(found, key=lambda pair: pair[0])
        met = value >= self.bound if self.at_least else value <= self.bound
        where = f"{race['op']}, {race['dtype']}, {race['elements']:,}"
        return f"{'met' if met else 'NOT MET'}: {self.text}: {sign} {self.bound:g}, measured {value:.3g} ({where})"


def times_faster(other: str) -> Callable[[Race], float]:
    def value(race: Race) -> float:
        seconds = race["seconds"]
        return float(seconds[other] / seconds[OURS]) if other in seconds and OURS in seconds else math.nan

    return value


def share(race: Race) -> float:
    return math.nan if race["share"] is None else float(race["share"])


def is_training(race: Race) -> bool:
    return race["section"] == "forward and backward" and str(race["op"]).startswith("fake_quantize,")


TARGETS = [
    Target(
        "forward at 64 M elements: share of the copy's bandwidth",
        0.8,
        lambda r: r["section"] == "forward" and r["elements"] == LARGEST,
        share,
    ),
    Target(
        "backward with sums at 64 M elements: share of the copy's bandwidth",
        0.7,
        lambda r: r["section"] == "backward" and r["elements"] == LARGEST,
        share,
    ),
    Target(
        "gradient of a surrogate at 64 M elements: share of the copy's bandwidth",
        0.7,
        lambda r: r["section"] == "gradient" and r["elements"] == LARGEST,
        share,
    ),
    Target(
        "a call, as a multiple of torch.round",
        1.2,
        lambda r: r["section"] == "forward" and r["elements"] == SMALLEST,
        lambda r: 1 / times_faster("torch.round")(r),
        at_least=False,
    ),
    Target(
        "fake_quantize, forward and backward: times faster than torch's learnable op",
        5,
        lambda r: is_training(r) and r["elements"] == LARGEST,
        times_faster("learnable op of torch"),
    ),
    Target(
        "fake_quantize, forward and backward: times faster than torch.compile",
        1.2,
        lambda r: is_training(r) and r["elements"] == LARGEST,
        times_faster("torch.compile"),
    ),
]


def copies(races: Sequence[Race]) -> str:
    """The bandwidth of x.clone() at the largest size, by which the shares are divided."""
    width = {"float32": 4, "bfloat16": 2, "float16": 2}
    largest = max((race["elements"] for race in races), default=0)
    rates = {
        race["dtype"]: 2 * largest * width[race["dtype"]] / race["seconds"]["clone"] / 1e9
        for race in races
        if race["section"] == "forward" and race["elements"] == largest
    }
    return "copy, GB/s: " + ", ".join(f"{dtype} {rate:,.0f}" for dtype, rate in rates.items())


def summary(results: dict[str, Any]) -> list[str]:
    """A short table: the machine, what passed, the targets, and at the end what failed."""
    lines = [", ".join(f"{key} {value}" for key, value in results["machine"].items())]
    if "tests" in results:
        tests = results["tests"]
        lines.append(f"tests: {tests['passed']} passed, {len(tests['failed'])} failed, {tests['skipped']} skipped")
    if "checks" in results:
        failed = sum(bool(check["error"]) for check in results["checks"])
        lines.append(f"checks: {len(results['checks']) - failed} passed, {failed} failed")
    for tool, result in results.get("sanitizer", {}).items():
        calls = result["calls"][0]["calls"] if result["calls"] else 0
        lines.append(f"sanitizer, {tool}: {calls} calls, {'clean' if result['status'] == 0 else 'NOT CLEAN'}")
    if "races" in results:
        lines += [copies(results["races"]), *(target.line(results["races"]) for target in TARGETS)]
    lines.append(f"seconds: {', '.join(f'{step} {seconds:.0f}' for step, seconds in results['seconds'].items())}")
    failures = results["failures"]
    return lines + ([f"{len(failures)} failed:", *failures[:40]] if failures else ["nothing failed"])


COLUMNS = (
    *(OURS, "torch.round", "torch.mul", "idiom", "composition", "as it is written", "Function", "torch.compile"),
    *("learnable op of torch", "torch's own"),
)


def tables(races: Sequence[Race]) -> Iterator[str]:
    for section in dict.fromkeys(race["section"] for race in races):
        of_section = [race for race in races if race["section"] == section]
        present = [c for c in COLUMNS if any(c in race["seconds"] for race in of_section)]
        yield from (f"## {section.capitalize()}", "")
        yield "| | clone, µs | " + " | ".join(present) + " | share |"
        yield "|---|---|" + "---|" * (len(present) + 1)
        for race in of_section:
            seconds = race["seconds"]
            cells = [f"{seconds[c] / seconds['clone']:.2f}" if c in seconds else "" for c in present]
            last = "" if race["share"] is None else f"{race['share']:.0%}"
            where = f"{race['op']}, {race['dtype']}, {race['elements']:,}"
            yield f"| {where} | {seconds['clone'] * 1e6:.1f} | {' | '.join(cells)} | {last} |"
        yield ""


def page(results: dict[str, Any] | None) -> str:
    if results is None:
        text = (
            "The CUDA kernels are compiled and statically checked (`make cuda`), but have not run on a GPU yet. On a\n"
            "machine with one, `python tools/gpu.py --all OUT` builds, proves and times everything within nine\n"
            "minutes, and `python tools/gpu_report.py OUT/gpu.json` writes this page from its results."
        )
        return f"# On a GPU\n\n{text}\n"
    lines = [
        "# On a GPU",
        "",
        "Written by `tools/gpu_report.py` from what `python tools/gpu.py --all OUT` found. Times are measured by the",
        "device's own clock and divided by that of `x.clone()` on the same tensor (with a backward, by that of `clone`",
        "with its backward). The share is the bandwidth at which an op moves the tensors that it must read and write,",
        "divided by that of the copy.",
        "",
        "```text",
        *summary(results),
        "```",
        "",
        *tables(results["races"]),
    ]
    return "\n".join(lines)


def main() -> None:
    if len(sys.argv) > 1:
        results = json.loads(Path(sys.argv[1]).read_text())
        if results["machine"]["device"] != "cuda":
            sys.exit("these results are from a rehearsal without a GPU")
        RESULTS.mkdir(exist_ok=True)
        card = re.sub(r"[^a-z0-9]+", "-", results["machine"]["card"].lower())
        shutil.copy(sys.argv[1], RESULTS / f"{card}.json")
    found = [json.loads(file.read_text()) for file in RESULTS.glob("*.json")]
    PAGE.write_text(page(max(found, key=lambda results: str(results["machine"]["date"]), default=None)))


if __name__ == "__main__":
    main()
