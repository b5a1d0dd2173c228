"""Compare the speed and memory of this project with PyTorch and timm, in one run.

    python benchmarks/compare.py --reference PYTHON [--output compare.json] [--only forward,step,...]

PYTHON is an interpreter with torch and timm. Each side is a process that stays alive. The sides alternate, one
repetition each, and the ratio is computed for each round. --output writes the results to a JSON file, and a bar
chart of the same name beside it. See benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.comparison.bars import Bar, bar_chart
from benchmarks.comparison.benchmarks import BENCHMARKS, Result, Settings, measure_machine
from benchmarks.comparison.driver import SideFailed
from benchmarks.comparison.gpu import GPU_BENCHMARKS, gpu_missing
from benchmarks.comparison.instructions import AVX2, ISAS, NATIVE
from benchmarks.comparison.processor import processor
from benchmarks.comparison.reckoning import Machine


def main() -> int:
    arguments = parse()
    settings = Settings(
        reference=arguments.reference,
        device_target="CPU",
        batch_size=arguments.batch_size,
        rounds=arguments.rounds,
        images=arguments.images,
        image_count=arguments.image_count,
        isa=arguments.isa,
        compiled=not arguments.no_compiled,
    )
    known = {**BENCHMARKS, **GPU_BENCHMARKS} if arguments.device_target == "GPU" else dict(BENCHMARKS)
    chosen = arguments.only.split(",") if arguments.only else list(known)
    if unknown := [name for name in chosen if name not in known]:
        print(f"--only: {', '.join(unknown)} is not a benchmark; choose from {', '.join(known)}", file=sys.stderr)
        return 2
    try:
        if arguments.device_target == "GPU" and (reason := gpu_missing(settings)):
            print(f"no GPU benchmark: {reason}")
            chosen = [name for name in chosen if name not in GPU_BENCHMARKS]
        machine, facts = measure_machine(settings)
        description = describe_machine(machine, facts, arguments.isa)
        print(description)
        results = []
        for name in chosen:
            found = known[name](settings, machine)
            for result in found if isinstance(found, list) else [found]:
                print(table_row(result), flush=True)
                results.append(result)
    except SideFailed as error:
        print(error, file=sys.stderr)
        return 1
    if arguments.output is not None:
        write(arguments.output, results, machine, description)
    return 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reference", type=Path, required=True, metavar="PYTHON")
    parser.add_argument("--output", type=Path, help="JSON file for all results; a PNG chart is written beside it")
    parser.add_argument("--device_target", choices=("CPU", "GPU"), default="CPU", help="GPU adds its benchmarks")
    parser.add_argument(
        "--isa", choices=ISAS, default=NATIVE, help="avx2 caps all sides, for a processor that has more"
    )
    parser.add_argument(
        "--no_compiled", action="store_true", help="without timm compiled, which takes minutes to compile"
    )
    parser.add_argument("--only", metavar="NAME,...", help=f"some of {','.join((*BENCHMARKS, *GPU_BENCHMARKS))}")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--images", type=Path, default=Path("outputs/compare/images"), help="created if missing")
    parser.add_argument("--image_count", type=int, default=768)
    return parser.parse_args()


def describe_machine(machine: Machine, facts: dict[str, Any], isa: str) -> str:
    """Return two lines that describe the processor, its instructions, the package versions and the measured rates."""
    capped = ", all sides capped at AVX2" if isa == AVX2 else ""
    versions = "; ".join(side["version"] for side in facts.values())
    products = ", ".join(f"{name} {side['flops'] / 1e9:.0f} GFLOP/s" for name, side in facts.items())
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    return (
        f"{processor()}{capped}, {versions}, load {load}\n"
        f"matrix product {products}; copy {machine.bytes_per_second / 1e9:.0f} GB/s"
    )


def table_row(result: Result) -> str:
    """Return the result as text: work, value of each side, ratio with quartiles, distance from the floor."""
    values = ", ".join(f"{name} {value:.3g} {result.unit}" for name, value in result.values.items())
    lines = [f"\n{result.name}: {result.work}", f"  {values}"]
    if result.ratio is not None:
        middle, low, high = result.ratio
        lines.append(f"  ratio {middle:.2f} ({low:.2f} to {high:.2f}); target: {result.target}")
    elif result.target:
        lines.append(f"  target: {result.target}")
    if result.floor is not None:
        times = ", ".join(f"{name} {value / result.floor:.2f} times the floor" for name, value in result.values.items())
        lines.append(f"  floor {result.floor:.3g} {result.unit}: {times}")
    lines += [f"  {name}: {value}" for name, value in result.notes.items()]
    return "\n".join(lines)


def write(path: Path, results: list[Result], machine: Machine, description: str) -> None:
    """Write the JSON file, and a PNG chart of the ratios beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    report = {
        "machine": description,
        "flops": machine.flops,
        "bytes_per_second": machine.bytes_per_second,
        "results": [result.as_json() for result in results],
    }
    path.write_text(json.dumps(report, indent=1) + "\n")
    bars = [Bar(r.name, *r.ratio, target=r.target_ratio) for r in results if r.ratio is not None]
    if bars:
        bar_chart("speed relative to timm (memory: share of it); orange: target", bars).savefig(
            path.with_suffix(".png")
        )


if __name__ == "__main__":
    sys.exit(main())
