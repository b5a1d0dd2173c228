"""Write drop_path.npz: the authors' network in training mode with every combination of dropped branches.

    PYTHON tests/golden/make_drop_path.py --unilm DIR

PYTHON has torch and timm; DIR holds `beit/` of microsoft/unilm. `logits` float32 [combinations, classes] in the
order of `drop_path_recipe.COMBINATIONS`; `rates_<depth>_<drop_path>`: the rate of each block (0: no drop path).
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from unittest import mock

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent))
from drop_path_recipe import COMBINATIONS, DROP_PATH, RATES, SIZES, image
from make_network import load_authors
from network_recipe import weight


def network(module: object, sizes: dict[str, int], drop_path: float) -> torch.nn.Module:
    """The authors' network, in training mode, with the recipe's weights."""
    model = module.VisionTransformer(
        img_size=sizes["image_size"],
        patch_size=sizes["patch_size"],
        embed_dim=sizes["embed_dim"],
        depth=sizes["depth"],
        num_heads=sizes["num_heads"],
        num_classes=sizes["num_classes"],
        qkv_bias=True,
        norm_layer=lambda width: torch.nn.LayerNorm(width, eps=1e-6),
        init_values=0.1,
        drop_path_rate=drop_path,
        use_abs_pos_emb=False,
        use_rel_pos_bias=True,
    )
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(torch.from_numpy(weight(name, tuple(parameter.shape))))
    return model.train()


def logits(model: torch.nn.Module, kept: tuple[float, ...]) -> np.ndarray:
    """The answer where timm's drop path draws the numbers of `kept`, one after the other."""
    drawn = iter(kept)
    with mock.patch.object(torch.Tensor, "bernoulli_", lambda self, _: self.fill_(next(drawn))), torch.no_grad():
        answer = model(torch.from_numpy(image())).numpy()[0]
    assert next(drawn, None) is None
    return answer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--unilm", type=Path, required=True, help="a checkout of microsoft/unilm")
    module = load_authors(parser.parse_args().unilm / "beit")
    model = network(module, SIZES, DROP_PATH)
    arrays = {"logits": np.stack([logits(model, kept) for kept in COMBINATIONS])}
    for depth, rate in RATES:
        blocks = network(module, {**SIZES, "depth": depth}, rate).blocks
        arrays[f"rates_{depth}_{rate}"] = np.array([getattr(block.drop_path, "drop_prob", 0.0) for block in blocks])
    np.savez_compressed(Path(__file__).with_name("drop_path.npz"), **arrays)
    print(arrays["logits"].round(3))


if __name__ == "__main__":
    main()
