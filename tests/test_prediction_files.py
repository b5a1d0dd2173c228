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
from src.prediction.journal import BEGIN, Journal, Record
from src.prediction.predict_files import Details, line_of, print_unreadable, record_of, record_predictions
from src.prediction.predictions_file import FORMATS, prepare_output, shown, write_predictions
from src.prediction.predictor import Prediction, Unreadable
from tests.tiny_project import deep_image

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
    assert list(find_images(tmp_path, recursive=True)) == expected
    assert list(find_images(tmp_path)) == expected[-1:]


def test_folders_that_link_to_each_other_from_many_places_are_searched_once(tmp_path):
    """Twenty folders with two links each to the next have a million paths to the last."""
    for number in range(20):
        (tmp_path / str(number)).mkdir()
        for name in "ab":
            (tmp_path / str(number) / name).symlink_to(tmp_path / str(number + 1))
    (tmp_path / "20").mkdir()
    (tmp_path / "20" / "image.png").touch()
    assert len(find_images(tmp_path, recursive=True)) == 1


def test_folders_of_any_depth_are_searched(tmp_path):
    image = deep_image(tmp_path)
    found = find_images(tmp_path, recursive=True)
    subprocess.run(["rm", "-r", str(tmp_path / "a")], check=True)  # too deep for pytest, which removes it later
    assert found == [str(image)]


def test_a_name_that_leads_to_no_file_is_an_image_that_cannot_be_read_and_hides_no_other(tmp_path):
    found = images_in(tmp_path, "good.png")
    (tmp_path / "dangling.png").symlink_to(tmp_path / "nowhere")
    (tmp_path / "itself.png").symlink_to(tmp_path / "itself.png")
    (tmp_path / "itself").symlink_to(tmp_path / "itself")
    os.mkfifo(tmp_path / "fifo.png")
    assert find_images(tmp_path) == [
        *(str(tmp_path / name) for name in ("dangling.png", "fifo.png")),
        *found,
        str(tmp_path / "itself.png"),
    ]


@pytest.mark.parametrize("target", ["/dev/zero", "fifo", "itself"])
def test_a_path_that_is_no_regular_file_is_an_error(tmp_path, target):
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path / "itself", tmp_path / "list.txt"):
        path.symlink_to(path if target == "itself" else tmp_path / target)
        assert str(path) in refusal(path)


def test_an_endless_list_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr("src.prediction.find_images.LIST_LIMIT", 1000)
    (tmp_path / "list.txt").write_text("image.png\n" * 101)
    assert "list.txt is larger than 0.001 MB; give a smaller file" in refusal(tmp_path / "list.txt")


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


def test_a_terminal_shows_control_characters_of_a_name_escaped_and_other_letters_as_they_are(tmp_path, capsys):
    paths = ["1_\x1b[2J\r.png", "2_Schwäne \U0001f9a2.png", "broken\x07.png"]
    with Journal(tmp_path / "p.json", RUN, resume=False) as journal:
        record_predictions(Echo().predict(paths), journal, len(paths), Details(), quiet=False)
        assert print_unreadable(journal.records()) == 1
    out, err = capsys.readouterr()
    assert out == "1_\\x1b[2J\\r.png (class: 1)\n2_Schwäne \U0001f9a2.png (class: 2)\n"
    assert err == "broken\\x07.png cannot be read: no number\n"


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
        {"image": "1_a", "class": 1, "probability": 0.980187, "top": top, "size_and_time": None},
        {"image": "x", "unreadable": "no number", "size_and_time": None},
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
    stored = b', "size_and_time": null'
    assert (tmp_path / "p.jsonl").read_bytes() == (lines[1] + lines[3]).replace(stored, b"")


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
    damaged = partial.read_bytes()[:cut] + garbage
    partial.write_bytes(damaged)
    if damaged[: len(BEGIN)] != BEGIN[: len(damaged)]:  # it might be another file
        with pytest.raises(UserError, match="is not the journal of a run"):
            predict(paths, folder / "p.json", resume=True)
        assert partial.read_bytes() == damaged
        return
    predict(paths, folder / "p.json", resume=True)
    assert (folder / "p.json").read_bytes() == (folder / "whole.json").read_bytes()
    assert not partial.exists()


def test_an_interrupted_run_is_not_overwritten(tmp_path):
    journal_of(tmp_path / "p.json", BEAR)
    with pytest.raises(UserError, match=r"p\.json\.partial .*--resume.* remove the file"):
        Journal(tmp_path / "p.json", RUN, resume=False)


@pytest.mark.parametrize("resume", [False, True])
def test_a_file_that_is_no_journal_is_refused_and_stays_as_it_is(tmp_path, resume):
    partial = tmp_path / "p.json.partial"
    for content in (b"my notes\n", b"{}\n", b"\0" * 50, b'{"run": 5}\n'):
        partial.write_bytes(content)
        with pytest.raises(UserError, match=r"p\.json\.partial is not the journal of a run.*--output"):
            Journal(tmp_path / "p.json", RUN, resume=resume)
        assert partial.read_bytes() == content


@pytest.mark.parametrize("resume", [False, True])
def test_a_journal_that_is_no_regular_file_is_refused_and_its_target_stays_as_it_is(tmp_path, resume):
    partial = tmp_path / "p.json.partial"
    for target in ("new", "precious", "/dev/null"):
        (tmp_path / "precious").write_bytes(b"")
        partial.symlink_to(tmp_path / target)
        with pytest.raises(UserError, match=r"p\.json\.partial is a symbolic link, .*move it away"):
            Journal(tmp_path / "p.json", RUN, resume=resume)
        partial.unlink()
    assert os.listdir(tmp_path) == ["precious"]
    os.mkfifo(partial)
    with pytest.raises(UserError, match=r"p\.json\.partial is a named pipe"):
        Journal(tmp_path / "p.json", RUN, resume=resume)


def test_an_image_that_changed_since_the_interruption_is_named(tmp_path):
    image, other = images_in(tmp_path, "a.png", "b.png")
    partial = journal_of(tmp_path / "p.json", {**SWAN, "image": image}, {**BROKEN, "image": "gone.png"})
    with Journal(tmp_path / "p.json", RUN, resume=True) as journal:
        assert journal.remaining([image, "gone.png", other]) == [other]
        Path(image).write_bytes(b"another image")
        with pytest.raises(UserError, match=rf"^{image} has changed since the run of {partial}; .*remove that file"):
            journal.remaining([image, "gone.png", other])


def test_a_journal_of_an_earlier_version_is_refused(tmp_path):
    partial = journal_of(tmp_path / "p.json", SWAN)
    partial.write_bytes(partial.read_bytes().replace(b', "size_and_time": null', b""))
    earlier = pytest.raises(UserError, match=r"p\.json\.partial was written by an earlier version; remove the file")
    with Journal(tmp_path / "p.json", RUN, resume=True) as journal, earlier:
        journal.remaining([SWAN["image"]])


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
        for flag in ("True", "False"):  # neither may remove the journal
            command = [sys.executable, "-c", code.replace("True", flag)]
            other = subprocess.run(command, capture_output=True, text=True, check=False)
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


@pytest.mark.parametrize(
    "name", ["=cmd|' /C calc'!A0", "+1.png", "-1.png", "@a.png", "\ta.png", "\ra.png", "a\rb", "a\n=1"]
)
def test_no_cell_of_a_csv_file_is_a_formula(tmp_path, name):
    """Spreadsheets run formulas; numbers stay as they are."""
    record = {"image": name, "class": 1, "label": name, "probability": -1e-05}
    written(tmp_path / "p.csv", record, probabilities=True)
    safe = name if name.startswith("a") else f"'{name}"
    with open(tmp_path / "p.csv", newline="") as file:
        assert list(csv.reader(file)) == [["image", "class", "label", "probability"], [safe, "1", safe, "-1e-05"]]


def test_a_csv_file_keeps_names_that_are_not_utf_8(tmp_path):
    path = tmp_path / "p.csv"
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
    with pytest.raises(UserError, match=r"output is a{250}\.json, whose name has more than 200 bytes; shorten it"):
        prepare_output("output", Path("a" * 250 + ".json"), FORMATS)


def test_an_output_is_a_regular_file_or_a_new_name(tmp_path):
    os.mkfifo(tmp_path / "fifo.json")
    (tmp_path / "device.json").symlink_to("/dev/null")
    for name, kind in (("fifo", r"a named pipe \(FIFO\)"), ("device", "a device")):
        with pytest.raises(UserError, match=rf"^output is .*{name}\.json, which is {kind}; give the name of a file$"):
            prepare_output("output", tmp_path / f"{name}.json", FORMATS)
    (tmp_path / "itself.json").symlink_to(tmp_path / "itself.json")
    with pytest.raises(UserError, match=r"itself\.json cannot be written \(Too many levels"):
        prepare_output("output", tmp_path / "itself.json", FORMATS)
    (tmp_path / "old.json").touch()
    (tmp_path / "link.json").symlink_to(tmp_path / "old.json")
    (tmp_path / "dangling.json").symlink_to(tmp_path / "new.json")
    for name in ("old.json", "link.json", "dangling.json", "other.json"):
        prepare_output("output", tmp_path / name, FORMATS)
