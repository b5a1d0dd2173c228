"""Golden weight files and numbers: tiny BEiTs of the authors, timm and transformers, and their logits.

Run in an environment with torch, timm and transformers:

    python tests/golden/make_weights.py --unilm DIR --interp2d_python PYTHON

DIR has the folders `beit` and `beit2` of github.com/microsoft/unilm. PYTHON is an interpreter with scipy before 1.14
(the project's): the authors resize bias tables by `scipy.interpolate.interp2d`, which later versions do not have.
Writes `tests/golden/weights/` and `tests/golden/weights.npz`.

    python tests/golden/make_weights.py --unilm DIR --check FOLDER

loads the files that `tests/test_convert.py` writes to FOLDER into the networks of their libraries, strictly.
"""

from __future__ import annotations

import argparse
import ast
import functools
import importlib.util
import json
import subprocess
import sys
import tempfile
import types
from pathlib import Path

import numpy as np
import reference_shim  # noqa: F401  (before torchvision)
import timm
import timm.layers
import torch
from safetensors.torch import load_file, save_file
from timm.models.beit import Beit
from transformers import BeitConfig, BeitForImageClassification, BeitForMaskedImageModeling

HERE = Path(__file__).parent
OUTPUT = HERE / "weights"
CLASSES = 10
VOCABULARY = 16

BASE = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}
LARGE = {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 3, "num_heads": 4}
SMALL = {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2}
SMALL_48 = SMALL | {"img_size": 48}

LAYER_NORM = functools.partial(torch.nn.LayerNorm, eps=1e-6)


def authors_modules(unilm: Path) -> types.SimpleNamespace:
    """Import the authors' network files, which use timm's old module paths."""
    layers = types.ModuleType("timm.models.layers")
    layers.drop_path = timm.layers.drop_path
    layers.to_2tuple = timm.layers.to_2tuple
    layers.trunc_normal_ = timm.layers.trunc_normal_
    registry = types.ModuleType("timm.models.registry")
    registry.register_model = lambda function: function
    sys.modules |= {"timm.models.layers": layers, "timm.models.registry": registry}
    modules = {}
    for version in ("beit", "beit2"):
        for kind in ("finetune", "pretrain"):
            name = f"modeling_{kind}"
            spec = importlib.util.spec_from_file_location(name, unilm / version / f"{name}.py")
            module = importlib.util.module_from_spec(spec)
            sys.modules[name] = module  # modeling_pretrain imports modeling_finetune
            spec.loader.exec_module(module)
            modules[f"{version}_{kind}"] = module
    return types.SimpleNamespace(**modules)


def authors_network(module, sizes: dict, **options) -> torch.nn.Module:
    defaults = {"use_abs_pos_emb": False, "use_rel_pos_bias": True, "init_values": 0.1, "num_classes": CLASSES}
    return module.VisionTransformer(**sizes, norm_layer=LAYER_NORM, qkv_bias=True, **(defaults | options))


def randomize(network: torch.nn.Module, seed: int) -> torch.nn.Module:
    """Set weights of the size of trained ones, none at a special value such as 0 or 1."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim == 2 and "table" not in name:
                parameter.copy_(noise / parameter.shape[1] ** 0.5)
            elif parameter.ndim == 4:
                parameter.copy_(noise / parameter[0].numel() ** 0.5)
            elif "gamma" in name or "lambda" in name:
                parameter.copy_(0.5 + 0.2 * noise)
            elif "norm" in name and name.endswith("weight"):
                parameter.copy_(1 + 0.2 * noise)
            else:
                parameter.copy_(0.5 * noise)
    return network.eval()


def images(size: int) -> torch.Tensor:
    return torch.randn((2, 3, size, size), generator=torch.Generator().manual_seed(size))


def logits_of(network: torch.nn.Module, size: int) -> np.ndarray:
    with torch.no_grad():
        output = network(images(size))
    return getattr(output, "logits", output).numpy()


def interp2d_elsewhere(python: str) -> types.SimpleNamespace:
    """Return `scipy.interpolate` with the one function that the authors use, run by another interpreter."""

    def interp2d(x, y, z, kind):
        def at(dx, dy):
            with tempfile.TemporaryDirectory() as folder:
                np.savez(f"{folder}/in.npz", x=x, y=y, z=z, dx=dx, dy=dy)
                code = (
                    "import numpy, scipy.interpolate as s; a = numpy.load('in.npz'); f = s.interp2d(a['x'], a['y'], "
                    f"a['z'], kind={kind!r}); numpy.save('out.npy', f(a['dx'], a['dy']))"
                )
                subprocess.run([python, "-W", "ignore", "-c", code], check=True, cwd=folder)
                return np.load(f"{folder}/out.npy")

        return at

    return types.SimpleNamespace(interp2d=interp2d)


def authors_load(unilm: Path, python: str, network: torch.nn.Module, weights: dict) -> dict[str, list[str]]:
    """Load `weights` for fine-tuning by the statements of `main` in the authors' script."""
    tree = ast.parse((unilm / "beit" / "run_class_finetuning.py").read_text())
    main = next(node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "main")
    finetune = next(n for n in main.body if isinstance(n, ast.If) and ast.unparse(n.test) == "args.finetune")
    texts = [ast.unparse(statement) for statement in finetune.body]
    first = texts.index("state_dict = model.state_dict()")
    last = next(i for i, text in enumerate(texts) if text.startswith("utils.load_state_dict"))
    scope = {
        "model": network,
        "checkpoint_model": dict(weights),
        "torch": torch,
        "np": np,
        "interpolate": interp2d_elsewhere(python),
        "print": lambda *_: None,
    }
    exec("\n".join(texts[first:last]), scope)
    missing, unexpected = network.load_state_dict(scope["checkpoint_model"], strict=False)
    left_out = set(unexpected) | {"head.weight", "head.bias"} & set(weights) - set(scope["checkpoint_model"])
    return {
        "kept": sorted(name for name in missing if "relative_position_index" not in name),
        "left_out": sorted(left_out - {"rel_pos_bias.relative_position_index"}),
    }


def without_buffers(state: dict) -> dict[str, list[int]]:
    return {name: list(value.shape) for name, value in state.items()}


def make(unilm: Path, python: str) -> None:
    OUTPUT.mkdir(exist_ok=True)
    authors = authors_modules(unilm)
    golden: dict[str, np.ndarray] = {}
    networks = {}

    def keep(name: str, network: torch.nn.Module, size: int) -> None:
        networks[name] = network
        golden[f"logits/{name}"] = logits_of(network, size)
        golden[f"shapes/{name}"] = np.array(json.dumps(without_buffers(network.state_dict())))

    # the authors' files
    base = randomize(authors_network(authors.beit_finetune, BASE), 1)
    torch.save({"model": base.state_dict()}, OUTPUT / "unilm_base.pth")
    keep("unilm_base.pth", base, 32)
    base_48 = randomize(authors_network(authors.beit_finetune, SMALL_48), 2)
    torch.save({"model": base_48.state_dict()}, OUTPUT / "unilm_384.pth")
    keep("unilm_384.pth", base_48, 48)
    large = randomize(authors_network(authors.beit_finetune, LARGE, init_values=1e-5), 3)
    torch.save({"module": large.state_dict(), "epoch": 29, "optimizer": None}, OUTPUT / "unilm_large.pth")
    keep("unilm_large.pth", large, 32)
    plain = authors_network(
        authors.beit_finetune,
        SMALL,
        use_abs_pos_emb=True,
        use_rel_pos_bias=False,
        init_values=0,
        use_mean_pooling=False,
    )
    torch.save({"model": randomize(plain, 4).state_dict()}, OUTPUT / "unilm_abs_pos.pth")
    keep("unilm_abs_pos.pth", plain, 32)
    pretrain = authors.beit_pretrain.VisionTransformerForMaskedImageModeling(
        **SMALL,
        vocab_size=VOCABULARY,
        norm_layer=LAYER_NORM,
        init_values=0.1,
        use_abs_pos_emb=False,
        use_shared_rel_pos_bias=True,
    )
    torch.save({"model": randomize(pretrain, 5).state_dict()}, OUTPUT / "unilm_pt22k.pth")
    golden["shapes/unilm_pt22k.pth"] = np.array(json.dumps(without_buffers(pretrain.state_dict())))

    # BEiT v2: a whole training state, as utils.save_model writes it
    v2 = randomize(authors_network(authors.beit2_finetune, SMALL, init_values=1e-5), 6)
    v2_ema = randomize(authors_network(authors.beit2_finetune, SMALL, init_values=1e-5), 7)
    optimizer = torch.optim.AdamW(v2.parameters())
    v2(images(32)).sum().backward()
    optimizer.step()
    training = {
        "model": {f"module.{name}": value for name, value in v2.state_dict().items()},
        "optimizer": optimizer.state_dict(),
        "epoch": 3,
        "scaler": torch.amp.GradScaler("cpu").state_dict(),
        "args": argparse.Namespace(
            imagenet_default_mean_and_std=True,
            crop_pct=0.875,
            input_size=32,
            output_dir=Path("out"),
            lr=np.float64(1e-3),
            device=torch.device("cpu"),
        ),
        "model_ema": v2_ema.state_dict(),
    }
    torch.save(training, OUTPUT / "beitv2_training.pth")
    keep("beitv2_training.pth", v2, 32)
    golden["logits/beitv2_training.pth/ema"] = logits_of(v2_ema, 32)
    v2_pretrain = authors.beit2_pretrain.VisionTransformerForMaskedImageModelingCLS(
        **SMALL,
        vocab_size=VOCABULARY,
        norm_layer=LAYER_NORM,
        init_values=0.1,
        use_abs_pos_emb=False,
        use_shared_rel_pos_bias=True,
        early_layers=1,
        head_layers=1,
        shared_lm_head=False,
    )
    torch.save({"model": randomize(v2_pretrain, 8).state_dict()}, OUTPUT / "beitv2_pt1k.pth")

    # timm's files
    options = {"num_classes": CLASSES, "use_abs_pos_emb": False, "use_rel_pos_bias": True, "init_values": 0.1}
    timm_base = randomize(Beit(**BASE, **options), 9)
    save_file(timm_base.state_dict(), OUTPUT / "timm_base.safetensors", metadata={"format": "pt"})
    keep("timm_base.safetensors", timm_base, 32)
    timm_48 = randomize(Beit(**SMALL_48, **options), 10)
    ema = randomize(Beit(**SMALL_48, **options), 11)
    state = {"arch": "beit", "state_dict": timm_48.state_dict(), "state_dict_ema": ema.state_dict(), "epoch": 5}
    torch.save(state, OUTPUT / "timm_384.pth")
    keep("timm_384.pth", timm_48, 48)
    golden["logits/timm_384.pth/ema"] = logits_of(ema, 48)
    token = Beit(**SMALL, **(options | {"use_rel_pos_bias": False}), use_shared_rel_pos_bias=True, global_pool="token")
    save_file(randomize(token, 12).state_dict(), OUTPUT / "timm_token.safetensors")
    keep("timm_token.safetensors", token, 32)
    timm_large = randomize(Beit(**LARGE, **(options | {"init_values": 1e-5})), 18)
    save_file(timm_large.state_dict(), OUTPUT / "timm_large.safetensors")
    keep("timm_large.safetensors", timm_large, 32)
    timm_v2 = randomize(Beit(**SMALL, **(options | {"init_values": 1e-5})), 19)
    torch.save({"model": timm_v2.state_dict()}, OUTPUT / "timm_v2.pth")
    keep("timm_v2.pth", timm_v2, 32)
    for kind in (torch.float16, torch.bfloat16):
        rounded = randomize(Beit(**SMALL, **options), 13).to(kind)
        name = str(kind).removeprefix("torch.")
        torch.save(rounded.state_dict(), OUTPUT / f"timm_{name}.pth")
        save_file(rounded.state_dict(), OUTPUT / f"timm_{name}.safetensors")
        golden[f"logits/timm_{name}"] = logits_of(rounded.to(torch.float32), 32)

    # transformers' files. The authors' epsilon, 1e-6, in place of transformers' default, 1e-12
    def config(sizes: dict, **changes) -> BeitConfig:
        values = {
            "hidden_size": sizes["embed_dim"],
            "num_hidden_layers": sizes["depth"],
            "num_attention_heads": sizes["num_heads"],
            "intermediate_size": 4 * sizes["embed_dim"],
            "image_size": sizes["img_size"],
            "patch_size": sizes["patch_size"],
            "use_relative_position_bias": True,
            "num_labels": CLASSES,
            "drop_path_rate": 0.0,
            "vocab_size": VOCABULARY,
            "layer_norm_eps": 1e-6,
        }
        return BeitConfig(**(values | changes))

    for kind, sizes, scale, seed in (("base", SMALL, 0.1, 14), ("large", LARGE, 1e-5, 20), ("v2", SMALL, 1e-5, 21)):
        hf = randomize(BeitForImageClassification(config(sizes, layer_scale_init_value=scale)), seed)
        with tempfile.TemporaryDirectory() as folder:
            hf.save_pretrained(folder)
            (OUTPUT / f"hf_{kind}.safetensors").write_bytes(Path(folder, "model.safetensors").read_bytes())
        keep(f"hf_{kind}.safetensors", hf, 32)
    hf_48 = randomize(BeitForImageClassification(config(SMALL_48)), 22)
    torch.save(hf_48.state_dict(), OUTPUT / "hf_384.bin")
    keep("hf_384.bin", hf_48, 48)
    golden["shapes/hf_base.safetensors/files"] = np.array(
        json.dumps(without_buffers(load_file(OUTPUT / "hf_base.safetensors")))
    )
    changes = {
        "use_relative_position_bias": False,
        "use_shared_relative_position_bias": True,
        "use_mean_pooling": False,
        "use_absolute_position_embeddings": True,
    }
    hf_token = randomize(BeitForImageClassification(config(SMALL_48, **changes)), 15)
    torch.save(hf_token.state_dict(), OUTPUT / "hf_token.bin")
    keep("hf_token.bin", hf_token, 48)
    changes = {"use_relative_position_bias": False, "use_shared_relative_position_bias": True, "use_mask_token": True}
    hf_pretrain = randomize(BeitForMaskedImageModeling(config(SMALL, **changes)), 16)
    with tempfile.TemporaryDirectory() as folder:
        hf_pretrain.save_pretrained(folder)
        (OUTPUT / "hf_pt22k.safetensors").write_bytes(Path(folder, "model.safetensors").read_bytes())
    golden["shapes/hf_pt22k.safetensors"] = np.array(json.dumps(without_buffers(hf_pretrain.state_dict())))

    # fine-tuning: the authors' statements load the weights, then the network computes logits
    for source, size, classes, options in (
        ("unilm_pt22k.pth", 32, CLASSES, {}),
        ("unilm_pt22k.pth", 48, CLASSES, {}),
        ("beitv2_pt1k.pth", 32, CLASSES, {}),
        ("unilm_384.pth", 32, 7, {}),
        ("unilm_abs_pos.pth", 48, 7, {"use_abs_pos_emb": True, "use_rel_pos_bias": False, "init_values": 0}),
    ):
        target = authors_network(authors.beit_finetune, SMALL | {"img_size": size}, num_classes=classes, **options)
        randomize(target, 17)
        initial = {name: value.clone() for name, value in target.state_dict().items()}
        weights = torch.load(OUTPUT / source, weights_only=True)["model"]
        report = authors_load(unilm, python, target, weights)
        key = f"{source}/{size}"
        golden[f"finetune/{key}/logits"] = logits_of(target, size)
        golden[f"finetune/{key}/report"] = np.array(json.dumps(report))
        for name in report["kept"]:
            golden[f"finetune/{key}/initial/{name}"] = initial[name].numpy()

    # bias tables and position embeddings at full size, by the same statements
    for old, new in ((14, 24), (24, 14)):
        generator = torch.Generator().manual_seed(old)
        table = torch.randn(((2 * old - 1) ** 2 + 3, 2), generator=generator)
        positions = torch.randn((1, old * old + 1, 4), generator=generator)
        sizes = {"img_size": 8 * new, "patch_size": 8, "embed_dim": 4, "depth": 1, "num_heads": 2}
        target = authors_network(authors.beit_finetune, sizes, use_abs_pos_emb=True)
        name = "blocks.0.attn.relative_position_bias_table"
        authors_load(unilm, python, target, {name: table, "pos_embed": positions})
        golden |= {f"resize/{old}/table": table.numpy(), f"resize/{old}/pos_embed": positions.numpy()}
        golden[f"resize/{old}/{new}/table"] = target.state_dict()[name].numpy()
        golden[f"resize/{old}/{new}/pos_embed"] = target.pos_embed.detach().numpy()

    # special cases of the pickle
    numbers = torch.arange(24, dtype=torch.float32).reshape(4, 6)
    views = {
        "whole": numbers,
        "transposed": numbers.t(),
        "part": numbers[1:3, ::2],
        "parameter": torch.nn.Parameter(numbers[2]),
        "scalar": torch.tensor(2.5),
        "empty": torch.zeros((0, 3)),
        "integer": torch.arange(3),
        "double": torch.tensor([0.1, 1e300], dtype=torch.float64),
    }
    torch.save(views, OUTPUT / "views.pth")
    golden |= {f"views/{name}": view.detach().numpy() for name, view in views.items()}
    torch.save(
        {"model": {"cls_token": torch.ones(1, 1, 4)}}, OUTPUT / "legacy.pth", _use_new_zipfile_serialization=False
    )
    torch.save(torch.nn.Linear(2, 2), OUTPUT / "whole_module.pth")

    golden |= {"images/32": images(32).numpy(), "images/48": images(48).numpy()}
    np.savez_compressed(HERE / "weights.npz", **golden)
    total = sum(file.stat().st_size for file in [*OUTPUT.iterdir(), HERE / "weights.npz"])
    print(f"{len(golden)} arrays, {total / 1e6:.2f} MB in all")


def check(unilm: Path, folder: Path) -> None:
    """Load each file of `folder` into the network that its name gives, with `strict=True`.

    Prints for each, as JSON, its name and the largest difference from the expected logits as a share of the largest.
    """
    authors = authors_modules(unilm)
    sizes = {"img_size": 32, "patch_size": 4, "embed_dim": 96, "depth": 4, "num_heads": 3}
    config = BeitConfig(
        hidden_size=96,
        num_hidden_layers=4,
        num_attention_heads=3,
        intermediate_size=384,
        image_size=32,
        patch_size=4,
        use_relative_position_bias=True,
        num_labels=CLASSES,
        layer_norm_eps=1e-6,
    )
    wanted = np.load(folder / "logits.npy")
    for file in sorted(folder.iterdir()):
        if file.suffix == ".npy":
            continue
        state = load_file(file) if file.suffix == ".safetensors" else torch.load(file, weights_only=True)
        if file.stem == "unilm":
            network = authors_network(authors.beit_finetune, sizes)
            state = state["model"]
        elif file.stem == "timm":
            network = Beit(**sizes, num_classes=CLASSES, use_abs_pos_emb=False, use_rel_pos_bias=True, init_values=0.1)
        else:
            network = BeitForImageClassification(config)
        if file.stem == "hf4":
            with tempfile.TemporaryDirectory() as place:
                config.save_pretrained(place)
                Path(place, "model.safetensors").write_bytes(file.read_bytes())
                network, info = BeitForImageClassification.from_pretrained(place, output_loading_info=True)
            assert not any(info.values()), info
        else:
            network.load_state_dict(state, strict=True)
        with torch.no_grad():
            output = network.eval()(torch.from_numpy(np.load(folder / "images.npy")))
        difference = np.abs(getattr(output, "logits", output).numpy() - wanted).max() / np.abs(wanted).max()
        print(json.dumps([file.name, float(difference)]))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--unilm", type=Path, required=True)
    parser.add_argument("--interp2d_python", default=sys.executable)
    parser.add_argument("--check", type=Path)
    options = parser.parse_args()
    if options.check:
        check(options.unilm, options.check)
    else:
        make(options.unilm, options.interp2d_python)
