"""Time ONNX files in turn, and by operator."""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnxruntime

# Runs in one turn of a file; the first is a warm-up. Every turn creates a new session, because the memory placement of
# a session changes its speed by several percent.
TURN = 4
PROFILED = 7  # runs of each file with the profiler on


def session_of(path: Path, profile: Path | None = None) -> onnxruntime.InferenceSession:
    """Return a session with ONNX Runtime's defaults, which use all cores."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if profile is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile)
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def run_once(session: onnxruntime.InferenceSession, images: np.ndarray) -> np.ndarray:
    """Return the logits of `images`."""
    return session.run(None, {session.get_inputs()[0].name: images})[0]


def alternate(paths: Mapping[str, Path], images: np.ndarray, rounds: int) -> dict[str, list[float]]:
    """Return the minimum seconds of each turn, by file. The order of the files is random in every round."""
    seconds: dict[str, list[float]] = {name: [] for name in paths}
    order = np.random.default_rng(0)
    for _ in range(rounds):
        for name in order.permutation(list(paths)):
            seconds[name].append(_turn(session_of(paths[name]), images))
    return seconds


def _turn(session: onnxruntime.InferenceSession, images: np.ndarray) -> float:
    run_once(session, images)
    taken = []
    for _ in range(TURN - 1):
        begin = time.perf_counter()
        run_once(session, images)
        taken.append(time.perf_counter() - begin)
    return min(taken)


def ratios(seconds: list[float], reference: list[float]) -> tuple[float, float, float]:
    """Return the speed relative to the reference, computed by round: median, lower and upper quartile."""
    quotients = np.array(reference) / np.array(seconds)
    return tuple(float(np.quantile(quotients, share)) for share in (0.5, 0.25, 0.75))


def by_operator(paths: Mapping[str, Path], images: np.ndarray) -> dict[str, dict[str, tuple[int, float]]]:
    """Return the number of nodes and their milliseconds, by file and operator.

    A node counts with its minimum over the runs, because other load on the machine only adds time.
    """
    with tempfile.TemporaryDirectory() as folder:
        sessions = {name: session_of(path, Path(folder) / name) for name, path in paths.items()}
        for session in sessions.values():
            for _ in range(PROFILED):
                run_once(session, images)
        return {name: _summed(Path(session.end_profiling())) for name, session in sessions.items()}


def _summed(profile: Path) -> dict[str, tuple[int, float]]:
    least: dict[str, dict[str, int]] = defaultdict(dict)
    for event in json.loads(profile.read_text()):
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            nodes = least[event["args"]["op_name"]]
            nodes[event["name"]] = min(event["dur"], nodes.get(event["name"], event["dur"]))
    kinds = {kind: (len(nodes), sum(nodes.values()) / 1000) for kind, nodes in least.items()}
    return dict(sorted(kinds.items(), key=lambda item: -item[1][1]))


def machine() -> str:
    """Return one line that describes the processor, the ONNX Runtime version and the load."""
    names = [
        line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line
    ]
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    processor = names[0] if names else "unknown processor"
    return f"{os.cpu_count()} cores ({processor}), ONNX Runtime {onnxruntime.__version__}, load {load}"
