"""The learning-rate arrays are the authors' and PyTorch's, and every schedule has the same warm-up."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from src.config import SCHEDULES, Config
from src.errors import UserError
from src.tools.schedulers import learning_rates

GOLDEN = np.load(Path(__file__).parent / "golden" / "recipe.npz")
OPTIONS = {
    "base_lr": 0.4,
    "min_lr": 1e-6,
    "warmup_lr": 1e-3,
    "warmup_length": 2,
    "epochs": 12,
    "lr_adjust": 3,
    "lr_gamma": 0.5,
}


def rates(name: str, *, steps_per_epoch: int = 5, **changes) -> np.ndarray:
    return learning_rates(Config(lr_scheduler=name, **{**OPTIONS, **changes}), steps_per_epoch)


@pytest.mark.parametrize("case", range(len(GOLDEN["schedule_cases"])))
def test_cosine_lr_is_the_authors_cosine_scheduler(case):
    base_lr, min_lr, epochs, steps_per_epoch, warmup_epochs, warmup_lr = GOLDEN["schedule_cases"][case]
    ours = rates(
        "cosine_lr",
        base_lr=base_lr,
        min_lr=min_lr,
        epochs=int(epochs),
        steps_per_epoch=int(steps_per_epoch),
        warmup_length=warmup_epochs,
        warmup_lr=warmup_lr,
    )
    assert ours.dtype == np.float64
    assert ours.shape == GOLDEN[f"schedule_{case}"].shape
    np.testing.assert_allclose(ours, GOLDEN[f"schedule_{case}"], rtol=0, atol=1e-9)


def test_multistep_lr_is_torch_step_lr():
    ours = rates("multistep_lr", warmup_length=0, epochs=10)
    np.testing.assert_allclose(ours, np.repeat(GOLDEN["step_lr"], 5), rtol=0, atol=1e-9)


def test_exp_lr_is_torch_exponential_lr_at_the_start_of_every_epoch():
    ours = rates("exp_lr", warmup_length=0, epochs=10, lr_gamma=0.97)
    np.testing.assert_allclose(ours[::5], GOLDEN["exponential_lr"], rtol=0, atol=1e-9)
    # and the rate falls by the same factor at every step in between
    np.testing.assert_allclose(ours[1:] / ours[:-1], 0.97 ** (1 / 5), rtol=1e-9)


def test_multistep_lr_counts_its_epochs_from_the_end_of_the_warm_up():
    ours = rates("multistep_lr", epochs=8, steps_per_epoch=2, lr_adjust=3)
    warmup = [0.001, 0.134, 0.267, 0.4]
    np.testing.assert_allclose(ours, warmup + [0.4] * 6 + [0.2] * 6, rtol=0, atol=1e-9)


def test_constant_lr_is_constant_after_the_warm_up():
    np.testing.assert_array_equal(rates("constant_lr")[10:], np.full(50, 0.4))


@pytest.mark.parametrize("name", ["multistep_lr", "exp_lr"])
def test_schedules_that_fall_by_a_factor_stop_at_min_lr(name):
    ours = rates(name, min_lr=0.1, lr_adjust=1)
    assert ours[10:].min() == 0.1
    assert ours[-1] == 0.1


@pytest.mark.parametrize("name", SCHEDULES)
def test_every_schedule_has_the_same_warm_up(name):
    ours = rates(name)
    np.testing.assert_allclose(ours[:10], 1e-3 + (0.4 - 1e-3) * np.arange(10) / 9, rtol=0, atol=1e-9)
    assert ours[10] == 0.4  # the schedule itself starts at base_lr


@pytest.mark.parametrize("name", SCHEDULES)
@settings(deadline=None, max_examples=40)
@given(
    epochs=st.integers(1, 30),
    steps_per_epoch=st.integers(1, 30),
    share=st.floats(0, 1),
    base_lr=st.floats(1e-5, 1),
    lr_gamma=st.floats(0.01, 1),
    lr_adjust=st.integers(1, 40),
)
def test_a_schedule_has_one_value_per_step_between_its_limits(
    name, epochs, steps_per_epoch, share, base_lr, lr_gamma, lr_adjust
):
    ours = rates(
        name,
        epochs=epochs,
        steps_per_epoch=steps_per_epoch,
        warmup_length=share * epochs,
        warmup_lr=1e-6,
        base_lr=base_lr,
        lr_gamma=lr_gamma,
        lr_adjust=lr_adjust,
    )
    warmup = round(share * epochs * steps_per_epoch)
    assert ours.shape == (epochs * steps_per_epoch,)
    assert ours.dtype == np.float64
    assert (ours >= 1e-6 * (1 - 1e-9)).all()
    assert (ours <= base_lr * (1 + 1e-9)).all()
    assert (np.diff(ours[:warmup]) >= 0).all()
    assert (np.diff(ours[warmup:]) <= 0).all()


def test_a_warm_up_longer_than_the_run_is_refused():
    with pytest.raises(UserError, match=r"^warmup_length is 13\b.*epochs is 12\b"):
        rates("cosine_lr", warmup_length=13)


def test_a_floor_above_the_base_rate_is_refused():
    with pytest.raises(UserError, match=r"^min_lr is 0.5 but base_lr is 0.4\b.*exp_lr"):
        rates("exp_lr", min_lr=0.5)
    assert rates("constant_lr", min_lr=0.5)[-1] == 0.4


def test_a_warm_up_in_steps_is_used_instead_of_epochs_and_must_fit_the_run():
    ours = rates("cosine_lr", warmup_steps=7)
    np.testing.assert_allclose(ours[:7], np.linspace(1e-3, 0.4, 7), rtol=0, atol=1e-12)
    assert len(ours) == 60
    with pytest.raises(UserError, match=r"^warmup_steps is 61 but the run has 60 steps; set at most 60$"):
        rates("cosine_lr", warmup_steps=61)


def test_the_end_of_the_weight_decay_needs_adamw():
    with pytest.raises(UserError, match=r"^weight_decay_end is set but optimizer is momentum; set optimizer to adamw$"):
        Config(weight_decay_end=0.1, optimizer="momentum")
