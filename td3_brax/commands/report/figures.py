"""The figures of a page, as PNGs."""

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
"""Okabe and Ito's, which most colour-blind readers can tell apart."""
PAPER, PUBLISHED = "0.45", "TD3, published (v1)"
LINES = ("-", "--", "-.", (0, (5, 1, 1, 1, 1, 1)))
"""Where the colours begin again."""
ACROSS = 4
LETTERS, LINE, FREE_LINES = 13, 0.19, 2
"""Of a legend: letters to an inch, inches of a line, and lines that need no taller picture."""
TITLE = 34
"""Letters of a panel's title on one line."""
FEW = 10
"""Points that are marked each."""
SMOOTH_BEYOND = 60
"""Evaluations; the paper's figures average neighbouring points, and so do ours where there are many."""

Style = Mapping[str, Any]
"""Colour and line of a group."""
Drawn = Mapping[str, Sequence[tuple[Group, Curves]]]
"""Task -> its groups with their curves."""
Draw = Callable[[Any, Group, Curves, Style], None]
"""Puts a group into a panel."""


def panels(
    drawn: Drawn, draw: Callable[[Any, Group, Curves, Style], None], y: str, extra: Any = None
) -> bytes:
    """A PNG with a panel for each task, in which ``draw`` puts each group, and a legend below them."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    across = min(ACROSS, len(drawn))
    down = -(-len(drawn) // across)
    wide = 6.4 if across == 1 else 3.4 * across
    high = 4.2 if across == 1 else 2.9 * down
    labels = list(dict.fromkeys(group.label for own in drawn.values() for group, _ in own))
    styles = {
        label: {"color": COLORS[i % len(COLORS)], "linestyle": LINES[i // len(COLORS) % len(LINES)]}
        for i, label in enumerate(labels)
    }
    figure, axes = plt.subplots(
        down, across, figsize=(wide, high), dpi=150, squeeze=False, layout="constrained"
    )
    for ax, (env, own) in zip(axes.flat, drawn.items(), strict=False):
        for group, curves in own:
            draw(ax, group, curves, styles[group.label])
        if extra:
            extra(ax, env, max(int(curves.env_steps[-1]) for _, curves in own))
        ax.set_title(textwrap.fill(env, TITLE), fontsize=10)
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
        entries[PUBLISHED] = entries.pop(PUBLISHED)  # the last
    columns = max(1, min(4, int(LETTERS * wide / max(map(len, entries)))))
    named = [textwrap.fill(name, int(LETTERS * wide / columns)) for name in entries]
    lines = sum(1 + name.count("\n") for name in named) / columns
    figure.set_figheight(high + LINE * max(0.0, lines - FREE_LINES))
    place: dict[str, Any] = {"loc": "outside lower center", "ncols": columns, "frameon": False, "fontsize": 9}
    figure.legend(entries.values(), named, **place)
    made = io.BytesIO()
    figure.savefig(made, format="png", metadata={"Software": None})
    plt.close(figure)
    return made.getvalue()


def line(ax: Any, steps: np.ndarray, values: np.ndarray, style: Style, **further: Any) -> None:
    """A curve; its points are marked where they are few, so that one alone can be seen."""
    marker = "o" if len(steps) <= FEW else None
    ax.plot(steps, values, marker=marker, markersize=3, **{**style, **further})


def band(ax: Any, steps: np.ndarray, low: np.ndarray, high: np.ndarray, style: Style) -> None:
    """What is between two curves; a bar where they are one point."""
    if len(steps) == 1:
        ax.vlines(steps, low, high, color=style["color"], alpha=0.4, linewidth=3)
    else:
        ax.fill_between(steps, low, high, color=style["color"], alpha=0.2, linewidth=0)


def smooth(values: np.ndarray) -> np.ndarray:
    """[..., T] averaged over neighbouring points, for the eye, where there are many."""
    width = values.shape[-1] // SMOOTH_BEYOND * 2 + 1
    if width == 1:
        return values
    edge = width // 2
    padded = np.concatenate([values[..., :1].repeat(edge, -1), values, values[..., -1:].repeat(edge, -1)], -1)
    return np.lib.stride_tricks.sliding_window_view(padded, width, axis=-1).mean(axis=-1)


def _published(ax: Any, env: str, last: int) -> None:
    """The authors' curve, as far as ours goes."""
    task = paper.family(env)
    if not task:
        return
    curve = paper.curves()[task]
    last = min(last, int(curve.env_steps[-1]))
    steps = np.append(curve.env_steps[curve.env_steps < last], last)
    mean, half = (np.interp(steps, curve.env_steps, y) for y in (curve.mean, curve.half_std))
    ax.plot(steps, mean, color=PAPER, linewidth=1.4, linestyle="--", label=PUBLISHED, zorder=1)
    ax.fill_between(steps, mean - half, mean + half, color=PAPER, alpha=0.15, linewidth=0, zorder=0)


def learning(drawn: Drawn) -> bytes:
    """Mean and half a standard deviation over trials, as in the paper, beside the authors' curve."""

    def draw(ax: Any, group: Group, curves: Curves, style: Style) -> None:
        mean, half = smooth(curves.mean), smooth(curves.half_std)
        line(ax, curves.env_steps, mean, style, linewidth=1.8, label=group.label)
        band(ax, curves.env_steps, mean - half, mean + half, style)

    return panels(drawn, draw, "return", _published)


def robust(drawn: Drawn) -> bytes:
    """Interquartile mean over trials with its bootstrapped 95% interval."""

    def draw(ax: Any, group: Group, curves: Curves, style: Style) -> None:
        middle, (low, high) = iqm(curves.returns), interval(curves.returns)
        line(ax, curves.env_steps, smooth(middle), style, linewidth=1.8, label=group.label)
        band(ax, curves.env_steps, smooth(low), smooth(high), style)

    return panels(drawn, draw, "return, interquartile mean")


def trials(drawn: Drawn) -> bytes:
    """Every trial, as it was evaluated."""

    def draw(ax: Any, group: Group, curves: Curves, style: Style) -> None:
        for i, run in enumerate(group.runs):
            steps = np.array([r["env_steps"] for r in run.evaluations])
            returns = np.array([r["eval/return_mean"] for r in run.evaluations])
            label = group.label if i == 0 else None
            line(ax, steps, returns, style, linewidth=0.8, alpha=0.65, label=label)

    return panels(drawn, draw, "return")


def overestimation(drawn: Drawn) -> bytes | None:
    """The critic's value of what the policy does, and what truly followed (the paper's figure 1)."""
    compared = {
        env: [(group, curves) for group, curves in own if not np.isnan(curves.q_true).all()]
        for env, own in drawn.items()
    }
    compared = {env: own for env, own in compared.items() if own}
    if not compared:
        return None

    def draw(ax: Any, group: Group, curves: Curves, style: Style) -> None:
        says, true = (np.nanmean(values, axis=0) for values in (curves.q_mean, curves.q_true))
        line(ax, curves.env_steps, smooth(says), style, linewidth=1.8, label=f"{group.label}: critic")
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
