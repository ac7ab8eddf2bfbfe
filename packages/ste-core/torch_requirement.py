"""The dependency of ste-core on torch: any that it compiles for as an sdist, the minor version it is for as a wheel.

The build loads it as a provider of dynamic metadata.
"""

from collections.abc import Mapping
from typing import Any


class Requirement:
    """The dependency on torch."""

    def __init__(self) -> None:
        self._is_compiled = False

    def build_state(self, state: str) -> None:
        """Told where the metadata goes: to an sdist, or to a wheel."""
        self._is_compiled = state != "sdist"

    def dynamic_wheel(self, settings: Mapping[str, Any]) -> dict[str, bool]:
        """The wheel's dependencies differ from the sdist's."""
        return {"dependencies": True}

    def dynamic_metadata(self, settings: Mapping[str, Any], project: Mapping[str, Any]) -> dict[str, Any]:
        """The dependencies; without torch those of the sdist, and the compilation then reports that it is missing."""
        if self._is_compiled:
            try:
                import torch
            except ImportError:
                pass
            else:
                minor = ".".join(torch.__version__.split(".")[:2])
                return {"dependencies": [f"torch=={minor}.*"]}
        return {"dependencies": ["torch>=2.6"]}
