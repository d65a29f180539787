"""Whether two picture files show the same: an SVG by its text, a PNG by its pixels."""

from __future__ import annotations

from pathlib import Path


def same_picture(found: Path, drawn: Path) -> bool:
    """Whether `found` shows what `drawn` does, and holds nothing besides."""
    one, other = found.read_bytes(), drawn.read_bytes()
    if one == other:
        return True
    if drawn.suffix == ".svg":
        return one.replace(b"\r\n", b"\n") == other
    return _same_pixels(found, drawn)


def _same_pixels(found: Path, drawn: Path) -> bool:
    """Equal pixels, and no other chunk (a second frame, a palette)."""
    from matplotlib import image

    # Chunks first: their header holds width and height, so that nothing larger is ever decoded.
    if _chunks(found.read_bytes()) != _chunks(drawn.read_bytes()):
        return False
    try:
        pixels = image.imread(found)
    except (OSError, SyntaxError, ValueError):
        return False
    expected = image.imread(drawn)
    return pixels.shape == expected.shape and bool((pixels == expected).all())


def _chunks(data: bytes) -> list[bytes]:
    """All of a PNG but its compressed pixels: signature, then each chunk's kind, content and checksum."""
    chunks, at = [data[:8]], 8
    while at < len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        chunk = data[at + 4 : at + 12 + size]
        if chunk[:4] != b"IDAT":
            chunks.append(chunk)
        at += 12 + size
    return chunks
