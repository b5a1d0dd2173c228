"""export.py says how fast int8 is on this machine, also where it is no faster."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from src.export.int8_speed import has_int8_instructions, in_turn, speed_line


def test_a_faster_file_is_reported_with_its_ratio():
    line = speed_line((0.52, 0.2), 3, has_instructions=True)
    assert line == "int8 is 2.60 times as fast as fp32 on this machine (3 images in 0.52 s as fp32, in 0.2 s as int8)"


@pytest.mark.parametrize(("has_instructions", "named"), [(False, True), (True, False), (None, False)])
def test_a_file_that_is_not_faster_is_kept_and_the_reason_named_only_if_it_is_known(has_instructions, named):
    line = speed_line((0.5, 0.5), 3, has_instructions)
    assert line.startswith("int8 is not faster than fp32 on this machine")
    assert ("VNNI" in line) == named
    assert "1.00 times as fast" in line
    assert line.endswith("; the file is kept")


def test_the_two_files_run_in_turn_and_the_first_round_does_not_count():
    calls: list[str] = []

    def way(name: str, first: float, later: float) -> None:
        time.sleep(later if name in calls else first)
        calls.append(name)

    exact, quantized = in_turn(lambda: way("fp32", 0.0, 0.02), lambda: way("int8", 0.0, 0.01))
    assert calls == ["fp32", "int8"] * (len(calls) // 2)
    assert exact >= 0.02
    assert quantized >= 0.01


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("processor\t: 0\nflags\t\t: sse avx2 avx512_vnni\n", True),
        ("flags\t\t: sse avx2\n", False),
        ("Features\t: fp asimd asimddp\n", True),
        ("processor : 0\n", None),
    ],
)
def test_the_instructions_are_read_from_the_system(tmp_path: Path, text: str, expected: bool | None):
    (tmp_path / "cpuinfo").write_text(text)
    assert has_int8_instructions(tmp_path / "cpuinfo") is expected
    assert has_int8_instructions(tmp_path / "missing") is None
