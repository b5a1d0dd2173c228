"""The arithmetic and the chart of benchmarks/compare.py; what it measures is not for tests."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from benchmarks.comparison.bars import Bar, bar_chart
from benchmarks.comparison.benchmarks import reason_of
from benchmarks.comparison.driver import Side, SideFailed, alternate
from benchmarks.comparison.instructions import caps, caps_of_kernels
from benchmarks.comparison.reckoning import Machine, Sizes, Work, forward_work, ratio_of, step_memory, step_work
from benchmarks.kernel_profile import grouped

BASE = Sizes(embed_dim=768, depth=12, num_heads=12, patch_size=16, image_size=224, num_classes=1000)


def test_ratios_are_taken_round_by_round():
    # in the second round the machine was twice as slow for both: the ratio is the same
    assert ratio_of([1.0, 2.0, 1.0], [1.5, 3.0, 1.5]) == (1.5, 1.5, 1.5)


def test_the_spread_of_a_ratio_is_its_quartiles():
    assert ratio_of([1.0] * 5, [1.0, 2.0, 3.0, 4.0, 5.0]) == (3.0, 2.0, 4.0)


def test_floor_is_the_slower_of_multiplying_and_moving():
    machine = Machine(flops=100.0, bytes_per_second=10.0)
    assert Work(flops=200.0, bytes=5.0).floor(machine) == 2.0
    assert Work(flops=200.0, bytes=50.0).floor(machine) == 5.0


def test_operations_of_base_are_those_of_the_literature():
    # 17.58 billion multiply-adds an image (timm's table for ViT-B/16 at 224), two operations each
    assert forward_work(BASE, 1).flops == pytest.approx(2 * 17.58e9, rel=2e-3)


def test_matrices_are_all_but_three_thousandths_of_the_parameters_of_base():
    assert pytest.approx(86_530_984, rel=3e-3) == BASE.parameters


def test_a_step_has_each_product_thrice_but_for_the_pixels_gradient():
    sizes = Sizes(embed_dim=2, depth=0, num_heads=1, patch_size=1, image_size=2, num_classes=3)
    patches, head = 2 * 4 * 3 * 2, 2 * 2 * 3
    assert forward_work(sizes, 1).flops == patches + head
    assert step_work(sizes, 1).flops == 2 * patches + 3 * head


def test_memory_grows_by_the_activations_of_an_image():
    one, two, three = (step_memory(BASE, batch) for batch in (1, 2, 3))
    assert two - one == three - two
    # 18 streams of 197 x 768 and 12 heads of 197 x 197 in each of 12 blocks
    assert two - one == 12 * 4 * (18 * 197 * 768 + 12 * 197 * 197)


def test_a_bar_ends_at_its_value_with_its_quartiles_and_its_target():
    bars = [Bar("forward", 1.5, 1.4, 2.1, 2.0), Bar("step", 0.5, 0.4, 0.6, None)]
    (axes,) = bar_chart("title", bars).axes
    assert [bar.get_width() for bar in axes.patches] == [1.5, 0.5]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["forward", "step"]
    quartiles, targets = axes.collections
    assert [line[:, 0].tolist() for line in quartiles.get_segments()] == [[1.4, 2.1], [0.4, 0.6]]
    assert targets.get_offsets().tolist() == [[2.0, 0.0]]


class Recorded:
    """A side that takes one second more each time, and notes who was called when."""

    def __init__(self, name: str, calls: list[str]) -> None:
        self.name, self.calls, self.seconds = name, calls, 0.0

    def repeat(self) -> float:
        self.calls.append(self.name)
        self.seconds += 1.0
        return self.seconds


def test_sides_work_in_turn_and_warming_up_is_not_counted():
    calls: list[str] = []
    sides = {name: Recorded(name, calls) for name in ("ours", "theirs")}
    assert alternate(sides, rounds=2, warm_up=1) == {"ours": [2.0, 3.0], "theirs": [2.0, 3.0]}
    assert calls == ["ours", "theirs"] * 3


def test_a_side_that_fails_tells_what_it_printed():
    with pytest.raises(SideFailed, match="KeyError: 'no such task'"):
        Side(Path(sys.executable), "this_project", "no such task", {})


def test_the_profile_sums_a_kernel_over_the_blocks():
    forward = "Default/network-VisionTransformer/blocks-CellList/{}-Block/mlp-Mlp/fc1-Linear/MatMul-op{}"
    backward = (
        "Gradients/Default/network-VisionTransformer/blocks-CellList/0-Block/attn-Attention/Grad_MatMul/MatMul-op7"
    )
    rows = [
        {"full_op_name": forward.format(0, 3), "op_total_time(ms)": "4.0"},
        {"full_op_name": forward.format(11, 12), "op_total_time(ms)": "6.0"},
        {"full_op_name": backward, "op_total_time(ms)": "30.0"},
    ]
    assert grouped(rows, runs=2) == [("gradient of attn/Grad_MatMul/MatMul", 1, 15.0), ("mlp/fc1/MatMul", 2, 5.0)]


def test_a_side_that_cannot_compile_gives_the_line_of_its_error():
    output = "reference step ended:\nTraceback (most recent call last):\ntorch.InductorError: no compiler\n\nhint\n"
    assert reason_of(SideFailed(output)) == "torch.InductorError: no compiler"
    assert reason_of(SideFailed("reference step ended:\nKilled\n")) == "Killed"


def test_the_cap_removes_avx512_from_the_kernels(monkeypatch):
    monkeypatch.setattr("benchmarks.comparison.instructions.compiler", lambda: ["ccache", "g++"])
    assert caps_of_kernels("avx2") == {"CXX": "ccache g++ -mno-avx512f"}
    assert caps("native") == caps_of_kernels("native") == {}
    assert caps("avx2")["ONEDNN_MAX_CPU_ISA"] == "AVX2"
