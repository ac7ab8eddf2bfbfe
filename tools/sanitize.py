"""Run tests and a fuzzer on a ste-core with AddressSanitizer and UBSan in it, once for each instruction set.

    python tools/sanitize.py build/sanitize/torch-2.13.0 docs/sanitize

The first folder has the package, which `make sanitize` compiles. Both libraries must have the sanitizers' checks, and
what a sanitizer reports ends its process, and so its run. Writes the results to a file in the second folder, and the
page of all that it has beside it; ends with 1 if something failed.
"""

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from bench_system import machine

ROOT = Path(__file__).parent.parent

# Values, gradients, layouts and errors; saved tensors, and calls at random.
TESTS = (
    *("test_forward", "test_gradient", "test_ml_dtypes", "test_surrogates", "test_ranges"),
    *("test_fake_quantize", "test_fake_quantize_float", "test_fake_quantize_blocks", "test_rounding_at_random"),
    *("test_stochastic_round", "test_straight_through"),
    *("test_layouts", "test_broadcasting", "test_shape", "test_parameters", "test_backends_agree"),
    *("test_errors", "test_block_errors", "test_hooks", "test_random_calls", "test_dispatcher"),
)
# What torch.compile makes of the ops, which has no sanitizers in it; and results of many megabytes, which show nothing
# that smaller ones do not.
LEFT_OUT = "not compile and not large_results"
LEVELS = {"DEFAULT": "default", "AVX2": "avx2", "AVX512": "avx512"}  # as torch reports them, and as it is told them
INPUTS = 10_000
SECONDS = 600
QUICK_INPUTS = 500

# Each check calls one of these. A library without them has been compiled without.
CHECKS = (b"__asan_report_load", b"__asan_report_store", b"__ubsan_handle_float_cast_overflow")

REPORT = re.compile(r"runtime error: |ERROR: AddressSanitizer")

Row = dict[str, Any]


def unchecked(package: Path) -> list[str]:
    """The libraries in which a sanitizer's checks are missing."""
    libraries = sorted(package.glob("ste_core/torch-*/*.so"))
    names = {library.name.partition(".")[0] for library in libraries}
    if names != {"libste", "_C"}:
        sys.exit(f"{package} should have the libraries libste and _C, and has {sorted(names)}")
    # pybind11's code for _C casts no floats.
    needed = {"libste": CHECKS, "_C": CHECKS[:2]}
    return [
        f"{library.name} has no {check.decode()}"
        for library in libraries
        for check in needed[library.name.partition(".")[0]]
        if check not in library.read_bytes()
    ]


def levels_here() -> list[str]:
    """The instruction sets, from the best that this processor has."""
    best = torch.backends.cpu.get_cpu_capability()
    names = list(LEVELS)
    return names[names.index(best) :: -1] if best in names else [best]


def environment(package: Path, level: str) -> dict[str, str]:
    runtimes = []
    for name in ("libasan.so", "libubsan.so", "libstdc++.so"):
        found = subprocess.run(["g++", f"-print-file-name={name}"], check=True, capture_output=True, text=True)
        runtimes.append(found.stdout.strip())
    return {
        **os.environ,
        "LD_PRELOAD": ":".join(runtimes),  # before Python, which has none of them
        # Python does not free all that it has; and an allocation that is too large is torch's error.
        "ASAN_OPTIONS": "detect_leaks=0:allocator_may_return_null=1",
        "UBSAN_OPTIONS": "print_stacktrace=1",
        "PYTHONPATH": str(package),
        "ATEN_CPU_CAPABILITY": LEVELS.get(level, "default"),
        "OMP_NUM_THREADS": "1",
        "STE_BACKEND": "native",
        "STE_TEST_EXPECT": "native",
    }


def told(output: str) -> str:
    """The first report of a sanitizer, and without one the end."""
    lines = output.splitlines()
    first = next((n for n, line in enumerate(lines) if REPORT.search(line)), len(lines) - 30)
    return "\n".join(line[:200] for line in lines[max(first, 0) :][:30])


def tests(env: dict[str, str], quick: bool) -> Row:
    """What pytest says; with `failed`, the report or the end of it, if it is not that all passed."""
    files = [f"tests/{name}.py" for name in (TESTS[:2] if quick else TESTS)]
    # A process that a sanitizer ends has told why on the file that pytest would otherwise keep to itself.
    options = ["-q", "-n", "auto", "--max-worker-restart=0", "--capture=sys", "--tb=short", "-p", "no:cacheprovider"]
    began = time.monotonic()
    run = subprocess.run(
        [sys.executable, "-m", "pytest", *options, "-m", "not slow", "-k", LEFT_OUT, *files],
        cwd=ROOT,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    counts = {what: int(number) for number, what in re.findall(r"(\d+) (passed|skipped|xfailed)", run.stdout)}
    seconds = round(time.monotonic() - began)
    return {**counts, "seconds": seconds, "failed": told(run.stdout) if run.returncode else ""}


def fuzz(env: dict[str, str], inputs: int) -> Row:
    """The fuzzer, in as many processes as there are cores, each with numbers of its own."""
    workers = len(os.sched_getaffinity(0))
    share = -(-inputs // workers)

    def run(worker: int) -> subprocess.CompletedProcess[str]:
        numbers = ["--first", str(worker * share), "--inputs", str(share), "--seconds", str(SECONDS)]
        command = [sys.executable, "tools/fuzz.py", *numbers]
        return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)

    began = time.monotonic()
    with ThreadPoolExecutor(workers) as pool:
        runs = list(pool.map(run, range(workers)))
    ways: Counter[str] = Counter()
    for each in runs:
        if not each.returncode:
            ways.update(json.loads(each.stdout.splitlines()[-1])["ways"])
    failed = "\n".join(told(each.stdout + each.stderr) for each in runs if each.returncode)
    seconds = round(time.monotonic() - began)
    return {"inputs": ways.total(), "ways": dict(ways), "seconds": seconds, "failed": failed}


INTRODUCTION = """\
# With sanitizers

Made by `make sanitize`, which compiles both libraries of ste-core with AddressSanitizer and UBSan, including the
check of casts from floating point. For each instruction set of the processor, it runs the tests of values, gradients,
layouts, errors and hooks, and then a fuzzer, which calls ops with shapes around the width of a vector; with
strides, offsets, overlapping and unaligned memory; with all dtypes; with parameters that broadcast; on one to four
threads; under `vmap`; with hooks that return other tensors than were saved; and with sparse, nested, quantized and
meta tensors. Calls with dense tensors run on the Python backend too, and must give the same bits or the same error. A
report of a sanitizer ends the process.

The libraries are compiled without optimization, and without the check of `vptr`, which needs type information that
torch does not export. What `torch.compile` makes of the ops is not part of ste-core and is not run here.
"""


def section(run: Row) -> list[str]:
    m = run["machine"]
    lines = [
        f"## torch {m['torch'].partition('+')[0]}",
        "",
        f"{run['compiler']}, Python {run['python']}, {m['processor']}.",
        "",
        "| loops | tests | seconds | inputs of the fuzzer | seconds | reports |",
        "|---|---|---|---|---|---|",
    ]
    for row in run["rows"]:
        t, f = row["tests"], row["fuzz"]
        skipped = f", {t['skipped']} skipped" if t.get("skipped") else ""
        reports = sum(bool(part["failed"]) for part in (t, f)) or "none"
        cells = [row["loops"], f"{t.get('passed', 0):,} passed{skipped}", t["seconds"], f"{f['inputs']:,}"]
        lines.append(f"| {' | '.join(map(str, [*cells, f['seconds'], reports]))} |")
    ways: Counter[str] = Counter()
    for row in run["rows"]:
        ways.update(row["fuzz"]["ways"])
    return [*lines, "", "Of the fuzzer's inputs:", "", *(f"- {number:,} {way}" for way, number in ways.items()), ""]


def page(runs: Sequence[Row]) -> str:
    return "\n".join([INTRODUCTION, *(line for run in runs for line in section(run))])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("package", type=Path, help="the folder in which ste_core was installed")
    parser.add_argument("folder", type=Path, help="where the results go")
    parser.add_argument("--quick", action="store_true", help=f"two files of tests, and {QUICK_INPUTS} inputs")
    arguments = parser.parse_args()
    package = arguments.package.resolve()
    if missing := unchecked(package):
        parser.error("; ".join(missing))
    compiler = subprocess.run(["g++", "--version"], check=True, capture_output=True, text=True).stdout.splitlines()[0]
    rows: list[Row] = []
    results: Row = {"machine": machine(), "python": platform.python_version(), "compiler": compiler, "rows": rows}
    version = results["machine"]["torch"].partition("+")[0]
    arguments.folder.mkdir(parents=True, exist_ok=True)
    for level in levels_here():
        env = environment(package, level)
        print(f"{level}: tests", flush=True)
        of_tests = tests(env, arguments.quick)
        print(f"{level}: fuzzer", flush=True)
        of_fuzzer = fuzz(env, QUICK_INPUTS if arguments.quick else INPUTS)
        print("\n".join(filter(None, [of_tests["failed"], of_fuzzer["failed"]])), flush=True)
        rows.append({"loops": level, "tests": of_tests, "fuzz": of_fuzzer})
        # After each, for it takes long.
        (arguments.folder / f"torch-{version}.json").write_text(json.dumps(results, indent=1) + "\n")
        runs = [json.loads(file.read_text()) for file in sorted(arguments.folder.glob("*.json"))]
        arguments.folder.with_suffix(".md").write_text(page(runs))
    failed = sum(bool(row[part]["failed"]) for row in rows for part in ("tests", "fuzz"))
    print(f"{failed} of {2 * len(rows)} runs failed")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
