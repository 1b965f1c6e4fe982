"""The HTML of a page of sentences whose words show where they looked: one file, no network, a little script of its own.

The numbers of each grid stand in the page as bytes; the script spreads them over the picture as torch's `interpolate`
does, and draws light and shade over it while a word is pointed at or has the keyboard's focus.
"""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mm.index.grid import data_uri

STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2em auto; max-width: 60em; padding: 0 1em; color: #222; }
h1 { font-size: 1.4em; }
h2 { font-size: .85em; font-weight: normal; color: #666; margin: 0; overflow-wrap: anywhere; }
article { display: flex; gap: 1.2em; padding: 1em 0; border-top: 1px solid #ddd; content-visibility: auto;
  contain-intrinsic-size: auto 190px; }
article > :last-child { min-width: 0; }
.picture { position: relative; flex: none; align-self: flex-start; }
.picture > * { position: absolute; inset: 0; width: 100%; height: 100%; }
.said { font-size: 1.15em; margin: .3em 0; }
.said span { padding: .1em .15em; border-radius: .2em; overflow-wrap: anywhere; }
.said [tabindex] { cursor: pointer; border-bottom: 1px dotted #999; }
.said [tabindex]:hover, .said [tabindex]:focus { background: #ffe08a; outline: 2px solid #c98a00; }
ul { margin: 0; padding-left: 1.2em; color: #555; overflow-wrap: anywhere; }
"""

SCRIPT = """
const kernels = {
  bilinear: d => Math.max(0, 1 - d),
  bicubic: d => d <= 1 ? (1.25 * d - 2.25) * d * d + 1 : d < 2 ? ((-0.75 * d + 3.75) * d - 6) * d + 3 : 0,
};
// For each of `size` pixels: the cells it lies between, and how much each counts.
function taps(cells, size) {
  return Array.from({length: size}, (_, pixel) => {
    const at = (pixel + 0.5) * cells / size - 0.5;
    if (light.mode === "nearest") return [[Math.round(at), 1]];
    return [-1, 0, 1, 2].map(step => Math.floor(at) + step)
      .map(cell => [Math.min(Math.max(cell, 0), cells - 1), kernels[light.mode](Math.abs(at - cell))]);
  });
}
function spread(weights, rows, columns, height, width) {
  const across = taps(columns, width), map = new Float32Array(height * width);
  taps(rows, height).forEach((down, y) => across.forEach((along, x) => {
    let sum = 0;
    for (const [row, share] of down) for (const [column, part] of along) {
      sum += share * part * weights[row * columns + column];
    }
    map[y * width + x] = Math.max(sum, 0);
  }));
  return map;
}
function show(word) {
  const article = word.closest("article"), canvas = article.querySelector("canvas"), {width, height} = canvas;
  const [rows, columns] = article.dataset.grid.split(" ").map(Number);
  const bytes = Uint8Array.from(atob(article.dataset.weights), letter => letter.charCodeAt(0));
  const number = [...word.parentNode.children].indexOf(word);
  const map = spread(bytes.subarray(number * rows * columns), rows, columns, height, width);
  const most = map.reduce((a, b) => Math.max(a, b), 1e-12), veil = new ImageData(width, height);
  map.forEach((weight, place) => {
    const share = weight / most, alpha = 1 - light.dark - (light.bright - light.dark) * share;
    light.heat.forEach((level, channel) => veil.data[4 * place + channel] = level * light.glow * share / alpha);
    veil.data[4 * place + 3] = 255 * alpha;
  });
  canvas.getContext("2d").putImageData(veil, 0, 0);
}
function hide(word) {
  const canvas = word.closest("article").querySelector("canvas");
  canvas.getContext("2d").clearRect(0, 0, canvas.width, canvas.height);
}
const said = act => event => event.target.matches(".said [tabindex]") && act(event.target);
for (const event of ["mouseover", "focusin"]) document.addEventListener(event, said(show));
for (const event of ["mouseout", "focusout"]) document.addEventListener(event, said(hide));
"""


def head(title: str, note: str, light: Mapping[str, Any]) -> str:
    """The page up to its first item.

    Args:
        title: of the page.
        note: what the reader must know.
        light: what the script draws with: "mode", "dark", "bright", "glow", "heat".
    """
    title = html.escape(title)
    return (
        f'<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width">\n<title>{title}</title>\n<style>{STYLE}</style>\n'
        f"<h1>{title}</h1>\n<p>{html.escape(note)}</p>\n"
        f"<script>\nconst light = {json.dumps(light)};{SCRIPT}</script>\n"
    )


def item(
    name: str,
    score: float,
    words: Sequence[str],
    references: Sequence[str],
    picture: bytes,
    kind: str,
    size: tuple[int, int],
    weights: np.ndarray,
) -> str:
    """One item.

    Args:
        name: of the item.
        score: of the sentence.
        words: L of the sentence.
        references: what people said.
        picture: a file.
        kind: of that file: "jpeg" or "png".
        size: (h, w) px of the picture.
        weights: (L, H, W) of the cells over the picture, at least 0; (0, H, W) where nothing is known of them.
    """
    height, width = size
    data, focus, canvas = "", "", ""
    if len(weights):
        most = weights.max(axis=(1, 2), keepdims=True).clip(1e-12)  # (L, 1, 1)
        levels = (255 * weights / most).round().astype(np.uint8)  # (L, H, W)
        coded = base64.b64encode(levels.tobytes()).decode("ascii")
        data = f' data-grid="{weights.shape[1]} {weights.shape[2]}" data-weights="{coded}"'
        focus, canvas = ' tabindex="0"', f'<canvas width="{width}" height="{height}" aria-hidden="true"></canvas>'
    said = " ".join(f"<span{focus}>{html.escape(word)}</span>" for word in words) or "(no words)"
    known = "".join(f"<li>{html.escape(text)}</li>" for text in references)
    return (
        f"<article{data}>"
        f'<div class="picture" style="width:{width}px;height:{height}px"><img alt="" '
        f'src="{data_uri(picture, f"image/{kind}")}">{canvas}</div>'
        f'<div><h2>{html.escape(name)} &middot; score {score:.4g}</h2><p class="said">{said}</p><ul>{known}</ul></div>'
        "</article>\n"
    )
