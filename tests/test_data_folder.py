"""Reading image folders and image files, against torchvision's order and timm's decoding."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from src.data.decode import UnreadableImage, read_rgb
from src.data.image_folder import check_class_names, read_image_folder
from src.data.memory_budget import MemoryBudget
from src.data.sampling import spread
from src.errors import UserError
from tests.tiny_project import ROOT, deep_image

GOLDEN = dict(np.load(Path(__file__).parent / "golden" / "data.npz"))


def make_tree(root: Path, names: list[str]) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root


def test_images_are_listed_in_the_order_of_torchvision(tmp_path):
    folder = read_image_folder(make_tree(tmp_path, GOLDEN["tree"].tolist()))
    assert list(folder.classes) == GOLDEN["tree_classes"].tolist()
    listed = [f"{label} {Path(path).relative_to(tmp_path)}" for label, path in zip(folder.labels, folder.paths)]
    assert listed == GOLDEN["tree_listed"].tolist()
    assert folder.labels.dtype == np.int32
    assert len(folder) == len(folder.paths) == len(listed)


def test_gif_files_are_listed_and_files_beside_the_class_folders_are_not(tmp_path):
    folder = read_image_folder(make_tree(tmp_path, ["a/moving.GIF", "b/still.png", "stray.png", "a/readme.md"]))
    assert [Path(path).name for path in folder.paths] == ["moving.GIF", "still.png"]


def test_links_to_folders_and_files_are_followed(tmp_path):
    elsewhere = make_tree(tmp_path / "elsewhere", ["photos/1.png", "2.png"])
    root = make_tree(tmp_path / "root", ["b/3.png"])
    (root / "a").symlink_to(elsewhere / "photos")
    (root / "b" / "linked.png").symlink_to(elsewhere / "2.png")
    assert [os.path.relpath(path, root) for path in read_image_folder(root).paths] == [
        "a/1.png",
        "b/3.png",
        "b/linked.png",
    ]


def test_a_link_to_a_parent_folder_gives_an_error(tmp_path):
    root = make_tree(tmp_path, ["a/1.png"])
    (root / "a" / "again").symlink_to(root / "a")
    with pytest.raises(UserError, match=r"a/again is a link.*remove the link"):
        read_image_folder(root)


def test_a_name_that_leads_to_no_file_is_listed_and_hides_no_other(tmp_path):
    """Training replaces and counts it."""
    root = make_tree(tmp_path, ["a/1.png", "b/2.png"])
    (root / "itself").symlink_to(root / "itself")
    for name in ("a/itself", "a/itself.png"):
        (root / name).symlink_to(root / name)
    folder = read_image_folder(root)
    assert folder.classes == ("a", "b")
    assert [os.path.relpath(path, root) for path in folder.paths] == ["a/1.png", "a/itself.png", "b/2.png"]


def test_folders_of_any_depth_are_listed(tmp_path):
    image = deep_image(tmp_path)
    found = read_image_folder(tmp_path).paths
    subprocess.run(["rm", "-r", str(tmp_path / "a")], check=True)  # too deep for pytest, which removes it later
    assert found == [str(image)]


def test_num_samples_keeps_the_share_of_every_class_and_the_class_list(tmp_path):
    names = [f"a/{index:02}.png" for index in range(20)] + [f"b/{index:02}.png" for index in range(10)]
    folder = read_image_folder(make_tree(tmp_path, [*names, "c/0.png"]), num_samples=6)
    assert [os.path.relpath(path, tmp_path) for path in folder.paths] == [
        *("a/00.png", "a/05.png", "a/10.png", "a/15.png"),
        *("b/00.png", "b/05.png"),
    ]
    assert folder.labels.tolist() == [0, 0, 0, 0, 1, 1]
    assert folder.classes == ("a", "b", "c")
    assert len(read_image_folder(tmp_path, num_samples=31)) == 31


@given(st.integers(1, 300), st.data())
def test_a_spread_is_ascending_without_repeats(size, data):
    count = data.draw(st.integers(1, size))
    chosen = spread(size, count)
    assert len(chosen) == count
    assert (np.diff(chosen) > 0).all()
    assert 0 == chosen[0] <= chosen[-1] < size
    # even spacing: gaps differ by at most one
    assert count == 1 or np.diff(chosen).max() - np.diff(chosen).min() <= 1


@pytest.mark.parametrize(
    ("names", "num_samples", "parts"),
    [
        (["1.png"], -1, ("no class folders", "one subfolder per class")),
        (["a/1.png", "b/x.txt"], -1, ("without images", "'b'", ".jpg, .jpeg, .png, .bmp, .gif, .pgm")),
        ([f"{name}/x.txt" for name in "abcdefg"], -1, ("'a', 'b', 'c', 'd', 'e' and 2 more", "add")),
        (["a/1.png"], 2, ("1 images", "is 2", "-1")),
        (["a/1.png"], 0, ("is 0", "-1")),
        (["a/1.png"], -2, ("is -2", "-1")),
    ],
)
def test_an_invalid_folder_gives_an_error_with_its_path_and_the_fix(tmp_path, names, num_samples, parts):
    with pytest.raises(UserError) as error:
        read_image_folder(make_tree(tmp_path, names), num_samples)
    assert all(part in str(error.value) for part in (*parts, str(tmp_path)))


def test_a_missing_folder_and_a_file_give_an_error(tmp_path):
    with pytest.raises(UserError, match=f"{tmp_path}/none does not exist.*one subfolder"):
        read_image_folder(tmp_path / "none")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="file is not a folder"):
        read_image_folder(tmp_path / "file")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_without_read_permission_gives_an_error(tmp_path):
    make_tree(tmp_path, ["a/1.png"])
    (tmp_path / "a").chmod(0)
    try:
        with pytest.raises(UserError, match=r"cannot read image folder .*a: Permission denied"):
            read_image_folder(tmp_path)
    finally:
        (tmp_path / "a").chmod(0o700)


def test_different_classes_give_an_error_with_both_folders_and_the_classes(tmp_path):
    folder = read_image_folder(make_tree(tmp_path / "val", ["a/1.png", "b/1.png"]))
    check_class_names(("a", "b"), folder, "the checkpoint")
    with pytest.raises(UserError, match=r"val has .*the checkpoint does not have: 'b';"):
        check_class_names(("a",), folder, "the checkpoint")
    with pytest.raises(UserError, match=r"^the checkpoint has .*val does not have: 'c', 'd';"):
        check_class_names(("a", "b", "c", "d"), folder, "the checkpoint")
    with pytest.raises(UserError, match=r"val has .*the checkpoint does not have: 'a', 'b';"):
        check_class_names(("c", "d"), folder, "the checkpoint")


@pytest.mark.filterwarnings("ignore:Palette images with Transparency")
@pytest.mark.parametrize("name", GOLDEN["file_names"].tolist())
def test_an_image_of_any_mode_is_decoded_as_in_timm(tmp_path, name):
    path = tmp_path / name
    kind = name.split(".")[0]
    path.write_bytes(GOLDEN[f"file_{kind}"].tobytes())
    image = read_rgb(path)
    assert image.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(image), GOLDEN[f"decoded_{kind}"])


def test_the_exif_orientation_is_ignored(tmp_path):
    path = tmp_path / "rotated.jpeg"
    path.write_bytes(GOLDEN["file_jpeg_rotated"].tobytes())
    assert Image.open(path).getexif()[0x0112] == 6
    assert read_rgb(path).size == (12, 9)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "the file is empty"),
        (b"<html>not found</html>", "it is in none of the formats JPEG, PNG, BMP, GIF, PPM, TIFF, WEBP"),
        (GOLDEN["file_jpeg"].tobytes()[:300], "OSError: Truncated File Read"),
        (GOLDEN["file_jpeg"].tobytes()[:-40], "OSError: image file is truncated"),
        (GOLDEN["file_rgb"].tobytes()[:120], "OSError|SyntaxError"),
    ],
)
def test_a_damaged_image_gives_an_error_with_its_path_and_the_reason(tmp_path, content, complaint):
    path = tmp_path / "broken.jpg"
    path.write_bytes(content)
    with pytest.raises(UnreadableImage, match=complaint) as error:
        read_rgb(path)
    assert str(error.value).startswith(f"cannot read image {path}: ")
    assert "replace or remove" in str(error.value)
    assert error.value.path == path
    assert isinstance(error.value, UserError)


def test_a_missing_image_gives_an_error_with_its_path(tmp_path):
    with pytest.raises(UnreadableImage, match=r"cannot read image .*gone\.png: No such file or directory"):
        read_rgb(tmp_path / "gone.png")


def test_a_transparent_palette_causes_no_warning(tmp_path):
    path = tmp_path / "palette.png"
    path.write_bytes(GOLDEN["file_palette_transparent"].tobytes())
    # in a new process, because pytest changes the warning filters
    command = "import sys; from src.data.decode import read_rgb; print(read_rgb(sys.argv[1]).size)"
    run = subprocess.run(
        [sys.executable, "-W", "default", "-c", command, str(path)],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=True,
    )
    assert (run.stdout, run.stderr) == ("(12, 9)\n", "")


def hostile(folder: Path, kind: str) -> Path:
    path = folder / "a.jpg"
    if kind == "FIFO":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "folder":
        path.mkdir()
    elif kind == "sparse":
        path.touch()
        os.truncate(path, 2**43)
    elif kind == "pixels":
        Image.new("1", (16_000, 16_000)).save(path, "PNG")
    else:
        path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n0 0 moveto\n%%EOF\n")
    return path


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("FIFO", "named pipe"),
        ("device", "a device"),
        ("folder", "a folder"),
        ("sparse", "larger than"),
        ("pixels", "exceeds limit"),
        ("PostScript", "none of the formats JPEG"),
    ],
)
def test_an_image_file_neither_blocks_nor_starts_a_program(tmp_path, monkeypatch, kind, reason):
    for name in ("gs", "gswin32c"):  # what Pillow starts for PostScript
        (tmp_path / name).write_text(f"#!/bin/sh\ntouch {tmp_path}/started\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    with pytest.raises(UnreadableImage, match=reason):
        read_rgb(hostile(tmp_path, kind))
    assert not (tmp_path / "started").exists()


def test_the_images_in_work_share_a_budget_of_memory(tmp_path):
    """Twelve files of 10 KB and 64 megapixels, which would take 3.8 GB at once."""
    Image.new("L", (8_000, 8_000)).save(tmp_path / "a.png")
    code = f"""
import resource, sys
sys.path.insert(0, {str(ROOT)!r})
from concurrent.futures import ThreadPoolExecutor
from src.data.decode import rgb_image
from src.data.freed_memory import keep_freed_memory
keep_freed_memory()
def size(_):
    with rgb_image({str(tmp_path / "a.png")!r}) as decoded:
        return decoded.image.resize((8, 8)).size
print(set(ThreadPoolExecutor(12).map(size, range(12))))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 < 1.6e9)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "{(8, 8)}\nTrue\n"


@pytest.mark.parametrize("amounts", [[5, 5, 5], [10, 1], [100, 3]])
def test_a_memory_budget_is_never_exceeded_and_never_blocks_for_good(amounts):
    budget, taken, most = MemoryBudget(10), [], []

    def work(amount):
        with budget.taken(amount):
            taken.append(min(amount, 10))
            most.append(sum(taken))
            time.sleep(0.01)
            taken.remove(min(amount, 10))

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(work, amounts * 5))
    assert len(most) == 5 * len(amounts)
    assert max(most) <= 10
