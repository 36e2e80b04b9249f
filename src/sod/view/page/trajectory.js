"use strict";
/* One trajectory as a conversation, its siblings beside it, and two side by side. */
(() => {
  let places = { previous: null, next: null };
  let shown = "";

  const go = (changes) => {
    const { run, line, params } = sod.route();
    location.replace(sod.link(run, line, { ...params, ...changes }));
  };

  const title = (page) => {
    const { row } = page;
    return [row.benchmark ? `${row.benchmark} · ` : "", `Problem ${row.problem_id}`, row.sample === null ? "" : ` · sample ${row.sample}`];
  };

  const summary = (page) => {
    const { row, score } = page;
    const facts = [
      row.updated === null ? null : `update ${row.updated}`,
      row.grouped === null ? null : `group ${row.grouped}`,
      page.policy_version === null ? null : `policy ${page.policy_version}`,
      `line ${row.line}`,
    ].filter(Boolean);
    return sod.el("div", { class: "summary" },
      sod.el("p", {}, sod.verdict(score ? score.correct : null), " ",
        score && score.value !== null ? sod.el("span", { class: "reward" }, "reward ", sod.el("b", {}, sod.digits(score.value))) : null, " ",
        row.pattern ? sod.label(row.pattern) : null, " ", sod.el("span", { class: "quiet" }, facts.join(" · "))),
      score && (score.reason || score.answer !== null) ? sod.el("p", {},
        score.answer === null ? null : ["Answer read: ", sod.el("code", {}, score.answer.slice(0, 2000)), ". "],
        score.reason ? ["Verdict: ", score.reason.slice(0, 2000), "."] : null) : null,
      sod.el("p", {}, row.stop ? [sod.el("b", {}, row.stop.replaceAll("_", " ")), ": "] : null, page.stop_sentence, page.detail ? ` ${page.detail.slice(0, 2000)}` : ""));
  };

  const prompt = (page, heading) => {
    if (!page.prompt) return null;
    const { num_tokens: num, text, ids } = page.prompt;
    return sod.el("section", { class: "prompt" },
      sod.el(heading, {}, "Prompt ", sod.el("span", { class: "quiet" }, sod.counted(num, "token"))),
      text === null ? sod.folded(ids.join(" "), "the token ids", { class: "text" }) : sod.folded(text, "the prompt", { class: "text" }));
  };

  const conversation = (page, { heading, label, ends }) => {
    const scales = { ...ends, cap: page.cap, high: page.high };
    const view = sod.settings.view;
    return sod.el("section", { class: "conversation", "aria-label": label },
      page.notes.map((note) => sod.el("p", { class: "note" }, note)),
      prompt(page, heading),
      page.steps.map((step, index) => sod.step(step, index, { scales, view, heading })));
  };

  // ---- beside it

  const siblings = (page, run, params) => {
    const rows = page.siblings.map((each) => {
      const here = each.line === page.row.line;
      const name = `sample ${each.sample ?? "?"}`;
      const link = each.missing ? sod.el("span", { title: "left out of this export" }, name)
        : sod.el("a", { href: sod.link(run, each.line, params), "aria-current": here ? "page" : null }, name);
      const compare = here || each.missing ? null
        : sod.el("a", { class: "compare", href: sod.link(run, page.row.line, { ...params, pin: `${run}:${each.line}` }), "aria-label": `Compare with ${name}` }, "compare");
      return sod.el("li", { class: here ? "here" : null },
        sod.el("span", {}, link, " ", sod.verdict(each.correct)),
        sod.el("span", { class: "quiet" }, [
          each.reward === null ? null : `reward ${sod.digits(each.reward)}`,
          each.sealed ? null : sod.counted(each.num_steps, "step"),
          each.max_d === null ? null : `max\u00a0d\u00a0${sod.digits(each.max_d)}`,
        ].filter(Boolean).join(" · ")),
        sod.el("span", {}, each.pattern ? sod.label(each.pattern) : null, " ", each.status && each.status !== "ok" ? sod.label(each.status) : null, " ", compare));
    });
    const rewards = page.siblings.map((each) => each.reward).filter((value) => value !== null);
    const mean = rewards.length ? rewards.reduce((sum, value) => sum + value, 0) / rewards.length : null;
    return sod.el("aside", { class: "siblings", "aria-labelledby": "siblings-title" },
      sod.el("h2", { id: "siblings-title" }, "Siblings"),
      sod.el("p", { class: "quiet" }, `${sod.counted(page.siblings.length, "sample")} of this problem${mean === null ? "" : `, mean reward ${sod.digits(mean)}`}`),
      sod.el("ul", {}, rows));
  };

  const views = () => {
    const names = { both: "Both", text: "Text", tokens: "Tokens" };
    return sod.el("span", { class: "segmented", role: "group", "aria-label": "Show steps as" }, Object.entries(names).map(([name, words]) =>
      sod.el("button", { type: "button", "aria-pressed": String(sod.settings.view === name), onclick: () => sod.setView(name) }, words)));
  };

  const toolbar = (page) => {
    const { run, line, params } = sod.route();
    const { place } = page;
    const step = (words, key, to) => to === null
      ? sod.el("span", { class: "button off", "aria-disabled": "true" }, words)
      : sod.el("a", { class: "button", href: sod.link(run, to, params), "aria-keyshortcuts": key }, words);
    const back = { ...params, page: place && place.position !== null ? String(Math.floor(place.position / 50)) : "" };
    const pinned = Boolean(params.pin);
    return sod.el("nav", { class: "toolbar", "aria-label": "Trajectory" },
      sod.el("a", { class: "button", href: sod.link(run, null, back), id: "back" }, "← List"),
      step("‹ Previous", "p", place.previous), step("Next ›", "n", place.next),
      sod.el("span", { class: "quiet" }, place.position === null ? "not in this selection" : `${(place.position + 1).toLocaleString("en")} of ${place.total.toLocaleString("en")}`),
      sod.el("span", { class: "space" }),
      views(),
      sod.el("button", { type: "button", id: "pin", "aria-pressed": String(pinned), onclick: () => go({ pin: pinned ? "" : `${run}:${line}` }) }, pinned ? "Unpin" : "Pin to compare"),
      sod.el("button", { type: "button", id: "copy", onclick: copy }, "Copy link"));
  };

  const copy = async () => {
    const text = location.href;
    try {
      await navigator.clipboard.writeText(text);
      sod.say("Link copied");
      document.getElementById("copy").textContent = "Copied";
    } catch {
      document.getElementById("copy").replaceWith(sod.el("input", { readonly: true, value: text, "aria-label": "Link to this trajectory" }));
    }
  };

  const column = (page, words, params, ends) => sod.el("div", { class: "column" },
    sod.el("div", { class: "column-head" }, sod.el("span", { class: "quiet" }, words, " · ", page.run.name),
      sod.el("h2", {}, sod.el("a", { href: sod.link(page.run.name, page.row.line, params) }, title(page))), summary(page)),
    conversation(page, { heading: "h3", label: words, ends }));

  const drawOne = (page, waiting) => {
    const { run, params } = sod.route();
    return [sod.el("div", { class: "headline" }, sod.el("h1", { tabindex: "-1" }, title(page)), summary(page)),
      waiting ? sod.el("p", { class: "note" }, "Pinned. Open another trajectory (n, p, or a sibling) to see the two side by side.") : null,
      page.steps.some((step) => step.tokens && step.tokens.teacher) && sod.settings.view !== "text" ? sod.legend() : null,
      sod.el("div", { class: "beside" }, conversation(page, { heading: "h2", label: "Conversation", ends: sod.scales([page]) }), siblings(page, run, params))];
  };

  const drawTwo = (page, other) => {
    const { params } = sod.route();
    const ends = sod.scales([page, other]);
    return [sod.el("h1", { class: "visually-hidden", tabindex: "-1" }, "Two trajectories side by side"),
      sod.settings.view !== "text" ? sod.legend() : null,
      sod.el("div", { class: "two" }, column(other, "Pinned", { ...params, pin: "" }, ends), column(page, "This", { ...params, pin: "" }, ends))];
  };

  /** `seed-0:17` -> that run and line; null for anything else. */
  const pinOf = (params) => {
    const match = /^([\w.~-]+):(\d+)$/.exec(params.pin || "");
    return match && { run: match[1], line: match[2] };
  };

  sod.showTrajectory = async (ticket) => {
    const { run, line, params } = sod.route();
    const { page: _page, pin: _pin, ...asked } = params;
    const pin = pinOf(params);
    const isOther = pin && !(pin.run === run && pin.line === line);
    const [page, other] = await Promise.all([
      sod.source.trajectory(run, line, asked),
      isOther ? sod.source.trajectory(pin.run, pin.line, {}) : null,
    ]);
    if (!sod.isNow(ticket)) return;
    const at = shown === location.hash ? stepsNow().findIndex((step) => step.getBoundingClientRect().bottom > 120) : -1;
    shown = location.hash;
    places = page.place;
    sod.lastLine = line;
    sod.about(page.run);
    document.title = `${title(page).join("")} – ${run}`;
    sod.fill(document.getElementById("main"), toolbar(page), other ? drawTwo(page, other) : drawOne(page, Boolean(pin)));
    if (at > 0) return toStep(stepsNow()[at]); // the same one as text, tokens or both: the reader stays where they were
    document.querySelector("h1").focus({ preventScroll: true });
    window.scrollTo(0, 0);
  };

  /** The next (1) or previous (-1) trajectory of the selection. */
  sod.moveTrajectory = (way) => {
    const { run, params } = sod.route();
    const to = way > 0 ? places.next : places.previous;
    if (to === null) sod.say(way > 0 ? "This is the last one" : "This is the first one");
    else location.hash = sod.link(run, to, params);
  };

  const stepsNow = () => [...document.querySelectorAll(".step")];

  const toStep = (step) => {
    step?.focus({ preventScroll: true });
    step?.scrollIntoView({ block: "start" });
  };

  /** Focus the next (1) or previous (-1) step. */
  sod.moveStep = (way) => {
    const steps = stepsNow();
    const at = steps.indexOf(document.activeElement?.closest(".step"));
    toStep(steps[Math.max(0, Math.min(steps.length - 1, at + way))]);
  };
})();
