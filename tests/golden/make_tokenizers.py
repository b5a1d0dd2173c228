"""Write tokenizers.npz and dalle_encoder.pkl: tokens, losses and gradients of the authors' tokenizers.

    PYTHON tests/golden/make_tokenizers.py --unilm DIR [--full]

PYTHON and DIR as for make_network.py; `attrs` and `einops` are needed too. With the weights of `tokenizer_recipe`:
`dalle/<size>` and `vqkd/<size>`, the tokens of its images; `dalle/decoded`, images of the small decoder; of each case of
`DVAE_CASES` loss, output and gradients. dalle_encoder.pkl is the pickle inside the file that torch.save writes of the
small encoder, without the numbers. Sizes of `full` take minutes and are kept from the last time without `--full`.
"""

from __future__ import annotations

import argparse
import importlib.util
import io
import sys
import types
import zipfile
from functools import partial
from pathlib import Path
from unittest import mock

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
import torch
from make_network import load_authors
from tokenizer_recipe import DALLE, DVAE, DVAE_CASES, IMAGES, VQKD, gumbel_noise, pixels, weight

HERE = Path(__file__).parent


def load(path: Path) -> types.ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def with_recipe_weights(model: torch.nn.Module) -> torch.nn.Module:
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(torch.from_numpy(weight(name, tuple(parameter.shape))))
    return model.eval()


def in_parts(run, images: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return np.concatenate(
            [run(torch.from_numpy(part)).numpy() for part in np.array_split(images, len(images) // 2)]
        )


def dalle(folder: Path, sizes: list[str]) -> dict[str, np.ndarray]:
    sys.modules["requests"] = types.ModuleType("requests")  # imported for downloads
    sys.path.insert(0, str(folder))
    from dall_e.decoder import Decoder
    from dall_e.encoder import Encoder
    from dall_e.utils import map_pixels, unmap_pixels

    arrays = {}
    for size in sizes:
        encoder = with_recipe_weights(Encoder(**DALLE[size]))
        images = pixels(112, IMAGES[size]).astype(np.float32) / 255
        arrays[f"dalle/{size}"] = in_parts(lambda x: encoder(map_pixels(x)).argmax(1), images).astype(np.int16)
        if size == "small":
            arrays["dalle/logits"] = in_parts(lambda x: encoder(map_pixels(x)), images[:2])[:, :, ::4, ::4]
            file = io.BytesIO()
            torch.save(encoder, file)
            (HERE / "dalle_encoder.pkl").write_bytes(zipfile.ZipFile(file).read("archive/data.pkl"))
    decoder = with_recipe_weights(Decoder(n_init=16, **DALLE["small"]))
    codes = torch.from_numpy(arrays["dalle/small"][:1, ::7, ::7].astype(np.int64))
    with torch.no_grad():
        output = decoder(torch.nn.functional.one_hot(codes, 512).permute(0, 3, 1, 2).float())
    arrays["dalle/decoded"] = unmap_pixels(torch.sigmoid(output[:, :3])).numpy()
    return arrays


def vqkd(folder: Path, sizes: list[str]) -> dict[str, np.ndarray]:
    sys.modules["modeling_finetune"] = load_authors(folder)
    for name in ("utils", "vqkd_teacher"):
        sys.modules[name] = mock.MagicMock()  # for the teacher and for several devices
    sys.path.insert(0, str(folder))
    for name in ("timm.models.layers", "timm.models.registry"):
        sys.modules.setdefault(name, mock.MagicMock(register_model=lambda function: function))
    module = load(folder / "modeling_vqkd.py")
    arrays = {}
    for size in sizes:
        options = dict(VQKD[size])
        codes, code_dim = options.pop("codes")
        encoder = {**module.get_model_default_params(), **options, "num_classes": 0}
        encoder["norm_layer"] = partial(torch.nn.LayerNorm, eps=1e-6)
        decoder = {**encoder, "img_size": encoder["img_size"] // encoder["patch_size"], "patch_size": 1, "depth": 1}
        decoder["in_chans"] = code_dim
        model = module.VQKD(encoder, decoder, codes, code_dim, teacher_model_type="None", quantize_kmeans_init=False)
        with_recipe_weights(model)
        with torch.no_grad():
            model.quantize.embedding.weight.copy_(torch.nn.functional.normalize(model.quantize.embedding.weight, dim=1))
        images = pixels(options["img_size"], IMAGES[size]).astype(np.float32) / 255
        arrays[f"vqkd/{size}"] = in_parts(model.get_codebook_indices, images).astype(np.int16)
        if size == "small":
            names = [name for name in model.state_dict()]
            arrays["vqkd/names"] = np.array(names)
            arrays["vqkd/shapes"] = np.array([str(tuple(tensor.shape)) for tensor in model.state_dict().values()])
    return arrays


def dvae(folder: Path) -> dict[str, np.ndarray]:
    module = load(folder / "modeling_discrete_vae.py")
    images = (pixels(DVAE["image_size"], 3).astype(np.float32) / 255 - 0.5) / 0.5
    side = DVAE["image_size"] // 2 ** DVAE["num_layers"]
    noise = gumbel_noise((3, DVAE["num_tokens"], side, side))
    arrays = {}
    for case, options in DVAE_CASES.items():
        model = with_recipe_weights(module.DiscreteVAE(**DVAE, **options)).train()
        exponential = torch.from_numpy(np.exp(-noise.astype(np.float64)).astype(np.float32))
        with mock.patch.object(torch.Tensor, "exponential_", lambda tensor: tensor.copy_(exponential)):
            loss, output = model(torch.from_numpy(images), return_loss=True, return_recons=True)
        loss.backward()
        arrays[f"dvae/{case}/loss"], arrays[f"dvae/{case}/output"] = loss.detach().numpy(), output.detach().numpy()
        for name, parameter in model.named_parameters():
            arrays[f"dvae/{case}/grad/{name}"] = parameter.grad.numpy()
    arrays["dvae/tokens"] = model.get_codebook_indices(torch.from_numpy(images)).numpy().astype(np.int16)
    with torch.no_grad():
        arrays["dvae/decoded"] = model.decode(
            torch.from_numpy(arrays["dvae/tokens"].reshape(3, -1).astype(np.int64))
        ).numpy()
    torch.manual_seed(0)
    fresh = module.DiscreteVAE(**{**DVAE, "hidden_dim": 64, "codebook_dim": 128, "num_tokens": 512})
    for name, parameter in fresh.named_parameters():
        value = parameter.detach().double()
        arrays[f"dvae/init/{name}"] = np.array([value.mean(), value.std(unbiased=False), value.abs().max()])
    return arrays


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--unilm", type=Path, required=True, help="a checkout of microsoft/unilm")
    parser.add_argument("--full", action="store_true", help="also the full sizes")
    args = parser.parse_args()
    path = HERE / "tokenizers.npz"
    arrays = {}
    if not args.full and path.exists():
        with np.load(path) as earlier:
            arrays = {name: earlier[name] for name in earlier.files if name.endswith("/full")}
    sizes = ["small", "full"] if args.full else ["small"]
    arrays |= dalle(args.unilm / "beit", sizes) | vqkd(args.unilm / "beit2", sizes) | dvae(args.unilm / "beit")
    np.savez_compressed(path, **arrays)
    print(f"{path}: {path.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
