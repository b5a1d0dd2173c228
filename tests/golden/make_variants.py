"""Write variants.npz: logits of the published variants at full width and reduced depth, from three libraries.

    PYTHON tests/golden/make_variants.py --unilm DIR

PYTHON has torch, timm and transformers; DIR holds `beit/` and `beit2/` of microsoft/unilm. Per case of
`variants_recipe.VARIANT_CASES`: `<case>/unilm` (for v2 from `beit2`), `<case>/timm` and `<case>/transformers`. The
weights are those of `network_recipe.weight`, so that the tests make them too.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import reference_shim  # noqa: F401 (must come before transformers)
import torch
from transformers import BeitConfig, BeitForImageClassification

sys.path.insert(0, str(Path(__file__).parent))
from make_network import authors_model, load_authors, timm_model
from network_recipe import weight
from variants_recipe import VARIANT_CASES, image

OUTER = {
    "beit.embeddings.cls_token": "cls_token",
    "beit.embeddings.patch_embeddings.projection": "patch_embed.proj",
    "beit.pooler.layernorm": "fc_norm",
    "classifier": "head",
}
INNER = {
    "lambda_1": "gamma_1",
    "lambda_2": "gamma_2",
    "attention.q_proj.bias": "attn.q_bias",
    "attention.v_proj.bias": "attn.v_bias",
    "attention.o_proj": "attn.proj",
    "layernorm_before": "norm1",
    "layernorm_after": "norm2",
    "relative_position_bias": "attn",
    "mlp": "mlp",
}
THIRDS = {"attention.q_proj.weight": 0, "attention.k_proj.weight": 1, "attention.v_proj.weight": 2}


def renamed(name: str, names: dict[str, str]) -> str:
    """`name` with the longest beginning that `names` knows replaced."""
    known = max((key for key in names if name == key or name.startswith(f"{key}.")), key=len)
    return names[known] + name.removeprefix(known)


def transformers_weight(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """The value of a parameter of transformers' network: query, key and value are thirds of the authors' qkv."""
    if not name.startswith("beit.layers."):
        return weight(renamed(name, OUTER), shape)
    number, inner = name.removeprefix("beit.layers.").split(".", 1)
    if inner in THIRDS:
        whole = weight(f"blocks.{number}.attn.qkv.weight", (3 * shape[0], shape[1]))
        return np.split(whole, 3)[THIRDS[inner]]
    return weight(f"blocks.{number}.{renamed(inner, INNER)}", shape)


def transformers_model(options: dict[str, int]) -> torch.nn.Module:
    """transformers' network of the sizes, with the authors' epsilon in place of its 1e-12."""
    return BeitForImageClassification(
        BeitConfig(
            hidden_size=options["embed_dim"],
            num_hidden_layers=options["depth"],
            num_attention_heads=options["num_heads"],
            intermediate_size=4 * options["embed_dim"],
            image_size=options["image_size"],
            patch_size=options["patch_size"],
            num_labels=options["num_classes"],
            use_relative_position_bias=True,
            layer_norm_eps=1e-6,
        )
    )


def answer(model: torch.nn.Module, case: str, values: object) -> np.ndarray:
    """Logits of the model once every parameter has the value that `values` gives for its name and shape."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(torch.from_numpy(values(name, tuple(parameter.shape))))
        output = model.eval()(torch.from_numpy(image(case)))
    return getattr(output, "logits", output).numpy()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--unilm", type=Path, required=True, help="a checkout of microsoft/unilm")
    unilm = parser.parse_args().unilm
    torch.set_num_threads(1)
    authors = {folder: load_authors(unilm / folder) for folder in ("beit", "beit2")}
    arrays: dict[str, np.ndarray] = {}
    for case, options in VARIANT_CASES.items():
        module = authors["beit2" if case.startswith("v2") else "beit"]
        arrays[f"{case}/unilm"] = answer(authors_model(module, options), case, weight)
        arrays[f"{case}/timm"] = answer(timm_model(options), case, weight)
        arrays[f"{case}/transformers"] = answer(transformers_model(options), case, transformers_weight)
        largest = np.abs(arrays[f"{case}/unilm"]).max()
        for library in ("timm", "transformers"):
            difference = np.abs(arrays[f"{case}/{library}"] - arrays[f"{case}/unilm"]).max() / largest
            print(f"{case}: {library} differs by {difference:.1e} of the largest logit, {largest:.2f}")
    path = Path(__file__).with_name("variants.npz")
    np.savez_compressed(path, **arrays)
    print(f"{path.name}: {path.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
