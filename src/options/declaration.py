"""Declarations of options: a dataclass field that carries its help text, group and limits."""

from __future__ import annotations

import dataclasses
import typing
from dataclasses import dataclass, field
from typing import Any

from src.errors import UserError
from src.options.values import KIND_NAMES, convert, did_you_mean, shown


@dataclass(frozen=True)
class Limits:
    """Limits of an option's values beyond their type; those of a tuple apply to each number, `length` to the tuple."""

    choices: tuple[str, ...] = ()
    length: int | None = None
    at_least: float | None = None
    more_than: float | None = None
    at_most: float | None = None
    less_than: float | None = None

    def text(self) -> str:
        """Return the limits in words, empty where there are none."""
        if self.choices:
            return f"one of {', '.join(self.choices)}"
        bounds = {
            "{} of them": self.length,
            "at least {:g}": self.at_least,
            "more than {:g}": self.more_than,
            "at most {:g}": self.at_most,
            "less than {:g}": self.less_than,
        }
        return ", ".join(words.format(bound) for words, bound in bounds.items() if bound is not None)

    def admit(self, value: Any) -> bool:
        """Return whether `value`, which has the option's type, is within the limits. None always is."""
        if value is None:
            return True
        if self.choices:
            return value in self.choices
        numbers = value if isinstance(value, tuple) else (value,)
        return self.length in (None, len(numbers)) and all(
            (self.at_least is None or number >= self.at_least)
            and (self.more_than is None or number > self.more_than)
            and (self.at_most is None or number <= self.at_most)
            and (self.less_than is None or number < self.less_than)
            for number in numbers
        )


@dataclass(frozen=True)
class Option:
    """An option as its dataclass declares it; see `option` for the meaning of the fields."""

    name: str
    kind: Any  # a key of KIND_NAMES
    optional: bool  # whether None is a value
    default: Any
    group: str
    help: str
    added: bool
    of_call: bool
    borrowed: bool
    limits: Limits

    def expected(self) -> str:
        """Return the accepted values in words."""
        words = self.limits.text()
        return words if self.limits.choices else ", ".join(filter(None, (KIND_NAMES[self.kind], words)))

    def parse(self, raw: Any, place: str) -> Any:
        """Return `raw`, text from a YAML file or the command line, as a value of this option.

        Raises `UserError`, which begins with `place`, for another type and outside the limits.
        """
        try:
            value = convert(raw, self.kind, optional=self.optional)
            valid = self.limits.admit(value)
        except (ValueError, KeyError, OverflowError):
            valid = False
        if not valid:
            nearest = did_you_mean(str(raw), self.limits.choices)
            raise UserError(f"{place} is {shown(raw)}, expected {self.expected()}{nearest}")
        return value


def option(group: str, default: Any, text: str, *, added: bool = False, of_call: bool = False, **limits: Any) -> Any:
    """Declare an option as a dataclass field.

    Args:
        group: heading in `--help`, in `docs/options.md` and in a YAML file.
        default: value where neither the YAML file nor the command line gives one.
        text: help text, without a capital and a full stop.
        added: whether a YAML file may omit it, because complete files were written before the option existed.
        of_call: whether only the command line gives it: a YAML file does not hold it.
        limits: fields of `Limits`.
    """
    notes = {"added": added, "of_call": of_call, "borrowed": False, "limits": Limits(**limits)}
    return field(default=default, metadata={"group": group, "help": text, **notes})


def borrowed(source: type, name: str, group: str, **changes: Any) -> Any:
    """Declare the option `name` of the dataclass `source` for another script, with another `default` or `help`.

    The script takes such options, and no others, from a YAML file of `source`.
    """
    entry = next(entry for entry in dataclasses.fields(source) if entry.name == name)
    default = changes.pop("default", entry.default)
    return field(default=default, metadata={**entry.metadata, "group": group, "borrowed": True, **changes})


def declared(options: type) -> dict[str, Option]:
    """Return the options that the dataclass `options` declares, by name, in their order."""
    found = {}
    hints = typing.get_type_hints(options)
    for entry in dataclasses.fields(options):
        kinds = typing.get_args(hints[entry.name])
        optional = type(None) in kinds
        kind = next(kind for kind in kinds if kind is not type(None)) if optional else hints[entry.name]
        found[entry.name] = Option(entry.name, kind, optional, entry.default, **entry.metadata)
    return found
