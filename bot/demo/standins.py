"""Small stand-ins for the calibration and evaluation sets, under their real ids, for the embedded Hub.

A rehearsal has no network, yet the code that reads a data set should be the code that releases: same repo
id, same config, split, file layout and column names. So each real set gets a small namesake here, filled
with text that every machine has, the Python standard library (sources, docstrings, pydoc's topics), and with
tables and plots drawn by Pillow. Every README says that it is a stand-in; nothing measured on one says
anything about the real set.

The layouts follow the real repos: evol-codealpaca `train.jsonl`; C4 `en/c4-train.*.json.gz`; UltraChat,
pile-10k, CNN/DailyMail, WikiText and CodeXGLUE parquet; Nemotron-VLM a `<subset>/<subset>.jsonl` of messages
beside tar shards of images, joined by file name. Texts that the tiny fixture was trained on are used for
calibration; what is evaluated on (`test…` and `validation` of WikiText, UltraChat and CodeXGLUE) comes only
from files that its training held out (`held_out`).

The bytes are the same for the same Python, pyarrow and Pillow. It needs the `demo` extra (pyarrow, Pillow),
imported only when something is written. Not covered: any language but English and Python.
"""

from __future__ import annotations

import ast
import gzip
import hashlib
import io
import json
import os
import random
import sysconfig
import tarfile
import textwrap
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL.Image import Image

SEED = 20260
# The fixture's tokenizer makes a token of about 3 characters: this is safely more than 2,048 of them.
LONG_CHARS = 8_000
IMAGES_PER_SUBSET = 64

_LEFT_OUT = frozenset(
    {"test", "tests", "idlelib", "lib2to3", "site-packages", "dist-packages", "__pycache__", "turtledemo"}
)


# --- the text that every machine has --------------------------------------------------------------


@lru_cache(maxsize=1)
def library_sources() -> list[tuple[str, str]]:
    """(path, text) of the standard library's modules in sorted order, tests and vendored wheels left out."""
    root = Path(sysconfig.get_path("stdlib"))
    found = []
    for path in sorted(_modules(root)):
        if path.stat().st_size >= 200:
            text = path.read_text(encoding="utf-8", errors="replace")
            found.append((path.relative_to(root).as_posix(), text))
    return found


def _modules(root: Path) -> Iterator[Path]:
    """Python files below `root`; what is left out is not walked through, the installed packages above all."""
    for folder, below, names in os.walk(root):
        below[:] = [each for each in below if each not in _LEFT_OUT]
        yield from (Path(folder) / name for name in names if name.endswith(".py"))


@lru_cache(maxsize=1)
def library_prose() -> list[tuple[str, str]]:
    """(name, text) of the language reference's topics that `pydoc` ships."""
    from pydoc_data.topics import topics

    return [(f"pydoc/{name}", text.strip() + "\n") for name, text in sorted(topics.items())]


def held_out(path: str) -> bool:
    """Whether a text is kept from the fixture's training: one in sixteen, by its name."""
    return zlib.crc32(path.encode()) % 16 == 0


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """Code and prose of one side of the held-out line; the tuples are of (name or path, text)."""

    code: str
    prose: str
    topics: tuple[tuple[str, str], ...]
    facts: tuple[tuple[str, str], ...]
    sources: tuple[tuple[str, str], ...]


@lru_cache(maxsize=2)
def _corpus(*, evaluation: bool) -> Corpus:
    sources = [(p, t) for p, t in library_sources() if held_out(p) == evaluation]
    topics = tuple(topic for topic in library_prose() if held_out(topic[0]) == evaluation)
    # Encodings and long tables are data, not prose or code worth reading.
    readable = [(p, t) for p, t in sources if not p.startswith("encodings/") and len(t) < 150_000]
    random.Random(SEED).shuffle(readable)
    facts = tuple(fact for path, text in readable for fact in _docstrings(path, text))
    prose = "\n".join([*(text for _, text in topics), *(f"{name}\n\n{doc}\n" for name, doc in facts)])
    code = "\n".join(t for _, t in readable)
    return Corpus(code=code, prose=prose, topics=topics, facts=facts, sources=tuple(readable))


def _held_out_facts() -> tuple[Sequence[tuple[str, str]], Sequence[tuple[str, str]]]:
    """What no training saw, to choose by and, three times as much, to report on; no name in both."""
    facts = _corpus(evaluation=True).facts
    return facts[3::4], [*facts[::4], *facts[1::4], *facts[2::4]]


def _functions(sources: Iterable[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """(path, source) of each function and method of some length, unindented."""
    for path, text in sources:
        lines = text.splitlines()
        for node in _definitions(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                code = textwrap.dedent("\n".join(lines[node.lineno - 1 : node.end_lineno]))
                if len(code) >= 200:
                    yield path, code


def _docstrings(path: str, text: str) -> Iterator[tuple[str, str]]:
    module = path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    try:
        tree = ast.parse(text)
    except SyntaxError:  # a template or a Python 2 leftover that some distribution ships
        return
    for node in _definitions(tree):
        doc = ast.get_docstring(node)
        if doc and len(doc) >= 60:
            yield (module if isinstance(node, ast.Module) else f"{module}.{node.name}"), doc


def _definitions(tree: ast.Module) -> Iterator[ast.Module | ast.ClassDef | ast.FunctionDef]:
    """The module, classes and functions in the order of `ast.walk`, without a look into any expression."""
    queue: deque[ast.AST] = deque([tree])
    while queue:
        node = queue.popleft()
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            yield node
        for name in ("body", "handlers", "orelse", "finalbody", "cases"):  # in the order of their fields
            below = getattr(node, name, [])
            queue.extend(below if isinstance(below, list) else [])


def _lengths(count: int, low: int, high: int) -> list[int]:
    """`count` lengths in characters spread evenly over low..high, in an order without trend."""
    return [int(low + (i * 0.6180339887 % 1) * (high - low)) for i in range(count)]


def _pieces(text: str, lengths: Iterable[int]) -> Iterator[str]:
    """Consecutive pieces of at least the given lengths, ended at a line's end; starts over at the end."""
    at = 0
    for length in lengths:
        if at + length >= len(text):
            at = 0
        end = text.find("\n", at + length)
        end = len(text) if end < 0 else end
        yield text[at:end].strip("\n")
        at = end + 1


# --- rows of each set -----------------------------------------------------------------------------

Row = dict[str, Any]


def _code_rows(count: int) -> Iterator[Row]:
    code = _corpus(evaluation=False).code
    for piece in _pieces(code, _lengths(count, 700, 7_000)):
        first = next((line.strip() for line in piece.splitlines() if line.strip()), "")
        instruction = f"Write the part of a Python standard library module that begins with `{first}`."
        yield {"instruction": instruction, "output": f"```python\n{piece}\n```"}


def _web_rows(count: int) -> Iterator[Row]:
    for i, piece in enumerate(_pieces(_corpus(evaluation=False).prose, _lengths(count, 700, 7_500))):
        stamp = f"2019-04-{i % 28 + 1:02d}T{i % 24:02d}:{i % 60:02d}:00Z"
        yield {"text": piece, "timestamp": stamp, "url": f"https://example.org/stand-in/{i}"}


def _chat_rows(count: int, facts: Sequence[tuple[str, str]], *, skip: int = 0) -> Iterator[Row]:
    """Conversations of one to many turns about documented names, of about 200 to 2,500 tokens."""
    at = skip
    for length in _lengths(count, 600, 7_500):
        messages: list[Row] = []
        while sum(len(m["content"]) for m in messages) < length:
            name, doc = facts[at % len(facts)]
            question = ("What does {} do?", "Explain {} to me.", "How is {} used?")[at % 3].format(name)
            messages += [{"content": question, "role": "user"}, {"content": doc, "role": "assistant"}]
            at += 1
        prompt = messages[0]["content"]
        yield {
            "prompt": prompt,
            "prompt_id": hashlib.sha256(prompt.encode()).hexdigest(),
            "messages": messages,
        }


def _pile_rows(long: int, short: int) -> Iterator[Row]:
    corpus = _corpus(evaluation=False)
    lengths = [LONG_CHARS] * (long // 2) + _lengths(short // 2, 300, 6_000)
    for name, text in (("Python code", corpus.code[1_500_000:]), ("Python prose", corpus.prose[600_000:])):
        for piece in _pieces(text, lengths):
            yield {"text": piece, "meta": {"pile_set_name": name}}


def _news_rows(count: int, start: int) -> Iterator[Row]:
    prose = _corpus(evaluation=False).prose[start:]
    for piece in _pieces(prose, _lengths(count, 1_200, 7_000)):
        highlights = "\n".join(line.strip() for line in piece.splitlines() if line.strip())[:200]
        yield {"article": piece, "highlights": highlights, "id": hashlib.sha1(piece.encode()).hexdigest()}


def _wiki_rows(facts: Iterable[tuple[str, str]]) -> Iterator[Row]:
    """Articles as WikiText has them: a heading, then one row a paragraph, with empty rows around headings."""
    for name, text in facts:
        words = [[word for word in block.split() if not _is_rule(word)] for block in text.split("\n\n")]
        paragraphs = [" ".join(block) for block in words]
        yield from ({"text": ""}, {"text": f" = {name} = \n"}, {"text": ""})
        yield from ({"text": f" {paragraph} \n"} for paragraph in paragraphs if paragraph)


def _is_rule(word: str) -> bool:
    return len(word) > 3 and set(word) <= set("*=-~^")


# --- drawings -------------------------------------------------------------------------------------


def _draw_table(rng: random.Random) -> tuple[Image, str, str]:
    """A table with holes, a question about it, and its content as Markdown."""
    from PIL import Image, ImageDraw

    columns, rows = rng.randrange(3, 6), rng.randrange(4, 8)
    image = Image.new("RGB", (64 * columns, 24 * rows + 8), "white")
    brush = ImageDraw.Draw(image)
    cells = [
        [str(rng.randrange(10, 999)) if rng.random() < 0.6 else "" for _ in range(columns)]
        for _ in range(rows)
    ]
    cells[0] = [f"C{c + 1}" for c in range(columns)]
    for r, row in enumerate(cells):
        for c, cell in enumerate(row):
            brush.rectangle((64 * c, 4 + 24 * r, 64 * c + 63, 4 + 24 * r + 23), outline="black")
            brush.text((64 * c + 6, 4 + 24 * r + 6), cell, fill="black")
    lines = ["| " + " | ".join(row) + " |" for row in cells]
    lines.insert(1, "|" + " --- |" * columns)
    return image, "Convert the table in this image to Markdown.", "\n".join(lines)


def _draw_plot(rng: random.Random) -> tuple[Image, str, str]:
    """A bar chart, a question about its highest bar, and a reasoned answer."""
    from PIL import Image, ImageDraw

    image = Image.new("RGB", (256, 192), "white")
    brush = ImageDraw.Draw(image)
    values = [rng.randrange(5, 100) for _ in range(rng.randrange(3, 7))]
    colours = ["red", "green", "blue", "orange", "purple", "black"]
    brush.line((20, 10, 20, 172, 246, 172), fill="black", width=2)
    for i, value in enumerate(values):
        left = 30 + 36 * i
        brush.rectangle((left, 172 - int(1.5 * value), left + 24, 171), fill=colours[i])
        brush.text((left + 4, 176), chr(65 + i), fill="black")
    best = values.index(max(values))
    reasoning = ", ".join(f"{chr(65 + i)} is about {v}" for i, v in enumerate(values))
    text = (
        f"<think>\n{reasoning}.\n</think>\n\nThe highest bar is {chr(65 + best)}, which is {colours[best]}."
    )
    return image, "Which bar is the highest, and what colour is it?", text


def _draw_page(rng: random.Random) -> tuple[Image, str, str]:
    """A page of prose, and the prose."""
    from PIL import Image, ImageDraw

    name, doc = rng.choice(_corpus(evaluation=False).facts)
    lines = [f"{name}, page {rng.randrange(10**6)}", *doc.splitlines()]
    lines = [line[:52] for line in lines if line.strip()][:12]
    image = Image.new("RGB", (320, 32 + 16 * len(lines)), "white")
    brush = ImageDraw.Draw(image)
    for i, line in enumerate(lines):
        brush.text((10, 16 + 16 * i), line.encode("ascii", "replace").decode(), fill="black")
    return image, "Read the text in this image.", "\n".join(lines)


# --- files ----------------------------------------------------------------------------------------


def _write_jsonl(path: Path, rows: Iterable[Row]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(_jsonl(rows))


def _write_jsonl_gz(path: Path, rows: Iterable[Row]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(_jsonl(rows), mtime=0))


def _jsonl(rows: Iterable[Row]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode("utf-8", "replace")


def _write_parquet(path: Path, rows: Iterable[Row]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(list(rows)), path, compression="zstd")


def _write_images(folder: Path, subset: str, draw: Callable[[random.Random], tuple[Image, str, str]]) -> None:
    """`<subset>/<subset>.jsonl` and one tar of PNGs; the two are joined by the image's file name."""
    rng = random.Random(f"{SEED} {subset}")
    rows = []
    (folder / subset / "media").mkdir(parents=True, exist_ok=True)
    shard = folder / subset / "media" / "shard_000000.tar"
    with tarfile.open(shard, "w", format=tarfile.USTAR_FORMAT) as tar:
        for i in range(IMAGES_PER_SUBSET):
            image, question, text = draw(rng)
            name, payload = f"{i:06d}.png", io.BytesIO()
            image.save(payload, "PNG", optimize=True)
            member = tarfile.TarInfo(name)
            member.size = payload.tell()
            payload.seek(0)
            tar.addfile(member, payload)
            size = {"width": image.width, "height": image.height, "format": "PNG", "mode": "RGB"}
            asked = [{"type": "image", "image": name, "metadata": size}, {"type": "text", "text": question}]
            told = [{"type": "text", "text": text}]
            messages = [{"role": "user", "content": asked}, {"role": "assistant", "content": told}]
            rows.append({"id": f"{subset}_{i:06d}", "messages": messages})
    _write_jsonl(folder / subset / f"{subset}.jsonl", rows)


def _write_readme(folder: Path, repo_id: str, configs: dict[str, dict[str, str]]) -> None:
    """The card: YAML that `datasets` reads (config → split → files), and what this folder is not."""
    lines = ["---", "license: other", "license_name: psf-2.0", "tags:", "- stand-in", "configs:"]
    for position, (config, splits) in enumerate(configs.items()):
        lines.append(f"- config_name: {config}")
        lines += ["  default: true"] if position == 0 else []
        lines.append("  data_files:")
        for split, path in splits.items():
            lines += [f"  - split: {split}", f"    path: {path}"]
    lines += ["---", "", f"# Stand-in for {repo_id}", ""]
    lines += [
        f"**This is not `{repo_id}`.** It is a small stand-in that release-bot wrote for rehearsals",
        "on its embedded Hub: the layout and the columns are those of the real data set, the content is",
        "text of the Python standard library and drawings made for the purpose. Nothing measured on it",
        "says anything about the real data set.",
        "",
    ]
    (folder / "README.md").write_text("\n".join(lines), encoding="utf-8")


# --- the sets -------------------------------------------------------------------------------------


def _evol_codealpaca(folder: Path) -> dict[str, dict[str, str]]:
    _write_jsonl(folder / "train.jsonl", _code_rows(320))
    return {"default": {"train": "train.jsonl"}}


def _c4(folder: Path) -> dict[str, dict[str, str]]:
    rows = list(_web_rows(360))
    _write_jsonl_gz(folder / "en/c4-train.00000-of-01024.json.gz", rows[:320])
    _write_jsonl_gz(folder / "en/c4-validation.00000-of-00008.json.gz", rows[320:])
    return {"en": {"train": "en/c4-train.*.json.gz", "validation": "en/c4-validation.*.json.gz"}}


def _ultrachat(folder: Path) -> dict[str, dict[str, str]]:
    seen, (chosen, reported) = _corpus(evaluation=False).facts, _held_out_facts()
    splits = {
        "train_sft": _chat_rows(600, seen),
        "test_sft": _chat_rows(20, reported),
        "train_gen": _chat_rows(40, seen, skip=3_000),
        "test_gen": _chat_rows(8, chosen),
    }
    for split, rows in splits.items():
        _write_parquet(folder / f"data/{split}-00000-of-00001.parquet", rows)
    return {"default": {split: f"data/{split}-*" for split in splits}}


def _pile_10k(folder: Path) -> dict[str, dict[str, str]]:
    _write_parquet(folder / "data/train-00000-of-00001.parquet", _pile_rows(long=200, short=160))
    return {"default": {"train": "data/train-*"}}


def _cnn_dailymail(folder: Path) -> dict[str, dict[str, str]]:
    for split, count, start in (("train", 320, 300_000), ("validation", 20, 0), ("test", 20, 100_000)):
        _write_parquet(folder / f"3.0.0/{split}-00000-of-00001.parquet", _news_rows(count, start))
    return {"3.0.0": {split: f"3.0.0/{split}-*" for split in ("train", "validation", "test")}}


def _nemotron_vlm(folder: Path) -> dict[str, dict[str, str]]:
    subsets = {"sparsetables": _draw_table, "plotqa_cot": _draw_plot, "wiki_en": _draw_page}
    for subset, draw in subsets.items():
        _write_images(folder, subset, draw)
    return {subset: {"train": f"{subset}/{subset}.jsonl"} for subset in subsets}


def _wikitext(folder: Path) -> dict[str, dict[str, str]]:
    held, seen = _corpus(evaluation=True), _corpus(evaluation=False)
    chosen, reported = _held_out_facts()
    articles = {
        "test": [*held.topics, *reported],
        "validation": chosen,
        "train": [*seen.topics[:20], *seen.facts[:800]],
    }
    for split, facts in articles.items():
        _write_parquet(folder / f"wikitext-2-raw-v1/{split}-00000-of-00001.parquet", _wiki_rows(facts))
    return {"wikitext-2-raw-v1": {split: f"wikitext-2-raw-v1/{split}-*" for split in articles}}


def _code_to_text(folder: Path) -> dict[str, dict[str, str]]:
    held = list(_functions(_corpus(evaluation=True).sources))
    seen = islice(_functions(_corpus(evaluation=False).sources), 200)
    parts = {"train": seen, "validation": held[::3], "test": [*held[1::3], *held[2::3]]}
    for split, functions in parts.items():
        rows = ({"repo": "python/cpython", "path": path, "code": code} for path, code in functions)
        _write_parquet(folder / f"python/{split}-00000-of-00001.parquet", rows)
    return {"python": {split: f"python/{split}-*" for split in parts}}


_SETS: dict[str, Callable[[Path], dict[str, dict[str, str]]]] = {
    "theblackcat102/evol-codealpaca-v1": _evol_codealpaca,
    "allenai/c4": _c4,
    "HuggingFaceH4/ultrachat_200k": _ultrachat,
    "NeelNanda/pile-10k": _pile_10k,
    "abisee/cnn_dailymail": _cnn_dailymail,
    "nvidia/Nemotron-VLM-Dataset-v2": _nemotron_vlm,
    "Salesforce/wikitext": _wikitext,
    "google/code_x_glue_ct_code_to_text": _code_to_text,
}


def write_standins(root: Path) -> dict[str, Path]:
    """Write every stand-in under `root/<repo id>`; returns the folder of each data set repo.

    Files are overwritten; the same interpreter writes the same bytes. Raises `ImportError` without the `demo`
    extra (pyarrow, Pillow).
    """
    folders = {}
    for repo_id, write in _SETS.items():
        folder = root / repo_id
        folder.mkdir(parents=True, exist_ok=True)
        _write_readme(folder, repo_id, write(folder))
        folders[repo_id] = folder
    return folders
