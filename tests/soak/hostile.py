"""Hostile files for the scripts, each accepted rightly or refused in one line: `python -m tests.soak.hostile`.

Every case is a process of convert.py (weights), infer.py (exports, images, outputs) or train.py (configs) in a folder
of its own, with a limit of 60 s and 2 GB. It may end with exit code 0 if the content is harmless, and otherwise with 1
or 2 and one line. Beside the folder lie files that no case may start, read, change or remove; their state is
compared after each case. `--cases` files are made from `--seed`, the same ones each time.
"""

import argparse
import hashlib
import io
import json
import os
import pickle
import random
import resource
import shutil
import stat
import subprocess
import sys
import tempfile
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import yaml
from PIL import Image

from src.export.onnx_export import write_onnx
from src.export.onnx_graph import beit_graph
from src.model.variants import get_variant
from src.weights.checkpoint import Checkpoint, save_checkpoint
from tests.networks import model_info, variant_network
from tests.tiny_project import ROOT, write_config, write_images

ARCH = "beit_micro_patch8_32"
SECONDS = 60
BYTES = 2 * 10**9  # resident
ADDRESSES = 12 * 10**9  # a process that allocates without end must not take the machine with it
LARGE = 50 * 10**6  # bytes of the largest repeated content
SECRET = b"SECRET-OF-ANOTHER-USER"


@dataclass(frozen=True)
class Good:
    """Valid files that the cases are made from."""

    folder: Path
    checkpoint: Path
    safetensors: Path
    onnx: Path
    mindir: Path
    image: Path
    config: Path
    secret: Path


@dataclass(frozen=True)
class Case:
    """One attack: its kind and the command, relative to its folder; `harmless` if exit code 0 is right."""

    kind: str
    command: list[str]
    harmless: bool = False


Make = Callable[[Path, Good, random.Random], Case]


# ---- weights ----------------------------------------------------------------------------------------------------


def convert(kind: str, path: Path, harmless: bool = False) -> Case:
    words = ["--input", path.name, "--arch", ARCH, "--output", "out.ckpt"]
    return Case(kind, ["convert.py", *words], harmless)


class Starts:
    """An object whose pickle starts a program."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return os.system, (f"touch {self.target}/started",)


def torch_file(path: Path, data: bytes, storages: dict[str, bytes], compress: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compress) as archive:
        archive.writestr("archive/data.pkl", data)
        archive.writestr("archive/byteorder", b"little")
        for key, content in storages.items():
            archive.writestr(f"archive/data/{key}", content)
    return path


def tensor(
    key: str, numel: int, shape: tuple[int, ...], stride: tuple[int, ...] | None = None, offset: int = 0
) -> bytes:
    """Return the pickle opcodes of a float32 tensor."""
    strides = stride if stride is not None else tuple(int(np.prod(shape[i + 1 :])) for i in range(len(shape)))

    def number(value: int) -> bytes:
        return b"I" + str(value).encode() + b"\n"

    def text(value: str) -> bytes:
        raw = value.encode()
        return b"X" + len(raw).to_bytes(4, "little") + raw

    def numbers(values: tuple[int, ...]) -> bytes:
        return b"(" + b"".join(map(number, values)) + b"t"

    storage = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text(key) + text("cpu") + number(numel) + b"tQ"
    arguments = (
        storage + number(offset) + numbers(shape) + numbers(strides) + b"I00\n" + b"ccollections\nOrderedDict\n)R"
    )
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + arguments + b"tR"


def state_dict(entries: list[tuple[str, bytes]]) -> bytes:
    body = b"".join(b"X" + len(name).to_bytes(4, "little") + name.encode() + value for name, value in entries)
    return b"\x80\x02}(" + body + b"u."


def pickles(place: Path, good: Good, rng: random.Random) -> Case:
    path = place / "a.pth"
    size = rng.choice((1, 1000, 10**6))
    count = rng.choice((3, 1000, 20_000))
    storages = {"0": bytes(4 * size)}
    kind = rng.randrange(14)
    if kind == 0:
        return convert("pickle that starts a program", torch_file(path, pickle.dumps(Starts(good.secret.parent)), {}))
    if kind == 1:  # many views of one storage
        views = [(f"blocks.{number}.w", tensor("0", size, (size,))) for number in range(count)]
        return convert("many views of a storage", torch_file(path, state_dict(views), storages))
    if kind == 2:  # one number seen as many
        shape = tuple(rng.choice((2, 1000, 2**31)) for _ in range(rng.randrange(1, 66)))
        data = state_dict([("w", tensor("0", size, shape, (0,) * len(shape)))])
        return convert("tensor with strides of 0 or many dimensions", torch_file(path, data, storages))
    if kind == 3:
        depth = rng.choice((50, 5000, 200_000))
        data = b"\x80\x02" + b"(" * depth + rng.choice((b"t", b"l")) * depth + b"."
        return convert("nested containers", torch_file(path, data, {}))
    if kind == 4:  # each level holds the one below twice: hashing takes 2**levels steps
        levels = rng.choice((40, 200))
        data = (
            b"\x80\x02}"
            + b"(K\x01K\x02t"
            + b"q\x00"
            + b"".join(b"(h\x00h\x00tq\x00" for _ in range(levels))
            + b"K\x01s."
        )
        return convert("key of exponential size", torch_file(path, data, {}))
    if kind == 5:
        digits = rng.choice((100, 10_000, 1_000_000))
        return convert("huge number", torch_file(path, b"\x80\x02I" + b"9" * digits + b"\n.", {}))
    if kind == 6:
        data = (
            b"\x80\x02"
            + rng.choice((b"r", b"j", b"B", b"X", b"T"))
            + rng.choice((b"\xff\xff\xff\x7f", b"\xff" * 4))
            + b"."
        )
        return convert("opcode with a huge length or index", torch_file(path, data, {}))
    if kind == 7:
        return convert("endless memo", torch_file(path, b"\x80\x02" + b"Nq\x00h\x00" * 10**6 + b".", {}))
    if kind == 8:  # compressed: 1 GB of zeros in 1 MB
        data = state_dict([("w", tensor("0", 2**28, (2**28,)))])
        return convert("compressed storage", torch_file(path, data, {"0": bytes(2**28)}, zipfile.ZIP_DEFLATED))
    if kind == 9:
        arguments = {"args": rng.choice(({"crop_pct": 1e-6}, {"crop_pct": float("nan")}, "x" * 10**6))}
        data = pickle.dumps({"model": {}, **arguments}, 2)
        return convert("arguments of a script", torch_file(path, data, {}))
    if kind == 10:
        with zipfile.ZipFile(path, "w") as archive:
            for number in range(rng.choice((2, 50_000))):
                archive.writestr(f"{rng.choice(('../', '/', 'archive/'))}{number}", b"")
            archive.writestr("archive/data.pkl", state_dict([]))
        return convert("odd zip entries", path)
    if kind == 11:
        names = [
            rng.choice(("a" * 10**5, "\x1b[2J", "../../etc/passwd", "blocks.0.attn.q_bias", "")) + str(number)
            for number in range(3)
        ]
        data = state_dict([(name, tensor("0", size, (size,))) for name in names])
        return convert("odd names", torch_file(path, data, storages))
    if kind == 12:
        missing = state_dict([("w", tensor(rng.choice(("../../secret", "7", "/etc/passwd")), size, (size,)))])
        return convert("storage elsewhere", torch_file(path, missing, storages))
    content = bytearray(torch_file(path, state_dict([("w", tensor("0", size, (size,)))]), storages).read_bytes())
    for _ in range(rng.choice((1, 20))):
        content[rng.randrange(len(content))] ^= rng.randrange(1, 256)
    path.write_bytes(content)
    return convert("damaged zip", path)


def safetensors(place: Path, good: Good, rng: random.Random) -> Case:
    path = place / "a.safetensors"
    entry = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
    headers: list[object] = [
        {"w": {**entry, "shape": [1] * 65 + [2]}},
        {"w": {**entry, "shape": [2**62, 2**62]}},
        {"w": {**entry, "shape": [10**400]}},
        {"w": {**entry, "data_offsets": [0, 2**60]}},
        {f"w{number}": {**entry, "shape": [0], "data_offsets": [0, 0]} for number in range(100_000)},
        {"__metadata__": {"model_info": "[" * 100_000, "checksums": "{}"}, "w": entry},
        {"__metadata__": {"model_info": json.dumps({"arch": ARCH, "image_size": 10**9, "num_classes": 3})}, "w": entry},
        {
            "__metadata__": {"model_info": '{"arch": "x", "image_size": 1e999, "num_classes": 3}', "checksums": "{}"},
            "w": entry,
        },
        {"__metadata__": {"x": "y" * 10**7}, "w": entry},
        {"\x1b[2J\r\n": entry},
    ]
    number = rng.randrange(len(headers) + 3)
    if number < len(headers):
        header = json.dumps(headers[number]).encode()
    else:
        header = (b"[" * 10**6, b'{"w":' * 10**5, b'{"w": 1' + b"0" * 10**6 + b"}")[number - len(headers)]
    length = rng.choice((len(header), len(header), 2**63, 99_999_999))
    path.write_bytes(length.to_bytes(8, "little") + header + bytes(8))
    return convert("safetensors header", path)


def ckpt(place: Path, good: Good, rng: random.Random) -> Case:
    from src.weights.mindspore_ckpt_file import _chunk, _key, _varint

    path = place / "a.ckpt"
    dims = b"".join(
        _key(1, 0) + _varint(rng.choice((0, 1, 2, 2**40, 2**63))) for _ in range(rng.choice((1, 4, 65, 10_000)))
    )
    content = bytes(rng.choice((0, 8, 1000)))
    value = _chunk(1, rng.choice((b"w", b"\x1b[2J", b"x" * 10**6, b"\xff"))) + _chunk(
        2, dims + _chunk(2, rng.choice((b"Float32", b"BFloat16", b"str", b"Int4"))) + _chunk(3, content)
    )
    message = _chunk(1, value)
    data = message * min(rng.choice((1, 2, 20_000)), max(1, LARGE // len(message)))
    if rng.random() < 0.3:
        data = b"\x0a" + b"\xff" * rng.choice((1, 9, 20)) + data
    path.write_bytes(data)
    return convert("ckpt messages", path)


def damaged_checkpoint(place: Path, good: Good, rng: random.Random) -> Case:
    source = rng.choice((good.checkpoint, good.safetensors))
    path = place / f"a{source.suffix}"
    content = bytearray(source.read_bytes())
    if rng.random() < 0.3:
        content = content[: rng.randrange(len(content))]
    else:
        for _ in range(rng.choice((1, 5, 100))):
            content[rng.randrange(len(content))] ^= rng.randrange(1, 256)
    path.write_bytes(content)
    return convert("damaged checkpoint", path)


def not_a_file(place: Path, good: Good, rng: random.Random) -> Case:
    path = place / rng.choice(("a.pth", "a.ckpt", "a.safetensors"))
    irregular(path, rng)
    return convert("irregular weights file", path)


def irregular(path: Path, rng: random.Random) -> None:
    kind = rng.randrange(5)
    if kind == 0:
        os.mkfifo(path)
    elif kind == 1:
        path.symlink_to("/dev/zero")
    elif kind == 2:
        path.mkdir()
    elif kind == 3:
        path.symlink_to(path.name)
    else:
        path.touch()
        os.truncate(path, 2**43)


def hub_config(place: Path, good: Good, rng: random.Random) -> Case:
    path = place / "model.safetensors"
    shutil.copy(good.safetensors, path)
    texts = (
        "[" * 10**5,
        json.dumps({"pretrained_cfg": {"crop_pct": 1e-6, "mean": [0] * 3, "std": [0] * 3}}),
        json.dumps({"model_type": "beit", "layer_norm_eps": 1e400, "id2label": {str(n): "x" * 1000 for n in range(9)}}),
        '{"pretrained_cfg": {"crop_pct": 1' + "0" * 10_000 + "}}",
    )
    (place / "config.json").write_text(rng.choice(texts))
    return convert("config.json of a hub", path, harmless=True)  # our own file does not look at it


# ---- exports ----------------------------------------------------------------------------------------------------


def infer(kind: str, model: str, good: Good, harmless: bool = False) -> Case:
    words = ["--checkpoint", model, "--data_path", str(good.image), "--device_target", "CPU", "--output", "out.json"]
    return Case(kind, ["infer.py", *words], harmless)


def external_data(place: Path, good: Good, rng: random.Random) -> Case:
    path = place / "a.onnx"
    model = onnx.load(good.onnx)
    initializer = max(model.graph.initializer, key=lambda each: len(each.raw_data))
    size = len(initializer.raw_data)
    target = place / "weights"
    location = rng.choice(
        (
            str(good.secret),
            os.path.relpath(good.secret, place),
            "/etc/passwd",
            "/dev/zero",
            "link",
            "fifo",
            "weights",
            "..",
            "",
        )
    )
    (place / "link").symlink_to(good.secret)
    os.mkfifo(place / "fifo")
    target.write_bytes(bytes(rng.choice((0, 10, size - 1))))
    initializer.ClearField("raw_data")
    initializer.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", str(rng.choice((0, 0, 2**40)))), ("length", str(size))):
        initializer.external_data.add(key=key, value=value)
    path.write_bytes(model.SerializeToString())
    return infer("ONNX with external data", path.name, good)


def damaged_export(place: Path, good: Good, rng: random.Random) -> Case:
    source = good.mindir if rng.random() < 0.15 else good.onnx  # MindSpore takes 5 s to start
    path = place / f"a{source.suffix}"
    content = bytearray(source.read_bytes())
    for _ in range(rng.choice((1, 1, 5, 100))):
        content[rng.randrange(len(content))] ^= rng.randrange(1, 256)
    path.write_bytes(content if rng.random() < 0.8 else content[: rng.randrange(len(content))])
    return infer(f"damaged {source.suffix}", path.name, good)


def onnx_metadata(place: Path, good: Good, rng: random.Random) -> Case:
    path = place / "a.onnx"
    model = onnx.load(good.onnx)
    name, value = rng.choice(
        (
            *(("crop_pct", text) for text in ("1e-6", "1e400", "nan", "[" * 10_000, "0", "-1")),
            *(("image_size", text) for text in ("1000000000", "0", "-8", "9" * 5000, "1.5")),
            *(("num_classes", text) for text in ("4", "-1", "1e9", '"x"')),
            *(("mean", text) for text in ("[1e308, 0, 0]", "[]", "{}", "null")),
            ("std", "[0, 0, 0]"),
            ("class_names", json.dumps(["\x1b[2J"] * 3)),
            ("interpolation", "../../x"),
            ("version", "9" * 100),
        )
    )
    for pair in model.metadata_props:
        if pair.key == name:
            pair.value = value
    path.write_bytes(model.SerializeToString())
    return infer("ONNX with odd metadata", path.name, good)


def irregular_export(place: Path, good: Good, rng: random.Random) -> Case:
    path = place / rng.choice(("a.onnx", "a.onnx", "a.mindir"))
    irregular(path, rng)
    return infer("irregular export file", path.name, good)


# ---- images and folders -----------------------------------------------------------------------------------------


def images(place: Path, good: Good, rng: random.Random) -> Case:
    folder = place / "images"
    folder.mkdir()
    shutil.copy(good.image, folder / "good.png")
    path = folder / f"a{rng.choice(('.jpg', '.png', '.jpeg'))}"
    kind = rng.randrange(9)
    if kind == 0:
        path.write_bytes(
            b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n0 0 moveto\nshowpage\n%%EOF\n"
        )
    elif kind == 1:
        irregular(path, rng)
    elif kind == 2:
        for number in range(4):
            Image.new(rng.choice(("1", "L")), (12_000, 12_000)).save(folder / f"large{number}.png")
    elif kind == 3:
        Image.new("1", (16_000, 16_000)).save(path, "PNG")
    elif kind == 4:
        stream = io.BytesIO()
        Image.fromarray(np.full((64, 64, 3), 90, np.uint8)).save(
            stream, rng.choice(("JPEG", "PNG", "GIF", "TIFF", "WEBP", "BMP"))
        )
        content = bytearray(stream.getvalue())
        for _ in range(rng.choice((1, 10))):
            content[rng.randrange(len(content))] ^= rng.randrange(1, 256)
        path.write_bytes(content[: rng.randrange(1, len(content) + 1)])
    elif kind == 5:
        path.write_bytes(b"P6 100000000 100000000 255\n")
    elif kind == 6:
        (folder / "loop").symlink_to(".")
        (folder / "self").symlink_to("self")
        (folder / "up.png").symlink_to("..")
    elif kind == 7:
        odd = os.fsencode(folder) + b"/" + rng.choice((b"\x1b[2J\r\n.png", b"\xff\xfe.png", b"=cmd()|.png", b"-rf.png"))
        shutil.copy(good.image, odd)
    else:
        path.write_bytes(rng.randbytes(rng.choice((0, 1, 100, 10_000))))
    words = ["--checkpoint", str(good.onnx), "--data_path", "images", "--recursive", "true", "--device_target", "CPU"]
    output = rng.choice(("out.json", "out.csv", "out.jsonl"))
    return Case("images", ["infer.py", *words, "--output", output], harmless=True)


# ---- outputs ----------------------------------------------------------------------------------------------------


def outputs(place: Path, good: Good, rng: random.Random) -> Case:
    name = rng.choice(("out.json", "out.csv", "out.jsonl"))
    output = place / name
    partial = place / f"{name}.partial"
    kind = rng.randrange(8)
    if kind == 0:
        output.symlink_to(rng.choice(("/dev/null", "/dev/zero", "/dev/full")))
    elif kind == 1:
        os.mkfifo(output)
    elif kind == 2:
        output.mkdir()
    elif kind == 3:
        partial.symlink_to(good.secret)
    elif kind == 4:
        partial.write_bytes(b"notes of a user\n")
    elif kind == 5:
        os.mkfifo(partial)
    elif kind == 6:
        partial.mkdir()
    else:
        name = rng.choice(("x" * 300 + ".json", "missing/\x00.json", f"{good.secret}/a.json", "\x1b[2J.json", "a.exe"))
        name = name.replace("\x00", "")
    words = ["--checkpoint", str(good.onnx), "--data_path", str(good.image), "--device_target", "CPU", "--output", name]
    resume = ["--resume", "true"] if rng.random() < 0.5 else []
    return Case("outputs", ["infer.py", *words, *resume], harmless=kind == 7)


# ---- configs ----------------------------------------------------------------------------------------------------


def configs(place: Path, good: Good, rng: random.Random) -> Case:
    path = place / "config.yaml"
    text = good.config.read_text()
    number = rng.randrange(12)
    bomb = "a: &a [x, x]\n" + "".join(
        f"{chr(98 + i)}: &{chr(98 + i)} [*{chr(97 + i)}, *{chr(97 + i)}]\n" for i in range(24)
    )
    value = rng.choice(
        (
            "!!int abc",
            "!!python/object/apply:os.system ['touch started']",
            "9" * 5000,
            "2024-01-01",
            "*x",
            "&x [*x]",
            "{a: 1}",
            "1e400",
            "'" + "x" * 300 + "'",
            "[" * 5000,
            "? [a, b]\n: c",
            "-1",
            "1000000000",
            "8000",
            "\x07",
            "~",
        )
    )
    name = rng.choice(
        ("batch_size", "image_size", "epochs", "base_lr", "model_postfix", "num_parallel_workers", "arch", "beta")
    )
    if number == 0:
        path.write_text(bomb + text)
    elif number == 1:
        path.write_text("[" * 100_000)
    elif number == 2:
        path.write_text(text + "x: " + "{a: " * 3000)
    elif number == 3:
        irregular(path, rng)
    elif number == 4:
        path.write_bytes(rng.randbytes(10_000))
    elif number == 5:
        path.write_text(yaml.safe_dump({f"option{n}": n for n in range(20_000)}))
    else:
        lines = [line for line in text.splitlines() if not line.startswith(f"{name}:")]
        path.write_text("\n".join([*lines, f"{name}: {value}", ""]))
    words = ["--data_url", "missing"]  # a config that is accepted ends there
    option = [f"--{name}", value] if number == 6 else []
    return Case("configs", ["train.py", "--config_path", "config.yaml", *words, *option])


# name: function and share of the cases
KINDS: dict[Make, int] = {
    pickles: 25,
    safetensors: 8,
    ckpt: 6,
    damaged_checkpoint: 8,
    not_a_file: 4,
    hub_config: 3,
    external_data: 8,
    damaged_export: 10,
    onnx_metadata: 6,
    irregular_export: 3,
    images: 12,
    outputs: 8,
    configs: 12,
}


def main() -> int:
    """Run the cases and print the counts; return 1 if one was not answered as it should be."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--together", type=int, default=2)
    words = parser.parse_args()
    counts: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        good = make_good(root)
        watched = state_of(good.secret.parent)
        makes = random.Random(words.seed).choices(list(KINDS), list(KINDS.values()), k=words.cases)

        def run(number: int) -> tuple[int, Case, str, str]:
            place = root / f"case{number}"
            place.mkdir()
            case = makes[number](place, good, random.Random(f"{words.seed} {number}"))
            outcome, text = judged(case, place, good)
            subprocess.run(["rm", "-rf", str(place)], check=False)
            return number, case, outcome, text

        with ThreadPoolExecutor(words.together) as pool:
            for number, case, outcome, text in pool.map(run, range(words.cases)):
                if state_of(good.secret.parent) != watched:
                    outcome = "TOUCHED OTHER FILES"
                counts[f"{case.kind}: {outcome}"] += 1
                if outcome.isupper():
                    print(
                        f"case {number}: {case.kind}: {outcome}\n{' '.join(case.command)[:300]}\n{text[:2000]}",
                        flush=True,
                    )
    print(f"{words.cases} hostile cases")
    for line, count in sorted(counts.items()):
        print(f"  {count:4} {line}")
    return int(any(line.split(": ")[1].isupper() for line in counts))


def make_good(root: Path) -> Good:
    folder, outside = root / "good", root / "outside"
    folder.mkdir()
    outside.mkdir()
    (outside / "secret").write_bytes(SECRET * 10_000)
    network = variant_network(ARCH, num_classes=3)
    weights = {parameter.name: parameter.asnumpy() for parameter in network.get_parameters()}
    info = model_info(ARCH, 32, 3, class_names=("a", "b", "c"), crop_pct=1.0)
    for suffix in (".ckpt", ".safetensors"):
        save_checkpoint(folder / f"good{suffix}", Checkpoint(weights, info))
    write_onnx(beit_graph(weights, info.model, get_variant(ARCH)), info, folder / "good.onnx")
    export = [
        "export.py",
        "--config_path",
        write_config(folder, write_images(folder / "data")),
        "--file_format",
        "MINDIR",
    ]
    export += ["--pretrained", folder / "good.ckpt", "--arch", ARCH, "--image_size", 32, "--num_classes", 3]
    subprocess.run(
        [sys.executable, ROOT / export[0], *map(str, export[1:])], cwd=folder, check=True, capture_output=True
    )
    Image.fromarray(np.full((40, 40, 3), 90, np.uint8)).save(folder / "image.png")
    return Good(
        folder,
        folder / "good.ckpt",
        folder / "good.safetensors",
        folder / "good.onnx",
        folder / f"{ARCH}.mindir",
        folder / "image.png",
        folder / "config.yaml",
        outside / "secret",
    )


def judged(case: Case, place: Path, good: Good) -> tuple[str, str]:
    """Run the case and return the outcome, in capitals if it is a defect, and what the process printed."""
    programs = good.secret.parent  # a program that Pillow would start is the first on the path
    environment = {**os.environ, "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}", "TMPDIR": str(place)}
    command = [sys.executable, str(ROOT / case.command[0]), *case.command[1:]]
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            command,
            cwd=place,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            preexec_fn=limit,
        )
        timer_killed = False
        try:
            process.wait(SECONDS)
        except subprocess.TimeoutExpired:
            timer_killed = True
            process.kill()
            process.wait()
        output.seek(0)
        text = output.read().decode(errors="replace")
    if timer_killed:
        return "TOOK TOO LONG", text
    if "Traceback" in text:
        return "TRACEBACK", text
    if SECRET.decode() in text:
        return "READ A SECRET", text
    if process.returncode == 0:
        return ("accepted" if case.harmless else "ACCEPTED"), text
    if process.returncode not in (1, 2):
        return f"EXIT CODE {process.returncode}", text
    errors = [line for line in text.splitlines() if line.startswith("error: ")]
    return ("refused in one line" if len(errors) == 1 else "NOT ONE LINE"), text


def limit() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESSES, ADDRESSES))
    resource.setrlimit(resource.RLIMIT_DATA, (BYTES, BYTES))


def state_of(folder: Path) -> Iterator[object] | list[object]:
    """Return everything that a case must not change: names, kinds, sizes and contents."""
    found: list[object] = []
    for path in sorted(folder.rglob("*")):
        status = path.lstat()
        content = hashlib.sha256(path.read_bytes()).hexdigest() if stat.S_ISREG(status.st_mode) else ""
        found.append((str(path), stat.S_IFMT(status.st_mode), content))
    return found


if __name__ == "__main__":
    raise SystemExit(main())
