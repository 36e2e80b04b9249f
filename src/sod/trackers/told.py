"""The config as trackers see it: settings, without what a URL may hold besides its host."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from sod.config import Section

_URL = re.compile(r"\b([a-z][a-z0-9+.-]*://)([^/\s?#]*@)?([^\s?#]*)([?#]\S*)?", re.IGNORECASE)


def told(config: Section) -> dict[str, Any]:
    """Every setting. `{"url": "https://me:secret@host/v1?key=1"}` -> `{"url": "https://host/v1"}`."""
    return {key: _harmless(value) for key, value in config.model_dump(mode="json").items()}


def _harmless(value: Any) -> Any:
    if isinstance(value, str):
        return _URL.sub(r"\1\3", value)
    if isinstance(value, Mapping):
        return {key: _harmless(each) for key, each in value.items()}
    return [_harmless(each) for each in value] if isinstance(value, list) else value
