"""Write a packed folder shard by shard, so that an interrupted run loses at most one shard."""

import contextlib
import fcntl
import hashlib
import io
import json
import logging
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mindspore.mindrecord import FileWriter
from PIL import Image
from tqdm import tqdm

from src.data.decode import MAX_BYTES, UnreadableImage, rgb_image
from src.data.image_folder import ImageFolder
from src.data.packed_folder import (
    DESCRIPTION,
    HEADER_SIZE,
    LABEL,
    LARGEST_PAGE,
    SCHEMA,
    Description,
    read_description,
)
from src.data.packed_image import IMAGE, NAME, OVERHEAD
from src.data.prefetch import Job, prefetch
from src.data.transforms import resize
from src.errors import UserError, without_control_characters
from src.files.atomic_file import write_atomically
from src.files.regular_file import IrregularFile, read_regular

logger = logging.getLogger("beit")

PARTIAL_SUFFIX = ".partial"
WRITING = ".writing"  # folder of the shard that is being written
SHARD_IMAGES, SHARD_BYTES = 10_000, 2**30  # a shard ends with the first of them
PAGE = 2**25  # MindSpore's default
ROOM = 2**16  # bytes of a page for the name and the lengths of a record
CHUNK = 64  # images that are read at the same time
QUALITY, FULL_COLOR = 95, 0  # of JPEG: Pillow's scale, and a color for every pixel

Row = dict[str, Any]
"""A record as MindSpore's writer takes it."""


@dataclass(frozen=True)
class Packing:
    """How images are packed: `shorter_side` as the option of that name, by `num_workers` threads."""

    shorter_side: int | None
    num_workers: int


@contextlib.contextmanager
def appears_complete(output: Path) -> Iterator[Path]:
    """Yield the folder `output`.partial, which becomes `output` at the end of the block unless an exception ends it.

    Raises `UserError` if `output` exists, cannot be written, or is being written by another process.
    """
    if output.exists():
        raise UserError(f"output {output} exists already; give the name of a new folder, or remove it")
    partial = output.with_name(output.name + PARTIAL_SUFFIX)
    try:
        partial.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(partial, os.O_RDONLY)
        try:
            _lock(descriptor, partial)
            yield partial
            os.rename(partial, output)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise UserError(
            f"{error.filename or output} cannot be written ({error.strerror}): choose another output or free some space"
        ) from error


def _lock(descriptor: int, partial: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UserError(f"{partial} is being written by another process; wait for it, or change --output") from None


def pack_folder(images: ImageFolder, folder: Path, packing: Packing) -> str:
    """Write the shards of `images` that `folder` does not have yet, and return in words what it holds.

    Raises `UserError` if `folder` has shards of other images, and where the system refuses to write.
    """
    description = describe(images, packing.shorter_side)
    _begin(folder, description)
    writing = folder / WRITING
    shutil.rmtree(writing, ignore_errors=True)  # of a killed process
    first = unreadable = 0
    with tqdm(total=len(images), desc=folder.name, unit="image", disable=None) as bar:
        for number, count in enumerate(description.shards):
            shard = folder / description.shard_name(number)
            if not shard.exists():
                rows = _rows(images, range(first, first + count), packing)
                unreadable += _write_shard(shard, writing, rows, description.page_size, bar)
            else:
                bar.update(count)
            first += count
    shutil.rmtree(writing, ignore_errors=True)
    bad = f", {unreadable} of them empty because they cannot be read" if unreadable else ""
    return f"{len(images)} images in {len(description.shards)} shards{bad}"


def describe(images: ImageFolder, shorter_side: int | None) -> Description:
    """Return the description of the packed folder, which follows from the names, sizes and times of the files.

    Raises `UserError` for a file that no page can hold.
    """
    digest, largest, shards, size = hashlib.sha256(), 0, [0], 0
    digest.update(json.dumps([images.classes, shorter_side]).encode())
    for number in range(len(images)):
        path = str(images.paths[number])
        length, time = _length_and_time(path)
        if length + ROOM > LARGEST_PAGE and shorter_side is None:
            raise UserError(
                f"{path} has {length} bytes, but a MindRecord page holds {LARGEST_PAGE - ROOM}: give --shorter_side, "
                "or replace the file"
            )
        digest.update(b"%s\0%d %d\0" % (os.fsencode(_name(images, path)), length, time))
        if shards[-1] and (shards[-1] == SHARD_IMAGES or size + length > SHARD_BYTES):
            shards.append(0)
            size = 0
        shards[-1] += 1
        size += length
        largest = max(largest, length)
    page = min(LARGEST_PAGE, max(PAGE, 1 << (largest + ROOM - 1).bit_length()))
    return Description(images.classes or None, shorter_side, digest.hexdigest(), page, tuple(shards))


def _length_and_time(path: str) -> tuple[int, int]:
    """Return the bytes of a file and its time in ns; 0 for a file that is packed as an empty one."""
    try:
        status = os.stat(path)
    except OSError:
        return 0, 0
    return (status.st_size if status.st_size <= MAX_BYTES else 0), status.st_mtime_ns


def _name(images: ImageFolder, path: str) -> str:
    return path.removeprefix(os.path.join(os.fspath(images.root), ""))


def _begin(folder: Path, description: Description) -> None:
    """Write the description, or raise `UserError` if `folder` has another one."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / DESCRIPTION
    if not path.exists():
        text = json.dumps(description.as_json(), ensure_ascii=False).encode()
        write_atomically(path, lambda file: file.write(text))
    elif read_description(folder) != description:
        raise UserError(
            f"{folder} holds shards of other images or of another shorter_side; give the same options, or remove it"
        )


def _rows(images: ImageFolder, numbers: range, packing: Packing) -> Iterator[list[Row]]:
    """Yield the records of the images `numbers` in their order, in lists of up to CHUNK."""

    def job(part: range) -> Job[list[Row]]:
        rows: list[Row] = [{} for _ in part]

        def prepare(place: int) -> None:
            path = str(images.paths[part[place]])
            rows[place] = {
                LABEL: int(images.labels[part[place]]),
                NAME: os.fsencode(_name(images, path)),
                IMAGE: file_to_pack(path, packing.shorter_side),
            }

        return Job(len(part), prepare, lambda: rows)

    parts = (numbers[start : start + CHUNK] for start in range(0, len(numbers), CHUNK))
    return prefetch(map(job, parts), packing.num_workers, CHUNK)


def file_to_pack(path: str, shorter_side: int | None) -> bytes:
    """Return the bytes to store for an image file: empty if it cannot be read, as an unreadable image is in a folder.

    An image whose shorter side exceeds `shorter_side` is resized to it and stored as JPEG.
    """
    try:
        data = read_regular(path, MAX_BYTES)
        return data if shorter_side is None else _smaller(path, shorter_side) or data
    except IrregularFile as error:
        reason = error.reason
    except OSError as error:
        reason = error.strerror or str(error)
    logger.warning(without_control_characters(f"packed as an empty file: {path} ({reason})"))
    return b""


def _smaller(path: str, shorter_side: int) -> bytes | None:
    """Return the image as a JPEG file of that shorter side, None for a small or damaged image."""
    try:
        with rgb_image(path) as decoded:
            shorter = min(decoded.size)
            if shorter <= shorter_side:
                return None
            width, height = (round(edge * shorter_side / shorter) for edge in decoded.size)
            file = io.BytesIO()
            resize(decoded.image, (width, height), Image.Resampling.BICUBIC).save(file, "JPEG", quality=QUALITY, subsampling=FULL_COLOR)
            return file.getvalue()
    except UnreadableImage:
        return None


def _write_shard(shard: Path, writing: Path, chunks: Iterator[list[Row]], page_size: int, bar: tqdm) -> int:
    """Write a shard and its index inside the folder `writing`, then move both; return the number of empty images.

    MindSpore stores the name of the shard in its index, so both have their final names from the beginning.
    """
    writing.mkdir()
    temporary, empty = writing / shard.name, 0
    try:
        writer = FileWriter(str(temporary))
        writer.set_header_size(HEADER_SIZE)
        writer.set_page_size(page_size)
        writer.add_schema(SCHEMA, "images")
        for rows in chunks:
            _require_room(rows, page_size)
            empty += sum(not row[IMAGE] for row in rows)
            writer.write_raw_data(rows)
            bar.update(len(rows))
        writer.commit()
    except (RuntimeError, UnicodeError) as error:  # MindSpore's, for a full disk too
        raise UserError(f"{shard} cannot be written: choose another output or free some space") from error
    for suffix in (".db", ""):  # the shard itself last: where it exists, its index exists
        _publish(Path(f"{temporary}{suffix}"), Path(f"{shard}{suffix}"))
    writing.rmdir()
    return empty


def _require_room(rows: list[Row], page_size: int) -> None:
    for row in rows:
        if len(row[IMAGE]) + len(row[NAME]) + OVERHEAD > page_size:
            name = os.fsdecode(row[NAME])
            raise UserError(f"{name} takes {len(row[IMAGE])} bytes, more than a page of {page_size}: replace the file")


def _publish(temporary: Path, path: Path) -> None:
    """Move a finished file to its place, on the disk and readable as other files are."""
    mask = os.umask(0)
    os.umask(mask)
    temporary.chmod(0o666 & ~mask)  # MindSpore makes files that only their owner can read
    with open(temporary, "rb") as file:
        os.fsync(file.fileno())
    os.replace(temporary, path)
