"""Write pretraining_recipe.npz: groups, schedules, 50 steps and state dicts of the authors' pre-training, MAE's loss.

    PYTHON tests/golden/make_pretraining_recipe.py --unilm DIR [--check FOLDER]

PYTHON and DIR as for make_network.py; transformers 5 is needed too. Per network of `pretraining_recipe.NETWORKS`:
`<version>/groups` with the weight decay and `<version>/names` with the name of every parameter, `<version>/losses`,
`<version>/norms` (of the gradients before clipping) and `<version>/weight/<parameter>` after 50 steps. Per case of
`SCHEDULES`: `rates/<case>` and `decays/<case>`. `mae/loss` and `mae/gradient` of `pixel_case`. `shapes/<library>/
<version>`: names and shapes of the state dict, as JSON, and for `hf4` of the file that transformers writes. `--check`
writes nothing: it loads the files of FOLDER, `<library>_<version>.<suffix>` from convert.py, into the networks of the
libraries, strictly.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import sys
import tempfile
import types
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
import pretraining_recipe as inputs
import torch
from make_mim import build, load_pretraining
from make_recipe import authors_module
from network_recipe import weight
from safetensors.torch import load_file
from timm.models.beit import Beit
from transformers import BeitConfig, BeitForMaskedImageModeling

Modules = dict[str, types.ModuleType]


def authors_optimizer(model: torch.nn.Module, version: str) -> torch.optim.Optimizer:
    """As run_beit_pretraining.py calls optim_factory."""
    arguments = types.SimpleNamespace(
        opt="adamw", lr=inputs.BASE_LR, weight_decay=inputs.WEIGHT_DECAY, opt_eps=inputs.EPS, momentum=0.9,
        opt_betas=inputs.BETA[version],
    )  # fmt: skip
    with contextlib.redirect_stdout(io.StringIO()):
        return authors_module("optim_factory").create_optimizer(arguments, model)


def schedule(first: float, last: float, epochs: int, steps: int, **warmup: int) -> np.ndarray:
    with contextlib.redirect_stdout(io.StringIO()):
        return authors_module("utils").cosine_scheduler(first, last, epochs, steps, **warmup)


def schedules() -> dict[str, np.ndarray]:
    arrays = {}
    for case, (epochs, steps, warmup_epochs, warmup_steps, decay_end) in enumerate(inputs.SCHEDULES):
        warmup = {"warmup_epochs": warmup_epochs, "warmup_steps": warmup_steps or -1}
        arrays[f"rates/{case}"] = schedule(1.5e-3, 1e-5, epochs, steps, **warmup)
        arrays[f"decays/{case}"] = schedule(0.05, decay_end, epochs, steps)
    return arrays


def training(modules: Modules, version: str) -> dict[str, np.ndarray]:
    """50 steps as engine_for_pretraining.py takes them, without autocast; and the groups of the optimizer."""
    model = build(modules, inputs.NETWORKS[version])
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(torch.from_numpy(weight(name, tuple(parameter.shape))))
    optimizer = authors_optimizer(model, version)
    decays = {parameter: group["weight_decay"] for group in optimizer.param_groups for parameter in group["params"]}
    assert all(group["lr_scale"] == 1.0 for group in optimizer.param_groups)
    names = dict(model.named_parameters())
    arrays = {
        f"{version}/names": np.array(list(names)),
        f"{version}/groups": np.array([decays[parameter] for parameter in names.values()]),
    }
    lengths = (inputs.EPOCHS, inputs.STEPS_PER_EPOCH)
    rates = schedule(inputs.BASE_LR, inputs.MIN_LR, *lengths, warmup_epochs=5, warmup_steps=inputs.WARMUP_STEPS)
    weight_decays = schedule(inputs.WEIGHT_DECAY, inputs.WEIGHT_DECAY_END, *lengths)
    losses, norms = [], []
    model.train()
    for rate, decay, image, mask, token in zip(rates, weight_decays, *inputs.batches(version), strict=True):
        for group in optimizer.param_groups:
            group["lr"] = rate * group["lr_scale"]
            if group["weight_decay"] > 0:
                group["weight_decay"] = decay
        where = torch.from_numpy(mask)
        outputs = model(torch.from_numpy(image), bool_masked_pos=where)
        outputs = outputs if isinstance(outputs, list) else [outputs]
        labels = torch.from_numpy(token).long()[where]
        loss = sum(torch.nn.functional.cross_entropy(output, labels) for output in outputs)
        optimizer.zero_grad()
        loss.backward()
        norms.append(float(torch.nn.utils.clip_grad_norm_(model.parameters(), inputs.CLIP_GRAD_NORM)))
        optimizer.step()
        losses.append(float(loss.detach()))
    arrays |= {f"{version}/losses": np.array(losses), f"{version}/norms": np.array(norms)}
    return arrays | {f"{version}/weight/{name}": value.detach().numpy() for name, value in names.items()}


def mae() -> dict[str, np.ndarray]:
    """The loss of MAE with norm_pix_loss, in float64: patches in the order of its `patchify`."""
    images, predictions, masks = inputs.pixel_case()
    prediction = torch.from_numpy(predictions).double().requires_grad_()
    patches = torch.from_numpy(images).double().unfold(2, 8, 8).unfold(3, 8, 8)  # [B, 3, row, column, y, x]
    target = patches.permute(0, 2, 3, 4, 5, 1).flatten(3).flatten(1, 2)
    mean, variance = target.mean(2, keepdim=True), target.var(2, keepdim=True)
    errors = ((prediction - (target - mean) / (variance + 1e-6).sqrt()) ** 2).mean(2)
    loss = errors[torch.from_numpy(masks)].mean()
    loss.backward()
    return {"mae/loss": loss.detach().numpy(), "mae/gradient": prediction.grad.numpy().astype(np.float32)}


def libraries(modules: Modules, version: str) -> dict[str, torch.nn.Module]:
    """The networks that take a pre-trained file: those of the authors, timm and transformers."""
    options = inputs.NETWORKS[version]
    config = BeitConfig(
        image_size=options["image_size"], patch_size=options["patch_size"], vocab_size=options["lm_head_outputs"],
        hidden_size=options["embed_dim"], num_hidden_layers=options["depth"], layer_scale_init_value=0.1,
        num_attention_heads=options["num_heads"], intermediate_size=4 * options["embed_dim"], use_mask_token=True,
        use_shared_relative_position_bias=True,
    )  # fmt: skip
    sizes = {name: options[name] for name in ("patch_size", "embed_dim", "depth", "num_heads")}
    return {
        "unilm": build(modules, options),
        "timm": Beit(
            img_size=options["image_size"], **sizes, num_classes=0, global_pool="token", init_values=0.1,
            use_abs_pos_emb=False, use_shared_rel_pos_bias=True,
        ),
        "hf": BeitForMaskedImageModeling(config),
    }  # fmt: skip


def check(modules: Modules, folder: Path) -> None:
    """Load converted files strictly; `hf4` by from_pretrained, which reads the older names."""
    for version in inputs.NETWORKS:
        for library, network in libraries(modules, version).items():
            if library == "unilm":
                state = torch.load(folder / f"{library}_{version}.pth", weights_only=True)["model"]
            else:
                state = load_file(folder / f"{library}_{version}.safetensors")
            network.load_state_dict(state, strict=True)
            print(f"{library} {version}: {len(state)} arrays, loaded strictly")
        with tempfile.TemporaryDirectory() as place:
            network.config.save_pretrained(place)
            Path(place, "model.safetensors").write_bytes((folder / f"hf4_{version}.safetensors").read_bytes())
            loaded, info = BeitForMaskedImageModeling.from_pretrained(place, output_loading_info=True)
        assert not any(info.values()), info
        for name, value in network.state_dict().items():
            assert torch.equal(value, loaded.state_dict()[name]), name
        print(f"hf4 {version}: from_pretrained found every parameter")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--unilm", type=Path, required=True, help="a checkout of microsoft/unilm")
    parser.add_argument("--check", type=Path, metavar="FOLDER")
    options = parser.parse_args()
    sys.path.insert(0, str(options.unilm / "beit"))
    torch.set_num_threads(1)
    modules = {folder: load_pretraining(options.unilm / folder) for folder in ("beit", "beit2")}
    if options.check:
        check(modules, options.check)
        return
    arrays = schedules() | mae()
    for version in inputs.NETWORKS:
        arrays |= training(modules, version)
        for library, network in libraries(modules, version).items():
            shapes = {name: tuple(value.shape) for name, value in network.state_dict().items()}
            arrays[f"shapes/{library}/{version}"] = np.array(json.dumps(shapes))
        with tempfile.TemporaryDirectory() as place:  # transformers writes files with the names of version 4
            network.save_pretrained(place)
            saved = load_file(Path(place, "model.safetensors"))
        shapes = {name: tuple(value.shape) for name, value in saved.items()}
        arrays[f"shapes/hf4/{version}"] = np.array(json.dumps(shapes))
        print(version, "losses", arrays[f"{version}/losses"].round(3))
        print(version, "gradient norms", arrays[f"{version}/norms"].round(2))
    path = Path(__file__).with_name("pretraining_recipe.npz")
    np.savez_compressed(path, **arrays)
    print("MAE's loss", arrays["mae/loss"], f"\n{path}: {path.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
