"""docs/options.md lists every option as it is declared."""

from __future__ import annotations

import re
import sys

import pytest

from scripts import write_options
from src.config import SCRIPTS, Config
from src.errors import UserError
from src.options.declaration import declared

PAGE = write_options.OPTIONS.read_text(encoding="utf-8")


def test_the_page_is_up_to_date():
    assert "\n".join(write_options.lines()) == PAGE, "run scripts/write_options.py"


def test_every_option_of_every_script_is_listed():
    for script in SCRIPTS.values():
        for name in declared(script.options):
            assert f"\n| `{name}` | " in PAGE, name
    assert "\n| `re_prob` | `0.25` | a number, at least 0, at most 1 | Probability of RandomErasing. |" in PAGE
    assert "\n| `accumulation_steps` | `1` | a whole number, at least 1, at most 1000000 | Micro-batches" in PAGE
    assert "\n| `data_path` | required | text | Image, " in PAGE
    assert "\n| `to` | `none` | one of unilm, timm, hf, hf4 | " in PAGE
    assert "\nrun_standalone_train_gpu.sh CONFIG [--device DEVICE_ID (default: 0)]" in PAGE


def test_the_options_that_the_document_does_not_have_are_marked():
    of_a_run = PAGE.split("## Options of one script")[0]
    for name, option in declared(Config).items():
        (line,) = re.findall(rf"^\| `{name}` .*$", of_a_run, re.MULTILINE)
        assert line.endswith("*Added.* |") == option.added


def test_check_refuses_a_page_that_is_out_of_date_and_leaves_it(tmp_path, monkeypatch):
    page = tmp_path / "options.md"
    monkeypatch.setattr(write_options, "OPTIONS", page)
    stale = PAGE.replace("| `re_prob` | `0.25` |", "| `re_prob` | `0.5` |")
    for text in (None, stale):
        if text is not None:
            page.write_text(text)
        monkeypatch.setattr(sys, "argv", ["write_options.py", "--check"])
        with pytest.raises(UserError, match=r"options\.md .* run scripts/write_options\.py"):
            write_options.main()
    assert page.read_text() == stale
    monkeypatch.setattr(sys, "argv", ["write_options.py"])
    write_options.main()
    assert page.read_text() == PAGE
    monkeypatch.setattr(sys, "argv", ["write_options.py", "--check"])
    write_options.main()
