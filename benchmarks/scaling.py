"""Estimate the time of a training step on many devices: `python -m benchmarks.scaling`. Nothing is measured.

Every device computes on its own batch, and a ring all-reduce sums the gradients. Meanwhile the processor reads and
prepares the images of the next step. The step takes as long as the slower of the two. All assumptions are options.
`--dry_run` of train.py measures the speed of a device and of the image preparation.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass

from src.model.variants import Variant, get_variant, patch_grid

GRADIENT_BYTES = 4  # gradients are float32 at every amp_level
CLASSES = 1000


@dataclass(frozen=True)
class Cluster:
    """Assumptions about the machines. Bandwidths and storage are in bytes/s in one direction.

    Attributes:
        flops: floating-point operations per second that a device sustains in this network.
        inside, between: bandwidth between the devices of a machine, and between machines.
        latency: seconds per message, independent of its size.
        messages: all-reduces per step; 0 for one per parameter, as in this project.
        images_per_core: images per second that a core prepares.
        cores_per_device: processor cores per device.
        image_bytes: size of an image file.
        storage: bandwidth of the storage that all machines share.
    """

    flops: float
    devices_per_machine: int
    inside: float
    between: float
    latency: float
    messages: int
    images_per_core: float
    cores_per_device: int
    image_bytes: float
    storage: float


@dataclass(frozen=True)
class Step:
    """Seconds of each part of a step."""

    compute: float
    all_reduce: float
    prepare: float
    read: float

    @property
    def seconds(self) -> float:
        """Duration of the step; the next images are read and prepared during computing and all-reduce."""
        return max(self.compute + self.all_reduce, self.prepare, self.read)

    @property
    def limit(self) -> str:
        """Bottleneck of the step."""
        parts = {"preparing images": self.prepare, "reading images": self.read}
        name = max(parts, key=parts.__getitem__)
        if parts[name] > self.compute + self.all_reduce:
            return name
        return "all-reduce" if self.all_reduce > self.compute else "computing"


def parameter_count(variant: Variant, classes: int = CLASSES) -> int:
    """Return the number of parameters with a relative position bias per block, layer scale and mean pooling."""
    dim, depth = variant.embed_dim, variant.depth
    grid = patch_grid(variant, variant.image_size)
    hidden = 4 * dim
    bias_table = ((2 * grid - 1) ** 2 + 3) * variant.num_heads
    block = 3 * dim * dim + 2 * dim + dim * dim + dim + 2 * dim * hidden + hidden + dim + 4 * dim + 2 * dim + bias_table
    patches = 3 * variant.patch_size**2 * dim + dim
    return depth * block + patches + dim + 2 * dim + dim * classes + classes


def tensor_count(variant: Variant) -> int:
    """Return the number of parameter tensors."""
    return 16 * variant.depth + 7


def step_operations(variant: Variant) -> float:
    """Return the floating-point operations of training on one image: three forward passes, two per multiply-add."""
    dim = variant.embed_dim
    patches = patch_grid(variant, variant.image_size) ** 2
    tokens = patches + 1
    embedding = patches * 3 * variant.patch_size**2 * dim
    return 3.0 * 2.0 * (variant.depth * (12 * tokens * dim * dim + 2 * tokens * tokens * dim) + embedding)


def ring_all_reduce(size: float, devices: int, bandwidth: float, latency: float, messages: int = 1) -> float:
    """Return the seconds to sum `size` bytes over a ring of `devices`.

    The sum takes `devices` - 1 rounds, and so does its distribution. Each round sends 1 / `devices` of the data
    (Patarasuk and Yuan, "Bandwidth optimal all-reduce algorithms", 2009).
    """
    rounds = 2 * (devices - 1)
    return rounds * size / devices / bandwidth + rounds * latency * messages


def step(variant: Variant, devices: int, batch_size: int, cluster: Cluster) -> Step:
    """Return the parts of a step of `batch_size` images per device."""
    bandwidth = cluster.inside if devices <= cluster.devices_per_machine else cluster.between
    return Step(
        compute=batch_size * step_operations(variant) / cluster.flops,
        all_reduce=ring_all_reduce(
            parameter_count(variant) * GRADIENT_BYTES,
            devices,
            bandwidth,
            cluster.latency,
            cluster.messages or tensor_count(variant),
        ),
        prepare=batch_size / (cluster.images_per_core * cluster.cores_per_device),
        read=batch_size * devices * cluster.image_bytes / cluster.storage,
    )


def main() -> int:
    """Print a table for each architecture."""
    words = _options().parse_args()
    for arch in words.arch:
        variant = get_variant(arch)
        print(
            f"\n{arch}: {parameter_count(variant) * GRADIENT_BYTES / 1e6:.0f} MB of gradients, "
            f"{step_operations(variant) / 1e9:.0f} GFLOP per image, {words.batch_size} images per device.\n"
        )
        networks = [f"all-reduce at {speed:g} Gbit/s" for speed in words.between_gbit]
        head = ["devices", "images a step", "computing", *networks, "step", "images/s", "of ideal", "bottleneck"]
        print(f"| {' | '.join(head)} |")
        print(f"|{' ---: |' * (len(head) - 1)} --- |")
        for devices in words.devices:
            print(_row(variant, devices, words))
        print(f"\n{data_limits(variant, _cluster(words, words.between_gbit[-1]))}")
    return 0


def data_limits(variant: Variant, cluster: Cluster) -> str:
    """Return a sentence with the load on processors and storage if the devices never wait."""
    wanted = cluster.flops / step_operations(variant)
    return (
        f"One device processes at most {wanted:.0f} images/s. {wanted / cluster.images_per_core:.1f} of its "
        f"{cluster.cores_per_device} cores prepare them. Storage is the bottleneck beyond "
        f"{cluster.storage / cluster.image_bytes / wanted:.0f} devices."
    )


def _row(variant: Variant, devices: int, words: argparse.Namespace) -> str:
    """Return a row of the table; step, images/s and bottleneck are for the fastest network."""
    steps = [step(variant, devices, words.batch_size, _cluster(words, speed)) for speed in words.between_gbit]
    last = steps[-1]
    speed = devices * words.batch_size / last.seconds
    ideal = devices * words.batch_size / last.compute
    cells = [
        str(devices),
        str(devices * words.batch_size),
        f"{1000 * last.compute:.0f} ms",
        *(f"{1000 * each.all_reduce:.0f} ms" for each in steps),
        f"{1000 * last.seconds:.0f} ms",
        f"{speed:,.0f}",
        f"{100 * speed / ideal:.0f} %",
        last.limit,
    ]
    return f"| {' | '.join(cells)} |"


def _cluster(words: argparse.Namespace, between_gbit: float) -> Cluster:
    return Cluster(
        flops=words.tflops * 1e12,
        devices_per_machine=words.devices_per_machine,
        inside=words.inside_gbyte * 1e9,
        between=between_gbit * 1e9 / 8,
        latency=words.latency_us * 1e-6,
        messages=words.messages,
        images_per_core=words.images_per_core,
        cores_per_device=words.cores_per_device,
        image_bytes=words.image_kbyte * 1e3,
        storage=words.storage_gbyte * 1e9,
    )


def _options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--arch", nargs="+", default=["beit_base_patch16_224", "beit_large_patch16_224"])
    parser.add_argument("--devices", nargs="+", type=int, default=[4, 8, 16, 64, 256, 1024])
    parser.add_argument("--batch_size", type=int, default=64, help="images per device")
    parser.add_argument("--tflops", type=float, default=60, help="sustained speed of a device")
    parser.add_argument("--devices_per_machine", type=int, default=8)
    parser.add_argument("--inside_gbyte", type=float, default=100, help="GB/s between the devices of a machine")
    parser.add_argument("--between_gbit", nargs="+", type=float, default=[10, 25, 100], help="Gbit/s between machines")
    parser.add_argument("--latency_us", type=float, default=5, help="latency of a message")
    parser.add_argument("--messages", type=int, default=0, help="all-reduces per step; 0 for one per parameter")
    parser.add_argument("--images_per_core", type=float, default=400, help="images/s that one core prepares")
    parser.add_argument("--cores_per_device", type=int, default=8)
    parser.add_argument("--image_kbyte", type=float, default=110, help="size of an image file; ImageNet's mean")
    parser.add_argument("--storage_gbyte", type=float, default=5, help="GB/s of the storage that all machines share")
    return parser


if __name__ == "__main__":
    sys.exit(main())
