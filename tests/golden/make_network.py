"""Write network.npz: logits, loss and gradients of small BEiTs, from the authors' code and from timm.

    PYTHON tests/golden/make_network.py --unilm DIR

PYTHON has torch, timm 1.0.31 and `reference_shim`; DIR holds `beit/` and `beit2/` of microsoft/unilm. Per case of
`network_recipe.CASES`: `<case>/logits`, `<case>/loss`, `<case>/grad/<parameter>` from the authors' code (for "v2" from
`beit2`), and `<case>/timm_logits`.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import types
from functools import partial
from pathlib import Path

import numpy as np
import reference_shim  # noqa: F401 (must come before timm)
import timm.layers
import torch
from timm.loss import SoftTargetCrossEntropy
from timm.models.beit import Beit

sys.path.insert(0, str(Path(__file__).parent))
from network_recipe import CASES, batch, weight


def load_authors(folder: Path) -> types.ModuleType:
    """The authors' modeling_finetune.py, given today's timm under the old names that it imports."""
    registry = types.ModuleType("timm.models.registry")
    registry.register_model = lambda function: function
    sys.modules["timm.models.registry"] = registry
    sys.modules["timm.models.layers"] = timm.layers
    spec = importlib.util.spec_from_file_location(folder.name, folder / "modeling_finetune.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def authors_model(module: types.ModuleType, options: dict) -> torch.nn.Module:
    """The authors' VisionTransformer with our options under their names."""
    return module.VisionTransformer(
        img_size=options["image_size"],
        patch_size=options["patch_size"],
        embed_dim=options["embed_dim"],
        depth=options["depth"],
        num_heads=options["num_heads"],
        num_classes=options["num_classes"],
        qkv_bias=True,
        norm_layer=partial(torch.nn.LayerNorm, eps=1e-6),
        init_values=options.get("layer_scale_init_value", 0.1),
        use_abs_pos_emb=options.get("abs_pos_emb", False),
        use_rel_pos_bias=options.get("rel_pos_bias", True),
        use_shared_rel_pos_bias=options.get("shared_rel_pos_bias", False),
        use_mean_pooling=options.get("mean_pooling", True),
    )


def timm_model(options: dict) -> torch.nn.Module:
    """timm's Beit with our options under its names."""
    mean_pooling = options.get("mean_pooling", True)
    return Beit(
        img_size=options["image_size"],
        patch_size=options["patch_size"],
        embed_dim=options["embed_dim"],
        depth=options["depth"],
        num_heads=options["num_heads"],
        num_classes=options["num_classes"],
        global_pool="avg" if mean_pooling else "token",
        init_values=options.get("layer_scale_init_value", 0.1) or None,
        use_abs_pos_emb=options.get("abs_pos_emb", False),
        use_rel_pos_bias=options.get("rel_pos_bias", True),
        use_shared_rel_pos_bias=options.get("shared_rel_pos_bias", False),
    )


def prepare(model: torch.nn.Module, approximate_gelu: bool) -> torch.nn.Module:
    """Give the model the recipe's weights and the wanted GELU."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(torch.from_numpy(weight(name, tuple(parameter.shape))))
    for module in model.modules():
        if isinstance(module, torch.nn.GELU):
            module.approximate = "tanh" if approximate_gelu else "none"
    return model.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--unilm", type=Path, required=True, help="a checkout of microsoft/unilm")
    args = parser.parse_args()
    authors = {folder: load_authors(args.unilm / folder) for folder in ("beit", "beit2")}
    arrays: dict[str, np.ndarray] = {}
    for case, options in CASES.items():
        images, targets = (torch.from_numpy(array) for array in batch(case))
        approximate = bool(options.get("approximate_gelu", False))
        model = prepare(authors_model(authors["beit2" if case == "v2" else "beit"], options), approximate)
        logits = model(images)
        loss = SoftTargetCrossEntropy()(logits, targets)
        loss.backward()
        arrays[f"{case}/logits"] = logits.detach().numpy()
        arrays[f"{case}/loss"] = loss.detach().numpy()
        for name, parameter in model.named_parameters():
            arrays[f"{case}/grad/{name}"] = parameter.grad.numpy()
        with torch.no_grad():
            arrays[f"{case}/timm_logits"] = prepare(timm_model(options), approximate)(images).numpy()
        difference = np.abs(arrays[f"{case}/timm_logits"] - arrays[f"{case}/logits"]).max()
        print(f"{case}: largest logit {logits.abs().max():.3f}, timm differs by {difference:.1e}")
    path = Path(__file__).with_name("network.npz")
    np.savez_compressed(path, **arrays)
    print(f"{path}: {path.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
