"""Text of a run as a page shows it: every character visible, so that none can hide, turn or colour another."""

from __future__ import annotations

import re

_HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\ud800-\udfff\U000e0000-\U000e0fff]"
)


def visible(value: object) -> str:
    r"""Text whose control and direction characters are spelled out; tab and line end stay.

    `"a\x1b[31m\u202eb\r\n"` -> `"a⟨001B⟩[31m⟨202E⟩b\n"`.
    """
    return _HIDDEN.sub(_spelled, str(value).replace("\r\n", "\n"))


def _spelled(match: re.Match[str]) -> str:
    return f"⟨{ord(match.group()):04X}⟩"


def short(value: object, *, width: int) -> str:
    """Visible text on one line, cut to `width` characters: `"a\\n b"` -> `"a b"`."""
    text = " ".join(visible(str(value)[: 4 * width]).split())
    return text if len(text) <= width else text[: width - 1] + "…"
