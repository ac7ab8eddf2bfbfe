"""Check the CUDA kernels of the installed ste-core, without a GPU: how they were compiled, linked and registered.

Prints for each kernel its registers, its spills, and whether it moves 128 bits at once. Fails if a kernel spills, if
one that takes packs of neighbors moves less than 128 bits at once, if the library needs a symbol that nothing provides,
or if an op has no CUDA kernel.
"""

import os
import re
import shutil
import subprocess
import sys
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import torch

import ste
import ste_core

# A load or a store, and whether it moves 128 bits.
MOVE = re.compile(r"\b(LDG|STG)\.E(\S*)")
SPILL = re.compile(r"\b(LDL|STL)\b")


@dataclass
class Kernel:
    """The machine code of one kernel for one architecture."""

    name: str
    registers: int = 0
    stack: int = 0
    loads: int = 0
    stores: int = 0
    spills: int = 0


def output_of(*command: str | Path) -> str:
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=LOADER).stdout


def libraries_of_torch() -> list[str]:
    """The folders of the libraries that torch loads: its own, and those of its dependencies."""
    torch_root = Path(torch.__file__).parent
    return [str(torch_root / "lib"), *map(str, torch_root.parent.glob("nvidia/*/lib"))]


LOADER = {**os.environ, "LD_LIBRARY_PATH": os.pathsep.join(libraries_of_torch())}


def cuobjdump() -> str:
    """The toolkit's, or the one in Triton, on which CUDA builds of torch depend."""
    found = shutil.which("cuobjdump")
    if found is None:
        import triton

        found = str(Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump")
    return found


def demangled(names: list[str]) -> dict[str, str]:
    lines = subprocess.run(["c++filt"], input="\n".join(names), check=True, stdout=subprocess.PIPE, text=True).stdout
    return dict(zip(names, lines.splitlines()))


def short(name: str) -> str:
    """The name without arguments and namespaces; for a lambda, that of the enclosing function."""
    name = re.sub(r"\(anonymous namespace\)::|_INTERNAL_\w+::|ste::cuda::|at::native::|c10::|^void ", "", name)
    inside = re.search(r"(binary_sign|fake_quantize)\(at::Tensor", name)
    dtype = re.findall(r"\{lambda\((\w[^,)]*)", name)
    kind = name.split("<")[0]
    if inside:
        return f"{kind}, {inside[1]}, {dtype[-1] if dtype else '?'}"
    return name[: name.index(">(") + 1] if ">(" in name else name


def kernels_in(library: Path) -> dict[str, list[Kernel]]:
    """Architecture -> the kernels."""
    tool = cuobjdump()
    kernels: dict[str, dict[str, Kernel]] = defaultdict(dict)
    architecture = ""
    name = ""
    for line in output_of(tool, "--dump-resource-usage", library).splitlines():
        if found := re.match(r"arch = (sm_\d+)", line):
            architecture = found[1]
        elif found := re.match(r"\s*Function (\S+):", line):
            name = found[1]
        elif found := re.search(r"REG:(\d+) STACK:(\d+)", line):
            kernels[architecture][name] = Kernel(name, registers=int(found[1]), stack=int(found[2]))
    for line in output_of(tool, "-sass", library).splitlines():
        if found := re.match(r"\s*(?:code for|arch =) (sm_\d+)", line):
            architecture = found[1]
        elif found := re.match(r"\s*Function : (\S+)", line):
            name = found[1]
        elif found := MOVE.search(line):
            is_whole = ".128" in found[2]
            kernel = kernels[architecture][name]
            kernel.loads += is_whole and found[1] == "LDG"
            kernel.stores += is_whole and found[1] == "STG"
        elif SPILL.search(line):
            kernels[architecture][name].spills += 1
    names = demangled([name for of_architecture in kernels.values() for name in of_architecture])
    for of_architecture in kernels.values():
        for kernel in of_architecture.values():
            kernel.name = short(names[kernel.name])
    return {architecture: list(found.values()) for architecture, found in kernels.items()}


def takes_packs(kernel: Kernel) -> bool:
    """Whether a kernel takes packs of neighbors: their number is its third argument, or the last before `Threads`."""
    found = re.search(
        r"^forward_kernel<[^,]+, [^,]+, (\d+), |^reduce_kernel<Reduction<.*, (\d+), \(Threads\)\d, \d+> ?>$",
        kernel.name,
    )
    return found is not None and int(found[1] or found[2]) > 1


def main() -> int:
    problems = []
    build = ste_core.build_for(torch.__version__)
    library = build.library
    print(f"{library.name} for torch {build.torch}, CUDA {build.cuda}; {ste.backend()}")
    if build.cuda is None:
        sys.exit("this ste-core was built without CUDA kernels")

    for architecture, kernels in sorted(kernels_in(library).items()):
        print(f"\n{architecture}: {len(kernels)} kernels\nregisters  128-bit loads  stores  spills")
        for kernel in sorted(kernels, key=lambda kernel: kernel.name):
            print(f"{kernel.registers:9}  {kernel.loads:13}  {kernel.stores:6}  {kernel.spills:6}  {kernel.name}")
            if kernel.spills or kernel.stack:
                problems.append(f"{architecture}: {kernel.name} spills ({kernel.spills}, stack {kernel.stack})")
            if takes_packs(kernel) and not (kernel.loads and kernel.stores):
                problems.append(f"{architecture}: {kernel.name} moves less than 128 bits at once")
        if not any(map(takes_packs, kernels)):
            problems.append(f"{architecture}: no kernel takes packs")

    problems += [line.strip() for line in output_of("ldd", "-r", library).splitlines() if "undefined symbol" in line]

    ops = [schema.name for schema in torch._C._jit_get_all_schemas() if schema.name.startswith("ste::")]
    print(f"\n{len(ops)} ops: {', '.join(sorted(ops))}")
    for op in ops:
        for key in ("AutogradCUDA", "CompositeImplicitAutograd"):
            if not torch._C._dispatch_has_kernel_for_dispatch_key(op, key):
                problems.append(f"{op} has no kernel at {key}")
    for problem in problems:
        print(problem)
    print("failed" if problems else "no problems")
    return bool(problems)


if __name__ == "__main__":
    sys.exit(main())
