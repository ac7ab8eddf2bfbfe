"""tools/mutants.py: the mutants are changes to the current sources."""

import ast
import importlib
from types import ModuleType

import pytest
from processes import TESTS

pytestmark = pytest.mark.repository


@pytest.fixture
def tool(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> ModuleType:
    monkeypatch.syspath_prepend(str(TESTS.parent / "tools"))
    return importlib.import_module(request.param)


@pytest.mark.parametrize("tool", ["mutants_registration"], indirect=True)
def test_the_registration_has_the_places_that_are_changed(tool: ModuleType) -> None:
    for mutant in tool.MUTANTS:
        source = (tool.ROOT / mutant.file).read_text()
        assert mutant.applied(source) != source


@pytest.mark.parametrize("tool", ["mutants_draw"], indirect=True)
def test_the_draw_is_the_same_each_time(tool: ModuleType) -> None:
    taken = []
    for _ in range(2):
        for language, draw in tool.draws().items():
            of_language: list[str] = []
            taken.append((language, of_language))
            draw.take(tool.NUMBER[language], lambda change, found=of_language: found.append(change.identity) is None)
    assert taken[:2] == taken[2:]
    assert {language: len(set(of_language)) for language, of_language in taken} == tool.NUMBER


@pytest.mark.parametrize("tool", ["mutants_python"], indirect=True)
def test_each_change_of_python_is_another_program(tool: ModuleType) -> None:
    sources: dict[str, str] = {}
    changes = [change for change in tool.changes() if change.file.endswith(("/_clamp.py", "/_blocks.py"))]
    assert len(changes) > 500
    for change in changes:
        source = sources.setdefault(change.file, (tool.ROOT / change.file).read_text())
        lines = source.splitlines()
        assert lines[change.line - 1] == change.old
        lines[change.line - 1] = change.new
        assert ast.dump(ast.parse("\n".join(lines))) != ast.dump(ast.parse(source)), change.identity


@pytest.mark.parametrize("tool", ["mutants_cpp"], indirect=True)
def test_what_the_rules_make_of_a_line_of_cpp(tool: ModuleType) -> None:
    line = "    for (int64_t i = 0; i < std::min(size, T(2)); i += 4) {  // i < 8"
    found = {line[: e.begin] + e.text + line[e.end :] for e in tool.edits_of(tool.masked(line), line, line, False)}
    for old, new in (("i < std", "i <= std"), ("min(", "max("), ("= 0", "= 1"), ("+= 4", "= 4"), ("T(2)", "T(1)")):
        assert line.replace(old, new) in found
    assert line.replace("size, T(2)", "T(2), size") in found
    assert not any(changed.endswith(comment) for changed in found for comment in ("<= 8", "> 8", "< 9", "< 7"))


@pytest.mark.parametrize("tool", ["mutants_equivalent"], indirect=True)
def test_each_reason_is_of_a_change(tool: ModuleType) -> None:
    changes = [*importlib.import_module("mutants_cpp").changes(), *importlib.import_module("mutants_python").changes()]
    assert set(tool.REASONS) <= {change.identity for change in changes}
