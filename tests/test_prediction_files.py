"""What infer.py is made of beside the network: finding images, the journal of a run, and the file of predictions."""

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
from src.prediction.predict_files import name_unreadable, predict_files
from src.prediction.predictions_file import FORMATS, Details, prepare_output, wanted_details, write_predictions
from src.prediction.predictor import Prediction, Unreadable
from src.prediction.progress import Progress
from src.prediction.stored_paths import StoredPaths, sorted_paths

RUN = {"data_path": "photos", "topk": 2}
BEAR = Record("/data/American black bear/1.JPEG", ((295, 0.75), (294, 0.125)))
BROKEN = Record("broken.png", reason="the file is empty")
SWAN = Record("Schwäne.png", ((1, 0.5), (0, 0.5)))


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


def test_nothing_to_predict_is_an_error(tmp_path):
    with pytest.raises(UserError, match="nowhere does not exist: give an image or a folder of images"):
        find_images(tmp_path / "nowhere")
    images_in(tmp_path, "deeper/a.bmp")
    (tmp_path / "b.png").mkdir()
    with pytest.raises(
        UserError, match=r"has no \.png, .* file in its root: .*, or pass --recursive if they lie deepe"
    ):
        find_images(tmp_path)
    with pytest.raises(UserError, match=r"has no \.png, \.jpg, \.jpeg file in it: give a folder of images$"):
        find_images(tmp_path, recursive=True)
    with pytest.raises(UserError, match=r"a\.bmp is a file and --recursive is for folders: leave it out"):
        find_images(tmp_path / "deeper" / "a.bmp", recursive=True)
    (tmp_path / "list.txt").write_text("\n \n")
    with pytest.raises(UserError, match=r"list\.txt holds no path: give one a line"):
        find_images(tmp_path / "list.txt")
    (tmp_path / "image.txt").write_bytes(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR")
    with pytest.raises(UserError, match=r"image\.txt is not a text file: give one with a path a line"):
        find_images(tmp_path / "image.txt")


NAMES = st.text(st.characters(exclude_characters="\0"), max_size=5)


@settings(max_examples=50, deadline=None)
@given(st.lists(NAMES, max_size=30), st.integers(1, 7))
def test_sorting_in_parts_is_sorting(names, sorted_at_once):
    """Names may hold line ends, quotes and bytes of no encoding."""
    stored = StoredPaths(sorted_paths(iter(names), sorted_at_once))
    assert list(stored) == list(stored) == sorted(names)
    assert len(stored) == len(names)


class Echo:
    """A predictor that sees in each path the class number it begins with, and reads no file."""

    def predict(self, images):
        for path in images:
            number = int(path.split("_")[0]) if path[0].isdigit() else None
            yield Unreadable(path, "no number") if number is None else Prediction(path, 5.0 * np.eye(4)[number])


def predict(paths, output: Path, *, resume: bool = False, **details: object) -> int:
    """Predict `paths` by an `Echo`; how many are unreadable."""
    with Journal(output, RUN, resume=resume) as journal, Progress(len(paths), len(journal), quiet=True) as progress:
        predict_files(Echo(), paths, journal, progress, Details(**details), top=2)
        write_predictions(output, journal.records(), Details(**details))
        unreadable = name_unreadable(journal.records())
        journal.remove()
    return unreadable


def test_memory_does_not_grow_with_the_number_of_images(tmp_path):
    peaks = []
    for count in (1000, 10_000):
        tracemalloc.start()
        paths = StoredPaths(sorted_paths((f"{n % 4}_{n * 7919 % 10007}.png" for n in range(count)), 200))
        assert predict(paths, tmp_path / "p.json") == 0
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert len(json.loads((tmp_path / "p.json").read_text())) == count
    assert peaks[1] < peaks[0] + 200_000  # bytes; a thousand paths alone take 60,000


def test_the_journal_holds_what_is_done_and_goes_with_the_run(tmp_path, capsys):
    output = tmp_path / "p.json"
    partial = tmp_path / "p.json.partial"

    def interrupted(paths):
        for path in paths:
            if path == "2_c":
                lines.extend(partial.read_text().splitlines())
                raise KeyboardInterrupt
            yield path

    lines: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        predict(list_of(["1_a", "x", "2_c", "3_d"], interrupted), output)
    # e^5 / (e^5 + 3) = 0.980187; a prediction is written before the next image is asked for
    assert [json.loads(line) for line in lines] == [
        {"run": RUN},
        {"image": "1_a", "top": [[1, 0.980187], [0, 0.00660445]]},
        {"image": "x", "unreadable": "no number"},
    ]
    assert not output.exists()
    assert predict(["1_a", "x", "2_c", "3_d"], output, resume=True) == 1
    assert os.listdir(tmp_path) == ["p.json"]
    assert json.loads(output.read_text()) == {"1_a": 1, "2_c": 2, "3_d": 3}
    assert capsys.readouterr().err == "x cannot be read: no number\n"


def list_of(paths: list[str], through) -> object:
    """`paths` of known length, gone through by `through`."""

    class Paths:
        def __len__(self) -> int:
            return len(paths)

        def __iter__(self):
            return through(paths)

    return Paths()


def journal_of(path: Path, *records: Record, run: dict[str, object] = RUN) -> Path:
    """The journal that a killed run leaves."""
    with Journal(path, run, resume=False) as journal:
        for record in records:
            journal.append(record)
    return journal.path


@pytest.mark.parametrize("tail", [b"", b'{"image": "3_d", "top": [[3,', b"\0" * 50, b'{"image": "q"}\n', b"[]\n{}\n"])
def test_what_a_power_cut_leaves_is_cut_off(tmp_path, tail):
    partial = journal_of(tmp_path / "p.csv", Record("1_a", ((1, 0.9), (0, 0.1))), Record("x", reason="no"))
    partial.write_bytes(partial.read_bytes() + tail)
    with Journal(tmp_path / "p.csv", RUN, resume=True) as journal:
        assert len(journal) == 2
        assert list(journal.remaining(["1_a", "x", "3_d"])) == ["3_d"]
        journal.append(SWAN)
        assert [record.image for record in journal.records()] == ["1_a", "x", "Schwäne.png"]
    assert len(partial.read_bytes().splitlines()) == 4


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 400), st.binary(max_size=3))
def test_a_journal_cut_anywhere_resumes_to_the_same_file(tmp_path_factory, cut, garbage):
    folder = tmp_path_factory.mktemp("cut")
    paths = [f"{n % 4}_{n}" for n in range(6)]
    predict(paths, folder / "whole.json")
    records = [Record(path, ((int(path[0]), 0.5),)) for path in paths]
    partial = journal_of(folder / "p.json", *records)
    partial.write_bytes(partial.read_bytes()[:cut] + garbage)
    predict(paths, folder / "p.json", resume=True)
    assert (folder / "p.json").read_bytes() == (folder / "whole.json").read_bytes()
    assert not partial.exists()


def test_an_interrupted_run_is_not_thrown_away(tmp_path):
    journal_of(tmp_path / "p.json", BEAR)
    text = r"p\.json\.partial is what an interrupted run has predicted: continue it with --resume, or remove the file"
    with pytest.raises(UserError, match=text):
        Journal(tmp_path / "p.json", RUN, resume=False)


def test_another_run_or_other_images_are_not_continued(tmp_path):
    journal_of(tmp_path / "p.json", BEAR, SWAN)
    with pytest.raises(
        UserError, match=r"p\.json\.partial is of a run with another data_path and another topk: give the"
    ):
        Journal(tmp_path / "p.json", {"data_path": "other", "topk": None}, resume=True)
    with Journal(tmp_path / "p.json", RUN, resume=True) as journal:
        text = (
            r"the images have changed since .*p\.json\.partial was written: number 2 was Schwäne\.png and is new\.png"
        )
        with pytest.raises(UserError, match=text):
            journal.remaining([BEAR.image, "new.png", SWAN.image])


def test_two_runs_do_not_write_one_journal(tmp_path):
    journal_of(tmp_path / "p.json", BEAR)
    code = (
        "import sys; from pathlib import Path; from src.prediction.journal import Journal\n"
        f"Journal(Path({str(tmp_path / 'p.json')!r}), {RUN}, resume=True)"
    )
    with Journal(tmp_path / "p.json", RUN, resume=True):
        other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert other.stderr.splitlines()[-1].endswith(
        "p.json.partial is being written by another run: wait for it, or choose another output"
    )


def test_a_run_without_a_result_leaves_nothing(tmp_path):
    with pytest.raises(RunError), Journal(tmp_path / "p.json", RUN, resume=False):
        raise RunError("no network")
    assert os.listdir(tmp_path) == []


def test_a_full_disk_ends_the_run_and_keeps_the_journal(tmp_path):
    journal = Journal(tmp_path / "p.json", RUN, resume=False)
    journal.append(BEAR)
    journal._file.close()
    journal._file = open("/dev/full", "ab")  # noqa: SIM115
    text = r"p\.json\.partial cannot be written \(No space left on device\): free some space and go on with --resume"
    with pytest.raises(RunError, match=text):
        journal.append(SWAN)
    with Journal(tmp_path / "p.json", RUN, resume=True) as resumed:
        assert list(resumed.records()) == [BEAR]


def test_logits_that_are_not_finite_end_the_run(tmp_path):
    class Broken:
        def predict(self, images):
            for path in images:
                yield Prediction(path, np.array([1.0, np.nan]))

    journal, progress = Journal(tmp_path / "p.json", RUN, resume=False), Progress(1, 0, quiet=True)
    with pytest.raises(RunError, match=r"a\.png gives logits that are not finite: the weights are damaged, or too"):
        predict_files(Broken(), ["a.png"], journal, progress, Details(), top=1)


def written(path: Path, *records: Record, **details: object) -> str:
    write_predictions(path, records, Details(**details))
    return path.read_text(encoding="utf-8")


def test_the_default_is_the_users_json_to_the_byte(tmp_path):
    path = tmp_path / "predictions.json"
    assert written(path, BEAR, BROKEN, SWAN) == '{\n "/data/American black bear/1.JPEG": 295,\n "Schwäne.png": 1\n}\n'
    assert written(path, Record("/data/\udcff.png", ((1, 1.0),))) == '{\n "/data/\\udcff.png": 1\n}\n'
    assert written(path, BROKEN) == "{}\n"
    assert os.listdir(tmp_path) == ["predictions.json"]


NAMED = {"class_names": (*map(str, range(294)), "brown, bear", "Bär")}


def test_json_with_details_tells_them_by_name(tmp_path):
    path = tmp_path / "p.json"
    assert written(path, BEAR, SWAN, probabilities=True) == (
        '{\n "/data/American black bear/1.JPEG": {"class": 295, "probability": 0.75},\n'
        ' "Schwäne.png": {"class": 1, "probability": 0.5}\n}\n'
    )
    assert json.loads(written(path, BEAR, top=True, probabilities=True, **NAMED)) == {
        BEAR.image: {
            "class": 295,
            "label": "Bär",
            "probability": 0.75,
            "top": [
                {"class": 295, "label": "Bär", "probability": 0.75},
                {"class": 294, "label": "brown, bear", "probability": 0.125},
            ],
        }
    }


def test_json_lines_hold_an_object_each(tmp_path):
    path = tmp_path / "p.jsonl"
    assert written(path, BEAR, BROKEN, SWAN) == (
        '{"image": "/data/American black bear/1.JPEG", "class": 295}\n{"image": "Schwäne.png", "class": 1}\n'
    )
    line = '{"image": "Schwäne.png", "class": 1, "top": [{"class": 1}, {"class": 0}]}\n'
    assert written(path, SWAN, top=True) == line


def test_csv_has_a_row_per_image_or_per_class(tmp_path):
    path = tmp_path / "p.csv"
    assert written(path, BEAR, BROKEN, SWAN) == "image,class\n/data/American black bear/1.JPEG,295\nSchwäne.png,1\n"
    quoted = Record('a "b",\n.png', BEAR.top)
    with_names = written(path, quoted, top=True, probabilities=True, **NAMED)
    rows = list(csv.reader(with_names.splitlines(keepends=True)))
    assert rows == [
        ["image", "rank", "class", "label", "probability"],
        ['a "b",\n.png', "1", "295", "Bär", "0.75"],
        ['a "b",\n.png', "2", "294", "brown, bear", "0.125"],
    ]
    write_predictions(path, [Record("\udcff.png", ((1, 1.0),))], Details())
    assert path.read_bytes() == b"image,class\n\xff.png,1\n"


def test_stored_names_leave_the_default_json_as_it_is():
    names = ("a", "b")
    assert wanted_details(Path("p.json"), None, False, names, names_given=False) == Details()
    assert wanted_details(Path("p.json"), None, False, names, names_given=True) == Details(class_names=names)
    assert wanted_details(Path("p.json"), 1, False, names, names_given=False) == Details(top=True, class_names=names)
    assert wanted_details(Path("p.JSON"), None, True, (), False) == Details(probabilities=True)
    assert wanted_details(Path("p.csv"), None, False, names, names_given=False) == Details(class_names=names)


def test_an_output_that_cannot_be_written_is_refused_before_any_work(tmp_path):
    with pytest.raises(UserError, match=r"output .* is a folder: give the name of a file"):
        prepare_output("output", tmp_path, FORMATS)
    text = r"output p\.xml has another ending than \.json, \.jsonl, \.csv: the ending is the format"
    with pytest.raises(UserError, match=text):
        prepare_output("output", Path("p.xml"), FORMATS)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"contact_sheet .*p\.png cannot be written \(.*\): choose another place"):
        prepare_output("contact_sheet", tmp_path / "file" / "p.png", [".png"])
