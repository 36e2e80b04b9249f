"use strict";
/* A step's tokens, each coloured by how much likelier the teacher finds it than the student did, numbers on hover. */
(() => {
  const FIRST_SHOWN = 600;
  const STEPS = [0.1, 0.5, 1.5, 4]; // nats: where the next stronger colour begins
  let current = null;

  /** "n3" where the teacher finds the token less likely, "p1" where more; "" close to none or unknown. */
  const shade = (ratio) => {
    if (ratio === null) return "";
    const strength = STEPS.filter((step) => Math.abs(ratio) >= step).length;
    return strength ? `${ratio < 0 ? "n" : "p"}${strength}` : "";
  };

  const ratioOf = (student, teacher) => (student === null || teacher === null ? null : teacher - student);

  /** Blanks and line ends made visible where the token is nothing else. */
  const shown = (text, id) => {
    if (text === null) return `⟨${id}⟩`;
    const marked = text.replaceAll("\n", "↵\n").replaceAll("\t", "⇥");
    return text.trim() === "" ? marked.replaceAll(" ", "·") : marked;
  };

  const token = (tokens, index) => {
    const ratio = ratioOf(tokens.student[index], tokens.teacher ? tokens.teacher[index] : null);
    const text = tokens.texts ? tokens.texts[index] : null;
    const attributes = { class: `token ${shade(ratio)}`, tabindex: "-1", role: "option", "data-at": index };
    return sod.el("span", attributes, tokens.texts ? shown(text, tokens.ids[index]) : String(tokens.ids[index]));
  };

  const exact = (value) => (value === null || value === undefined ? "not recorded" : String(value));

  const facts = (tokens, index) => {
    const student = tokens.student[index];
    const teacher = tokens.teacher ? tokens.teacher[index] : null;
    const ratio = ratioOf(student, teacher);
    const text = tokens.texts ? tokens.texts[index] : null;
    return [
      ["token", text === null ? "unknown" : JSON.stringify(text)],
      ["token id", String(tokens.ids[index])],
      ["student", exact(student)],
      ["teacher", exact(teacher)],
      ["log-ratio", ratio === null ? "unknown" : ratio.toFixed(6)],
    ];
  };

  const show = (node, tokens) => {
    const tip = document.getElementById("tip");
    const pairs = facts(tokens, Number(node.dataset.at));
    sod.fill(tip, sod.el("dl", {}, pairs.map(([name, value]) => [
      sod.el("dt", {}, name), sod.el("dd", { "data-fact": name }, value),
    ])));
    tip.hidden = false;
    place(node);
    if (current) current.removeAttribute("aria-describedby");
    current = node;
    node.setAttribute("aria-describedby", "tip");
  };

  const place = (node) => {
    const tip = document.getElementById("tip");
    const [box, own] = [node.getClientRects()[0] || node.getBoundingClientRect(), tip.getBoundingClientRect()];
    const below = box.bottom + 6 + own.height < window.innerHeight;
    tip.style.setProperty("left", `${Math.max(8, Math.min(box.left, window.innerWidth - own.width - 8))}px`);
    tip.style.setProperty("top", `${Math.max(8, below ? box.bottom + 6 : box.top - own.height - 6)}px`);
  };

  /** The numbers stay beside their token while the page scrolls. */
  sod.moveTip = () => current && place(current);

  sod.hideTip = () => {
    const tip = document.getElementById("tip");
    const was = !tip.hidden;
    tip.hidden = true;
    if (current) current.removeAttribute("aria-describedby");
    current = null;
    return was;
  };

  const move = (event, list) => {
    const ways = { ArrowRight: 1, ArrowLeft: -1, Home: -Infinity, End: Infinity };
    if (!(event.key in ways) || !event.target.classList.contains("token")) return;
    const all = [...list.querySelectorAll(".token")];
    const at = Math.max(0, Math.min(all.length - 1, all.indexOf(event.target) + ways[event.key]));
    event.preventDefault();
    event.stopPropagation();
    all[at].focus();
  };

  const listen = (list, tokens) => {
    const of = (event) => event.target.closest(".token");
    list.addEventListener("mouseover", (event) => of(event) && show(of(event), tokens));
    list.addEventListener("mouseleave", sod.hideTip);
    list.addEventListener("focusout", sod.hideTip);
    list.addEventListener("keydown", (event) => move(event, list));
    list.addEventListener("focusin", (event) => {
      if (!of(event)) return;
      for (const other of list.querySelectorAll('.token[tabindex="0"]')) other.tabIndex = -1;
      of(event).tabIndex = 0; // one stop of the tab key for all tokens of a step
      show(of(event), tokens);
    });
  };

  /** The tokens of step `number` (from 1); long lists begin with their first ones. */
  sod.tokens = (tokens, number) => {
    const list = sod.el("div", { class: "tokens", role: "listbox", "aria-label": `Tokens of step ${number}` });
    const add = (from, to) => {
      const some = document.createDocumentFragment();
      for (let index = from; index < to; index += 1) some.append(token(tokens, index));
      list.append(some);
    };
    const first = tokens.ids.length > FIRST_SHOWN + 100 ? FIRST_SHOWN : tokens.ids.length;
    add(0, first);
    if (list.firstElementChild) list.firstElementChild.tabIndex = 0;
    listen(list, tokens);
    if (first === tokens.ids.length) return list;
    const more = sod.el("button", { type: "button", class: "fold" }, `Show all ${sod.counted(tokens.ids.length, "token")}`);
    more.addEventListener("click", () => {
      add(first, tokens.ids.length);
      list.children[first].focus();
      more.remove();
    });
    return sod.el("div", { class: "foldable" }, list, more);
  };

  /** What the colours mean. */
  sod.legend = () => {
    const swatch = (name, words) => sod.el("span", { class: `swatch ${name}` }, words);
    return sod.el("p", { class: "legend" },
      sod.el("span", {}, "log teacher − log student, nats: "),
      sod.el("span", { class: "scale" },
        swatch("n4", "≤ −4"), swatch("n3", "−1.5"), swatch("n2", "−0.5"), swatch("n1", "−0.1"), swatch("", "0"),
        swatch("p1", "0.1"), swatch("p2", "0.5"), swatch("p3", "1.5"), swatch("p4", "≥ 4")),
      sod.el("span", {}, " orange: the teacher finds it less likely than the student did; blue: more likely."));
  };
})();
