"""How every figure of a report is made: its looks, its canvas, and the picture that comes of it, as SVG and PNG.

matplotlib is imported inside functions and used without pyplot: no global state.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sod.errors import ConfigError, StorageError
from sod.report.markup import Html
from sod.report.untrusted import write_file
from sod.report.vector import embedded

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INSTALL = 'pip install "sod-distill[report]"'
DPI = 150
FEW = 5
"""A mean of fewer trajectories is drawn hollow."""
SMOOTHED = 5
"""Updates in a moving mean; runs under four windows are drawn as they are."""

# Okabe and Ito's colours, told apart with any kind of colour blindness; markers and dashes tell them apart in print.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES = ("-", "--", ":", "-.")
STYLE = {
    "text.parse_math": False,  # a run may be called "$x"
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "font.size": 10.0,
    "legend.frameon": False,
}
_OF_SVG = {"svg.fonttype": "path", "svg.hashsalt": "sod"}  # no fonts to look for; the same file from the same numbers


@dataclass(frozen=True, kw_only=True, slots=True)
class Look:
    """Colour, marker and dash: any one of them tells a curve from the others."""

    colour: str
    marker: str
    dash: str


def look(index: int) -> Look:
    """Of the run at that place, the same in every figure."""
    return Look(
        colour=COLOURS[index % len(COLOURS)],
        marker=MARKERS[index % len(MARKERS)],
        dash=DASHES[index % len(DASHES)],
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Picture:
    """A figure that was drawn: `name`.svg and `name`.png lie beside the page, `svg` stands in it."""

    name: str
    caption: str
    alt: str
    svg: Html


def need_matplotlib() -> None:
    """Raises ConfigError with the install line when figures cannot be drawn."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise ConfigError(f"a report needs matplotlib, got: {error}; run {INSTALL}") from None


@contextmanager
def canvas(*, size: tuple[float, float]) -> Iterator[Figure]:
    """An empty figure in inches, in our style."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    style: Any = {**STYLE, **_OF_SVG}
    with matplotlib.rc_context(style), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*[Gg]lyph.*")  # a name in a script the font has not
        figure = Figure(figsize=size, layout="constrained")
        FigureCanvasAgg(figure)
        yield figure


def picture(figure: Figure, path: Path, *, caption: str, alt: str) -> Picture:
    """Write `path`.svg and `path`.png, within the `canvas` block. Raises StorageError."""
    svg = embedded(rendered(figure, "svg", metadata={"Date": None}), prefix=path.name, label=alt)
    try:
        write_file(path.with_suffix(".svg"), svg.encode())
        write_file(path.with_suffix(".png"), rendered(figure, "png", dpi=DPI))
    except OSError as error:
        raise StorageError(f"{path}.* must be writable, got: {error.strerror}; free some space or give --out") from None
    return Picture(name=path.name, caption=caption, alt=alt, svg=svg)


def rendered(figure: Figure, kind: str, **settings: Any) -> bytes:
    """The figure's bytes: the slow part."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind, **settings)
    return buffer.getvalue()
