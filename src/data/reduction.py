"""Images decoded at 1/2, 1/4 or 1/8 of their size, as libjpeg can while it decodes: the option `decode: fast`."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from PIL import Image

EXACT, FAST = "exact", "fast"  # values of the option `decode`
REDUCTIONS = (8, 4, 2)  # those of libjpeg, the largest first

Size = tuple[int, int]
"""(width, height), in pixels."""
Box = tuple[int, int, int, int]
"""(left, upper, right, lower), in pixels."""
Edges = tuple[float, float, float, float]
"""A box with edges inside of pixels."""
Reduce = Callable[[Size], int]
"""Return a number of `REDUCTIONS`, or 1, for an image of a size."""


@dataclass(frozen=True, eq=False)
class Decoded:
    """The `image`, of mode RGB, of a file of `size` pixels, decoded at 1/`reduction` of its size, rounded up."""

    image: Image.Image
    size: Size
    reduction: int = 1

    @property
    def edges(self) -> Edges:
        """The edges of the whole file in pixels of `image`."""
        return 0, 0, self.size[0] / self.reduction, self.size[1] / self.reduction

    def crop(self, box: Box) -> tuple[Image.Image, Edges]:
        """Return the pixels that `box`, in pixels of the file, touches, and the edges of the box relative to them."""
        left, upper, right, lower = (edge / self.reduction for edge in box)
        x, y = math.floor(left), math.floor(upper)
        return self.image.crop((x, y, math.ceil(right), math.ceil(lower))), (left - x, upper - y, right - x, lower - y)


def whole(image: Image.Image | Decoded) -> Decoded:
    """Return an image of mode RGB as a decoded one that was not reduced."""
    return image if isinstance(image, Decoded) else Decoded(image, image.size)


def largest_reduction(size: Size, needed: Size) -> int:
    """Return the largest reduction after which `size` is at least `needed` in both directions; 1 if there is none."""
    fitting = (r for r in REDUCTIONS if size[0] >= r * needed[0] and size[1] >= r * needed[1])
    return next(fitting, 1)
