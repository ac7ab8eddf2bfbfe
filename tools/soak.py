"""Call every op a million times in each way, and check whether memory grows; then run eight threads that fork.

    python tools/soak.py docs/soak [--calls N] [--only threads]

The calls are distributed over one process per core, each on one of torch's threads. A million calls go with a thousand
rounds of the threads (tests/soak_threads.py). Writes the results to a file in the folder, and beside the folder a page
about everything in it. The exit status is 1 if something failed.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

# The tests are not a package: the path above finds them.
from memory_growth import excess, growth
from op_table import OPS
from soak_calls import PATHS, STEPS, X, soak
from soak_report import failures, page
from soak_threads import BOUNDS_OF_THREADS, Soak

import ste

CALLS = 1_000_000
CALLS_FOR_A_ROUND = 1000
LEAST_ROUNDS = 3
# Of fewer rounds, the heap is not judged: it jumps by 10 KiB from round to round, up and down.
ROUNDS_FOR_HEAP = 100

Task = dict[str, Any]


def say(**what: Any) -> None:
    print(json.dumps(what), flush=True)


def soak_calls(task: Task) -> dict[str, Any]:
    torch.set_num_threads(1)
    call = PATHS[task["path"]](OPS[task["op"]], X)
    grown = soak(call, task["calls"], lambda made: say(made=made))
    return {"growth": grown, "failed": excess(grown)}


def soak_threads(task: Task) -> dict[str, Any]:
    rounds = Soak()

    def step() -> None:
        rounds.round()
        say(made=1)

    grown = growth(step, task["calls"])
    judged = {name: by for name, by in grown.items() if name != "heap" or task["calls"] >= ROUNDS_FOR_HEAP}
    failed = [*rounds.differences[:20], *filter(None, [excess(judged, BOUNDS_OF_THREADS)])]
    return {"growth": grown, "failed": "; ".join(failed), "compared": rounds.compared, "forks": rounds.forks}


def work() -> None:
    """The work of a process: a task for each line that it reads."""
    for line in sys.stdin:
        task = json.loads(line)
        begin = time.perf_counter()
        try:
            result = soak_calls(task) if "op" in task else soak_threads(task)
        except Exception as error:  # becomes the task's result; the next tasks have their own
            result = {"growth": {}, "failed": f"{type(error).__name__}: {error}"}
        say(result=result, seconds=time.perf_counter() - begin)


class Worker:
    """A process that performs one task after another."""

    def __init__(self) -> None:
        # Otherwise idle threads of torch spin on cores that others need.
        environment = {**os.environ, "OMP_WAIT_POLICY": "passive"}
        command = [sys.executable, __file__, "--worker"]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def do(self, task: Task, progress: Callable[[int], object]) -> dict[str, Any] | None:
        """The result of a task; None if the process ended."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps(task) + "\n")
        self.process.stdin.flush()
        for line in self.process.stdout:
            told = json.loads(line)
            if "made" not in told:
                return {**told["result"], "seconds": round(told["seconds"], 1)}
            progress(told["made"])
        return None

    def end(self) -> int:
        self.process.communicate()
        return self.process.returncode


def done(tasks: list[Task], workers: int, unit: str) -> list[dict[str, Any]]:
    """The tasks with their results."""
    from tqdm import tqdm

    waiting = list(enumerate(tasks))[::-1]  # the last take longest
    turns = iter(waiting)
    found: dict[int, dict[str, Any]] = {}

    def work_off() -> None:
        worker = Worker()
        for index, task in turns:
            result = worker.do(task, bar.update)
            if result is None:
                result = {"growth": {}, "failed": f"the process ended with {worker.end()}", "seconds": 0.0}
                worker = Worker()
            found[index] = result
        worker.end()

    # If the output is not a terminal, every update of a progress bar adds a line to the log.
    interval = 0.1 if sys.stderr.isatty() else 60
    total = sum(task["calls"] for task in tasks)
    progress = tqdm(total=total, unit=unit, unit_scale=True, mininterval=interval)
    with progress as bar, ThreadPoolExecutor(workers) as pool:
        try:
            for each in [pool.submit(work_off) for _ in range(workers)]:
                each.result()
        finally:
            waiting.clear()  # so that the others end too if this is interrupted
    return [{**task, **found[index]} for index, task in enumerate(tasks)]


def results_of_calls(count: int) -> dict[str, Any]:
    """Each op in each way, and what it ran on."""
    begin = time.perf_counter()
    cores = os.cpu_count() or 1
    tasks = [{"op": op, "path": path, "calls": count} for path in PATHS for op in range(len(OPS))]
    rows = [{**row, "op": str(OPS[row["op"]])} for row in done(tasks, cores, " calls")]
    return {
        "torch": torch.__version__.split("+")[0],
        "backend": ste.backend().name,
        "python": platform.python_version(),
        "libc": " ".join(platform.libc_ver()),
        "cores": cores,
        "calls": count,
        "seconds": round(time.perf_counter() - begin),
        "rows": rows,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", help="the folder for the results")
    parser.add_argument("--calls", type=int, default=CALLS, help=f"of each op in each way; by default {CALLS:,}")
    parser.add_argument("--only", choices=["threads"], help="repeat this, and keep the folder's results of the calls")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        return work()
    if arguments.calls < STEPS or arguments.calls % STEPS:
        parser.error(f"--calls must be a multiple of {STEPS}, got {arguments.calls}")

    file = arguments.folder / f"torch-{torch.__version__.split('+')[0]}-{ste.backend().name}.json"
    if arguments.only and not file.exists():
        parser.error(f"{file} does not exist: run everything first")
    results = json.loads(file.read_text()) if arguments.only else results_of_calls(arguments.calls)
    rounds = max(LEAST_ROUNDS, results["calls"] // CALLS_FOR_A_ROUND)
    (results["threads"],) = done([{"calls": rounds}], 1, " rounds")
    arguments.folder.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(results, indent=1) + "\n")
    runs = [json.loads(each.read_text()) for each in sorted(arguments.folder.glob("*.json"))]
    arguments.folder.with_suffix(".md").write_text(page(runs))
    failed = failures(results)
    print("\n".join([*failed, f"{len(failed)} of {len(results['rows']) + 1} failed"]))
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
