"""The web page: says what it is, shows cards with their images, runs nothing that a card or file contains."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest
from contract.conftest import Answer, Hub, ask
from huggingface_hub import CommitOperationAdd

from bot.localhub import cards

pytestmark = pytest.mark.contract
REPO = "Pages/release"
EVIL = b"""---
license: apache-2.0
tags: ["<script>alert(1)</script>"]
---
# Title <script>alert(2)</script>

<img src=x onerror=alert(3)> [click](javascript:alert(4)) ![t](javascript:alert(5))

![plot](plots/speed.png) ![vector](./plots/size.svg "x") ![away](https://example.org/pixel.png)
![up](../../login) ![root](/static/style.css)

| recipe | bits |
|---|---|
| nvfp4 | 4.5 |

[sums](SHA256SUMS) and [home](https://example.org/)

```python
print("<b>code</b>")
```
"""
PNG = b"\x89PNG\r\n\x1a\n" + bytes(40)
SVG = b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(6)</script></svg>'


class Page(HTMLParser):
    """Tags and attributes as a browser would see them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def values(self, tag: str, name: str) -> list[str]:
        return [
            str(attributes[name]) for found, attributes in self.tags if found == tag and name in attributes
        ]


@pytest.fixture(scope="module")
def site(embedded: Hub) -> Hub:
    api = embedded.api
    api.create_repo(REPO, exist_ok=True)
    api.create_repo("Pages/secret", private=True, exist_ok=True)
    files = {
        "README.md": EVIL,
        "plots/speed.png": PNG,
        "plots/size.svg": SVG,
        "SHA256SUMS": b"abc  w\n",
        "page.html": b"<script>alert(7)</script>",
        "code.js": b"alert(8)",
        "model.safetensors": b"w" * 3000,
        "<b>odd</b>.txt": b"<i>odd</i>",
    }
    operations = [CommitOperationAdd(path, content) for path, content in files.items()]
    api.create_commit(
        REPO, operations, commit_message="<u>all</u>", commit_description="<s>why</s>", create_pr=True
    )
    api.merge_pull_request(REPO, 1)
    api.create_commit(
        REPO, [CommitOperationAdd("SHA256SUMS", b"<em>new</em>\n")], commit_message="Next", create_pr=True
    )
    api.comment_discussion(REPO, 2, "<script>alert(9)</script> **good**")
    api.create_tag(REPO, tag="v1")
    collection = api.create_collection("<h1>Shelf</h1>", namespace="Qwen", description="<h1>d</h1>")
    api.add_collection_item(collection.slug, REPO, "model", note="<h1>n</h1>")
    return embedded


def get(hub: Hub, path: str, **headers: str) -> Answer:
    return ask(hub.endpoint, "GET", path, **headers)


PATHS = [
    "/",
    f"/{REPO}",
    f"/{REPO}/tree/main",
    f"/{REPO}/tree/main/plots",
    f"/{REPO}/blob/main/SHA256SUMS",
    f"/{REPO}/blob/main/page.html",
    f"/{REPO}/blob/main/plots%2Fspeed.png",
    f"/{REPO}/blob/main/model.safetensors",
    f"/{REPO}/blob/main/%3Cb%3Eodd%3C%2Fb%3E.txt",
    f"/{REPO}/commits/main",
    f"/{REPO}/refs",
    f"/{REPO}/discussions",
    f"/{REPO}/discussions/1",
    f"/{REPO}/discussions/2",
    f"/{REPO}/card/refs%2Fpr%2F2",
    f"/{REPO}/tree/v1",
    "/collections",
    "/login",
]


@pytest.mark.parametrize("path", PATHS)
def test_every_page_says_what_it_is_and_runs_nothing(site: Hub, path: str) -> None:
    answer = get(site, path)
    text = answer.body.decode()
    assert answer.status == 200
    assert "not the Hugging Face Hub" in text
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'")
    assert "script-src" not in policy
    assert "unsafe" not in policy
    assert answer.headers["x-content-type-options"] == "nosniff"
    page = Page(text)
    assert not {tag for tag, _ in page.tags} & {
        "script",
        "iframe",
        "object",
        "u",
        "s",
        "i",
        "em" if "blob" in path else "",
    }
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
    for link in page.values("a", "href") + page.values("img", "src") + page.values("link", "href"):
        assert not re.match(r"\s*(javascript|data):", link, re.I), link
    for source in page.values("img", "src"):
        assert source.startswith(f"/{REPO}/resolve/"), "images come from this repo only"


def test_the_card_shows_with_its_images(site: Hub) -> None:
    text = get(site, f"/{REPO}").body.decode()
    sha = site.api.model_info(REPO).sha
    sources = Page(text).values("img", "src")
    assert sources == [f"/{REPO}/resolve/{sha}/plots/speed.png", f"/{REPO}/resolve/{sha}/plots/size.svg"]
    assert get(site, sources[0]).headers["content-type"] == "image/png"
    assert get(site, sources[0]).body == PNG
    assert f"/{REPO}/blob/{sha}/SHA256SUMS" in Page(text).values("a", "href")
    assert "<td>nvfp4</td>" in text
    assert "&lt;script&gt;alert(2)&lt;/script&gt;" in text
    assert "image not loaded: https://example.org/pixel.png" in text


def test_an_image_for_one_theme_is_marked_as_such() -> None:
    text = "![a](a.png#hf-light-mode-only)\n![b](b.png#hf-dark-mode-only)\n![c](c.png#dark)\n"
    shown = Page(cards.render(text, image=lambda path: "/" + path))
    found = [attributes for tag, attributes in shown.tags if tag == "img"]
    assert [each.get("class") for each in found] == ["only-light", "only-dark", None]
    assert [each["src"] for each in found] == ["/a.png", "/b.png", "/c.png"]


def test_repo_files_are_never_a_page(site: Hub) -> None:
    for name in ("page.html", "code.js", "README.md"):
        answer = get(site, f"/{REPO}/resolve/main/{name}")
        assert answer.headers["content-type"] == "text/plain; charset=utf-8"
        assert answer.headers["x-content-type-options"] == "nosniff"
    svg = get(site, f"/{REPO}/resolve/main/plots/size.svg")
    assert svg.headers["content-type"] == "image/svg+xml"
    assert svg.headers["content-security-policy"].endswith("sandbox")
    assert "script-src" not in svg.headers["content-security-policy"]
    weights = get(site, f"/{REPO}/resolve/main/model.safetensors")
    assert weights.headers["content-disposition"].startswith("attachment")


def test_pull_request_page_shows_the_change(site: Hub) -> None:
    text = get(site, f"/{REPO}/discussions/2").body.decode()
    assert '<span class="add">+&lt;em&gt;new&lt;/em&gt;</span>' in text
    assert '<span class="del">-abc  w</span>' in text
    assert "<strong>good</strong>" in text
    assert "merged" in get(site, f"/{REPO}/discussions/1").body.decode()


def test_private_repos_show_after_logging_in(site: Hub) -> None:
    assert "Pages/secret" not in get(site, "/").body.decode().replace('<span class="slash">/</span>', "/")
    assert get(site, "/Pages/secret").status == 404
    form = {"Content_Type": "application/x-www-form-urlencoded"}
    wrong = ask(site.endpoint, "POST", "/login", body=b"token=hf_nobody", **form)
    assert wrong.status == 403
    assert "set-cookie" not in wrong.headers
    answer = ask(site.endpoint, "POST", "/login", body=f"token={site.token}".encode(), **form)
    assert answer.status == 303
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "samesite=strict" in cookie.lower()
    mine = {"Cookie": cookie.partition(";")[0]}
    assert "Pages/secret" in get(site, "/", **mine).body.decode().replace('<span class="slash">/</span>', "/")
    assert get(site, "/Pages/secret", **mine).status == 200
    assert get(site, "/Pages/secret/resolve/main/.gitattributes", **mine).status == 200
    assert get(site, "/api/models/Pages/secret", **mine).status == 401, "the API takes no cookie"
    out = ask(site.endpoint, "POST", "/login", body=b"token=", **mine, **form)
    assert 'embedded_hub_token=""' in out.headers["set-cookie"]
    away = ask(site.endpoint, "POST", "/login", body=b"token=x", Origin="http://evil.example", **form)
    assert away.status == 403


def test_pages_that_do_not_exist(site: Hub) -> None:
    for path in (
        "/Pages/none",
        f"/{REPO}/blob/main/none",
        f"/{REPO}/discussions/77",
        f"/{REPO}/tree/none",
        f"/{REPO}/commit/{'0' * 40}",
        "/collections/Qwen/none-000000000000000000000000",
    ):
        answer = get(site, path)
        assert answer.status == 404, path
        assert answer.headers["content-type"].startswith("text/html")
        assert "not the Hugging Face Hub" in answer.body.decode()


def test_commit_page(site: Hub) -> None:
    sha = site.api.model_info(REPO).sha
    text = get(site, f"/{REPO}/commit/{sha}").body.decode()
    assert "&lt;u&gt;all&lt;/u&gt;" in text
    assert "new file mode 100644" in text


def test_the_style_sheet_asks_nobody_else(site: Hub) -> None:
    answer = get(site, "/static/style.css")
    assert answer.headers["content-type"].startswith("text/css")
    assert b"url(" not in answer.body
    assert b"@import" not in answer.body
