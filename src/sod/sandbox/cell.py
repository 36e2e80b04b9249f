"""Runs code the way `python code.py` would, and as a REPL for its last expression when asked to.

Standard library only and without any import of ours: the fork server loads this file by its path, and a remote backend
can ship its source as it is.
"""

from __future__ import annotations

import ast
import atexit
import builtins
import errno
import linecache
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from types import CodeType, ModuleType

FILENAME = "<code>"
MEMORY_ERROR_EXIT = 251
"""Exit code of code that died of a MemoryError. Code that exits so on its own is told of a memory limit: no gain."""
DISK_ERROR_EXIT = 252
"""The same for a write that the disk or file limit refused."""
DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def run_cell(source: str, *, echo_last_expression: bool) -> int:
    """Runs `source` in a fresh `__main__`, prints an uncaught exception to stderr, returns the exit code.

    `run_cell("1 + 1", echo_last_expression=True)` prints 2 and returns 0.
    """
    exit_code = Interpreter().run(source, filename=FILENAME, echo_last_expression=echo_last_expression)
    return _wind_down() or exit_code


class Interpreter:
    """A `__main__` for one program, or for the cells of a notebook one after the other."""

    def __init__(self) -> None:
        self._main = ModuleType("__main__")
        self._main.__dict__["__builtins__"] = builtins
        self._filenames: set[str] = set()
        sys.modules["__main__"] = self._main

    def run(self, source: str, *, filename: str, echo_last_expression: bool) -> int:
        """Runs one cell to its end, prints an uncaught exception to stderr, returns the exit code."""
        lines = [line + "\n" for line in source.split("\n")]
        linecache.cache[filename] = (len(source), None, lines, filename)
        self._filenames.add(filename)
        try:
            parts = compile_cell(source, filename=filename, echo_last_expression=echo_last_expression)
        except Exception as error:  # a MemoryError too: it is what the parser raises for code nested too deeply
            _complain("".join(traceback.format_exception_only(error)))
            return 1
        try:
            for part in parts:
                exec(part, self._main.__dict__)
        except SystemExit as stop:
            return _exit_code(stop.code)
        except BaseException as error:
            _complain(self._traceback(error))
            return _exit_code_of(error)
        return 0

    def _traceback(self, error: BaseException) -> str:
        """With the author's own frames and the one that raised; frames of libraries between are left out."""
        try:
            whole = traceback.TracebackException.from_exception(error, compact=True)
            for exception in _chain(whole):
                frames = [frame for frame in exception.stack if frame.filename != __file__]
                kept = [frame for frame in frames if frame.filename in self._filenames or frame is frames[-1]]
                exception.stack = traceback.StackSummary.from_list(kept)
            return "".join(whole.format())
        except BaseException:  # no memory left for it, or an exception that cannot be shown
            return f"{type(error).__name__}\n"


def compile_cell(source: str, *, filename: str = FILENAME, echo_last_expression: bool) -> list[CodeType]:
    """Code objects to run in order. Only the syntax tree is cut, so line numbers and columns are the author's.

    A last statement that is an expression is compiled in mode "single", which hands its value to `sys.displayhook`:
    `"x = 2\\nx + 1"` -> [x = 2 (mode exec), x + 1 (mode single)].
    Raises SyntaxError, ValueError, RecursionError or MemoryError as `compile` does.
    """
    if not echo_last_expression:
        return [compile(source, filename, "exec", dont_inherit=True)]
    tree = ast.parse(source, filename)
    if not tree.body or not isinstance(tree.body[-1], ast.Expr):
        return [compile(tree, filename, "exec", dont_inherit=True)]
    last = ast.Interactive(body=[tree.body.pop()])
    parts = [compile(tree, filename, "exec", dont_inherit=True)] if tree.body else []
    return [*parts, compile(last, filename, "single", dont_inherit=True)]


def _exit_code_of(error: BaseException) -> int:
    if isinstance(error, MemoryError):
        return MEMORY_ERROR_EXIT
    if isinstance(error, OSError) and error.errno in DISK_ERRORS:
        return DISK_ERROR_EXIT
    return 1


def _exit_code(code: object) -> int:
    """What `sys.exit(code)` means: None -> 0, 3 -> 3, "text" -> 1 with the text on stderr."""
    if code is None:
        return 0
    if isinstance(code, int):
        return code & 0xFF
    _complain(f"{code}\n")
    return 1


def _chain(exception: traceback.TracebackException | None) -> Iterator[traceback.TracebackException]:
    while exception is not None:
        yield exception
        exception = exception.__cause__ or exception.__context__


def _complain(text: str) -> None:
    try:
        sys.stderr.write(text)
        sys.stderr.flush()
    except Exception:  # the code may have closed or replaced it
        return


def _wind_down() -> int:
    """What an interpreter does before it leaves: waits for threads, runs exit handlers, flushes. 1 if that failed."""
    failed = 0
    interpreter: tuple[Callable[[], object], ...] = (threading._shutdown, atexit._run_exitfuncs)  # type: ignore[attr-defined]
    for step in (*interpreter, sys.stdout.flush, sys.stderr.flush):
        try:
            step()
        except BaseException:
            failed = 1
    return failed
