"""A hook of mkdocs: `<!-- every command -->` becomes the reference of the command line, made of the typer app."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from typing import Any

from typer.main import get_command

from sod.cli import app

MARK = "<!-- every command -->"


def on_page_markdown(markdown: str, **_: Any) -> str:
    """The page with the commands in it."""
    return markdown.replace(MARK, reference()) if MARK in markdown else markdown


def reference() -> str:
    """All commands as Markdown."""
    return "\n".join(line for name, command in commands() for line in _written(name, command))


def commands(group: Any = None, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every command by its full name, those within groups too: `("sandbox check", ...)`."""
    for name, command in (group or get_command(app)).commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, f"{prefix}{name} ")
        else:
            yield f"{prefix}{name}", command


def _written(name: str, command: Any) -> Iterator[str]:
    arguments = [each for each in command.params if each.param_type_name == "argument"]
    options = [each for each in command.params if each.param_type_name == "option"]
    usage = " ".join([f"sod {name}", *(["[OPTIONS]"] if options else []), *map(_placed, arguments)])
    yield f"## `sod {name}` {{ #sod-{name.replace(' ', '-')} }}\n"
    yield f"```text\n{usage}\n```\n"
    yield f"{escape(command.help or '', quote=False)}\n"
    if arguments or options:
        yield "| | | default |"
        yield "|---|---|---|"
    for each in arguments:
        yield f"| `{_name(each)}` | {_told(each)} | {'**must be given**' if each.required else ''} |"
    for each in options:
        yield f"| `{', '.join(each.opts)}` | {_told(each)} | {_default(each)} |"
    yield ""


def _name(argument: Any) -> str:
    return str(argument.metavar or argument.name.upper())


def _placed(argument: Any) -> str:
    return _name(argument) if argument.required or _name(argument).startswith("[") else f"[{_name(argument)}]"


def _told(parameter: Any) -> str:
    return escape(parameter.help or "", quote=False).replace("|", "&#124;")


def _default(option: Any) -> str:
    if option.required:
        return "**must be given**"
    return "" if option.default in (None, "", False, 0) else f"`{option.default}`"
