"""The command line of a script: defaults, then a YAML file, then options given as `--name value`."""

import argparse
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from src.errors import UserError
from src.options.config_file import find_config, read_values
from src.options.declaration import KIND_NAMES, NUMBERS, Group, declared, did_you_mean, shown

CONFIG_PATH = "config_path"


@dataclass(frozen=True)
class Script:
    """A script and its options.

    Args:
        command: how it is called.
        text: its purpose, for `--help`.
        options: dataclass of its options; `__post_init__` may raise `UserError` for values that contradict each other.
        required: options without which it cannot run, `config_path` among them, each with the value to give.
        file: dataclass of the YAML files that it reads. Unless `options` is derived from it, only the options that
            `options` borrows are taken from a file.
    """

    command: str
    text: str
    options: type
    required: Mapping[str, str]
    file: type


def parse(argv: Sequence[str], script: Script) -> Any:
    """Return an instance of `script.options` with the values of the command line `argv`, its YAML file and defaults.

    Raises `UserError` for everything that the options do not accept; `--help` prints and exits as in argparse.
    """
    options = declared(script.options)
    known, unknown = _parser(script).parse_known_args(argv)
    if unknown:
        raise _unknown(unknown[0].split("=")[0], options)
    words = vars(known)
    config_path = words.pop(CONFIG_PATH)
    values: dict[str, Any] = {}
    if config_path is not None:
        for name, value in read_values(find_config(config_path), script.file).items():
            if issubclass(script.options, script.file) or (name in options and options[name].borrowed):
                values[name] = value
    for name, word in words.items():
        if word is not None:
            raw = " ".join(word) if isinstance(word, list) else word
            values[name] = options[name].parse(raw, f"--{name}")
    for name, meaning in script.required.items():
        given = config_path if name == CONFIG_PATH else values.get(name, options[name].default)
        if given is None:
            raise UserError(f"--{name} is required; give {meaning}")
    return script.options(**values)


def _unknown(word: str, options: Iterable[str]) -> UserError:
    if not word.startswith("-"):
        return UserError(f"'{word}' is not expected here; give options as --name value (see --help)")
    flags = [f"--{name}" for name in ("help", "config", CONFIG_PATH, *options)]
    return UserError(f"{word} is not an option{did_you_mean(word, flags) or '; see --help'}")


class Parser(argparse.ArgumentParser):
    """argparse that raises `UserError`."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see --help")


def _parser(script: Script) -> Parser:
    required = " ".join(f"--{name} {name.upper()}" for name in script.required)
    parser = Parser(
        prog=script.command,
        usage=f"{script.command} {required} [--OPTION VALUE ...]",
        description=script.text,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        f"--{CONFIG_PATH}",
        "--config",
        metavar="FILE",
        help="YAML file with the options, or the name of a shipped one; options on the command line override it",
    )
    groups: dict[Group, Any] = {}
    for name, option in declared(script.options).items():
        if option.group not in groups:
            groups[option.group] = parser.add_argument_group(option.group.title)
        notes = "; ".join(filter(None, (option.limits(), f"default: {shown(option.default)}")))
        arguments: dict[str, Any] = {"metavar": KIND_NAMES[option.kind].split()[-1].upper()}
        if option.kind is bool:
            arguments = {"metavar": "BOOL", "nargs": "?", "const": "true"}
        elif option.kind == NUMBERS:
            arguments = {"metavar": "NUMBER", "nargs": "+"}
        groups[option.group].add_argument(f"--{name}", help=f"{option.help} ({notes})".replace("%", "%%"), **arguments)
    return parser
