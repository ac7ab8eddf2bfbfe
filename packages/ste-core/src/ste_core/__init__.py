"""The native library of :mod:`ste`: what it was built for, how to load it, and how to build on it in C++.

``import ste_core`` loads nothing and does not import torch. :mod:`ste` decides whether a build fits the running torch
(a library built for one minor version of torch does not load in another) and calls :func:`load`.
"""

import hashlib
import importlib
import importlib.machinery
import importlib.util
import json
import re
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

__all__ = ["Build", "__version__", "build_for", "builds", "cmake_prefix_path", "include_paths", "library_paths", "load"]

__version__ = "0.1.0"

# Two folders if the package is installed as editable: the sources, and what is compiled from them.
_ROOTS = [Path(folder) for folder in __path__]


@dataclass(frozen=True)
class Build:
    """A compiled build of the ops, as its ``build.json`` describes it.

    Attributes:
        ste_core: Version of ste-core that was compiled.
        torch: Version of torch that it was compiled against, such as ``"2.13.0+cpu"``.
        python: Version of Python that it was compiled for.
        compiler: Name and version of the C++ compiler.
        cxx11_abi: 1 if the library uses the C++11 ABI's strings, else 0. torch must use the same.
        cuda: Version of CUDA that its kernels were compiled with, or None if it has no CUDA kernels.
        folder: The folder that contains the library.
    """

    ste_core: str
    torch: str
    python: str
    compiler: str
    cxx11_abi: int
    cuda: str | None
    folder: Path

    @property
    def library(self) -> Path:
        """The path of the library, which may be missing."""
        found = (path for path in self.folder.glob("*ste.*") if path.suffix != ".lib")  # for the linker, on Windows
        return next(found, self.folder / "libste.so")


def builds() -> list[Build]:
    """The builds that this installation carries, read without loading any of them.

    Returns:
        One build for each version of torch that there is one for, in the order of these versions.

    Example:
        >>> for build in ste_core.builds():
        ...     print(build.torch, build.compiler)  # doctest: +SKIP
        2.13.0+cpu GNU 12.2.0
    """
    return [
        Build(**json.loads(description.read_text()), folder=description.parent)
        for root in _ROOTS
        for description in sorted(root.glob("torch-*/build.json"))
    ]


def build_for(torch_version: str) -> Build:
    """The build that runs with a version of torch: the one for the same minor version.

    Args:
        torch_version: Such as ``torch.__version__``.

    Returns:
        The build, which is not loaded.

    Raises:
        LookupError: This installation carries no such build.

    Example:
        >>> ste_core.build_for(torch.__version__).cuda  # doctest: +SKIP
        '13.0.88'
    """
    minor = torch_version.split(".")[:2]
    for build in builds():
        if build.torch.split(".")[:2] == minor:
            return build
    carried = " and ".join(build.torch for build in builds()) or "no torch at all"
    raise LookupError(f"ste-core {__version__} is built for torch {carried}, not for torch {torch_version}")


def _folder(*parts: str) -> str:
    folders = [root.joinpath(*parts) for root in _ROOTS]
    return str(next((folder for folder in folders if folder.is_dir()), folders[-1]))


def include_paths() -> list[str]:
    """Folders for the compiler's search path, for ``#include <ste/ops.h>``.

    Returns:
        One folder, in a list as :mod:`torch.utils.cpp_extension` takes it.

    Example:
        With :mod:`torch.utils.cpp_extension`::

            CppExtension(
                "example",
                ["example.cpp"],
                include_dirs=ste_core.include_paths(),
                library_dirs=ste_core.library_paths(torch.__version__),
                libraries=["ste"],
            )
    """
    return [_folder("include")]


def library_paths(torch_version: str) -> list[str]:
    """Folders for the linker's search path: the library (``ste``) that runs with a version of torch.

    At run time, a program or an extension that links the library finds it if it is loaded already, as it is after
    ``import ste`` on the native backend, or if the folder is on the program's run-time path.

    Args:
        torch_version: Such as ``torch.__version__``.

    Returns:
        One folder, in a list as :mod:`torch.utils.cpp_extension` takes it.

    Raises:
        LookupError: This installation carries no build for that version.
    """
    return [str(build_for(torch_version).folder)]


def load(build: Build) -> ModuleType:
    """Load the library of a build, which registers the ops with torch.

    Args:
        build: One of :func:`builds`.

    Returns:
        The module that calls the ops.

    Raises:
        ImportError: The library is missing, is damaged, or needs another torch or Python.
        OSError: The same, from the ops' own library.
    """
    import torch

    importlib.import_module("ste_core._compiled")
    path = build.folder / f"_C{importlib.machinery.EXTENSION_SUFFIXES[0]}"
    sums = _sums(build)
    # A file that SHA256SUMS does not name would be loaded unchecked, and loading half of a library crashes.
    for file in (build.library, path):
        _check(build, "SHA256SUMS", file.name in sums)
        _check(build, file.name, hashlib.sha256(file.read_bytes()).hexdigest() == sums[file.name])
    torch.ops.load_library(build.library)
    loader = importlib.machinery.ExtensionFileLoader("ste_core._C", str(path))
    spec = importlib.util.spec_from_loader("ste_core._C", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


def _sums(build: Build) -> dict[str, str]:
    """What SHA256SUMS says: the sum of each file."""
    # Bytes that are not ASCII become characters that do not match the format.
    text = (build.folder / "SHA256SUMS").read_text(encoding="ascii", errors="replace")
    found = [re.fullmatch(r"([0-9a-f]{64}) [ *](\S+)", line) for line in text.splitlines()]  # the format of sha256sum
    _check(build, "SHA256SUMS", None not in found)
    return {match[2]: match[1] for match in found if match is not None}


def _check(build: Build, name: str, is_what_was_installed: bool) -> None:
    if not is_what_was_installed:
        raise ImportError(f"{name} for torch {build.torch} is damaged: it is not what was installed")


#: The folder in which ``find_package(ste_core)`` finds the target ``ste::core``. Add it to ``CMAKE_PREFIX_PATH``, along
#: with ``torch.utils.cmake_prefix_path``.
cmake_prefix_path: str = _folder("share", "cmake")
