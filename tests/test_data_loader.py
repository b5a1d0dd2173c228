"""The loaders: the content of an epoch, its independence of workers, ranks and accumulation, and the threads."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from src.data.augment.mixup import Mixup
from src.data.augment.random_erasing import RandomErasing
from src.data.decode import UnreadableImage
from src.data.image_folder import read_image_folder
from src.data.imagenet import EvalLoader, Targets, TrainLoader
from src.data.prefetch import Job, prefetch
from src.data.sampling import BATCH, SAMPLE, epoch_order, generator, local_positions, sample_keys
from src.data.shuffled_loader import Division
from src.data.transforms import EvalTransform, TrainTransform
from src.errors import UserError

SIZE = 4
IMAGES = 40
RAW = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}


class Plain:
    """A transform that keeps the colors, by which images are recognized, and takes `seconds` after `slow` calls."""

    image_size = SIZE

    def __init__(self, seconds: float = 0.0, slow: int = 0) -> None:
        self.seconds, self.slow = seconds, slow
        self.calls = 0
        self._lock = threading.Lock()

    def __call__(self, image: Image.Image, rng: np.random.Generator | None = None, *, out: np.ndarray) -> None:
        with self._lock:
            self.calls += 1
            seconds = self.seconds if self.calls > self.slow else 0.0
        time.sleep(seconds)
        EvalTransform(image_size=SIZE, crop_pct=1.0, **RAW)(image, out=out)


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """40 images, in four classes of 10; image number i is red value i."""
    folder = tmp_path_factory.mktemp("images")
    for index in range(IMAGES):
        place = folder / f"class{index // 10}"
        place.mkdir(exist_ok=True)
        Image.new("RGB", (SIZE, SIZE), (index, 255 - index, 10)).save(place / f"{index:03}.ppm")
    return folder


@pytest.fixture(scope="module")
def folder(root):
    return read_image_folder(root)


def numbers(images: np.ndarray) -> list[int]:
    """Which images these are, by their red value."""
    return np.rint(images[:, 0, 0, 0] * 255).astype(int).tolist()


def subset(folder, count: int):
    return read_image_folder(folder.root, count)


def loader(folder, **options) -> TrainLoader:
    """A loader of batches of 4 without augmentation, except for the `options` of it and of its parts."""
    options = {"batch_size": 4, "num_classes": 4, "transform": Plain(), "seed": 0, "num_workers": 1} | options
    parts = [
        part(**{name: options.pop(name) for name in part.__dataclass_fields__ if name in options})
        for part in (Targets, Division)
    ]
    return TrainLoader(folder, options.pop("transform"), *parts, **options)


def augmenting() -> TrainTransform:
    return TrainTransform(
        image_size=SIZE,
        min_crop=0.3,
        interpolation="bicubic",
        auto_augment="rand-m9-mstd0.5-inc1",
        erasing=RandomErasing(0.5, "pixel", 1),
        **RAW,
    )


def worker_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("data-worker")]


def assert_no_workers_left() -> None:
    deadline = time.monotonic() + 5
    while worker_threads() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert worker_threads() == []


# --- the content of an epoch ---


@settings(deadline=None, max_examples=25)
@given(
    size=st.integers(1, IMAGES),
    batch_size=st.integers(1, 4),
    ranks=st.integers(1, 3),
    accumulation=st.integers(1, 3),
    epoch=st.integers(0, 3),
)
def test_all_ranks_together_see_the_images_of_each_step_once_for_any_division(
    folder, size, batch_size, ranks, accumulation, epoch
):
    images = subset(folder, size)
    options = {"accumulation_steps": accumulation, "batch_size": batch_size}
    whole = batch_size * ranks * accumulation
    if size < whole:
        with pytest.raises(UserError):
            loader(images, ranks=ranks, **options)
        return
    steps = [[] for _ in range(size // whole)]
    for rank in range(ranks):
        ours = loader(images, rank=rank, ranks=ranks, **options)
        assert ours.steps_per_epoch == len(steps)
        batches = list(ours.epoch(epoch))
        assert len(batches) == len(steps) * accumulation
        for number, batch in enumerate(batches):
            steps[number // accumulation].extend(numbers(batch.image))
    undivided = [numbers(batch.image) for batch in loader(images, batch_size=whole).epoch(epoch)]
    assert [sorted(step) for step in steps] == [sorted(step) for step in undivided]
    seen = Counter(number for step in steps for number in step)
    assert set(seen.values()) == {1}


def as_multiset(batches: list) -> Counter:
    return Counter(
        (image.tobytes(), target.tobytes(), int(key))
        for batch in batches
        for image, target, key in zip(batch.image, batch.target, batch.key)
    )


@pytest.mark.parametrize("mode", ["batch", "pair", "elem"])
def test_one_rank_of_8_two_of_4_and_4_accumulated_twice_give_the_same_mixed_images(folder, mode):
    options = {"transform": augmenting(), "mixup": Mixup(0.8, 1.0, mode=mode), "label_smoothing": 0.1, "seed": 5}
    whole = list(loader(folder, batch_size=8, **options).epoch(1))
    two = [list(loader(folder, batch_size=4, rank=rank, ranks=2, **options).epoch(1)) for rank in (0, 1)]
    twice = list(loader(folder, batch_size=4, accumulation_steps=2, **options).epoch(1))
    four = [
        list(loader(folder, batch_size=2, rank=rank, ranks=2, accumulation_steps=2, **options).epoch(1))
        for rank in (0, 1)
    ]
    assert len(whole) == 5
    for step, batch in enumerate(whole):
        expected = as_multiset([batch])
        assert sum(expected.values()) == len(expected) == 8
        assert as_multiset([two[0][step], two[1][step]]) == expected
        assert as_multiset(twice[2 * step : 2 * step + 2]) == expected
        assert as_multiset([batch for rank in four for batch in rank[2 * step : 2 * step + 2]]) == expected
    # every class has 0.025 by smoothing; a mixed image of two classes has more in both
    assert any((batch.target > 0.1).sum(axis=1).max() == 2 for batch in whole)


def test_batches_are_the_same_with_one_worker_and_with_four(folder):
    options = {"transform": augmenting(), "mixup": Mixup(0.8, 1.0, mode="elem"), "batch_size": 6}
    one = list(loader(folder, num_workers=1, **options).epoch(0))
    four = list(loader(folder, num_workers=4, **options).epoch(0))
    assert len(one) == len(four) == 6
    for ours, theirs in zip(one, four):
        for name in ("image", "target", "key"):
            np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name))


def test_epochs_and_seeds_shuffle_differently_and_repeat_exactly(folder):
    def order(seed: int, epoch: int) -> list[int]:
        return [number for batch in loader(folder, seed=seed).epoch(epoch) for number in numbers(batch.image)]

    assert order(0, 0) == order(0, 0)
    orders = {tuple(order(seed, epoch)) for seed in (0, 1) for epoch in (0, 1, 2)}
    assert len(orders) == 6
    assert all(sorted(numbers) == list(range(IMAGES)) for numbers in orders)


def test_augmentation_changes_with_epoch_and_seed(folder):
    def augmented(seed: int, epoch: int) -> dict[int, bytes]:
        ours = loader(folder, transform=augmenting(), seed=seed, batch_size=40)
        batch = next(ours.epoch(epoch))
        return {int(index): image.tobytes() for index, image in zip(epoch_order(seed, epoch, IMAGES), batch.image)}

    first, again, other_epoch, other_seed = augmented(0, 0), augmented(0, 0), augmented(0, 1), augmented(1, 0)
    assert first == again
    assert sum(first[index] == other_epoch[index] for index in first) <= 2
    assert sum(first[index] == other_seed[index] for index in first) <= 2


@settings(deadline=None, max_examples=10)
@given(start=st.integers(0, 5), accumulation=st.integers(1, 2))
def test_an_epoch_from_a_later_step_equals_the_epoch_without_the_steps_before_it(folder, start, accumulation):
    ours = loader(folder, transform=augmenting(), mixup=Mixup(0.8, 1.0), accumulation_steps=accumulation)
    start = min(start, ours.steps_per_epoch)
    late = list(ours.epoch(2, start_step=start))
    whole = list(ours.epoch(2))[start * accumulation :]
    assert len(late) == len(whole)
    for ours_now, theirs in zip(late, whole):
        np.testing.assert_array_equal(ours_now.image, theirs.image)
        np.testing.assert_array_equal(ours_now.target, theirs.target)
        np.testing.assert_array_equal(ours_now.key, theirs.key)


def test_labels_are_the_images_classes_and_smoothed(folder):
    batch = next(loader(folder, label_smoothing=0.2, num_classes=5).epoch(0))
    assert batch.target.argmax(axis=1).tolist() == [number // 10 for number in numbers(batch.image)]
    np.testing.assert_allclose(np.sort(batch.target, axis=1), [[0.04] * 4 + [0.84]] * 4, rtol=1e-6)
    assert (batch.image.dtype, batch.target.dtype, batch.key.dtype) == (np.float32, np.float32, np.int32)


def test_from_mixup_off_epoch_on_images_are_unmixed_and_targets_still_smoothed(folder):
    options = {"label_smoothing": 0.1, "batch_size": 8}
    mixed = loader(folder, mixup=Mixup(0.8, 1.0, off_epoch=1.0), **options)
    plain = loader(folder, **options)
    assert not np.array_equal(next(mixed.epoch(0)).image, next(plain.epoch(0)).image)
    ours, theirs = next(mixed.epoch(1)), next(plain.epoch(1))
    assert sorted(numbers(ours.image)) == sorted(numbers(theirs.image))
    np.testing.assert_allclose(ours.target.max(axis=1), 0.925)


def test_a_batch_keeps_its_values_while_later_ones_are_made(folder):
    batches = loader(folder).epoch(0)
    first = next(batches)
    kept = first.image.copy()
    list(batches)
    np.testing.assert_array_equal(first.image, kept)


# --- random numbers ---


def test_keys_differ_by_image_epoch_and_seed_and_use_all_their_bits():
    keys = sample_keys(0, 0, np.arange(20_000))
    assert keys.dtype == np.int32
    # 20,000 of 2**32 numbers: 0.05 collisions expected
    assert len(np.unique(keys)) >= 19_998
    bits = np.unpackbits(keys.view(np.uint8)).reshape(-1, 32).mean(axis=0)
    assert abs(bits - 0.5).max() < 4 * 0.5 / np.sqrt(20_000)
    for other in (sample_keys(1, 0, np.arange(20_000)), sample_keys(0, 1, np.arange(20_000))):
        assert (keys == other).sum() <= 2
    np.testing.assert_array_equal(sample_keys(0, 0, np.array([7, 3])), keys[[7, 3]])


def test_generators_for_different_purposes_epochs_and_images_are_unrelated():
    generators = [
        generator(seed, stream, epoch, item)
        for stream in (SAMPLE, BATCH)
        for seed in (0, 1)
        for epoch in (0, 1)
        for item in (0, 1)
    ]
    drawn = np.array([each.random(500) for each in [*generators, generator(-1, SAMPLE, 0, 0)]])
    correlation = np.corrcoef(drawn) - np.eye(len(drawn))
    # 136 pairs at standard deviation 1 / sqrt(500): five of them
    assert abs(correlation).max() < 5 / np.sqrt(500)
    np.testing.assert_array_equal(generator(0, SAMPLE, 1, 1).random(500), drawn[3])


def test_a_part_of_a_global_batch_is_the_mirrored_halves_that_mixup_needs():
    assert local_positions(4, 0, 2).tolist() == [0, 1, 6, 7]
    assert local_positions(4, 1, 2).tolist() == [2, 3, 4, 5]
    assert local_positions(2, 0, 1).tolist() == [0, 1]
    assert local_positions(3, 1, 2).tolist() == [3, 4, 5]


# --- evaluation ---


@settings(deadline=None, max_examples=30)
@given(size=st.integers(1, IMAGES), batch_size=st.integers(1, 9), ranks=st.integers(1, 5))
def test_evaluation_counts_every_image_once_for_any_number_of_images_ranks_and_batch(folder, size, batch_size, ranks):
    images = subset(folder, size)
    seen, lengths = [], set()
    for rank in range(ranks):
        ours = EvalLoader(images, Plain(), batch_size, num_workers=1, rank=rank, ranks=ranks)
        batches = list(ours)
        lengths |= {len(batches), len(ours)}
        for number, batch in enumerate(batches):
            assert batch.image.shape == (batch_size, 3, SIZE, SIZE)
            assert batch.valid == batch_size or number == len(batches) - 1
            assert (batch.label[batch.valid :] == -1).all()
            assert (batch.image[batch.valid :] == 0).all()
            found = numbers(batch.image[: batch.valid])
            assert batch.label[: batch.valid].tolist() == [number // 10 for number in found]
            seen.extend(found)
    assert len(lengths) == 1
    assert len(seen) == size
    assert sorted(seen) == [int(Path(path).stem) for path in images.paths]


def test_evaluation_on_one_rank_keeps_the_folders_order_and_runs_again(folder):
    ours = EvalLoader(folder, Plain(), 16, num_workers=3)
    for _ in range(2):
        assert [number for batch in ours for number in numbers(batch.image[: batch.valid])] == list(range(IMAGES))


def test_a_rank_without_images_gets_an_empty_batch(folder):
    ours = EvalLoader(subset(folder, 2), Plain(), 4, num_workers=1, rank=2, ranks=3)
    (batch,) = ours
    assert batch.valid == 0
    assert batch.label.tolist() == [-1] * 4


# --- errors ---


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            {"batch_size": 8, "ranks": 3, "accumulation_steps": 2},
            ["40 images", "48", "batch_size 8", "3 devices", "accumulation_steps 2"],
        ),
        ({"batch_size": 5, "mixup": Mixup(0.8, 0.0)}, ["batch_size is 5", "mixup", "even"]),
    ],
)
def test_an_impossible_training_loader_is_refused(folder, options, words):
    with pytest.raises(UserError) as error:
        loader(folder, **options)
    assert [word for word in words if word not in str(error.value)] == []


def test_a_step_beyond_the_epoch_is_refused(folder):
    with pytest.raises(ValueError, match="step 11 of an epoch of 10 steps"):
        loader(folder).epoch(0, start_step=11)


# --- threads ---


def test_threads_start_with_the_first_batch_and_end_with_the_last(folder):
    assert_no_workers_left()
    batches = loader(folder, num_workers=3).epoch(0)
    assert worker_threads() == []
    next(batches)
    assert len(worker_threads()) == 3
    assert len(list(batches)) == 9
    assert_no_workers_left()


def test_leaving_or_closing_an_epoch_ends_the_threads(folder):
    ours = loader(folder, transform=Plain(0.002), num_workers=2)
    for _ in ours.epoch(0):
        break
    assert_no_workers_left()
    kept = ours.epoch(1)
    next(kept)
    assert len(worker_threads()) == 2
    kept.close()
    assert_no_workers_left()
    evaluation = iter(EvalLoader(folder, Plain(0.002), 4, num_workers=2))
    next(evaluation)
    assert len(worker_threads()) == 2
    evaluation.close()
    assert_no_workers_left()


@pytest.mark.parametrize(("workers", "depth"), [(1, 2), (4, 2), (5, 3), (9, 4)])
def test_the_prefetch_depth_limits_the_prepared_batches(folder, workers, depth):
    transform = Plain()
    batches = loader(folder, transform=transform, num_workers=workers).epoch(0)
    next(batches)
    time.sleep(0.3)
    # the batch that was taken and the waiting ones
    assert transform.calls == (1 + depth) * 4
    batches.close()


def test_an_unreadable_image_ends_training_with_its_name_after_the_batches_before_it(tmp_path):
    for index in range(12):
        (tmp_path / "a").mkdir(exist_ok=True)
        Image.new("RGB", (SIZE, SIZE), (index, 0, 0)).save(tmp_path / "a" / f"{index:02}.ppm")
    broken = int(epoch_order(0, 0, 12)[5])
    (tmp_path / "a" / f"{broken:02}.ppm").write_bytes(b"")
    batches = loader(read_image_folder(tmp_path), num_workers=3).epoch(0)
    assert len(numbers(next(batches).image)) == 4
    with pytest.raises(UserError, match=rf"^1 of 12 training images cannot .*a/{broken:02}\.ppm: the file is empty\)"):
        next(batches)
    assert list(batches) == []
    assert_no_workers_left()


def test_too_few_threads_give_an_error_and_leave_none_running(folder, monkeypatch):
    start = threading.Thread.start

    def start_two(thread):
        if len(worker_threads()) == 2:
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_two)
    with pytest.raises(UserError, match=r"^num_parallel_workers is 5 .* 2 threads \(can't start new thread\)"):
        next(loader(folder, num_workers=5).epoch(0))
    assert_no_workers_left()


def test_an_unreadable_image_ends_evaluation_with_its_name(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "bad.png").write_bytes(b"no image")
    with pytest.raises(UnreadableImage, match=r"a/bad\.png: it is in none of the formats JPEG"):
        list(EvalLoader(read_image_folder(tmp_path), Plain(), 2, num_workers=2))
    assert_no_workers_left()


def test_evaluation_and_training_take_an_image_of_1_x_60000_pixels(tmp_path):
    (tmp_path / "a").mkdir()
    Image.new("RGB", (1, 60000)).save(tmp_path / "a" / "strip.png")
    folder = read_image_folder(tmp_path)
    transform = EvalTransform(image_size=SIZE, crop_pct=0.9, **RAW)
    assert next(iter(EvalLoader(folder, transform, 1, num_workers=1))).image.shape == (1, 3, SIZE, SIZE)
    assert next(loader(folder, transform=augmenting(), batch_size=1).epoch(0)).image.shape == (1, 3, SIZE, SIZE)


@pytest.mark.parametrize("failing", ["do", "finish"])
def test_an_exception_of_a_worker_reaches_the_consumer_once(failing):
    def fail(*arguments: int) -> None:
        raise SystemExit("not even this may leave the consumer waiting")

    functions = {"do": lambda part: None, "finish": lambda: None} | {failing: fail}
    results = prefetch(iter([Job(2, **functions), Job(2, **functions)]), num_workers=2, batch_size=2)
    with pytest.raises(SystemExit, match="not even this"):
        next(results)
    assert list(results) == []
    assert_no_workers_left()


SCRIPT = """
import sys, time
sys.path.insert(0, sys.argv[1])
from tests.test_data_loader import Plain, loader
from src.data.image_folder import read_image_folder
batches = loader(read_image_folder(sys.argv[2]), transform=Plain(float(sys.argv[3]), slow=4), num_workers=2).epoch(0)
print(next(batches).image.shape, flush=True)
"""


def start_script(root: Path, seconds: float, more: str) -> subprocess.Popen:
    repository = str(Path(__file__).parents[1])
    command = [sys.executable, "-c", SCRIPT + more, repository, str(root), str(seconds)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_ctrl_c_ends_a_process_that_waits_for_a_batch(root):
    process = start_script(root, 8, "list(batches)")
    assert process.stdout.readline() == f"(4, 3, {SIZE}, {SIZE})\n"
    time.sleep(2)  # until it waits, also on a loaded machine; the second batch takes 16 s
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode != 0
    assert errors.rstrip().endswith("KeyboardInterrupt")


def test_a_process_ends_although_an_epoch_was_left_open(root):
    process = start_script(root, 0.0, "sys.modules['keep'] = batches")
    output, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (0, "")
    assert output == f"(4, 3, {SIZE}, {SIZE})\n"
