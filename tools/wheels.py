"""Build what is published, check it, and test it as installed, outside the repository.

    python tools/wheels.py assemble build/wheels/torch-2.1* --into build/dist --here 2.13.0 2.14.1
    python tools/wheels.py test build/dist --torch 2.13.0 2.14.1 --others 2.6.0

`assemble` merges the wheels of ste-core in the folders, each compiled for one torch, into one for each Python and
platform, and builds the sdists and the wheel of ste-py. With `--here` it expects this machine's builds for these
versions of torch; otherwise, all builds that are published. It requires the packages of requirements/release.txt.

`test` installs what `assemble` built into a new environment for each version of torch, in a folder that has the tests
but no sources. It requires no packages. `--others` are versions of torch for which ste-core has no build. On Linux it
also compiles the sdists, and installs them so that the next import compiles a change in C++.
"""

import argparse
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import builds
from merge_wheels import merge
from repair_wheel import check_sums, repair
from wheel_files import describe

ROOT = Path(__file__).parent.parent
CORE, PY = ROOT / "packages" / "ste-core", ROOT / "packages" / "ste-py"
WHAT_A_TEST_CHANGES = ("Integer::above", "Integer::below")


def run(*command: str | Path, **options: Any) -> None:
    print("$", *(Path(part).name if isinstance(part, Path) else part for part in command), flush=True)
    subprocess.run(command, check=True, **options)


class Environment:
    """A new environment with one torch, in a folder outside the repository."""

    def __init__(self, folder: Path, torch: str) -> None:
        self.folder = folder
        run(sys.executable, "-m", "venv", folder / "env")
        self.python = folder / "env" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
        self.pip("install", "pip>=25.1")
        self.pip("install", f"torch=={torch}")
        self.pip("install", "--group", f"{ROOT}/pyproject.toml:test")
        self.pip("install", "--require-hashes", "-r", ROOT / "requirements" / "build.txt")

    def pip(self, command: str, *arguments: str | Path) -> None:
        run(self.python, "-m", "pip", command, "-q", "--disable-pip-version-check", *arguments)

    def test(self, distributions: Path, expect: str, arguments: Sequence[str]) -> None:
        # Exactly these files, and no others with these names. ste-core's dependencies exclude a torch for which it has
        # no build, and that is the case to test: so its dependencies are left out, and ste-py's are named.
        self.pip("install", "--no-index", "--no-deps", "--find-links", distributions, "ste-core", "ste-py")
        self.pip("install", *(["ste-py[native]"] if expect == "native" else ["packaging", "wrapt"]))
        shutil.copy(ROOT / "pyproject.toml", self.folder)
        shutil.copytree(ROOT / "tests", self.folder / "tests", ignore=shutil.ignore_patterns("__pycache__"))
        pytest = ["pytest", "-q", "-n", "auto", "--dist", "worksteal", "-m", "not slow and not repository", *arguments]
        environment = {**os.environ, "STE_TEST_EXPECT": expect, "OMP_NUM_THREADS": "1"}
        run(self.python, "-m", *pytest, cwd=self.folder, env=environment)
        self.pip("uninstall", "--yes", "ste-core", "ste-py")

    def test_editable(self, distributions: Path) -> None:
        """The sdists compile, and the next import compiles a change in C++."""
        sources = {}
        for name in ("ste_py", "ste_core"):
            (sdist,) = distributions.glob(f"{name}-*.tar.gz")
            shutil.unpack_archive(sdist, self.folder)
            sources[name] = self.folder / sdist.name.removesuffix(".tar.gz")
        # Without optimization, which takes more than half of the loops' compile time: the wheels were compiled with it.
        fast = ["-Ccmake.build-type=Debug", "-Ccmake.define.CMAKE_CXX_FLAGS_DEBUG=-O0"]
        rebuild = ["-Ceditable.rebuild=true", f"-Cbuild-dir={self.folder}/build", *fast]
        editable = ["install", "--no-build-isolation", "--no-deps", "-e"]
        self.pip(*editable, sources["ste_py"])
        self.pip(*editable, sources["ste_core"], *rebuild)
        code = "import ste, torch; print(ste.backend().name, ste.ceil_ste(torch.tensor(0.5)).item())"
        self.expect(code, "native 1.0")
        source = sources["ste_core"] / "csrc" / "rounding" / "ops.cpp"
        source.write_text(source.read_text().replace(*WHAT_A_TEST_CHANGES))
        self.expect(code, "native 0.0")
        self.pip("uninstall", "--yes", "ste-core", "ste-py")
        self.expect("import ste", "No module named 'ste'")

    def expect(self, code: str, output: str) -> None:
        result = subprocess.run([self.python, "-c", code], capture_output=True, text=True, cwd=self.folder, check=False)
        if output not in result.stdout + result.stderr:
            raise RuntimeError(f"expected {output!r}, got:\n{result.stdout}{result.stderr}")


def sdist(package: Path, into: Path) -> Path:
    """Build an sdist twice, and check that both are the same to the byte."""
    built: list[Path] = []
    with tempfile.TemporaryDirectory() as scratch:
        for number in range(2):
            folder = Path(scratch, str(number))
            run(sys.executable, "-m", "build", "--sdist", "--no-isolation", "-o", folder, package)
            built.extend(folder.iterdir())
        first, second = (hashlib.sha256(path.read_bytes()).hexdigest() for path in built)
        if first != second:
            raise RuntimeError(f"{built[0].name} differs between two builds")
        print(f"sha256 {first} {built[0].name}, twice")
        return Path(shutil.copy(built[0], into))


def merge_all(wheels: Iterable[Path], wanted: Iterable[builds.Build], into: Path) -> None:
    """Merge into one wheel for each Python and platform. None of the wanted builds may be missing."""
    described = {wheel: describe(wheel) for wheel in wheels}
    builds.check(
        (
            builds.Build(torch, wheel.identity.python, wheel.identity.platform)
            for wheel in described.values()
            for torch in wheel.torches
        ),
        wanted,
    )
    identities = {wheel: described[wheel].identity for wheel in described}
    for identity, group in groupby(sorted(identities, key=identities.__getitem__), identities.__getitem__):
        with tempfile.TemporaryDirectory() as scratch:
            merged = merge(list(group), Path(scratch))
            finished = repair(merged, into) if identity.platform.startswith("linux") else shutil.copy(merged, into)
            print(f"merged {Path(finished).name}", flush=True)


def check(distributions: Sequence[Path], folders: Iterable[Path]) -> None:
    """Run twine and others, and check that checksums match the libraries and that no file names one of the folders."""
    wheels = [path for path in distributions if path.suffix == ".whl"]
    run(sys.executable, "-m", "twine", "check", "--strict", *distributions)
    run(sys.executable, "-m", "check_wheel_contents", *wheels)
    named = re.compile(b"|".join(re.escape(os.fsencode(folder)) + b"/" for folder in folders))
    for wheel in wheels:
        with tempfile.TemporaryDirectory() as scratch:
            shutil.unpack_archive(wheel, scratch, "zip")
            check_sums(Path(scratch))
            for file in filter(Path.is_file, Path(scratch).rglob("*")):
                if found := named.search(file.read_bytes()):
                    raise RuntimeError(f"{file.name} in {wheel.name} has a path of this machine: {found[0]!r}")


def assemble(folders: Iterable[Path], wanted: Iterable[builds.Build], into: Path) -> None:
    shutil.rmtree(into, ignore_errors=True)
    into.mkdir(parents=True)
    merge_all([wheel for folder in folders for wheel in sorted(folder.glob("*.whl"))], wanted, into)
    for package in (CORE, PY):
        sdist(package, into)
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "-o", into, PY)
    check(sorted(into.iterdir()), [ROOT, Path.home()])


def test(distributions: Path, torches: Sequence[str], others: Iterable[str], pytest: Sequence[str]) -> None:
    with tempfile.TemporaryDirectory(prefix="ste-wheels-") as scratch:
        for torch in torches:
            print(f"torch {torch}, for which there is a build", flush=True)
            environment = Environment(Path(scratch, torch), torch)
            environment.test(distributions, "native", pytest)
        if sys.platform == "linux":
            environment.test_editable(distributions)
        for torch in others:
            print(f"torch {torch}, for which there is no build", flush=True)
            Environment(Path(scratch, torch), torch).test(distributions, "mismatched", pytest)


def of_this_machine(torches: Iterable[str]) -> list[builds.Build]:
    """The builds that it can produce."""
    python = ".".join(platform.python_version_tuple()[:2])
    system = {"linux": "linux", "darwin": "macosx", "win32": "win"}[sys.platform]
    return builds.expected(torches, [python], [f"{system}_{platform.machine().lower()}"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    assembling = commands.add_parser("assemble", help="build what is published")
    assembling.add_argument("folders", type=Path, nargs="+", help="with the wheels of ste-core, each for one torch")
    assembling.add_argument("--into", type=Path, required=True, help="the folder for what is published")
    assembling.add_argument(
        "--here", nargs="+", metavar="TORCH", help="expect builds for this machine and these torches"
    )
    testing = commands.add_parser("test", help="test what is published, as installed")
    testing.add_argument("distributions", type=Path, help="the folder with what is published")
    testing.add_argument("--torch", nargs="+", required=True, help="versions for which ste-core has a build")
    testing.add_argument("--others", nargs="*", default=[], metavar="TORCH", help="versions for which it has none")
    testing.add_argument("--pytest", nargs=argparse.REMAINDER, default=[], help="arguments for pytest; must come last")
    given = parser.parse_args()
    if given.command == "assemble":
        assemble(given.folders, of_this_machine(given.here) if given.here else builds.expected(), given.into)
    else:
        test(given.distributions.absolute(), given.torch, given.others, given.pytest)


if __name__ == "__main__":
    main()
