#include "visualize/report/page_style.h"

namespace dino {

const char* const kPageStyle = R"css(
:root { color-scheme: light dark;
  --paper: #faf9f6; --card: #ffffff; --ink: #1d1c1a; --soft: #5d5952; --rule: #e3dfd7; --grid: #eeebe4;
  --good: #17663a; --good-back: #e6f3ea; --bad: #a31621; --bad-back: #fbe9e8; --unsure: #7a5200; --unsure-back: #fbf1dc;
  --s0: #1b5fae; --s1: #b4430c; --s2: #0b7558; --s3: #8a3a9c; --s4: #756300; --s5: #ad1558; }
@media screen and (prefers-color-scheme: dark) { :root {
  --paper: #151413; --card: #1e1d1b; --ink: #edebe6; --soft: #aba69c; --rule: #3a3733; --grid: #2b2926;
  --good: #7fd6a0; --good-back: #16301f; --bad: #ff9d94; --bad-back: #3a1a18; --unsure: #f0c674; --unsure-back: #362a12;
  --s0: #74b5ff; --s1: #ff9f6b; --s2: #57d2ab; --s3: #d8a0ec; --s4: #d8c850; --s5: #ff8cb8; } }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; scroll-behavior: smooth; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "DejaVu Sans", sans-serif; font-variant-numeric: tabular-nums; }
main, header, footer { max-width: 76rem; margin: 0 auto; padding: 0 1.25rem; }
header { padding-top: 2rem; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .15rem; letter-spacing: -.015em; overflow-wrap: anywhere; }
h2 { font-size: 1.3rem; line-height: 1.25; margin: 3rem 0 .25rem; padding-top: .25rem; letter-spacing: -.01em; }
h3 { font-size: 1rem; margin: 1.25rem 0 .4rem; overflow-wrap: anywhere; }
p { margin: 0 0 .75rem; max-width: 46rem; }
.lead, .about, .note, .caption { color: var(--soft); }
.lead { margin-bottom: 1rem; }
a { color: var(--s0); text-underline-offset: .2em; }
nav ul { display: flex; flex-wrap: wrap; gap: .25rem 1.1rem; list-style: none; margin: 1.25rem 0 0; padding: .6rem 0; border-top: 1px solid var(--rule); border-bottom: 1px solid var(--rule); }
nav a { text-decoration: none; } nav a:hover { text-decoration: underline; }
.verdict { display: grid; grid-template-columns: auto 1fr; gap: .25rem 1rem; border-radius: .75rem; padding: 1.1rem 1.25rem; margin: 1rem 0 0; border: 1px solid; }
.verdict .mark { width: 2.25rem; height: 2.25rem; grid-row: span 2; }
.verdict .answer { font-size: 1.25rem; line-height: 1.3; font-weight: 650; margin: 0; }
.verdict .run { color: var(--ink); font-weight: 400; }
.verdict ul { margin: .35rem 0 0; padding: 0 0 0 1.1rem; color: var(--ink); }
.verdict li { margin: .15rem 0; max-width: 48rem; }
.good { color: var(--good); background: var(--good-back); } .bad { color: var(--bad); background: var(--bad-back); } .unsure { color: var(--unsure); background: var(--unsure-back); }
.facts { display: grid; grid-template-columns: repeat(auto-fit, minmax(8.5rem, 1fr)); gap: .75rem; margin: 1rem 0 0; }
.facts div { background: var(--card); border: 1px solid var(--rule); border-radius: .6rem; padding: .6rem .85rem; }
.facts dt { color: var(--soft); font-size: .82rem; } .facts dd { margin: 0; font-size: 1.25rem; font-weight: 600; line-height: 1.3; }
.facts small { display: block; font-size: .8rem; font-weight: 400; color: var(--soft); }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 21rem), 1fr)); gap: 1rem; margin: 1rem 0; }
figure { margin: 0; }
.chart { background: var(--card); border: 1px solid var(--rule); border-radius: .75rem; padding: .85rem 1rem .6rem; break-inside: avoid; display: flex; flex-direction: column; }
.chart figcaption { display: grid; grid-template-columns: 1fr auto; gap: 0 .75rem; align-items: baseline; margin-bottom: .35rem; }
.chart .title { font-weight: 650; } .chart .value { font-weight: 650; }
.chart .about { grid-column: 1 / -1; font-size: .84rem; line-height: 1.35; }
.chart .plot { margin-top: auto; }
.plot { display: block; width: 100%; height: auto; overflow: visible; touch-action: pan-y; }
.plot text { font-size: 11px; fill: var(--soft); }
.plot .grid { stroke: var(--grid); fill: none; } .plot .axis { stroke: var(--rule); fill: none; }
.plot .level { stroke: var(--soft); stroke-dasharray: 4 4; fill: none; } .plot text.level { stroke: var(--card); stroke-width: 3px; stroke-dasharray: none; paint-order: stroke; fill: var(--soft); }
.line { fill: none; stroke: currentColor; stroke-width: 1.8; stroke-linejoin: round; stroke-linecap: butt; }
.band { fill: currentColor; opacity: .17; } .plot circle { fill: currentColor; }
.s0 { color: var(--s0); } .s1 { color: var(--s1); } .s2 { color: var(--s2); } .s3 { color: var(--s3); } .s4 { color: var(--s4); } .s5 { color: var(--s5); }
.cursor path { stroke: var(--soft); } .cursor text { fill: var(--ink); font-weight: 600; stroke: var(--card); stroke-width: 4px; paint-order: stroke; }
.legend { list-style: none; margin: .4rem 0 0; padding: 0; display: flex; flex-wrap: wrap; gap: .15rem 1rem; font-size: .84rem; }
.legend li { overflow-wrap: anywhere; } .sample { vertical-align: .1em; margin-right: .4rem; }
.note { font-size: .84rem; margin: .35rem 0 0; }
.film { display: flex; overflow-x: auto; gap: 2px; padding-bottom: .5rem; scrollbar-width: thin; }
.film figure { flex: none; text-align: center; }
.film img { display: block; width: 80px; height: auto; image-rendering: auto; background: var(--grid); }
.film .cells img { image-rendering: pixelated; }
.film figcaption { font-size: .8rem; color: var(--soft); padding: .1rem 0 .2rem; }
.film .source { position: sticky; left: 0; z-index: 1; background: var(--paper); padding-right: 6px; }
.film .source figcaption { font-weight: 600; }
.play { font: inherit; font-size: .85rem; color: var(--ink); background: var(--card); border: 1px solid var(--rule); border-radius: .5rem; padding: .2rem .7rem; margin: 0 0 .5rem; cursor: pointer; }
.film .dim { opacity: .25; }
.neighbours { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 25rem), 1fr)); gap: 1rem; }
.strip { break-inside: avoid; }
.strip img { display: block; width: 100%; height: auto; }
.strip ol { display: grid; grid-template-columns: repeat(6, 1fr); list-style: none; margin: .2rem 0 0; padding: 0; font-size: .75rem; line-height: 1.25; color: var(--soft); text-align: center; }
.strip li { overflow-wrap: anywhere; padding: 0 .1rem; } .strip .same { color: var(--ink); font-weight: 600; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; margin: .5rem 0 1rem; font-size: .92rem; }
th, td { text-align: left; padding: .3rem 1rem .3rem 0; border-bottom: 1px solid var(--rule); vertical-align: top; }
th { font-weight: 600; color: var(--soft); } td.number, th.number { text-align: right; }
td code { overflow-wrap: anywhere; }
code { font: .92em ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace; }
.changed { font-weight: 650; }
.finding { border-left: 4px solid var(--rule); padding: .1rem 0 .1rem .9rem; margin: .8rem 0; }
.finding.open { border-color: var(--bad); }
.finding p { margin: 0; } .finding .when { color: var(--soft); font-size: .85rem; }
details { margin: .5rem 0; } summary { cursor: pointer; }
footer { margin-top: 3rem; padding-top: 1rem; padding-bottom: 2rem; color: var(--soft); font-size: .85rem; }
@media (max-width: 34rem) {
  main, header, footer { padding-left: .9rem; padding-right: .9rem; } header { padding-top: 1.1rem; } h1 { font-size: 1.5rem; } h2 { margin-top: 2.25rem; }
  .verdict { grid-template-columns: 1fr; padding: .9rem 1rem; } .verdict .mark { display: none; } .verdict .answer { font-size: 1.1rem; }
  .facts { grid-template-columns: 1fr 1fr; gap: .5rem; } .facts div { padding: .5rem .7rem; } .facts dd { font-size: 1.1rem; }
  .chart { padding: .7rem .75rem .5rem; } .film img { width: 68px; }
  table { font-size: .84rem; } th, td { padding-right: .7rem; } td:not(.number) { min-width: 5.75rem; } th[scope=row] { min-width: 8rem; } th code { overflow-wrap: anywhere; } }
@media print {
  @page { margin: 14mm; }
  body { font-size: 10pt; background: #fff; } nav, .play { display: none; } h2, h3, h2 + p, h3 + p { break-after: avoid; } p { break-inside: avoid; }
  main, header, footer { max-width: none; padding: 0; }
  .verdict, .chart, .facts div { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
  .charts { grid-template-columns: 1fr 1fr; } .film { flex-wrap: wrap; overflow: visible; } .film .source { position: static; }
  .film img { width: 50px; } .film figcaption { font-size: 6.5pt; } .film figure { break-inside: avoid; } .film .dim { opacity: 1; } .cursor { display: none; } .scroll { overflow: visible; } details::details-content { content-visibility: visible; } }
)css";

const char* const kPageScript = R"js(
"use strict";
for (const plot of document.querySelectorAll("svg.plot")) {
  const numbers = name => plot.dataset[name].split(" ").map(Number);
  const [x0, x1] = numbers("x"), [y0, y1] = numbers("y"), [left, right, top, bottom] = numbers("box");
  const lines = [...plot.querySelectorAll(".line")].map(path => ({ name: path.dataset.name,
    points: path.getAttribute("d").slice(1).split("L").map(pair => pair.split(" ").map(Number)) }));
  const cursor = plot.querySelector(".cursor");
  const text = value => Math.abs(value) >= 1000 || value === 0 ? value.toFixed(0) : String(Number(value.toPrecision(3)));
  const make = (name, attributes, content) => {
    const element = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const key in attributes) element.setAttribute(key, attributes[key]);
    element.textContent = content || "";
    cursor.append(element);
  };
  plot.addEventListener("pointermove", event => {
    const frame = plot.getBoundingClientRect();
    const at = (event.clientX - frame.left) / frame.width * plot.viewBox.baseVal.width;
    const near = lines.map(line => line.points.reduce((a, b) => Math.abs(b[0] - at) < Math.abs(a[0] - at) ? b : a));
    const x = near[0][0];
    cursor.replaceChildren();
    make("path", { d: `M${x} ${top}V${bottom}` });
    const side = x > (left + right) / 2 ? { x: x - 6, "text-anchor": "end" } : { x: x + 6 };
    make("text", { ...side, y: bottom - 6 }, `${plot.dataset.name} ${text(x0 + (x - left) / (right - left) * (x1 - x0))}`);
    near.forEach((point, i) => make("text", { ...side, y: top + 12 + 14 * i },
      `${lines.length > 1 ? lines[i].name + " " : ""}${text(y0 + (bottom - point[1]) / (bottom - top) * (y1 - y0))}`));
  });
  plot.addEventListener("pointerleave", () => cursor.replaceChildren());
}
for (const film of document.querySelectorAll(".film")) {
  const frames = [...film.querySelectorAll("figure:not(.source)")];
  if (frames.length < 3 || matchMedia("(prefers-reduced-motion: reduce)").matches) continue;
  const button = document.createElement("button");
  button.className = "play"; button.type = "button"; button.textContent = "▶ Play";
  let timer = 0;
  const stop = () => { clearInterval(timer); timer = 0; button.textContent = "▶ Play"; frames.forEach(f => f.classList.remove("dim")); };
  button.addEventListener("click", () => {
    if (timer) return stop();
    let i = 0;
    button.textContent = "■ Stop";
    const show = () => {
      if (i === frames.length) return stop();
      frames.forEach((f, j) => f.classList.toggle("dim", j !== i));
      film.scrollLeft = frames[i].offsetLeft - film.offsetLeft - film.clientWidth / 2;
      ++i;
    };
    show();
    timer = setInterval(show, 400);
  });
  film.before(button);
}
addEventListener("beforeprint", () => document.querySelectorAll("details").forEach(d => d.open = true));
)js";

}  // namespace dino
