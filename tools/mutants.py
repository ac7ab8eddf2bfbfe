"""Register the native ops in each of the wrong ways, and show which rows of the matrix find out.

An op of this kind can be registered in many ways that look right. Each mutant is one of them: a change of one place in
ste-core's sources, on a copy. It is built, the fast part of the matrix runs with it, and the rows that fail are listed.
A mutant that no row finds fails this script.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
BUILD = ROOT / "build" / "mutants"
OP = "packages/ste-core/csrc/register/op.h"

REDISPATCH = "return handle().redispatch(keys & c10::after_autograd_keyset, x, args...);"
COMPOSITE = "implement(library, c10::DispatchKey::CompositeImplicitAutograd, &forward);"
EACH_KEY = """\
    for (const auto key : c10::autograd_dispatch_keyset | every_backend) {
      implement(library, key, &autograd);
    }
"""
BATCHED = """\
    const c10::impl::ExcludeDispatchKeyGuard guard(c10::DispatchKey::FuncTorchBatched);
    check(x, args...);  // here, where the shapes are those that the caller sees
    const Batch batch(x, args...);
    return batch.output(handle().call(batch.input(x), with_batch(batch, args)...));
"""
RECORD = "return Gradient::record(below, x, args...);"
FUNCTION = """\
  struct Function : torch::autograd::Function<Function> {
    static at::Tensor forward(torch::autograd::AutogradContext*, const at::Tensor& x, Args... args) {
      const at::AutoDispatchBelowADInplaceOrView guard;
      return handle().call(x, args...);
    }
    static torch::autograd::variable_list backward(
        torch::autograd::AutogradContext*, torch::autograd::variable_list gradients) {
      torch::autograd::variable_list result(1 + sizeof...(Args));
      result[0] = gradients[0];
      return result;
    }
  };

  // Neither a tensor"""


@dataclass(frozen=True)
class Mutant:
    """A wrong way: what is replaced by what, in one file."""

    name: str
    changes: Sequence[tuple[str, str]]
    file: str = OP


# The rows that these are about, without those that start other processes.
ROWS = [f"tests/matrix/test_{group}.py" for group in ("autograd", "func", "vmap", "compiler", "tensors")]

MUTANTS = [
    Mutant(
        "torch::autograd::Function in C++",
        [
            (
                "#include <torch/library.h>",
                "#include <torch/csrc/autograd/custom_function.h>\n#include <torch/library.h>",
            ),
            ("  // Neither a tensor", FUNCTION),
            (RECORD, "(void)below;\n    return Function::apply(x, args...);"),
        ],
    ),
    Mutant(
        "a node whose body calls the forward and does not redispatch",
        [(REDISPATCH, "(void)keys;\n      return forward(x, args...);")],
    ),
    Mutant("the forward at CompositeExplicitAutograd", [(COMPOSITE, COMPOSITE.replace("Implicit", "Explicit"))]),
    Mutant(
        "the node at the alias key Autograd",
        [(EACH_KEY, "    (void)every_backend;\n    implement(library, c10::DispatchKey::Autograd, &autograd);\n")],
    ),
    Mutant("a batching rule that calls the forward", [("batch.output(handle().call(", "batch.output(forward(")]),
    Mutant(
        "a batching rule that excludes the key and goes on",
        [(BATCHED, BATCHED[: BATCHED.index("\n") + 1] + "    return handle().call(x, args...);\n")],
    ),
    Mutant("no batching rule", [("    implement(library, c10::DispatchKey::FuncTorchBatched, &batched);\n", "")]),
    Mutant(
        "no kernel at AutogradNestedTensor",
        [
            (
                "      implement(library, key, &autograd);",
                (
                    "      if (key != c10::DispatchKey::AutogradNestedTensor) {\n"
                    "        implement(library, key, &autograd);\n      }"
                ),
            )
        ],
    ),
    Mutant(
        "no forward mode",
        [("y._set_fw_grad(x._fw_grad(/*level=*/0), /*level=*/0, /*is_inplace_op=*/false);", "")],
        "packages/ste-core/csrc/register/straight_through.h",
    ),
    Mutant(
        "bounds not padded to x's rank under vmap",
        [("for (int64_t dim = bound.dim(); dim < rank_; ++dim) {", "for (int64_t dim = rank_; dim < rank_; ++dim) {")],
        "packages/ste-core/csrc/register/batching.cpp",
    ),
    Mutant(
        "what has to be of x's shape left without the batch under vmap",
        [("return batch.input(argument);", "return batch.argument(argument);")],
    ),
    Mutant(
        "an x that is not batched left as it is under vmap",
        [("return x.expand_symint(shape);", "return x;")],
        "packages/ste-core/csrc/register/batching.cpp",
    ),
]


def copy_changed(source: str, target: str) -> str:
    """With a new time where the contents differ: a file that the last mutant changed has to be compiled again."""
    if not Path(target).exists() or Path(target).read_bytes() != Path(source).read_bytes():
        shutil.copyfile(source, target)
    return target


def mutate(mutant: Mutant, tree: Path) -> None:
    for folder in (Path("cmake"), Path("packages", "ste-core")):
        shutil.copytree(ROOT / folder, tree / folder, copy_function=copy_changed, dirs_exist_ok=True)
    file = tree / mutant.file
    source = file.read_text()
    for old, new in mutant.changes:
        if source.count(old) != 1:
            sys.exit(f"mutant “{mutant.name}”: its place in {mutant.file} is gone: {old}")
        source = source.replace(old, new)
    file.write_text(source)


def install(tree: Path, target: Path) -> None:
    """Build the wheel of the tree and unpack it where PYTHONPATH finds it before the installed one."""
    pip = [sys.executable, "-m", "pip"]
    with tempfile.TemporaryDirectory() as wheels:
        options = ["--no-build-isolation", "--no-deps", "-w", wheels, f"-Cbuild-dir={BUILD / 'cmake'}"]
        subprocess.run([*pip, "wheel", "-q", *options, str(tree / "packages/ste-core")], check=True)
        (wheel,) = Path(wheels).glob("*.whl")
        shutil.rmtree(target, ignore_errors=True)
        subprocess.run([*pip, "install", "-q", "--no-deps", "--target", str(target), str(wheel)], check=True)


def failing_rows(path: Path) -> dict[str, int]:
    """Row -> how many of its cases fail."""
    failures = BUILD / "failures.json"
    failures.unlink(missing_ok=True)
    environment = {
        **os.environ,
        "PYTHONPATH": str(path),
        "STE_BACKEND": "native",
        "STE_TEST_EXPECT": "native",
        "STE_MATRIX_FAILURES": str(failures),
        "OMP_NUM_THREADS": "1",
    }
    arguments = ["-q", "-n", "auto", "--maxprocesses=8", "-m", "not slow", *ROWS]
    subprocess.run(
        [sys.executable, "-m", "pytest", *arguments],
        cwd=ROOT,
        env=environment,
        stdout=(BUILD / "pytest.txt").open("w"),
        stderr=subprocess.STDOUT,
        check=False,
    )
    rows: dict[str, int] = json.loads(failures.read_text())
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", help="a part of the name of the mutants to try")
    only = parser.parse_args().only
    BUILD.mkdir(parents=True, exist_ok=True)
    survivors = []
    for mutant in MUTANTS:
        if only and only not in mutant.name:
            continue
        print(f"\n{mutant.name}", flush=True)
        mutate(mutant, BUILD / "tree")
        install(BUILD / "tree", BUILD / "site")
        rows = failing_rows(BUILD / "site")
        for row, cases in sorted(rows.items(), key=lambda item: -item[1])[:12]:
            print(f"    {cases:4} {row}")
        if len(rows) > 12:
            print(f"         and {len(rows) - 12} other rows")
        if not rows:
            survivors.append(mutant.name)
            print("    no row finds it")
    for name in survivors:
        print(f"survives: {name}")
    return bool(survivors)


if __name__ == "__main__":
    sys.exit(main())
