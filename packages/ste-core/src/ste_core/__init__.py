"""The native library of :mod:`ste`: what it was built for, and how to load it.

``import ste_core`` loads nothing and does not import torch. :mod:`ste` decides whether a build fits the running torch
(a library built for one minor version of torch does not load in another) and calls :func:`load`.
"""

import importlib.machinery
import importlib.util
import json
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

__all__ = ["Build", "__version__", "builds", "load"]

__version__ = "0.1.0"

_ROOT = Path(__file__).parent


@dataclass(frozen=True)
class Build:
    """One compiled build of the ops, as its ``build.json`` describes it.

    Attributes:
        ste_core: Version of ste-core that was compiled.
        torch: Version of torch that it was compiled against, such as ``"2.13.0+cpu"``.
        python: Version of Python that it was compiled for.
        compiler: Name and version of the C++ compiler.
        cuda: Version of CUDA that its kernels were compiled with, or None if it has none.
        folder: Where the library is.
    """

    ste_core: str
    torch: str
    python: str
    compiler: str
    cuda: str | None
    folder: Path


def builds() -> list[Build]:
    """The builds that this installation carries, read without loading any of them.

    Example:
        >>> for build in ste_core.builds():
        ...     print(build.torch, build.compiler)  # doctest: +SKIP
        2.13.0+cpu GNU 12.2.0
    """
    return [
        Build(**json.loads(description.read_text()), folder=description.parent)
        for description in sorted(_ROOT.glob("torch-*/build.json"))
    ]


def load(build: Build) -> ModuleType:
    """Load the library of ``build``: registers the ops with torch, and returns the module that calls them.

    Raises:
        ImportError: The library is missing, is damaged, or needs another torch or Python.
        OSError: The same, from the ops' own library.
    """
    import torch

    torch.ops.load_library(next(build.folder.glob("*ste.*"), build.folder / "libste.so"))
    path = build.folder / f"_C{importlib.machinery.EXTENSION_SUFFIXES[0]}"
    loader = importlib.machinery.ExtensionFileLoader("ste_core._C", str(path))
    spec = importlib.util.spec_from_loader("ste_core._C", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module
