"""Write mim.npz: logits, losses, gradients and initial values of the authors' networks for masked image modeling.

    PYTHON tests/golden/make_mim.py --unilm DIR

PYTHON and DIR as for make_network.py. Per case of `mim_recipe.CASES`: `<case>/logits<head>` [masked patches, outputs],
`<case>/loss`, `<case>/grad/<parameter>`. From networks with their initial weights, of width 192: `init/<v1 or v2>/`
`<parameter>` with mean, deviation, and largest magnitude of a parameter; `parameters/<arch>` with the number of
parameters of the networks in full size.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import types
from functools import partial
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent))
from make_network import load_authors
from mim_recipe import CASES, images, masks, tokens
from network_recipe import weight


def load_pretraining(folder: Path) -> types.ModuleType:
    """The authors' modeling_pretrain.py of `folder`, which imports the modeling_finetune.py beside it."""
    sys.modules["modeling_finetune"] = load_authors(folder)
    spec = importlib.util.spec_from_file_location(f"{folder.name}_pretrain", folder / "modeling_pretrain.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def build(modules: dict[str, types.ModuleType], options: dict) -> torch.nn.Module:
    """The authors' network with our options under their names."""
    arguments = {
        "img_size": options["image_size"],
        "patch_size": options["patch_size"],
        "vocab_size": options["lm_head_outputs"],
        "embed_dim": options["embed_dim"],
        "depth": options["depth"],
        "num_heads": options["num_heads"],
        "norm_layer": partial(torch.nn.LayerNorm, eps=1e-6),
        "init_values": options.get("layer_scale_init_value", 0.1),
        "use_abs_pos_emb": options.get("abs_pos_emb", False),
        "use_shared_rel_pos_bias": options.get("shared_rel_pos_bias", True),
    }
    if options.get("head_layers"):
        layers = {name: options[name] for name in ("early_layers", "head_layers")}
        return modules["beit2"].VisionTransformerForMaskedImageModelingCLS(**arguments, **layers)
    return modules["beit"].VisionTransformerForMaskedImageModeling(**arguments)


def outputs(modules: dict[str, types.ModuleType], case: str) -> dict[str, np.ndarray]:
    model = build(modules, CASES[case])
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(torch.from_numpy(weight(name, tuple(parameter.shape))))
    mask = torch.from_numpy(masks(case))
    logits = model.eval()(torch.from_numpy(images(case)), bool_masked_pos=mask)
    logits = logits if isinstance(logits, list) else [logits]
    labels = torch.from_numpy(tokens(case)).long()[mask]
    loss = sum(torch.nn.CrossEntropyLoss()(each, labels) for each in logits)
    loss.backward()
    arrays = {f"{case}/logits{head}": each.detach().numpy() for head, each in enumerate(logits)}
    arrays[f"{case}/loss"] = loss.detach().numpy()
    return arrays | {f"{case}/grad/{name}": p.grad.numpy() for name, p in model.named_parameters()}


def initial_values(modules: dict[str, types.ModuleType]) -> dict[str, np.ndarray]:
    torch.manual_seed(0)
    sizes = {"image_size": 224, "patch_size": 16, "embed_dim": 192, "depth": 3, "num_heads": 3}
    arrays = {}
    for version, extra in (("v1", {}), ("v2", {"early_layers": 2, "head_layers": 2})):
        for name, parameter in build(modules, {**sizes, "lm_head_outputs": 512, **extra}).named_parameters():
            value = parameter.detach().double()
            deviation = value.std(unbiased=False)
            arrays[f"init/{version}/{name}"] = np.array([value.mean(), deviation, value.abs().max()], np.float32)
    return arrays


def parameter_counts(modules: dict[str, types.ModuleType]) -> dict[str, np.ndarray]:
    sizes = {
        "beit_base_patch16_224": {"embed_dim": 768, "depth": 12, "num_heads": 12},
        "beit_large_patch16_224": {"embed_dim": 1024, "depth": 24, "num_heads": 16},
        "beitv2_base_patch16_224": {
            "embed_dim": 768, "depth": 12, "num_heads": 12, "early_layers": 9, "head_layers": 2
        },
        "beitv2_large_patch16_224": {
            "embed_dim": 1024, "depth": 24, "num_heads": 16, "early_layers": 21, "head_layers": 2
        },
    }  # fmt: skip
    arrays = {}
    for name, options in sizes.items():
        model = build(modules, {"image_size": 224, "patch_size": 16, "lm_head_outputs": 8192, **options})
        arrays[f"parameters/{name}"] = np.array(sum(p.numel() for p in model.parameters()))
    return arrays


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--unilm", type=Path, required=True, help="a checkout of microsoft/unilm")
    args = parser.parse_args()
    modules = {folder: load_pretraining(args.unilm / folder) for folder in ("beit", "beit2")}
    arrays = initial_values(modules) | parameter_counts(modules)
    for case in CASES:
        arrays |= outputs(modules, case)
    path = Path(__file__).with_name("mim.npz")
    np.savez_compressed(path, **arrays)
    for name, array in arrays.items():
        if name.startswith(("init/v2", "parameters", "init/v1/cls", "init/v1/lm")):
            print(name, array)
    print(f"{path}: {path.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
