"""A folder of MindRecord shards that `src.data.pack` wrote: its description, its index, and its images.

The index of a shard is the SQLite file that MindSpore writes beside it. It is read as a whole when a run starts: every
column as one text, in 2.4 s for 1.3 million rows of five columns. In memory an image takes 24 bytes.
"""

import json
import os
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from src.data.image_folder import NO_LABEL, ImageFolder, chosen_samples
from src.data.packed_image import IMAGE, NAME, OVERHEAD, PackedImage
from src.errors import UserError, is_control
from src.files.regular_file import check_regular, read_regular
from src.model.json_text import MAX_JSON_BYTES, parse_json

DESCRIPTION = "images.json"
FORMAT = 1
HEADER_SIZE = 2**18  # bytes before the first page; the list of 65 pages of a shard takes 20 kB
SMALLEST_PAGE, LARGEST_PAGE = 2**15, 2**28  # MindSpore's limits
MOST_SHARDS = 100_000
MOST_ROWS = 1_000_000  # of a shard

LABEL = "label"
SCHEMA = {LABEL: {"type": "int32"}, IMAGE: {"type": "bytes"}, NAME: {"type": "bytes"}}
# The statement with which MindSpore makes the table for this schema; any other may hide a view or an expression.
TABLE = (
    "CREATE TABLE INDEXES(  ROW_ID               INT  NOT NULL, PAGE_ID_RAW          INT  NOT NULL, "
    "PAGE_OFFSET_RAW      INT  NOT NULL, PAGE_OFFSET_RAW_END  INT  NOT NULL, ROW_GROUP_ID         INT  NOT NULL, "
    "PAGE_ID_BLOB         INT  NOT NULL, PAGE_OFFSET_BLOB     INT  NOT NULL, PAGE_OFFSET_BLOB_END INT  NOT NULL,"
    "INC_0 INT, label_0 INTEGER, PRIMARY KEY(ROW_ID,INC_0))"
)
COLUMNS = ("ROW_ID", "PAGE_ID_BLOB", "PAGE_OFFSET_BLOB", "PAGE_OFFSET_BLOB_END", "label_0")
ROW_BYTES = 256  # of the SQLite file; 45 are used
ROW_STEPS = 1000  # of SQLite's virtual machine; 20 are used


@dataclass(frozen=True)
class Description:
    """The content of `images.json`.

    Args:
        classes: the sorted class names, None for images without labels.
        shorter_side: pixels of the shorter side to which larger images were resized, None for the original files.
        source: digest of names, sizes and times of the packed files.
        page_size: bytes of a page.
        shards: the number of images in each shard.
    """

    classes: tuple[str, ...] | None
    shorter_side: int | None
    source: str
    page_size: int
    shards: tuple[int, ...]

    def as_json(self) -> dict[str, Any]:
        """Return the values of the file."""
        return {"format": FORMAT, **asdict(self)}

    def shard_name(self, number: int) -> str:
        """Return the file name of a shard."""
        return f"images-{number:05}-of-{len(self.shards):05}.mindrecord"


class PackedImages:
    """The images of a packed folder, in its order."""

    def __init__(self, shards: Sequence[str], shard: np.ndarray, offset: np.ndarray, size: np.ndarray) -> None:
        self._shards = shards
        self._shard, self._offset, self._size = shard, offset, size

    def __len__(self) -> int:
        return len(self._shard)

    def __getitem__(self, index: int) -> PackedImage:
        return PackedImage(self._shards[self._shard[index]], int(self._offset[index]), int(self._size[index]))


def read_packed_folder(root: Path, num_samples: int = -1) -> ImageFolder:
    """Return the images of a packed folder, in the order of the folder that was packed.

    `num_samples` chooses as in `read_image_folder`. A folder without labels has no `classes` and the label -1. Raises
    `UserError` if a file is missing or damaged.
    """
    description = read_description(root)
    shards = [os.fspath(root / description.shard_name(number)) for number in range(len(description.shards))]
    indices = [read_index(shard, rows, description) for shard, rows in zip(shards, description.shards)]
    offset, size, label = (np.concatenate(parts) for parts in zip(*indices))
    shard = np.repeat(np.arange(len(shards), dtype=np.int32), description.shards)
    chosen = chosen_samples(root, len(offset), num_samples)
    if chosen is not None:
        offset, size, label, shard = (array[chosen] for array in (offset, size, label, shard))
    return ImageFolder(root, description.classes or (), PackedImages(shards, shard, offset, size), label)


def read_description(root: Path) -> Description:
    """Return the description of a packed folder. Raises `UserError`."""
    path = root / DESCRIPTION
    try:
        return parse_description(read_regular(path, MAX_JSON_BYTES))
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror}): give a folder that python -m src.data.pack wrote, or set "
            "dataset to ImageFolder"
        ) from None
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}): pack the images again") from None


def parse_description(text: bytes) -> Description:
    """Return the description in `text`. Raises `ValueError`."""
    value = parse_json(text)
    names = {"format", *Description.__dataclass_fields__}
    if not isinstance(value, dict) or value.keys() != names:
        raise ValueError(f"it does not have the entries {', '.join(sorted(names))}")
    if value.pop("format") != FORMAT:
        raise ValueError(f"its format is not {FORMAT}, the only one that this version reads")
    classes, side, page, shards = (value[name] for name in ("classes", "shorter_side", "page_size", "shards"))
    if classes is not None:
        if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
            raise ValueError("its classes are not a list of names")
        if classes != sorted(set(classes)) or any(any(map(is_control, name)) for name in classes):
            raise ValueError("its classes are not sorted single lines")
    if side is not None and not _is_number(side, 1, 2**31):
        raise ValueError("its shorter_side is not a number of pixels")
    if not _is_number(page, SMALLEST_PAGE, LARGEST_PAGE) or not isinstance(value["source"], str):
        raise ValueError("its page_size or source is invalid")
    if not isinstance(shards, list) or not 1 <= len(shards) <= MOST_SHARDS:
        raise ValueError("its shards are not a list of numbers")
    if not all(_is_number(rows, 1, MOST_ROWS) for rows in shards):
        raise ValueError("its shards are not a list of numbers")
    return Description(None if classes is None else tuple(classes), side, value["source"], page, tuple(shards))


def _is_number(value: object, least: int, most: int) -> bool:
    return type(value) is int and least <= value <= most


def read_index(shard: str, rows: int, description: Description) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return offset (int64), size (int64) and label (int32) of the `rows` records of a shard. Raises `UserError`."""
    index = f"{shard}.db"
    check_regular(index, limit=rows * ROW_BYTES + 2**20)
    try:
        length = os.stat(shard).st_size
    except OSError as error:
        raise UserError(f"{shard} cannot be read ({error.strerror}): copy the whole folder, or pack it again") from None
    try:
        number, page, start, end, label = _columns(index, rows)
    except (sqlite3.Error, ValueError, RecursionError) as error:
        raise UserError(f"{index} is damaged ({error}): pack the images again") from None
    classes = description.classes
    labels = (NO_LABEL, NO_LABEL) if classes is None else (0, len(classes) - 1)
    page_size = description.page_size
    fits = (number == np.arange(rows)) & (page >= 0) & (page <= length // page_size)
    fits &= (start >= 0) & (start + OVERHEAD <= end) & (end <= page_size) & (start < page_size)
    fits &= (label >= labels[0]) & (label <= labels[1])
    offset = HEADER_SIZE + np.where(fits, page, 0) * page_size + start
    fits &= offset + (end - start) <= length
    if not fits.all():
        raise UserError(f"{index} does not fit {shard} (row {int(fits.argmin())}): pack the images again")
    return offset, end - start, label.astype(np.int32)


def _columns(index: str, rows: int) -> list[np.ndarray]:
    """Return the COLUMNS of the SQLite file `index`, each int64 [rows]. Raises `sqlite3.Error` and `ValueError`."""
    uri = f"file:{quote(os.fsencode(os.path.abspath(index)))}?mode=ro&immutable=1"
    with closing(sqlite3.connect(uri, uri=True)) as connection:
        connection.execute("PRAGMA trusted_schema = OFF")
        connection.set_progress_handler(lambda: 1, 10**6 + ROW_STEPS * rows)  # ends what takes more steps
        found = connection.execute("SELECT type, sql FROM sqlite_master WHERE name = 'INDEXES'").fetchall()
        if found != [("table", TABLE)]:
            raise ValueError("it has another table than MindSpore writes")
        texts = connection.execute(f"SELECT {', '.join(f'group_concat({name})' for name in COLUMNS)} FROM INDEXES")
        columns = [_numbers(text) for text in texts.fetchone()]
    if any(len(column) != rows for column in columns):
        raise ValueError(f"it does not have {rows} rows")
    return columns


def _numbers(text: object) -> np.ndarray:
    """Return the whole numbers of a text `1,2,3`, int64 [N]. Raises `ValueError`."""
    numbers = np.array(json.loads(f"[{text}]"))
    if numbers.dtype != np.int64 or numbers.ndim != 1:
        raise ValueError("a column does not hold whole numbers")
    return numbers
