"""The native ops, registered in each of the wrong ways that look right, and the rows of the matrix that notice.

Each mutant changes ste-core's sources in one place. The fast part of the matrix runs with it, and the page lists the
rows that fail.
"""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from mutants_build import BUILD, Core
from mutants_change import ROOT

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
    const auto call = [](const auto&... arguments) { return handle().call(arguments...); };
    if constexpr (requires { Gradient::batched(batch, call, x, args...); }) {
      return batch.output(Gradient::batched(batch, call, x, args...));
    } else {
      return batch.output(call(batch.input(x), with_batch(batch, args)...));
    }
"""
CALL = "const auto call = [](const auto&... arguments) { return handle().call(arguments...); };"
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
    """A wrong way: the replacements in one file."""

    name: str
    changes: Sequence[tuple[str, str]]
    file: str = OP

    def applied(self, source: str) -> str:
        for old, new in self.changes:
            if source.count(old) != 1:
                sys.exit(f"mutant “{self.name}”: {self.file} no longer has the text to change: {old}")
            source = source.replace(old, new)
        return source


# The rows that concern registration, without those that start other processes.
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
    Mutant("a batching rule that calls the forward", [(CALL, CALL.replace("handle().call(", "forward("))]),
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


def failing_rows(mutant: Mutant, core: Core) -> dict[str, int]:
    """Row -> how many of its cases fail."""
    if not core.build(mutant.file, mutant.applied):
        sys.exit(f"mutant “{mutant.name}” does not compile, or changes nothing: see {BUILD / 'compiler.txt'}")
    failures = BUILD / "failures.json"
    failures.unlink(missing_ok=True)
    environment = {
        **os.environ,
        "PYTHONPATH": str(core.site),
        "STE_BACKEND": "native",
        "STE_TEST_EXPECT": "native",
        "STE_MATRIX_FAILURES": str(failures),
        "OMP_NUM_THREADS": "1",
    }
    arguments = ["-q", "-n", "auto", "--maxprocesses=8", "-m", "not slow", *ROWS]
    with (BUILD / "pytest.txt").open("w") as output:
        command = [sys.executable, "-m", "pytest", *arguments]
        subprocess.run(command, cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT, check=False)
    rows: dict[str, int] = json.loads(failures.read_text())
    return rows
