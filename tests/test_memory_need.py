"""Runs that memory cannot hold are refused before anything is allocated; none that fits is."""

from __future__ import annotations

import resource
import subprocess
import sys
from dataclasses import replace

import pytest

from src.config import Config
from src.data.assembly import model_config
from src.errors import UserError
from src.model.model_config import ModelConfig
from src.tools import memory_need
from src.tools.memory_need import (
    Need,
    machine_memory,
    need_of,
    require_memory,
    require_memory_for_steps,
    training_need,
)
from tests.tiny_project import ROOT, error_line, write_config, write_images

BASE = Config(device_target="CPU", batch_size=8)  # BEiT-base, 224 pixels, 1000 classes, AdamW


@pytest.fixture
def memory(monkeypatch):
    """Give the machine some bytes of memory."""
    return lambda count: monkeypatch.setattr(memory_need, "machine_memory", lambda: count)


def trained(config: Config) -> Need:
    return training_need(config, model_config(config), average=config.with_ema)


def test_the_estimate_of_a_training_step_is_below_the_measured_peak():
    """benchmarks/README.md: 3.77 GB at its peak, of which 1.24 GB are activations and gradients."""
    weights = 12 * 12 * 768**2 + (3 * 16**2 + 1000) * 768
    block = 3 * 197 * 768 + 12 * 197**2 + 2 * 3072 * 197
    expected = 3 * 4 * weights + 4 * 197**2 + 8 * 4 * (3 * 224**2 + 12 * block)
    assert trained(BASE).bytes(8, 224) == expected == 1_858_388_068
    assert 8 * 4 * 12 * block < 1.24e9


def test_the_estimate_follows_the_options():
    step = trained(BASE)
    assert trained(replace(BASE, with_ema=True)) == replace(step, copies=4)
    assert trained(replace(BASE, optimizer="momentum")) == replace(step, copies=2)
    assert trained(replace(BASE, amp_level="O2")) == replace(step, width=2)
    assert need_of(BASE, model_config(BASE)) == Need(step.model)
    # images alone: a GPU has memory of its own
    on_gpu = trained(replace(BASE, device_target="GPU")).bytes(8, 224)
    assert on_gpu == 4 * 197**2 + 8 * 4 * 3 * 224**2


@pytest.mark.parametrize(
    ("batch_size", "image_size", "gigabytes", "expected"),
    [
        (10**6, 224, 2.0, ("batch_size is 1000000", "at least 103000 GB", "has 2 GB", "set at most 9")),
        (8, 4096, 16.0, ("image_size is 4096", "has 16 GB", "set at most 1088, and batch_size 1")),
        (1000, 4096, 2.0, ("image_size is 4096", "has 2 GB", "set at most 496, and batch_size 1")),
        (8, 224, 1.0, ("arch is beit_base_patch16_224", "has 1 GB", "choose a smaller one")),
    ],
)
def test_a_run_that_cannot_fit_names_the_option_and_the_largest_value_that_may(
    memory, batch_size, image_size, gigabytes, expected
):
    memory(int(gigabytes * 1e9))
    need = trained(replace(BASE, image_size=image_size))
    with pytest.raises(UserError) as error:
        require_memory(need, batch_size)
    assert all(part in str(error.value) for part in expected), error.value
    assert "\n" not in str(error.value)


def test_the_largest_values_are_accepted_and_the_next_ones_are_not(memory):
    memory(2 * 10**9)
    need = trained(BASE)
    require_memory(need, 9)
    with pytest.raises(UserError, match=r"set at most 9$"):
        require_memory(need, 10)
    wide = Need(ModelConfig("beit_base_patch16_224", 496, 1000), copies=3, training=True)
    require_memory(wide, 1)
    with pytest.raises(UserError, match="set at most 496, "):
        require_memory(replace(wide, model=replace(wide.model, image_size=512)), 1)


def test_learning_rates_that_cannot_fit_name_the_epochs(memory):
    memory(8 * 10**9)
    require_memory_for_steps(1000, 10**6)
    with pytest.raises(UserError, match=r"^epochs is 1001, .* 1000000 steps .* 8\.01 GB, .* set at most 1000$"):
        require_memory_for_steps(1001, 10**6)


def test_the_memory_of_the_machine_is_its_lowest_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(memory_need, "CONTAINER_LIMITS", ())
    whole = machine_memory()
    assert whole > 10**8
    for text, expected in (("1000000\n", 10**6), ("max\n", whole), (f"{2**63}\n", whole)):
        (tmp_path / "memory.max").write_text(text)
        monkeypatch.setattr(memory_need, "CONTAINER_LIMITS", (tmp_path / "none", tmp_path / "memory.max"))
        assert machine_memory() == expected
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (10**5, resource.RLIM_INFINITY))
    assert machine_memory() == 10**5


@pytest.mark.parametrize(
    ("script", "words", "expected"),
    [
        ("train", ["--batch_size", "1000000"], ["batch_size is 1000000", "GB", "set at most"]),
        ("train", ["--image_size", "2048", "--batch_size", "4096"], ["image_size is 2048", "GB", "set at most"]),
    ],
)
def test_a_script_refuses_a_run_that_cannot_fit_before_it_starts(tmp_path, script, words, expected):
    config = write_config(tmp_path, write_images(tmp_path / "data"))
    command = [sys.executable, f"{script}.py", "--config", str(config), "--device_target", "CPU", *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert all(part in error_line(done) for part in expected), done.stderr
