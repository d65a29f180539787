"""Draw the end of `make demo` as the README's picture: `release-bot demo | python docs/demo_picture.py`.

What is drawn is the program's own output, read from standard input.
"""

from __future__ import annotations

import sys
from pathlib import Path

from matplotlib import font_manager
from PIL import Image, ImageDraw, ImageFont

TARGET = Path(__file__).with_name("demo.png")
SIZE, PADDING, BACKGROUND, INK, MUTED, ACCENT = 22, 28, "#0d1117", "#e6edf3", "#7d8590", "#7ee787"


def main() -> None:
    """Draw standard input to demo.png."""
    lines = ["$ make demo", "…", *sys.stdin.read().strip().splitlines()]
    font = ImageFont.truetype(font_manager.findfont("DejaVu Sans Mono"), SIZE)
    width = max(font.getlength(line) for line in lines) + 2 * PADDING
    step = round(SIZE * 1.45)
    image = Image.new("RGB", (int(width), step * len(lines) + 2 * PADDING), BACKGROUND)
    canvas = ImageDraw.Draw(image)
    for row, line in enumerate(lines):
        colour = ACCENT if line.startswith("$") else MUTED if set(line) <= set("─ ") or line == "…" else INK
        canvas.text((PADDING, PADDING + row * step), line, font=font, fill=colour)
    image.quantize(32).save(TARGET, optimize=True)


if __name__ == "__main__":
    main()
