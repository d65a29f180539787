"""Model and dataset cards: the YAML on top of README.md, what it implies, and safe HTML for the rest.

Card text is untrusted. Metadata is read with the safe YAML loader, a size limit and no aliases; text is
rendered with raw HTML disabled, so that markup in a card is shown, never run. Links keep only safe schemes
(markdown-it's own check), and relative images are pointed at this repo's files."""

from __future__ import annotations

import datetime
import posixpath
import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any
from urllib.parse import unquote

import yaml
from markdown_it import MarkdownIt
from markdown_it.token import Token

MAX_METADATA_CHARS = 256_000
_FRONT = re.compile(r"\A\ufeff?\s*---[ \t]*\r?\n(.*?)(?:\r?\n)?---[ \t]*(?:\r?\n|\Z)(.*)", re.S)

# Marks that nobody shall see: the Hub drops HTML comments, and here no HTML is let through.
_MARKS = re.compile(r"(?m)^<!-- /?prose:[a-z-]+ -->\n?")

# The Hub's marks for an image that is shown in one of its two themes only.
_ONE_THEME = re.compile(r"#hf-(light|dark)-mode-only$")


def split(text: str) -> tuple[str | None, str]:
    """The YAML block, if there is one, and the text below it."""
    found = _FRONT.match(text)
    return (found[1], found[2]) if found else (None, text)


class _Loader(yaml.SafeLoader):
    """The safe loader without aliases, with which a few lines can stand for gigabytes."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases (*name) are not allowed in a card's metadata")
        return super().compose_node(parent, index)


def _load(block: str) -> Any:
    return yaml.load(block, Loader=_Loader)


def problems(text: str) -> list[str]:
    """Why this card's metadata would be refused; empty when it would not."""
    block, _ = split(text)
    if block is None:
        return []
    if len(block) > MAX_METADATA_CHARS:
        return [f"the metadata is longer than {MAX_METADATA_CHARS} characters"]
    try:
        data = _load(block)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        return [f"YAML Metadata Error: {' '.join(str(error).split())}"]
    if data is None:
        return []
    if not isinstance(data, dict):
        return ["YAML Metadata Error: the metadata must be a mapping"]
    wrong = []
    for key, kind in (("tags", list), ("datasets", list), ("license", (str, list)), ("configs", list)):
        value = data.get(key)
        if value is not None and not isinstance(
            value, kind if key in ("license", "configs") else (list, str)
        ):
            wrong.append(f'"{key}" has the wrong type')
    return wrong


@lru_cache(maxsize=512)
def _metadata(text: str) -> dict[str, Any]:
    block, _ = split(text)
    if block is None or problems(text):
        return {}
    data = _load(block)
    return _jsonable(data) if isinstance(data, dict) else {}


def metadata(text: str) -> dict[str, Any]:
    """The card's metadata as JSON values; empty when there is none or it cannot be read."""
    return dict(_metadata(text))


def _jsonable(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set):
        return [_jsonable(item) for item in value]
    if isinstance(value, datetime.date):
        return value.isoformat()
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return str(value)
    return value if isinstance(value, str | int | float | bool) or value is None else str(value)


def listed(value: Any) -> list[str]:
    """A YAML value that may be one string or several."""
    values = value if isinstance(value, list) else [value]
    return [item for item in values if isinstance(item, str)]


def base_models(card: dict[str, Any]) -> tuple[str | None, list[str]]:
    """How this model derives from which others, as the Hub's `baseModels` field says it."""
    models = listed(card.get("base_model"))
    relation = card.get("base_model_relation")
    return (relation if isinstance(relation, str) else "finetune") if models else None, models


def tags(card: dict[str, Any], paths: list[str]) -> list[str]:
    """Every tag the Hub would compute: the card's own, and those that other fields imply."""
    out: list[str] = []
    if isinstance(card.get("library_name"), str):
        out.append(card["library_name"])
    if any(path.endswith(".safetensors") for path in paths):
        out.append("safetensors")
    out += listed(card.get("tags"))
    if isinstance(card.get("pipeline_tag"), str):
        out.append(card["pipeline_tag"])
    out += listed(card.get("language"))
    out += [f"dataset:{name}" for name in listed(card.get("datasets"))]
    relation, models = base_models(card)
    out += [f"base_model:{name}" for name in models]
    out += [f"base_model:{relation}:{name}" for name in models]
    out += [f"license:{name}" for name in listed(card.get("license"))]
    for key in ("task_categories", "task_ids", "size_categories"):
        out += [f"{key}:{name}" for name in listed(card.get(key))]
    return list(dict.fromkeys(out))


Address = Callable[[str], str]


def render(text: str, *, image: Address | None = None, link: Address | None = None) -> str:
    """The text below the metadata as HTML.

    `image` and `link` turn a path relative to the card into where it is served; without them, images are left
    out and links are kept. Images of other hosts are never loaded: a page of the embedded Hub asks nobody
    else."""
    _, body = split(text)
    return str(_parser(image, link).render(_MARKS.sub("", body)))


def relative(target: str) -> str | None:
    """A path inside the repo, normalized; None for everything else that a card may point at."""
    path = unquote(target.partition("#")[0].partition("?")[0])
    if (
        not path
        or "://" in target
        or target.startswith(("/", "#", "data:", "mailto:"))
        or ":" in path.split("/")[0]
    ):
        return None
    path = posixpath.normpath(path)
    return None if path.startswith("..") else path


def _parser(image: Address | None, link: Address | None) -> MarkdownIt:
    def show_image(self: Any, tokens: list[Token], index: int, options: Any, env: Any) -> str:
        token = tokens[index]
        source = str(token.attrs.get("src", ""))
        path = relative(source)
        if path is None or image is None:
            return f'<em class="left-out">[image not loaded: {_escape(source[:200])}]</em>'
        token.attrs["src"] = image(path)
        if theme := _ONE_THEME.search(source):
            token.attrs["class"] = f"only-{theme[1]}"
        return str(self.image(tokens, index, options, env))

    def open_link(self: Any, tokens: list[Token], index: int, options: Any, env: Any) -> str:
        token = tokens[index]
        path = relative(str(token.attrs.get("href", "")))
        if path is not None and link is not None:
            token.attrs["href"] = link(path)
        token.attrs["rel"] = "noopener noreferrer nofollow"
        return str(self.renderToken(tokens, index, options, env))

    parser = MarkdownIt("commonmark", {"html": False}).enable(["table", "strikethrough"])
    parser.add_render_rule("image", show_image)
    parser.add_render_rule("link_open", open_link)
    return parser


def _escape(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace('"', "&quot;")
