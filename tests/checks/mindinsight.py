"""Compares the curves that MindInsight serves with the run's metrics: `tests/checks/mindinsight.py [--port PORT]`.

Trains a small network for two epochs, starts MindInsight on its summaries, requests the curves over HTTP, compares them
with metrics.csv and stops the server. Ends with exit code 1 if they differ. Not a test, because
scripts/run_mindinsight.sh downloads 200 MB into .venv-mindinsight and starts a server.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from tests.tiny_project import ARCH, metrics, script, wrapper, write_config, write_images

API = "http://127.0.0.1:{port}/v1/mindinsight/datavisual/"
LOADING_SECONDS = 60  # the server reads the files in the background
STEPS = 6  # 24 images, 8 a step, 2 epochs


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=8080)
    port = parser.parse_args().port
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        script("train.py", "--config_path", write_config(folder, write_images(folder / "data")))
        print(wrapper("run_mindinsight.sh", folder / "summaries", "--port", port).stdout.strip())
        try:
            found = curves(port)
        finally:
            print(wrapper("run_mindinsight.sh", "--stop", "--port", port).stdout.strip())
        return report(found, metrics(folder))


def ask(port: int, what: str, **values: str) -> dict:
    """Return the server's answer to a request of its API."""
    with urllib.request.urlopen(
        f"{API.format(port=port)}{what}?{urllib.parse.urlencode(values)}", timeout=30
    ) as answer:
        return json.load(answer)


def curves(port: int) -> dict[str, list[tuple[int, float]]]:
    """Wait until the server has read the run, and return the points (step, value) of every curve."""
    run, found = f"./{ARCH}_test", {}
    for _ in range(LOADING_SECONDS):
        (job,) = ask(port, "train-jobs")["train_jobs"]
        assert job["train_id"] == run, job
        for tag in job["plugins"].get("scalar", []):
            points = ask(port, "scalar/metadata", train_id=run, tag=tag)["metadatas"]
            found[tag.removesuffix("/scalar")] = [(point["step"], point["value"]) for point in points]
        if len(found.get("top1", [])) == 2:
            break
        time.sleep(1)
    return found


def report(found: dict[str, list[tuple[int, float]]], rows: list[dict[str, str]]) -> int:
    """Print the comparison of the curves with the rows of metrics.csv; return 1 if they differ."""
    for name, points in sorted(found.items()):
        print(f"{name}: {len(points)} points, {', '.join(f'{value:.6g}' for _, value in points)}")
    checks = {
        f"a loss and a learning rate for each of the {STEPS} steps": all(
            [step for step, _ in found.get(name, [])] == list(range(1, STEPS + 1)) for name in ("loss", "learning_rate")
        ),
        "top-1 of each epoch as in metrics.csv": close(found, "top1", rows),
        "validation loss of each epoch as in metrics.csv": close(found, "validation_loss", rows, "loss"),
    }
    for what, holds in checks.items():
        print(f"{'yes' if holds else 'NO '} {what}")
    return 0 if all(checks.values()) else 1


def close(found: dict[str, list[tuple[int, float]]], curve: str, rows: list[dict[str, str]], column: str = "") -> bool:
    """Return whether the values of a curve equal those of a column, to the digits of the file."""
    wanted = [float(row[column or curve]) for row in rows]
    values = [value for _, value in found.get(curve, [])]
    return len(values) == len(wanted) and all(abs(v - w) <= 1e-4 * max(1, abs(w)) for v, w in zip(values, wanted))


if __name__ == "__main__":
    sys.exit(main())
