"""The information that the checkpoint of a tokenizer stores beside its weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from src.model.json_text import parse_json
from src.model.model_info import ModelInfo

KIND = "dvae"  # of the only tokenizer that this project trains


@dataclass(frozen=True)
class TokenizerInfo:
    """A discrete VAE that was trained on images of `image_size` pixels; the weights determine its sizes."""

    image_size: int
    tokenizer: str = KIND

    @property
    def class_names(self) -> tuple[str, ...]:
        """No names: a tokenizer has no classes."""
        return ()

    def to_json(self) -> str:
        """Return one line of JSON."""
        return json.dumps(asdict(self))

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> TokenizerInfo:
        """Return the information; raises `ValueError` for another kind of tokenizer or an invalid size."""
        size = values.get("image_size")
        if dict(values) != {"tokenizer": KIND, "image_size": size} or type(size) is not int or size < 1:
            raise ValueError(f"it is not a {KIND} tokenizer with a valid image_size")
        return TokenizerInfo(size)


Description = ModelInfo | TokenizerInfo


def read_description(text: str) -> Description:
    """Invert `to_json` of either kind; raises `ValueError`."""
    values = parse_json(text)
    if isinstance(values, dict) and "tokenizer" in values:
        return TokenizerInfo.from_dict(values)
    return ModelInfo.from_json(text)
