"""tools/sweep.py: what it keeps, and how it uses that."""

import json
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from op_table import Op
from pattern_cases import CASES
from patterns import by_table
from processes import TESTS
from torch import Tensor

pytestmark = pytest.mark.repository

ROUND = next(case for case in CASES if case.name == "round_ste")


@pytest.fixture
def tool(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(TESTS.parent / "tools")
    import sweep

    return sweep


def part(number: int, **changes: Any) -> dict[str, Any]:
    found = {"part": number, "on_python": 2**24, "ulps": 0, "ulps_of_backends": 0, "seconds": 1.0}
    return {**found, "digest": str(number), **changes}


def test_what_is_done_is_kept(tool: ModuleType, tmp_path: Path) -> None:
    state = tool.State(tmp_path, "an op, with x=1", "mark")
    assert state.missing == list(range(tool.PARTS))
    for number in (3, 0, 7):
        state.add(part(number))
    (file,) = tmp_path.iterdir()
    again = tool.State(tmp_path, "an op, with x=1", "mark")
    assert again.parts == {number: part(number) for number in (0, 3, 7)}
    assert again.missing == [number for number in range(tool.PARTS) if number not in (0, 3, 7)]
    # Killed while writing a line.
    file.write_text(file.read_text()[:-20])
    cut = tool.State(tmp_path, "an op, with x=1", "mark")
    assert list(cut.parts) == [3, 0]
    cut.add(part(9))
    assert list(tool.State(tmp_path, "an op, with x=1", "mark").parts) == [3, 0, 9]
    # Another library, another torch, other references.
    assert not tool.State(tmp_path, "an op, with x=1", "another mark").parts
    assert not tool.State(tmp_path, "an op, with x=1", "mark").parts


def test_every_case_has_a_file_of_its_own(tool: ModuleType, tmp_path: Path) -> None:
    for case in CASES:
        tool.State(tmp_path, case.name, "mark")
    assert len(list(tmp_path.iterdir())) == len(CASES)


def test_a_case_is_its_parts_in_order(tool: ModuleType, tmp_path: Path) -> None:
    rows = []
    for order in (list(range(tool.PARTS)), [*range(99, tool.PARTS), *range(99)]):
        state = tool.State(tmp_path / str(order[0]), ROUND.name, "mark")
        for number in order:
            state.add(part(number, ulps=number % 3))
        rows.append(tool.row_of(ROUND, state))
    assert rows[0] == rows[1]
    assert rows[0]["patterns"] == rows[0]["on_python"] == 2**32
    assert (rows[0]["ulps"], rows[0]["seconds"]) == (2, float(tool.PARTS))
    state.add(part(12, digest="another"))
    assert tool.row_of(ROUND, state)["digest"] != rows[0]["digest"]
    results = {"machine": {"torch": "2.0", "processor": "some", "instructions": "all"}, "results": rows[:1]}
    assert f"| none | all | 2 | 0 | 256 | `{rows[0]['digest'][:16]}` |" in tool.page(results)


def test_a_part(tool: ModuleType) -> None:
    found = tool.result_of(ROUND, 200)
    assert (found["part"], found["on_python"]) == (200, 2**24)
    assert json.loads(json.dumps(found)) == found
    assert tool.result_of(ROUND, 200)["digest"] == found["digest"]
    assert tool.result_of(ROUND, 201)["digest"] != found["digest"]


def test_a_difference_ends_a_part(tool: ModuleType) -> None:
    def expected(op: Op, x: Tensor, g: Tensor) -> list[Tensor]:
        y, to_x = by_table(op, x, g)
        return [torch.where(x == -2.5, -3.0, y), to_x]

    broken = replace(ROUND, expected=expected)
    # -2.5 is 0xc0200000.
    assert "error" not in tool.result_of(broken, 0xC1)
    error = tool.result_of(broken, 0xC0)["error"]
    assert error.startswith("In chunk 3074: round_ste: the result differs for 1 of 1048576 patterns\n")
    assert "  0: x = 0xc0200000 (-2.5), the " in error
    assert "NumPy 0xc0400000 (-3)" in error
    crashed = tool.result_of(replace(ROUND, op=replace(ROUND.op, arguments=(1.0,))), 0)["error"]
    assert crashed.startswith("In chunk 0: round_ste:\nTraceback")


def test_what_is_swept_again(tool: ModuleType) -> None:
    assert tool.chosen(None) == CASES
    assert {case.op.name for case in tool.chosen("fake_quantize")} == {"fake_quantize"}
    assert {case.op.name for case in tool.chosen("e2m1fn")} == {"fake_quantize_float", "fake_quantize_blocks"}
    with pytest.raises(SystemExit, match="no case has 'e9m9' in its name"):
        tool.chosen("e9m9")
