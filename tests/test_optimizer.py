"""The parameter groups agree with the authors' code, and the optimizers with PyTorch's, step by step."""

from __future__ import annotations

from pathlib import Path

import mindspore
import numpy as np
import pytest
from mindspore import Parameter, Tensor
from mindspore import dtype as mstype

from src.config import Config, parse_args
from src.errors import UserError
from src.layers.compiled_update import adamw
from src.tools.optimizer import ParameterGroup, create_optimizer, parameter_groups
from tests.golden import recipe_inputs as inputs
from tests.networks import LIBRARY, small_network

GOLDEN = np.load(Path(__file__).parent / "golden" / "recipe.npz")
needs_compiler = pytest.mark.skipif(LIBRARY is None, reason="the kernels are not compiled")
OPTIMIZERS = ["adamw", "momentum", pytest.param("compiled adamw", marks=needs_compiler)]
MODES = {"graph": mindspore.GRAPH_MODE, "pynative": mindspore.PYNATIVE_MODE}


@pytest.fixture(autouse=True, scope="module")
def _graph_mode():
    mindspore.set_context(mode=mindspore.GRAPH_MODE)


@pytest.fixture(params=MODES)
def mode(request):
    mindspore.set_context(mode=MODES[request.param])
    yield
    mindspore.set_context(mode=mindspore.GRAPH_MODE)


def make(name: str, values: dict[str, np.ndarray], dtype=mstype.float32):
    parameters = [Parameter(Tensor(value, dtype), name=key) for key, value in values.items()]
    groups = {key: ParameterGroup(*inputs.OPTIMIZER_GROUPS[key]) for key in values}
    compiled = name == "compiled adamw"
    config = Config(
        optimizer="adamw" if compiled else name, beta=inputs.BETA, eps=inputs.OPTIMIZER_EPS, momentum=inputs.MOMENTUM
    )
    return parameters, create_optimizer(config, parameters, groups, adamw if compiled else None)


def step(optimizer, gradient: dict[str, np.ndarray], rate: float, applied: bool = True) -> None:
    # mutable: a plain tuple would be a constant of the graph, and every step would compile again
    gradients = mindspore.mutable(tuple(Tensor(4 * gradient[weight.name]) for weight in optimizer.weights))
    factor = 0.25 if applied else 0.0
    optimizer(gradients, *(Tensor(number, mstype.float32) for number in (factor, rate, 1.0)), Tensor(applied))


@pytest.mark.parametrize(
    ("case", "options"),
    [
        ("base", {}),
        ("large", {}),
        ("no_layer_decay", {}),
        ("shared", {"rel_pos_bias": False, "shared_rel_pos_bias": True, "abs_pos_emb": True, "mean_pooling": False}),
    ],
)
def test_the_networks_parameter_groups_are_the_authors(case, options):
    depth, layer_decay = GOLDEN[f"groups_{case}_options"]
    # a narrow network of full depth: the rules depend on names and ranks only
    network = small_network(image_size=32, patch_size=16, embed_dim=16, num_heads=2, depth=int(depth), **options)
    ranks = {parameter.name: parameter.ndim for parameter in network.trainable_params()}
    ours = parameter_groups(
        [(parameter.name, parameter.shape) for parameter in network.trainable_params()],
        layer_decay=float(layer_decay),
        depth=int(depth),
    )
    names, values = GOLDEN[f"groups_{case}_names"], GOLDEN[f"groups_{case}_values"]
    authors = {str(name): tuple(row) for name, row in zip(names, values)}
    decay = inputs.WEIGHT_DECAY
    found = {name: (ranks[name], group.lr_scale, decay * group.decay_scale) for name, group in ours.items()}
    assert found == authors
    assert len(ours) == {"base": 199, "large": 391, "no_layer_decay": 39, "shared": 54}[case]


def test_the_head_learns_at_the_full_rate_and_the_patch_embedding_at_the_smallest():
    shapes = [("patch_embed.proj.weight", (8, 3, 4, 4)), ("blocks.11.mlp.fc1.weight", (8, 8)), ("head.weight", (2, 8))]
    groups = parameter_groups(shapes, layer_decay=0.5, depth=12)
    assert [group.lr_scale for group in groups.values()] == [0.5**13, 0.5, 1.0]


@pytest.mark.parametrize(
    ("name", "values", "limits"),
    [
        ("layer_decay", (0.0, 1.5, "nan"), ("more than 0", "at most 1")),
        ("loss_scale", (0.0, -1.0, 0.5, "inf", "nan"), ("at least 1",)),
        ("clip_grad_norm", (0.0, -1.0, "nan"), ("more than 0",)),
        ("optimizer", ("adam",), ("adamw, momentum",)),
        ("lr_scheduler", ("cosine",), ("cosine_lr, constant_lr, multistep_lr, exp_lr",)),
    ],
)
def test_values_outside_the_limits_of_an_option_are_refused(name, values, limits):
    for value in values:
        with pytest.raises(UserError, match=rf"--{name} is {value}\b") as error:
            parse_args(["--config_path", "beit_base_patch16_224_ft1k", f"--{name}", str(value)], "train")
        assert all(limit in str(error.value) for limit in limits)


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.usefixtures("mode")
def test_every_step_is_the_one_of_torch(name):
    values, gradients = inputs.optimizer_values()
    parameters, optimizer = make(name, values)
    for number, (rate, gradient) in enumerate(zip(inputs.OPTIMIZER_LRS, gradients)):
        step(optimizer, gradient, rate)
        for parameter in parameters:
            expected = GOLDEN[f"{name.removeprefix('compiled ')}_{parameter.name}"][number]
            np.testing.assert_allclose(parameter.asnumpy(), expected, rtol=2e-6, atol=2e-6, err_msg=f"step {number}")


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_step_that_is_not_applied_changes_nothing(name):
    values, gradients = inputs.optimizer_values()
    _, optimizer = make(name, values)
    bad = {key: np.full_like(value, np.nan if key == "a" else np.inf) for key, value in values.items()}
    step(optimizer, bad, 0.1, applied=False)  # also as the very first step
    step(optimizer, gradients[0], 0.1)
    before = {p.name: p.asnumpy().copy() for p in optimizer.get_parameters()}
    step(optimizer, bad, 0.1, applied=False)
    for parameter in optimizer.get_parameters():
        np.testing.assert_array_equal(parameter.asnumpy(), before[parameter.name], err_msg=parameter.name)
    assert not np.array_equal(before["a"], values["a"])


@pytest.mark.parametrize("name", OPTIMIZERS[::2])
def test_the_step_counts_applied_updates_only(name):
    values, gradients = inputs.optimizer_values()
    _, optimizer = make(name, values)
    for applied in (False, True, False, True):
        step(optimizer, gradients[0], 0.1, applied)
    assert int(optimizer.step.asnumpy()) == 2


def test_the_state_has_the_names_of_torch_and_the_parameters_keep_theirs():
    parameters, optimizer = make("adamw", inputs.optimizer_values()[0])
    assert [p.name for p in parameters] == ["a", "b", "c"]
    state = {p.name: p.shape for p in optimizer.get_parameters() if p.name.startswith("optimizer.")}
    assert state == {
        "optimizer.step": (),
        **{f"optimizer.exp_avg.{key}": shape for key, shape in inputs.OPTIMIZER_SHAPES.items()},
        **{f"optimizer.exp_avg_sq.{key}": shape for key, shape in inputs.OPTIMIZER_SHAPES.items()},
    }
    assert sorted(p.name for p in optimizer.trainable_params()) == ["a", "b", "c"]


@pytest.mark.parametrize("name", ["adamw", "momentum"])
def test_float16_weights_do_not_lose_changes_below_their_resolution(name):
    values, _ = inputs.optimizer_values()
    ones = {key: np.ones_like(value) for key, value in values.items()}
    steps, rate = 20, {"adamw": 2e-5, "momentum": 2e-6}[name]  # float16 cannot tell 1 - 2e-4 from 1 in one step
    wide, wide_optimizer = make(name, ones)
    narrow, narrow_optimizer = make(name, ones, mstype.float16)
    for _ in range(steps):
        step(wide_optimizer, ones, rate)
        step(narrow_optimizer, ones, rate)
    masters = sorted(narrow_optimizer.masters, key=lambda master: master.name)
    assert [p.name for p in masters] == ["optimizer.master.a", "optimizer.master.b", "optimizer.master.c"]
    for reference, master, weight in zip(wide, masters, narrow):
        np.testing.assert_array_equal(master.asnumpy(), reference.asnumpy())
        assert weight.dtype == mstype.float16
        np.testing.assert_array_equal(weight.asnumpy(), reference.asnumpy().astype(np.float16))
    assert (wide[0].asnumpy() < 1).all()
