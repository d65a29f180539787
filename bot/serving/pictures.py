"""Pictures for the vision canaries: flat colours, and videos of two frames, as data URLs.

A flat colour is the one picture whose right answer every vision model knows, at any size, and which costs few
tokens. A video goes as a list of JPEG frames, which vLLM takes without any video decoder: `video/jpeg`, the
frames in base64 with commas between (vllm/multimodal/media/video.py of 0.32.0). The same colour and size give
the same bytes on one machine. Nothing here says how well a model sees.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

COLOURS: Mapping[str, tuple[int, int, int]] = {
    "red": (220, 30, 30),
    "green": (30, 160, 50),
    "blue": (30, 60, 220),
    "yellow": (240, 220, 40),
}
JPEG_QUALITY = 95


def image_url(colour: str, side: int) -> str:
    """A PNG of `side` × `side` pixels in one of COLOURS, as a data URL."""
    return "data:image/png;base64," + _encoded(colour, side, "PNG")


def video_url(colours: Sequence[str], side: int) -> str:
    """A video with one frame for each of `colours`, `side` × `side` pixels, as a data URL for vLLM."""
    frames = (_encoded(colour, side, "JPEG", quality=JPEG_QUALITY) for colour in colours)
    return "data:video/jpeg;base64," + ",".join(frames)


def about_image(url: str, question: str) -> list[dict[str, Any]]:
    """One user's message of a chat: the image, then the question."""
    return _about({"type": "image_url", "image_url": {"url": url}}, question)


def about_video(url: str, question: str) -> list[dict[str, Any]]:
    """One user's message of a chat: the video, then the question."""
    return _about({"type": "video_url", "video_url": {"url": url}}, question)


def _about(part: dict[str, Any], question: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": [part, {"type": "text", "text": question}]}]


def _encoded(colour: str, side: int, form: str, **options: Any) -> str:
    from PIL import Image

    file = io.BytesIO()
    Image.new("RGB", (side, side), COLOURS[colour]).save(file, form, **options)
    return base64.b64encode(file.getvalue()).decode("ascii")
