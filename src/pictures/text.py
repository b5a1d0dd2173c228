"""Lines of text in pictures: the font that has their letters, cut to the width there is."""

from __future__ import annotations

from PIL import ImageDraw, ImageFont

FONT_SIZE = 14
INK = (20, 20, 20)
# Pillow's own font has Latin letters only; these, where one is installed, have most others.
LAST_LATIN = "\u024f"
WIDE_FONTS = ("NotoSansCJK-Regular.ttc", "NotoSans-Regular.ttf", "wqy-microhei.ttc", "DejaVuSans.ttf")

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def write_line(
    draw: ImageDraw.ImageDraw,
    place: tuple[float, float],
    text: str,
    width: float,
    *,
    color: tuple[int, int, int] = INK,
    anchor: str = "la",
) -> None:
    """Write one line at `place`, which `anchor` (Pillow's two letters) relates to it, cut to `width` pixels."""
    font = font_for(text)
    shown = text
    while draw.textlength(shown, font) > width:
        shown = f"{shown.rstrip('…')[:-1]}…"
    draw.text(place, shown, color, font, anchor=anchor)


def font_for(text: str) -> Font:
    """Pillow's own font, or where `text` has letters that it lacks an installed one, if there is any."""
    if any(letter > LAST_LATIN for letter in text):
        for name in WIDE_FONTS:
            try:
                return ImageFont.truetype(name, FONT_SIZE)
            except OSError:  # it is not installed
                continue
    return ImageFont.load_default(FONT_SIZE)
