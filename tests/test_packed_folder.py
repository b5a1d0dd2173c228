"""Packed folders: they hold the same images as the folder, appear complete or not at all, and resume."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from mindspore import dataset
from PIL import Image

from src.data import pack as pack_script
from src.data import pack_folder as packer
from src.data import preview
from src.data.decode import UnreadableImage, read_rgb
from src.data.image_folder import ImageFolder, read_image_folder, read_image_tree
from src.data.imagenet import EvalLoader, Targets, TrainLoader
from src.data.pack_folder import Packing, appears_complete, describe, pack_folder
from src.data.packed_folder import DESCRIPTION, HEADER_SIZE, read_packed_folder
from src.data.shuffled_loader import Division
from src.data.transforms import EvalTransform, TrainTransform
from src.errors import UserError
from tests.tiny_project import write_config, write_images

RAW = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
ODD_NAME = os.fsdecode(b"odd \xff.png")
IMAGES = 14


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> ImageFolder:
    """Two classes of noise in several formats, a damaged file, an empty one, and a link to nothing."""
    root, rng = tmp_path_factory.mktemp("folder") / "train", np.random.default_rng(0)
    for number in range(IMAGES - 3):
        place = root / f"class{number % 2}" / "deeper" if number % 3 else root / f"class{number % 2}"
        place.mkdir(parents=True, exist_ok=True)
        image = Image.fromarray(rng.integers(0, 256, (40 + number, 50, 3), np.uint8))
        image.save(place / (ODD_NAME if number == 4 else f"{number}.{('jpg', 'png', 'gif')[number % 3]}"))
    (root / "class1" / "damaged.jpg").write_bytes(b"\xff\xd8\xff no image")
    (root / "class1" / "empty.jpg").touch()
    (root / "class1" / "nothing.jpg").symlink_to("gone.jpg")
    return read_image_folder(root)


def pack(images: ImageFolder, output: Path, shorter_side: int | None = None) -> Path:
    with appears_complete(output) as partial:
        pack_folder(images, partial / "train", Packing(shorter_side, num_workers=2))
    return output / "train"


@pytest.fixture(scope="module")
def packed(folder, tmp_path_factory) -> Path:
    """The folder in shards of 5 images."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packer, "SHARD_IMAGES", 5)
        patch.setattr(packer, "PAGE", 2**17)
        return pack(folder, tmp_path_factory.mktemp("packed") / "output")


@pytest.fixture
def copy(packed, tmp_path) -> Path:
    return Path(shutil.copytree(packed, tmp_path / "copy"))


def test_a_packed_folder_has_the_same_classes_order_labels_and_bytes(folder, packed):
    images = read_packed_folder(packed)
    assert images.classes == folder.classes
    np.testing.assert_array_equal(images.labels, folder.labels)
    assert len(images) == IMAGES
    for index, path in enumerate(folder.paths):
        record = images.paths[index]
        assert record.name() == os.path.relpath(path, folder.root)
        expected = b"" if "nothing" in path else Path(path).read_bytes()
        assert record.open().read() == expected
        assert str(record) == f"{packed / f'images-0000{index // 5}-of-00003.mindrecord'}/{record.name()}"


def test_the_loaders_yield_the_same_batches_from_shards_as_from_files(folder, packed):
    def batches(images: ImageFolder, workers: int) -> list[np.ndarray]:
        transform = TrainTransform(16, 0.3, "random", auto_augment="rand-m9-mstd0.5-inc1", **RAW)
        loader = TrainLoader(images, transform, Targets(2, 0.1), Division(4), 3, workers, max_bad_images=1.0)
        found = [array for epoch in (0, 1) for batch in loader.epoch(epoch) for array in batch]
        assert loader.unreadable.count(0) >= 2
        return found

    for ours, expected in zip(batches(read_packed_folder(packed), 3), batches(folder, 1), strict=True):
        np.testing.assert_array_equal(ours, expected)


def test_evaluation_chooses_the_same_samples_and_sees_the_same_pixels(folder, packed):
    chosen = read_packed_folder(packed, 2)
    expected = read_image_folder(folder.root, 2)
    assert [image.name() for image in chosen.paths] == [os.path.relpath(path, folder.root) for path in expected.paths]
    transform = EvalTransform(16, 0.9, **RAW)
    for ours, theirs in zip(EvalLoader(chosen, transform, 2, 2), EvalLoader(expected, transform, 2, 1), strict=True):
        np.testing.assert_array_equal(ours.image, theirs.image)
        np.testing.assert_array_equal(ours.label, theirs.label)


def test_mindspore_reads_the_shards(folder, packed):
    shards = sorted(map(str, packed.glob("*.mindrecord")))
    rows = dataset.MindDataset(shards, shuffle=False).create_dict_iterator(output_numpy=True, num_epochs=1)
    found = [(int(row["label"]), row["name"].item(), row["image"].item()) for row in rows]
    images = read_packed_folder(packed)
    expected = [
        (int(images.labels[n]), os.fsencode(images.paths[n].name()), images.paths[n].open().read())
        for n in range(IMAGES)
    ]
    assert [row[:2] for row in found] == [row[:2] for row in expected]
    assert [row[2].rstrip(b"\0") for row in found] == [row[2].rstrip(b"\0") for row in expected]


def test_a_message_names_the_shard_and_the_path_inside_it(packed):
    images = read_packed_folder(packed)
    index = next(n for n in range(IMAGES) if "damaged" in images.paths[n].name())
    with pytest.raises(
        UnreadableImage, match=r"mindrecord/class1/damaged.jpg: .*; replace .* and pack the folder again"
    ):
        read_rgb(images.paths[index])


def test_images_without_labels_are_packed_from_any_depth(folder, tmp_path):
    tree = read_image_tree(folder.root.parent)
    root = pack(tree, tmp_path / "output")
    images = read_packed_folder(root)
    assert images.classes == ()
    assert set(images.labels.tolist()) == {-1}
    names = [images.paths[n].name() for n in range(len(images))]
    assert names == [os.path.relpath(path, folder.root.parent) for path in tree.paths]
    assert names[0].startswith("train/class0/")


def test_larger_images_get_the_shorter_side_and_smaller_ones_stay(folder, tmp_path):
    images = read_packed_folder(pack(folder, tmp_path / "output", shorter_side=45))
    for index, path in enumerate(folder.paths):
        data = images.paths[index].open().read()
        try:
            width, height = read_rgb(path).size
        except UnreadableImage:
            continue
        if min(width, height) <= 45:
            assert data == Path(path).read_bytes()
        else:
            image = Image.open(BytesIO(data))
            assert (image.format, min(image.size)) == ("JPEG", 45)
            assert abs(image.width / image.height - width / height) < 0.02
            pixels, whole = np.asarray(image, float), np.asarray(read_rgb(path).resize(image.size), float)
            assert np.abs(pixels - whole).mean() < 8  # of noise, on which JPEG is at its worst


def test_an_interrupted_run_continues_with_the_next_shard(folder, packed, tmp_path, monkeypatch):
    monkeypatch.setattr(packer, "SHARD_IMAGES", 5)
    monkeypatch.setattr(packer, "PAGE", 2**17)
    write, written = packer._write_shard, []

    def stops_at_the_third(shard, writing, *rest):
        written.append(shard.name)
        if len(written) == 3:
            writing.mkdir()
            (writing / "half.mindrecord").touch()
            raise KeyboardInterrupt
        return write(shard, writing, *rest)

    output = tmp_path / "output"
    monkeypatch.setattr(packer, "_write_shard", stops_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        pack(folder, output)
    assert not output.exists()
    with pytest.raises(UserError, match=r"images-00002-of-00003.mindrecord.db cannot be read .*: check the path"):
        read_packed_folder(tmp_path / "output.partial" / "train")
    with pytest.raises(UserError, match=r"holds shards of other images or of another shorter_side"):
        pack(folder, output, shorter_side=9)
    root = pack(folder, output)
    assert written == [f"images-0000{n}-of-00003.mindrecord" for n in (0, 1, 2, 2)]
    assert sorted(os.listdir(root)) == sorted(os.listdir(packed))
    assert not (tmp_path / "output.partial").exists()
    for path in root.glob("*.mindrecord"):
        assert path.read_bytes() == (packed / path.name).read_bytes()
    with pytest.raises(UserError, match=r"output .* exists already"):
        pack(folder, output)


def test_two_runs_do_not_write_one_folder(tmp_path):
    with (
        appears_complete(tmp_path / "output"),
        pytest.raises(UserError, match="is being written by another process"),
        appears_complete(tmp_path / "output"),
    ):
        pass


def test_an_image_larger_than_a_page_is_named_before_anything_is_written(folder, monkeypatch):
    monkeypatch.setattr(packer, "LARGEST_PAGE", packer.ROOM + 100)
    with pytest.raises(UserError, match=r"has \d+ bytes, but a MindRecord page holds 100: give --shorter_side"):
        describe(folder, None)


def changed(path: Path, statement: str) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute(statement)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE INDEXES SET PAGE_OFFSET_BLOB_END = 9223372036854775807 WHERE ROW_ID = 2",
        "UPDATE INDEXES SET PAGE_OFFSET_BLOB = -1 WHERE ROW_ID = 2",
        "UPDATE INDEXES SET PAGE_ID_BLOB = 9223372036854775807 WHERE ROW_ID = 2",
        "UPDATE INDEXES SET PAGE_ID_BLOB = 1000 WHERE ROW_ID = 2",
        "UPDATE INDEXES SET label_0 = 2 WHERE ROW_ID = 2",
        "UPDATE INDEXES SET label_0 = -1 WHERE ROW_ID = 2",
        "UPDATE INDEXES SET label_0 = '0],[0' WHERE ROW_ID = 2",
        "UPDATE INDEXES SET label_0 = 0.5 WHERE ROW_ID = 2",
        "UPDATE INDEXES SET label_0 = NULL WHERE ROW_ID = 2",
        "UPDATE INDEXES SET ROW_ID = 7 WHERE ROW_ID = 2",
        "DELETE FROM INDEXES WHERE ROW_ID = 2",
        "DROP TABLE INDEXES",
        "ALTER TABLE INDEXES ADD COLUMN x INT",
    ],
)
def test_an_index_that_does_not_fit_is_refused(copy, statement):
    changed(copy / "images-00000-of-00003.mindrecord.db", statement)
    with pytest.raises(UserError, match=r"mindrecord.db (is damaged|does not fit).*: pack the images again"):
        read_packed_folder(copy)


def test_a_view_in_place_of_the_table_is_not_run(copy):
    index = copy / "images-00000-of-00003.mindrecord.db"
    changed(index, "ALTER TABLE INDEXES RENAME TO OTHER")
    endless = "WITH RECURSIVE n(x) AS (SELECT 0 UNION ALL SELECT x + 1 FROM n) SELECT x AS ROW_ID FROM n"
    changed(index, f"CREATE VIEW INDEXES AS {endless}")
    with pytest.raises(UserError, match="has another table than MindSpore writes"):
        read_packed_folder(copy)


@pytest.mark.parametrize(
    ("place", "text", "problem"),
    [
        (DESCRIPTION, None, "set dataset to ImageFolder"),
        (DESCRIPTION, b"[" * 100_000, "nested more than"),
        (DESCRIPTION, b"{}", "does not have the entries"),
        ("images-00001-of-00003.mindrecord", None, "copy the whole folder, or pack it again"),
        ("images-00001-of-00003.mindrecord", b"short", "does not fit"),
        ("images-00001-of-00003.mindrecord.db", b"no database" * 100, "file is not a database"),
        ("images-00001-of-00003.mindrecord.db", b"\0" * 2**21, "is larger than"),
    ],
)
def test_missing_and_damaged_files_are_named(copy, place, text, problem):
    (copy / place).unlink() if text is None else (copy / place).write_bytes(text)
    with pytest.raises(UserError, match=problem) as raised:
        read_packed_folder(copy)
    assert place in str(raised.value)


@pytest.mark.parametrize(
    "change",
    [
        {"format": 2},
        {"classes": ["b", "a"]},
        {"classes": ["a", "a\nb"]},
        {"classes": "ab"},
        {"shards": []},
        {"shards": [5, 5, True]},
        {"shards": [5, 5, 10**9]},
        {"shards": {"0": 5}},
        {"page_size": 0},
        {"page_size": 2**40},
        {"shorter_side": "7"},
    ],
)
def test_a_description_with_other_values_is_refused(copy, change):
    path = copy / DESCRIPTION
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(UserError, match=r"images.json is damaged \(its .*: pack the images again"):
        read_packed_folder(copy)


@pytest.mark.parametrize("place", [0, 8, -1])
def test_a_record_with_other_lengths_is_an_unreadable_image(copy, place):
    record = read_packed_folder(copy).paths[0]
    assert record.offset == HEADER_SIZE
    length = 16 + record.open().size  # the place of the last length, behind the first and the image
    with open(record.shard, "r+b") as file:
        file.seek(record.offset + (length if place == -1 else place))
        file.write(b"\x7f\x7f")
    with pytest.raises(UnreadableImage, match=f"mindrecord/byte {HEADER_SIZE}: its record is damaged"):
        read_rgb(record)


def test_a_large_record_is_decoded_without_being_held(packed, monkeypatch):
    images = read_packed_folder(packed)
    expected = np.asarray(read_rgb(images.paths[0]))
    monkeypatch.setattr("src.data.decode.HELD_BYTES", 10)
    np.testing.assert_array_equal(np.asarray(read_rgb(images.paths[0])), expected)


def test_the_command_packs_both_folders_and_the_preview_reads_them(tmp_path, monkeypatch, capsys):
    def run(script, **options: object) -> str:
        words = [f"--{name}={value}" for name, value in {"config_path": config, **options}.items()]
        monkeypatch.setattr("sys.argv", ["script", *words])
        script.main()
        return capsys.readouterr().out

    config = write_config(tmp_path, write_images(tmp_path / "data"))
    shards, picture = tmp_path / "shards", tmp_path / "preview.png"
    printed = run(pack_script, output=shards)
    assert printed.splitlines()[0] == f"{tmp_path / 'data' / 'train'}: 24 images in 1 shards"
    run(preview, output=picture)
    expected = picture.read_bytes()
    run(preview, output=picture, dataset="MindRecord", data_url=shards)
    assert picture.read_bytes() == expected
    with pytest.raises(UserError, match=r"train_dir is \.\./a; name a folder inside data_url"):
        run(pack_script, output=tmp_path / "b", train_dir="../a")
    run(pack_script, output=tmp_path / "tree", unlabeled=True, val_dir="gone")
    with pytest.raises(UserError, match="was packed without labels"):
        run(preview, output=picture, dataset="MindRecord", data_url=tmp_path / "tree")
