"""What a training step would take on many devices: `python -m benchmarks.scaling`. A calculation, not a measurement.

Every device computes on its own batch, then the gradients are summed over a ring, and the images must be read and
prepared in time for the next step. A step takes as long as the slower of the two: computing and summing, or preparing.
All assumptions are options; `--dry_run` of train.py measures the first two on a machine of one's own.
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
    """What is assumed of the machines. Bandwidths and storage are in bytes/s, of one direction.

    Attributes:
        flops: floating-point operations a second that a device sustains in this network.
        inside, between: bandwidth from device to device of a machine, and from machine to machine.
        latency: seconds that a message takes whatever its size.
        messages: how many all-reduces the gradients of a step travel in; 0 for one per parameter, as in this project.
        images_per_core, cores_per_device: what the processor prepares.
        image_bytes, storage: size of an image file, and what all machines together read in a second.
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
    """Seconds of a step's parts, and of the whole; what holds it up."""

    compute: float
    all_reduce: float
    prepare: float
    read: float

    @property
    def seconds(self) -> float:
        """Preparing and reading the next images go on beside computing and summing."""
        return max(self.compute + self.all_reduce, self.prepare, self.read)

    @property
    def limit(self) -> str:
        """The part that the step waits for."""
        parts = {"preparing images": self.prepare, "reading images": self.read}
        name = max(parts, key=parts.__getitem__)
        if parts[name] > self.compute + self.all_reduce:
            return name
        return "all-reduce" if self.all_reduce > self.compute else "computing"


def parameter_count(variant: Variant, classes: int = CLASSES) -> int:
    """Parameters of a BEiT with a relative position bias in every block, layer scale and mean pooling."""
    dim, depth = variant.embed_dim, variant.depth
    grid = patch_grid(variant, variant.image_size)
    hidden = 4 * dim
    bias_table = ((2 * grid - 1) ** 2 + 3) * variant.num_heads
    block = 3 * dim * dim + 2 * dim + dim * dim + dim + 2 * dim * hidden + hidden + dim + 4 * dim + 2 * dim + bias_table
    patches = 3 * variant.patch_size**2 * dim + dim
    return depth * block + patches + dim + 2 * dim + dim * classes + classes


def tensor_count(variant: Variant) -> int:
    """How many tensors these parameters are."""
    return 16 * variant.depth + 7


def step_operations(variant: Variant) -> float:
    """Floating-point operations of training on an image: thrice the forward pass; two for a product and a sum."""
    dim = variant.embed_dim
    patches = patch_grid(variant, variant.image_size) ** 2
    tokens = patches + 1
    embedding = patches * 3 * variant.patch_size**2 * dim
    return 3.0 * 2.0 * (variant.depth * (12 * tokens * dim * dim + 2 * tokens * tokens * dim) + embedding)


def ring_all_reduce(size: float, devices: int, bandwidth: float, latency: float, messages: int = 1) -> float:
    """Seconds to sum `size` bytes over a ring of `devices`.

    Twice `devices` - 1 rounds, once to sum and once to hand round, each passing on a part of 1 / `devices`
    (Patarasuk and Yuan, "Bandwidth optimal all-reduce algorithms", 2009).
    """
    rounds = 2 * (devices - 1)
    return rounds * size / devices / bandwidth + rounds * latency * messages


def step(variant: Variant, devices: int, batch_size: int, cluster: Cluster) -> Step:
    """The parts of a step of `batch_size` images a device."""
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
            f"{step_operations(variant) / 1e9:.0f} GFLOP an image, {words.batch_size} images a device\n"
        )
        networks = [f"all-reduce at {speed:g} Gbit/s" for speed in words.between_gbit]
        head = ["devices", "images a step", "computing", *networks, "step", "images/s", "of ideal", "held up by"]
        print(f"| {' | '.join(head)} |")
        print(f"|{' ---: |' * (len(head) - 1)} --- |")
        for devices in words.devices:
            print(_row(variant, devices, words))
        print(f"\n{data_limits(variant, _cluster(words, words.between_gbit[-1]))}")
    return 0


def data_limits(variant: Variant, cluster: Cluster) -> str:
    """What the images ask of processors and storage where devices compute without ever waiting."""
    wanted = cluster.flops / step_operations(variant)
    return (
        f"A device takes {wanted:.0f} images/s at most: {wanted / cluster.images_per_core:.1f} of its "
        f"{cluster.cores_per_device} cores prepare them; reading them becomes the limit beyond "
        f"{cluster.storage / cluster.image_bytes / wanted:.0f} devices."
    )


def _row(variant: Variant, devices: int, words: argparse.Namespace) -> str:
    """A line of the table; step, images/s and what holds it up are those of the fastest network."""
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
    parser.add_argument("--tflops", type=float, default=60, help="sustained by a device")
    parser.add_argument("--devices_per_machine", type=int, default=8)
    parser.add_argument("--inside_gbyte", type=float, default=100, help="GB/s from device to device of a machine")
    parser.add_argument("--between_gbit", nargs="+", type=float, default=[10, 25, 100], help="from machine to machine")
    parser.add_argument("--latency_us", type=float, default=5, help="of a message")
    parser.add_argument("--messages", type=int, default=0, help="all-reduces of a step; 0: one per parameter")
    parser.add_argument("--images_per_core", type=float, default=400, help="images/s that a core prepares")
    parser.add_argument("--cores_per_device", type=int, default=8)
    parser.add_argument("--image_kbyte", type=float, default=110, help="of an image file: ImageNet's mean")
    parser.add_argument("--storage_gbyte", type=float, default=5, help="GB/s that all machines together read")
    return parser


if __name__ == "__main__":
    sys.exit(main())
