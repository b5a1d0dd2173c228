"""The report on a checkpoint: its scores, its pictures and its files."""

from __future__ import annotations

import csv
import dataclasses
import subprocess
from pathlib import Path

import numpy as np
import pytest
from mindspore import nn
from PIL import Image

from src.config import Config, EvalConfig, as_yaml, parse_args, read_config
from src.data.image_folder import read_image_folder
from src.data.imagenet import EvalLoader
from src.data.transforms import EvalTransform
from src.errors import UserError
from src.evaluation.classification import EvalResult
from src.pictures.tiles import GAP, LINE, SIDE
from src.report import provenance
from src.report.outcomes import Outcomes, evaluate_with_outcomes
from src.report.report import Report, write_report
from tests.tiny_project import COLORS, error_line, script, write_config, write_images

ROOT = Path(__file__).resolve().parent.parent
LABEL = np.array([0, 0, 1, 2, 2, 2], np.int32)
PREDICTED = np.array([0, 1, 1, 0, 0, 2])
CONFIDENCE = np.array([0.9, 0.6, 0.5, 0.7, 0.8, 0.4])
CONFUSION = [[1, 1, 0], [0, 1, 0], [2, 0, 1]]
OUTCOMES = Outcomes(LABEL, PREDICTED, CONFIDENCE, num_classes=3)


def test_the_confusion_matrix_has_true_classes_in_rows():
    assert OUTCOMES.confusion().tolist() == CONFUSION


def test_the_mistake_with_the_highest_confidence_comes_first():
    assert OUTCOMES.mistakes().tolist() == [4, 3, 1]


def test_precision_recall_and_f1_are_those_of_each_class_in_percent():
    scores = OUTCOMES.scores()
    assert scores.precision == pytest.approx([100 / 3, 50, 100])
    assert scores.recall == pytest.approx([50, 100, 100 / 3])
    assert scores.f1 == pytest.approx([40, 200 / 3, 50])  # 2 x 50 x 33.3 / (50 + 33.3)


def test_scores_without_images_or_predictions_are_nan():
    label, predicted = np.array([1, 1, 2]), np.array([1, 1, 1])
    scores = Outcomes(label, predicted, np.ones(3), num_classes=4).scores()
    np.testing.assert_array_equal(np.isnan(scores.precision), [True, False, True, True])
    np.testing.assert_array_equal(np.isnan(scores.recall), [True, False, False, True])
    assert scores.recall[1:3].tolist() == [100, 0]
    assert scores.f1[2] == 0


class MeanColors(nn.Cell):
    """Logits: the mean of each channel, times 10. Blue images (class 0) have the most in channel 2."""

    def construct(self, image):
        return image.mean(axis=(2, 3))[:, ::-1] * 10


def test_the_outcomes_agree_with_the_evaluation_image_by_image(tmp_path):
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


@pytest.fixture
def report(tmp_path):
    """The folder of a report on the outcomes above, and its images."""
    data = tmp_path / "data"
    for label, name in zip(LABEL, range(len(LABEL))):
        place = data / sorted(COLORS)[label]
        place.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (10, 10), (20 * name, 0, 0)).save(place / f"{name}.png")
    images = read_image_folder(data)
    result = EvalResult(1.25, 50.0, 100.0, 6)
    versions = {"commit": "abc", "Python": "3.11"}
    write_report(
        tmp_path / "report", Report(Path("best.ckpt"), Config(num_classes=3), images, result, OUTCOMES, versions)
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
        [
            *("class", "name", "images", "right", "accuracy", "predicted"),
            *("precision", "recall", "f1", "mistaken_for", "times"),
        ],
        ["0", "blue", "2", "1", "50.00", "3", "33.33", "50.00", "40.00", "green", "1"],
        ["1", "green", "1", "1", "100.00", "2", "50.00", "100.00", "66.67", "", "0"],
        ["2", "red", "3", "1", "33.33", "1", "100.00", "33.33", "50.00", "blue", "2"],
    ]
    assert rows(folder / "mistakes.csv")[1:] == [
        [str(images.paths[4]), "red", "blue", "0.8000"],
        [str(images.paths[3]), "red", "blue", "0.7000"],
        [str(images.paths[1]), "blue", "green", "0.6000"],
    ]
    assert (folder / "versions.txt").read_text() == "commit: abc\nPython: 3.11\n"
    assert read_config(folder / "config.yaml") == Config(num_classes=3)


def test_the_sheet_shows_the_mistakes_with_the_highest_confidence_in_order(report):
    sheet = np.asarray(Image.open(report[0] / "mistakes.png"))
    assert sheet.shape == (SIDE + 3 * LINE + 2 * GAP, 3 * (SIDE + GAP) + GAP, 3)
    middles = [GAP + SIDE // 2 + place * (SIDE + GAP) for place in range(3)]
    assert [int(sheet[GAP + SIDE // 2, x, 0]) for x in middles] == [80, 60, 20]


def test_the_summary_names_the_worst_classes_and_the_most_frequent_mistakes(report):
    text = (report[0] / "report.md").read_text()
    for word in ("Top-1 50.00 %", "top-5 100.00 %", "loss 1.2500", "61.11 %", "6 images", "best.ckpt"):
        assert word in text
    table = [line for line in text.splitlines() if line.startswith("| ")][2:]
    assert table == [
        "| red | 3 | 33.33 % | 50.00 % | blue (2) |",
        "| blue | 2 | 50.00 % | 40.00 % | green (1) |",
        "| green | 1 | 100.00 % | 66.67 % | - |",
    ]
    assert "- red predicted as blue: 2\n- blue predicted as green: 1\n\n" in text
    assert "- commit: abc" in text


def test_a_network_without_mistakes_has_an_empty_list(tmp_path):
    images = read_image_folder(write_images(tmp_path / "data") / "val")
    outcomes = Outcomes(images.labels, images.labels, np.ones(9), 3)
    result = EvalResult(0.0, 100.0, 100.0, 9)
    write_report(tmp_path / "report", Report(Path("best.ckpt"), Config(), images, result, outcomes, {}))
    assert "## Most frequent confusions\n\nNone.\n" in (tmp_path / "report" / "report.md").read_text()
    assert len(rows(tmp_path / "report" / "mistakes.csv")) == 1


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    images = read_image_folder(write_images(tmp_path / "data") / "val")
    (tmp_path / "report").write_text("a file is in the way")
    outcomes = Outcomes(images.labels, images.labels, np.ones(9), 3)
    report = Report(Path("x"), Config(), images, EvalResult(0.0, 100.0, 100.0, 9), outcomes, {})
    with pytest.raises(UserError, match=rf"{tmp_path}/report cannot be written \(it is not a folder\)"):
        write_report(tmp_path / "report", report)


@pytest.mark.parametrize("path", sorted((ROOT / "src" / "configs").glob("*.yaml")), ids=lambda path: path.stem)
def test_the_written_config_is_read_back_unchanged(tmp_path, path):
    config = read_config(path)
    (tmp_path / "config.yaml").write_text(as_yaml(config))
    assert read_config(tmp_path / "config.yaml") == config
    changed = dataclasses.replace(
        config, eps=1e-8, pretrained=None, model_postfix="0", data_url="a: b # c", beta=(0.5, 0)
    )
    (tmp_path / "config.yaml").write_text(as_yaml(changed))
    assert read_config(tmp_path / "config.yaml") == changed


def test_options_of_one_call_are_not_in_the_config_file(tmp_path):
    config = parse_args(["--config_path", "quickstart_digits", "--pretrained", "x", "--report", "y"], "eval")
    assert isinstance(config, EvalConfig)
    assert "report" not in as_yaml(config)


def test_the_commit_says_whether_files_were_changed(tmp_path):
    def git(*words):
        command = ("git", "-C", str(tmp_path), "-c", "user.name=x", "-c", "user.email=x@y", *words)
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    assert provenance.commit(tmp_path).startswith("unknown")
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


def test_versions_name_the_packages_that_results_depend_on():
    found = provenance.versions()
    assert found["mindspore"].startswith("2.10")
    assert {"commit", "Python", "numpy", "Pillow", "machine"} <= set(found)


def test_a_report_is_refused_on_several_devices():
    words = ["--config_path", "quickstart_digits", "--pretrained", "x", "--report", "y", "--device_num", "2"]
    with pytest.raises(UserError, match=r"device_num is 2"):
        parse_args(words, "eval")


def test_a_report_that_is_no_folder_is_refused_before_the_checkpoint_is_read(tmp_path):
    config = write_config(tmp_path, write_images(tmp_path / "data"))
    done = script("eval.py", "--config", config, "--pretrained", "x.ckpt", "--report", "/dev/null", check=False)
    assert error_line(done) == "/dev/null cannot be written (it is not a folder): choose another folder"
