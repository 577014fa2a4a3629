"""A report's Markdown taken apart: its blocks, each as HTML, tables and pictures known as such.

markdown-it reads it, with no HTML let through. Links lead to files beside it; of others the text is left, as a page is
to lead nowhere by itself.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from markdown_it import MarkdownIt
from markdown_it.token import Token

from ...markup import Html, escaped, html_table
from ...names import printable

BLANKS = "\t\xa0\u2009\u202f"  # what typesets numbers and units
Kind = Literal["heading", "paragraph", "list", "table", "pictures", "quote", "other"]
KINDS: dict[str, Kind] = {
    "heading_open": "heading", "paragraph_open": "paragraph", "bullet_list_open": "list", "ordered_list_open": "list",
    "table_open": "table", "blockquote_open": "quote",
}  # fmt: skip


@dataclass(frozen=True)
class Block:
    """A part of a report: `html`, its `text`, and of a heading its `level`.

    Attributes:
        code: What stands in backticks, in order.
        pictures: Of a paragraph of pictures, their file and what they show.
        headings: Of a table, as text.
        cells: Of a table, rows of texts.
    """

    kind: Kind
    html: Html
    text: str
    level: int = 0
    code: Sequence[str] = ()
    pictures: Sequence[tuple[str, str]] = ()
    headings: Sequence[str] = ()
    cells: Sequence[Sequence[str]] = field(default_factory=list)


def blocks_of(markdown: str) -> list[Block]:
    """The blocks of a document, in order.

    >>> [(block.kind, block.text) for block in blocks_of("# a<b\\n\\nIt is *so*.\\n\\n![net](x.png)")]
    [('heading', 'a<b'), ('paragraph', 'It is so.'), ('pictures', 'net')]
    """
    lines = ("".join(c if c in BLANKS else printable(c) for c in line) for line in markdown.splitlines())
    parser = MarkdownIt("js-default").disable(["linkify", "strikethrough"], True)
    parser.add_render_rule("link_open", _link_open)
    parser.add_render_rule("link_close", _link_close)
    parser.add_render_rule("image", _image)
    tokens, found = parser.parse("\n".join(lines)), []
    begin = 0
    for end, token in enumerate(tokens):
        if token.level == 0 and token.nesting <= 0:
            found.append(_block(parser, tokens[begin : end + 1]))
            begin = end + 1
    return found


def _block(parser: MarkdownIt, tokens: list[Token]) -> Block:
    first, inline = tokens[0], [token for token in tokens if token.type == "inline"]
    kind, text = KINDS.get(first.type, "other"), " ".join(map(_text, inline))
    children = [child for token in inline for child in token.children or ()]
    code = [child.content for child in children if child.type == "code_inline"]
    if kind == "table":
        return _table(parser, tokens, inline)
    shown = [(str(child.attrs["src"]), _text(child)) for child in children if child.type == "image"]
    if kind == "paragraph" and shown and all(child.type in ("image", "softbreak") or not child.content.strip()
                                             for child in children):  # fmt: skip
        return Block("pictures", Html(""), ", ".join(shows for _, shows in shown), pictures=shown)
    rendered = Html(parser.renderer.render(tokens, parser.options, {}))
    return Block(kind, rendered, text, int(first.tag[1]) if kind == "heading" else 0, code)


def _table(parser: MarkdownIt, tokens: list[Token], inline: list[Token]) -> Block:
    opened = [token for token in tokens if token.type in ("th_open", "td_open")]
    count = sum(token.type == "th_open" for token in opened)
    right = [number for number, token in enumerate(opened[:count]) if "right" in str(token.attrs.get("style", ""))]
    htmls = [Html(parser.renderer.render([token], parser.options, {})) for token in inline]
    texts = [_text(token) for token in inline]
    rows, cells = ([made[at : at + count] for at in range(count, len(made), count)] for made in (htmls, texts))
    html = html_table(htmls[:count], rows, right=right)
    return Block("table", html, " ".join(texts), headings=texts[:count], cells=cells)


def _text(token: Token) -> str:
    """What a reader sees of it."""
    if token.children is None:
        return " " if token.type in ("softbreak", "hardbreak") else token.content
    return "".join(map(_text, token.children))


def _is_elsewhere(token: Token) -> bool:
    return ":" in str(token.attrs.get("href", "")) or str(token.attrs.get("href", "")).startswith("/")


def _link_open(self: Any, tokens: Sequence[Token], index: int, options: Any, env: dict) -> str:
    elsewhere = _is_elsewhere(tokens[index])
    env.setdefault("links", []).append("span" if elsewhere else "a")
    target = str(tokens[index].attrs.get("href", ""))
    return "<span>" if elsewhere else f'<a href="{escaped(target)}">'


def _link_close(self: Any, tokens: Sequence[Token], index: int, options: Any, env: dict) -> str:
    return f"</{env['links'].pop()}>"


def _image(self: Any, tokens: Sequence[Token], index: int, options: Any, env: dict) -> str:
    return f"<em>{escaped(_text(tokens[index]))}</em>"  # within a sentence: pictures that are shown stand alone
