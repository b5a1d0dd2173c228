"""The training step: 50 steps of the authors' recipe, loss scale, clipping, accumulation, and resuming."""

from __future__ import annotations

from pathlib import Path

import mindspore
import numpy as np
import pytest
from mindspore import Parameter, ParameterTuple, Tensor, nn, ops

from src.config import Config
from src.tools.criterion import Classification, SoftTargetCrossEntropy
from src.tools.optimizer import ParameterGroup, create_optimizer, parameter_groups
from src.tools.schedulers import learning_rates
from src.trainer.accumulation import AccumulatedStep
from src.trainer.task import Metric, Objective
from src.trainer.train_one_step_with_ema import TrainOneStepWithEMA
from src.trainer.train_one_step_with_scale_and_clip_global_norm import (
    LossScale,
    LossScaling,
    Schedules,
    StepOptions,
    TrainOneStepWithScaleAndClipGlobalNorm,
)
from tests.golden import recipe_inputs as inputs
from tests.networks import IMPLEMENTATIONS, small_network

GOLDEN = np.load(Path(__file__).parent / "golden" / "recipe.npz")
IMAGES, TARGETS = inputs.model_batches()


class Many(nn.Cell):
    """The number of parameters of BEiT-base, under its names. It computes with one of them, which compiles faster."""

    def __init__(self):
        super().__init__(auto_prefix=False)
        self.all = ParameterTuple(
            [Parameter(Tensor(np.zeros(2, np.float32)), name=str(name)) for name in GOLDEN["groups_base_names"]]
        )
        self.cls_token = self.all[0]

    def construct(self, image, key):
        return image * self.cls_token


@pytest.fixture(autouse=True, scope="module")
def _graph_mode():
    mindspore.set_context(mode=mindspore.GRAPH_MODE)


class Product(nn.Cell):
    """logits = image * weight; with `Total`, the gradient of the weight is the image."""

    def __init__(self):
        super().__init__()
        self.weight = Parameter(Tensor(np.ones(3, np.float32)), name="weight")

    def construct(self, image, key):
        return image * self.weight


class Total(nn.Cell):
    def construct(self, logits, target):
        return (logits * target).sum()


class Perceptron(nn.Cell):
    def __init__(self):
        super().__init__()
        rng = np.random.default_rng(3)
        self.first = Parameter(Tensor(rng.standard_normal((4, 6)).astype(np.float32)), name="first.weight")
        self.bias = Parameter(Tensor(rng.standard_normal(6).astype(np.float32)), name="first.bias")
        self.head = Parameter(Tensor(rng.standard_normal((6, 5)).astype(np.float32)), name="head.weight")

    def construct(self, image, key):
        return ops.matmul(ops.tanh(ops.matmul(image, self.first) + self.bias), self.head)


FIXED = LossScaling(1.0, dynamic=False)
GROWING = LossScaling(1024.0, growth_interval=15)
RATES = np.ones(40)


def simple_step(
    network, criterion, *, optimizer="momentum", momentum=0.0, learning_rates=RATES, scaling=FIXED, **options
):
    groups = {p.name: ParameterGroup(1.0, 0.0) for p in network.trainable_params()}
    config = Config(optimizer=optimizer, momentum=momentum)
    made = create_optimizer(config, network.trainable_params(), groups)
    return TrainOneStepWithScaleAndClipGlobalNorm(
        Classification(network, criterion),
        made,
        Schedules(learning_rates, 0 * learning_rates),
        StepOptions(scaling, **options),
    )


def feed(step, image, target=None):
    """Call `step` once; return the loss, whether the step was skipped and the loss scale as NumPy values."""
    image = np.asarray(image, np.float32)
    target = np.ones_like(image) if target is None else target
    results = step(Tensor(image), Tensor(target), Tensor(np.zeros(len(image), np.int32)))
    if results is None:
        return None
    values, skipped, scale = (result.asnumpy() for result in results)
    assert values.shape == (1,)
    return values[0], skipped, scale


def beit_step(amp_level="O0", scaling=GROWING, layers=None):
    """The network and training step of the golden run."""
    network = small_network(amp_level=amp_level, layers=layers, **inputs.SIZES)
    for parameter in network.get_parameters():
        parameter.set_data(Tensor(inputs.model_weight(parameter.name, parameter.shape), parameter.dtype))
    weights = network.trainable_params()
    groups = parameter_groups(
        [(p.name, p.shape) for p in weights],
        layer_decay=inputs.LAYER_DECAY,
        depth=inputs.SIZES["depth"],
    )
    config = Config(
        lr_scheduler="cosine_lr",
        base_lr=inputs.BASE_LR,
        min_lr=inputs.MIN_LR,
        warmup_lr=inputs.WARMUP_LR,
        warmup_length=inputs.WARMUP_EPOCHS,
        epochs=inputs.EPOCHS,
        beta=inputs.BETA,
        eps=inputs.EPS,
    )
    rates = learning_rates(config, inputs.STEPS_PER_EPOCH)
    step = TrainOneStepWithEMA(
        Classification(network, SoftTargetCrossEntropy()),
        create_optimizer(config, weights, groups, network.layers.adamw),
        Schedules(rates, np.full_like(rates, inputs.WEIGHT_DECAY)),
        inputs.EMA_DECAY,
        StepOptions(scaling, inputs.CLIP_GRAD_NORM, square_sum=network.layers.square_sum),
    )
    network.set_train()
    return network, step


def train(step, first: int, last: int) -> list[tuple[Tensor, Tensor, Tensor]]:
    keys = Tensor(np.zeros(inputs.BATCH_SIZE, np.int32))
    return [step(Tensor(IMAGES[i]), Tensor(TARGETS[i]), keys) for i in range(first, last)]


def snapshot(network, step) -> dict[str, np.ndarray]:
    parameters = {p.name: p for p in network.get_parameters()} | step.state()
    return {name: parameter.asnumpy().copy() for name, parameter in parameters.items()}


@pytest.fixture(scope="module", params=IMPLEMENTATIONS)
def layers(request):
    return IMPLEMENTATIONS[request.param]


@pytest.fixture(scope="module")
def golden_run(layers):
    """50 steps: their results, left on the device as in the training loop, and the state after 20, 30 and 50."""
    network, step = beit_step(layers=layers)
    results, states = [], {}
    for first, last in ((0, 20), (20, 30), (30, 50)):
        results += train(step, first, last)
        states[last] = snapshot(network, step)
    return results, states


def test_fifty_steps_have_the_authors_losses(golden_run):
    losses = np.concatenate([values.asnumpy() for values, _, _ in golden_run[0]])
    np.testing.assert_allclose(losses, GOLDEN["training_losses"], rtol=0, atol=2e-5)
    assert not any(skipped.asnumpy() for _, skipped, _ in golden_run[0])


@pytest.mark.parametrize("kind", ["weight", "ema"])
def test_fifty_steps_end_at_the_authors_weights_and_averages(golden_run, kind):
    state = golden_run[1][50]
    names = [name.removeprefix("weight_") for name in GOLDEN.files if name.startswith("weight_")]
    assert len(names) == 39
    for name in names:
        ours = state[f"ema.{name}" if kind == "ema" else name]
        expected = GOLDEN[f"{kind}_{name}"]
        # relative to the largest weight of the tensor; float32 leaves about 1e-6 after 50 steps
        assert np.abs(ours - expected).max() <= 2e-5 * np.abs(expected).max(), name


def test_the_golden_run_clips_some_steps_and_not_others():
    clipped = GOLDEN["training_norms"] > inputs.CLIP_GRAD_NORM
    assert 10 < clipped.sum() < 45


def test_the_loss_scale_of_a_run_without_overflow_grows(golden_run):
    scales = [float(scale.asnumpy()) for _, _, scale in golden_run[0]]
    assert scales == [1024.0] * 15 + [2048.0] * 15 + [4096.0] * 15 + [8192.0] * 5


def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(layers, golden_run):
    results, states = golden_run
    network, step = beit_step(layers=layers)
    parameters = {p.name: p for p in network.get_parameters()} | step.state()
    assert parameters.keys() == states[20].keys()
    for name, value in states[20].items():
        parameters[name].set_data(Tensor(value))
    resumed = train(step, 20, 30)
    for ours, theirs in zip(resumed, results[20:30]):
        assert [value.asnumpy() for value in ours] == [value.asnumpy() for value in theirs]
    for name, value in snapshot(network, step).items():
        np.testing.assert_array_equal(value, states[30][name], err_msg=name)


@pytest.fixture
def pynative_mode():
    mindspore.set_context(mode=mindspore.PYNATIVE_MODE)
    yield
    mindspore.set_context(mode=mindspore.GRAPH_MODE)


@pytest.mark.usefixtures("pynative_mode")
def test_pynative_mode_trains_alike():
    losses = np.concatenate([values.asnumpy() for values, _, _ in train(beit_step()[1], 0, 4)])
    np.testing.assert_allclose(losses, GOLDEN["training_losses"][:4], rtol=0, atol=2e-5)


@pytest.mark.usefixtures("pynative_mode")
def test_float16_weights_train_by_their_float32_masters():
    network, step = beit_step("O3", LossScaling(65536.0))
    losses = np.concatenate([values.asnumpy() for values, _, _ in train(step, 0, 4)])
    # float16 rounds to 11 bits, 5e-4 relative; the largest difference measured was 4e-4
    np.testing.assert_allclose(losses, GOLDEN["training_losses"][:4], rtol=0, atol=2e-3)
    state = step.state()
    for parameter in network.get_parameters():
        assert parameter.dtype == mindspore.float16
        master = state[f"optimizer.master.{parameter.name}"].asnumpy()
        assert master.dtype == np.float32
        np.testing.assert_array_equal(parameter.asnumpy(), master.astype(np.float16))


def test_the_state_holds_every_value_that_changes_and_leaves_the_networks_names_alone(golden_run):
    names = set(golden_run[1][50])
    weights = {name.removeprefix("weight_") for name in GOLDEN.files if name.startswith("weight_")}
    counters = {"step", "iteration", "loss_scale", "growth_tracker"}
    assert names == (
        weights
        | {f"ema.{name}" for name in weights}
        | {f"optimizer.exp_avg.{name}" for name in weights}
        | {f"optimizer.exp_avg_sq.{name}" for name in weights}
        | {f"optimizer.{name}" for name in counters}
    )


def test_overflows_skip_the_steps_and_change_the_scale_as_grad_scaler_does():
    network = Product()
    step = simple_step(
        network,
        Total(),
        momentum=inputs.MOMENTUM,
        learning_rates=np.full(inputs.SCALER_STEPS, inputs.SCALER_LR),
        scaling=LossScaling(inputs.SCALER_INIT, growth_interval=inputs.SCALER_INTERVAL),
    )
    for number, gradient in enumerate(inputs.scaler_gradients()):
        _, overflow, scale = feed(step, gradient[None])
        assert scale == GOLDEN["scaler_scales"][number], number
        assert overflow == (not GOLDEN["scaler_applied"][number]) == (number in inputs.SCALER_OVERFLOWS)
        np.testing.assert_allclose(network.weight.asnumpy(), GOLDEN["scaler_weights"][number], rtol=1e-6)
    assert int(step.iteration.asnumpy()) == inputs.SCALER_STEPS


def test_a_fixed_loss_scale_stays_and_an_overflow_still_skips_the_step():
    network = Product()
    step = simple_step(network, Total(), scaling=LossScaling(512.0, dynamic=False))
    gradients = [[0.5, 0.5, 0.5], [np.inf, 0, 0], [1, 2, 3]]
    results = [feed(step, [gradient]) for gradient in gradients]
    assert [bool(overflow) for _, overflow, _ in results] == [False, True, False]
    assert [float(scale) for _, _, scale in results] == [512.0] * 3
    np.testing.assert_array_equal(network.weight.asnumpy(), np.float32([-0.5, -1.5, -2.5]))


def test_an_overflow_that_only_the_loss_scale_causes_is_found():
    network = Product()
    step = simple_step(network, Total(), scaling=LossScaling(2.0**24))
    loss, overflow, _ = feed(step, [[1e35, 0, 0]])  # 1e35 * 2 ** 24 is beyond float32
    assert overflow
    assert loss == np.float32(1e35)  # the loss itself is reported without the scale
    assert float(step.loss_scale.value.asnumpy()) == 2.0**23


def test_the_learning_rate_goes_by_the_step_also_past_skipped_ones():
    network = Product()
    step = simple_step(network, Total(), learning_rates=np.array([1.0, 10.0, 100.0, 1000.0]))
    for gradient in ([1, 0, 0], [np.nan, 0, 0], [0, 1, 0], [0, 0, 1]):
        feed(step, [gradient])
    np.testing.assert_array_equal(network.weight.asnumpy(), np.float32([0, -99, -999]))


def test_a_dynamic_scale_stays_between_1_and_2_to_the_24():
    scale = LossScale(LossScaling(2.0, growth_interval=1))
    seen = []
    for finite in [False] * 3 + [True] * 26:
        scale(Tensor(finite))
        seen.append(float(scale.value.asnumpy()))
    assert seen == [1.0] * 3 + [2.0**n for n in range(1, 25)] + [2.0**24] * 2


@pytest.mark.parametrize("optimizer", ["adamw", "momentum"])
def test_a_loss_scale_that_is_a_power_of_two_changes_no_bit(optimizer):
    rng = np.random.default_rng(5)
    batches = [(rng.standard_normal((8, 4)), rng.dirichlet(np.ones(5), 8).astype(np.float32)) for _ in range(3)]
    weights = []
    for scale in (1.0, 2.0**16):
        network = Perceptron()
        step = simple_step(
            network,
            SoftTargetCrossEntropy(),
            optimizer=optimizer,
            learning_rates=np.full(3, 0.1),
            scaling=LossScaling(scale, dynamic=False),
            clip_grad_norm=0.2,
        )
        for image, target in batches:
            feed(step, image, target)
        weights.append([p.asnumpy().copy() for p in network.get_parameters()])
    for plain, scaled in zip(*weights):
        np.testing.assert_array_equal(plain, scaled)


def test_gradients_are_clipped_by_their_global_norm_without_the_loss_scale():
    network = Product()
    step = simple_step(network, Total(), scaling=LossScaling(64.0, dynamic=False), clip_grad_norm=2.5)
    feed(step, [[3.0, 0.0, 4.0]])  # norm 5: halved
    np.testing.assert_allclose(network.weight.asnumpy(), [-0.5, 1.0, -1.0], rtol=1e-6)
    feed(step, [[0.3, 0.0, 0.4]])  # norm 0.5: as it is
    np.testing.assert_allclose(network.weight.asnumpy(), [-0.8, 1.0, -1.4], rtol=1e-6)
    feed(step, [[0.0, 0.0, 0.0]])  # norm 0: no division by zero
    np.testing.assert_allclose(network.weight.asnumpy(), [-0.8, 1.0, -1.4], rtol=1e-6)


@pytest.mark.parametrize(("accumulation_steps", "clip_grad_norm"), [(2, None), (3, 0.1)])
def test_accumulated_micro_batches_train_as_one_large_batch(accumulation_steps, clip_grad_norm):
    rng = np.random.default_rng(9)
    images = rng.standard_normal((4, 12, 4)).astype(np.float32)
    targets = rng.dirichlet(np.ones(5), (4, 12)).astype(np.float32)
    options = {
        "momentum": 0.9,
        "learning_rates": np.full(4, 0.5),
        "clip_grad_norm": clip_grad_norm,
        "scaling": LossScaling(8.0, dynamic=False),
    }
    large, small = Perceptron(), Perceptron()
    large_step = simple_step(large, SoftTargetCrossEntropy(), **options)
    small_step = simple_step(small, SoftTargetCrossEntropy(), accumulation_steps=accumulation_steps, **options)
    small_step = AccumulatedStep(small_step, accumulation_steps)
    for image, target in zip(images, targets):
        large_loss, _, _ = feed(large_step, image, target)
        before = small.first.asnumpy().copy()
        parts = zip(np.split(image, accumulation_steps), np.split(target, accumulation_steps))
        for number, (part, part_target) in enumerate(parts, start=1):
            results = feed(small_step, part, part_target)
            moved = not np.array_equal(small.first.asnumpy(), before)
            assert moved == (results is not None) == (number == accumulation_steps)
        loss, skipped, scale = results
        np.testing.assert_allclose(loss, large_loss, rtol=1e-6)
        assert not skipped
        assert scale == 8.0
    for ours, expected in zip(small.get_parameters(), large.get_parameters()):
        np.testing.assert_allclose(ours.asnumpy(), expected.asnumpy(), rtol=1e-5, atol=1e-6)
    assert small_step.state().keys() == large_step.state().keys()


def test_an_overflow_in_one_micro_batch_skips_the_whole_step_and_leaves_nothing_behind():
    network = Product()
    step = AccumulatedStep(simple_step(network, Total(), accumulation_steps=2, scaling=LossScaling(4.0)), 2)
    results = [feed(step, [gradient]) for gradient in ([np.inf, 0, 0], [1, 1, 1], [2, 0, 0], [0, 4, 0])]
    assert results[0] is results[2] is None
    assert [(bool(skipped), float(scale)) for _, skipped, scale in results[1::2]] == [(True, 4.0), (False, 2.0)]
    np.testing.assert_array_equal(network.weight.asnumpy(), np.float32([0, -1, 1]))


@pytest.fixture
def half_the_recursion_limit():
    """If the 199 parameters of BEiT-base compile within half the limit, the 391 of BEiT-large do within the whole."""
    mindspore.set_recursion_limit(500)
    yield
    mindspore.set_recursion_limit(1000)


@pytest.mark.usefixtures("half_the_recursion_limit")
def test_graphs_of_as_many_parameters_as_beit_has_compile():
    network = Many()
    weights = network.trainable_params()
    depth, layer_decay = GOLDEN["groups_base_options"]
    groups = parameter_groups(
        [(weight.name, (1, 1)) for weight in weights],
        layer_decay=float(layer_decay),
        depth=int(depth),
    )
    optimizer = create_optimizer(Config(), weights, groups)
    step = TrainOneStepWithEMA(
        Classification(network, Total()),
        optimizer,
        Schedules(np.full(1, 0.1), np.full(1, 0.05)),
        0.5,
        StepOptions(accumulation_steps=2),
    )
    step = AccumulatedStep(step, 2)
    feed(step, [[1.0, -1.0]])
    for total in step.add.sums:
        if total.name != "accumulated.cls_token":
            np.testing.assert_array_equal(total.asnumpy(), [0, 0])
            total.set_data(Tensor(np.float32([1024, -1024])))
    feed(step, [[1.0, -1.0]])
    averages = {average.name: average.asnumpy() for average in step.ema.averages}
    assert len(weights) == 199
    for weight in weights:  # the first step of AdamW: from 0 by the learning rate against the gradient's sign
        expected = -0.1 * groups[weight.name].lr_scale * np.array([1, -1])
        np.testing.assert_allclose(weight.asnumpy(), expected, rtol=1e-5)
        np.testing.assert_allclose(averages[f"ema.{weight.name}"], expected / 2, rtol=1e-5)


class WithMetrics(Objective):
    """The sum of the logits as the loss, and the largest and the smallest logit as metrics."""

    metrics = (Metric("largest", "largest"), Metric("smallest", "smallest"))

    def __init__(self, network):
        super().__init__(auto_prefix=False)
        self.network = network

    def construct(self, image, target, key):
        logits = self.network(image, key)
        return ops.stack((logits.sum(), logits.max(), logits.min()))


@pytest.mark.parametrize("accumulation_steps", [1, 2])
def test_metrics_of_the_objective_are_averaged_over_micro_batches_and_have_no_gradient(accumulation_steps):
    network = Product()
    groups = {"weight": ParameterGroup(1.0, 0.0)}
    optimizer = create_optimizer(Config(optimizer="momentum", momentum=0.0), network.trainable_params(), groups)
    options = StepOptions(FIXED, accumulation_steps=accumulation_steps)
    step = TrainOneStepWithScaleAndClipGlobalNorm(
        WithMetrics(network), optimizer, Schedules(np.ones(9), np.zeros(9)), options
    )
    if accumulation_steps > 1:
        step = AccumulatedStep(step, accumulation_steps)
    for _ in range(2):
        network.weight.set_data(Tensor(np.ones(3, np.float32)))
        for number in range(accumulation_steps):
            image = Tensor(np.array([[1.0, 2.0, 6.0]], np.float32) + 2 * number)
            results = step(image, image, Tensor(np.zeros(1, np.int32)))
        shift = accumulation_steps - 1  # the mean of 0 and 2, or of 0 alone
        np.testing.assert_array_equal(results[0].asnumpy(), [9 + 3 * shift, 6 + shift, 1 + shift])
        np.testing.assert_array_equal(network.weight.asnumpy(), 1 - np.array([1, 2, 6]) - shift)


def test_the_square_sum_is_accurate_for_millions_of_values_and_shows_what_is_not_finite(layers):
    values = np.random.default_rng(1).standard_normal(3_000_000).astype(np.float32)
    for part in (values[:1], values[1:600_001].reshape(600, 1000), values[600_001:]):
        total = float(layers.square_sum((Tensor(part),)).asnumpy())
        assert total == pytest.approx(float((part.astype(np.float64) ** 2).sum()), rel=2e-6)
    for bad in (np.inf, -np.inf, np.nan):
        assert not np.isfinite(layers.square_sum((Tensor(np.float32([1, bad])),)).asnumpy())
