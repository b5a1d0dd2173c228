"""Declarations of options: a dataclass field that carries its help text, group and limits, and reads its value."""

import dataclasses
import difflib
import math
import operator
import os
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from src.errors import UserError

NUMBERS = tuple[float, ...]
KIND_NAMES = {bool: "True or False", int: "a whole number", float: "a number", str: "text", NUMBERS: "numbers"}
NONE_WORDS = ("none", "null", "~", "")
BOOLEANS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}
NAME_BYTES, PATH_BYTES = 255, 4095  # longest name and path that Linux accepts
LARGEST_INT = 2**63 - 1  # of numpy
SHOWN_LETTERS = 100  # of a value in an error message
COMPARISONS = {"at_least": operator.ge, "more_than": operator.gt, "at_most": operator.le, "less_than": operator.lt}


class Group(NamedTuple):
    """A heading, with its place among the headings."""

    place: int
    title: str


@dataclass(frozen=True)
class Option:
    """An option as its dataclass declares it; see `option` for the meaning of the fields."""

    name: str
    kind: Any  # a key of KIND_NAMES
    optional: bool  # whether None is a value
    default: Any
    group: Group
    help: str
    added: bool
    borrowed: bool
    choices: tuple[str, ...]
    length: int | None
    bounds: Mapping[str, float]

    def limits(self) -> str:
        """Return the limits beyond the type in words, empty if there are none."""
        if self.choices:
            return f"one of {', '.join(self.choices)}"
        words = [f"{name.replace('_', ' ')} {shown(bound)}" for name, bound in self.bounds.items()]
        return ", ".join([f"{self.length} of them", *words] if self.length else words)

    def expected(self) -> str:
        """Return the accepted values in words."""
        return self.limits() if self.choices else ", ".join(filter(None, (KIND_NAMES[self.kind], self.limits())))

    def parse(self, raw: Any, place: str) -> Any:
        """Return `raw`, text from a YAML file or the command line, as a value of this option.

        Raises `UserError`, which begins with `place`, for another type and outside the limits.
        """
        try:
            value = self._convert(raw)
            valid = value is None or self._admits(value)
        except (ValueError, KeyError, OverflowError):
            valid = False
        if not valid:
            nearest = did_you_mean(str(raw), self.choices)
            raise UserError(f"{place} is {shown(raw)}, expected {self.expected()}{nearest}")
        if isinstance(value, str) and (longest := max(map(len, os.fsencode(value).split(b"/")))) > NAME_BYTES:
            raise UserError(f"{place} has a name of {longest} bytes; shorten it to {NAME_BYTES}")
        if isinstance(value, str) and len(os.fsencode(value)) > PATH_BYTES:
            raise UserError(f"{place} has {len(os.fsencode(value))} bytes; shorten it to {PATH_BYTES}")
        return value

    def _convert(self, raw: Any) -> Any:
        """Return `raw`, a text or a list of texts, as a value of the type; raises one of the errors above.

        Whole numbers such as `8.0` and `1e3` are refused for int, because the intent is ambiguous.
        """
        if self.optional and (raw is None or (isinstance(raw, str) and raw.strip().lower() in NONE_WORDS)):
            return None
        if self.kind == NUMBERS:  # [0.9, 0.999] and 0.9,0.999 and 0.9 0.999 are all accepted
            words = raw.strip("[]() ").replace(",", " ").split() if isinstance(raw, str) else raw
            if not isinstance(words, list):
                raise ValueError
            return tuple(map(_finite, words))
        if not isinstance(raw, str):
            raise ValueError
        if self.kind is bool:
            return BOOLEANS[raw.strip().lower()]
        if self.kind is float:
            return _finite(raw)
        if self.kind is str and b"\0" in os.fsencode(raw):  # no path; fsencode raises ValueError for other letters
            raise ValueError
        value = self.kind(raw)
        if self.kind is int and abs(value) > LARGEST_INT:
            raise ValueError
        return value

    def _admits(self, value: Any) -> bool:
        if self.choices:
            return value in self.choices
        numbers = value if isinstance(value, tuple) else (value,)
        return self.length in (None, len(numbers)) and all(
            COMPARISONS[name](number, bound) for name, bound in self.bounds.items() for number in numbers
        )


def _finite(word: str) -> float:
    number = float(word)
    if not math.isfinite(number):
        raise ValueError
    return number


def option(
    group: Group,
    default: Any,
    text: str,
    *,
    added: bool = False,
    choices: tuple[str, ...] = (),
    length: int | None = None,
    **bounds: float,
) -> Any:
    """Declare an option as a dataclass field.

    Args:
        group: heading in `--help`, in `docs/options.md` and in a YAML file.
        default: value where neither the YAML file nor the command line gives one.
        text: help text, without a capital and a full stop.
        added: whether a YAML file may omit it, because complete files were written before the option existed.
        choices: accepted texts.
        length: number of numbers in a tuple.
        bounds: of a number, or of each in a tuple, by a name in `COMPARISONS`.
    """
    notes = {"added": added, "borrowed": False, "choices": choices, "length": length, "bounds": bounds}
    return field(default=default, metadata={"group": group, "help": text, **notes})


def borrowed(source: type, name: str, group: Group, **changes: Any) -> Any:
    """Declare the option `name` of the dataclass `source` for another script, with another `default` or `help`.

    The script takes such options, and no others, from a YAML file of `source`.
    """
    entry = next(entry for entry in dataclasses.fields(source) if entry.name == name)
    default = changes.pop("default", entry.default)
    return field(default=default, metadata={**entry.metadata, "group": group, "borrowed": True, **changes})


def declared(options: type) -> dict[str, Option]:
    """Return the options that the dataclass `options` declares, by name, in the order of their groups."""
    found = {}
    hints = typing.get_type_hints(options)
    for entry in sorted(dataclasses.fields(options), key=lambda entry: entry.metadata["group"].place):
        kinds = typing.get_args(hints[entry.name])
        optional = type(None) in kinds
        kind = next(kind for kind in kinds if kind is not type(None)) if optional else hints[entry.name]
        found[entry.name] = Option(entry.name, kind, optional, entry.default, **entry.metadata)
    return found


def shown(value: Any) -> str:
    """Return a value, or the raw text of one, as a user types it on the command line; long text is shortened."""
    if value is None:
        return "none"
    if isinstance(value, tuple):
        text = ",".join(f"{number:g}" for number in value)
    elif isinstance(value, list):
        text = f"[{', '.join(map(shown, value))}]"
    else:
        text = f"{value:g}" if isinstance(value, float) else str(value)
    if len(text) > SHOWN_LETTERS:
        text = f"{text[:SHOWN_LETTERS]}..."
    return text if text and text.isprintable() else repr(text)


def did_you_mean(word: str, names: Iterable[str]) -> str:
    """Return the end of an error message that suggests the name closest to `word`; empty where none is close."""
    close = difflib.get_close_matches(word, list(names), n=1, cutoff=0.6)
    return f"; did you mean {close[0]}?" if close else ""
