"""Build what is published, check it, and test it as installed, outside of the repository.

    python tools/wheels.py --into build/dist --wheels build/wheels --build 2.13.0 2.14.1 --test 2.6.0

The wheels of ste-core, one for each torch that it was compiled for, are merged into one. It is tested in a new
environment for each of these torches, and for those to test with, in a folder that has the tests and no sources. The
sdists are compiled, and installed so that a change in C++ is compiled by the next import.
"""

import argparse
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from merge_wheels import merge

ROOT = Path(__file__).parent.parent
CORE, PY = ROOT / "packages" / "ste-core", ROOT / "packages" / "ste-py"
# What is torch's own, and comes with it.
OF_TORCH = ["libtorch*.so", "libc10*.so"]
WHAT_A_TEST_CHANGES = ("Integer::above", "Integer::below")


def run(*command: str | Path, **options: Any) -> None:
    print("$", *(Path(part).name if isinstance(part, Path) else part for part in command), flush=True)
    subprocess.run(command, check=True, **options)


class Environment:
    """A new one, in a folder outside of the repository, with one torch."""

    def __init__(self, folder: Path, torch: str) -> None:
        self.folder = folder
        run(sys.executable, "-m", "venv", folder / "env")
        self.python = folder / "env" / "bin" / "python"
        self.pip("install", "pip>=25.1")
        self.pip("install", f"torch=={torch}")
        self.pip("install", "--group", f"{ROOT}/pyproject.toml:build", "--group", f"{ROOT}/pyproject.toml:test")

    def pip(self, command: str, *arguments: str | Path) -> None:
        run(self.python, "-m", "pip", command, "-q", "--disable-pip-version-check", *arguments)

    def test(self, wheels: Sequence[Path], expect: str, arguments: Sequence[str]) -> None:
        # A torch that ste-core has no build for is against what it depends on: that is what is tried.
        self.pip("install", *(wheels if expect == "native" else ["--no-deps", *wheels, "packaging", "wrapt"]))
        shutil.copy(ROOT / "pyproject.toml", self.folder)
        shutil.copytree(ROOT / "tests", self.folder / "tests", ignore=shutil.ignore_patterns("__pycache__"))
        pytest = ["pytest", "-q", "-n", "auto", "--dist", "worksteal", "-m", "not slow and not repository", *arguments]
        environment = {**os.environ, "STE_TEST_EXPECT": expect, "OMP_NUM_THREADS": "1"}
        run(self.python, "-m", *pytest, cwd=self.folder, env=environment)
        self.pip("uninstall", "--yes", "ste-core", "ste-py")

    def test_editable(self, core: Path, py: Path) -> None:
        """The sdists compile, and a change in C++ is compiled by the next import."""
        for sdist in (core, py):
            shutil.unpack_archive(sdist, self.folder)
        sources = {sdist: self.folder / sdist.name.removesuffix(".tar.gz") for sdist in (core, py)}
        rebuild = ["-Ceditable.rebuild=true", f"-Cbuild-dir={self.folder}/build"]
        editable = ["install", "--no-build-isolation", "--no-deps", "-e"]
        self.pip(*editable, sources[py])
        self.pip(*editable, sources[core], *rebuild)
        code = "import ste, torch; print(ste.backend().name, ste.ceil_ste(torch.tensor(0.5)).item())"
        self.expect(code, "native 1.0")
        source = sources[core] / "csrc" / "rounding" / "ops.cpp"
        source.write_text(source.read_text().replace(*WHAT_A_TEST_CHANGES))
        self.expect(code, "native 0.0")
        self.pip("uninstall", "--yes", "ste-core", "ste-py")
        self.expect("import ste", "No module named 'ste'")

    def expect(self, code: str, output: str) -> None:
        result = subprocess.run([self.python, "-c", code], capture_output=True, text=True, cwd=self.folder, check=False)
        if output not in result.stdout + result.stderr:
            raise RuntimeError(f"expected {output!r}, got:\n{result.stdout}{result.stderr}")


def sdist(package: Path, into: Path) -> Path:
    """Built twice: both are the same to the byte."""
    built: list[Path] = []
    with tempfile.TemporaryDirectory() as scratch:
        for number in range(2):
            folder = Path(scratch, str(number))
            run(sys.executable, "-m", "build", "--sdist", "--no-isolation", "-o", folder, package)
            built.extend(folder.iterdir())
        first, second = (hashlib.sha256(path.read_bytes()).hexdigest() for path in built)
        if first != second:
            raise RuntimeError(f"{built[0].name} is another one each time that it is built")
        print(f"sha256 {first} {built[0].name}, twice")
        return Path(shutil.copy(built[0], into))


def compiled_for(torch: str, wheels: Path) -> Path:
    (wheel,) = (wheels / f"torch-{torch}").glob("ste_core-*.whl")
    return wheel


def for_many_systems(wheel: Path, into: Path) -> Path:
    """With the tag of the oldest system that it runs on, and with torch's libraries left to torch."""
    with tempfile.TemporaryDirectory() as scratch:
        excluded = [argument for name in OF_TORCH for argument in ("--exclude", name)]
        run(sys.executable, "-m", "auditwheel", "repair", *excluded, "-w", scratch, wheel)
        (repaired,) = Path(scratch).iterdir()
        return Path(shutil.copy(repaired, into))


def check(distributions: Sequence[Path], folders: Iterable[Path]) -> None:
    """What others check, and that no file of a wheel names one of these folders."""
    wheels = [path for path in distributions if path.suffix == ".whl"]
    run(sys.executable, "-m", "twine", "check", "--strict", *distributions)
    run("check-wheel-contents", *wheels)
    named = re.compile(b"|".join(re.escape(os.fsencode(folder)) + b"/" for folder in folders))
    for wheel in wheels:
        with tempfile.TemporaryDirectory() as scratch:
            shutil.unpack_archive(wheel, scratch, "zip")
            for file in filter(Path.is_file, Path(scratch).rglob("*")):
                if found := named.search(file.read_bytes()):
                    raise RuntimeError(f"{file.name} in {wheel.name} has a path of this machine: {found[0]!r}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--into", type=Path, required=True, help="the folder for what is published")
    parser.add_argument(
        "--wheels", type=Path, required=True, help="a folder with a folder for each torch, torch-2.13.0"
    )
    parser.add_argument("--build", nargs="+", required=True, help="versions of torch to publish a build for")
    parser.add_argument("--test", nargs="*", default=[], help="further ones to test with")
    parser.add_argument("--pytest", nargs=argparse.REMAINDER, default=[], help="arguments for pytest, the last of all")
    arguments = parser.parse_args()
    into: Path = arguments.into
    shutil.rmtree(into, ignore_errors=True)
    into.mkdir(parents=True)
    with tempfile.TemporaryDirectory(prefix="ste-wheels-") as scratch:
        core, py = sdist(CORE, into), sdist(PY, into)
        run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "-o", into, PY)
        environments = {torch: Environment(Path(scratch, torch), torch) for torch in arguments.build}
        merged = merge([compiled_for(torch, arguments.wheels) for torch in environments], Path(scratch, "merged"))
        wheels = [for_many_systems(merged, into), *into.glob("ste_py-*.whl")]
        check([core, py, *wheels], [ROOT, Path.home(), Path(scratch)])
        for torch, environment in environments.items():
            print(f"torch {torch}, for which it is built", flush=True)
            environment.test(wheels, "native", arguments.pytest)
        environments[arguments.build[-1]].test_editable(core, py)
        for torch in arguments.test:
            print(f"torch {torch}, for which it is not built", flush=True)
            Environment(Path(scratch, torch), torch).test(wheels, "mismatched", arguments.pytest)


if __name__ == "__main__":
    main()
