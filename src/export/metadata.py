"""The metadata of an exported ONNX or MINDIR file: a `ModelInfo` as key-value pairs of text.

Text fields are stored unchanged; numbers, lists and flags as JSON. In ONNX Runtime the pairs are
`session.get_modelmeta().custom_metadata_map`.
"""

import json
from collections.abc import Mapping

from src.errors import UserError
from src.model.json_text import parse_json
from src.model.model_info import ALL_FIELDS, REQUIRED_FIELDS, ModelInfo

# Version of these pairs and of the graph's input and output; other versions are refused. Version 1 had no checksum.
VERSION = "2"
READABLE = ("1", VERSION)

CHECKSUM = "checksum"
UNSEALED = "0" * 8  # until the file is complete: see `src.export.checksum`
TEXT_FIELDS = ("arch", "interpolation", "crop_mode")


def to_metadata(info: ModelInfo) -> dict[str, str]:
    """Return a pair for each field of `ModelInfo`, `version`, and the place for a checksum."""
    pairs = {name: value if name in TEXT_FIELDS else json.dumps(value) for name, value in info.to_dict().items()}
    return {**pairs, "version": VERSION, CHECKSUM: UNSEALED}


def from_metadata(pairs: Mapping[str, str], source: str) -> ModelInfo:
    """Invert `to_metadata`; `source` names the file in errors. Other pairs are ignored.

    Raises `UserError` for a file of another program or another version, because neither the preparation of its input
    nor the meaning of its classes can be guessed.
    """
    missing = [name for name in ("version", *REQUIRED_FIELDS) if name not in pairs]
    if missing:
        raise UserError(
            f"{source} was not exported by this project: its metadata has no {', '.join(missing)}; export the "
            f"checkpoint with export.py"
        )
    if pairs["version"] not in READABLE:
        raise UserError(
            f"{source} has metadata of version {pairs['version'][:20]}, but this project reads versions "
            f"{' and '.join(READABLE)}: export the checkpoint again"
        )
    stored = [name for name in ALL_FIELDS if name in pairs]
    values = {name: pairs[name] if name in TEXT_FIELDS else _value(pairs[name], name, source) for name in stored}
    try:
        return ModelInfo.from_dict(values)
    except ValueError as error:
        raise UserError(f"{source} has damaged metadata: {error}; export the checkpoint again") from error


def _value(text: str, name: str, source: str) -> object:
    try:
        return parse_json(text)
    except ValueError:
        raise UserError(
            f"{source} has damaged metadata: {name} is '{text[:80]}'; export the checkpoint again"
        ) from None
