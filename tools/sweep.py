"""Put every pattern of float32 through every op, and compare the native backend with NumPy and with the Python one.

The cases are those of tests/pattern_cases.py. One process per core shares the work, and finished parts are kept in
build/sweep: a run that was stopped or killed resumes where it was. If nothing differs, writes docs/sweep/results.json
and its page, docs/sweep.md. A difference ends its case, and the exit status is 1.
"""

import argparse
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bench_system import machine, take_memory

import ste

ROOT = Path(__file__).parent.parent
TESTS = ROOT / "tests"
sys.path.insert(0, str(TESTS))
from pattern_cases import CASES  # noqa: E402 (from the folder above)
from patterns import CHUNK, CHUNKS, Case, DifferenceError, check, chunk  # noqa: E402 (from the folder above)

STATE = ROOT / "build" / "sweep"
RESULTS = ROOT / "docs" / "sweep" / "results.json"
PAGE = ROOT / "docs" / "sweep.md"
PARTS = 256  # of each case; a part takes some seconds
ORACLES = (
    "patterns",
    "pattern_cases",
    "op_table",
    "block_oracle",
    "float_formats",
    "ml_casts",
    "surrogate_slopes",
    "bits",
)

Row = dict[str, Any]


def sum_of(files: Sequence[Path]) -> str:
    return hashlib.sha256(b"".join(hashlib.sha256(file.read_bytes()).digest() for file in files)).hexdigest()


def library() -> dict[str, str]:
    """Checksums of what computes the results: the native library, as checked at load time, and the Python package."""
    import ste_core

    return {
        "ste_core": sum_of([ste_core.build_for(torch.__version__).folder / "SHA256SUMS"]),
        "ste": sum_of(sorted(Path(ste.__file__).parent.rglob("*.py"))),
    }


def fingerprint() -> str:
    """A hash of everything that a result depends on. Parts with another one are computed again."""
    oracles = sum_of([TESTS / f"{name}.py" for name in ORACLES])
    used = [library(), oracles, torch.__version__, np.__version__, torch.backends.cpu.get_cpu_capability(), PARTS]
    return hashlib.sha256(json.dumps(used).encode()).hexdigest()


class State:
    """The finished parts of a case: a file that starts with the fingerprint and has one line for each part."""

    def __init__(self, folder: Path, case: str, mark: str) -> None:
        self._path = folder / f"{re.sub('[^a-z0-9]+', '-', case.lower())}.jsonl"
        self._head = json.dumps({"case": case, "fingerprint": mark})
        self.parts: dict[int, Row] = {}
        lines = self._path.read_text().splitlines() if self._path.exists() else []
        if lines and lines[0] == self._head:
            for line in lines[1:]:
                try:
                    part = json.loads(line)
                except ValueError:  # it was cut off: the process was killed
                    break
                self.parts[part["part"]] = part
        folder.mkdir(parents=True, exist_ok=True)
        written = self._path.with_suffix(".new")
        written.write_text("".join(f"{line}\n" for line in [self._head, *map(json.dumps, self.parts.values())]))
        written.replace(self._path)

    def add(self, part: Row) -> None:
        self.parts[part["part"]] = part
        with self._path.open("a") as file:
            file.write(json.dumps(part) + "\n")

    def remove(self) -> None:
        self._path.unlink()

    @property
    def missing(self) -> list[int]:
        return [number for number in range(PARTS) if number not in self.parts]


def result_of(case: Case, part: int) -> Row:
    """The result of a worker, or the error that ends the case."""
    start = time.process_time()
    first = part * CHUNKS // PARTS
    numbers = range(first, first + CHUNKS // PARTS)
    outcomes = []
    for number in numbers:
        try:
            x = chunk(number, case.arrangement)
            outcomes.append(check(case, x, beside_python=case.runs_on_python(number)))
        except DifferenceError as difference:
            return {"error": f"In chunk {number}: {difference}"}
        except Exception:  # in the op: the other cases continue
            return {"error": f"In chunk {number}: {case.name}:\n{traceback.format_exc()}"}
    return {
        "part": part,
        "on_python": CHUNK * sum(map(case.runs_on_python, numbers)),
        "ulps": max(outcome.ulps for outcome in outcomes),
        "ulps_of_backends": max(outcome.ulps_of_backends for outcome in outcomes),
        "seconds": time.process_time() - start,
        "digest": hashlib.sha256(np.array([o.digest for o in outcomes], "<u8").tobytes()).hexdigest(),
    }


def work() -> None:
    """A worker: reads one case and part per line, until there are no more or the parent has ended."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # which a terminal sends to all processes
    take_memory("kept")
    torch.set_num_threads(1)
    if ste.backend().name != "native":
        sys.exit(f"the sweep needs the native backend, but this is {ste.backend()}")
    print(fingerprint(), flush=True)
    cases = {case.name: case for case in CASES}
    try:
        for line in sys.stdin:
            name, part = json.loads(line)
            print(json.dumps(result_of(cases[name], part)), flush=True)
    except BrokenPipeError:
        pass


class Sweep:
    """Workers compute the missing parts of some cases.

    Attributes:
        states: The state of each case, by name.
        failed: The cases that ended with an error.
    """

    def __init__(self, cases: Sequence[Case], mark: str) -> None:
        self._mark = mark
        self.states = {case.name: State(STATE, case.name, mark) for case in cases}
        self.failed: list[str] = []
        self._tasks = self._missing()
        self._lock = threading.Lock()
        self._processes: list[subprocess.Popen[str]] = []
        self._is_stopped = False

    def _missing(self) -> Iterator[tuple[str, int]]:
        for name, state in self.states.items():
            for part in state.missing:
                if name in self.failed:
                    break
                yield name, part

    def run(self) -> None:
        from tqdm import tqdm

        done = sum(len(state.parts) for state in self.states.values())
        environment = {**os.environ, "STE_BACKEND": "native", "OMP_NUM_THREADS": "1"}
        # If the output is not a terminal, every update of a progress bar adds a line to the log.
        with tqdm(
            unit=" chunks",
            total=len(self.states) * CHUNKS,
            initial=done * CHUNKS // PARTS,
            mininterval=0.1 if sys.stderr.isatty() else 60,
        ) as progress:
            threads = []
            for _ in range(len(os.sched_getaffinity(0))):
                process = subprocess.Popen(
                    [sys.executable, __file__, "--worker"],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                    env=environment,
                )
                self._processes.append(process)
                threads.append(threading.Thread(target=self._drive, args=(process, progress), daemon=True))
            try:
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join()
            finally:
                self._is_stopped = True
                for process in self._processes:
                    process.kill()

    def _drive(self, process: subprocess.Popen[str], progress: Any) -> None:
        """Give a worker its tasks, one after the other."""
        assert process.stdin is not None and process.stdout is not None
        ready = process.stdout.readline().strip()
        if ready != self._mark:
            with self._lock:
                self.failed.append("a worker did not start" if not ready else "a worker has other sources")
            return
        while True:
            with self._lock:
                task = next(self._tasks, None)
                if task is None:
                    return
                progress.set_description(task[0], refresh=False)
            try:
                process.stdin.write(json.dumps(task) + "\n")
                process.stdin.flush()
                reply = process.stdout.readline()
            except BrokenPipeError:
                reply = ""
            row = json.loads(reply) if reply else {"error": f"{task[0]}: the worker died in part {task[1]}"}
            with self._lock:
                if self._is_stopped:
                    return
                if "error" in row:
                    progress.write(row["error"])
                    if task[0] not in self.failed:
                        self.failed.append(task[0])
                else:
                    self.states[task[0]].add(row)
                    progress.update(CHUNKS // PARTS)
            if not reply:
                return


def row_of(case: Case, state: State) -> Row:
    """All parts of a case. The digest covers them in order, no matter which worker computed them, or when."""
    parts = [state.parts[number] for number in range(PARTS)]
    return {
        "op": case.op.name,
        "case": case.name,
        "patterns": CHUNK * CHUNKS,
        "on_python": sum(part["on_python"] for part in parts),
        "mismatches": 0,
        "ulps": max(part["ulps"] for part in parts),
        "ulps_of_backends": max(part["ulps_of_backends"] for part in parts),
        "seconds": round(sum(part["seconds"] for part in parts), 1),
        "digest": hashlib.sha256("".join(part["digest"] for part in parts).encode()).hexdigest(),
    }


INTRODUCTION = """\
# Every number of float32

Written by `make sweep`, which puts all $2^{{32}}$ patterns of float32 through every op on the native backend. It
compares the result and the gradient with NumPy code that is written from [the contract](contract.md) and not from ste's
code and, for the formats of few bits, with ml_dtypes. All bits must agree, except the payload of a NaN. If a surrogate
gradient is not exact, the table gives its largest difference from NumPy in float64, in ulp. In addition, values that
underflow in `atan` and `fast_sigmoid` may be 0, and differences in `polynomial` and `triangle` have the error of their
terms.

The Python backend computes the same patterns, to the same bits; its transcendental surrogates may differ by 2 ulp.
Where it is slow, it computes one eighth of the patterns, from every sign and exponent. `quantize` consists of ops that
are in the table, on both backends.

The blocks of two have every magnitude as the largest of a block, beside a smaller negative one. The other blocks have
every pattern once: in order, or spread so that one block has numbers of eight exponents and both signs.

Nothing else differs. {machine}. The seconds are those of one core. The
digest covers all bits of results and gradients; `sweep/results.json`, beside this page, has it in full.
"""
HEADS = ("arguments", "Python backend", "ulp from NumPy", "between backends", "seconds", "digest")
SHARES = {0: "none", CHUNK * CHUNKS // 8: "an eighth", CHUNK * CHUNKS: "all"}


def page(results: Row) -> str:
    m = results["machine"]
    where = f"Computed with torch {m['torch']} on {m['processor']} ({m['instructions']})"
    lines = [INTRODUCTION.format(machine=where)]
    for op in dict.fromkeys(row["op"] for row in results["results"]):
        lines += [f"## {op}", "", f"| {' | '.join(HEADS)} |", "|---" * len(HEADS) + "|"]
        for row in results["results"]:
            if row["op"] == op:
                arguments = row["case"].removeprefix(op).removeprefix(", ") or "none"
                shown = [SHARES[row["on_python"]], row["ulps"], row["ulps_of_backends"], round(row["seconds"])]
                lines.append(f"| {arguments} | {' | '.join(map(str, shown))} | `{row['digest'][:16]}` |")
        lines.append("")
    return "\n".join(lines)


def chosen(only: str | None) -> list[Case]:
    """The cases of an op, or those with the text in their names."""
    if only is None:
        return CASES
    found = [case for case in CASES if case.op.name == only] or [case for case in CASES if only in case.name]
    return found or sys.exit(f"no case has {only!r} in its name")


def rows_before(head: Row) -> dict[str, Row]:
    """The previous results, to which those of a part are added."""
    if not RESULTS.exists():
        sys.exit(f"{RESULTS.relative_to(ROOT)} does not exist: sweep everything first")
    results = json.loads(RESULTS.read_text())
    for key, value in head.items():
        if results[key] != value:
            sys.exit(f"{RESULTS.relative_to(ROOT)} has another {key}: {results[key]}")
    return {row["case"]: row for row in results["results"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", metavar="TEXT", help="an op, or a text in the names of cases: sweep these again")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        work()
        return
    cases = chosen(arguments.only)
    head = {"machine": machine(), "library": library()}
    rows = rows_before(head) if arguments.only else {}
    sweep = Sweep(cases, fingerprint())
    try:
        sweep.run()
    except KeyboardInterrupt:
        sys.exit("\nstopped; `make sweep` resumes from here")
    if sweep.failed:
        sys.exit(f"failed: {'; '.join(sweep.failed)}")
    rows |= {case.name: row_of(case, sweep.states[case.name]) for case in cases}
    results = {**head, "results": [rows[case.name] for case in CASES if case.name in rows]}
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    PAGE.write_text(page(results))
    for state in sweep.states.values():
        state.remove()
    print(f"{PAGE.relative_to(ROOT)}: {len(results['results'])} cases, no differences")


if __name__ == "__main__":
    main()
