"""The parts of infer.py beside the network: finding images, the journal of a run, and the file of predictions."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from src.errors import RunError, UserError
from src.prediction.find_images import find_images
from src.prediction.journal import Journal, Record
from src.prediction.predict_files import Details, line_of, print_unreadable, record_of, record_predictions
from src.prediction.predictions_file import FORMATS, prepare_output, shown, write_predictions
from src.prediction.predictor import Prediction, Unreadable

RUN = {"data_path": "photos", "topk": 2}
BEAR: Record = {"image": "/data/American black bear/1.JPEG", "class": 295, "probability": 0.75}
BROKEN: Record = {"image": "broken.png", "unreadable": "the file is empty"}
SWAN: Record = {"image": "Schwäne.png", "class": 1, "probability": 0.5}


def images_in(folder: Path, *names: str) -> list[str]:
    """Make files of these names; their paths."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")
    return [str(folder / name) for name in names]


def test_images_of_a_folder_are_those_of_its_root_sorted(tmp_path):
    images_in(tmp_path, "b.png", "A.JPEG", "c.jpg", "d.PNG", "notes.txt", "e.bmp", "folder.png/inside.png")
    found = find_images(tmp_path)
    assert [Path(path).name for path in found] == ["A.JPEG", "b.png", "c.jpg", "d.PNG"]
    assert len(found) == 4
    assert list(find_images(tmp_path / "e.bmp")) == [str(tmp_path / "e.bmp")]


def test_recursive_takes_every_folder_once(tmp_path):
    """A link back to a folder above would otherwise lead on for ever."""
    expected = images_in(tmp_path, "a/1.png", "a/b/2.jpg", "a/b/3.JPEG", "z.png")
    images_in(tmp_path, "a/b/notes.md")
    (tmp_path / "a" / "b" / "back").symlink_to(tmp_path)
    (tmp_path / "a" / "dangling.png").symlink_to(tmp_path / "nowhere")
    assert list(find_images(tmp_path, recursive=True)) == expected
    assert list(find_images(tmp_path)) == expected[-1:]


def test_a_list_gives_its_paths_in_its_order(tmp_path):
    path = tmp_path / "photos.txt"
    path.write_bytes("\ufeffz.png\r\n\nä b.jpg \n/x/\udcff.png\n   \nz.png".encode(errors="surrogateescape"))
    assert list(find_images(path)) == ["z.png", "ä b.jpg ", "/x/\udcff.png", "z.png"]


def refusal(*arguments, **named) -> str:
    """The message of the `UserError` of `find_images`."""
    with pytest.raises(UserError) as error:
        find_images(*arguments, **named)
    return str(error.value)


def test_a_path_without_an_image_is_an_error(tmp_path):
    assert f"{tmp_path / 'nowhere'} does not exist" in refusal(tmp_path / "nowhere")
    images_in(tmp_path, "deeper/a.bmp")
    (tmp_path / "b.png").mkdir()
    text = refusal(tmp_path)
    assert f"{tmp_path} has no .png, .jpg, .jpeg file" in text
    assert "--recursive" in text
    assert "--recursive" not in refusal(tmp_path, recursive=True)
    text = refusal(tmp_path / "deeper" / "a.bmp", recursive=True)
    assert "a.bmp is a file" in text
    assert "--recursive" in text
    (tmp_path / "list.txt").write_text("\n \n")
    assert "list.txt holds no path" in refusal(tmp_path / "list.txt")
    (tmp_path / "image.txt").write_bytes(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR")
    assert "image.txt is not a text file" in refusal(tmp_path / "image.txt")


@settings(max_examples=30, deadline=None)
@given(st.lists(st.text(st.characters(exclude_characters="\0/"), min_size=1, max_size=5), max_size=10, unique=True))
def test_any_file_name_is_found(tmp_path_factory, names):
    """Names may hold line ends, quotes and bytes that are not valid UTF-8."""
    folder = tmp_path_factory.mktemp("names")
    names = [f"{name.encode(errors='replace').hex()}{name}.png" for name in names if name.isprintable()]
    paths = images_in(folder, "\n.png", os.fsdecode(b"\xff.png"), *names)
    assert find_images(folder) == sorted(paths)


class Echo:
    """A predictor that sees in each path the class number it begins with, and reads no file."""

    def predict(self, images):
        for path in images:
            number = int(path.split("_")[0]) if path[0].isdigit() else None
            yield Unreadable(path, "no number") if number is None else Prediction(path, 5.0 * np.eye(4)[number])


def predict(paths, output: Path, *, resume: bool = False, topk: int | None = None) -> int:
    """Predict `paths` by an `Echo` and return the number of unreadable ones."""
    with Journal(output, RUN, resume=resume) as journal:
        record_predictions(Echo().predict(journal.remaining(paths)), journal, len(paths), Details(topk), quiet=True)
        write_predictions(output, journal.records(), probabilities=False)
        unreadable = print_unreadable(journal.records())
        journal.remove()
    return unreadable


def test_memory_beside_the_paths_does_not_grow_with_the_number_of_images(tmp_path):
    peaks = []
    for count in (1000, 10_000):
        paths = [f"{n % 4}_{n * 7919 % 10007}.png" for n in range(count)]
        tracemalloc.start()
        assert predict(paths, tmp_path / "p.json") == 0
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert len(json.loads((tmp_path / "p.json").read_text())) == count
    # bytes; the list of the remaining paths takes 72,000 more, 9,000 records would take 2,000,000
    assert peaks[1] < peaks[0] + 200_000


def test_the_journal_holds_every_result_at_once_and_is_removed_at_the_end(tmp_path, capsys):
    output = tmp_path / "p.json"
    partial = tmp_path / "p.json.partial"
    lines: list[str] = []

    class Interrupted(Echo):
        def predict(self, images):
            for result in super().predict(images):
                if result.image == "2_c":
                    lines.extend(partial.read_text().splitlines())
                    raise KeyboardInterrupt
                yield result

    paths = ["1_a", "x", "2_c", "3_d"]
    with pytest.raises(KeyboardInterrupt), Journal(output, RUN, resume=False) as journal:
        record_predictions(Interrupted().predict(paths), journal, len(paths), Details(topk=2), quiet=True)
    # e^5 / (e^5 + 3) = 0.980187
    top = [{"class": 1, "probability": 0.980187}, {"class": 0, "probability": 0.00660445}]
    assert [json.loads(line) for line in lines] == [
        {"run": RUN},
        {"image": "1_a", "class": 1, "probability": 0.980187, "top": top},
        {"image": "x", "unreadable": "no number"},
    ]
    assert not output.exists()
    assert predict(paths, output, resume=True) == 1
    assert os.listdir(tmp_path) == ["p.json"]
    found = json.loads(output.read_text())
    assert found["1_a"] == {"class": 1, "top": [{"class": 1}, {"class": 0}]}
    assert (found["2_c"], found["3_d"]) == (2, 3)
    assert capsys.readouterr().err == "x cannot be read: no number\n"


def test_the_lines_of_the_journal_are_those_of_the_json_lines_output(tmp_path):
    partial = journal_of(tmp_path / "p.jsonl", BEAR, BROKEN, SWAN)
    lines = partial.read_bytes().splitlines(keepends=True)
    with Journal(tmp_path / "p.jsonl", RUN, resume=True) as journal:
        write_predictions(tmp_path / "p.jsonl", journal.records(), probabilities=True)
    assert (tmp_path / "p.jsonl").read_bytes() == lines[1] + lines[3]


def journal_of(path: Path, *records: Record, run: dict[str, object] = RUN) -> Path:
    """The journal that a killed run leaves."""
    with Journal(path, run, resume=False) as journal:
        for record in records:
            journal.append(record)
    return journal.path


@pytest.mark.parametrize("tail", [b"", b'{"image": "3_d", "class": 3, ', b"\0" * 50, b'{"image": "q"}\n', b"[]\n{}\n"])
def test_an_incomplete_line_after_a_power_failure_is_cut_off(tmp_path, tail):
    partial = journal_of(
        tmp_path / "p.csv", {"image": "1_a", "class": 1, "probability": 0.9}, {"image": "x", "unreadable": "no"}
    )
    partial.write_bytes(partial.read_bytes() + tail)
    with Journal(tmp_path / "p.csv", RUN, resume=True) as journal:
        assert len(journal) == 2
        assert list(journal.remaining(["1_a", "x", "3_d"])) == ["3_d"]
        journal.append(SWAN)
        assert [record["image"] for record in journal.records()] == ["1_a", "x", "Schwäne.png"]
    assert len(partial.read_bytes().splitlines()) == 4


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 400), st.binary(max_size=3))
def test_a_journal_cut_anywhere_resumes_to_the_same_file(tmp_path_factory, cut, garbage):
    folder = tmp_path_factory.mktemp("cut")
    paths = [f"{n % 4}_{n}" for n in range(6)]
    predict(paths, folder / "whole.json")
    records = [{"image": path, "class": int(path[0]), "probability": 0.5} for path in paths]
    partial = journal_of(folder / "p.json", *records)
    partial.write_bytes(partial.read_bytes()[:cut] + garbage)
    predict(paths, folder / "p.json", resume=True)
    assert (folder / "p.json").read_bytes() == (folder / "whole.json").read_bytes()
    assert not partial.exists()


def test_an_interrupted_run_is_not_overwritten(tmp_path):
    journal_of(tmp_path / "p.json", BEAR)
    with pytest.raises(UserError, match=r"p\.json\.partial .*--resume.* remove the file"):
        Journal(tmp_path / "p.json", RUN, resume=False)


def test_a_run_with_other_options_or_other_images_is_not_resumed(tmp_path):
    journal_of(tmp_path / "p.json", BEAR, SWAN)
    with pytest.raises(UserError, match=r"data_path is other .*p\.json\.partial .*photos"):
        Journal(tmp_path / "p.json", {"data_path": "other", "topk": 2}, resume=True)
    with pytest.raises(UserError, match=r"topk is None .*p\.json\.partial .* 2"):
        Journal(tmp_path / "p.json", {**RUN, "topk": None}, resume=True)
    with Journal(tmp_path / "p.json", RUN, resume=True) as journal:
        for images, there in ([BEAR["image"], "new.png", SWAN["image"]], "new.png"), ([BEAR["image"]], "missing"):
            with pytest.raises(UserError, match=rf"image 2 is {there} .*Schwäne\.png.*p\.json\.partial"):
                journal.remaining(images)


def test_two_runs_do_not_write_one_journal(tmp_path):
    journal_of(tmp_path / "p.json", BEAR)
    code = (
        "import sys; from pathlib import Path; from src.prediction.journal import Journal\n"
        f"Journal(Path({str(tmp_path / 'p.json')!r}), {RUN}, resume=True)"
    )
    with Journal(tmp_path / "p.json", RUN, resume=True):
        other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "p.json.partial is being written by another run" in other.stderr.splitlines()[-1]


def test_a_run_without_a_result_leaves_no_file(tmp_path):
    with pytest.raises(RunError), Journal(tmp_path / "p.json", RUN, resume=False):
        raise RunError("no network")
    assert os.listdir(tmp_path) == []


def test_a_full_disk_ends_the_run_and_keeps_the_journal(tmp_path):
    journal = Journal(tmp_path / "p.json", RUN, resume=False)
    journal.append(BEAR)
    journal._file.close()
    journal._file = open("/dev/full", "ab")  # noqa: SIM115
    with pytest.raises(RunError, match=r"p\.json\.partial .*\(No space left on device\).*--resume"):
        journal.append(SWAN)
    with Journal(tmp_path / "p.json", RUN, resume=True) as resumed:
        assert list(resumed.records()) == [BEAR]


def test_logits_that_are_not_finite_end_the_run():
    with pytest.raises(RunError, match=r"a\.png gives logits that are not finite"):
        record_of(Prediction("a.png", np.array([1.0, np.nan])), Details())


def test_a_record_has_the_labels_and_the_top_classes_that_are_asked_for():
    prediction = Prediction("a.png", np.log(np.array([0.25, 0.75], np.float32)))
    assert record_of(prediction, Details()) == {"image": "a.png", "class": 1, "probability": 0.75}
    record = record_of(prediction, Details(topk=2, labels=("cat", "dog")))
    first, second = {"class": 1, "label": "dog", "probability": 0.75}, {"class": 0, "label": "cat", "probability": 0.25}
    assert record == {"image": "a.png", **first, "top": [first, second]}
    assert line_of(record) == "a.png (class: 1, label: dog, probability: 0.75)"
    assert line_of(shown(record, probabilities=False)) == "a.png (class: 1, label: dog)"


def written(path: Path, *records: Record, probabilities: bool = False) -> str:
    write_predictions(path, records, probabilities=probabilities)
    return path.read_text(encoding="utf-8")


def test_the_default_is_the_json_of_the_model_zoo_to_the_byte(tmp_path):
    path = tmp_path / "predictions.json"
    assert written(path, BEAR, BROKEN, SWAN) == '{\n "/data/American black bear/1.JPEG": 295,\n "Schwäne.png": 1\n}\n'
    assert written(path, {**SWAN, "image": "/data/\udcff.png"}) == '{\n "/data/\\udcff.png": 1\n}\n'
    assert written(path, BROKEN) == "{}\n"
    assert os.listdir(tmp_path) == ["predictions.json"]


BROWN, BLACK = (
    {"class": 295, "label": "Bär", "probability": 0.75},
    {"class": 294, "label": "b,r", "probability": 0.125},
)
NAMED = {"image": 'a "b",\n.png', **BROWN, "top": [BROWN, BLACK]}


def test_json_with_details_has_an_object_per_image(tmp_path):
    path = tmp_path / "p.json"
    assert written(path, BEAR, SWAN, probabilities=True) == (
        '{\n "/data/American black bear/1.JPEG": {"class": 295, "probability": 0.75},\n'
        ' "Schwäne.png": {"class": 1, "probability": 0.5}\n}\n'
    )
    assert json.loads(written(path, NAMED, probabilities=True)) == {
        NAMED["image"]: {**BROWN, "top": [BROWN, BLACK]},
    }
    top = [{"class": 295, "label": "Bär"}, {"class": 294, "label": "b,r"}]
    assert json.loads(written(path, NAMED)) == {NAMED["image"]: {"class": 295, "label": "Bär", "top": top}}


def test_json_lines_hold_an_object_each(tmp_path):
    path = tmp_path / "p.jsonl"
    assert written(path, BEAR, BROKEN, SWAN) == (
        '{"image": "/data/American black bear/1.JPEG", "class": 295}\n{"image": "Schwäne.png", "class": 1}\n'
    )
    top = {**SWAN, "top": [{"class": 1, "probability": 0.5}, {"class": 0, "probability": 0.5}]}
    assert written(path, top) == '{"image": "Schwäne.png", "class": 1, "top": [{"class": 1}, {"class": 0}]}\n'


def test_csv_has_a_row_per_image_or_per_class(tmp_path):
    path = tmp_path / "p.csv"
    assert written(path, BEAR, BROKEN, SWAN) == "image,class\n/data/American black bear/1.JPEG,295\nSchwäne.png,1\n"
    assert written(path, BROKEN) == "image,class\n"
    rows = list(csv.reader(written(path, NAMED, probabilities=True).splitlines(keepends=True)))
    assert rows == [
        ["image", "rank", "class", "label", "probability"],
        [NAMED["image"], "1", "295", "Bär", "0.75"],
        [NAMED["image"], "2", "294", "b,r", "0.125"],
    ]
    write_predictions(path, [{**SWAN, "image": "\udcff.png"}], probabilities=False)
    assert path.read_bytes() == b"image,class\n\xff.png,1\n"


def test_an_output_that_cannot_be_written_is_refused_before_any_work(tmp_path):
    with pytest.raises(UserError, match=rf"output is {tmp_path}, which is a folder"):
        prepare_output("output", tmp_path, FORMATS)
    with pytest.raises(UserError, match=r"output is p\.xml.*\.json or \.jsonl or \.csv"):
        prepare_output("output", Path("p.xml"), FORMATS)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"contact_sheet .*p\.png cannot be written \(.*\)"):
        prepare_output("contact_sheet", tmp_path / "file" / "p.png", [".png"])
