"""Write hugging_face/ and hugging_face.npz: a network and two image processors as transformers saves them.

    PYTHON tests/golden/make_hugging_face.py

PYTHON has torch and transformers 5. Every option that is not a size has transformers' own default, `layer_norm_eps` of
1e-12 among them. `hugging_face.npz` holds an image, and for each processor the prepared image and the logits.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import reference_shim  # noqa: F401 (must come before transformers)
import torch
from PIL import Image
from transformers import BeitConfig, BeitForImageClassification
from transformers.models.beit.image_processing_pil_beit import BeitImageProcessorPil

GOLDEN = Path(__file__).parent
FOLDER = GOLDEN / "hugging_face"
SIZES = {
    "image_size": 32,
    "patch_size": 8,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "num_labels": 4,
}
PROCESSORS = {
    "squash": {"size": {"height": 32, "width": 32}},
    "crop": {
        "size": {"height": 45, "width": 45},
        "do_center_crop": True,
        "crop_size": {"height": 32, "width": 32},
        "resample": 2,
    },
}


def main() -> None:
    torch.manual_seed(0)
    network = BeitForImageClassification(BeitConfig(**SIZES, use_relative_position_bias=True))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape))
        # small activations, so that the epsilon of the layer norms matters
        network.beit.embeddings.patch_embeddings.projection.weight.mul_(1e-3)
        network.beit.embeddings.patch_embeddings.projection.bias.mul_(1e-3)
        network.beit.embeddings.cls_token.mul_(1e-3)
    network.eval().save_pretrained(FOLDER)
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (9, 7, 3), np.uint8)).resize((75, 51), Image.Resampling.BICUBIC)
    arrays: dict[str, np.ndarray] = {"image": np.asarray(image)}
    for name, options in PROCESSORS.items():
        processor = BeitImageProcessorPil(**options)
        prepared = processor(image, return_tensors="pt")["pixel_values"]
        arrays[f"{name}/prepared"] = prepared[0].numpy()
        with torch.no_grad():
            arrays[f"{name}/logits"] = network(prepared).logits[0].numpy()
        settings = processor.to_dict()
        (FOLDER / f"{name}.json").write_text(json.dumps(settings, indent=1, default=str) + "\n")
        print(name, arrays[f"{name}/logits"])
    np.savez_compressed(GOLDEN / "hugging_face.npz", **arrays)


if __name__ == "__main__":
    main()
