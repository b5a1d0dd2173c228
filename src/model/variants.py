"""The BEiT variants, a row each. Imports no MindSpore: the command line needs the names before it needs a network."""

from dataclasses import dataclass

from src.errors import UserError


@dataclass(frozen=True)
class Variant:
    """Sizes of one architecture: pixels for `image_size` and `patch_size`, channels for `embed_dim`."""

    image_size: int
    patch_size: int
    embed_dim: int
    depth: int
    num_heads: int
    mlp_ratio: float = 4.0


VARIANTS: dict[str, Variant] = {
    # name                            image patch  dim  depth heads
    "beit_base_patch16_224": Variant(224, 16, 768, 12, 12),
    "beit_base_patch16_384": Variant(384, 16, 768, 12, 12),
    "beit_large_patch16_224": Variant(224, 16, 1024, 24, 16),
    "beit_large_patch16_384": Variant(384, 16, 1024, 24, 16),
    "beit_large_patch16_512": Variant(512, 16, 1024, 24, 16),
    # for small machines: the widths of DeiT's tiny and small, which the BEiT paper does not have
    "beit_tiny_patch16_224": Variant(224, 16, 192, 12, 3),
    "beit_small_patch16_224": Variant(224, 16, 384, 12, 6),
    # for images of a few pixels, such as icons and scanned characters; the quickstart takes the first
    "beit_micro_patch4_32": Variant(32, 4, 96, 4, 3),
    "beit_micro_patch8_32": Variant(32, 8, 128, 4, 4),
    # compiles in seconds, to test a pipeline or an installation, as timm's test_vit does
    "test_beit_patch8_32": Variant(32, 8, 64, 2, 2),
}


def get_variant(arch: str) -> Variant:
    """The row named `arch`; `UserError` for an unknown name."""
    if arch not in VARIANTS:
        raise UserError(f"arch '{arch}' is unknown: choose one of {', '.join(VARIANTS)}")
    return VARIANTS[arch]


def patch_grid(variant: Variant, image_size: int) -> int:
    """Patches along one side of a square image of `image_size` pixels; `UserError` if the patch does not fit."""
    if image_size < variant.patch_size or image_size % variant.patch_size:
        raise UserError(
            f"image_size {image_size} is not a multiple of the patch size {variant.patch_size}: "
            f"use {max(round(image_size / variant.patch_size), 1) * variant.patch_size}"
        )
    return image_size // variant.patch_size
