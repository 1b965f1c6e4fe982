"""The canvas of the map: what draws, zooms, and asks the page's server for what is pointed at or within a box."""

TEMPLATE = """
<div class="bar"><span class="note"></span>
  <label><input type="radio" name="drag" value="move" checked> move</label>
  <label><input type="radio" name="drag" value="select"> select</label>
  <button type="button" class="all">show all</button></div>
<div class="legend"></div>
<div class="stage"><canvas></canvas><div class="tip" hidden></div></div>
<div class="list"></div>
"""

STYLE = """
.bar { display: flex; flex-wrap: wrap; gap: 1.2em; align-items: center; padding: .2em 0; }
.bar .note { flex: 1; color: var(--neutral-500); }
.bar button { border: 1px solid var(--border-color-primary); border-radius: 4px; padding: .1em .8em; }
.legend { display: flex; flex-wrap: wrap; gap: .2em 1.2em; padding: .2em 0 .4em; font-size: .9em; }
.legend i { display: inline-block; width: .8em; height: .8em; border-radius: 50%; margin-right: .35em; }
.stage { position: relative; }
canvas { width: 100%; height: 560px; border: 1px solid var(--border-color-primary); border-radius: 6px;
  background: #fff; touch-action: none; cursor: crosshair; display: block; }
.tip { position: absolute; pointer-events: none; background: #fff; color: #222; z-index: 5; width: 260px;
  box-shadow: 0 2px 10px #0005; border-radius: 6px; }
.list { padding-top: .6em; }
"""

SCRIPT = """
const near_px = 9, wait_ms = 60;
let asked = 0, cloud = null, view = {zoom: 0.92, x: 0.5, y: 0.5}, drag = null, over = -1, timer = 0;
const part = name => element.querySelector(name);
const bytes = text => Uint8Array.from(atob(text), letter => letter.charCodeAt(0));

function load() {
  if (!props.value) return;
  const given = JSON.parse(props.value);
  if (!cloud || cloud.method !== given.method) { reset(); asked++; part(".list").replaceChildren(); }
  cloud = {...given, xy: new Uint16Array(bytes(given.xy).buffer), colour: bytes(given.colour)};
  part(".note").textContent = cloud.note;
  part(".legend").replaceChildren(...cloud.names.map((name, number) => {
    const entry = document.createElement("span"), dot = document.createElement("i");
    dot.style.background = cloud.colours[number];
    entry.append(dot, name);
    return entry;
  }));
  element.dataset.points = cloud.colour.length;
  hide();
  draw();
}
function reset() { view = {zoom: 0.92, x: 0.5, y: 0.5}; }
function scale() {
  const canvas = part("canvas");
  return Math.min(canvas.clientWidth, canvas.clientHeight) * view.zoom;
}
function to_px(number) {
  const canvas = part("canvas"), size = scale();
  return [canvas.clientWidth / 2 + (cloud.xy[2 * number] / 65535 - view.x) * size,
    canvas.clientHeight / 2 - (cloud.xy[2 * number + 1] / 65535 - view.y) * size];
}
function to_share(x, y) {
  const canvas = part("canvas"), size = scale();
  return [view.x + (x - canvas.clientWidth / 2) / size, view.y - (y - canvas.clientHeight / 2) / size];
}
function draw() {
  const canvas = part("canvas"), ratio = window.devicePixelRatio || 1;
  if (!cloud || !canvas.clientWidth) return;
  canvas.width = canvas.clientWidth * ratio;
  canvas.height = canvas.clientHeight * ratio;
  const brush = canvas.getContext("2d"), count = cloud.colour.length;
  brush.scale(ratio, ratio);
  const side = Math.min(9, (count > 10000 ? 2.5 : count > 500 ? 4 : 7) * Math.sqrt(view.zoom));
  brush.globalAlpha = count > 5000 ? 0.6 : 0.8;
  for (let number = 0; number < count; number++) {
    const [x, y] = to_px(number);
    brush.fillStyle = cloud.colours[cloud.colour[number]];
    brush.fillRect(x - side / 2, y - side / 2, side, side);
  }
  brush.globalAlpha = 1;
  if (over >= 0) {
    brush.strokeStyle = "#000";
    brush.lineWidth = 2;
    const [x, y] = to_px(over);
    brush.strokeRect(x - side / 2 - 2, y - side / 2 - 2, side + 4, side + 4);
  }
  if (drag && drag.box) {
    brush.strokeStyle = "#333";
    brush.setLineDash([5, 4]);
    brush.strokeRect(drag.from[0], drag.from[1], drag.to[0] - drag.from[0], drag.to[1] - drag.from[1]);
  }
}
function nearest(x, y) {
  let found = -1, least = near_px * near_px;
  for (let number = 0; number < cloud.colour.length; number++) {
    const [px, py] = to_px(number), square = (px - x) ** 2 + (py - y) ** 2;
    if (square < least) { found = number; least = square; }
  }
  return found;
}
function hide() { over = -1; part(".tip").hidden = true; }
function point(x, y) {
  const number = nearest(x, y);
  if (number === over) return;
  hide();
  over = number;
  draw();
  clearTimeout(timer);
  if (number < 0) return;
  timer = setTimeout(async () => {
    const shown = await server.preview([cloud.method, number]);
    if (number !== over) return;
    const tip = part(".tip"), canvas = part("canvas");
    tip.innerHTML = shown;
    tip.hidden = false;
    tip.style.left = (x + 280 > canvas.clientWidth ? Math.max(x - 274, 0) : x + 14) + "px";
    tip.style.top = Math.max(0, Math.min(y + 14, canvas.clientHeight - tip.offsetHeight - 6)) + "px";
  }, wait_ms);
}
async function choose() {
  const [left, top] = to_share(Math.min(drag.from[0], drag.to[0]), Math.min(drag.from[1], drag.to[1]));
  const [right, bottom] = to_share(Math.max(drag.from[0], drag.to[0]), Math.max(drag.from[1], drag.to[1]));
  const turn = ++asked;
  part(".list").textContent = "looking …";
  const found = await server.inside([cloud.method, left, bottom, right, top]);
  if (turn === asked) part(".list").innerHTML = found;  // not where another box or map was chosen meanwhile
}
const on_canvas = act => event => {
  if (!cloud || !(drag || event.target.matches("canvas"))) return;
  const {left, top} = part("canvas").getBoundingClientRect();
  act(event, event.clientX - left, event.clientY - top);
};
element.addEventListener("pointerdown", on_canvas((event, x, y) => {
  const box = event.shiftKey || part("input[value=select]").checked;
  drag = {box, from: [x, y], to: [x, y], view: {...view}};
  event.target.setPointerCapture(event.pointerId);
}));
element.addEventListener("pointermove", on_canvas((event, x, y) => {
  if (!drag) return point(x, y);
  drag.to = [x, y];
  hide();
  if (!drag.box) {
    view.x = drag.view.x - (x - drag.from[0]) / scale();
    view.y = drag.view.y + (y - drag.from[1]) / scale();
  }
  draw();
}));
element.addEventListener("pointerup", on_canvas((event, x, y) => {
  if (drag && drag.box && Math.abs(x - drag.from[0]) > 3) choose();
  drag = null;
  draw();
}));
element.addEventListener("pointerout", on_canvas(() => {
  if (drag) return;
  hide();
  draw();
}));
element.addEventListener("wheel", on_canvas((event, x, y) => {
  event.preventDefault();
  const [before_x, before_y] = to_share(x, y);
  view.zoom = Math.min(200, Math.max(0.5, view.zoom * Math.exp(-event.deltaY / 400)));
  const [after_x, after_y] = to_share(x, y);
  view.x += before_x - after_x;
  view.y += before_y - after_y;
  element.dataset.zoom = view.zoom.toFixed(2);
  hide();
  draw();
}), {passive: false});
const all = () => { reset(); element.dataset.zoom = view.zoom.toFixed(2); draw(); };
element.addEventListener("dblclick", on_canvas(all));
element.addEventListener("click", event => { if (event.target.matches(".all")) all(); });
new ResizeObserver(draw).observe(element);
watch("value", load);
load();
"""
