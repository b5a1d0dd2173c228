"""YAML files of options: finding, reading and writing them."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from src.errors import UserError
from src.options.declaration import declared, did_you_mean, shown

SHIPPED_CONFIGS = Path(__file__).parents[1] / "configs"


def find_config(word: str) -> Path:
    """Return the config file that `word` names: a path, or a file of src/configs, with or without `.yaml`.

    A file in the current folder precedes a shipped one of the same name. Raises `UserError` for an unknown name; a path
    to a missing file is left to the reader.
    """
    path = Path(word)
    if path.exists() or path.name != word:
        return path
    name = word.removesuffix(".yaml")
    names = sorted(file.stem for file in SHIPPED_CONFIGS.glob("*.yaml"))
    if name in names:
        return SHIPPED_CONFIGS / f"{name}.yaml"
    raise UserError(
        f"{word} is neither a config file nor a shipped config ({', '.join(names)}){did_you_mean(name, names)}"
    )


def read_values(path: Path, options: type) -> dict[str, Any]:
    """Return the values of a YAML file, which must be a complete config of the dataclass `options`.

    Raises `UserError`, with the line, for an unknown or repeated name and for a value that the option does not accept.
    """
    entries: dict[str, tuple[Any, int]] = {}
    accepted = declared(options)
    for name, value, line in _read_entries(path):
        if name not in accepted:
            raise UserError(f"{path}, line {line}: {name} is not an option{did_you_mean(name, accepted)}")
        if name in entries:
            raise UserError(f"{path}, line {line}: {name} is given twice, first in line {entries[name][1]}; remove one")
        entries[name] = value, line
    missing = [name for name, option in accepted.items() if not option.added and name not in entries]
    if missing:
        raise UserError(f"{path} does not set {', '.join(missing)}; add them (--help shows their defaults)")
    return {
        name: accepted[name].parse(value, f"{path}, line {line}: {name}") for name, (value, line) in entries.items()
    }


def _read_entries(path: Path) -> Iterator[tuple[str, Any, int]]:
    """Yield name, value and line of each entry; a value is text, None, or a list or dict of values.

    `BaseLoader` leaves scalars as text, so that `1e-8`, which YAML 1.1 takes for text, is the number it is on the
    command line.
    """
    try:
        loader = yaml.BaseLoader(path.read_text(encoding="utf-8"))
        root = loader.get_single_node()
        if not isinstance(root, yaml.MappingNode):
            raise UserError(f"{path} is not a config file: expected lines 'option: value'")
        for key, node in root.value:
            empty = isinstance(node, yaml.ScalarNode) and node.style is None and node.value in ("", "~", "null")
            value = None if empty else loader.construct_object(node, deep=True)
            yield shown(loader.construct_object(key, deep=True)), value, key.start_mark.line + 1
    except FileNotFoundError:
        raise UserError(f"{path}: no such config file; check the path") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read ({error}); give a YAML file") from None
    except (yaml.YAMLError, RecursionError) as error:
        mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
        where = f", line {mark.line + 1}" if mark else ""
        raise UserError(f"{path}{where}: not valid YAML ({problem or str(error).splitlines()[0]})") from None


def write_values(config: Any, options: type) -> str:
    """Return a config file of the values of `config` for the dataclass `options`, that reads back equal."""
    lines: list[str] = []
    group = None
    for name, option in declared(options).items():
        if option.group != group:
            group = option.group
            lines += ["", f"# ===== {group} ===== #"]
        value = getattr(config, name)
        plain = list(value) if isinstance(value, tuple) else "" if value is None else value
        text = yaml.safe_dump(plain, default_flow_style=True, width=math.inf, allow_unicode=True)
        lines.append(f"{name}: {text.splitlines()[0]}")  # PyYAML ends a scalar with a line of dots
    return "\n".join(lines[1:]) + "\n"
