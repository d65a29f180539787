"""Pictures for canaries decode to what they claim to be."""

from __future__ import annotations

import base64
import io

import pytest
from PIL import Image

from bot.serving import pictures


def decoded(data: str) -> Image.Image:
    image = Image.open(io.BytesIO(base64.b64decode(data, validate=True)))
    image.load()
    return image


@pytest.mark.parametrize("colour", pictures.COLOURS)
@pytest.mark.parametrize("side", [64, 224])
def test_an_image_is_a_flat_png(colour: str, side: int) -> None:
    head, data = pictures.image_url(colour, side).split(",")
    image = decoded(data)
    assert (head, image.format, image.size) == ("data:image/png;base64", "PNG", (side, side))
    assert image.getcolors() == [(side * side, pictures.COLOURS[colour])]


def test_a_video_is_its_frames_in_order() -> None:
    head, *frames = pictures.video_url(["red", "blue"], 128).split(",")
    assert head == "data:video/jpeg;base64"
    seen = [decoded(frame) for frame in frames]
    assert [(each.format, each.size) for each in seen] == [("JPEG", (128, 128))] * 2
    for image, colour in zip(seen, ["red", "blue"], strict=True):
        near = zip(image.getpixel((64, 64)), pictures.COLOURS[colour], strict=True)
        assert all(abs(a - b) <= 4 for a, b in near), colour


def test_the_same_picture_has_the_same_bytes() -> None:
    assert pictures.image_url("green", 96) == pictures.image_url("green", 96)
    assert pictures.video_url(["red", "blue"], 96) != pictures.video_url(["blue", "red"], 96)


def test_a_message_holds_picture_then_question() -> None:
    url = pictures.image_url("red", 64)
    (message,) = pictures.about_image(url, "What colour?")
    assert message["role"] == "user"
    assert [part["type"] for part in message["content"]] == ["image_url", "text"]
    assert message["content"][0]["image_url"]["url"] == url
