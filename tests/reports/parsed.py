"""A page taken apart: its elements, and the rules that every page obeys."""

from __future__ import annotations

from dataclasses import dataclass, field
from html.parser import HTMLParser

VOID = {"meta", "link", "img", "br", "hr", "input"}
HOLD_NO_TEXT = {"style", "script"}


@dataclass
class Element:
    tag: str
    attributes: dict[str, str]
    text: str = ""
    children: list[Element] = field(default_factory=list)

    def find(self, tag: str, **wanted: str) -> list[Element]:
        """Elements below this one, in order; ``wanted`` are values of attributes, of which one word must fit."""
        found = []
        for child in self.children:
            fits = all(value in child.attributes.get(name, "").split() for name, value in wanted.items())
            found += [child] if child.tag == tag and fits else []
            found += child.find(tag, **wanted)
        return found

    def words(self) -> str:
        """All text below this element."""
        return " ".join(" ".join([self.text, *(child.words() for child in self.children)]).split())

    def rows(self) -> list[list[str]]:
        """Cells of a table."""
        return [[cell.words() for cell in row.children] for row in self.find("tr")]


class _Parser(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.root = Element("document", {})
        self.open = [self.root]

    def handle_starttag(self, tag, attrs):
        assert len({name for name, _ in attrs}) == len(attrs), f"{tag} has an attribute twice"
        element = Element(tag, {name: value or "" for name, value in attrs})
        self.open[-1].children.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open[-1].tag == tag, f"{tag} closes {self.open[-1].tag}"
        self.open.pop()

    def handle_data(self, data):
        self.open[-1].text += f" {data}"


def parsed(page: str) -> Element:
    """The tree of a page, which must close what it opens."""
    parser = _Parser()
    parser.feed(page)
    parser.close()
    assert parser.open == [parser.root]
    return parser.root


def everything(element: Element) -> list[Element]:
    return [element, *(below for child in element.children for below in everything(child))]


def check(page: str) -> Element:
    """Assert what holds for every page: no script, nothing from elsewhere, unique ids, headings in order."""
    root = parsed(page)
    ids, targets, level = [], [], 0
    for element in everything(root):
        assert element.tag not in {"script", "iframe", "object", "embed", "base", "form", "foreignobject"}
        for name, value in element.attributes.items():
            assert not name.startswith("on"), f"{element.tag} {name}"
            assert "javascript:" not in value.lower()
            if name in {"src", "href", "xlink:href", "srcset", "action", "poster"}:
                assert value.startswith(("data:image/png;base64,", "#")) or value in {"rows.csv", "data:,"}, value[:80]
                targets += [value[1:]] if value.startswith("#") else []
            if name == "aria-labelledby":
                targets.append(value)
        if element.tag == "style":
            assert "url(" not in element.text
            assert "@import" not in element.text
        if element.tag in {"h1", "h2", "h3", "h4"}:
            assert int(element.tag[1]) <= level + 1, f"{element.tag} follows h{level}"
            level = int(element.tag[1])
        if element.tag == "img":
            assert element.attributes["alt"]
        if element.tag == "svg":
            assert element.attributes.get("aria-label") or element.attributes.get("aria-hidden") == "true"
        ids += [element.attributes["id"]] if "id" in element.attributes else []
    assert len(ids) == len(set(ids))
    assert set(targets) <= set(ids)
    (policy,) = [m for m in root.find("meta") if m.attributes.get("http-equiv") == "Content-Security-Policy"]
    assert policy.attributes["content"] == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    assert root.find("html")[0].attributes["lang"] == "en"
    return root
