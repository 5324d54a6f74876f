"""How every figure looks: a reranker has one colour and marker in all figures, baselines are grey, chance is dotted.

The colours are Okabe and Ito's, which colour-blind readers tell apart. Rows of one reranker are shades of its colour
with other lines, and no marker means two rerankers, so that a figure printed in grey reads too. The same data gives
the same bytes: no date, no random ids.
"""

from __future__ import annotations

import io
import logging
import re
import textwrap
from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Drawing

WIDTH = 7.0  # inches
FORMATS = ("png", "pdf", "svg")
NOISY = ("fontTools", "matplotlib.font_manager")  # loggers that say something of every font of every PDF
NO_DATE: dict[str, dict[str, Any]] = {
    "png": {"Software": None},
    "pdf": {"CreationDate": None, "Producer": None, "Creator": None},
    "svg": {"Date": None, "Creator": None},
}
RC = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],  # comes with matplotlib; has Vietnamese letters
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "legend.handlelength": 2.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.5,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "lines.linewidth": 1.5,
    "lines.markersize": 4.5,
    "pdf.fonttype": 42,  # text stays text
    "svg.fonttype": "none",
    "savefig.dpi": 200,
    "figure.dpi": 100,
}
COLOURS = {  # Okabe and Ito (2008); their yellow is too pale for a line on white
    "bert4rec": "#0072B2",
    "sasrec": "#E69F00",
    "qwen_letter": "#009E73",
    "vip5": "#D55E00",
    "viranker": "#CC79A7",
}
FREE = ("#56B4E9", "#000000", "#8C6D1F")  # for rerankers that have none above, in the order of their names
MARKERS = {"bert4rec": "o", "sasrec": "s", "qwen_letter": "^", "vip5": "D", "viranker": "v"}
FREE_MARKERS = ("P", "X", "*")
LINES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (5, 1.5, 1, 1.5)), (0, (2.5, 1)), (0, (8, 1.5, 1, 1.5, 1, 1.5)))
GREY = {"first_stage": ("#4d4d4d", "-"), "popularity": ("#7a7a7a", (0, (5, 1.5))), "random": ("#9a9a9a", "-.")}
CEILING = ("#7a7a7a", (0, (8, 2, 1, 2)))
SHORT = {"learning_rate=": "lr=", "num_train_epochs=": "epochs=", "per_device_train_batch_size=": "batch="}
CHANCE: dict[str, Any] = {"color": "#222222", "linestyle": (0, (1, 1.5)), "linewidth": 1.1, "zorder": 1.5}


@dataclass(frozen=True)
class Figure:
    name: str  # of its files
    caption: str  # one sentence: what it shows; the alternative text too
    drawing: Drawing


@dataclass(frozen=True)
class Look:
    color: str
    line: Any
    marker: str  # empty for baselines
    width: float = 1.5

    @property
    def plot(self) -> dict[str, Any]:
        return {"color": self.color, "linestyle": self.line, "linewidth": self.width}


def style() -> AbstractContextManager[None]:
    """Inside, figures are drawn and written in this style, whatever the user's matplotlibrc says."""
    import matplotlib as mpl

    settings: Any = {**mpl.rcParamsDefault, **RC, "backend": "agg"}
    return mpl.rc_context(settings)


def looks(rerankers: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Reranker -> its colour and marker."""
    unknown = sorted({name for name in rerankers if name not in COLOURS})
    out = {name: (COLOURS[name], MARKERS[name]) for name in COLOURS}
    return out | {n: (FREE[i % len(FREE)], FREE_MARKERS[i % len(FREE_MARKERS)]) for i, n in enumerate(unknown)}


def shade(color: str, index: int, n: int) -> str:
    """The index-th of n shades of a colour, from light to dark; the colour itself where there is one."""
    from matplotlib.colors import to_hex, to_rgb

    if n == 1:
        return color
    rgb, place = np.array(to_rgb(color)), index / (n - 1)
    mixed = rgb + (1 - rgb) * (0.5 - place) if place < 0.5 else rgb * (1 - 0.5 * (place - 0.5))
    red, green, blue = (float(part) for part in np.clip(mixed, 0, 1))
    return to_hex((red, green, blue))


def canvas(title: str, small_print: str, height: float = 3.6) -> Drawing:
    """An empty figure with its title above and the protocol in small print below."""
    from matplotlib.figure import Figure as Drawing
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    drawing = Drawing(figsize=(WIDTH, height), layout=ConstrainedLayoutEngine(w_pad=0.06, h_pad=0.05))
    drawing.suptitle(textwrap.fill(title, 56), x=0.01, ha="left", fontsize=9.5, fontweight="bold")
    drawing.supxlabel("\n".join(textwrap.wrap(small_print, 140)), x=0.01, ha="left", fontsize=6, color="#444444")
    return drawing


def legend(drawing: Drawing, handles: list[Any], labels: list[str], width: int = 30) -> None:
    """Outside of the data, on the right; long labels are broken at spaces, and the figure grows to hold them all."""
    if not handles:
        return
    broken = [textwrap.fill(short(label), width, subsequent_indent="  ") for label in labels]
    lines = sum(text.count("\n") + 1 for text in broken)
    drawing.set_figheight(max(drawing.get_figheight(), 0.4 + 0.115 * lines + 0.07 * len(broken)))
    drawing.legend(handles, broken, loc="outside right upper", labelspacing=0.7, borderaxespad=0.2)


def short(label: str) -> str:
    """A row's label with the usual short names of keys."""
    for long, name in SHORT.items():
        label = label.replace(long, name)
    return label


def apart(axes: Axes, texts: list[Any], points: list[tuple[float, float]], bars: list[list[float]]) -> None:
    """Moves each label to the nearest free place around its point [data], the uppermost first; call it last.

    `bars`: left, low, right, high [data] of what else a label should not cover.
    """
    from matplotlib.text import Text

    drawing: Any = axes.figure
    drawing.draw_without_rendering()
    renderer = drawing.canvas.get_renderer() if hasattr(drawing.canvas, "get_renderer") else drawing._get_renderer()
    inside, scale = axes.get_window_extent(), drawing.dpi / 72
    spots = axes.transData.transform(points)
    taken = [(x - 4 * scale, y - 4 * scale, x + 4 * scale, y + 4 * scale) for x, y in spots]
    corners = axes.transData.transform(np.reshape(bars, (-1, 2))).reshape(-1, 4)
    taken += [(left - scale, low - scale, right + scale, high + scale) for left, low, right, high in corners]
    for i in np.argsort(-spots[:, 1], kind="stable"):
        box = Text.get_window_extent(texts[i], renderer)  # an annotation's own adds its arrow
        x, y = spots[i]
        best: tuple[float, tuple[float, float, float, float]] | None = None
        for step in range(1, 12):
            gap = (3 + 5 * step) * scale
            for dx, dy in ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (1, -1), (-1, 1), (-1, -1)):
                left = x + dx * (gap if abs(dx) else 0) - (box.width if dx < 0 else box.width / 2 if dx == 0 else 0)
                low = y + dy * gap - (box.height if dy < 0 else box.height / 2 if dy == 0 else 0)
                place = (left, low, left + box.width, low + box.height)
                out = max(0, inside.x0 - place[0]) + max(0, place[2] - inside.x1)
                out += max(0, inside.y0 - place[1]) + max(0, place[3] - inside.y1)
                cost = 50 * sum(overlap(place, other) for other in taken) + 20 * out + gap
                if best is None or cost < best[0] - 1e-6:
                    best = cost, place
        assert best is not None
        place = best[1]
        taken.append(place)
        to_points = 1 / scale
        texts[i].xyann = ((place[0] - x) * to_points, (place[1] - y) * to_points)


def overlap(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> float:
    """Square root of the common area of two boxes (left, low, right, high)."""
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    return float(np.sqrt(width * height)) if width > 0 and height > 0 else 0.0


def rendered(figure: Figure, form: str) -> bytes:
    """The file's content; the same figure gives the same bytes."""
    import matplotlib as mpl

    for name in NOISY:
        logging.getLogger(name).setLevel(logging.WARNING)
    buffer = io.BytesIO()
    with style(), mpl.rc_context({"svg.hashsalt": figure.name}):  # ids of two figures in one page differ
        figure.drawing.savefig(buffer, format=form, metadata=NO_DATE[form])
    return buffer.getvalue()


def inline_svg(figure: Figure) -> str:
    """The <svg> element for a page of HTML, with the caption as its alternative text."""
    text = rendered(figure, "svg").decode()
    element = text[text.index("<svg") :]
    own = re.sub(r"\W", "-", figure.name)  # ids are of the whole page, and figures share some
    element = re.sub(r'( id="|url\(#|href="#)', rf"\g<1>{own}-", element)
    return element.replace("<svg", f'<svg role="img" aria-label="{escape(figure.caption)}"', 1)
