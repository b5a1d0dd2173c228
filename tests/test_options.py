"""The machinery of options, with options that have nothing to do with this project."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from src.errors import UserError
from src.options.command_line import Script, parse
from src.options.config_file import read_values, write_values
from src.options.declaration import borrowed, declared, option


@dataclass(frozen=True)
class Soup:
    """Options of a run."""

    stock: str = option("Pot", "beef", "stock", choices=("beef", "fish"))
    liters: float = option("Pot", 2.0, "volume", more_than=0)
    salt: tuple[float, ...] = option("Spices", (1.0, 0.5), "grams", length=2, at_least=0)
    cook: str | None = option("Pot", None, "name of the cook", added=True)

    def __post_init__(self) -> None:
        if self.stock == "fish" and self.liters > 5:
            raise UserError(f"liters is {self.liters:g} but stock is fish; set at most 5")


@dataclass(frozen=True)
class Boil(Soup):
    minutes: int = option("Stove", 3, "time", at_least=1)


@dataclass(frozen=True)
class Serve:
    plates: int = option("Table", 1, "number of plates")
    cook: bool = option("Table", False, "whether the cook eats too")
    liters: float = borrowed(Soup, "liters", "Table", default=0.5, help="volume of a plate")


BOIL = Script("boil", "Boil.", Boil, {"config_path": "a recipe"}, Soup)
SERVE = Script("serve", "Serve.", Serve, {}, Soup)
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
        ("stock: beef\nliters: 1\nsalt: [1, [2]]\n", ", line 3: salt is [1, [2]], expected numbers, 2 of them"),
        ("stock: beef\nliters: 1\nsalt: {a: 1}\n", ", line 3: salt is {'a': '1'}, expected numbers, 2 of them"),
        ("stock: beef\nliters: 1\nsalt: &x [*x]\n", ", line 3: not valid YAML (found unconstructable recursive node)"),
        ("? [a]\n: 1\n", ", line 1: [a] is not an option"),
        ("stock: [1,\nb: 2\n", ", line 3: not valid YAML ("),
        ("a: 1\n---\nb: 1\n", ", line 2: not valid YAML ("),
        ("a: \0\n", ": not valid YAML (unacceptable character"),
        ("", " is not a config file: expected lines 'option: value'"),
        ("- a\n", " is not a config file: expected lines 'option: value'"),
        (b"\x89PNG\r\n\x1a\n\xff\xfe", " cannot be read ("),
    ],
)
def test_an_error_in_a_file_gives_file_line_value_and_fix(write, text, expected):
    assert expected in message(write(text))


def test_deeply_nested_yaml_is_an_error(write):
    assert ": not valid YAML (" in message(write("a: " + "[" * 5000))


def test_a_missing_file_is_an_error(tmp_path):
    assert message(tmp_path / "missing.yaml") == ": no such config file; check the path"
    assert " cannot be read (" in message(tmp_path)


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
        "Table",
        0.5,
        "volume of a plate",
    )
    assert options["liters"].expected() == "a number, more than 0"
    assert declared(Soup)["cook"].optional
    assert declared(Soup)["liters"].default == 2.0
