"""The figures of a report, as PNG images."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from td3_brax.commands.report import paper
from td3_brax.commands.report.groups import Group
from td3_brax.commands.report.stats import Curves, interval, iqm

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Palette of Okabe and Ito, which most colour-blind readers can distinguish."""
PUBLISHED_COLOR, PUBLISHED = "0.45", "TD3, published (v1)"
LINE_STYLES = ("-", "--", "-.", (0, (5, 1, 1, 1, 1, 1)))
"""The next style is used when all colours have been used."""
COLUMNS = 4
"""Panels in a row, at most."""
LETTERS_PER_INCH, LINE_INCHES, FREE_LINES = 13, 0.19, 2
"""Size of a legend's text: letters per inch, height of a line, and lines that fit without a taller figure."""
TITLE_LETTERS = 34
"""Letters on a line of a panel's title."""
MARKED_POINTS = 10
"""Curves with at most this many points get a marker at each point."""
SMOOTH_BEYOND = 60
"""Curves with more evaluations than this are smoothed, as in the paper's figures."""

Style = Mapping[str, Any]
"""Colour and line style of a group."""
Drawn = Mapping[str, Sequence[tuple[Group, Curves]]]
"""Groups with their curves, by task."""
Draw = Callable[[Any, Group, Curves, Style], None]
"""A function that draws a group into a panel."""


def panels(
    drawn: Drawn, draw: Callable[[Any, Group, Curves, Style], None], y: str, extra: Any = None
) -> bytes:
    """Draw a PNG with a panel for each task and a legend below.

    Args:
        draw: draws one group into a panel.
        y: label of the vertical axis.
        extra: draws what else belongs into a panel, from its axes, task and last environment step.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    columns = min(COLUMNS, len(drawn))
    rows = -(-len(drawn) // columns)
    wide = 6.4 if columns == 1 else 3.4 * columns
    high = 4.2 if columns == 1 else 2.9 * rows
    labels = list(dict.fromkeys(group.label for groups in drawn.values() for group, _ in groups))
    styles = {
        label: {
            "color": COLORS[i % len(COLORS)],
            "linestyle": LINE_STYLES[i // len(COLORS) % len(LINE_STYLES)],
        }
        for i, label in enumerate(labels)
    }
    figure, axes = plt.subplots(
        rows, columns, figsize=(wide, high), dpi=150, squeeze=False, layout="constrained"
    )
    for ax, (env, groups) in zip(axes.flat, drawn.items(), strict=False):
        for group, curves in groups:
            draw(ax, group, curves, styles[group.label])
        if extra:
            extra(ax, env, max(int(curves.env_steps[-1]) for _, curves in groups))
        ax.set_title(textwrap.fill(env, TITLE_LETTERS), fontsize=10)
        ax.set_xlabel("environment steps", fontsize=9)
        ax.xaxis.set_major_formatter(matplotlib.ticker.EngFormatter(sep=""))
        ax.yaxis.set_major_formatter(matplotlib.ticker.StrMethodFormatter("{x:,g}"))
        ax.tick_params(labelsize=8)
        ax.margins(x=0.01)
        ax.grid(alpha=0.25, linewidth=0.6)
        for side in ("top", "right"):
            ax.spines[side].set_visible(False)
    for ax in axes.flat[len(drawn) :]:
        ax.set_axis_off()
    for row in axes:
        row[0].set_ylabel(y, fontsize=9)
    entries: dict[str, Any] = {}
    for ax in axes.flat:
        handles, names = ax.get_legend_handles_labels()
        entries |= dict(zip(names, handles, strict=True))
    if PUBLISHED in entries:
        entries[PUBLISHED] = entries.pop(PUBLISHED)  # move it to the end
    legend_columns = max(1, min(4, int(LETTERS_PER_INCH * wide / max(map(len, entries)))))
    named = [textwrap.fill(name, int(LETTERS_PER_INCH * wide / legend_columns)) for name in entries]
    lines = sum(1 + name.count("\n") for name in named) / legend_columns
    figure.set_figheight(high + LINE_INCHES * max(0.0, lines - FREE_LINES))
    place: dict[str, Any] = {
        "loc": "outside lower center",
        "ncols": legend_columns,
        "frameon": False,
        "fontsize": 9,
    }
    figure.legend(entries.values(), named, **place)
    png = io.BytesIO()
    figure.savefig(png, format="png", metadata={"Software": None})
    plt.close(figure)
    return png.getvalue()


def line(ax: Any, steps: np.ndarray, values: np.ndarray, style: Style, **further: Any) -> None:
    """Draw a curve; if it has few points they get markers, so that a single point is visible."""
    marker = "o" if len(steps) <= MARKED_POINTS else None
    ax.plot(steps, values, marker=marker, markersize=3, **{**style, **further})


def band(ax: Any, steps: np.ndarray, low: np.ndarray, high: np.ndarray, style: Style) -> None:
    """Fill the area between two curves; draw a bar if they have one point."""
    if len(steps) == 1:
        ax.vlines(steps, low, high, color=style["color"], alpha=0.4, linewidth=3)
    else:
        ax.fill_between(steps, low, high, color=style["color"], alpha=0.2, linewidth=0)


def smooth(values: np.ndarray) -> np.ndarray:
    """Average ``values`` [..., T] over neighbouring points if there are more than ``SMOOTH_BEYOND``."""
    width = values.shape[-1] // SMOOTH_BEYOND * 2 + 1
    if width == 1:
        return values
    edge = width // 2
    padded = np.concatenate([values[..., :1].repeat(edge, -1), values, values[..., -1:].repeat(edge, -1)], -1)
    return np.lib.stride_tricks.sliding_window_view(padded, width, axis=-1).mean(axis=-1)


def _published(ax: Any, env: str, last: int) -> None:
    """Draw the published curve, up to the environment step ``last``."""
    task = paper.family(env)
    if not task:
        return
    curve = paper.curves()[task]
    last = min(last, int(curve.env_steps[-1]))
    steps = np.append(curve.env_steps[curve.env_steps < last], last)
    mean, half = (np.interp(steps, curve.env_steps, y) for y in (curve.mean, curve.half_std))
    ax.plot(steps, mean, color=PUBLISHED_COLOR, linewidth=1.4, linestyle="--", label=PUBLISHED, zorder=1)
    ax.fill_between(steps, mean - half, mean + half, color=PUBLISHED_COLOR, alpha=0.15, linewidth=0, zorder=0)


def learning(drawn: Drawn) -> bytes:
    """Draw the mean and half a standard deviation over trials, as in the paper, with the published curve."""

    def draw(ax: Any, group: Group, curves: Curves, style: Style) -> None:
        mean, half = smooth(curves.mean), smooth(curves.half_std)
        line(ax, curves.env_steps, mean, style, linewidth=1.8, label=group.label)
        band(ax, curves.env_steps, mean - half, mean + half, style)

    return panels(drawn, draw, "return", _published)


def robust(drawn: Drawn) -> bytes:
    """Draw the interquartile mean over trials with its bootstrapped 95% interval."""

    def draw(ax: Any, group: Group, curves: Curves, style: Style) -> None:
        middle, (low, high) = iqm(curves.returns), interval(curves.returns)
        line(ax, curves.env_steps, smooth(middle), style, linewidth=1.8, label=group.label)
        band(ax, curves.env_steps, smooth(low), smooth(high), style)

    return panels(drawn, draw, "return, interquartile mean")


def trials(drawn: Drawn) -> bytes:
    """Draw a line for each trial, without smoothing."""

    def draw(ax: Any, group: Group, curves: Curves, style: Style) -> None:
        for i, run in enumerate(group.runs):
            steps = np.array([r["env_steps"] for r in run.evaluations])
            returns = np.array([r["eval/return_mean"] for r in run.evaluations])
            label = group.label if i == 0 else None
            line(ax, steps, returns, style, linewidth=0.8, alpha=0.65, label=label)

    return panels(drawn, draw, "return")


def overestimation(drawn: Drawn) -> bytes | None:
    """Draw the critic's value of the policy's actions and the true discounted return (the paper's figure 1).

    Return None if no group recorded them.
    """
    compared = {
        env: [(group, curves) for group, curves in groups if not np.isnan(curves.q_true).all()]
        for env, groups in drawn.items()
    }
    compared = {env: groups for env, groups in compared.items() if groups}
    if not compared:
        return None

    def draw(ax: Any, group: Group, curves: Curves, style: Style) -> None:
        estimate, true = (np.nanmean(values, axis=0) for values in (curves.q_mean, curves.q_true))
        line(ax, curves.env_steps, smooth(estimate), style, linewidth=1.8, label=f"{group.label}: critic")
        line(
            ax,
            curves.env_steps,
            smooth(true),
            {"color": style["color"]},
            linewidth=1.2,
            linestyle=":",
            label=f"{group.label}: true",
        )

    return panels(compared, draw, "discounted return")
