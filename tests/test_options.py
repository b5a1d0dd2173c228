"""The machinery of options, with options that have nothing to do with this project."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import pytest

from src.errors import UserError
from src.options.command_line import Script, parse
from src.options.config_file import find_config, read_values, write_values
from src.options.declaration import Group, borrowed, declared, option

POT, SPICES, STOVE, TABLE = (Group(*each) for each in enumerate(("Pot", "Spices", "Stove", "Table")))


@dataclass(frozen=True)
class Soup:
    """Options of a run."""

    stock: str = option(POT, "beef", "stock", choices=("beef", "fish"))
    liters: float = option(POT, 2.0, "volume", more_than=0)
    salt: tuple[float, ...] = option(SPICES, (1.0, 0.5), "grams", length=2, at_least=0)
    cook: str | None = option(POT, None, "name of the cook", added=True)

    def __post_init__(self) -> None:
        if self.stock == "fish" and self.liters > 5:
            raise UserError(f"liters is {self.liters:g} but stock is fish; set at most 5")


@dataclass(frozen=True)
class Boil(Soup):
    minutes: int = option(STOVE, 3, "time", at_least=1)


@dataclass(frozen=True)
class Serve:
    plates: int = option(TABLE, 1, "number of plates")
    cook: bool = option(TABLE, False, "whether the cook eats too")
    liters: float = borrowed(Soup, "liters", TABLE, default=0.5, help="volume of a plate")


BOIL = Script("boil", "Boil.", Boil, {"config_path": "a recipe"}, Soup)
SERVE = Script("serve", "Serve.", Serve, {}, Soup)
NESTED = "a list or mapping is not supported here; write 'option: value' or 'option: [1, 2]'"
WHOLE = "stock: fish\nliters: 1e0\nsalt: [1, .5]\n"


@pytest.fixture
def write(tmp_path):
    def write_text(text: str | bytes) -> Path:
        path = tmp_path / "soup.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write_text


def parsed(script: Script, *words: object) -> object:
    return parse([str(word) for word in words], script)


def message(path: Path) -> str:
    with pytest.raises(UserError) as error:
        read_values(path, Soup)
    assert "\n" not in str(error.value)
    assert str(error.value).startswith(str(path))
    return str(error.value).removeprefix(str(path))


def test_the_command_line_overrides_the_file_and_the_file_the_defaults(write):
    path = write(WHOLE)
    assert parsed(BOIL, "--config", path, "--salt", "2", "3") == Boil("fish", 1.0, (2.0, 3.0))
    assert parsed(BOIL, "--config", path, "--minutes", "9").minutes == 9


def test_a_file_is_checked_against_the_options_of_files(write):
    """An option of one script does not belong in a file."""
    with pytest.raises(UserError, match="line 4: minutes is not an option"):
        parsed(BOIL, "--config", write(f"{WHOLE}minutes: 4\n"))
    with pytest.raises(UserError, match="line 4: plates is not an option"):
        parsed(SERVE, "--config", write(f"{WHOLE}plates: 4\n"))


def test_a_script_takes_from_another_ones_file_only_the_options_that_it_borrows(write):
    assert parsed(SERVE, "--config", write(f"{WHOLE}cook: Ada\n")) == Serve(plates=1, cook=False, liters=1.0)
    assert parsed(SERVE) == Serve(plates=1, cook=False, liters=0.5)


def test_contradicting_values_are_an_error_whatever_they_came_from(write):
    with pytest.raises(UserError, match="liters is 6 but stock is fish; set at most 5"):
        parsed(BOIL, "--config", write(WHOLE), "--liters", "6")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"{WHOLE}stok: 1\n", ", line 4: stok is not an option; did you mean stock?"),
        (f"{WHOLE}liters: 3\n", ", line 4: liters is given twice, first in line 2; remove one"),
        ("stock: fish\n", " does not set liters, salt;"),
        ("stock: beef\nliters: []\nsalt: 1, 2\n", ", line 2: liters is [], expected a number, more than 0"),
        ("stock: beef\nliters:\nsalt: 1, 2\n", ", line 2: liters is none, expected a number, more than 0"),
        ("stock: beef\nliters: .inf\nsalt: 1, 2\n", ", line 2: liters is .inf, expected a number, more than 0"),
        ("stock: beef\nliters: 2024-01-01\nsalt: 1, 2\n", ", line 2: liters is 2024-01-01, expected a number"),
        ("stock: ~\nliters: 1\nsalt: 1, 2\n", ", line 1: stock is none, expected one of beef, fish"),
        ("stock: fisch\nliters: 1\nsalt: 1, 2\n", "expected one of beef, fish; did you mean fish?"),
        ("stock: beef\nliters: 1\nsalt: [1, [2]]\n", f", line 3: {NESTED}"),
        ("stock: beef\nliters: 1\nsalt: {a: 1}\n", f", line 3: {NESTED}"),
        ("stock: beef\nliters: 1\nsalt: &x [*x]\n", ", line 3: the alias *x is not supported; write the value itself"),
        ("stock: &a [x, x]\nsalt: &b [*a, *a]\ncook: [*b, *b]\n", ", line 2: the alias *a is not supported"),
        ("liters: !!int abc\n", ", line 1: the tag tag:yaml.org,2002:int is not supported; write the value without"),
        ("salt: !!python/tuple [1, 2]\n", ", line 1: the tag tag:yaml.org,2002:python/tuple is not supported"),
        ("? [a]\n: 1\n", f", line 1: {NESTED}"),
        ("? {? {a: b} : c}\n: 1\n", f", line 1: {NESTED}"),
        ("a: " + "[" * 50_000, f", line 1: {NESTED}"),
        ("a: " + "{" * 50_000, f", line 1: {NESTED}"),
        ("stock: 1\nsalt:\n" + "".join(" " * n + "a:\n" for n in range(1, 300)), f", line 3: {NESTED}"),
        ("- " * 30_000, " is not a config file"),
        ("stock: [1,\nb: 2\n", f", line 2: {NESTED}"),
        ("stock: [1,\nb\n", ", line 3: not valid YAML ("),
        (f"{WHOLE}---\nb: 1\n", ", line 4: a second document begins; remove it"),
        (f"stock: beef\nliters: {'9' * 50_000}\nsalt: 1 1\n", f", line 2: liters is {'9' * 100}..., expected a number"),
        (f"stock: beef\nliters: 1{'0' * 400}\nsalt: 1 1\n", ", line 2: liters is 1000"),
        (f"stock: beef\nliters: 1\nsalt: [1{'0' * 400}, 1]\n", ", line 3: salt is [1000"),
        ("stock: beef\nliters: 1\nsalt: 1e400 1\n", ", line 3: salt is 1e400 1, expected numbers"),
        (f"stock: beef\nliters: 1\nsalt: [{'1, ' * 30_000}1]\n", ", line 3: salt is [1, 1,"),
        (f"{WHOLE}{'a' * 50_000}: 1\n", " not valid YAML ("),
        (f"{WHOLE}{'a' * 200}: 1\n", f", line 4: {'a' * 100}... is not an option"),
        (f'{WHOLE}cook: "a\\0b"\n', r", line 4: cook is 'a\x00b', expected text"),
        (f'{WHOLE}cook: "\\ud800"\n', r", line 4: cook is '\ud800', expected text"),
        (f"{WHOLE}cook: /tmp/{'ä' * 128}/x\n", ", line 4: cook has a name of 256 bytes; shorten it to 255"),
        (f"{WHOLE}cook: {'a/' * 2048}\n", ", line 4: cook has 4096 bytes; shorten it to 4095"),
        ("a: \0\n", ": not valid YAML (unacceptable character"),
        (WHOLE + "#" * 100_000, " is larger than 0.1 MB; give a smaller file"),
        ("", " is not a config file: expected lines 'option: value'"),
        ("- a\n", " is not a config file: expected lines 'option: value'"),
        (b"\x89PNG\r\n\x1a\n\xff\xfe", " cannot be read ("),
    ],
)
def test_an_error_in_a_file_gives_file_line_value_and_fix(write, text, expected):
    text = message(write(text))
    assert expected in text
    assert len(text) < 500


def test_a_missing_file_is_an_error(tmp_path):
    assert message(tmp_path / "missing.yaml") == ": no such config file; check the path"
    assert message(tmp_path / "missing" / ("a" * 256)) == ": no such config file; check the path"
    assert message(tmp_path / ("a" * 256)) == " cannot be read (File name too long); give a YAML file"


def test_a_config_that_is_not_a_regular_file_is_an_error(tmp_path):
    assert message(tmp_path) == " is a folder; give a regular file"
    assert message(Path("/dev/zero")) == " is a device; give a regular file"
    os.mkfifo(tmp_path / "fifo")
    assert message(tmp_path / "fifo") == " is a named pipe (FIFO); give a regular file"


def test_a_name_of_a_config_that_no_file_can_have_is_an_unknown_config():
    with pytest.raises(UserError, match=r"^a{100}\.\.\. is neither a config file nor a shipped config"):
        find_config("a" * 300)


@pytest.mark.parametrize(
    "soup", [Soup(), Soup("fish", 1e-8, (0.0, 7.0), "Ada"), Soup(cook="a: b # c"), Boil(cook="no", minutes=8)]
)
def test_a_written_config_reads_back_equal_without_the_options_of_one_script(write, soup):
    assert Soup(**read_values(write(write_values(soup, Soup)), Soup)) == Soup(
        soup.stock, soup.liters, soup.salt, soup.cook
    )


def test_options_are_declared_with_type_default_and_limits():
    options = declared(Serve)
    assert list(options) == ["plates", "cook", "liters"]
    assert (options["liters"].group, options["liters"].default, options["liters"].help) == (
        TABLE,
        0.5,
        "volume of a plate",
    )
    assert options["liters"].expected() == "a number, more than 0"
    assert declared(Soup)["cook"].optional
    assert declared(Soup)["liters"].default == 2.0
