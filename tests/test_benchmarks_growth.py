"""The arithmetic, the folder and the chart of benchmarks/growth.py; what it measures is not for tests."""

from __future__ import annotations

import json
import sys
from dataclasses import replace

import pytest

from benchmarks.comparison.benchmarks import OURS, THEIRS
from benchmarks.comparison.driver import SideFailed, run_to_end
from benchmarks.comparison.growth_chart import growth_chart
from benchmarks.comparison.growth_parts import LIST_SECONDS, PARTS, PEAK, SECONDS, Measured
from benchmarks.comparison.linked_images import linked_images
from benchmarks.comparison.protocol import MARK
from benchmarks.growth import least, limit, measure, table
from src.data.image_folder import read_image_folder

RUNS = {
    "32": [{OURS: {SECONDS: 0.02, PEAK: 4e8}, THEIRS: {SECONDS: 0.01, PEAK: 3e8}}],
    "2": [
        {OURS: {SECONDS: 0.005, PEAK: 2e8}, THEIRS: {SECONDS: 0.004, PEAK: 1e8}},
        {OURS: {SECONDS: 0.008, PEAK: 1e8}, THEIRS: {SECONDS: 0.002, PEAK: 3e8}},
    ],
}


def test_the_minimum_of_each_quantity_counts_and_values_are_in_order():
    assert list(least(RUNS).items()) == [
        (2, {OURS: {SECONDS: 0.005, PEAK: 1e8}, THEIRS: {SECONDS: 0.002, PEAK: 1e8}}),
        (32, {OURS: {SECONDS: 0.02, PEAK: 4e8}, THEIRS: {SECONDS: 0.01, PEAK: 3e8}}),
    ]


def test_a_row_has_times_ratio_growth_and_memory():
    last = table(PARTS["batch"], least(RUNS)).splitlines()[-1]
    assert last == "| 32 | 20 | 10 | 0.50 | 1 | 4 | 5 | 400 | 300 |"


def test_attention_grows_with_the_square_of_the_tokens():
    def operations(tokens: int) -> int:  # of beit_tiny_patch16_224
        block = 24 * tokens * 192**2 + 4 * tokens**2 * 192
        return 12 * block + 2 * (tokens - 1) * 768 * 192 + 2 * 192 * 1000

    assert PARTS["image_size"].factor(224, 512) == pytest.approx(operations(1025) / operations(197), rel=1e-12)


def test_the_folder_has_the_files_and_is_removed(tmp_path):
    folder = tmp_path / "images"
    with linked_images(folder, 250):
        images = read_image_folder(folder)
        assert (len(images), len(images.classes)) == (250, 100)
    assert not folder.exists()


def test_an_existing_folder_is_left_alone(tmp_path):
    (tmp_path / "mine.txt").touch()
    with pytest.raises(FileExistsError), linked_images(tmp_path, 100):
        pass
    assert (tmp_path / "mine.txt").exists()


def test_only_missing_runs_are_measured_and_each_is_saved(tmp_path):
    measured = []

    def fake(settings: object, value: int) -> Measured:
        measured.append(value)
        return RUNS["32"][0]

    part = replace(limit(PARTS["folder"], 10_000), measure=fake)
    report = {"runs": {"folder": {"1000": [RUNS["2"][0]]}}}
    output = tmp_path / "growth.json"
    measure(report, "folder", 1, part, None, output)
    assert measured == [10_000]
    assert json.loads(output.read_text()) == {"runs": {"folder": {"1000": [RUNS["2"][0]], "10000": [RUNS["32"][0]]}}}


def test_measurements_of_a_program_are_its_marked_line():
    line = f"print('noise'); print({MARK!r} + '{{\"seconds\": 2.5}}')"
    assert run_to_end([sys.executable, "-c", line]) == {"seconds": 2.5}
    with pytest.raises(SideFailed, match="code 3"):
        run_to_end([sys.executable, "-c", f"{line}; raise SystemExit(3)"])


def test_the_chart_has_times_and_memory_of_both_sides_in_a_column():
    folder = {1000: {side: {LIST_SECONDS: 0.1, SECONDS: 0.5, PEAK: 1e8} for side in (OURS, THEIRS)}}
    figure = growth_chart(PARTS, {"batch": least(RUNS), "folder": folder})
    assert len(figure.axes) == 4
    ours, theirs, expected = figure.axes[0].lines
    assert list(ours.get_ydata()) == [5.0, 20.0]
    assert list(theirs.get_ydata()) == [2.0, 10.0]
    assert list(expected.get_ydata()) == [5.0, 5.0]
