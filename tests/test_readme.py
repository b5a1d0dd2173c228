"""The README says what is so: its options are the declared ones, and its commands can be typed."""

from __future__ import annotations

import dataclasses
import re
import sys

import pytest

from scripts import write_options
from src.config import SCRIPTS, Config
from src.errors import UserError
from tests.tiny_project import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_list_of_options_is_what_the_declarations_say():
    assert write_options.with_options(README) == README, "run scripts/write_options.py"


def test_every_option_of_every_script_stands_in_the_list():
    block = "\n".join(write_options.options_block())
    for script in SCRIPTS.values():
        for entry in dataclasses.fields(script.options):
            assert f"\n| `{entry.name}` | " in block, entry.name
    assert "\n| `re_prob` | `0.25` | a number, at least 0, at most 1 | Probability of RandomErasing. |" in block
    assert "\n| `accumulation_steps` | `1` | a whole number, at least 1 | Micro-batches" in block
    assert "\n| `data_path` | required | text | An image, " in block
    assert "\n| `to` | `none` | one of unilm, timm, hf, hf4 | " in block
    assert "\nrun_standalone_train_gpu.sh CONFIG [--device DEVICE_ID (default: 0)]" in block


def test_the_options_of_the_model_zoo_are_told_from_the_added_ones():
    block = "\n".join(write_options.options_block())
    for entry in dataclasses.fields(Config):
        (line,) = re.findall(rf"^\| `{entry.name}` .*$", block.split("### Of one script")[0], re.MULTILINE)
        assert line.endswith("*Added.* |") == entry.metadata["added"]


def test_a_readme_that_is_out_of_date_is_refused_with_what_to_do(tmp_path, monkeypatch):
    stale = tmp_path / "README.md"
    stale.write_text(README.replace("| `re_prob` | `0.25` |", "| `re_prob` | `0.5` |"))
    monkeypatch.setattr(write_options, "README", stale)
    monkeypatch.setattr(sys, "argv", ["write_options.py", "--check"])
    with pytest.raises(
        UserError, match=r"^README.md: its list of options is out of date, run scripts/write_options.py$"
    ):
        write_options.main()
    monkeypatch.setattr(sys, "argv", ["write_options.py"])
    write_options.main()
    assert stale.read_text() == README


def test_a_readme_without_the_marks_is_refused():
    with pytest.raises(UserError, match=r"^README.md: the marks <!-- options --> and <!-- /options --> are not both"):
        write_options.with_options(README.replace("<!-- /options -->", ""))
