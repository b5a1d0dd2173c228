"""Writes the README's list of options from their declarations: `python scripts/write_options.py [--check]`.

What stands between the two marks is replaced by what src/config.py and convert.py declare. `--check` writes nothing and
ends with exit code 2 where the README is out of date.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import typing
from collections.abc import Iterable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from convert import build_parser as convert_parser  # noqa: E402  the project's folder must be on the path first
from src.config import SCRIPTS, Config, kind_name, shown  # noqa: E402
from src.errors import UserError, exit_code  # noqa: E402
from src.model.variants import VARIANTS  # noqa: E402

README = ROOT / "README.md"
USAGE = 'USAGE="$(basename "$0")'  # how the line of a shell script begins that says how it is called
BEGIN, END = "<!-- options -->", "<!-- /options -->"
HEAD = ("| option | default | values | meaning |", "| --- | --- | --- | --- |")


def main() -> None:
    """Bring the README up to date, or check that it is."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; fail where the README is out of date")
    check = parser.parse_args().check
    text = README.read_text(encoding="utf-8")
    wanted = with_options(text)
    if text == wanted:
        return
    if check:
        raise UserError("README.md: its list of options is out of date, run scripts/write_options.py")
    README.write_text(wanted, encoding="utf-8")


def with_options(readme: str) -> str:
    """The README's text with the block between the marks made anew; `UserError` where a mark is missing."""
    before, begin, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise UserError(f"README.md: the marks {BEGIN} and {END} are not both there, in this order")
    return "\n".join([f"{before}{begin}", *options_block(), f"{end}{after}"])


def options_block() -> Iterator[str]:
    """The lines of the whole list: the options of a run by group, then what each script has beside them."""
    yield ""
    yield "### Of a run: train.py, eval.py, export.py and the preview"
    yield ""
    yield "They stand in the YAML file; the command line overrides it. They are the list of the model zoo's document,"
    yield "and more: the *added* ones are this project's, and a file may leave them out."
    for group in dict.fromkeys(entry.metadata["group"] for entry in dataclasses.fields(Config)):
        yield from table(group, (row(Config, f) for f in dataclasses.fields(Config) if f.metadata["group"] == group))
    shared = {entry.name for entry in dataclasses.fields(Config)}
    yield ""
    yield "### Of one script"
    for name in ("train", "eval", "preview", "infer"):
        script = SCRIPTS[name]
        own = [f for f in dataclasses.fields(script.options) if name == "infer" or f.name not in shared]
        title = f"`{script.command or f'python {name}.py'}`"
        rows = [row(script.options, f, required=f.name in script.required) for f in own]
        more = "It takes `--config_path` and these." if name == "infer" else "Beside the options of a run:"
        yield from table(title, rows, more)
    actions = convert_parser()._actions[1:]  # the first is --help
    yield from table("`python convert.py`", (argparse_row(action) for action in actions))
    yield from ("", "### Of the shell scripts", "", "```text", *usages(), "```", "")


def usages() -> Iterator[str]:
    """How each shell script is called, from the line that says so in it; a link is named with its script."""
    for path in sorted((ROOT / "scripts").glob("*.sh")):
        line = next((line for line in path.read_text().splitlines() if line.startswith(USAGE)), None)
        if line is not None:
            yield path.name + line.removeprefix(USAGE).rstrip('"')


def table(title: str, rows: Iterable[str], introduction: str = "") -> Iterator[str]:
    """A heading, a line where there is one, and the rows below the table's head."""
    yield from ("", f"#### {title}", "")
    if introduction:
        yield from (introduction, "")
    yield from (*HEAD, *rows)


def row(options: type, entry: dataclasses.Field[typing.Any], *, required: bool = False) -> str:
    """The table row of an option that `options` declares."""
    meta = entry.metadata
    kind = typing.get_type_hints(options)[entry.name]
    limits = meta["limits"]
    if limits.choices == tuple(VARIANTS) and options is not Config:
        return cells(f"`{entry.name}`", f"`{shown(entry.default)}`", "as above", sentence(meta["help"]))
    values = limits.text() if limits.choices else ", ".join(filter(None, (kind_name(kind), limits.text())))
    default = "required" if required else f"`{shown(entry.default)}`"
    mark = " *Added.*" if meta["added"] else ""
    return cells(f"`{entry.name}`", default, values, sentence(meta["help"]) + mark)


def argparse_row(action: argparse.Action) -> str:
    """The table row of an option that argparse knows."""
    choices = tuple(action.choices or ())
    one_of = "as above" if choices == tuple(VARIANTS) else f"one of {', '.join(choices)}"
    values = one_of if choices else "none" if action.nargs == 0 else "text"
    if action.type in (Path, float):
        values = "a path" if action.type is Path else "a number"
    default = "required" if action.required else "off" if action.nargs == 0 else "`none`"
    return cells(f"`{action.option_strings[-1].lstrip('-')}`", default, values, sentence(action.help or ""))


def sentence(text: str) -> str:
    """`text` begun with a capital and ended with a full stop; a name that is typed as it stands keeps its case."""
    return f"{text[0].upper()}{text[1:]}."


def cells(*words: str) -> str:
    """A Markdown table row; a bar inside a cell would end it."""
    return "| " + " | ".join(word.replace("|", "\\|") for word in words) + " |"


if __name__ == "__main__":
    sys.exit(exit_code(main))
