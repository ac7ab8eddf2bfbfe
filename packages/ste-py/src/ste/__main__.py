"""``python -m ste`` prints what a bug report needs."""

import os
import platform
import sys

import torch

import ste
from ste._backend import native, words_of


def main() -> None:
    print(f"backend   {ste.backend()}")
    print(f"requested STE_BACKEND={os.environ.get('STE_BACKEND', '(not set)')}")
    print(f"ste-py    {ste.__version__}")
    print(f"ste-core  {_describe_core()}")
    print(f"torch     {torch.__version__} (CUDA {torch.version.cuda or 'none'})")
    print(f"threads   {torch.get_num_threads()} in torch, {os.cpu_count()} cores")
    print(f"cpu       {torch.backends.cpu.get_cpu_capability()}")
    print(f"python    {platform.python_version()} ({sys.executable})")
    print(f"platform  {platform.platform()}")


def _describe_core() -> str:
    try:
        import ste_core

        builds = ste_core.builds()
    except ModuleNotFoundError:
        return "not installed"
    except (AttributeError, ImportError, OSError, SyntaxError, TypeError, ValueError) as error:
        return f"damaged: {words_of(error)}"
    lines = [
        f"for torch {build.torch}, Python {build.python}, {build.compiler}, CUDA {build.cuda or 'none'}"
        for build in builds
    ]
    loaded = "loaded" if native is not None else "not loaded"
    return f"{ste_core.__version__} ({loaded}), built " + ("; ".join(lines) or "for no torch")


if __name__ == "__main__":
    main()
