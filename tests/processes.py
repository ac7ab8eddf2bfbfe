"""Python in a process of its own, for what is decided at import."""

import os
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
