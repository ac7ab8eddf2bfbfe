"""Runs the rows of the matrix and records their outcomes, from which tools/matrix.py writes the table.

A row is a test with the marker `row`; its title may name the parameters. If the subject is ours, a case must pass, or
have a marker `refused` that says why it cannot: then it must fail in the way that the marker states. Another subject
may fail in any way; that is its outcome.

STE_MATRIX_RESULTS names the file to write, STE_MATRIX_FAILURES one for the rows that fail, with the number of cases.
"""

import dataclasses
import json
import os
import pickle
import re
import select
import signal
import sys
import time
import traceback
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import subjects
import torch
from packaging.specifiers import SpecifierSet
from packaging.version import Version

TESTS = str(Path(__file__).parent)
TORCH = Version(torch.__version__)
TIME_LIMIT = 600  # seconds for one case


@dataclasses.dataclass(frozen=True)
class Outcome:
    """`pass`, `refused` (an error) or `wrong` (a result other than the contract's, without an error)."""

    kind: str
    error: str = ""
    text: str = ""


def attempt(case: Callable[[], None]) -> Outcome:
    try:
        case()
    except Exception as error:
        innermost = traceback.extract_tb(error.__traceback__)[-1].filename
        kind = "wrong" if isinstance(error, AssertionError) and innermost.startswith(TESTS) else "refused"
        return Outcome(kind, f"{type(error).__name__}: {error}", traceback.format_exc())
    return Outcome("pass")


def attempt_in_a_child(case: Callable[[], None], time_limit: float = TIME_LIMIT) -> Outcome:
    """Run a case in its own process, for at most so many seconds.

    If the compiler fails, it leaves dispatch keys excluded and functorch levels open, which alone makes the next
    compilation fail. And an abort ends only the child.
    """
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        # While there is only one thread: torch's pool, which the fork has lost, is replaced without a lock.
        torch.set_num_threads(torch.get_num_threads())
        outcome = attempt(case)
        with os.fdopen(write, "wb") as pipe:
            pickle.dump(outcome, pipe)
        os._exit(0)
    os.close(write)
    received = b""
    deadline = time.monotonic() + time_limit
    with os.fdopen(read, "rb", buffering=0) as pipe:
        while select.select([pipe], [], [], max(0, deadline - time.monotonic()))[0]:
            part = pipe.read(1 << 16)
            if not part:
                break
            received += part
        else:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return Outcome("refused", f"has not ended after {time_limit} s")
    _, status = os.waitpid(child, 0)
    if not received:
        return Outcome("refused", f"ended with {os.waitstatus_to_exitcode(status)}")
    result: Outcome = pickle.loads(received)
    return result


@dataclasses.dataclass(frozen=True)
class Refusal:
    """A row, or some of its cases, that cannot pass.

    Attributes:
        reason: The reason, for the table.
        error: A regular expression that the error must match. None: torch's own `x.clone()` must fail there too.
        backend: `native`, `python`, or both if None.
        torch: The versions of torch to which this applies.
        where: Given the parameters of a case, whether this applies to it.
    """

    reason: str
    error: str | None = None
    backend: str | None = None
    torch: str = ""
    where: Callable[[dict[str, Any]], bool] = lambda _: True

    def applies(self, parameters: dict[str, Any]) -> bool:
        return (
            self.backend in (None, subjects.column())
            and SpecifierSet(self.torch).contains(TORCH.base_version)
            and self.where(parameters)
        )


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    row = pyfuncitem.get_closest_marker("row")
    if row is None:
        return None
    parameters = pyfuncitem.callspec.params if hasattr(pyfuncitem, "callspec") else {}
    arguments = {name: pyfuncitem.funcargs[name] for name in pyfuncitem._fixtureinfo.argnames}
    attempt_here = attempt_in_a_child if pyfuncitem.get_closest_marker("isolated") else attempt

    names = {name: getattr(value, "__name__", str(value)) for name, value in parameters.items()}
    group = sys.modules[pyfuncitem.function.__module__].__doc__.splitlines()[0].rstrip(".")  # type: ignore[union-attr]
    title = row.args[0].format(**names)
    pyfuncitem.user_properties.append(("row", f"{group}: {title}"))

    def case() -> None:
        pyfuncitem.obj(**arguments)

    outcome = attempt_here(case)
    assert not subjects.X.requires_grad  # shared by all rows: no row may change it
    reason = ""
    if subjects.subject == "ste":
        refusals = [Refusal(*m.args, **m.kwargs) for m in pyfuncitem.iter_markers("refused")]
        refusal = next((r for r in refusals if r.applies(parameters)), None)
        if refusal is None:
            if outcome.kind != "pass":
                pytest.fail(outcome.text or outcome.error, pytrace=False)
        else:
            if outcome.kind == "pass":
                pytest.fail(f"passes, but is marked as refused: {refusal.reason}", pytrace=False)
            if refusal.error is None:
                with subjects.standing_in("control"):
                    if attempt_here(case).kind == "pass":
                        pytest.fail(f"torch's own op passes here. {outcome.text or outcome.error}", pytrace=False)
                outcome = Outcome("refused")
            elif outcome.kind == "wrong" or not re.search(refusal.error, outcome.error):
                pytest.fail(outcome.text or outcome.error, pytrace=False)
            reason = refusal.reason
    cell = {
        "group": group,
        "row": title,
        "case": pyfuncitem.callspec.id if parameters else "",
        "kind": outcome.kind,
        "reason": reason or outcome.error.split(":")[0],
        "order": f"{Path(pyfuncitem.path).name}:{pyfuncitem.function.__code__.co_firstlineno:05}",
    }
    pyfuncitem.user_properties.append(("cell", cell))
    return True


class Failures:
    """Counts the failed cases of each row."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.rows: dict[str, int] = defaultdict(int)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.rows[dict(report.user_properties).get("row", report.nodeid)] += 1  # type: ignore[index]

    def pytest_sessionfinish(self) -> None:
        self.file.write_text(json.dumps(self.rows))


class Recorder:
    """Collects the cells of all workers, in the process that controls them."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.cells: list[dict[str, str]] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" and report.passed:
            self.cells += [value for name, value in report.user_properties if name == "cell"]  # type: ignore[misc]

    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        if exitstatus != 0:
            return
        rows: dict[tuple[str, str, str], list[dict[str, str]]] = defaultdict(list)
        for cell in self.cells:
            rows[cell["order"].split(":")[0], cell["group"], cell["row"]].append(cell)
        # In the order of the files' lines; rows of one test by their first case, whichever worker was first.
        ordered = sorted(rows.items(), key=lambda item: min((cell["order"], cell["case"]) for cell in item[1]))
        table = [
            {
                "group": group,
                "row": row,
                "passed": sum(cell["kind"] == "pass" for cell in cells),
                "not_passed": {
                    cell["case"]: [cell["kind"], cell["reason"]]
                    for cell in sorted(cells, key=lambda cell: cell["case"])
                    if cell["kind"] != "pass"
                },
            }
            for (_, group, row), cells in ordered
        ]
        result = {"torch": TORCH.base_version, "subject": subjects.column(), "rows": table}
        self.file.parent.mkdir(parents=True, exist_ok=True)
        self.file.write_text(json.dumps(result, indent=1) + "\n")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "row(title): a row of the matrix")
    config.addinivalue_line("markers", "refused(reason, error, backend, torch, where): a Refusal of this row")
    config.addinivalue_line("markers", "isolated: runs in a child process")
    config.addinivalue_line("markers", "slow: is left out of `make test`")
    config.addinivalue_line("markers", "repository: needs files of the repository that are in no package")
    file = os.environ.get("STE_MATRIX_RESULTS")
    failures = os.environ.get("STE_MATRIX_FAILURES")
    if hasattr(config, "workerinput"):
        return
    if file:
        config.pluginmanager.register(Recorder(Path(file)))
    if failures:
        config.pluginmanager.register(Failures(Path(failures)))
