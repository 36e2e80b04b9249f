"use strict";
/* Python in colours: enough of its grammar to tell comments, strings, numbers, keywords and names apart. */
(() => {
  const KEYWORDS = new Set((
    "and as assert async await break class continue def del elif else except finally for from global if import in is " +
    "lambda nonlocal not or pass raise return try while with yield match case None True False"
  ).split(" "));
  const BUILTINS = new Set((
    "abs all any bool dict divmod enumerate filter float format int isinstance iter len list map max min next object " +
    "open ord pow print range repr reversed round set sorted str sum super tuple type zip"
  ).split(" "));
  const MAX_CHARACTERS = 60000;
  const PIECE = new RegExp(
    [
      "(?<comment>#[^\\n]*)",
      "(?<string>[rbfuRBFU]{0,2}(?:\"\"\"|'''|\"|'))",
      "(?<number>\\b\\d[\\d_]*(?:\\.[\\d_]*)?(?:[eE][+-]?\\d+)?j?\\b|\\b0[xobXOB][\\da-fA-F_]+)",
      "(?<name>[A-Za-z_]\\w*)",
      "(?<other>[^#\"'\\w]+|.)",
    ].join("|"),
    "sy",
  );

  /** End of a string whose opening quotes end at `start`. */
  const stringEnd = (text, start, quotes) => {
    for (let at = start; at < text.length; at += 1) {
      if (text[at] === "\\") at += 1;
      else if (text.startsWith(quotes, at)) return at + quotes.length;
      else if (text[at] === "\n" && quotes.length === 1) return at;
    }
    return text.length;
  };

  /** `[["keyword", "import"], ["", " "], ["name", "math"]]` of "import math". */
  const pieces = (text) => {
    const found = [];
    let at = 0;
    let before = "";
    while (at < text.length) {
      PIECE.lastIndex = at;
      const match = PIECE.exec(text);
      let piece = match[0];
      let kind = "";
      if (match.groups.string) {
        piece = text.slice(at, stringEnd(text, at + piece.length, piece.replace(/^[a-z]*/i, "")));
        kind = "string";
      } else if (match.groups.comment) kind = "comment";
      else if (match.groups.number) kind = "number";
      else if (match.groups.name) {
        if (KEYWORDS.has(piece)) kind = "keyword";
        else if (before === "def" || before === "class") kind = "defined";
        else if (BUILTINS.has(piece)) kind = "builtin";
        before = piece;
      }
      found.push([kind, piece]);
      at += piece.length;
    }
    return found;
  };

  /** Put code into an element; very long code stays plain. */
  sod.python = (node, text) => {
    if (text.length > MAX_CHARACTERS) return sod.fill(node, text);
    return sod.fill(node, pieces(text).map(([kind, piece]) => (kind ? sod.el("span", { class: `py-${kind}` }, piece) : piece)));
  };
})();
