"""The curves as a picture, drawn with Pillow alone."""

from __future__ import annotations

from pathlib import Path

from compare import METRICS, OURS, THEIRS, Curves
from PIL import Image, ImageDraw, ImageFont

PANEL_WIDTH, PANEL_HEIGHT, MARGIN = 560, 380, 60
COLORS = {OURS: (214, 96, 20), THEIRS: (40, 90, 190)}
GRAY = (205, 205, 205)
PANELS = ("top1", "ema_top1", "loss", "train_loss")
GRID_LINES = 4


def draw_curves(path: Path, curves: Curves) -> None:
    """A panel for each metric over the epochs, a line for each run, a color for each side."""
    columns = 2
    rows = -(-len(PANELS) // columns)
    picture = Image.new("RGB", (columns * PANEL_WIDTH, rows * PANEL_HEIGHT), "white")
    for number, metric in enumerate(PANELS):
        corner = (number % columns * PANEL_WIDTH, number // columns * PANEL_HEIGHT)
        draw_panel(ImageDraw.Draw(picture), corner, metric, curves)
    picture.save(path, optimize=True)


def draw_panel(draw: ImageDraw.ImageDraw, corner: tuple[int, int], metric: str, curves: Curves) -> None:
    """One metric; `corner` is the panel's upper left one."""
    values = [row[metric] for rows in curves.values() for row in rows]
    low, high = min(values), max(values)
    room = (high - low) * 0.05 or 1.0
    low, high = low - room, high + room
    last = max(len(rows) for rows in curves.values())
    left, right = corner[0] + MARGIN, corner[0] + PANEL_WIDTH - MARGIN // 3
    top, bottom = corner[1] + MARGIN * 2 // 3, corner[1] + PANEL_HEIGHT - MARGIN * 2 // 3
    font = ImageFont.load_default(14)

    def point(epoch: float, value: float) -> tuple[float, float]:
        across = (epoch - 1) / max(last - 1, 1)
        return left + across * (right - left), bottom - (value - low) / (high - low) * (bottom - top)

    for number in range(GRID_LINES + 1):
        value = low + (high - low) * number / GRID_LINES
        _, y = point(1, value)
        draw.line([(left, y), (right, y)], fill=GRAY)
        draw.text((left - 8, y), f"{value:.3g}", fill="black", font=font, anchor="rm")
        epoch = 1 + round((last - 1) * number / GRID_LINES)
        draw.text((point(epoch, low)[0], bottom + 6), str(epoch), fill="black", font=font, anchor="mt")
    for (side, _), rows in curves.items():
        draw.line([point(row["epoch"], row[metric]) for row in rows], fill=COLORS[side], width=2)
    draw.text((left, top - 8), METRICS[metric], fill="black", font=font, anchor="lb")
    draw.text((right, bottom + 22), "epoch", fill="black", font=font, anchor="rt")
    for number, (side, color) in enumerate(COLORS.items()):
        draw.text((right - 90 * number, top - 8), side, fill=color, font=font, anchor="rb")
