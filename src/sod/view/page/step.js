"use strict";
/* One step of a conversation: its divergence and weight as bars, what was written, called and seen. */
(() => {
  /** A bar of `value` on a scale to `most`, with marks `[[place, title]]` and a word on its limit; nothing for an unknown value. */
  const bar = (name, value, most, marks, kind, limit) => {
    if (value === null || value === undefined) return null;
    const share = (number) => `${Math.max(0, Math.min(100, (100 * number) / (most || 1)))}%`;
    const track = sod.el("span", { class: "track", "aria-hidden": "true" }, sod.el("span", { class: `fill ${kind}` }));
    track.firstElementChild.style.setProperty("width", share(value));
    for (const [place, title] of marks) {
      const mark = sod.el("span", { class: "mark", title });
      mark.style.setProperty("left", share(place));
      track.append(mark);
    }
    const words = marks.map(([, title]) => title).join(", ");
    return sod.el("div", { class: "bar", title: `${name} = ${value}${words ? ` (${words})` : ""}` },
      sod.el("span", { class: "bar-name" }, name), track,
      sod.el("span", { class: "bar-value" }, sod.digits(value)),
      sod.el("span", { class: "bar-limit" }, limit || ""),
      sod.el("span", { class: "visually-hidden" }, words));
  };

  /** Ends of the bars, the same for all trajectories on the page: the largest d_k or the mark of a high one, ... */
  sod.scales = (pages) => {
    const largest = (name) => pages.flatMap((page) => page.steps).reduce((most, step) => Math.max(most, step[name] ?? 0), 0);
    const most = (name) => pages.reduce((found, page) => Math.max(found, page[name] ?? 0), 0);
    return {
      divergence: Math.max(largest("divergence"), 1.04 * most("high")),
      weight: 1.04 * Math.max(1, largest("weight"), most("cap")),
      entropy: largest("teacher_entropy"),
    };
  };

  const bars = (step, scales) => {
    const { divergence, weight, cap, high } = scales; // cap and high are the run's
    const marksD = high === null ? [] : [[high, `high from ${sod.digits(high)} on`]];
    const marksW = cap === null ? [] : [[cap, `cap ${sod.digits(cap)}`]];
    const isHigh = high !== null && step.divergence > high;
    const made = [
      bar("divergence d", step.divergence, divergence, marksD, "d", high === null ? "nats" : `${isHigh ? ">" : "≤"} high ${sod.digits(high)}`),
      bar("weight w", step.weight, weight, marksW, "w", cap === null ? "no cap" : `cap ${sod.digits(cap)}`),
      bar("teacher entropy", step.teacher_entropy, scales.entropy, [], "e", "nats"),
    ].filter(Boolean);
    return made.length ? sod.el("div", { class: "bars" }, made) : null;
  };

  const isCode = (call, name, text) => name === "code" || (/code|python/i.test(call.name) && text.includes("\n"));

  const callCard = (call) => {
    if ("malformed" in call) {
      return sod.el("div", { class: "call malformed" },
        sod.el("div", { class: "part-name" }, "call that could not be read"),
        sod.folded(call.malformed, "the call", { class: "text" }),
        sod.el("p", { class: "why" }, call.reason));
    }
    const values = call.arguments.map(([name, text]) => [
      sod.el("div", { class: "argument" }, name),
      isCode(call, name, text)
        ? sod.folded(text, "the code", { class: "code" }, sod.python)
        : sod.folded(text, "the argument", { class: "code plain" }),
    ]);
    return sod.el("div", { class: "call" }, sod.el("div", { class: "part-name" }, "calls ", sod.el("b", {}, call.name)), values);
  };

  const resultCard = (result) => sod.el("div", { class: `result ${result.status === "ok" ? "" : "failed"}` },
    sod.el("div", { class: "part-name" }, "result ", sod.label(result.status),
      result.wall_s === null ? null : sod.el("span", { class: "quiet" }, ` ${sod.seconds(result.wall_s)}`)),
    result.text === "" ? sod.el("p", { class: "quiet" }, "nothing was printed") : sod.folded(result.text, "the result", { class: "text" }),
    result.detail ? sod.el("p", { class: "why" }, "not shown to the student: ", result.detail) : null);

  /** Prose, with fenced Python in colours. */
  const prose = (text) => sod.folded(text.replace(/^\n+|\n+$/g, ""), "the text", { class: "text prose" }, (node, shown) => {
    const pieces = shown.split(/^(```(?:python|py)\n)/m);
    sod.fill(node, pieces[0]);
    for (let at = 1; at < pieces.length; at += 2) {
      const end = pieces[at + 1].search(/^```/m);
      const cut = end < 0 ? pieces[at + 1].length : end;
      node.append(pieces[at], sod.python(sod.el("span", { class: "code" }), pieces[at + 1].slice(0, cut)), pieces[at + 1].slice(cut));
    }
  });

  const written = (step) => {
    const parts = step.parts.map((part) => ("call" in part ? callCard(step.calls[part.call]) : prose(part.text)));
    return parts.length ? parts : [sod.el("p", { class: "quiet" }, "nothing was written")];
  };

  /** `view` is "text", "tokens" or "both". */
  sod.step = (step, index, { scales, view, heading }) => {
    const showsTokens = step.tokens && view !== "text";
    return sod.el("article", { class: "step", tabindex: "-1", "aria-label": `Step ${index + 1}`, "data-step": index },
      sod.el("header", { class: "step-head" }, sod.el(heading, {}, `Step ${index + 1}`), bars(step, scales)),
      sod.el("div", { class: "step-body" },
        showsTokens ? sod.tokens(step.tokens, index + 1) : null,
        view === "tokens" && showsTokens ? null : written(step),
        step.results.map(resultCard)));
  };
})();
