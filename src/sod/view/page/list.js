"use strict";
/* The list of trajectories: filters, order, pages. What is chosen stands in the address, so that a link holds it. */
(() => {
  const COLUMNS = [
    ["line", "#", "Line of the record in trajectories.jsonl"],
    ["update", "Update", "Update it was sampled in"],
    ["problem", "Problem", "Problem and sample"],
    ["reward", "Reward", "Reward and verdict"],
    ["", "Ended", "Why it stopped"],
    ["steps", "Steps", "Turns the student took"],
    ["calls", "Calls", "Tool calls, with the worst status"],
    ["divergence", "max d", "Largest divergence of a step, nats"],
    ["weight", "min w", "Smallest weight of a step"],
    ["", "Pattern", "Stable, erroneous or recovery"],
    ["", "Last words", "Beginning of the last turn"],
  ];
  const DESCENDING_FIRST = new Set(["reward", "steps", "calls", "divergence", "tokens"]);
  let shown = "";
  let timer = 0;

  const go = (changes) => {
    const { run, params } = sod.route();
    const next = { ...params, ...changes };
    if (!("page" in changes)) delete next.page;
    location.replace(sod.link(run, null, next));
  };

  // ---- filters

  const choice = (name, title, pairs, words) => {
    const { params } = sod.route();
    const value = params[name] || "";
    const known = pairs.some(([key]) => key === value) || value === "";
    const options = [["", "any"], ...pairs, ...(known ? [] : [[value, 0]])].map(([key, num]) =>
      sod.el("option", { value: key, selected: key === value }, key === "" ? "any" : `${words(key)} (${num.toLocaleString("en")})`));
    const select = sod.el("select", { "data-filter": name, onchange: (event) => go({ [name]: event.target.value }) }, options);
    select.value = value;
    return sod.el("label", { class: "filter" }, sod.el("span", {}, title), select);
  };

  const wholeField = (name, title, bounds) => {
    const [least, most] = bounds;
    const field = sod.el("input", {
      type: "number", min: least ?? 0, max: most ?? 0, value: sod.route().params[name] || "", "data-filter": name,
      placeholder: String((name === "from" ? least : most) ?? ""), onchange: (event) => go({ [name]: event.target.value }),
    });
    return sod.el("label", { class: "filter narrow" }, sod.el("span", {}, title), field);
  };

  const textField = () => {
    let waiting = 0;
    const search = (value) => {
      clearTimeout(waiting);
      waiting = setTimeout(() => go({ text: value }), 250);
    };
    const field = sod.el("input", {
      type: "search", id: "search", value: sod.route().params.text || "", "data-filter": "text", autocomplete: "off", spellcheck: "false",
      maxlength: "400", oninput: (event) => search(event.target.value), placeholder: 'words, or "words together"',
    });
    return sod.el("label", { class: "filter wide" }, sod.el("span", {}, "Text ", sod.el("kbd", { "aria-hidden": "true" }, "/")), field);
  };

  const named = (key) => String(key).replaceAll("_", " ");

  const filters = (list) => {
    const { choices } = list;
    const verdicts = choices.correct.map(([key, num]) => [{ 0: "no", 1: "yes", null: "none" }[key], num]);
    const some = (pairs) => pairs.map(([key, num]) => [key === "" ? "none" : key, num]);
    const plain = choices.stop.filter(([key]) => key !== "");
    const benchmarks = choices.benchmark.filter(([key]) => key !== "");
    const words = { yes: "correct", no: "wrong", none: "not graded" };
    const sortChoices = [["line", "file order"], ["-update", "newest update"], ["-telling", "most telling"], ["reward", "lowest reward"],
      ["-reward", "highest reward"], ["-divergence", "largest d"], ["weight", "smallest w"], ["-steps", "most steps"], ["-tokens", "most tokens"]];
    const order = sod.el("select", { "data-filter": "sort", onchange: (event) => go({ sort: event.target.value }) },
      sortChoices.map(([key, title]) => sod.el("option", { value: key }, title)));
    const sort = sod.route().params.sort || "line";
    if (!sortChoices.some(([key]) => key === sort)) order.append(sod.el("option", { value: sort }, "by a column"));
    order.value = sort;
    const hasUpdates = choices.update[1] !== null && choices.update[1] !== choices.update[0];
    return sod.el("form", { class: "filters", role: "search", "aria-label": "Filters", onsubmit: (event) => event.preventDefault() },
      textField(),
      hasUpdates ? [wholeField("from", "Update from", choices.update), wholeField("to", "to", choices.update)] : null,
      choice("correct", "Verdict", verdicts, (key) => words[key]),
      choice("stop", "Ended", plain, named),
      choice("pattern", "Pattern", some(choices.pattern), (key) => (key === "none" ? "no calls or no teacher" : named(key))),
      choice("status", "Tool status", choices.status, (key) => (key === "none" ? "no calls" : named(key))),
      benchmarks.length ? choice("benchmark", "Benchmark", benchmarks, String) : null,
      sod.el("label", { class: "filter" }, sod.el("span", {}, "Order"), order),
      sod.el("button", { type: "button", class: "clear", onclick: () => location.replace(sod.link(sod.route().run, null, {})) }, "Clear"));
  };

  // ---- table

  const sortBy = (name) => {
    const now = sod.route().params.sort || "line";
    const first = DESCENDING_FIRST.has(name) ? `-${name}` : name;
    const other = first.startsWith("-") ? name : `-${name}`;
    go({ sort: now === first ? other : first });
  };

  const head = () => {
    const now = sod.route().params.sort || "line";
    return sod.el("tr", {}, COLUMNS.map(([name, title, words]) => {
      if (!name) return sod.el("th", { scope: "col", title: words }, title);
      const state = now === name ? "ascending" : now === `-${name}` ? "descending" : null;
      const sign = { ascending: " ↑", descending: " ↓" }[state] || "";
      return sod.el("th", { scope: "col", title: words, "aria-sort": state },
        sod.el("button", { type: "button", class: "sort", onclick: () => sortBy(name), "data-filter": `sort ${name}` }, title, sod.el("span", { "aria-hidden": "true" }, sign)));
    }));
  };

  const row = (each, run, params) => {
    const cell = (title, attributes, ...children) => sod.el("td", { "data-title": title, ...attributes }, ...children);
    const where = [each.problem_id, each.sample === null ? "" : ` · ${each.sample}`];
    return sod.el("tr", { "data-line": each.line },
      sod.el("th", { scope: "row", "data-title": "#" }, sod.el("a", { href: sod.link(run, each.line, params), class: "open",
        "aria-label": `Line ${each.line}: problem ${each.problem_id}, sample ${each.sample ?? "?"}` }, each.line)),
      cell("Update", { class: "number" }, each.updated ?? "–"),
      cell("Problem", { class: "id", title: each.problem_id }, each.benchmark ? [sod.el("span", { class: "quiet" }, `${each.benchmark} `)] : null, ...where),
      cell("Reward", {}, sod.verdict(each.correct), " ", each.reward === null ? null : sod.el("span", { class: "quiet" }, sod.digits(each.reward))),
      cell("Ended", {}, each.stop === "answered" || each.stop === "" ? each.stop || "–" : sod.label(each.stop)),
      cell("Steps", { class: "number" }, each.sealed ? "–" : each.num_steps),
      cell("Calls", {}, each.sealed ? "–" : each.num_calls, " ", each.status && each.status !== "ok" ? sod.label(each.status) : null),
      cell("max d", { class: "number" }, sod.digits(each.max_d)),
      cell("min w", { class: "number" }, sod.digits(each.min_w)),
      cell("Pattern", {}, each.pattern ? sod.label(each.pattern) : "–"),
      cell("Last words", { class: "preview" }, each.sealed ? sod.el("i", {}, "sealed") : each.preview));
  };

  const pages = (list) => {
    const last = Math.max(0, Math.ceil(list.total / list.page_rows) - 1);
    const from = list.total ? list.page * list.page_rows + 1 : 0;
    const to = Math.min(list.total, (list.page + 1) * list.page_rows);
    const turn = (title, page, off) => sod.el("button", { type: "button", disabled: off, onclick: () => go({ page: String(page) }), "data-filter": title }, title);
    return sod.el("nav", { class: "pages", "aria-label": "Pages" },
      turn("« First", 0, list.page === 0), turn("‹ Previous", list.page - 1, list.page === 0),
      sod.el("span", {}, `${from.toLocaleString("en")}–${to.toLocaleString("en")} of ${sod.counted(list.total, "trajectory").replace("trajectorys", "trajectories")}`),
      turn("Next ›", list.page + 1, list.page >= last), turn("Last »", last, list.page >= last));
  };

  const empty = (list) => {
    if (!list.progress.whole) return "Nothing yet: the index is being made.";
    if (Object.keys(sod.route().params).some((key) => !["sort", "page", "pin"].includes(key))) return "No trajectory fits these filters.";
    return "This run has no trajectories yet. A cold start (sod sft) records none.";
  };

  const notes = (list) => {
    const { progress } = list;
    const share = progress.total_bytes ? Math.floor((100 * progress.indexed_bytes) / progress.total_bytes) : 0;
    return [
      progress.whole ? null : sod.el("p", { class: "note" }, `The index is being made: ${share} %. What is listed grows.`),
      progress.damaged ? sod.el("p", { class: "note" }, `${sod.counted(progress.damaged, "line")} of trajectories.jsonl could not be read and ${progress.damaged === 1 ? "is" : "are"} left out.`) : null,
      sod.exported && sod.exported.leftOut ? sod.el("p", { class: "note" }, `This export holds the ${sod.exported.shown} most telling trajectories; ${sod.exported.leftOut.toLocaleString("en")} were left out.`) : null,
    ];
  };

  const draw = (list) => {
    const { run, params } = sod.route();
    const main = document.getElementById("main");
    const active = document.activeElement;
    const [line, filter] = [active && active.closest("tr")?.dataset.line, active && active.dataset?.filter];
    const caret = filter === "text" ? active.selectionStart : null;
    const typed = filter === "text" ? active.value : null;
    const table = sod.el("table", { class: "list" },
      sod.el("caption", { class: "visually-hidden" }, `Trajectories of ${run}`),
      sod.el("thead", {}, head()), sod.el("tbody", {}, list.rows.map((each) => row(each, run, params))));
    sod.fill(main, sod.el("h1", { class: "visually-hidden" }, "Trajectories"), filters(list), notes(list),
      list.rows.length ? [sod.el("div", { class: "scroll" }, table), pages(list)] : sod.el("p", { class: "empty" }, empty(list)),
      sod.el("p", { class: "rule quiet" }, list.rule));
    if (filter) {
      const field = main.querySelector(`[data-filter="${filter}"]`);
      field?.focus();
      if (typed !== null && field) {
        field.value = typed;
        field.setSelectionRange(caret, caret);
      }
    } else if (line || sod.lastLine) focusLine(line || sod.lastLine);
  };

  const focusLine = (line) => document.querySelector(`tr[data-line="${Number(line)}"] a`)?.focus();

  /** A filter's choices are open: drawn anew, they would close. */
  const choosing = () => CSS.supports("selector(select:open)") && document.querySelector("select:open");

  sod.showList = async (ticket, { again } = {}) => {
    const { run, params } = sod.route();
    const { page, ...asked } = params;
    delete asked.pin;
    const list = await sod.source.rows(run, asked, Number(page) || 0);
    if (!sod.isNow(ticket)) return;
    const text = JSON.stringify(list);
    if (!again || (text !== shown && !choosing())) {
      draw(list);
      shown = text;
    }
    sod.lastLine = null;
    if (sod.wantsSearch) document.getElementById("search").focus();
    sod.wantsSearch = false;
    document.title = `${run}: trajectories`;
    sod.about(list.about);
    if (!again) sod.say(`${list.total} trajectories`);
    clearTimeout(timer);
    const follows = sod.source.follows && (!list.progress.whole || list.about.state === "running");
    if (follows) timer = setTimeout(() => sod.isNow(ticket) && sod.showList(ticket, { again: true }).catch(sod.failed), list.progress.whole ? 4000 : 1000);
  };

  /** Move to the next row (1) or the one before (-1). */
  sod.moveInList = (way) => {
    const links = [...document.querySelectorAll("table.list a.open")];
    const at = links.indexOf(document.activeElement?.closest("tr")?.querySelector("a.open"));
    links[at < 0 ? (way > 0 ? 0 : links.length - 1) : Math.max(0, Math.min(links.length - 1, at + way))]?.focus();
  };

  /** Turn the page of the list. */
  sod.turnPage = (way) => {
    const buttons = document.querySelectorAll("nav.pages button");
    buttons[way > 0 ? 2 : 1]?.click();
  };
})();
