"""A compiled network is kept for the next start, and neither a damaged graph nor that of another network is used."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor

from src.errors import UserError
from src.model.model_config import ModelConfig, TrainingOptions
from src.runtime import graph_cache
from src.runtime.graph_cache import compile_network
from src.vit import VisionTransformer, create_model

ROOT = Path(__file__).resolve().parents[1]
MODEL = ModelConfig("test_beit_patch8_32", image_size=16, num_classes=3)
BATCH = 2


def network(seed: int = 0) -> VisionTransformer:
    return create_model(MODEL, TrainingOptions(seed=seed, init_scale=1.0)).set_train(False)


def logits_of(model: VisionTransformer) -> list[list[float]]:
    images = np.random.default_rng(0).standard_normal((BATCH, 3, 16, 16), dtype=np.float32)
    return model(Tensor(images)).asnumpy().tolist()


class Compiled:
    """Stands for a network; records the inputs that it is compiled for."""

    def __init__(self) -> None:
        self.shapes: list[tuple[int, ...]] = []

    def compile(self, images: Tensor) -> None:
        self.shapes.append(tuple(images.shape))


def in_a_process_of_its_own(folder: Path, seed: int) -> list[list[float]]:
    """The logits as printed; MindSpore's cache serves the first graph of a process."""
    command = [sys.executable, "-m", "tests.test_graph_cache", str(folder), str(seed)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return json.loads(result.stdout.splitlines()[-1])


def test_a_network_from_the_cache_has_the_logits_of_its_own_weights(tmp_path):
    compiled = in_a_process_of_its_own(tmp_path, seed=0)
    (archive,) = tmp_path.iterdir()
    written = archive.stat().st_mtime_ns
    loaded = in_a_process_of_its_own(tmp_path, seed=1)
    assert archive.stat().st_mtime_ns == written, "compiled anew"
    assert list(tmp_path.iterdir()) == [archive]
    ms.set_context(mode=ms.PYNATIVE_MODE)
    try:
        for found, seed in ((compiled, 0), (loaded, 1)):
            np.testing.assert_allclose(found, logits_of(network(seed)), rtol=0, atol=1e-6)
    finally:
        ms.set_context(mode=ms.GRAPH_MODE)


@pytest.mark.parametrize("damage", ["a byte", "the end", "all", "a path outside"])
def test_a_damaged_graph_is_not_used(tmp_path, damage):
    archive = tmp_path / "graph.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("../outside" if damage == "a path outside" else "inside", b"graph" * 100)
    content = bytearray(archive.read_bytes())
    if damage == "a byte":
        content[content.index(b"graphgraph") + 50] ^= 1
    elif damage == "the end":
        del content[-30:]
    elif damage == "all":
        content = bytearray(b"no archive")
    archive.write_bytes(content)
    folder = tmp_path / "unpacked"
    folder.mkdir()
    graph_cache._unpack(archive, folder)
    assert not list(folder.iterdir())
    assert not (tmp_path / "outside").exists()


def test_everything_that_the_graph_depends_on_changes_its_name(tmp_path, monkeypatch):
    found: list[str] = []

    def key(facts: object, *, compiled_kernels: bool) -> str:
        found.append(json.dumps([facts, compiled_kernels]))
        return "key"

    monkeypatch.setattr(graph_cache, "graph_key", key)
    compile_network(Compiled(), MODEL, BATCH, folder=tmp_path)
    compile_network(Compiled(), replace(MODEL, approximate_gelu=True), BATCH, folder=tmp_path)
    compile_network(Compiled(), MODEL, BATCH + 1, folder=tmp_path)
    compile_network(Compiled(), MODEL, BATCH, amp_level="O2", folder=tmp_path)
    compile_network(Compiled(), MODEL, BATCH, rank=1, folder=tmp_path)
    assert len(found) == len(set(found)) == 5


def test_a_change_of_the_code_changes_the_name(tmp_path, monkeypatch):
    (tmp_path / "code.py").write_text("one")
    monkeypatch.setattr(graph_cache, "SOURCES", tmp_path)
    before = graph_cache.graph_key([], compiled_kernels=False)
    (tmp_path / "code.py").write_text("two")
    assert graph_cache.graph_key([], compiled_kernels=False) != before


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"compile_cache .*file/cache cannot be made \(Not a directory\)"):
        compile_network(Compiled(), MODEL, BATCH, folder=tmp_path / "file" / "cache")


def test_without_a_cache_folder_of_the_user_the_network_is_compiled(tmp_path, monkeypatch):
    monkeypatch.setattr(graph_cache, "_cached", [])
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    (tmp_path / "file").touch()
    compiled = Compiled()
    compile_network(compiled, MODEL, BATCH)
    assert compiled.shapes == [(BATCH, 3, 16, 16)]


@pytest.mark.parametrize(("started", "cached"), [("-c", False), ("", False), (__file__, True)])
def test_the_cache_needs_a_script_that_was_started(tmp_path, monkeypatch, started, cached):
    """MindSpore's cache opens it, which would fail in an interactive session."""
    monkeypatch.setattr(graph_cache, "_cached", [])
    monkeypatch.setattr(sys, "argv", [started])
    seen: list[bool] = []

    class Observed(Compiled):
        def compile(self, images: Tensor) -> None:
            super().compile(images)
            seen.append(os.environ.get("MS_COMPILER_CACHE_ENABLE") == "1")

    compile_network(Observed(), MODEL, BATCH, folder=tmp_path)
    assert seen == [cached]


if __name__ == "__main__":
    ms.set_context(mode=ms.GRAPH_MODE)
    chosen = network(int(sys.argv[2]))
    compile_network(chosen, MODEL, BATCH, folder=Path(sys.argv[1]))
    print(json.dumps(logits_of(chosen)))
