"""What an exported ONNX or MINDIR file says of itself: a `ModelInfo` as the file's own key-value pairs.

Text stands as it is; numbers, lists and flags as JSON. ONNX Runtime gives the pairs as
`session.get_modelmeta().custom_metadata_map`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

from src.errors import UserError
from src.model.model_info import ModelInfo

# The version of these pairs and of the graph's input and output; a file of another is not read by this project.
VERSION = "1"
TEXT_FIELDS = ("arch", "interpolation")


def to_metadata(info: ModelInfo) -> dict[str, str]:
    """A pair per field of `ModelInfo`, and `version`."""
    pairs = {name: value if name in TEXT_FIELDS else json.dumps(value) for name, value in asdict(info).items()}
    return {**pairs, "version": VERSION}


def from_metadata(pairs: Mapping[str, str], source: str) -> ModelInfo:
    """The inverse of `to_metadata`; `source` names the file in errors.

    Raises `UserError` for a file that another program wrote or that speaks another version: how its input is to be
    prepared and what its classes mean cannot be guessed.
    """
    names = [field.name for field in fields(ModelInfo)]
    missing = [name for name in ("version", *names) if name not in pairs]
    if missing:
        raise UserError(
            f"{source} was not exported by this project: its metadata lack {', '.join(missing)}; export the checkpoint "
            f"with export.py"
        )
    if pairs["version"] != VERSION:
        raise UserError(
            f"{source} has metadata of version {pairs['version']}, this project reads version {VERSION}: export the "
            f"checkpoint again"
        )
    values: dict[str, Any] = {
        name: pairs[name] if name in TEXT_FIELDS else _value(pairs[name], name, source) for name in names
    }
    return ModelInfo(**values)


def _value(text: str, name: str, source: str) -> object:
    try:
        value = json.loads(text)
    except ValueError:
        raise UserError(f"{source} has damaged metadata: {name} is '{text}'; export the checkpoint again") from None
    return tuple(value) if isinstance(value, list) else value
