"""`.gitattributes`: which files travel as LFS.

Every repo on the real Hub starts with a `.gitattributes` that names the usual weight formats, and the Hub
adds a line for each large file that no pattern covers. Both happen here too, so that a rehearsal sees the
extra file and its changes before a release does.

Only what the Hub writes is understood: one pattern a line with `filter=lfs`; no negation, no macros.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

PATH = ".gitattributes"
_RULE = "filter=lfs diff=lfs merge=lfs -text"
_MODEL = (
    "*.7z *.arrow *.bin *.bz2 *.ckpt *.ftz *.gz *.h5 *.joblib *.lfs.* *.mlmodel *.model *.msgpack *.npy "
    "*.npz *.onnx *.ot *.parquet *.pb *.pickle *.pkl *.pt *.pth *.rar *.safetensors saved_model/**/* "
    "*.tar.* *.tar *.tflite *.tgz *.wasm *.xz *.zip *.zst *tfevents*"
)
_DATASET = (
    "*.avro *.lz4 *.mds *.pcm *.sam *.raw *.aac *.flac *.mp3 *.ogg *.wav *.bmp *.gif *.png *.tiff *.jpg "
    "*.jpeg *.webp *.mp4 *.webm"
)


def initial(repo_type: str) -> bytes:
    """The file a new repo starts with."""
    patterns = _MODEL.split() + (_DATASET.split() if repo_type == "dataset" else [])
    return "".join(f"{pattern} {_RULE}\n" for pattern in patterns).encode()


class Attributes:
    """The LFS patterns of one `.gitattributes`."""

    def __init__(self, text: bytes):
        self.text = text
        self._patterns = [
            _regex(words[0])
            for line in text.decode("utf-8", "replace").splitlines()
            if len(words := line.split()) > 1 and "filter=lfs" in words
        ]

    def is_lfs(self, path: str) -> bool:
        return any(pattern.fullmatch(path) for pattern in self._patterns)

    def with_paths(self, paths: Iterable[str]) -> bytes:
        """The text with a line for each of these paths that no pattern covers yet."""
        missing = [path for path in paths if not self.is_lfs(path)]
        lines = "".join(f"{_escape(path)} {_RULE}\n" for path in missing)
        separator = b"" if self.text.endswith(b"\n") or not self.text or not lines else b"\n"
        return self.text + separator + lines.encode()


def union(ours: bytes, theirs: bytes) -> bytes:
    """Every line of both, ours first: how two changed `.gitattributes` are merged."""
    lines = list(dict.fromkeys(ours.splitlines() + theirs.splitlines()))
    return b"".join(line + b"\n" for line in lines)


def _escape(path: str) -> str:
    special = re.sub(r"([*?\[\]\\])", r"\\\1", path)
    return re.sub(r"\s", "[[:space:]]", special)


def _regex(pattern: str) -> re.Pattern[str]:
    """A pattern without a slash matches the name in any folder; `**/` any number of folders."""
    anchored = "/" in pattern
    out = ""
    for token in re.findall(r"\[\[:space:\]\]|\*\*/|\*\*|\*|\?|\\.|.", pattern.lstrip("/"), re.S):
        out += {"[[:space:]]": r"\s", "**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}.get(
            token, re.escape(token[1:] if len(token) == 2 and token[0] == "\\" else token)
        )
    return re.compile(out if anchored else f"(?:.*/)?{out}", re.S)
