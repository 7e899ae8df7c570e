"""Reads the pages of reports as a browser would, and checks what holds for every page."""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path


@dataclass
class Element:
    """One element of a page, with what is inside."""

    tag: str
    attributes: dict[str, str]
    children: "list[Element | str]" = field(default_factory=list["Element | str"])

    def every(self, *tags: str) -> "Iterator[Element]":
        """All elements inside with one of these tags, or all."""
        for child in self.children:
            if isinstance(child, Element):
                if child.tag in tags or not tags:
                    yield child
                yield from child.every(*tags)

    def of_class(self, name: str) -> "list[Element]":
        """All elements inside of this class."""
        return [one for one in self.every() if name in one.attributes.get("class", "").split()]

    @property
    def text(self) -> str:
        """All text inside."""
        whole = "".join(child if isinstance(child, str) else child.text for child in self.children)
        return whole.strip()


class Reader(HTMLParser):
    """Reads a page into elements; every tag must be closed in its turn, and no attribute given twice."""

    def __init__(self) -> None:
        super().__init__()
        self.open = [Element("page", {})]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attrs)
        if tag != "meta":
            last = self.open[-1].children[-1]
            assert isinstance(last, Element)
            self.open.append(last)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len({name for name, _ in attrs}) == len(attrs), f"an attribute twice: {attrs}"
        self.open[-1].children.append(Element(tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop().tag == tag

    def handle_data(self, data: str) -> None:
        self.open[-1].children.append(data)


def read(path: Path) -> Element:
    """The page in a file, after all that holds for every page has been checked."""
    source = path.read_text(encoding="utf-8")
    reader = Reader()
    reader.feed(source)
    reader.close()
    page = reader.open[0]
    assert reader.open == [page], "tags are left open"
    check_alone(page, source)
    for picture in page.every("svg"):
        check_picture(picture)
    return page


def check_alone(page: Element, source: str) -> None:
    """Nothing on the page comes from elsewhere, and nothing runs."""
    assert not list(page.every("script", "link", "img", "iframe", "object", "embed", "base", "form", "use", "image"))
    for one in page.every():
        assert not {"src", "srcset", "action", "data", "xlink:href"} & set(one.attributes), one
        assert one.attributes.get("href", "#").startswith("#"), one
        assert not [name for name in one.attributes if name.startswith("on")], one
    styles = "".join(one.text for one in page.every("style"))
    styles += "".join(one.attributes.get("style", "") for one in page.every())
    assert "url(" not in styles
    assert "@import" not in styles
    ids = [one.attributes["id"] for one in page.every() if "id" in one.attributes]
    assert len(ids) == len(set(ids))
    assert {one.attributes["href"][1:] for one in page.every("a")} <= set(ids)
    assert source.startswith("<!DOCTYPE html>")


def check_picture(picture: Element) -> None:
    """Every coordinate is a finite number inside the picture, and no panel is empty."""
    left, top, width, height = map(float, picture.attributes["viewbox"].split())
    for one in picture.every():
        given = one.attributes
        xs = [float(given[name]) for name in ("x", "cx") if name in given]
        ys = [float(given[name]) for name in ("y", "cy") if name in given]
        if one.tag == "rect":
            assert float(given["width"]) >= 0
            assert float(given["height"]) >= 0
            xs.append(xs[0] + float(given["width"]))
            ys.append(ys[0] + float(given["height"]))
        if one.tag == "polyline":
            points = [point.split(",") for point in given["points"].split()]
            assert len(points) > 1
            xs, ys = [float(x) for x, _ in points], [float(y) for _, y in points]
        if one.tag == "path":
            x, y, way, end = re.findall(r"M(\S+) ([^HV]+)([HV])(.+)", given["d"])[0]
            xs, ys = [float(x)], [float(y)]
            (xs if way == "H" else ys).append(float(end))
        assert all(math.isfinite(x) and left <= x <= left + width for x in xs), (one.tag, given)
        assert all(math.isfinite(y) and top <= y <= top + height for y in ys), (one.tag, given)
    for panel in [*picture.of_class("share"), *picture.of_class("click")]:
        assert list(panel.every("rect", "polyline", "circle")), "an empty plot"


def tables(part: Element) -> list[list[list[str]]]:
    """The text of every cell, by table and row."""
    return [[[c.text for c in row.every("th", "td")] for row in table.every("tr")] for table in part.every("table")]
