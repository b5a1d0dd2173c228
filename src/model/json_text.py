"""JSON from files of unknown origin, read with limits."""

import json
import math
from typing import Any

MAX_JSON_BYTES = 16 * 2**20  # names of 22,000 classes take 0.5 MB, the header of a checkpoint of BEiT-large 0.3 MB
MAX_DEPTH = 20  # the files that are read here nest at most 6 levels
MAX_DIGITS = 20  # of an integer: 64 bits


def parse_json(text: str | bytes, *, allow_nan: bool = False) -> Any:
    """Return the value of a JSON text, in which every number is finite and an object has every name once.

    With `allow_nan`, the words `NaN` and `Infinity` are accepted: the history of a diverged run has them. Raises
    `ValueError`, of one short line, for anything else, for deep nesting, and for a text beyond `MAX_JSON_BYTES`.
    """
    if len(text) > MAX_JSON_BYTES:
        raise ValueError(f"its JSON text has {len(text)} bytes, but {MAX_JSON_BYTES} are enough")
    try:
        value = json.loads(
            text,
            parse_int=_integer,
            parse_float=_finite,
            parse_constant=float if allow_nan else _refuse_constant,
            object_pairs_hook=_without_repetition,
        )
    except RecursionError:
        raise ValueError(f"its JSON text is nested more than {MAX_DEPTH} levels deep") from None
    _check_depth(value)
    return value


def _check_depth(value: Any) -> None:
    level = [value]
    for _ in range(MAX_DEPTH):
        containers = [item for item in level if isinstance(item, (dict, list))]
        level = [child for item in containers for child in (item.values() if isinstance(item, dict) else item)]
        if not level:
            return
    raise ValueError(f"its JSON text is nested more than {MAX_DEPTH} levels deep")


def _integer(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise ValueError(f"its JSON text has a number of {len(digits)} digits")
    return int(digits)


def _finite(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError(f"its JSON text has the number {digits[:MAX_DIGITS]}, which is too large")
    return value


def _refuse_constant(word: str) -> float:
    raise ValueError(f"its JSON text has the number {word}")


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for name, value in pairs:
        if name in result:
            raise ValueError(f"it has '{name}' twice")
        result[name] = value
    return result
