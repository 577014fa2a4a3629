"""Reads a page as a browser does, as far as that matters here: whole, alone, and nothing in it that was not meant."""

from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

from archlab.report.study.script import SCRIPT

VOID = {"meta", "br", "link", "img", "input", "hr"}


class Page(HTMLParser):
    """A page that is checked while it is read: tags are balanced, nothing runs, nothing comes from elsewhere.

    Attributes:
        titles: what is told where a line or a point is pointed at.
        text: all that a reader sees.
        links: where it leads.
        tags: how often each occurs.
    """

    runs: frozenset[str] = frozenset()  # scripts that may stand in it

    def __init__(self, html: str):
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.titles: list[str] = []
        self.links: list[str] = []
        self.text = ""
        self.tags: dict[str, int] = {}
        self.feed(html)
        self.close()
        assert not self.open, f"not closed: {self.open}"
        assert "@import" not in html and "url(" not in html and "://" not in html and "\x1b" not in html
        assert not self.tags.keys() & {"iframe", "object", "embed", "link", "form"}

    def handle_starttag(self, tag, attrs):
        self.tags[tag] = self.tags.get(tag, 0) + 1
        for name, value in attrs:
            assert not name.startswith("on"), f"<{tag} {name}=…> would run"
            if name == "src":
                assert tag == "img" and value.startswith("data:image/"), value
            if name == "href":
                assert value and not value.startswith(("//", "/", "javascript:", "data:")), value
                self.links.append(value)
        if tag not in VOID:
            self.open.append(tag)
        if tag == "title" and "svg" in self.open:
            self.titles.append("")

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag):
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-1:]}"
        self.open.pop()

    def handle_data(self, data):
        if self.open and self.open[-1] == "title" and "svg" in self.open:
            self.titles[-1] += data
        elif self.open and self.open[-1] == "script":
            assert data in self.runs, "a script that was not meant"
        elif "style" not in self.open:
            self.text += data


class StudyPage(Page):
    """A page with the script of studies."""

    runs = frozenset({SCRIPT})


def read(path: Path, kind: type[Page] = Page) -> Page:
    """The page at a path; the files that it links to are there."""
    page = kind(path.read_text(encoding="utf-8"))
    assert page.tags["main"] == page.tags["h1"] == page.tags["html"] == 1
    for link in page.links:
        assert (path.parent / unquote(link)).is_file(), link
    return page
