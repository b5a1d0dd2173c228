"""Compare this project's ONNX files of BEiT-base with PyTorch's export of timm's network in ONNX Runtime.

    python benchmarks/onnx_speed.py --reference PYTHON [--output onnx_speed.json]

PYTHON is an interpreter with torch, timm, onnx and onnxscript. All files have the same random weights, and their logits
are compared first. Then the files run in turn, and the ratio is computed for each round. Finally each file is profiled
by operator. The files stay in --folder and are reused.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
from onnx_timing import alternate, by_operator, machine, ratios, run_once, session_of

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from src.export.compare_logits import TOLERANCES
from src.export.onnx_export import OnnxOptions, export_onnx
from src.weights.pretrained import load_pretrained

HERE = Path(__file__).resolve().parent
THEIRS = ("torch_script", "torch_dynamo")
OURS = {"fp32": OnnxOptions(), "int8": OnnxOptions("int8")}
LOGITS_TOLERANCE = 1e-5  # of the largest logit; float32 sums differ by their order
SLOWEST_LISTED = 12


def main() -> None:
    arguments = parse()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    paths = make_files(arguments.folder, arguments.reference)
    images = np.random.default_rng(0).standard_normal((arguments.batch_size, 3, 224, 224), dtype=np.float32)
    differences = compare_logits(paths, images)
    print(f"BEiT-base, 224 pixels, batch {arguments.batch_size}; {machine()}")
    seconds = alternate(paths, images, arguments.rounds)
    best = min(THEIRS, key=lambda name: float(np.median(seconds[name])))
    report = {"machine": machine(), "batch_size": arguments.batch_size, "rounds": arguments.rounds, "reference": best}
    print(f"\n{'file':14s} {'images/s':>9s} {'ms, median':>11s} {'min':>7s}   speed over {best}, by round (quartiles)")
    for name, taken in seconds.items():
        middle, low, high = ratios(taken, seconds[best])
        median, least = 1000 * float(np.median(taken)), 1000 * min(taken)
        rate = 1000 * arguments.batch_size / median
        print(f"{name:14s} {rate:9.2f} {median:11.0f} {least:7.0f}   {middle:.3f} ({low:.3f} to {high:.3f})")
        report[name] = {"seconds": taken, "ratio": [middle, low, high], "difference": differences[name]}
    middle, low, high = ratios(seconds["int8"], seconds["fp32"])
    print(f"\nint8 is {middle:.2f} times as fast as fp32 ({low:.2f} to {high:.2f})")
    for name, kinds in by_operator(paths, images).items():
        report[name]["operators"] = kinds
        print_breakdown(name, kinds)
    if arguments.output is not None:
        arguments.output.write_text(json.dumps(report, indent=1))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reference", type=Path, required=True, metavar="PYTHON")
    parser.add_argument("--folder", type=Path, default=Path("outputs/onnx_speed"))
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--output", type=Path, help="JSON file for all results")
    return parser.parse_args()


def make_files(folder: Path, reference: Path) -> dict[str, Path]:
    """Return the files to compare, by name; create the missing ones."""
    paths = {name: folder / f"{name}.onnx" for name in (*OURS, *THEIRS)}
    if not all(paths[name].exists() for name in THEIRS):
        subprocess.run([reference, HERE / "timm_onnx.py", folder], check=True)
        for name in OURS:
            paths[name].unlink(missing_ok=True)
    for name, options in OURS.items():
        if not paths[name].exists():
            checkpoint = load_pretrained(folder / "weights.safetensors", arch="beit_base_patch16_224")
            export_onnx(checkpoint.info, checkpoint.weights, paths[name], options)
    return paths


def compare_logits(paths: dict[str, Path], images: np.ndarray) -> dict[str, float]:
    """Return each file's largest difference from PyTorch's logits, relative to the largest logit.

    Exit if a difference exceeds its tolerance.
    """
    logits = {name: run_once(session_of(path), images) for name, path in paths.items()}
    expected = logits[THEIRS[0]]
    largest = np.abs(expected).max()
    shares = {name: float(np.abs(values - expected).max() / largest) for name, values in logits.items()}
    for name, share in shares.items():
        allowed = TOLERANCES["int8"] if name == "int8" else LOGITS_TOLERANCE
        if not share <= allowed:
            sys.exit(f"{name}: logits differ from {THEIRS[0]} by {share:.1e} of the largest; allowed: {allowed:g}")
    return shares


def print_breakdown(name: str, kinds: dict[str, tuple[int, float]]) -> None:
    total = sum(milliseconds for _, milliseconds in kinds.values())
    print(f"\n{name}: {total:.0f} ms, the sum of each node's minimum")
    for kind, (count, milliseconds) in list(kinds.items())[:SLOWEST_LISTED]:
        print(f"  {kind:26s} {count:4d} nodes {milliseconds:8.1f} ms {milliseconds / total:6.1%}")


if __name__ == "__main__":
    main()
