"""What ste-core depends on: as sources, any torch that it compiles for; once compiled, the minor version it is for.

A provider of dynamic metadata for the build.
"""

from collections.abc import Mapping
from typing import Any


class Requirement:
    """The dependency on torch."""

    def __init__(self) -> None:
        self._is_compiled = False

    def build_state(self, state: str) -> None:
        """Where the metadata goes: to an sdist, or to a wheel."""
        self._is_compiled = state != "sdist"

    def dynamic_wheel(self, settings: Mapping[str, Any]) -> dict[str, bool]:
        """The wheel's dependencies are others than the sdist's."""
        return {"dependencies": True}

    def dynamic_metadata(self, settings: Mapping[str, Any], project: Mapping[str, Any]) -> dict[str, Any]:
        """The dependencies; those of the sdist where there is no torch, for then it is the compilation that says so."""
        if self._is_compiled:
            try:
                import torch
            except ImportError:
                pass
            else:
                minor = ".".join(torch.__version__.split(".")[:2])
                return {"dependencies": [f"torch=={minor}.*"]}
        return {"dependencies": ["torch>=2.6"]}
