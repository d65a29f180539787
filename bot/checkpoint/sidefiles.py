"""Everything in a checkpoint that is not weights: side files, local paths, pickles.

A side file is one that the base ships and that a quantizer has no business changing: tokenizer,
template, processors, generation config, licence. They must be the base's, byte for byte.

A local path betrays the machine a release was made on, and breaks tools that try to open it. It is
looked for in JSON keys and values, in every file that is text, and in safetensors metadata; not in
vocabularies and templates, where a token such as `/home` or an example path is no leak, and not where
the base says the same. Every pattern here takes time linear in the text.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable, Iterator, Mapping
from fnmatch import fnmatchcase
from io import BytesIO, StringIO
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


def is_stray_side_file(path: str) -> bool:
    """Whether `path` is a tokenizer, template or processor in a subfolder: part of a second model."""
    folder, _, name = path.rpartition("/")
    return bool(folder) and is_side_file(name) and not name.startswith(("LICENSE", "LICENCE", "NOTICE"))


# ── pickles ────────────────────────────────────────────────────────────────────────────────

_PICKLE_NAMES = re.compile(
    r"\.(bin|pt|pth|pkl|pickle|ckpt|joblib|dill|npy|npz|mar|model\.tar|pt2|h5|msgpack)\s*\Z", re.I
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
_RUNNING = re.compile(r": \S+ +(?:REDUCE|BUILD|INST|OBJ|NEWOBJ|NEWOBJ_EX)\b")
PICKLE_HEAD_BYTES = 64 << 10


def named_like_pickle(path: str) -> bool:
    """A name that tools load by unpickling."""
    return _PICKLE_NAMES.search(path) is not None


def starts_like_pickle(head: bytes) -> bool:
    """Bytes that begin a pickle, or an archive that may hold one. `head`: up to `PICKLE_HEAD_BYTES`."""
    if head.startswith(_PICKLE_STARTS) or head[257:262] == b"ustar":
        return True
    return _PROTOCOL_0.match(head) is not None or _calls(head)


def _calls(head: bytes) -> bool:
    """Whether these bytes, as a pickle of protocol 0 or 1, get as far as calling something."""
    import pickletools

    steps = StringIO()
    try:
        pickletools.dis(BytesIO(head), out=steps)
    except Exception as e:
        # The last step that was printed is the one that failed, unless the bytes ended or were no step.
        lines = steps.getvalue().splitlines()
        failed = "pop" in str(e) or "MARK" in str(e) or "memo" in str(e)
        return any(_RUNNING.search(line) for line in (lines[:-1] if failed else lines))
    return _RUNNING.search(steps.getvalue()) is not None


# ── local paths ────────────────────────────────────────────────────────────────────────────

_ROOTS = (
    "home|root|tmp|mnt|workspace|workspaces|Users|opt|var|private|srv|media|content|kaggle|work|runner|"
    "__w|nix|gpfs|lustre|fsx|nfs|dev/shm|export|storage|projects?|github/workspace|builds|cache|local|"
    "(?:data|scratch|ephemeral|raid|nvme|ssd|disk|vol)[\\w-]{0,16}"
)
_BEFORE = r"(?:^|(?<=[\s\"'`=(\[,;<|]))"
_REST = r"[^\s\"'`<>|,;)\]}]+"
# Each with what stands in every text that it matches: most texts have it not.
_INSIDE = (
    (
        "/",
        re.compile(
            r"/(?:(?<=[\s\"'`=(\[,;<|]/)|(?<=[A-Za-z][A-Za-z]:/)|(?<=\A/))" + rf"(?:{_ROOTS})/{_REST}",
        ),
    ),
    ("file:/", re.compile(rf"file:///?{_REST}")),
    ("~/", re.compile(rf"{_BEFORE}~/[\w.]{_REST}")),
    (":\\", re.compile(r"(?<![A-Za-z])[A-Za-z]:\\\\?\w[\w .-]{0,255}\\[^\s\"'`<>|]+")),
    (":/", re.compile(rf"(?<![\w/.])[A-Za-z]:/\w{_REST}")),
    ("\\\\", re.compile(rf"{_BEFORE}\\\\\w[\w.-]{{0,255}}\\\w{_REST}")),
)
_WHOLE = re.compile(
    r"/[^/\s:*?\"<>|]+(?:/[^/\n:*?\"<>|]+)+/?|/(?:tmp|root|home|mnt|data|workspace)/?|(?:\.{1,2}|~)/\S+"
    r"|[A-Za-z]:[\\/][\w.]{2,}[^\n*?\"<>|]*|\\\\\w[\w.-]*\\[^\n*?\"<>|]+"
)
_ADDRESS = re.compile(r"/(v\d+|api|models|datasets|spaces|metrics|health|resolve|chat|completions)(/|$)")
_PATH_KEYS = frozenset(
    {"offload_to_disk_path", "offload_folder", "offload_dir", "cache_dir", "output_dir", "save_dir"}
)
_CONTAINER = re.compile(r"^(?:/root/\.cache/(huggingface|vllm)|~/\.cache)(?![\w-])")
# Between two chunks of a stream; a path that is longer is found by its beginning.
OVERLAP_CHARS = 1024
MAX_PASSES = 4
# Vocabularies and templates: any string is a token or an example there.
VOCABULARY_KEYS = frozenset(
    {"model", "added_tokens", "added_tokens_decoder", "chat_template", "vocab", "merges"}
)
TEMPLATE_KEYS = frozenset({"chat_template"})
_SKIPPED_FILES = (
    "vocab.json", "vocab.txt", "merges.txt", "added_tokens.json", "chat_template*", "*.jinja", "*.tiktoken",
)  # fmt: skip
TEXT_SUFFIXES = frozenset({
    ".json", ".jsonl", ".txt", ".md", ".yaml", ".yml", ".toml", ".log", ".csv", ".tsv", ".py", ".sh",
    ".cfg", ".ini", ".html", ".xml", ".env",
})  # fmt: skip


def is_scanned(path: str) -> bool:
    """Whether local paths are looked for in this file, if it is text (`looks_like_text`)."""
    name = PurePosixPath(path).name
    return not name.endswith(".safetensors") and not any(fnmatchcase(name, each) for each in _SKIPPED_FILES)


def looks_like_text(path: str, head: bytes) -> bool:
    """Whether a file that begins with `head` is read as text: by its suffix, else UTF-8 without NUL."""
    if PurePosixPath(path).suffix.lower() in TEXT_SUFFIXES:
        return True
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        return False
    return b"\0" not in head


def skipped_keys(path: str) -> frozenset[str]:
    """The keys of the JSON file `path` whose content is a vocabulary or a template."""
    return VOCABULARY_KEYS if is_side_file(PurePosixPath(path).name) else TEMPLATE_KEYS


def strings_of(
    value: Any, key: str = "", *, skipped: frozenset[str] = VOCABULARY_KEYS
) -> Iterator[tuple[str, str]]:
    """Every string in a JSON document, keys too, with the key it stands under; `skipped` keys left out."""
    if isinstance(value, str):
        yield key, value
    elif isinstance(value, dict):
        for name, inner in value.items():
            if name not in skipped:
                yield "", str(name)
                yield from strings_of(inner, str(name), skipped=skipped)
    elif isinstance(value, list):
        for inner in value:
            yield from strings_of(inner, key, skipped=skipped)


def local_path_in_value(key: str, text: str) -> str | None:
    """The local path that a JSON value is or holds; None when there is none."""
    if key in _PATH_KEYS and text:
        return text
    whole = _WHOLE.fullmatch(text)
    if whole and len(text) < 4096 and not _ADDRESS.match(text):
        return text
    return local_path_in_text(text)


def local_path_in_text(text: str) -> str | None:
    """The first local path of its kind in running text; a container's Hub cache is none."""
    for mark, pattern in _INSIDE:
        if mark in text:
            for match in pattern.finditer(text):
                if not _CONTAINER.match(match[0]):
                    return match[0]
    return None


def local_path_in_stream(chunks: Iterable[bytes]) -> str | None:
    """`local_path_in_text` for a file of any size; JSON's `\\/` counts as `/`."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    rest = ""
    for chunk in chunks:
        text = rest + decoder.decode(chunk).replace("\\/", "/")
        if found := local_path_in_text(text):
            return found
        # The stroke: what stands first there does not begin the file.
        rest = "-" + text[-OVERLAP_CHARS:]
    return None


def without_paths_in_text(text: str) -> str:
    """Running text with each local path cut down to its last part."""

    def last(match: re.Match[str]) -> str:
        found = match[0]
        return found if _CONTAINER.match(found) else re.split(r"[/\\]", found.rstrip("/\\"))[-1] or "path"

    for _ in range(MAX_PASSES):
        if local_path_in_text(text) is None:
            break
        for _mark, pattern in _INSIDE:
            text = pattern.sub(last, text)
    return text


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


def without_local_paths(
    value: Any,
    allowed: frozenset[str] = frozenset(),
    key: str = "",
    *,
    skipped: frozenset[str] = VOCABULARY_KEYS,
) -> Any:
    """A JSON document without the entries whose key or value holds a local path."""
    if isinstance(value, dict):
        kept = {}
        for name, inner in value.items():
            if name in skipped:
                kept[name] = inner
            elif not _leaks(str(name), inner, allowed) and not _leaks("", name, allowed):
                kept[name] = without_local_paths(inner, allowed, str(name), skipped=skipped)
        return kept
    if isinstance(value, list):
        return [
            without_local_paths(inner, allowed, key, skipped=skipped)
            for inner in value
            if not _leaks(key, inner, allowed)
        ]
    return value


def _leaks(key: str, value: Any, allowed: frozenset[str]) -> bool:
    return isinstance(value, str) and value not in allowed and local_path_in_value(key, value) is not None


def metadata_strings(metadata: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """The strings of a safetensors `__metadata__`."""
    yield from metadata.items()
