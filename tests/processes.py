"""Processes of their own: Python, for what is decided at import, and programs in C++."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).parent
CORE_SOURCE = TESTS.parent / "packages" / "ste-core" / "src" / "ste_core"


def run(
    code: str, *arguments: object, backend: str | None = None, first_on_path: Path | None = None, succeeds: bool = True
) -> str:
    """Run `code` and return what it prints, on stdout and stderr; `backend` is the value of STE_BACKEND."""
    environment = {k: v for k, v in os.environ.items() if k != "STE_BACKEND"}
    environment |= {"PYTHONPATH": os.pathsep.join(map(str, filter(None, (first_on_path, TESTS))))}
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


def output_of(*command: str | Path) -> str:
    result = subprocess.run(command, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if result.returncode != 0:
        raise RuntimeError(result.stdout)
    return result.stdout


def program_built_in(folder: Path, name: str, *options: str) -> Path:
    """Build one of the programs in tests/cpp."""
    cmake = shutil.which("cmake", path=str(Path(sys.executable).parent)) or "cmake"
    output_of(cmake, "-S", TESTS / "cpp", "-B", folder, f"-DPython_EXECUTABLE={sys.executable}", *options)
    output_of(cmake, "--build", folder, "--target", name)
    return folder / name
