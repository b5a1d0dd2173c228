"""The charts: the curves of a run, the confusion matrix, and that matplotlib neither speaks nor slows a start."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from PIL import Image

from src.files.png_file import save_png
from src.pictures.charts import COLORS, HEIGHT, WIDTH, confusion_chart, line_charts
from src.tools.callback import CurvesPicture, charts_of
from src.tools.fine_tuning import CHARTS
from src.trainer.loop import Callback
from tests.test_loop import new_state, run
from tests.tiny_project import ROOT

HISTORY = [
    {"epoch": 1, "train_loss": 2.0, "loss": 1.5, "top1": 50.0, "learning_rate": 1e-3},
    {"epoch": 2, "train_loss": 1.0, "loss": 1.2, "top1": 60.0, "learning_rate": 5e-4, "ema_top1": 61.0},
]


def test_the_curves_are_the_columns_of_metrics_csv():
    assert charts_of(HISTORY, CHARTS) == {
        "loss": {"training": [(1, 2.0), (2, 1.0)], "validation": [(1, 1.5), (2, 1.2)]},
        "top-1 accuracy, %": {"validation": [(1, 50.0), (2, 60.0)], "validation, EMA": [(2, 61.0)]},
        "learning rate": {"learning rate": [(1, 1e-3), (2, 5e-4)]},
    }


def test_a_task_chooses_its_own_charts():
    charts = {"token accuracy, %": {"training": "token_accuracy"}, "loss": {"training": "train_loss"}}
    assert charts_of(HISTORY, charts) == {"loss": {"training": [(1, 2.0), (2, 1.0)]}}


def test_a_line_has_its_points_and_the_same_color_in_every_chart():
    figure = line_charts(charts_of(HISTORY, CHARTS), "epoch", 1, 30)
    loss, top1, rate = figure.axes
    assert [line.get_label() for line in loss.lines] == ["training", "validation"]
    assert loss.lines[0].get_xydata().tolist() == [[1, 2.0], [2, 1.0]]
    assert loss.lines[1].get_color() == top1.lines[0].get_color() == COLORS[1]
    assert loss.get_title(loc="left") == "loss"
    assert rate.get_xlim() == (1, 30)
    assert rate.get_xlabel() == "epoch"


def test_a_line_is_interrupted_where_it_has_no_value(tmp_path):
    points = [(1, 0.0), (2, 1.0), (3, math.nan), (4, 0.5), (5, 0.5)]
    figure = line_charts({"": {"a": points}}, "x", 1, 5)
    save_png(figure, tmp_path / "a.png")
    pixels = np.asarray(Image.open(tmp_path / "a.png").convert("RGB")).astype(int)
    (axes,) = figure.axes

    def is_drawn(x: float) -> bool:
        column = pixels[:, round(axes.transData.transform((x, 0))[0])]
        return bool((np.abs(column - (0, 114, 178)).max(-1) < 60).any())  # COLORS[0]

    assert [is_drawn(x) for x in (1.5, 2.5, 3.5, 4.5)] == [True, False, False, True]


def test_the_curves_are_drawn_after_every_epoch_and_when_a_run_resumes(tmp_path, monkeypatch):
    monkeypatch.setattr(CurvesPicture, "PAUSE", 0)
    path, seen = tmp_path / "curves.png", []

    class Look(Callback):
        def on_epoch_end(self, state):
            seen.append(np.asarray(Image.open(path)).copy())

    state = new_state(epochs=3)
    run(state, [CurvesPicture(path, CHARTS), Look()], ema=True)
    assert [picture.shape[:2] for picture in seen] == [(3 * HEIGHT, WIDTH)] * 3
    assert not np.array_equal(seen[0], seen[1])
    assert not np.array_equal(seen[1], seen[2])
    path.unlink()
    CurvesPicture(path, CHARTS).on_train_begin(state)
    assert np.array_equal(np.asarray(Image.open(path)), seen[2])
    path.unlink()
    CurvesPicture(path, CHARTS).on_train_begin(new_state())
    assert not path.exists()


def test_the_curves_of_short_epochs_are_drawn_less_often_and_at_the_end(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr("src.tools.callback.save_png", lambda picture, path: drawn.append(time.sleep(0.01)))
    run(new_state(epochs=3), [CurvesPicture(tmp_path / "curves.png", CHARTS)])
    assert len(drawn) == 2  # the first epoch and the end

    drawn.clear()
    monkeypatch.setattr(time, "monotonic", lambda: 0.0)  # drawing takes no time compared with an epoch
    run(new_state(epochs=3), [CurvesPicture(tmp_path / "curves.png", CHARTS)])
    assert len(drawn) == 4  # each epoch and the end


CONFUSION = np.array([[1, 1, 0], [0, 1, 0], [2, 0, 1]])


def test_a_cell_is_shaded_by_its_share_of_the_true_class():
    axes, colors = confusion_chart(CONFUSION, ("blue", "green", "red")).axes
    shares = axes.images[0].get_array()
    np.testing.assert_allclose(shares, [[1 / 2, 1 / 2, 0], [0, 1, 0], [2 / 3, 0, 1 / 3]])
    assert (axes.get_ylabel(), axes.get_xlabel()) == ("true class", "predicted class")
    assert [label.get_text() for label in axes.get_yticklabels()] == ["blue", "green", "red"]
    assert colors.get_ylabel() == "share of the true class"


@pytest.mark.parametrize(
    ("classes", "text", "named"), [(15, "7\n100%", True), (30, "7", True), (60, None, True), (100, None, False)]
)
def test_cells_have_counts_shares_and_names_as_far_as_there_is_room(classes, text, named):
    names = [f"class {number}" for number in range(classes)]
    axes = confusion_chart(7 * np.eye(classes, dtype=int), names).axes[0]
    assert {cell.get_text() for cell in axes.texts} == ({text} if text else set())
    assert ([label.get_text() for label in axes.get_xticklabels()] == names) == named


def test_a_thousand_classes_make_a_picture_of_the_size_of_a_screen(tmp_path):
    save_png(confusion_chart(np.eye(1000, dtype=int), [str(n) for n in range(1000)]), tmp_path / "a.png")
    assert Image.open(tmp_path / "a.png").size == (1200, 1120)


def test_names_with_dollar_signs_long_names_and_foreign_letters_are_drawn_without_warnings(tmp_path, recwarn, capfd):
    names = ("price $a_b$ {", "a very long name of a class that fits nowhere", "漢字 😀")
    figure = confusion_chart(CONFUSION, names)
    save_png(figure, tmp_path / "a.png")
    labels = [label.get_text() for label in figure.axes[0].get_xticklabels()]
    assert labels[0] == names[0]
    assert labels[1].endswith("…")
    assert len(labels[1]) == 24
    assert not figure.axes[0].get_xticklabels()[0].get_parse_math()
    assert [str(warning.message) for warning in recwarn] == []
    assert capfd.readouterr() == ("", "")


def test_charts_can_be_drawn_in_several_threads(tmp_path):
    def draw(number: int) -> None:
        save_png(confusion_chart(CONFUSION, ("blue", "green", "red")), tmp_path / f"{number}.png")

    threads = [threading.Thread(target=draw, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({(tmp_path / f"{number}.png").read_bytes() for number in range(4)}) == 1


DRAW = """
import sys; from pathlib import Path; import numpy as np
from src.files.png_file import save_png; from src.pictures.charts import confusion_chart
assert "matplotlib" not in sys.modules
save_png(confusion_chart(np.eye(2, dtype=int), ("a", "漢字")), Path(sys.argv[1]))
assert "matplotlib.pyplot" not in sys.modules
"""


def test_without_a_cache_folder_a_chart_is_drawn_and_nothing_is_printed(tmp_path):
    """The cache folder is a file, as for a user without a home folder: matplotlib warns and builds its font list."""
    (tmp_path / "file").touch()
    environment = {**os.environ, "MPLCONFIGDIR": str(tmp_path / "file" / "cache"), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", DRAW, tmp_path / "a.png"], env=environment, capture_output=True, text=True, cwd=tmp_path
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "file"]


@pytest.mark.parametrize("script", ["train.py", "eval.py", "infer.py", "export.py"])
def test_help_does_not_import_matplotlib_or_scikit_learn(script):
    code = f"import sys, runpy; sys.argv = [{script!r}, '--help']\n"
    code += f"try:\n    runpy.run_path({script!r}, run_name='__main__')\n"
    code += "finally:\n    assert not {'matplotlib', 'sklearn'} & sys.modules.keys()"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
