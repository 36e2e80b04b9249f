"""The page's style sheet: light, dark and print. Figures stand on white cards in all three."""

from __future__ import annotations

import base64
import hashlib

CSS = """
:root { color-scheme: light dark; --page: #fff; --card: #f5f7f9; --ink: #1b2026; --soft: #56616d; --edge: #d4dae1;
  --link: #0b5299; --good: #0b5a35; --good-card: #def3e7; --bad: #8c1c12; --bad-card: #fde4e0; --open: #664600;
  --open-card: #fdf0cd; }
@media (prefers-color-scheme: dark) { :root { --page: #14181c; --card: #1d2329; --ink: #e5e9ee; --soft: #a5b0bc;
  --edge: #38424d; --link: #8cc2ff; --good: #94e2b8; --good-card: #123524; --bad: #ffb3a8; --bad-card: #47180f;
  --open: #f3d58b; --open-card: #3c2e08; } }
* { box-sizing: border-box; }
html { font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", Arial, sans-serif;
  background: var(--page); color: var(--ink); }
body { max-width: 70rem; margin: 0 auto; padding: 1.5rem 1.25rem 4rem; }
h1 { font-size: 1.7rem; line-height: 1.25; margin: 0 0 .5rem; overflow-wrap: anywhere; }
h2 { font-size: 1.3rem; margin: 2.6rem 0 .6rem; padding-top: .8rem; border-top: 1px solid var(--edge); }
h3 { font-size: 1.05rem; margin: 1.6rem 0 .4rem; overflow-wrap: anywhere; }
p, ul { margin: .5rem 0; max-width: 60rem; overflow-wrap: anywhere; }
a { color: var(--link); }
a:focus-visible, summary:focus-visible, .wide:focus-visible { outline: 3px solid var(--link); outline-offset: 2px; }
code, pre { font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace; }
code, pre { font-size: .875em; } pre code { font-size: 1em; }
code { overflow-wrap: anywhere; }
.soft, caption, figcaption { color: var(--soft); }
nav ul { display: flex; flex-wrap: wrap; gap: .2rem 1.1rem; list-style: none; padding: 0; }
.runs { list-style: none; padding: 0; display: grid; gap: .6rem; max-width: none; }
.runs li { display: grid; grid-template-columns: 3.2rem 1fr; gap: .1rem .8rem; align-items: center;
  background: var(--card); border: 1px solid var(--edge); border-radius: .5rem; padding: .6rem .8rem; }
.runs svg, .chip svg { display: block; width: 3.2rem; border-radius: .25rem; }
.runs .name { font-weight: 650; overflow-wrap: anywhere; }
.runs .more { grid-column: 2; }
.badge { display: inline-block; padding: 0 .5em; border-radius: .3em; font-weight: 650; white-space: nowrap; }
.passed { color: var(--good); background: var(--good-card); }
.alarm { color: var(--bad); background: var(--bad-card); }
.work, .off { color: var(--open); background: var(--open-card); }
.wide { overflow-x: auto; margin: .8rem 0 1.4rem; }
table { border-collapse: collapse; font-size: .92rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; padding: .2rem 0 .5rem; font-size: .9rem;
  max-width: min(60rem, 100vw - 2.5rem); }
th, td { padding: .3rem .55rem; border-bottom: 1px solid var(--edge); text-align: left; vertical-align: top; }
thead th { border-bottom: 2px solid var(--edge); vertical-align: bottom; }
thead th.words { overflow-wrap: anywhere; }
tbody th { font-weight: 550; }
td.number, th.number { text-align: right; } td.number { white-space: nowrap; }
td.words, tbody th { min-width: 7.5rem; }
tbody th code { white-space: nowrap; }
tbody th { position: sticky; left: 0; background: var(--page); }
figure { margin: 1rem 0 1.6rem; }
figure .card { background: #fff; border: 1px solid var(--edge); border-radius: .5rem; padding: .6rem;
  overflow-x: auto; }
figure .card svg { display: block; max-width: 100%; height: auto; margin: 0 auto; }
@media (max-width: 48rem) { figure .card svg { max-width: none; } }
figcaption { font-size: .9rem; padding-top: .4rem; max-width: 60rem; overflow-wrap: anywhere; }
details { margin: .6rem 0 1.2rem; }
summary { cursor: pointer; color: var(--link); overflow-wrap: anywhere; }
.step { border-left: 4px solid var(--edge); padding: .1rem 0 .1rem .9rem; margin: .9rem 0; }
.step h4 { margin: .2rem 0; font-size: .95rem; }
.step.failed { border-left-color: var(--bad); }
.bar { display: grid; grid-template-columns: 7.5rem 12rem 4.5rem; gap: .6rem; align-items: center; font-size: .875rem; }
.bar svg { width: 12rem; height: .7rem; background: var(--card); border: 1px solid var(--edge); }
.bar .d { fill: #c2410c; } .bar .w { fill: #2474b8; }
.label { margin: .5rem 0 .1rem; font-size: .85rem; color: var(--soft); }
pre { margin: .15rem 0 .5rem; padding: .5rem .7rem; background: var(--card); border: 1px solid var(--edge);
  border-radius: .4rem; white-space: pre-wrap; overflow-wrap: anywhere; }
footer { margin-top: 3rem; border-top: 1px solid var(--edge); padding-top: .8rem; font-size: .9rem;
  color: var(--soft); }
@media (max-width: 40rem) { .bar { grid-template-columns: 5.5rem 1fr 3.6rem; } .bar svg { width: 100%; } }
@page { margin: 14mm; }
@media print {
  :root { color-scheme: light; --page: #fff; --card: #f7f8f9; --ink: #000; --soft: #3c444d; --edge: #b9c0c8;
    --link: #000; --good: #0b5a35; --good-card: #fff; --bad: #8c1c12; --bad-card: #fff; --open: #664600;
    --open-card: #fff; }
  html { font-size: 11px; }
  body { max-width: none; padding: 0; }
  nav { display: none; }
  details::details-content { content-visibility: visible; }
  h2, h3, h4, caption, summary { break-after: avoid; }
  figure, tr, .runs li { break-inside: avoid; }
  .wide, figure .card { overflow: visible; }
  figure .card { border: none; padding: 0; }
  figure .card svg { max-width: 100%; }
  table { font-size: .85rem; max-width: 100%; }
  th, td { padding: .2rem .4rem; white-space: normal !important; overflow-wrap: break-word; }
  tbody th code { white-space: normal; }
  td.words, tbody th { min-width: 0; position: static; }
  .badge { border: 1px solid currentColor; }
}
"""

POLICY = (
    "default-src 'none'; base-uri 'none'; form-action 'none'; img-src data:; style-src 'sha256-"
    + base64.b64encode(hashlib.sha256(CSS.encode()).digest()).decode()
    + "'"
)
"""The page's content security policy: this style sheet and nothing else; no script, no request."""
