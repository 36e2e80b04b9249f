"use strict";
/* Elements, numbers and long texts. Text only ever enters the page through textContent: nothing here reads markup. */
window.sod = {};

/** `el("a", {class: "x", href: "#/", onclick: f}, "text", other)`; null and false are left out. */
sod.el = (name, attributes, ...children) => {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else node.setAttribute(key, value === true ? "" : String(value));
  }
  sod.fill(node, ...children);
  return node;
};

/** Children in place of the old ones; what is no node becomes text. */
sod.fill = (node, ...children) => {
  const kept = children.flat(4).filter((child) => child !== null && child !== undefined && child !== false);
  node.replaceChildren(...kept.map((child) => (child instanceof Node ? child : document.createTextNode(String(child)))));
  return node;
};

/** Four digits that matter, for reading; exact numbers stand in tooltips. */
sod.digits = (value) => {
  if (value === null || value === undefined) return "–";
  if (value === 0) return "0";
  const size = Math.abs(value);
  return size >= 1e5 || size < 1e-4 ? value.toExponential(2) : String(Number(value.toPrecision(4)));
};

/** `0.00004 -> "<1 ms"`, `0.046 -> "46 ms"`, `2.5 -> "2.5 s"`. */
sod.seconds = (value) => {
  if (value < 0.001) return "<1 ms";
  return value < 1 ? `${Math.round(1000 * value)} ms` : `${sod.digits(value)} s`;
};

sod.counted = (number, what) => `${number.toLocaleString("en")} ${what}${number === 1 ? "" : "s"}`;

sod.say = (text) => {
  document.getElementById("status").textContent = text;
};

const FOLD_LINES = 14;
const FOLD_CHARACTERS = 1600;

/** Where to cut a text for its folded form; its length when it is short enough. */
const foldAt = (text) => {
  let end = -1;
  for (let line = 0; line < FOLD_LINES; line += 1) {
    end = text.indexOf("\n", end + 1);
    if (end < 0 || end > FOLD_CHARACTERS) break;
  }
  const cut = end < 0 ? text.length : end;
  return Math.min(cut, FOLD_CHARACTERS) + 200 >= text.length ? text.length : Math.min(cut, FOLD_CHARACTERS);
};

/** A text block that is folded when long. `fill(node, text)` puts the text in, `what` names it for the button. */
sod.folded = (text, what, attributes, fill) => {
  const put = fill || ((node, shown) => sod.fill(node, shown));
  const block = sod.el("pre", attributes);
  const cut = foldAt(text);
  put(block, text.slice(0, cut));
  if (cut >= text.length) return block;
  const more = `Show all of ${what} (${sod.counted(text.length, "character")})`;
  const button = sod.el("button", { type: "button", class: "fold", "aria-expanded": "false" }, more);
  button.addEventListener("click", () => {
    const open = button.getAttribute("aria-expanded") === "true";
    put(block, open ? text.slice(0, cut) : text);
    button.setAttribute("aria-expanded", String(!open));
    button.textContent = open ? more : `Fold ${what}`;
  });
  block.classList.add("cut");
  return sod.el("div", { class: "foldable" }, block, button);
};

/** Verdict as sign and word, so that colour is not all there is. */
sod.verdict = (correct) => {
  if (correct === null || correct === undefined) return sod.el("span", { class: "verdict none" }, "not graded");
  const good = Boolean(correct);
  return sod.el("span", { class: `verdict ${good ? "good" : "bad"}` }, good ? "✓ correct" : "✗ wrong");
};

/** A tool status or pattern as a small label; only known ones get a colour. */
sod.label = (text) => sod.el("span", { class: `label is-${/^[a-z_]+$/.test(text) ? text : "other"}` }, text.replaceAll("_", " "));
