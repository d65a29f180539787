"""Everything in a checkpoint that is not weights: side files, local paths, pickles.

A side file is one that the base ships and that a quantizer has no business changing: tokenizer,
template, processors, generation config, licence. They must be the base's, byte for byte.

A local path betrays the machine a release was made on, and breaks tools that try to open it. It is
looked for in JSON values, text files and safetensors metadata; not in vocabularies and templates,
where a token such as `/home` or an example path is no leak, and not where the base says the same.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import PurePosixPath
from typing import Any

SIDE_FILES = (
    "tokenizer*.json", "tokenizer.model", "tokenizer*.jinja", "tiktoken.model", "*.tiktoken", "vocab.json",
    "vocab.txt", "merges.txt", "chat_template*", "additional_chat_templates/*", "special_tokens_map.json",
    "added_tokens.json",
    "preprocessor_config.json", "video_preprocessor_config.json", "image_processor_config.json",
    "feature_extractor_config.json", "processor_config.json", "generation_config.json",
    "LICENSE*", "LICENCE*", "NOTICE*",
)  # fmt: skip


def is_side_file(path: str) -> bool:
    """Whether `path` must be as the base has it."""
    return any(fnmatchcase(path, pattern) for pattern in SIDE_FILES)


# ── pickles ────────────────────────────────────────────────────────────────────────────────

_PICKLE_NAMES = re.compile(
    r".*\.(bin|pt|pth|pkl|pickle|ckpt|joblib|dill|npy|npz|mar|model\.tar|pt2|h5|msgpack)$", re.I
)
_PICKLE_STARTS = (
    b"PK\x03\x04",
    b"\x80\x02",
    b"\x80\x03",
    b"\x80\x04",
    b"\x80\x05",
    b"\x1f\x8b",
    b"BZh",
    b"\xfd7zXZ",
)
_PROTOCOL_0 = re.compile(
    rb"\(?c(__builtin__|builtins|posix|nt|os|subprocess|torch[\w.]*|numpy[\w.]*|collections)\n"
)


def named_like_pickle(path: str) -> bool:
    """A name that tools load by unpickling."""
    return _PICKLE_NAMES.fullmatch(path) is not None


def starts_like_pickle(head: bytes) -> bool:
    """Bytes that begin a pickle of protocol 2 to 5, or an archive that may hold one."""
    return head.startswith(_PICKLE_STARTS) or _PROTOCOL_0.match(head) is not None


# ── local paths ────────────────────────────────────────────────────────────────────────────

_ROOTS = (
    "home|root|tmp|mnt|workspace|workspaces|data|Users|opt|var|scratch|private|srv|media|content|kaggle|work|runner|"
    "__w|nix|gpfs|lustre|fsx|raid|nvme\\d*|nfs|dev/shm|export|storage|projects?|github/workspace|builds|cache|local"
)
_INSIDE = re.compile(
    rf"(?:^|[\s\"'`=(\[,;<|]|[A-Za-z]{{2,}}:)((?:file://)?/(?:{_ROOTS})/[^\s\"'`<>|,;)\]}}]+)"
    r"|(file:///?[^\s\"'`<>]+)"
    r"|((?<![A-Za-z])[A-Za-z]:\\\\?\w[\w .-]*\\[^\s\"'`<>|]+)"
    r"|((?<![\w/.])[A-Za-z]:/(?:Users|Windows|Program)[^\s\"'`<>|]*)"
)
_WHOLE = re.compile(
    r"/[^/\s:*?\"<>|]+(?:/[^/\n:*?\"<>|]+)+/?|/(?:tmp|root|home|mnt|data|workspace)/?|(?:\.{1,2}|~)/\S+"
)
_ADDRESS = re.compile(r"/(v\d+|api|models|datasets|spaces|metrics|health|resolve|chat|completions)(/|$)")
_PATH_KEYS = frozenset(
    {"offload_to_disk_path", "offload_folder", "offload_dir", "cache_dir", "output_dir", "save_dir"}
)
_CONTAINER = re.compile(r"^/root/\.cache/(huggingface|vllm)(?![\w-])")
# Vocabularies and templates: any string is a token or an example there.
_SKIPPED_KEYS = frozenset(
    {"model", "added_tokens", "added_tokens_decoder", "chat_template", "vocab", "merges"}
)
_SKIPPED_FILES = ("vocab.*", "merges.txt", "added_tokens.json", "chat_template*", "*.jinja", "*.tiktoken")
TEXT_SUFFIXES = frozenset({
    ".json", ".jsonl", ".txt", ".md", ".yaml", ".yml", ".toml", ".log", ".csv", ".tsv", ".py", ".sh",
    ".cfg", ".ini", ".html", ".xml", ".env",
})  # fmt: skip


def is_scanned(path: str) -> bool:
    """Whether local paths are looked for in this file."""
    name = PurePosixPath(path).name
    if any(fnmatchcase(name, pattern) for pattern in _SKIPPED_FILES) or name in (
        ".gitattributes",
        ".gitignore",
    ):
        return False
    return PurePosixPath(path).suffix.lower() in TEXT_SUFFIXES or (is_side_file(path) and "." not in name)


def strings_of(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Every string value in a JSON document with the key it stands under; vocabularies left out."""
    if isinstance(value, str):
        yield key, value
    elif isinstance(value, dict):
        for name, inner in value.items():
            if name not in _SKIPPED_KEYS:
                yield from strings_of(inner, str(name))
    elif isinstance(value, list):
        for inner in value:
            yield from strings_of(inner, key)


def local_path_in_value(key: str, text: str) -> str | None:
    """The local path that a JSON value is or holds; None when there is none."""
    if key in _PATH_KEYS and text:
        return text
    whole = _WHOLE.fullmatch(text)
    if whole and len(text) < 4096 and not _ADDRESS.match(text):
        return text
    return local_path_in_text(text)


def local_path_in_text(text: str) -> str | None:
    """The first local path that stands in running text; a container's Hub cache is none."""
    for match in _INSIDE.finditer(text):
        found = next(group for group in match.groups() if group)
        if not _CONTAINER.match(found):
            return found
    return None


def local_paths(
    strings: Iterable[tuple[str, str]], allowed: frozenset[str] = frozenset()
) -> list[tuple[str, str]]:
    """(key, path) for each value that holds a local path and that the base does not have too."""
    found = []
    for key, text in strings:
        path = None if text in allowed else local_path_in_value(key, text)
        if path:
            found.append((key, path))
    return found


def without_local_paths(value: Any, allowed: frozenset[str] = frozenset(), key: str = "") -> Any:
    """A JSON document without the entries whose value holds a local path."""
    if isinstance(value, dict):
        kept = {}
        for name, inner in value.items():
            if name in _SKIPPED_KEYS:
                kept[name] = inner
            elif not _leaks(str(name), inner, allowed):
                kept[name] = without_local_paths(inner, allowed, str(name))
        return kept
    if isinstance(value, list):
        return [
            without_local_paths(inner, allowed, key) for inner in value if not _leaks(key, inner, allowed)
        ]
    return value


def _leaks(key: str, value: Any, allowed: frozenset[str]) -> bool:
    return isinstance(value, str) and value not in allowed and local_path_in_value(key, value) is not None


def metadata_strings(metadata: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """The strings of a safetensors `__metadata__`."""
    yield from metadata.items()
