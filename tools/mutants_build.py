"""ste-core with a change, compiled incrementally; and ste with a change.

The sources are copied and built once without a change. The build of each mutant starts from that, so it compiles only
the files that include the changed line. It uses one instruction set, AVX2 if there are several, and the fewest
optimizations with which the tests are still fast.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import cached_property
from pathlib import Path

import torch
from mutants_change import ROOT

BUILD = ROOT / "build" / "mutants"
CORE = Path("packages", "ste-core")


def copy_changed(source: str, target: str) -> str:
    """Write a file, with a new time if the contents differ, so that whatever includes it is compiled again."""
    if not Path(target).exists() or Path(target).read_bytes() != Path(source).read_bytes():
        shutil.copyfile(source, target)
    return target


HAS_AVX2 = torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")


def tool(name: str) -> str:
    return shutil.which(name, path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}") or name


def version() -> str:
    (line,) = (s for s in (ROOT / CORE / "pyproject.toml").read_text().splitlines() if s.startswith("version = "))
    return line.split('"')[1]


class Core:
    """The native library: `site` is where PYTHONPATH finds it."""

    site = BUILD / "site"
    _tree = BUILD / "tree"
    _objects = BUILD / "cmake"
    _unchanged = BUILD / "unchanged"

    @cached_property
    def sums(self) -> str:
        """The checksums of the libraries without a change, which this builds."""
        if self._unchanged.exists():
            self._restore()
        for folder in (Path("cmake"), CORE):
            shutil.copytree(ROOT / folder, self._tree / folder, copy_function=copy_changed, dirs_exist_ok=True)
        pybind11 = subprocess.check_output([sys.executable, "-m", "pybind11", "--cmakedir"], text=True).strip()
        flags = "-DCPU_CAPABILITY_AVX2 -mavx2 -mfma -mf16c" if HAS_AVX2 else ""
        options = {
            # On processors other than x86, the loops are compiled once, for the instructions that the flags name.
            "CMAKE_SYSTEM_NAME": "Linux",
            "CMAKE_SYSTEM_PROCESSOR": "any",
            "CMAKE_CXX_FLAGS": flags,
            "CMAKE_BUILD_TYPE": "Release",
            "CMAKE_CXX_FLAGS_RELEASE": "-O1",
            "CMAKE_INSTALL_PREFIX": self.site,
            "CMAKE_MAKE_PROGRAM": tool("ninja"),
            "SKBUILD_PROJECT_VERSION": version(),
            "SKBUILD_PROJECT_VERSION_FULL": version(),
            "Python_EXECUTABLE": sys.executable,
            "pybind11_DIR": pybind11,
        }
        defined = [f"-D{name}={value}" for name, value in options.items()]
        folders = ["-S", str(self._tree / CORE), "-B", str(self._objects)]
        subprocess.run([tool("cmake"), *folders, "-G", "Ninja", *defined], check=True, stdout=subprocess.DEVNULL)
        if not self._compile():
            sys.exit(f"ste-core does not compile: see {BUILD / 'compiler.txt'}")
        shutil.rmtree(self._unchanged, ignore_errors=True)
        for folder in (self._tree, self._objects):
            shutil.copytree(folder, self._unchanged / folder.name)
        return self._installed()

    def build(self, file: str, change: Callable[[str], str]) -> bool | None:
        """Whether a changed file changes the libraries; None if it does not compile."""
        unchanged = self.sums
        self._restore()
        path = self._tree / file
        path.write_text(change(path.read_text()))
        return self._installed() != unchanged if self._compile() else None

    def _restore(self) -> None:
        """Copy the files with their times, from which ninja knows that there is nothing to compile."""
        for folder in (self._tree, self._objects):
            shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree(self._unchanged / folder.name, folder)

    def _compile(self) -> bool:
        with (BUILD / "compiler.txt").open("w") as output:
            command = [tool("cmake"), "--build", str(self._objects)]
            return subprocess.run(command, check=False, stdout=output, stderr=subprocess.STDOUT).returncode == 0

    def _installed(self) -> str:
        shutil.rmtree(self.site, ignore_errors=True)
        subprocess.run([tool("cmake"), "--install", str(self._objects)], check=True, stdout=subprocess.DEVNULL)
        shutil.copytree(self._tree / CORE / "src" / "ste_core", self.site / "ste_core", dirs_exist_ok=True)
        (sums,) = self.site.glob("ste_core/torch-*/SHA256SUMS")
        return sums.read_text()


def copy_of_ste(file: str, change: Callable[[str], str]) -> Path:
    """The folder of the changed ste."""
    source = Path("packages", "ste-py", "src")
    folder = BUILD / "python"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(ROOT / source, folder, ignore=shutil.ignore_patterns("__pycache__"))
    path = folder / Path(file).relative_to(source)
    path.write_text(change(path.read_text()))
    return folder
