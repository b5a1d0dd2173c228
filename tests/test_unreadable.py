"""Unreadable training images are named, replaced by other images, counted, and an error if there are too many."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from PIL import Image

from src.data.decode import UnreadableImages
from src.data.image_folder import read_image_folder
from src.data.imagenet import Targets, TrainLoader
from src.data.sampling import MAX_REPLACEMENTS, replacements
from src.data.shuffled_loader import Division
from src.data.transforms import EvalTransform
from src.errors import UserError
from src.tools.callback import UnreadableLines
from src.tools.logs import start_logging
from src.trainer.loop import RunState

SIZE = 4
IMAGES = 40
BAD = {3: b"", 11: b"no image", 12: None, 35: "cut"}  # empty, foreign, a link to nowhere, cut short


class Plain:
    """A transform that keeps the red value, which identifies the image, and stores its random number."""

    image_size = SIZE

    def __call__(self, image: Image.Image, rng: np.random.Generator, *, out: np.ndarray) -> None:
        EvalTransform(image_size=SIZE, crop_pct=1.0, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))(image, out=out)
        out[1] = rng.random()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """40 images in four classes of 10, number i of red value i; the ones of `BAD` cannot be read."""
    root = tmp_path_factory.mktemp("images")
    for index in range(IMAGES):
        path = root / f"class {index // 10}" / f"{index:03}.png"
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (SIZE, SIZE), (index, 255 - index, 10)).save(path)
        match BAD.get(index, "good"):
            case bytes() as content:
                path.write_bytes(content)
            case "cut":
                path.write_bytes(path.read_bytes()[:50])
            case None:
                path.unlink()
                path.symlink_to(root / "nowhere.png")
    return read_image_folder(root)


def loader(folder, *, num_workers: int = 1, max_bad_images: float = 0.1, **division) -> TrainLoader:
    division = Division(**{"batch_size": 8, **division})
    return TrainLoader(folder, Plain(), Targets(4), division, 0, num_workers, max_bad_images)


def seen(batches) -> dict[str, list]:
    batches = list(batches)
    images = np.concatenate([batch.image for batch in batches])
    return {
        "number": np.rint(images[:, 0, 0, 0] * 255).astype(int).tolist(),
        "drawn": images[:, 1, 0, 0].tolist(),
        "class": np.concatenate([batch.target for batch in batches]).argmax(1).tolist(),
        "key": np.concatenate([batch.key for batch in batches]).tolist(),
    }


@pytest.fixture
def lines(capsys):
    """The project's lines so far."""
    start_logging(None, terminal=True)
    return lambda: capsys.readouterr().out.splitlines()


def test_unreadable_images_are_named_counted_and_replaced_with_their_labels(folder, lines):
    train = loader(folder)
    found = seen(train.epoch(0))
    assert len(found["number"]) == IMAGES
    assert not set(found["number"]) & set(BAD)
    assert set(found["number"]) == set(range(IMAGES)) - set(BAD)
    assert found["class"] == [number // 10 for number in found["number"]]
    assert train.unreadable.count(0) == len(BAD)
    assert train.unreadable.count(1) == 0
    reasons = {
        3: "the file is empty",
        11: "it is in none of the formats JPEG, PNG, BMP, GIF, PPM, TIFF, WEBP",
        12: "No such file or directory",
        35: "OSError: ",
    }
    logged = sorted(lines())
    assert len(logged) == len(BAD)
    for line, (number, reason) in zip(logged, reasons.items()):
        assert line.startswith(f"replaced by another image: {folder.paths[number]} ({reason}")
    list(train.epoch(0, 1))
    assert lines() == []  # once in an epoch


def test_unreadable_images_do_not_change_the_augmentation_of_others(folder):
    """A replacement gets the random numbers of its place, so that two copies of an image differ."""
    found = seen(loader(folder).epoch(0))
    assert len(set(found["drawn"])) == IMAGES
    assert len(set(found["key"])) == IMAGES


@pytest.mark.parametrize(("ranks", "accumulation", "workers"), [(1, 1, 4), (2, 1, 1), (1, 2, 3), (4, 1, 2)])
def test_replacements_do_not_depend_on_workers_ranks_and_micro_batches(folder, ranks, accumulation, workers):
    whole = seen(loader(folder).epoch(3))
    parts = [
        loader(
            folder,
            batch_size=8 // ranks // accumulation,
            ranks=ranks,
            rank=rank,
            accumulation_steps=accumulation,
            num_workers=workers,
        )
        for rank in range(ranks)
    ]
    together = sorted(image for part in parts for image in zip(*seen(part.epoch(3)).values()))
    assert together == sorted(zip(*whole.values()))


def test_a_resumed_epoch_has_the_same_replacements(folder):
    whole, rest = seen(loader(folder).epoch(0)), seen(loader(folder).epoch(0, 2))
    for name in whole:
        assert rest[name] == whole[name][16:]


def test_too_many_unreadable_images_end_the_run_with_the_last_one(folder):
    assert len(seen(loader(folder, max_bad_images=4 / IMAGES).epoch(0))["number"]) == IMAGES
    with pytest.raises(UserError) as error:
        list(loader(folder, max_bad_images=3 / IMAGES).epoch(0))
    text = str(error.value)
    assert text.startswith("4 of 40 training images cannot be read")
    assert "max_bad_images 0.075" in text
    assert any(str(folder.paths[number]) in text for number in BAD)


def test_a_folder_of_unreadable_images_ends_the_run_at_any_share(tmp_path):
    (tmp_path / "a").mkdir()
    for index in range(4):
        (tmp_path / "a" / f"{index}.png").touch()
    with pytest.raises(UserError, match=r"a/\d\.png: the file is empty"):
        list(loader(read_image_folder(tmp_path), batch_size=2, max_bad_images=1.0).epoch(0))


def test_replacements_differ_by_image_and_epoch_and_are_limited():
    first = list(replacements(0, 0, 5, 1000))
    assert len(first) == MAX_REPLACEMENTS
    assert first == list(replacements(0, 0, 5, 1000))
    assert first != list(replacements(0, 1, 5, 1000))
    assert first != list(replacements(0, 0, 6, 1000))
    assert all(0 <= number < 1000 for number in first)
    assert len(set(first)) > MAX_REPLACEMENTS * 0.9


def state_after_the_first_epoch() -> RunState:
    return RunState(3, 5, 8, np.zeros(15), epoch=1)


def test_an_epoch_reports_the_unreadable_images_of_all_ranks_if_there_are_any(lines):
    unreadable = UnreadableImages(100, 0.05)
    callback = UnreadableLines(unreadable, total=lambda number: number + 3)
    unreadable._found[1] = {7, 8}
    callback.on_epoch_end(state_after_the_first_epoch())
    assert lines() == ["epoch 2/3: 5 of 100 training images could not be read and were replaced by others"]
    UnreadableLines(UnreadableImages(100, 0.0), total=lambda number: number).on_epoch_end(state_after_the_first_epoch())
    assert lines() == []


def test_too_many_unreadable_images_over_all_ranks_end_the_run_on_each(lines):
    unreadable = UnreadableImages(100, 0.04)
    unreadable._found[1] = {7, 8}
    with pytest.raises(UserError, match=r"^5 of 100 training images cannot be read, more than max_bad_images 0\.04"):
        UnreadableLines(unreadable, total=lambda number: number + 3).on_epoch_end(state_after_the_first_epoch())


@pytest.fixture(autouse=True)
def no_handlers_left():
    yield
    logging.getLogger("beit").handlers.clear()
