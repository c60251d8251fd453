"""The common ground of graft's pages: figures as SVG that take their colours from the page.

Figures are drawn with matplotlib's object interface, so nothing global is left behind. The series
colours are Okabe and Ito's, which stay apart for colour-blind eyes.
"""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from PIL import Image

from graft.images.decoding import decode

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, ORANGE, GREEN = "#0072b2", "#d55e00", "#009e73"
INK, LINE = "#010203", "#040506"  # placeholders: the page decides, light or dark
PAGE_COLOURS = {INK: "var(--ink)", LINE: "var(--line)", BLUE: "var(--blue)", ORANGE: "var(--orange)"}
THUMBNAIL = 128  # pixels


def new_figure(
    width: float, height: float, panels: int, *, across: bool = False, heights: Sequence[float] | None = None
) -> tuple[Figure, list[Axes]]:
    """An empty figure of `width` x `height` inches with `panels` axes, one above or beside the other."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    figure.patch.set_alpha(0)
    rows, columns = (1, panels) if across else (panels, 1)
    grid = figure.subplots(rows, columns, squeeze=False, height_ratios=heights)
    for axes in grid.flat:
        axes.patch.set_alpha(0)
        axes.set_axisbelow(True)
        axes.grid(color=LINE, linewidth=0.7)
        axes.tick_params(colors=INK, labelsize=9, length=3)
        axes.xaxis.label.set(color=INK, fontsize=10)
        axes.yaxis.label.set(color=INK, fontsize=10)
        for side, spine in axes.spines.items():
            spine.set(color=LINE, visible=side in ("left", "bottom"))
    return figure, list(grid.flat)


def to_svg(figure: Figure, title: str) -> str:
    """The figure as SVG text; its names stay plain text, its colours become the page's variables."""
    import matplotlib

    buffer = io.StringIO()
    # Text stays text: sharp, searchable, in the page's font. The salt keeps ids apart between figures.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": title}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    svg = buffer.getvalue()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    for placeholder, colour in PAGE_COLOURS.items():
        svg = svg.replace(placeholder, colour)
    return svg


def thumbnail(content: bytes) -> str:
    """An encoded image as a small data URI: PNG where it is small already, else JPEG."""
    image = decode(content)
    small = max(image.size) <= THUMBNAIL
    image.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "PNG" if small else "JPEG", quality=85)
    kind = "png" if small else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
