"""Chooses the backend: the policy, a pure function of version strings, and the loading around it."""

import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Literal, NamedTuple

import torch
from packaging.version import Version

__version__ = "0.1.0"

_REBUILD = (
    "To build it for this torch, run in the repository: "
    "pip install --no-build-isolation --no-deps --force-reinstall ./packages/ste-core"
)
_REMEDIES = f"{_REBUILD}; to do without it and without this warning, set STE_BACKEND=python"


class Backend(NamedTuple):
    """A backend, and why it is the one that runs.

    Attributes:
        name: ``"native"`` (ste-core) or ``"python"`` (the fallback).
        reason: Why it runs, for people to read.
    """

    name: Literal["native", "python"]
    reason: str

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}"


@dataclass(frozen=True)
class Choice:
    """The policy's decision: load the build with this index, or run in Python for this reason."""

    build: int | None
    reason: str
    is_problem: bool = False


def choose(requested: str, *, ste: str, torch: str, core: str | None, builds: Sequence[str]) -> Choice:
    """The backend policy.

    Args:
        requested: Value of ``STE_BACKEND``; an empty one, which a script's unset variable gives, means ``auto``.
        ste: Version of ste-py.
        torch: Version of torch that is running.
        core: Version of ste-core, or None if it is not installed.
        builds: Version of torch that each build in ste-core was compiled against.
    """
    if requested not in ("", "auto", "native", "python"):
        raise ValueError(f"STE_BACKEND must be auto, native or python, got {requested!r}")
    if requested == "python":
        return Choice(None, "STE_BACKEND=python")
    if core is None:
        return Choice(None, "ste-core is not installed", is_problem=requested == "native")
    if core != ste:
        return Choice(None, f"ste-core {core} does not belong to ste-py {ste}", is_problem=True)
    running = Version(torch).release[:2]
    for index, build in enumerate(builds):
        if Version(build).release[:2] == running:
            return Choice(index, f"ste-core {core}, built for torch {build}")
    carried = " and ".join(builds) or "no torch at all"
    return Choice(None, f"ste-core {core} is built for torch {carried}, but torch {torch} is running", is_problem=True)


def words_of(error: BaseException) -> str:
    """An error's own words, and those of what it was raised from.

    torch.ops.load_library says "Could not load this library: …"; the loader's "undefined symbol: …" is in its cause.
    """
    words = str(error)
    cause = error.__cause__
    while cause is not None:
        if str(cause) not in words:
            words = f"{words}: {cause}"
        cause = cause.__cause__
    return words


def _load(requested: str) -> tuple[Backend, ModuleType | None]:
    """Follow the policy. If ste-core cannot be used, warn, or raise if the native backend was asked for."""
    core, builds = None, []
    failure: Exception | None = None
    if requested != "python":
        try:
            import ste_core

            core, builds = ste_core.__version__, ste_core.builds()
            for build in builds:
                Version(build.torch)  # raises here, where it counts as damage
        except ModuleNotFoundError as error:
            if error.name != "ste_core":
                failure = error
        # What a damaged installation raises, where a file is missing or is not what it should be.
        except (AttributeError, ImportError, OSError, SyntaxError, TypeError, ValueError) as error:
            failure = error
    if failure is None:
        choice = choose(
            requested, ste=__version__, torch=torch.__version__, core=core, builds=[build.torch for build in builds]
        )
        if choice.build is not None:
            try:
                return Backend("native", choice.reason), ste_core.load(builds[choice.build])
            except (ImportError, OSError) as error:
                failure = error
    if failure is not None:
        choice = Choice(None, f"ste-core is installed but does not load: {words_of(failure)}", is_problem=True)
    if requested == "native":
        raise ImportError(f"STE_BACKEND=native, but {choice.reason}. {_REBUILD}") from failure
    if choice.is_problem:
        message = f"ste runs on its Python backend: {choice.reason}. {_REMEDIES}"
        warnings.warn(message, RuntimeWarning, stacklevel=2)
    return Backend("python", choice.reason), None


_backend, native = _load(os.environ.get("STE_BACKEND", "auto"))


def backend() -> Backend:
    """The backend that runs the ops in this process, and why.

    It is chosen once, when :mod:`ste` is imported. The environment variable ``STE_BACKEND`` decides:

    - ``auto`` (the default, and the meaning of an empty value): native if ste-core is installed and fits the running
      torch. If it is not installed, the Python backend, silently; if it is but cannot be used, the Python backend, with
      one ``RuntimeWarning`` that says why.
    - ``native``: native, or an ``ImportError`` that says why not.
    - ``python``: the Python backend, without looking for ste-core.

    Returns:
        The backend's name and the reason for it.

    Example:
        >>> ste.backend().name in ("native", "python")
        True
    """
    return _backend
