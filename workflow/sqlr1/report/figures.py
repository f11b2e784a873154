"""Figures of the reports: matplotlib, one style, equal bytes for equal input.

Colours are Okabe and Ito's, which stay apart under the common forms of colour blindness; series also differ by marker.
"""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from pandas import Series

from sqlr1.records import atomic_write
from sqlr1.statistics import Estimate

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_INK = ("black", "white")  # on a light and on a dark cell
_MARKERS = ("o", "s", "D", "^", "v", "P", "X")
_STYLE = {"axes.grid": True, "axes.spines.right": False, "axes.spines.top": False, "axes.titlelocation": "left"}
_STYLE |= {"axes.titlesize": 10, "figure.dpi": 110, "font.size": 9, "grid.alpha": 0.25, "legend.frameon": False}
_STYLE["svg.hashsalt"] = "sqlr1"  # ids of SVG elements are random without a salt
_FEW_POINTS = 12  # so few points are marked, and not smoothed

# Rows of an interval plot: (label, {series: estimate}).
Rows = Sequence[tuple[str, Mapping[str, Estimate]]]
Points = Sequence[tuple[float, Any]]  # (step, value) of a curve
Flow = tuple[Sequence[str], Mapping[tuple[str, str], int]]  # names in order, and how many went from one to another


def save(figure: Figure, path: Path) -> None:
    """Write `figure` as SVG, atomically and without a date, so that equal figures are equal files."""
    with rc_context(_STYLE), atomic_write(path, "wb") as file:
        figure.savefig(file, format="svg", metadata={"Date": None})


def interval_panels(panels: Mapping[str, Rows], xlabel: str) -> Figure:
    """One panel per key, one row per label, one dot with its interval per series, in percent.

    Equal labels are shown once.
    """
    tallest = max((len(rows) for rows in panels.values()), default=1)
    with rc_context(_STYLE):
        figure = Figure(figsize=(2.6 + 2.6 * max(len(panels), 1), 1.6 + 0.42 * tallest), layout="constrained")
        series = list(dict.fromkeys(name for rows in panels.values() for _, row in rows for name in row))
        for i, (title, rows) in enumerate(panels.items()):
            axes = figure.add_subplot(1, len(panels), i + 1)
            _intervals(axes, rows, series)
            axes.set(title=title, xlabel=xlabel)
            if i and [label for label, _ in rows] == [label for label, _ in next(iter(panels.values()))]:
                axes.set_yticklabels([])
        if figure.axes:
            handles, labels = figure.axes[0].get_legend_handles_labels()
            figure.legend(handles, labels, loc="outside lower center", ncols=len(series))
    return figure


def _intervals(axes: Axes, rows: Rows, series: Sequence[str]) -> None:
    for k, name in enumerate(series):
        offset = (k - (len(series) - 1) / 2) * 0.22
        found = [(y + offset, e.value, e.low, e.high) for y, (_, row) in enumerate(rows) if (e := row.get(name))]
        y, value, low, high = np.array(found).reshape(-1, 4).T * [[1], [100], [100], [100]]
        style = {"fmt": _MARKERS[k % len(_MARKERS)], "color": PALETTE[k % len(PALETTE)], "markersize": 5, "capsize": 2}
        axes.errorbar(value, y, xerr=(value - low, high - value), label=name, **style)
    axes.set_yticks(range(len(rows)), [label for label, _ in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.grid(axis="y", visible=False)


def bars(counts: Mapping[str, int], highlight: Sequence[str] = ()) -> Figure:
    """Horizontal bars in the given order, each with its count; the names in `highlight` have the first colour."""
    with rc_context(_STYLE):
        figure = Figure(figsize=(7, 0.8 + 0.3 * len(counts)), layout="constrained")
        axes = figure.add_subplot()
        colours = [PALETTE[0] if name in highlight else PALETTE[1] for name in counts]
        drawn = axes.barh(range(len(counts)), list(counts.values()), color=colours, height=0.7)
        axes.bar_label(drawn, labels=[f"{n:,}" for n in counts.values()], padding=3)
        axes.set_yticks(range(len(counts)), list(counts))
        axes.set(xlabel="questions")
        axes.margins(x=0.12)
        axes.invert_yaxis()
        axes.grid(axis="y", visible=False)
    return figure


def flow_panels(panels: Mapping[str, Flow]) -> Figure:
    """One panel per key: what became (columns) of the answers of each kind (rows), with how many.

    The colour is the share of its row.
    """
    most = max((len(names) for names, _ in panels.values()), default=1)
    with rc_context({**_STYLE, "axes.grid": False}):
        size = 2 + 0.42 * most
        figure = Figure(figsize=((size + 1) * max(len(panels), 1), size), layout="constrained")
        for i, (title, (names, counts)) in enumerate(panels.items()):
            axes = figure.add_subplot(1, len(panels), i + 1)
            table = np.array([[counts.get((a, b), 0) for b in names] for a in names])
            shares = table / np.maximum(table.sum(axis=1, keepdims=True), 1)
            axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
            for y, x in np.argwhere(table):
                axes.text(x, y, f"{table[y, x]:,}", ha="center", va="center", color=_INK[int(shares[y, x] > 0.6)])
            labels = [name.replace("_", " ") for name in names]
            axes.set_xticks(range(len(names)), labels, rotation=90)
            axes.set_yticks(range(len(names)), labels)
            axes.set(title=title, xlabel="after GRPO", ylabel="before GRPO")
    return figure


def curve_panels(
    panels: Mapping[str, Mapping[str, Points]], shares: Collection[str] = (), xlabel: str = "step"
) -> Figure:
    """One panel per key, one line per series of (step, value) points; an `Estimate` is drawn with its interval.

    A line of many points is smoothed, with the raw one behind it. The axis of panels in `shares` is from 0 to 1.
    """
    columns = min(3, max(len(panels), 1))
    rows = -(-len(panels) // columns) or 1
    with rc_context(_STYLE):
        figure = Figure(figsize=(3.6 * columns, 2.7 * rows), layout="constrained")
        for i, (title, lines) in enumerate(panels.items()):
            axes = figure.add_subplot(rows, columns, i + 1)
            for k, (name, points) in enumerate(lines.items()):
                _curve(axes, name, points, PALETTE[k % len(PALETTE)])
            axes.set(title=title, xlabel=xlabel)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            if title in shares:
                axes.set_ylim(0, 1)
            elif axes.dataLim.ymin >= 0:
                axes.set_ylim(bottom=0)
            if len(lines) > 1:
                axes.legend(fontsize=8)
    return figure


def smoothed(values: Sequence[float]) -> list[float]:
    """The running mean over an eighth of the values, centred; narrower at both ends."""
    reach = max(1, len(values) // 16)
    return Series(values).rolling(2 * reach + 1, center=True, min_periods=1).mean().tolist()


def _curve(axes: Axes, name: str, points: Points, colour: str) -> None:
    steps = [step for step, _ in points]
    values = [v.value if isinstance(v, Estimate) else v for _, v in points]
    few = len(points) <= _FEW_POINTS
    if not few:
        axes.plot(steps, values, color=colour, alpha=0.3, linewidth=0.8)
        values = smoothed(values)
    axes.plot(steps, values, color=colour, marker="o" if few else None, markersize=3, linewidth=1.3, label=name)
    if banded := [(step, v.low, v.high) for step, v in points if isinstance(v, Estimate)]:
        axes.fill_between(*zip(*banded, strict=True), color=colour, alpha=0.15, linewidth=0)
