"""The HTML of a report: how its parts look. One file with its pictures in it, no network and no script."""

from __future__ import annotations

import html
import io
from collections.abc import Sequence
from typing import NamedTuple

from PIL import Image

from mm.index.grid import data_uri
from mm.index.report.pictures import Drawn

QUALITY = 88  # of a JPEG; the PNG stands in the page where it is no larger

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2em auto; max-width: 74em; padding: 0 1.2em; color: #222; }
h1 { font-size: 1.6em; margin-bottom: .2em; }
h2 { font-size: 1.2em; margin: 2.2em 0 .3em; padding-top: 1em; border-top: 1px solid #ddd; }
h3 { font-size: 1em; margin: 1.4em 0 .3em; }
p, li { max-width: 52em; }
.how { color: #555; margin-top: .2em; }
nav { font-size: .9em; color: #666; }
nav a { color: #2563a8; text-decoration: none; margin-right: 1em; white-space: nowrap; }
table { border-collapse: collapse; margin: .6em 0 1em; font-size: .93em; }
th { text-align: left; font-weight: 600; border-bottom: 1px solid #999; }
th, td { padding: .2em 1.4em .2em 0; vertical-align: top; }
td { border-bottom: 1px solid #eee; overflow-wrap: anywhere; }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
figure { margin: 1.2em 0; }
figure img { max-width: 100%; height: auto; }
figcaption { color: #444; font-size: .93em; max-width: 56em; margin-bottom: .4em; }
.note { background: #fff6dc; border-left: 4px solid #d9a400; padding: .4em .9em; margin: .8em 0; }
.facts { background: #f3f6fa; padding: .7em 1.2em .7em 2.2em; margin: .8em 0; }
footer { color: #777; font-size: .85em; margin-top: 3em; border-top: 1px solid #ddd; padding-top: .8em; }
"""


class Section(NamedTuple):
    """A part of the page.

    Attributes:
        key: by which links find it.
        title: its heading.
        how: a sentence on how to read it, or none.
        bodies: (space, HTML) of each space that has something to say.
    """

    key: str
    title: str
    how: str
    bodies: list[tuple[str, str]]


def page(title: str, top: str, sections: Sequence[Section], bottom: str, several: bool) -> str:
    """The whole page.

    Args:
        title: plain text.
        top: HTML that stands first.
        sections: those without a body are left out.
        bottom: plain text below everything.
        several: whether the spaces are named within the sections.
    """
    sections = [section for section in sections if any(body for _, body in section.bodies)]
    links = " ".join(f'<a href="#{section.key}">{text(section.title)}</a>' for section in sections)
    parts = [
        '<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width">\n'
        f"<title>{text(title)}</title>\n<style>{STYLE}</style>\n<h1>{text(title)}</h1>\n<nav>{links}</nav>\n{top}",
    ]
    for section in sections:
        how = f'<p class="how">{text(section.how)}</p>\n' if section.how else ""
        parts.append(f'<h2 id="{section.key}">{text(section.title)}</h2>\n{how}')
        for name, body in section.bodies:
            if body:
                parts.append(f'<h3 class="space">{text(name)}</h3>\n{body}' if several and name else body)
    return "".join([*parts, f"<footer>{text(bottom)}</footer>\n</html>\n"])


def figure(drawn: Drawn) -> str:
    """A figure with its picture inside: as PNG, or as JPEG where that is smaller."""
    png, kind = drawn.path.read_bytes(), "png"
    content, width = png, 0
    with Image.open(io.BytesIO(png)) as image:
        width = image.width
        buffer = io.BytesIO()
        image.convert("RGB").save(buffer, "JPEG", quality=QUALITY)
    if len(buffer.getvalue()) < len(png):
        content, kind = buffer.getvalue(), "jpeg"
    source = data_uri(content, f"image/{kind}")
    caption = text(drawn.caption)
    return (
        f'<figure><figcaption>{caption}</figcaption>\n<img alt="{caption}" width="{width}" src="{source}"></figure>\n'
    )


def table(heads: Sequence[str], rows: Sequence[Sequence[object]], numbers: set[int]) -> str:
    """A table; columns of numbers stand right."""
    if not rows:
        return ""
    kinds = ['class="n"' if column in numbers else "" for column in range(len(heads))]
    head = "".join(f"<th {kind}>{text(one)}</th>" for one, kind in zip(heads, kinds, strict=True))
    lines = ("".join(f"<td {kind}>{text(cell)}</td>" for cell, kind in zip(row, kinds, strict=True)) for row in rows)
    return f"<table><tr>{head}</tr>\n" + "".join(f"<tr>{line}</tr>\n" for line in lines) + "</table>\n"


def text(value: object) -> str:
    """As it stands in a page."""
    return html.escape(str(value))


def percent(share: float | None) -> str:
    """A share in per cent, which may not be defined."""
    return "not defined" if share is None else f"{100 * share:.1f}\u00a0%"


def value_of(value: float | None) -> str:
    """A measure, which may not be defined."""
    return "not defined" if value is None else f"{value:.3f}"
