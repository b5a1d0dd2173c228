"""YAML files of options: finding, reading and writing them."""

import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from src.errors import UserError
from src.files.regular_file import read_regular
from src.options.declaration import declared, did_you_mean, shown

SHIPPED_CONFIGS = Path(__file__).parents[1] / "configs"
SIZE_LIMIT = 100_000  # bytes; the shipped files have 4,000


def find_config(word: str) -> Path:
    """Return the config file that `word` names: a path, or a file of src/configs, with or without `.yaml`.

    A file in the current folder precedes a shipped one of the same name. Raises `UserError` for an unknown name; a path
    to a missing file is left to the reader.
    """
    path = Path(word)
    if os.path.exists(path) or path.name != word:  # Path.exists raises for a name of 256 bytes
        return path
    name = word.removesuffix(".yaml")
    names = sorted(file.stem for file in SHIPPED_CONFIGS.glob("*.yaml"))
    if name in names:
        return SHIPPED_CONFIGS / f"{name}.yaml"
    raise UserError(
        f"{shown(word)} is neither a config file nor a shipped config ({', '.join(names)}){did_you_mean(name, names)}"
    )


def read_values(path: Path, options: type) -> dict[str, Any]:
    """Return the values of a YAML file, which must be a complete config of the dataclass `options`.

    Raises `UserError`, with the line, for an unknown or repeated name and for a value that the option does not accept.
    """
    entries: dict[str, tuple[Any, int]] = {}
    accepted = declared(options)
    for name, value, line in read_entries(path):
        if name not in accepted:
            raise UserError(f"{path}, line {line}: {shown(name)} is not an option{did_you_mean(name, accepted)}")
        if name in entries:
            raise UserError(f"{path}, line {line}: {name} is given twice, first in line {entries[name][1]}; remove one")
        entries[name] = value, line
    missing = [name for name, option in accepted.items() if not option.added and name not in entries]
    if missing:
        raise UserError(f"{path} does not set {', '.join(missing)}; add them (--help shows their defaults)")
    return {
        name: accepted[name].parse(value, f"{path}, line {line}: {name}") for name, (value, line) in entries.items()
    }


def read_entries(path: Path) -> Iterator[tuple[str, Any, int]]:
    """Yield name, value and line of each entry of a YAML file; a value is text, None, or a list of texts.

    Scalars stay text, so that `1e-8`, which YAML 1.1 takes for text, is the number it is on the command line. Aliases,
    tags and nested values are refused where they appear, so that no file takes much time or memory. Raises `UserError`.
    """
    try:
        events: Iterator[Any] = yaml.parse(read_regular(path, SIZE_LIMIT).decode(), Loader=yaml.BaseLoader)
        root = next((event for event in events if isinstance(event, yaml.NodeEvent)), None)
        if not isinstance(root, yaml.MappingStartEvent):
            raise UserError(f"{path} is not a config file: expected lines 'option: value'")
        while not isinstance(key := next(events), yaml.MappingEndEvent):
            line = key.start_mark.line + 1
            name, value = _text(key, path), _value(next(events), events, path)
            yield name, value, line
        next(events)  # the end of the document
        if not isinstance(second := next(events), yaml.StreamEndEvent):
            raise UserError(f"{path}, line {second.start_mark.line + 1}: a second document begins; remove it")
    except FileNotFoundError:
        raise UserError(f"{path}: no such config file; check the path") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error}); give a YAML file") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path} cannot be read ({error}); give a YAML file") from None
    except yaml.YAMLError as error:
        mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
        where = f", line {mark.line + 1}" if mark else ""
        raise UserError(f"{path}{where}: not valid YAML ({problem or str(error).splitlines()[0]})") from None


def _value(event: Any, events: Iterator[Any], path: Path) -> str | list[str] | None:
    """Return the value that begins with `event`, and take its other events from `events`."""
    if isinstance(event, yaml.SequenceStartEvent) and event.tag is None:
        items = []
        while not isinstance(item := next(events), yaml.SequenceEndEvent):
            items.append(_text(item, path))
        return items
    text = _text(event, path)
    return None if event.implicit[0] and text in ("", "~", "null") else text


def _text(event: Any, path: Path) -> str:
    """Return the text of a scalar. Raises `UserError` for anything else."""
    place = f"{path}, line {event.start_mark.line + 1}"
    if isinstance(event, yaml.AliasEvent):
        raise UserError(f"{place}: the alias *{shown(event.anchor)} is not supported; write the value itself")
    if event.tag is not None:
        raise UserError(f"{place}: the tag {shown(event.tag)} is not supported; write the value without a tag")
    if not isinstance(event, yaml.ScalarEvent):
        raise UserError(f"{place}: a list or mapping is not supported here; write 'option: value' or 'option: [1, 2]'")
    return str(event.value)


def write_values(config: Any, options: type) -> str:
    """Return a config file of the values of `config` for the dataclass `options`, that reads back equal."""
    lines: list[str] = []
    group = None
    for name, option in declared(options).items():
        if option.group != group:
            group = option.group
            lines += ["", f"# ===== {group.title} ===== #"]
        value = getattr(config, name)
        plain = list(value) if isinstance(value, tuple) else "" if value is None else value
        text = yaml.safe_dump(plain, default_flow_style=True, width=math.inf, allow_unicode=True)
        lines.append(f"{name}: {text.splitlines()[0]}")  # PyYAML ends a scalar with a line of dots
    return "\n".join(lines[1:]) + "\n"
