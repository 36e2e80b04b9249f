"use strict";
/* Data from the server that served this page. */
(() => {
  const ask = async (what, values) => {
    const answer = await fetch(`api/${what}?${new URLSearchParams(values)}`);
    const value = await answer.json().catch(() => ({ error: `the server answered ${answer.status}` }));
    if (!answer.ok) throw new Error(value.error || `the server answered ${answer.status}`);
    return value;
  };
  sod.source = {
    follows: true,
    runs: () => ask("runs", {}),
    rows: (run, filters, page) => ask("rows", { ...filters, run, page }),
    trajectory: (run, line, filters) => ask("trajectory", { ...filters, run, line }),
  };
})();
