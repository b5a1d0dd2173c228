"""Tests of benchmarks/scaling.py against hand calculations and known sizes."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import pytest

from benchmarks.scaling import (
    Cluster,
    Step,
    data_limits,
    parameter_count,
    ring_all_reduce,
    step,
    step_operations,
    tensor_count,
)
from src.model.variants import get_variant
from tests.tiny_project import ROOT

BASE, LARGE = get_variant("beit_base_patch16_224"), get_variant("beit_large_patch16_224")
CLUSTER = Cluster(
    flops=1e14,
    devices_per_machine=8,
    inside=100e9,
    between=10e9,
    latency=0.0,
    messages=1,
    images_per_core=100.0,
    cores_per_device=8,
    image_bytes=1e5,
    storage=1e9,
)


def test_parameter_counts_and_operations_equal_timms():
    assert parameter_count(BASE) == 86_530_984
    assert parameter_count(LARGE) == 304_430_568
    assert (tensor_count(BASE), tensor_count(LARGE)) == (199, 391)
    assert step_operations(BASE) / 6e9 == pytest.approx(17.56, abs=0.01)  # 10^9 multiply-adds of a forward pass
    assert step_operations(LARGE) / 6e9 == pytest.approx(61.55, abs=0.01)


def test_a_ring_of_four_sends_six_quarters_of_the_data():
    assert ring_all_reduce(400.0, 4, 50.0, 0.0) == pytest.approx(6 * 100 / 50)
    assert ring_all_reduce(400.0, 4, 50.0, 0.25) == pytest.approx(12 + 6 * 0.25)
    assert ring_all_reduce(400.0, 4, 50.0, 0.25, messages=3) == pytest.approx(12 + 3 * 6 * 0.25)
    assert ring_all_reduce(400.0, 1, 50.0, 0.25) == 0


def test_a_large_ring_sends_twice_the_data():
    assert ring_all_reduce(1e9, 1024, 1e9, 0.0) == pytest.approx(2.0, rel=1e-3)


def test_a_step_takes_as_long_as_its_slowest_part():
    found = step(BASE, 8, 64, CLUSTER)
    assert found.compute == pytest.approx(64 * 105.378e9 / 1e14, rel=1e-4)
    assert found.all_reduce == pytest.approx(2 * 7 / 8 * 346.124e6 / 100e9, rel=1e-4)
    assert found.prepare == pytest.approx(0.08)
    assert found.read == pytest.approx(8 * 64 * 1e5 / 1e9)
    assert found.seconds == pytest.approx(0.08)
    assert found.limit == "preparing images"


def test_ranks_on_two_machines_use_the_bandwidth_between_machines():
    assert step(BASE, 16, 64, CLUSTER).all_reduce == pytest.approx(2 * 15 / 16 * 346.124e6 / 10e9, rel=1e-4)
    slow = dataclasses.replace(CLUSTER, latency=1e-5, messages=0)
    assert step(BASE, 16, 64, slow).all_reduce == pytest.approx(0.064898 + 30 * 199 * 1e-5, rel=1e-4)


@pytest.mark.parametrize(
    ("parts", "seconds", "limit"),
    [
        ((3.0, 1.0, 2.0, 2.0), 4.0, "computing"),
        ((1.0, 3.0, 2.0, 2.0), 4.0, "all-reduce"),
        ((1.0, 1.0, 2.5, 2.0), 2.5, "preparing images"),
        ((1.0, 1.0, 2.5, 3.0), 3.0, "reading images"),
    ],
)
def test_the_bottleneck_of_a_step_is_its_slowest_part(parts, seconds, limit):
    assert (Step(*parts).seconds, Step(*parts).limit) == (seconds, limit)


def test_data_limits_give_the_cores_and_the_devices_at_full_speed():
    """949 images/s need 9.5 cores of 100 images/s; 10,000 images/s of storage serve 11 such devices."""
    text = data_limits(BASE, CLUSTER)
    assert all(number in text for number in ("949 images/s", "9.5 of its 8 cores", "11 devices"))


def test_the_tables_in_the_docs_are_the_output_of_the_program():
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.scaling"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    rows = [line for line in done.stdout.splitlines() if line.startswith("| ")]
    assert len(rows) == 2 * (2 + 6)  # head, alignment, six sizes
    page = " ".join((ROOT / "docs" / "scaling.md").read_text().split())
    sentences = [line for line in done.stdout.splitlines() if line.startswith(("beit_", "One device "))]
    assert len(sentences) == 2 * 2
    for line in [*rows, *sentences]:
        assert " ".join(line.split()).replace("_224: ", "_224`: ") in page
