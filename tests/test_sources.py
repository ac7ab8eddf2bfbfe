"""The layout of the sources."""

import shutil
from pathlib import Path

import pytest
import torch
from processes import output_of

ROOT = Path(__file__).parent.parent
SOURCES = {".py", ".h", ".cpp", ".cuh", ".cu", ".cmake"}
# Where `make core` compiles.
OBJECTS = ROOT / "build" / "ste-core" / f"torch-{torch.__version__.split('+')[0]}" / "CMakeFiles"

pytestmark = pytest.mark.repository


def test_no_file_is_long() -> None:
    files = output_of("git", "-C", ROOT, "ls-files").splitlines()
    lines = {file: len((ROOT / file).read_text().splitlines()) for file in files if Path(file).suffix in SOURCES}
    assert len(lines) > 100
    assert not [file for file, count in lines.items() if count > 500]


@pytest.mark.parametrize("capability", ["AVX2", "AVX512"])
def test_loops_run_only_where_they_are_chosen(capability: str) -> None:
    """They run neither when the library is loaded, nor instead of a function that another file has too.

    The linker keeps one of such functions. These objects export only the tables of the loops, which are constants; when
    they are loaded, they set up C++'s streams, which needs no vector instructions.
    """
    folder = OBJECTS / f"ste_loops_{capability}.dir"
    if not folder.exists() or not shutil.which("objdump"):
        pytest.skip("ste-core was not compiled here for these instructions")
    core = ROOT / "packages" / "ste-core"
    sources = sorted(core.glob("csrc/*/cpu.cpp"))
    assert len(sources) >= 4
    for source in sources:
        path = folder / source.relative_to(core).with_suffix(".cpp.o")
        symbols = [line.split()[-2:] for line in output_of("nm", "--defined-only", path).splitlines()]
        shared = [(kind, name) for kind, name in symbols if kind.isupper() or kind in "uvw"]
        assert shared
        assert all(kind in "DR" and name.endswith(f"Kernel{len(capability)}{capability}E") for kind, name in shared)
        startup = output_of("objdump", "-d", "--no-show-raw-insn", "--section=.text.startup", path)
        instructions = [line.split("\t")[1] for line in startup.splitlines() if "\t" in line]
        assert instructions
        assert not [instruction for instruction in instructions if instruction[0] in "vk"]  # as AVX instructions begin


def test_the_benchmark_knows_every_op(monkeypatch: pytest.MonkeyPatch) -> None:
    """The benchmark does not run here, but importing it creates its races from the table of ops."""
    monkeypatch.syspath_prepend(ROOT / "tools")
    import bench_calls
    from op_table import OPS

    raced = {op.name for op, _ in bench_calls.VARIANTS.values()}
    assert raced == {op.name for op in OPS if not op.name.startswith("fake_quantize")} - {"stochastic_round_ste"}
