"""The pytest plugin for a mutant's tests (`-p mutants_plugin`): it ends them after one minute of processor time.

Wall-clock time would depend on what else the machine does. Each test that begins, and the one that fails, is a line in
the file MUTANTS_TESTS.
"""

import os
import re
import resource
import signal
from collections import Counter
from pathlib import Path

import pytest

MINUTE = 60.0

_EACH_CASE_IS_ANOTHER = "arguments|cannot|error|no_format|refuse"
_TAKES_SECONDS = r"compil|onnx|silent|test_fake_quantize\.py::test_values"


def write(line: str) -> None:
    with Path(os.environ["MUTANTS_TESTS"]).open("a") as file:
        file.write(f"{line}\n")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The family's tests first, those that compile or export last; one case of each test and op before the others."""
    of_family = re.compile(os.environ["MUTANTS_FAMILY"])
    cases: Counter[tuple[str, ...]] = Counter()
    places = []
    for item in items:
        test, _, case = item.nodeid.partition("[")
        ops = (test, *re.findall(r"\w+_ste\b|tensor_clamp|fake_quantize\w*|straight_through", case))
        takes_seconds = re.search(_TAKES_SECONDS, test) is not None
        is_like_another = cases[ops] > 0 and re.search(_EACH_CASE_IS_ANOTHER, test) is None
        places.append((not of_family.search(item.nodeid), takes_seconds, is_like_another))
        cases[ops] += 1
    items[:] = [item for _, item in sorted(zip(places, items), key=lambda pair: pair[0])]


def pytest_runtest_setup(item: pytest.Item) -> None:
    write(f"begins {item.nodeid}")
    signal.setitimer(signal.ITIMER_PROF, MINUTE)  # its signal ends a loop in C++ too


def pytest_runtest_teardown(item: pytest.Item) -> None:
    signal.setitimer(signal.ITIMER_PROF, 0)
    usages = [resource.getrusage(whose) for whose in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    if sum(usage.ru_utime + usage.ru_stime for usage in usages) > MINUTE:
        item.session.shouldstop = "a minute is over"
        write("stops")


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.failed:
        write(f"fails {report.nodeid}")


def pytest_collectreport(report: pytest.CollectReport) -> None:
    if report.failed:
        write(f"fails {report.nodeid}")
