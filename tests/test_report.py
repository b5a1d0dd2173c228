"""The report on a checkpoint: what is counted, what is drawn, which files there are."""

from __future__ import annotations

import csv
import dataclasses
import math
import subprocess
from pathlib import Path

import numpy as np
import pytest
from mindspore import nn
from PIL import Image

from src.config import Config, EvalConfig, as_yaml, parse_args, read_config
from src.data.imagenet import EvalLoader, read_image_folder
from src.data.transforms import EvalTransform
from src.errors import UserError
from src.pictures.confusion_matrix import LARGEST_CELL, MARGIN, SHADES, confusion_picture
from src.pictures.tiles import GAP, LINE, SIDE
from src.report import provenance
from src.report.files import write_report
from src.report.outcomes import Outcomes, class_results, evaluate_with_outcomes
from src.trainer.evaluate import EvalResult
from tests.tiny_project import ARCH, COLORS, metrics, script, write_config, write_images

ROOT = Path(__file__).resolve().parent.parent
LABEL = np.array([0, 0, 1, 2, 2, 2], np.int32)
PREDICTED = np.array([0, 1, 1, 0, 0, 2])
CONFIDENCE = np.array([0.9, 0.6, 0.5, 0.7, 0.8, 0.4])
CONFUSION = [[1, 1, 0], [0, 1, 0], [2, 0, 1]]
OUTCOMES = Outcomes(LABEL, PREDICTED, CONFIDENCE, num_classes=3)


def test_the_confusion_matrix_has_what_images_are_in_rows():
    assert OUTCOMES.confusion().tolist() == CONFUSION


def test_the_surest_mistake_comes_first():
    assert OUTCOMES.mistakes().tolist() == [4, 3, 1]


def test_every_class_has_its_accuracy_its_precision_and_what_it_is_mistaken_for():
    blue, green, red = class_results(np.array(CONFUSION))
    assert (blue.images, blue.right, blue.said, blue.instead, blue.times) == (2, 1, 3, 1, 1)
    assert (blue.accuracy, blue.precision) == pytest.approx((50, 100 / 3))
    assert (green.accuracy, green.precision, green.instead) == (100, 50, None)
    assert (red.accuracy, red.precision, red.instead, red.times) == pytest.approx((100 / 3, 100, 0, 2))
    (nothing, other) = class_results(np.array([[0, 0], [0, 2]]))
    assert math.isnan(nothing.accuracy)
    assert math.isnan(nothing.precision)
    assert other.accuracy == 100


class MeanColors(nn.Cell):
    """Logits: the mean of each channel, times 10. Blue images (class 0) have the most in channel 2."""

    def construct(self, image):
        return image.mean(axis=(2, 3))[:, ::-1] * 10


def test_the_outcomes_are_those_of_the_evaluation_image_by_image(tmp_path):
    folder = read_image_folder(write_images(tmp_path / "data") / "val")
    transform = EvalTransform(image_size=8, crop_pct=1.0, mean=(0.5,) * 3, std=(0.5,) * 3)
    # 9 images in batches of 4: the last one is filled up. Blue, green, red are the channels in reverse.
    result, outcomes = evaluate_with_outcomes(MeanColors(), EvalLoader(folder, transform, 4, 1))
    assert (result.images, result.top1) == (9, 100.0)
    assert outcomes.label.tolist() == outcomes.predicted.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    image = np.stack([transform(Image.open(path)) for path in folder.paths])
    logits = image.mean(axis=(2, 3))[:, ::-1].astype(np.float64) * 10
    softmax = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    assert outcomes.confidence == pytest.approx(softmax.max(1), rel=1e-5)
    with pytest.raises(ValueError, match="a single rank"):
        evaluate_with_outcomes(MeanColors(), EvalLoader(folder, transform, 4, 1, rank=0, ranks=2))


def test_a_cell_is_shaded_by_its_share_of_the_row():
    picture = np.asarray(confusion_picture(np.array(CONFUSION), ("", "", "")))
    left = top = MARGIN + 8
    corner = picture[top + 2 :: LARGEST_CELL, left + 2 :: LARGEST_CELL][:3, :3]
    assert corner[1, 1].tolist() == SHADES[2].tolist()  # all of green's
    assert corner[0, 2].tolist() == SHADES[0].tolist()  # none of blue's
    assert corner[0, 0].tolist() == corner[0, 1].tolist() == SHADES[1].tolist()  # half of blue's
    two_thirds = SHADES[1] + (2 / 3 - 0.5) * 2 * (SHADES[2] - SHADES[1])
    assert np.abs(corner[2, 0] - two_thirds).max() <= 0.5


def test_a_thousand_classes_still_make_a_picture_of_a_screens_size():
    picture = confusion_picture(np.eye(1000, dtype=np.int64), [f"class {n}" for n in range(1000)])
    assert picture.size == (1000 + 2 * MARGIN, 1000 + 2 * MARGIN)
    assert np.asarray(picture)[MARGIN + 500, MARGIN + 500].tolist() == SHADES[2].tolist()


@pytest.fixture
def report(tmp_path):
    """The folder of a report on the outcomes above, and the images that it is of."""
    data = tmp_path / "data"
    for label, name in zip(LABEL, range(len(LABEL))):
        place = data / sorted(COLORS)[label]
        place.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (10, 10), (20 * name, 0, 0)).save(place / f"{name}.png")
    images = read_image_folder(data)
    write_report(
        tmp_path / "report",
        title="a run",
        weights=Path("best.ckpt"),
        config=Config(num_classes=3),
        images=images,
        result=EvalResult(1.25, 50.0, 100.0, 6),
        outcomes=OUTCOMES,
        versions={"commit": "abc", "Python": "3.11"},
    )
    return tmp_path / "report", images


def rows(path: Path) -> list[list[str]]:
    with path.open(newline="") as file:
        return list(csv.reader(file))


def test_the_report_has_its_files(report):
    folder, images = report
    assert sorted(path.name for path in folder.iterdir()) == [
        *("config.yaml", "confusion.csv", "confusion.png", "mistakes.csv", "mistakes.png"),
        *("per_class.csv", "report.md", "versions.txt"),
    ]
    assert rows(folder / "confusion.csv") == [
        ["", "blue", "green", "red"],
        ["blue", "1", "1", "0"],
        ["green", "0", "1", "0"],
        ["red", "2", "0", "1"],
    ]
    assert rows(folder / "per_class.csv") == [
        ["class", "name", "images", "right", "accuracy", "predicted", "precision", "mistaken_for", "times"],
        ["0", "blue", "2", "1", "50.00", "3", "33.33", "green", "1"],
        ["1", "green", "1", "1", "100.00", "2", "50.00", "", "0"],
        ["2", "red", "3", "1", "33.33", "1", "100.00", "blue", "2"],
    ]
    assert rows(folder / "mistakes.csv")[1:] == [
        [str(images.paths[4]), "red", "blue", "0.8000"],
        [str(images.paths[3]), "red", "blue", "0.7000"],
        [str(images.paths[1]), "blue", "green", "0.6000"],
    ]
    assert (folder / "versions.txt").read_text() == "commit: abc\nPython: 3.11\n"
    assert read_config(folder / "config.yaml") == Config(num_classes=3)


def test_the_sheet_shows_the_surest_mistakes_in_order(report):
    sheet = np.asarray(Image.open(report[0] / "mistakes.png"))
    assert sheet.shape == (SIDE + 3 * LINE + 2 * GAP, 3 * (SIDE + GAP) + GAP, 3)
    middles = [GAP + SIDE // 2 + place * (SIDE + GAP) for place in range(3)]
    assert [int(sheet[GAP + SIDE // 2, x, 0]) for x in middles] == [80, 60, 20]


def test_the_summary_names_the_worst_classes_and_the_most_frequent_mistakes(report):
    text = (report[0] / "report.md").read_text()
    assert "Top-1 50.00 %, top-5 100.00 %, loss 1.2500, mean accuracy of the classes 61.11 %, on 6 images" in text
    table = [line for line in text.splitlines() if line.startswith("| ")][2:]
    assert table == [
        "| red | 3 | 33.33 % | blue (2) |",
        "| blue | 2 | 50.00 % | green (1) |",
        "| green | 1 | 100.00 % | nothing |",
    ]
    assert "- red for blue: 2\n- blue for green: 1\n\n" in text
    assert "- commit: abc" in text


def test_a_network_without_mistakes_has_an_empty_list_of_them(tmp_path):
    images = read_image_folder(write_images(tmp_path / "data") / "val")
    outcomes = Outcomes(images.labels, images.labels, np.ones(9), 3)
    write_report(
        tmp_path / "report",
        title="a run",
        weights=Path("best.ckpt"),
        config=Config(),
        images=images,
        result=EvalResult(0.0, 100.0, 100.0, 9),
        outcomes=outcomes,
        versions={},
    )
    assert "## Most frequent mistakes\n\nNone.\n" in (tmp_path / "report" / "report.md").read_text()
    assert len(rows(tmp_path / "report" / "mistakes.csv")) == 1


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    images = read_image_folder(write_images(tmp_path / "data") / "val")
    (tmp_path / "report").write_text("a file is in the way")
    with pytest.raises(UserError) as refusal:
        write_report(
            tmp_path / "report",
            title="",
            weights=Path("x"),
            config=Config(),
            images=images,
            result=EvalResult(0.0, 100.0, 100.0, 9),
            outcomes=Outcomes(images.labels, images.labels, np.ones(9), 3),
            versions={},
        )
    assert str(refusal.value) == f"{tmp_path}/report: cannot be written (File exists): choose another folder"


@pytest.mark.parametrize("path", sorted((ROOT / "src" / "configs").glob("*.yaml")), ids=lambda path: path.stem)
def test_the_config_as_it_ran_is_read_back_to_the_same(tmp_path, path):
    config = read_config(path)
    (tmp_path / "config.yaml").write_text(as_yaml(config))
    assert read_config(tmp_path / "config.yaml") == config
    changed = dataclasses.replace(
        config, eps=1e-8, auto_augment=None, model_postfix="0", data_url="a: b # c", beta=(0.5, 0)
    )
    (tmp_path / "config.yaml").write_text(as_yaml(changed))
    assert read_config(tmp_path / "config.yaml") == changed


def test_options_of_a_call_do_not_get_into_the_file(tmp_path):
    config = parse_args(["--config_path", "quickstart_digits", "--pretrained", "x", "--report", "y"], "eval")
    assert isinstance(config, EvalConfig)
    assert "report" not in as_yaml(config)


def test_the_commit_is_told_with_whether_files_were_changed(tmp_path):
    def git(*words):
        command = ("git", "-C", str(tmp_path), "-c", "user.name=x", "-c", "user.email=x@y", *words)
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    assert provenance.commit(tmp_path) == "unknown: the project's folder is no git repository"
    git("init", "-q")
    (tmp_path / "file").write_text("1")
    git("add", "file")
    git("commit", "-q", "-m", "one")
    head = git("rev-parse", "HEAD")
    assert provenance.commit(tmp_path) == head
    (tmp_path / "file").write_text("2")
    assert provenance.commit(tmp_path) == f"{head} with uncommitted changes"
    inside = tmp_path / "inside"
    inside.mkdir()
    assert provenance.commit(inside).startswith("unknown")  # the repository is another project's


def test_versions_name_what_numbers_depend_on():
    found = provenance.versions()
    assert found["mindspore"].startswith("2.10")
    assert {"commit", "Python", "numpy", "Pillow", "machine"} <= set(found)


def test_a_report_is_refused_on_several_devices():
    words = ["--config_path", "quickstart_digits", "--pretrained", "x", "--report", "y", "--device_num", "2"]
    with pytest.raises(UserError, match=r"^report is written by one device and device_num is 2: evaluate on one$"):
        parse_args(words, "eval")


def test_training_ends_with_a_report_on_its_best_weights_and_eval_writes_the_same(tmp_path):
    """Of the weights as they are and of their moving average, the better; eval.py agrees to the byte."""
    config = write_config(tmp_path, write_images(tmp_path / "data"), with_ema=True, ema_decay=0.5)
    printed = script("train.py", "--config_path", config).stdout.splitlines()
    folder = tmp_path / "logs" / f"{ARCH}_test" / "report"
    said = printed[-1].removeprefix("report on ")
    best, _, report = said.partition(": ")
    assert report == str(folder / "report.md")
    top1 = max(float(row[name]) for row in metrics(tmp_path) for name in ("top1", "ema_top1"))
    assert f"_top1_{top1:.4f}.ckpt" in best
    assert f"Top-1 {top1:.2f} %" in (folder / "report.md").read_text()
    assert read_config(folder / "config.yaml") == read_config(config)
    script("eval.py", "--config_path", folder / "config.yaml", "--pretrained", best, "--report", tmp_path / "again")
    for name in ("confusion.csv", "per_class.csv", "mistakes.csv", "mistakes.png"):
        assert (tmp_path / "again" / name).read_bytes() == (folder / name).read_bytes(), name
