"""Random numbers of the data pipeline, as stateless functions of the seed.

The order of an epoch depends on (seed, epoch), the augmentation and the mask of an image on (seed, epoch, index of the
image), the mixing of a batch on (seed, epoch, step). So runs repeat with any number of workers and devices, and resume
anywhere.
"""

from collections.abc import Iterator

import numpy as np

_UINT64 = 2**64

# One independent stream per purpose: the order of an epoch, the augmentation of an image, the mixing of a global batch
# (such as mixup's lambda), the replacements of an unreadable image, and the mask of an image.
ORDER, SAMPLE, BATCH, REPLACEMENT, MASK = 1, 2, 3, 4, 5

# A replacement may be unreadable too. With 100 in a row the disk has failed rather than a file.
MAX_REPLACEMENTS = 100


def generator(seed: int, stream: int, epoch: int, item: int) -> np.random.Generator:
    """Return the generator of a stream for an `item` of an epoch: the index of an image, or a step.

    Philox computes its numbers from a key and a counter of four 64-bit words. Epoch and item are the upper words of
    the counter, so two generators overlap after 2**128 blocks at the earliest. There is one generator per image, and
    Philox takes 10 microseconds to create (17 with SeedSequence).
    """
    key = np.array([seed % _UINT64, stream], dtype=np.uint64)
    counter = np.array([0, 0, epoch, item], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=counter))


def epoch_order(seed: int, epoch: int, size: int) -> np.ndarray:
    """Return the order of the `size` images in this epoch, int64 [size]."""
    return generator(seed, ORDER, epoch, 0).permutation(size)


def replacements(seed: int, epoch: int, index: int, images: int) -> Iterator[int]:
    """Yield the indices to try in place of image number `index`; they depend on the arguments only."""
    rng = generator(seed, REPLACEMENT, epoch, index)
    for _ in range(MAX_REPLACEMENTS):
        yield int(rng.integers(images))


def sample_keys(seed: int, epoch: int, indices: np.ndarray) -> np.ndarray:
    """Return one number per image for the network's own randomness (dropout, drop path), int32 [B].

    Three rounds of the 64-bit finalizer of SplitMix (Steele, Lea and Flood, "Fast splittable pseudorandom number
    generators", 2014); the upper 32 bits are kept.
    """
    start = np.full(len(indices), seed % _UINT64, dtype=np.uint64)
    of_epoch = _scramble(start) + np.uint64(epoch)
    of_sample = _scramble(of_epoch) + np.asarray(indices).astype(np.uint64)
    return (_scramble(of_sample) >> np.uint64(32)).astype(np.uint32).view(np.int32)


def _scramble(words: np.ndarray) -> np.ndarray:
    words = words + np.uint64(0x9E3779B97F4A7C15)
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))


def local_positions(batch_size: int, part: int, parts: int) -> np.ndarray:
    """Return the positions of part `part` in the global batch of `batch_size * parts` images, int64 [B].

    Mixup pairs position j of a batch with its mirror image (timm's `flip(0)`). A part takes its share of the first
    half and the mirror images of that share, in this order, so mirroring the part mirrors the global batch. An odd
    `batch_size`, which mixup refuses, gets a plain slice.
    """
    if batch_size % 2:
        return np.arange(part * batch_size, (part + 1) * batch_size)
    half = batch_size // 2
    front = np.arange(part * half, (part + 1) * half)
    return np.concatenate([front, batch_size * parts - 1 - front[::-1]])


def spread(size: int, num_samples: int) -> np.ndarray:
    """Return `num_samples` of 0..size-1, evenly spaced and ascending, int64 [num_samples]."""
    return np.arange(num_samples, dtype=np.int64) * size // num_samples
