"use strict";
/* Addresses, keys and theme. `#/RUN?filters` is a list, `#/RUN/LINE?filters&pin=RUN:LINE` a trajectory. */
(() => {
  const VIEWS = ["both", "text", "tokens"];
  const THEMES = { auto: ["◐", "as the system"], light: ["☀", "light"], dark: ["☾", "dark"] };
  let ticket = 0;
  let runs = [];

  // ---- what is remembered

  const remembered = (name, known, otherwise) => {
    try {
      const value = localStorage.getItem(`sod-view-${name}`);
      return known.includes(value) ? value : otherwise;
    } catch {
      return otherwise;
    }
  };

  const remember = (name, value) => {
    try {
      localStorage.setItem(`sod-view-${name}`, value);
    } catch { /* a page from disk may not be allowed to */ }
  };

  sod.settings = { view: remembered("view", VIEWS, "both"), theme: remembered("theme", Object.keys(THEMES), "auto") };

  const applyTheme = () => {
    const { theme } = sod.settings;
    if (theme === "auto") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = theme;
    const button = document.getElementById("theme");
    button.textContent = THEMES[theme][0];
    button.setAttribute("aria-label", `Theme: ${THEMES[theme][1]}`);
    button.title = `Theme: ${THEMES[theme][1]}`;
  };

  const turnTheme = () => {
    const names = Object.keys(THEMES);
    sod.settings.theme = names[(names.indexOf(sod.settings.theme) + 1) % names.length];
    remember("theme", sod.settings.theme);
    applyTheme();
  };

  sod.setView = (name) => {
    sod.settings.view = name;
    remember("view", name);
    show();
  };

  // ---- addresses

  /** `#/a/17?sort=-reward` -> {run: "a", line: "17", params: {sort: "-reward"}}. */
  sod.route = () => {
    const [path, query] = location.hash.replace(/^#\/?/, "").split("?", 2);
    const [run, line] = path.split("/", 2);
    const known = runs.some((each) => each.name === run) ? run : runs[0]?.name || "";
    return { run: known, line: /^\d{1,15}$/.test(line || "") ? line : null, params: Object.fromEntries(new URLSearchParams(query || "")) };
  };

  sod.link = (run, line, params) => {
    const kept = Object.entries(params).filter(([, value]) => value !== "" && value !== null && value !== undefined);
    const query = new URLSearchParams(kept).toString();
    return `#/${run}${line === null ? "" : `/${line}`}${query ? `?${query}` : ""}`;
  };

  sod.isNow = (number) => number === ticket;

  sod.failed = (error) => {
    const { run } = sod.route();
    sod.fill(document.getElementById("main"),
      sod.el("div", { class: "empty", role: "alert" }, sod.el("h1", {}, "This could not be shown"), sod.el("p", {}, error.message || String(error)),
        sod.el("p", {}, sod.el("a", { href: sod.link(run, null, {}) }, "Back to the list"))));
  };

  sod.about = (about) => {
    const seed = about.seed === "" ? null : `seed ${about.seed}`;
    document.getElementById("about").textContent = [runs.length > 1 ? null : about.name, about.method, seed, about.state].filter(Boolean).join(" · ");
  };

  const show = () => {
    ticket += 1;
    sod.hideTip();
    const { run, line } = sod.route();
    document.getElementById("run").value = run;
    document.getElementById("home").href = `#/${run}`;
    const shown = line === null ? sod.showList(ticket) : sod.showTrajectory(ticket);
    const mine = ticket;
    shown.catch((error) => sod.isNow(mine) && sod.failed(error));
  };

  // ---- keys

  const KEYS = [
    ["j, ↓ / k, ↑", "list: next / previous row; trajectory: j / k next / previous step"],
    ["Enter", "open the row"],
    ["← / →", "list: turn the page; among tokens: previous / next token"],
    ["/", "search"],
    ["n / p", "next / previous trajectory of the selection"],
    ["c", "pin the trajectory to compare it with another, or unpin it"],
    ["t", "steps as text, tokens, or both"],
    ["d", "light, dark, or as the system"],
    ["Escape", "close, or go back to the list"],
    ["?", "these keys"],
  ];

  const openKeys = () => {
    const dialog = document.getElementById("keys");
    sod.fill(dialog, sod.el("h2", { id: "keys-title" }, "Keys"),
      sod.el("dl", {}, KEYS.map(([key, words]) => [sod.el("dt", {}, sod.el("kbd", {}, key)), sod.el("dd", {}, words)])),
      sod.el("button", { type: "button", onclick: () => dialog.close() }, "Close"));
    if (!dialog.open) dialog.showModal();
  };

  const escape = (typing) => {
    if (typing) document.activeElement.blur();
    else if (!sod.hideTip() && sod.route().line !== null) document.getElementById("back")?.click();
  };

  const press = (selector) => () => document.querySelector(selector)?.click();
  const IN_LIST = {
    j: () => sod.moveInList(1), k: () => sod.moveInList(-1), ArrowDown: () => sod.moveInList(1), ArrowUp: () => sod.moveInList(-1),
    ArrowRight: () => sod.turnPage(1), ArrowLeft: () => sod.turnPage(-1), "/": () => document.getElementById("search")?.focus(),
  };
  const IN_TRAJECTORY = {
    j: () => sod.moveStep(1), k: () => sod.moveStep(-1), n: () => sod.moveTrajectory(1), p: () => sod.moveTrajectory(-1),
    c: press("#pin"), t: () => sod.setView(VIEWS[(VIEWS.indexOf(sod.settings.view) + 1) % VIEWS.length]),
    "/": () => { sod.wantsSearch = true; document.getElementById("back")?.click(); },
  };
  const ANYWHERE = { "?": openKeys, d: turnTheme };

  const onKey = (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || document.getElementById("keys").open) return;
    const typing = /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName);
    if (event.key === "Escape") return escape(typing);
    if (typing) return;
    const action = (sod.route().line === null ? IN_LIST : IN_TRAJECTORY)[event.key] || ANYWHERE[event.key];
    if (!action) return;
    event.preventDefault();
    action();
  };

  // ---- start

  const start = async () => {
    applyTheme();
    document.getElementById("theme").addEventListener("click", turnTheme);
    document.getElementById("help").addEventListener("click", openKeys);
    document.getElementById("skip").addEventListener("click", (event) => {
      event.preventDefault(); // the address after # is ours
      document.getElementById("main").focus();
    });
    document.addEventListener("keydown", onKey);
    document.addEventListener("scroll", sod.moveTip, { passive: true });
    const known = await sod.source.runs();
    runs = known.runs;
    sod.exported = known.exported;
    const select = document.getElementById("run");
    sod.fill(select, runs.map((run) => sod.el("option", { value: run.name }, run.method ? `${run.name.replaceAll("~", "/")} (${run.method})` : run.name.replaceAll("~", "/"))));
    select.addEventListener("change", () => { location.hash = sod.link(select.value, null, { pin: sod.route().params.pin }); });
    document.getElementById("runs").hidden = runs.length < 2;
    window.addEventListener("hashchange", show);
    show();
  };

  start().catch(sod.failed);
})();
