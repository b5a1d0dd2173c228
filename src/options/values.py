"""Values of options: text from a YAML file or the command line to typed values, and back to text for messages."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable
from typing import Any

NUMBERS = tuple[float, ...]
KIND_NAMES = {bool: "True or False", int: "a whole number", float: "a number", str: "text", NUMBERS: "numbers"}
NONE_WORDS = ("none", "null", "~", "")
BOOLEANS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}


def convert(raw: Any, kind: Any, *, optional: bool) -> Any:
    """Return `raw`, a text or a list of texts, as a value of type `kind`, or None where `optional` allows it.

    `kind` is a key of `KIND_NAMES`. Raises `ValueError`, `KeyError` or `OverflowError`. Whole numbers such as `8.0` and
    `1e3` are refused for int, because the intent is ambiguous.
    """
    if optional and (raw is None or (isinstance(raw, str) and raw.strip().lower() in NONE_WORDS)):
        return None
    if kind == NUMBERS:  # [0.9, 0.999] and 0.9,0.999 and 0.9 0.999 are all accepted
        words = raw.strip("[]() ").replace(",", " ").split() if isinstance(raw, str) else raw
        if not isinstance(words, list):
            raise ValueError
        return tuple(float(str(word)) for word in words)
    if not isinstance(raw, str):
        raise ValueError
    if kind is bool:
        return BOOLEANS[raw.strip().lower()]
    if kind is float and not math.isfinite(float(raw)):
        raise ValueError
    return kind(raw)


def shown(value: Any) -> str:
    """Return a value, or the raw text of one, as a user types it on the command line."""
    if value is None:
        return "none"
    if isinstance(value, tuple):
        return ",".join(f"{number:g}" for number in value)
    if isinstance(value, list):
        return f"[{', '.join(map(shown, value))}]"
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return text if text and text.isprintable() else repr(text)


def did_you_mean(word: str, names: Iterable[str]) -> str:
    """Return the end of an error message that suggests the name closest to `word`; empty where none is close."""
    close = difflib.get_close_matches(word, list(names), n=1, cutoff=0.6)
    return f"; did you mean {close[0]}?" if close else ""
