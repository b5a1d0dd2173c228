"""Export timm's BEiT-base with random weights from PyTorch. Runs in the reference interpreter.

The folder of the first argument gets weights.safetensors (timm's names), and torch_script.onnx and torch_dynamo.onnx
from the two exporters of `torch.onnx.export`, with a dynamic batch.
"""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

with contextlib.suppress(ImportError):
    import reference_shim  # noqa: F401  (needed if torchvision has no compiled operators)
import timm
import torch
from safetensors.torch import save_file

ARCH = "beit_base_patch16_224"
SCRIPT_OPSET = 20  # the newest opset of this exporter, and the first with a Gelu operator
NAMES = {"input_names": ["image"], "output_names": ["logits"]}


def main() -> None:
    folder = Path(sys.argv[1])
    torch.manual_seed(0)
    model = timm.create_model(ARCH, pretrained=False).eval()
    randomize(model)
    weights = {name: value.contiguous() for name, value in model.state_dict().items()}
    save_file(weights, folder / "weights.safetensors")
    images = torch.randn(2, 3, 224, 224)
    axes = {"image": {0: "batch"}, "logits": {0: "batch"}}
    torch.onnx.export(
        model,
        (images,),
        folder / "torch_script.onnx",
        dynamo=False,
        dynamic_axes=axes,
        opset_version=SCRIPT_OPSET,
        **NAMES,
    )
    # this exporter rejects a dynamic batch with PyTorch's fused attention ("Cannot view a tensor with shape ...")
    timm.layers.set_fused_attn(False)
    model = timm.create_model(ARCH, pretrained=False).eval()
    model.load_state_dict(weights)
    batch = torch.export.Dim("batch", min=1, max=1024)
    torch.onnx.export(
        model,
        (images,),
        folder / "torch_dynamo.onnx",
        dynamo=True,
        dynamic_shapes=({0: batch},),
        external_data=False,
        **NAMES,
    )


@torch.no_grad()
def randomize(model: torch.nn.Module) -> None:
    """Replace constant initial weights by random ones, so that no exporter can fold them."""
    for name, parameter in model.named_parameters():
        if name.endswith("relative_position_bias_table"):
            parameter.normal_(std=0.5)
        elif "gamma_" in name:
            parameter.mul_(0.5 + torch.rand_like(parameter))
        elif name == "head.weight":
            parameter.normal_(std=0.05)


if __name__ == "__main__":
    main()
