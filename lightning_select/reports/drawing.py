"""Inline SVG: a drawing in a coordinate system of its own, which the page scales to its column.

Colours are classes, which the style sheet fills for light and for dark. Every text passes through ElementTree, which
escapes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from xml.etree import ElementTree

__all__ = ["Drawing", "Html"]

Point = tuple[float, float]


class Html(str):
    """Markup that is safe as it stands: templates do not escape it again."""

    __slots__ = ()

    def __html__(self) -> str:
        return str(self)


class Drawing:
    """An SVG image.

    Args:
        width: Width of its coordinate system.
        height: Height of it.
        label: What it shows, in words, for those who do not see it.
        stretch: Fill whatever room there is, without regard to the ratio of the sides.
    """

    def __init__(self, width: float, height: float, label: str, *, stretch: bool = False) -> None:
        attributes = {"viewBox": f"0 0 {width:g} {height:g}", "role": "img", "aria-label": label}
        attributes |= {"preserveAspectRatio": "none"} if stretch else {}
        self._root = ElementTree.Element("svg", attributes)

    def box(self, corner: Point, width: float, height: float, style: str, *, tip: str = "", shade: float = 1) -> None:
        """A filled rectangle from its upper left corner; ``tip`` appears under the pointer."""
        sides = {"width": _short(max(width, 0)), "height": _short(max(height, 0))}
        drawn = self._add("rect", {"x": _short(corner[0]), "y": _short(corner[1]), **sides, "class": style})
        if shade < 1:
            drawn.set("fill-opacity", f"{shade:.2f}")
        if tip:
            ElementTree.SubElement(drawn, "title").text = tip

    def path(self, points: Sequence[Point], style: str, *, closed: bool = False) -> None:
        """Straight lines from point to point."""
        steps = "L".join(f"{_short(x)} {_short(y)}" for x, y in points)
        self._add("path", {"d": f"M{steps}{'Z' if closed else ''}", "class": style})

    def dot(self, point: Point, style: str) -> None:
        """A small disc."""
        self._add("circle", {"cx": _short(point[0]), "cy": _short(point[1]), "r": "2.5", "class": style})

    def words(self, point: Point, text: str, style: str = "") -> None:
        """Text that starts at a point; the styles ``middle`` and ``end`` centre it there or end it there."""
        self._add("text", {"x": _short(point[0]), "y": _short(point[1]), "class": style}).text = text

    def html(self) -> Html:
        """The drawing, to be put into a page."""
        return Html(ElementTree.tostring(self._root, encoding="unicode"))

    def _add(self, name: str, attributes: dict[str, str]) -> ElementTree.Element:
        kept = {key: value for key, value in attributes.items() if value}
        return ElementTree.SubElement(self._root, name, kept)


def _short(value: float) -> str:
    """A tenth of a unit is finer than a screen shows."""
    return f"{value:.1f}".removesuffix(".0")
