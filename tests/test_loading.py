"""Which backend runs: the policy, and what happens if ste-core is absent, damaged or built for another torch."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import pytest
import torch
from processes import CORE_SOURCE, fork, output_of, run

import ste
from ste._backend import Choice, choose

SHOW = "import ste; print(*ste.backend(), sep='|'); import torch; print(ste.round_ste(torch.tensor(1.6)).item())"
C = f"_C{EXTENSION_SUFFIXES[0]}"
MINOR = ".".join(torch.__version__.split(".")[:2])


def policy(requested: str = "auto", core: str | None = "1.2.3", builds: tuple[str, ...] = ("2.13.0+cpu",)) -> Choice:
    return choose(requested, ste="1.2.3", torch="2.13.1", core=core, builds=builds)


def test_a_build_for_the_same_minor_version_is_loaded() -> None:
    assert policy() == Choice(0, "ste-core 1.2.3, built for torch 2.13.0+cpu")


def test_the_build_that_fits_is_found_among_several() -> None:
    assert policy(builds=("2.6.0+cu124", "2.13.0", "2.14.1")).build == 1


def test_versions_are_not_compared_as_strings() -> None:
    assert policy(builds=("2.1.3",)).build is None
    assert policy(builds=("2.130.0",)).build is None
    assert policy(builds=("2.13.0a0+git1234",)).build == 0


def test_absent_is_no_problem_unless_native_was_asked_for() -> None:
    assert policy(core=None) == Choice(None, "ste-core is not installed")
    assert policy("native", core=None).is_problem


def test_a_build_for_another_torch_is_a_problem_and_says_what_is_what() -> None:
    expected = "ste-core 1.2.3 is built for torch 2.12.0 and 2.14.0, but torch 2.13.1 is running"
    assert policy(builds=("2.12.0", "2.14.0")) == Choice(None, expected, is_problem=True)
    assert "no torch at all" in policy(builds=()).reason


def test_another_version_of_ste_core_is_a_problem() -> None:
    assert policy(core="1.2.4") == Choice(None, "ste-core 1.2.4 does not belong to ste-py 1.2.3", is_problem=True)


def test_python_never_looks_at_ste_core() -> None:
    assert policy("python", core="9.9", builds=()) == Choice(None, "STE_BACKEND=python")


def test_an_empty_request_is_auto() -> None:
    assert policy("") == policy("auto")
    assert policy("", core=None) == policy("auto", core=None)


@pytest.mark.parametrize("value", ["Native", "cuda", "0", " "])
def test_any_other_request_is_an_error(value: str) -> None:
    with pytest.raises(ValueError, match=f"STE_BACKEND must be auto, native or python, got '{value}'"):
        policy(value)


# In a separate process, with a ste_core that comes before the installed one.


@pytest.fixture
def core(tmp_path: Path) -> Path:
    """The Python part of ste-core, and a fake build for this torch, whose library is not a library."""
    shutil.copytree(CORE_SOURCE, tmp_path / "ste_core", ignore=shutil.ignore_patterns("torch-*", "__pycache__"))
    write_build(tmp_path, torch.__version__)
    (tmp_path / "ste_core" / "_compiled.py").touch()
    write_library(tmp_path, b"not a library")
    return tmp_path


def folder(core: Path) -> Path:
    return core / "ste_core" / f"torch-{MINOR}"


def write_build(core: Path, version: str) -> None:
    folder(core).mkdir(exist_ok=True)
    build: dict[str, object] = {"ste_core": ste.__version__, "torch": version, "python": "3", "compiler": "none"}
    build |= {"cxx11_abi": 1, "cuda": None}
    (folder(core) / "build.json").write_text(json.dumps(build))


def write_library(core: Path, content: bytes) -> None:
    (folder(core) / "libste.so").write_bytes(content)
    (folder(core) / C).touch()
    sums = [(content, "libste.so"), (b"", C)]
    lines = [f"{hashlib.sha256(file).hexdigest()}  {name}\n" for file, name in sums]
    (folder(core) / "SHA256SUMS").write_text("".join(lines))


def assert_falls_back(core: Path, reason: str) -> None:
    """One warning with the reason and the remedy, then the fallback; an error if native was requested."""
    by_default, native, python = (fork(SHOW, backend, core) for backend in ("auto", "native", "python"))
    output = by_default.output
    assert by_default.succeeded and output.count("RuntimeWarning") == 1
    assert f"ste runs on its Python backend: {reason}" in output
    assert "pip install --no-build-isolation" in output and "STE_BACKEND=python" in output
    assert f"\npython|{reason}" in output and output.endswith("\n2.0\n")

    assert not native.succeeded
    assert f"ImportError: STE_BACKEND=native, but {reason}" in native.output
    assert "pip install --no-build-isolation" in native.output

    assert python == (True, "python|STE_BACKEND=python\n2.0\n")


def test_absent() -> None:
    absent = "import sys; sys.modules['ste_core'] = None; "
    assert fork(absent + SHOW) == (True, "python|ste-core is not installed\n2.0\n")
    succeeded, output = fork(absent + SHOW, "native")
    assert not succeeded
    assert "ImportError: STE_BACKEND=native, but ste-core is not installed. To build it for this torch" in output


def test_built_for_another_torch(core: Path) -> None:
    write_build(core, "2.1.0")
    running = f"ste-core {ste.__version__} is built for torch 2.1.0, but torch {torch.__version__} is running"
    assert_falls_back(core, running)


def test_library_that_is_no_library(core: Path) -> None:
    assert_falls_back(core, "ste-core is installed but does not load: ")


def test_library_that_only_begins_as_one(core: Path) -> None:
    write_library(core, b"\x7fELF\x02\x01\x01" + bytes(57))
    assert_falls_back(core, "ste-core is installed but does not load: ")


def test_the_loaders_own_words_are_given(core: Path) -> None:
    """All that torch itself says is "Could not load this library"."""
    source, library = core / "undefined.cpp", core / "undefined.so"
    source.write_text("extern int no_such_symbol; int* address = &no_such_symbol;\n")
    output_of("c++", "-shared", "-fPIC", "-o", library, source)
    write_library(core, library.read_bytes())
    code = "import runpy; runpy.run_module('ste', run_name='__main__')"
    for output in (
        fork(SHOW, first_on_path=core).output,
        fork(SHOW, "native", core).output.splitlines()[-1],
        fork("import warnings; warnings.simplefilter('ignore'); " + code, first_on_path=core).output,
    ):
        assert "undefined symbol: no_such_symbol" in output


SUMS: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda content: b"",
    "without the last name": lambda content: content.rsplit(b" ", 1)[0],
    "without the last line": lambda content: content.splitlines(keepends=True)[0],
    "without the first line": lambda content: content.splitlines(keepends=True)[1],
    "with a sum that is cut off": lambda content: content[1:],
    "with a line too many": lambda content: content + b"and more words than two\n",
    "binary": lambda content: b"\xff\x00\xfe" * 40,
    "UTF-16": lambda content: content.decode().encode("utf-16"),
}


@pytest.mark.parametrize("damage", SUMS)
def test_sums_that_are_damaged(core: Path, damage: str) -> None:
    path = folder(core) / "SHA256SUMS"
    path.write_bytes(SUMS[damage](path.read_bytes()))
    reason = f"SHA256SUMS for torch {torch.__version__} is damaged: it is not what was installed"
    assert_falls_back(core, f"ste-core is installed but does not load: {reason}")


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "a text": lambda content: b"not a library\n",
    "empty": lambda content: b"",
    "its first half": lambda content: content[: len(content) // 2],
    "all but its last byte": lambda content: content[:-1],
    "one bit": lambda content: content[:99_999] + bytes([content[99_999] ^ 1]) + content[100_000:],
}


@pytest.mark.skipif(ste.backend().name != "native", reason="needs the native backend")
@pytest.mark.parametrize(("library", "damage"), [*(("libste", damage) for damage in DAMAGES), ("_C", "its first half")])
def test_library_that_is_damaged(tmp_path: Path, library: str, damage: str) -> None:
    """Loading half a library crashes the loader."""
    (path,) = installed_copy(tmp_path).glob(f"{library}.*")
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    reason = f"{path.name} for torch {torch.__version__} is damaged: it is not what was installed"
    assert_falls_back(tmp_path, f"ste-core is installed but does not load: {reason}")


@pytest.mark.skipif(ste.backend().name != "native", reason="needs the native backend")
@pytest.mark.parametrize("file", ["libste.so", "SHA256SUMS", "../_compiled.py"])
def test_file_that_is_missing(tmp_path: Path, file: str) -> None:
    (installed_copy(tmp_path) / file).unlink()
    assert_falls_back(tmp_path, "ste-core is installed but does not load: ")


def installed_copy(to: Path) -> Path:
    """The folder of the running build in a copy of the installed package, which is found first."""
    from ste_core import build_for

    shutil.copytree(CORE_SOURCE, to / "ste_core", ignore=shutil.ignore_patterns("torch-*", "__pycache__"))
    build = build_for(torch.__version__).folder
    (to / "ste_core" / "_compiled.py").touch()
    return Path(shutil.copytree(build, to / "ste_core" / build.name))


def test_library_that_is_missing(core: Path) -> None:
    (folder(core) / "libste.so").unlink()
    assert_falls_back(core, "ste-core is installed but does not load: ")


def test_build_description_that_is_damaged(core: Path) -> None:
    (folder(core) / "build.json").write_text("{")
    assert_falls_back(core, "ste-core is installed but does not load: ")


def test_build_description_of_another_form(core: Path) -> None:
    (folder(core) / "build.json").write_text('{"torch": "2.13.0"}')
    assert_falls_back(core, "ste-core is installed but does not load: ")


def test_version_that_is_no_version(core: Path) -> None:
    write_build(core, "nightly")
    assert_falls_back(core, "ste-core is installed but does not load: ")


def test_package_that_does_not_import(core: Path) -> None:
    (core / "ste_core" / "__init__.py").write_text("import no_such_module\n")
    assert_falls_back(core, "ste-core is installed but does not load: No module named 'no_such_module'")


def test_package_that_is_empty(core: Path) -> None:
    (core / "ste_core" / "__init__.py").write_text("")
    assert_falls_back(core, "ste-core is installed but does not load: ")


def test_package_of_another_version(core: Path) -> None:
    package = core / "ste_core" / "__init__.py"
    package.write_text(package.read_text().replace(f'__version__ = "{ste.__version__}"', '__version__ = "0.0.1"'))
    assert_falls_back(core, f"ste-core 0.0.1 does not belong to ste-py {ste.__version__}")


def test_an_empty_variable_is_auto(core: Path) -> None:
    write_build(core, "2.1.0")
    assert fork(SHOW, "", core) == fork(SHOW, first_on_path=core)


def test_unknown_backend() -> None:
    succeeded, output = fork("import ste", "cuda")
    assert not succeeded
    assert "ValueError: STE_BACKEND must be auto, native or python, got 'cuda'" in output


@pytest.mark.skipif(ste.backend().name != "native", reason="needs the native backend")
def test_native_is_chosen_or_not_as_asked() -> None:
    assert fork(SHOW).output.startswith(f"native|ste-core {ste.__version__}, built for torch ")
    assert fork(SHOW, "native").output.startswith("native|")
    assert fork("import ste, sys; print('ste_core' in sys.modules)", "python") == (True, "False\n")


def test_reading_what_was_built_loads_nothing() -> None:
    code = "import ste_core, sys; ste_core.builds(); print('torch' in sys.modules)"
    assert run(code, first_on_path=CORE_SOURCE.parent) == "False\n"


def test_import_is_light() -> None:
    """torch._dynamo alone takes 1.5 s to import; ste must not import it."""
    code = "import torch, sys; before = set(sys.modules); import ste; print(*(set(sys.modules) - before))"
    loaded = run(code).splitlines()[-1].split()
    packages = {name.split(".")[0] for name in loaded if not name.startswith("torch.")}
    assert packages <= {"ste", "ste_core", "packaging", "wrapt"} | sys.stdlib_module_names
    assert not {"torch._dynamo", "torch._inductor"} & set(loaded)


def test_command_line() -> None:
    output = subprocess.run([sys.executable, "-m", "ste"], capture_output=True, text=True, check=True).stdout
    lines = dict(line.split(maxsplit=1) for line in output.splitlines())
    assert lines["backend"] == str(ste.backend())
    assert lines["ste-py"] == ste.__version__
    assert lines["torch"].startswith(torch.__version__)
    assert lines["requested"] == f"STE_BACKEND={os.environ.get('STE_BACKEND', '(not set)')}"
    assert lines["threads"] == f"{torch.get_num_threads()} in torch, {os.cpu_count()} cores"
    assert lines["cpu"] == torch.backends.cpu.get_cpu_capability()
    names = {"backend", "requested", "ste-py", "ste-core", "torch", "threads", "cpu", "python", "platform"}
    assert set(lines) == names


def test_command_line_with_a_damaged_installation(core: Path) -> None:
    (folder(core) / "build.json").write_text("{")
    _, output = fork("import runpy; runpy.run_module('ste', run_name='__main__')", first_on_path=core)
    assert "ste-core  damaged: " in output
