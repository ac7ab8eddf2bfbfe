"""Build, prove and time everything on a machine with a GPU, and go on after a failure.

    python tools/gpu.py --all OUT

takes at most nine minutes. It needs no network, and neither package has to be installed: it builds ste-core for the
installed torch in a scratch folder, and uses ste-py from the checkout. It requires torch for CUDA, nvcc of the same
version, cmake, ninja, scikit-build-core, pybind11, pytest, hypothesis, numpy, packaging and wrapt. If
compute-sanitizer, triton or a module that a test imports is missing, the results say so.

OUT/gpu.json has every figure, from which tools/gpu_report.py writes the page of the site. `--device cpu` rehearses
everything that works without a GPU.
"""

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import torch
from gpu_report import summary

ROOT = Path(__file__).parent.parent
CORES = os.cpu_count() or 1
SECONDS = 540  # for all of it


def patience(device: str) -> int:
    """How many times as long a rehearsal may take on a machine with fewer cores."""
    return 4 if device == "cpu" else 1


@dataclass
class Run:
    """One run of everything: where it writes, and what it found.

    Attributes:
        out: The folder for the results.
        scratch: The folder for what is built.
        device: "cuda", or "cpu" for a rehearsal.
        end: The deadline.
        results: Every figure, by step.
        failures: What failed, each with its first error.
        times: How long each step took.
    """

    out: Path
    scratch: Path
    device: str
    end: float
    results: dict[str, Any] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    times: dict[str, float] = field(default_factory=dict)

    def fail(self, what: str, error: str) -> None:
        """With its first error, as marked by compilers, CMake and the sanitizer; for a traceback, its last line."""
        lines = [line.strip() for line in error.splitlines() if line.strip()] or ["no message"]
        marks = (" error: ", "CMake Error", "= ERROR", "= Error")
        first = next((line for line in lines if any(mark in line for mark in marks)), lines[-1])
        self.failures.append(f"{what}: {first}")

    def environment(self) -> dict[str, str]:
        """With the build from this run."""
        paths = [self.scratch / "site", ROOT / "packages" / "ste-py" / "src", ROOT / "tests", ROOT / "tools"]
        chosen = {"PYTHONPATH": os.pathsep.join(map(str, paths)), "STE_BACKEND": "native", "STE_TEST_EXPECT": "native"}
        threads = {"OMP_NUM_THREADS": str(max(1, CORES // 4)), "CMAKE_BUILD_PARALLEL_LEVEL": str(CORES)}
        return {**os.environ, **chosen, **threads}

    def process(self, command: Sequence[str | Path], seconds: float) -> tuple[int, str]:
        """The exit status and the output; 124 if no time was left."""
        seconds = min(seconds * patience(self.device), self.end - time.monotonic())
        if seconds < 1:
            return 124, "no time was left"
        environment = self.environment()
        try:
            ended = subprocess.run(
                command,
                cwd=ROOT,
                env=environment,
                timeout=seconds,
                check=False,
                text=True,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
            )
        except subprocess.TimeoutExpired as error:
            printed: Any = error.stdout  # bytes, whatever the request
            return 124, f"{bytes(printed or b'').decode()}\nstopped at {seconds:.0f} s"
        return ended.returncode, ended.stdout

    def lines(self, program: str, seconds: float, *before: str) -> tuple[list[dict[str, Any]], int, str]:
        """What a tool reported until it ended or ran out of time, its exit status, and what else it printed."""
        name, *kind = program.split()
        command = [*before, sys.executable, str(ROOT / "tools" / name), *kind, "--device", self.device]
        status, output = self.process(command, seconds)
        lines = output.splitlines()
        found = [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]
        return found, status, "\n".join(line for line in lines if not line.startswith("{"))

    def take(self, step: "Step") -> None:
        """Run one step, even if others failed, and write what is known after it."""
        start = time.monotonic()
        print(f"{step.__name__} ...", flush=True)
        try:
            step(self)
        except Exception as error:  # becomes the step's result; the next steps have their own
            self.fail(step.__name__, f"{type(error).__name__}: {error}")
        self.times[step.__name__] = round(time.monotonic() - start, 1)
        self.results |= {"failures": self.failures, "seconds": self.times}
        (self.out / "gpu.json").write_text(json.dumps(self.results, indent=1) + "\n")


Step = Callable[[Run], None]


def build(run: Run) -> None:
    """ste-core with its kernels, for the architecture of this card alone."""
    capability = torch.cuda.get_device_capability() if run.device == "cuda" else (9, 0)
    options = [
        f"-Cbuild-dir={run.scratch / 'build'}",
        f"-Ccmake.define.STE_CUDA={'ON' if run.device == 'cuda' else 'AUTO'}",
        f"-Ccmake.define.CMAKE_CUDA_ARCHITECTURES={capability[0]}{capability[1]}",
    ]
    pip: list[str | Path] = [sys.executable, "-m", "pip", "-q", "--disable-pip-version-check"]
    wheel = [*pip, "wheel", "--no-build-isolation", "--no-deps", "-w", run.scratch / "wheel", *options]
    status, output = run.process([*wheel, ROOT / "packages" / "ste-core"], 240)
    if status == 0:
        wheels = sorted((run.scratch / "wheel").glob("*.whl"))
        status, output = run.process([*pip, "install", "--no-deps", "--target", run.scratch / "site", *wheels], 60)
    (run.out / "build.log").write_text(output)
    if status != 0:
        run.fail("build", output)
        return
    status, output = run.process([sys.executable, "-m", "ste"], 60)
    print(output, flush=True)
    run.results["build"] = output.splitlines()
    if status != 0:
        run.fail("import", output)


def tests(run: Run) -> None:
    """All tests that have a parameter for the device, and those of the CUDA kernels: each file in its own process."""
    folder = run.out / "tests"
    folder.mkdir(exist_ok=True)
    files = sorted(file for file in (ROOT / "tests").glob("test_*.py") if "device" in file.read_text())

    def test(file: Path) -> tuple[int, int, list[str]]:
        report = folder / f"{file.stem}.xml"
        # An installed pytest that does not know some of the project's configuration is no reason to stop.
        options = ["-q", "-m", "not slow", "-k", run.device, "-o", "minversion=7", "-p", "no:cacheprovider"]
        status, output = run.process([sys.executable, "-m", "pytest", *options, f"--junitxml={report}", file], 200)
        (folder / f"{file.stem}.log").write_text(output)
        if status not in (0, 1, 5):  # all passed, some failed, none was chosen
            return 0, 0, [f"tests/{file.name}: {output.strip().splitlines()[-1]}"]
        cases = list(ElementTree.parse(report).iter("testcase"))
        skipped = sum(case.find("skipped") is not None for case in cases)
        failed = []
        for case in cases:
            problem = case.find("failure")
            problem = case.find("error") if problem is None else problem
            if problem is not None:
                first = (problem.get("message") or "no message").splitlines()[0]
                failed.append(f"{case.get('classname')}::{case.get('name')}: {first}")
        return len(cases) - skipped - len(failed), skipped, failed

    with ThreadPoolExecutor(max(1, CORES // 4)) as pool:
        found = list(pool.map(test, files))
    run.results["tests"] = {
        "passed": sum(passed for passed, _, _ in found),
        "skipped": sum(skipped for _, skipped, _ in found),
        "failed": [words for _, _, failed in found for words in failed],
    }
    run.failures += run.results["tests"]["failed"]


def checks(run: Run) -> None:
    found, status, rest = run.lines("gpu_checks.py checks", 150)
    run.results["checks"] = found
    for result in found:
        if result["error"]:
            run.fail(result["check"], result["error"])
    if status != 0:
        run.fail("checks", rest)


def sanitizer(run: Run) -> None:
    """One small call of each kernel and layout, under each of the sanitizer's tools, side by side."""
    program = shutil.which("compute-sanitizer") or "/usr/local/cuda/bin/compute-sanitizer"
    tools: dict[str, list[str]] = {
        tool: [program, f"--tool={tool}", "--error-exitcode=9"] for tool in ("memcheck", "racecheck", "initcheck")
    }
    if run.device == "cpu":
        tools = {"none, a rehearsal": []}

    def under(tool: str) -> tuple[list[dict[str, Any]], int, str]:
        return run.lines("gpu_checks.py calls", 150, *tools[tool])

    with ThreadPoolExecutor(len(tools)) as pool:
        found = dict(zip(tools, pool.map(under, tools)))
    run.results["sanitizer"] = {tool: {"status": status, "calls": calls} for tool, (calls, status, _) in found.items()}
    for tool, (_, status, rest) in found.items():
        (run.out / f"sanitizer, {tool}.log").write_text(rest)
        if status != 0:
            run.fail(f"sanitizer, {tool}", rest)


def races(run: Run) -> None:
    found, status, rest = run.lines("gpu_races.py", 240)
    run.results["races"] = found
    if status != 0:
        run.fail("races", rest)


STEPS: list[Step] = [build, tests, checks, sanitizer, races]


def machine(device: str) -> dict[str, Any]:
    found: dict[str, Any] = {
        "device": device,
        "date": time.strftime("%Y-%m-%d"),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "python": platform.python_version(),
        "cores": CORES,
    }
    if device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        smi = shutil.which("nvidia-smi")
        driver = subprocess.run(query, check=False, text=True, stdout=subprocess.PIPE).stdout.split() if smi else []
        found |= {
            "card": properties.name,
            "capability": f"{properties.major}.{properties.minor}",
            "GiB": round(properties.total_memory / 2**30, 1),
            "driver": driver[0] if driver else "unknown",
        }
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [step.__name__ for step in STEPS]
    parser.add_argument("out", type=Path, help="a folder for the results; created if it does not exist")
    parser.add_argument("--all", action="store_true", help="run every step")
    parser.add_argument("--only", nargs="+", choices=names, default=[], help="only these steps; the first builds")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu: a rehearsal")
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        sys.exit("torch finds no GPU here: use --device cpu for a rehearsal")
    if not options.all and not options.only:
        parser.error("--all, or --only with some of: " + " ".join(names))
    options.out.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + SECONDS * patience(options.device)
    with tempfile.TemporaryDirectory(prefix="ste-gpu-") as scratch:
        run = Run(options.out.resolve(), Path(scratch), options.device, end)
        run.results["machine"] = machine(options.device)
        for step in STEPS:
            if options.all or step.__name__ in options.only:
                run.take(step)
    print("\n".join(summary(run.results)))
    return 1 if run.failures else 0


if __name__ == "__main__":
    sys.exit(main())
