"""Images without labels: trees, lists of files and packed folders, and the errors of each."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from src.data.pack_folder import Packing, pack_folder
from src.data.unlabeled_images import read_unlabeled
from src.errors import UserError

NAMES = ["b/2.png", "a/deep/1.jpg", "0.png", "a/name with space.png"]


@pytest.fixture
def root(tmp_path) -> Path:
    for number, name in enumerate(NAMES):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (number, 0, 0)).save(tmp_path / name)
    return tmp_path


def listed(root: Path, content: str | bytes, name: str = "list.txt") -> Path:
    (root / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return root / name


def test_a_tree_has_the_images_of_all_depths_without_labels(root):
    images = read_unlabeled(root)
    assert [os.path.relpath(path, root) for path in images.paths] == [
        "0.png",
        "a/name with space.png",
        "a/deep/1.jpg",
        "b/2.png",
    ]
    assert images.classes == ()
    assert images.labels.tolist() == [-1] * 4


def test_a_list_has_its_images_in_its_order_relative_to_its_folder(root, monkeypatch):
    elsewhere = root.parent / f"{root.name}_elsewhere.png"
    Image.new("RGB", (8, 8)).save(elsewhere)
    path = listed(root / "a", f"../b/2.png\r\n\n  \nname with space.png\n{elsewhere}\n../0.png")
    monkeypatch.chdir("/")
    images = read_unlabeled(path)
    assert [os.path.realpath(name) for name in images.paths] == [
        os.path.realpath(name) for name in (root / "b/2.png", root / "a/name with space.png", elsewhere, root / "0.png")
    ]
    assert images.classes == ()
    assert images.labels.tolist() == [-1] * 4
    assert images.root == path


def test_a_list_may_begin_with_a_byte_order_mark_and_name_files_that_are_not_utf8(root):
    name = os.fsdecode(b"odd \xff.png")
    Image.new("RGB", (8, 8)).save(root / name)
    images = read_unlabeled(listed(root, b"\xef\xbb\xbf0.png\nodd \xff.png\n"))
    assert [os.path.basename(path) for path in images.paths] == ["0.png", name]


def test_num_samples_are_spread_evenly_over_a_tree_and_a_list(root):
    tree = read_unlabeled(root, num_samples=2)
    assert [os.path.relpath(path, root) for path in tree.paths] == ["0.png", "a/deep/1.jpg"]
    images = read_unlabeled(listed(root, "\n".join(NAMES)), num_samples=2)
    assert [os.path.relpath(path, root) for path in images.paths] == [NAMES[0], NAMES[2]]
    with pytest.raises(UserError, match="has 4 images, but the number of samples is 5"):
        read_unlabeled(root, num_samples=5)


def test_a_packed_tree_has_the_images_of_the_tree(root, tmp_path_factory):
    images = read_unlabeled(root)
    output = tmp_path_factory.mktemp("packed")
    pack_folder(images, output, Packing(None, 1))
    packed = read_unlabeled(output, packed=True)
    assert packed.labels.tolist() == [-1] * 4
    np.testing.assert_array_equal(
        [packed.paths[index].open().read() for index in range(4)], [Path(path).read_bytes() for path in images.paths]
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("0.png\ngone.png\n", "line 2 of {root}/list.txt names '{root}/gone.png', which does not exist; correct or"),
        ("0.png\n\na\n", "line 3 of {root}/list.txt names '{root}/a', which is a folder; name the images"),
        ("# 0.png\n", "line 1 of {root}/list.txt names '{root}/# 0.png', which does not exist"),
        (
            b"a\0b.png\n",
            "line 1 of {root}/list.txt names '{root}/a\\x00b.png', which cannot be read (embedded null byte)",
        ),
        (
            "0.png/x.png\n",
            "line 1 of {root}/list.txt names '{root}/0.png/x.png', which cannot be read (Not a directory)",
        ),
        ("\n \r\n", "image list {root}/list.txt names no images; write one path per line"),
    ],
)
def test_a_list_with_a_line_that_leads_to_no_image_gives_one_line(root, content, message):
    with pytest.raises(UserError) as error:
        read_unlabeled(listed(root, content))
    assert str(error.value).startswith(message.format(root=root))
    assert "\n" not in str(error.value)


def test_a_missing_source_and_an_empty_tree_give_one_line(tmp_path):
    with pytest.raises(UserError, match=r"gone does not exist; give a folder of images or a text file with one path"):
        read_unlabeled(tmp_path / "gone")
    with pytest.raises(UserError, match="has no images"):
        read_unlabeled(tmp_path)
    with pytest.raises(UserError, match="pack"):
        read_unlabeled(tmp_path, packed=True)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match="is a named pipe"):
        read_unlabeled(tmp_path / "pipe")
