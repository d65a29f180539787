"""stub"""

from __future__ import annotations

import sysconfig
import zlib
from pathlib import Path

_LEFT_OUT = frozenset({"test", "tests", "idlelib", "lib2to3", "site-packages", "dist-packages", "__pycache__", "turtledemo"})


def library_sources() -> list[tuple[str, str]]:
    """(path, text) of the standard library's modules in sorted order, tests and vendored wheels left out."""
    root = Path(sysconfig.get_path("stdlib"))
    found = []
    for path in sorted(root.rglob("*.py")):
        relative = path.relative_to(root)
        if not _LEFT_OUT.intersection(relative.parts) and path.stat().st_size >= 200:
            found.append((relative.as_posix(), path.read_text(encoding="utf-8", errors="replace")))
    return found


def library_prose() -> list[tuple[str, str]]:
    """(name, text) of the language reference's topics that `pydoc` ships."""
    from pydoc_data.topics import topics

    return [(f"pydoc/{name}", text.strip() + "\n") for name, text in sorted(topics.items())]


def held_out(path: str) -> bool:
    """Whether a text is kept from the fixture's training: one in sixteen, by its name."""
    return zlib.crc32(path.encode()) % 16 == 0
