"""Separate processes: Python, for what is decided at import, and C++ programs."""

import atexit
import functools
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

TESTS = Path(__file__).parent


def core_source() -> Path:
    """The Python part of ste-core: the installed one, or else the repository's."""
    spec = importlib.util.find_spec("ste_core")
    if spec is not None and spec.origin is not None:
        return Path(spec.origin).parent
    return TESTS.parent / "packages" / "ste-core" / "src" / "ste_core"


CORE_SOURCE = core_source()


def search_path(*first: Path | None) -> str:
    """The value for PYTHONPATH. It ends with this process's own, so that child processes test the same packages."""
    return os.pathsep.join(map(str, filter(None, (*first, TESTS, os.environ.get("PYTHONPATH")))))


def run(
    code: str, *arguments: object, backend: str | None = None, first_on_path: Path | None = None, succeeds: bool = True
) -> str:
    """Run `code` and return what it prints, on stdout and stderr; `backend` is the value of STE_BACKEND."""
    environment = {k: v for k, v in os.environ.items() if k != "STE_BACKEND"}
    environment |= {"PYTHONPATH": search_path(first_on_path)}
    if backend is not None:
        environment["STE_BACKEND"] = backend
    result = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if (result.returncode == 0) != succeeds:
        raise RuntimeError(f"the process ended with {result.returncode}:\n{result.stdout}")
    return result.stdout


class Ended(NamedTuple):
    """How a process ended, and what it printed on stdout and stderr."""

    succeeded: bool
    output: str


# Reads a line for each process to run, and writes one when that process has ended.
FORKS = """
import json, os, sys, tempfile, traceback
import torch

def child(code, backend, first_on_path, file):
    os.dup2(file.fileno(), 1)
    os.dup2(file.fileno(), 2)
    if backend is not None:
        os.environ["STE_BACKEND"] = backend
    if first_on_path is not None:
        sys.path.insert(0, first_on_path)
    status = 0
    try:
        exec(code, {"__name__": "__main__"})
    except BaseException:
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)

for line in sys.stdin:
    with tempfile.TemporaryFile() as file:
        process = os.fork()
        if process == 0:
            child(*json.loads(line), file)
        _, status = os.waitpid(process, 0)
        file.seek(0)
        print(json.dumps([status == 0, file.read().decode()]), flush=True)
"""


@functools.cache
def process_that_forks() -> subprocess.Popen[str]:
    environment = {k: v for k, v in os.environ.items() if k != "STE_BACKEND"} | {"PYTHONPATH": search_path()}
    process = subprocess.Popen(
        [sys.executable, "-c", FORKS], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    atexit.register(process.communicate)  # the end of its input
    return process


def fork(code: str, backend: str | None = None, first_on_path: Path | None = None) -> Ended:
    """Run `code` like :func:`run`, in a fork of a process that has imported torch, which takes two seconds."""
    process = process_that_forks()
    assert process.stdin is not None
    assert process.stdout is not None
    path = None if first_on_path is None else str(first_on_path)
    process.stdin.write(json.dumps([code, backend, path]) + "\n")
    process.stdin.flush()
    return Ended(*json.loads(process.stdout.readline()))


def output_of(*command: str | Path) -> str:
    result = subprocess.run(command, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if result.returncode != 0:
        raise RuntimeError(result.stdout)
    return result.stdout


def cmake() -> str:
    """The program of the environment, or the system's."""
    return shutil.which("cmake", path=str(Path(sys.executable).parent)) or "cmake"


def program_built_in(folder: Path, name: str, *options: str) -> Path:
    """Build one of the programs in tests/cpp."""
    output_of(cmake(), "-S", TESTS / "cpp", "-B", folder, f"-DPython_EXECUTABLE={sys.executable}", *options)
    output_of(cmake(), "--build", folder, "--target", name)
    return folder / name
