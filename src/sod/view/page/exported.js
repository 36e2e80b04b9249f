"use strict";
/* Data from the scripts beside this page: it was opened from disk, where nothing can be fetched. */
(() => {
  const PAGE_ROWS = 50;
  const waiting = new Map();
  const loaded = new Map();

  sod.receive = (name, value) => loaded.set(name, value);

  /** The value of data/NAME.js. */
  const load = (name) => {
    if (!/^(rows|\d+)$/.test(name)) return Promise.reject(new Error("there is no such trajectory in this export"));
    if (!waiting.has(name)) {
      waiting.set(name, new Promise((resolve, reject) => {
        const script = document.createElement("script");
        script.src = `data/${name}.js`;
        script.addEventListener("load", () => resolve(loaded.get(name)));
        script.addEventListener("error", () => reject(new Error("this trajectory was left out of the export")));
        document.head.append(script);
      }));
    }
    return waiting.get(name);
  };

  const COLUMNS = {
    line: "line", update: "updated", problem: "problem_id", reward: "reward", steps: "num_steps", calls: "num_calls",
    tokens: "num_tokens", divergence: "max_d", weight: "min_w", telling: "telling",
  };

  const terms = (text) => {
    const parts = text.toLowerCase().split('"');
    return parts.flatMap((part, index) => (index % 2 ? [part] : part.split(/\s+/))).filter((term) => term.trim());
  };

  const fits = (row, filters) => {
    if (filters.from && !(row.updated >= Number(filters.from))) return false;
    if (filters.to && !(row.updated !== null && row.updated <= Number(filters.to))) return false;
    if (filters.correct && filters.correct !== { 0: "no", 1: "yes", null: "none" }[row.correct]) return false;
    if (filters.stop && row.stop !== filters.stop) return false;
    if (filters.benchmark && row.benchmark !== filters.benchmark) return false;
    if (filters.pattern && (row.pattern || "none") !== filters.pattern) return false;
    if (filters.status && !(row.statuses || "|none|").includes(`|${filters.status}|`)) return false;
    return terms(filters.text || "").every((term) => row.words.includes(term));
  };

  const chosen = (rows, filters) => {
    const sort = filters.sort || "line";
    const column = COLUMNS[sort.replace(/^-/, "")] || "line";
    const way = sort.startsWith("-") ? -1 : 1;
    const compare = (a, b) => {
      const [x, y] = [a[column], b[column]];
      if ((x === null) !== (y === null)) return x === null ? 1 : -1;
      return (x < y ? -way : x > y ? way : 0) || a.line - b.line;
    };
    return rows.filter((row) => fits(row, filters)).sort(compare);
  };

  const tally = (values) => {
    const counts = new Map();
    for (const value of values) counts.set(value, (counts.get(value) || 0) + 1);
    return [...counts].sort((a, b) => b[1] - a[1]);
  };

  const choices = (rows) => {
    const updates = rows.map((row) => row.updated).filter((value) => value !== null);
    return {
      stop: tally(rows.map((row) => row.stop)),
      benchmark: tally(rows.map((row) => row.benchmark)),
      pattern: tally(rows.map((row) => row.pattern)),
      correct: tally(rows.map((row) => row.correct)),
      status: tally(rows.flatMap((row) => (row.statuses || "|none|").split("|").filter(Boolean))),
      update: updates.length ? [Math.min(...updates), Math.max(...updates)] : [null, null],
    };
  };

  sod.source = {
    follows: false,
    runs: async () => {
      const list = await load("rows");
      return { runs: [list.about], exported: { shown: list.rows.length, leftOut: list.num_left_out } };
    },
    rows: async (_run, filters, asked) => {
      const list = await load("rows");
      const found = chosen(list.rows, filters);
      const page = Math.min(asked, Math.floor(Math.max(0, found.length - 1) / PAGE_ROWS));
      return {
        about: list.about, rule: list.rule, page, page_rows: PAGE_ROWS, total: found.length,
        rows: found.slice(page * PAGE_ROWS, (page + 1) * PAGE_ROWS), choices: choices(list.rows),
        progress: { whole: true, damaged: list.damaged, lines: list.rows.length },
      };
    },
    trajectory: async (_run, line, filters) => {
      const [list, value] = [await load("rows"), await load(String(line))];
      const lines = chosen(list.rows, filters).map((row) => row.line);
      const at = lines.indexOf(Number(line));
      const place = {
        position: at < 0 ? null : at, total: lines.length,
        previous: at > 0 ? lines[at - 1] : null, next: lines[at < 0 ? 0 : at + 1] ?? null,
      };
      const there = new Set(list.rows.map((row) => row.line));
      const siblings = value.siblings.map((row) => ({ ...row, missing: !there.has(row.line) }));
      return { ...value, place, siblings };
    },
  };
})();
