"""Measure how time and memory grow with the batch, the image size, the folder and the ranks, here and in timm.

    python benchmarks/growth.py --reference PYTHON [--only batch,image_size,folder,ranks] [--runs 2]

PYTHON is an interpreter with torch and timm. Each value is measured --runs times, and the minimum counts. The runs are
kept in the --output file: a second call measures only what is missing, and then prints the tables and writes the chart
beside that file. See benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.comparison.benchmarks import OURS, THEIRS, Settings
from benchmarks.comparison.driver import ROOT, SideFailed
from benchmarks.comparison.growth_chart import MEGABYTE, growth_chart
from benchmarks.comparison.growth_parts import PARTS, PEAK, Measured, Part
from benchmarks.comparison.instructions import NATIVE
from benchmarks.comparison.processor import processor
from src.files.atomic_file import write_atomically

OUTPUT = ROOT / "benchmarks" / "results" / "growth.json"
Runs = dict[str, dict[str, list[Measured]]]
"""The measurements by part and value."""


def main() -> int:
    arguments = parse()
    settings = Settings(
        reference=arguments.reference,
        device_target="CPU",
        batch_size=1,
        rounds=arguments.rounds,
        images=arguments.images,
        image_count=0,
        isa=NATIVE,
        compiled=False,
    )
    chosen = arguments.only.split(",") if arguments.only else list(PARTS)
    if unknown := [name for name in chosen if name not in PARTS]:
        print(f"--only: {', '.join(unknown)} is not a part; choose from {', '.join(PARTS)}", file=sys.stderr)
        return 2
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    report = read_report(arguments.output)
    if report["machine"] != machine():
        print(
            f"{arguments.output} is from {report['machine']}, this is {machine()}; choose another --output",
            file=sys.stderr,
        )
        return 2
    try:
        for number in range(1, arguments.runs + 1):
            for name in chosen:
                measure(report, name, number, limit(PARTS[name], arguments.largest_folder), settings, arguments.output)
    except FileExistsError as error:
        print(f"--images: {error.filename} exists; remove it or choose another folder", file=sys.stderr)
        return 2
    except SideFailed as error:
        print(error, file=sys.stderr)
        return 1
    points = {name: least(runs) for name in PARTS if (runs := report["runs"].get(name))}
    print(report["machine"])
    for name, measured in points.items():
        print(table(PARTS[name], measured))
    figure = growth_chart(PARTS, points)
    write_atomically(arguments.output.with_suffix(".png"), lambda file: figure.savefig(file, format="png"))
    return 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reference", type=Path, required=True, metavar="PYTHON")
    parser.add_argument("--output", type=Path, default=OUTPUT, help="JSON file of all runs; the chart is beside it")
    parser.add_argument("--only", metavar="NAME,...", help=f"some of {','.join(PARTS)}")
    parser.add_argument("--runs", type=int, default=2, help="measurements of each value, the minimum counts")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of a measurement of the forward pass")
    parser.add_argument("--largest_folder", type=int, default=1_000_000, help="files")
    parser.add_argument(
        "--images", type=Path, default=Path("outputs/growth/images"), help="folder to make and to remove"
    )
    arguments = parser.parse_args()
    if min(arguments.runs, arguments.rounds) < 1:
        parser.error("--runs and --rounds must be at least 1")
    return arguments


def read_report(path: Path) -> dict[str, Any]:
    """Return the runs of an earlier call, or an empty report of this machine."""
    return json.loads(path.read_text()) if path.exists() else {"machine": machine(), "runs": {}}


def machine() -> str:
    """Return the processor and the number of its hardware threads that this process may use (`taskset`)."""
    return f"{processor()}, {len(os.sched_getaffinity(0))} hardware thread(s) used"


def limit(part: Part, largest_folder: int) -> Part:
    """Return the part without folders of more than `largest_folder` files."""
    if part is not PARTS["folder"]:
        return part
    return replace(part, values=tuple(value for value in part.values if value <= largest_folder))


def measure(report: dict[str, Any], name: str, number: int, part: Part, settings: Settings, output: Path) -> None:
    """Measure each value that has fewer than `number` runs, and save the report after each."""
    runs: Runs = report["runs"]
    for value in part.values:
        found = runs.setdefault(name, {}).setdefault(str(value), [])
        if len(found) >= number:
            continue
        print(f"{part.title} {value}, run {number}", flush=True)
        found.append(part.measure(settings, value))
        text = json.dumps(report, indent=1) + "\n"
        write_atomically(output, lambda file, text=text: file.write(text.encode()))


def least(runs: dict[str, list[Measured]]) -> dict[int, Measured]:
    """Return the minimum of each quantity of each side at each value."""
    return {
        int(value): {
            side: {key: min(run[side][key] for run in found) for key in found[0][side]} for side in (OURS, THEIRS)
        }
        for value, found in sorted(runs.items(), key=lambda item: int(item[0]))
        if found
    }


def table(part: Part, measured: dict[int, Measured]) -> str:
    """Return a Markdown table: the times of each side and their ratio, the peak memory of each side."""
    first, grows = next(iter(measured)), next(iter(part.times))
    head = [part.title]
    for meaning in part.times.values():
        head += [f"{meaning}, ms: {OURS}", THEIRS, f"{THEIRS} / {OURS}"]
    head += [f"growth of {part.times[grows]}: expected", OURS, THEIRS, f"peak MB: {OURS}", THEIRS]
    lines = [f"\n{part.work}. Expected: {part.expected}.\n", f"| {' | '.join(head)} |", "| --- " * len(head) + "|"]
    for value, sides in measured.items():
        cells = [f"{value:,}"]
        for key in part.times:
            times = [sides[side][key] for side in (OURS, THEIRS)]
            cells += [*(f"{1000 * seconds:.3g}" for seconds in times), f"{times[1] / times[0]:.2f}"]
        cells.append(f"{part.factor(first, value):.3g}")
        cells += [f"{sides[side][grows] / measured[first][side][grows]:.3g}" for side in (OURS, THEIRS)]
        cells += [f"{sides[side][PEAK] / MEGABYTE:.0f}" for side in (OURS, THEIRS)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
