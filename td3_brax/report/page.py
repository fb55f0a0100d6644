"""One page about runs: HTML that opens from disk, and the same as PNG and CSV."""

from __future__ import annotations

import base64
import csv
import html
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from td3_brax.config import show
from td3_brax.folder import write_whole
from td3_brax.report import figures
from td3_brax.report.runs import Group
from td3_brax.report.stats import Curves, curves, goals, interval, iqm, median_reached
from td3_brax.reproduce import paper
from td3_brax.reproduce.algorithms import DDPG_DIFFERS
from td3_brax.tracking import duration

FILE = "report.html"
FOLDER = "report"
STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2.2rem; }
img { max-width: 100%; background: white; }
table { border-collapse: collapse; font-size: 0.9rem; margin: 0.6rem 0; }
th, td { padding: 0.25rem 0.7rem; text-align: right; border-bottom: 1px solid #8884; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
div.wide { overflow-x: auto; }
pre { overflow-x: auto; background: #8881; padding: 0.6rem; }
p.note { border-left: 3px solid #D55E00; padding-left: 0.8rem; }
"""

Row = Sequence[str]


@dataclass(frozen=True)
class Table:
    """Rows of text under a head."""

    head: Row
    rows: Sequence[Row]


def number(value: float | None) -> str:
    """With a comma for thousands; small ones with two digits; nothing for none."""
    if value is None or not math.isfinite(value):
        return ""
    return f"{value:,.{2 if abs(value) < 100 else 0}f}"


def scored(mean: float, deviation: float | None) -> str:
    """A mean with its deviation, where there is one."""
    if deviation is None:
        return number(mean)
    digits = 2 if max(abs(mean), deviation) < 100 else 0
    return f"{mean:,.{digits}f} ± {deviation:,.{digits}f}"


class Page:
    """What is said of groups of runs.

    Args:
        title: of the page.
        notes: lines that stand before everything else, such as that it is a reduced version.
        command: that made the runs, if it is one command; else those in the runs' folders are listed.
    """

    def __init__(
        self, groups: Sequence[Group], title: str, notes: Sequence[str] = (), command: str = ""
    ) -> None:
        self.title, self.notes, self.command = title, notes, command
        self.groups = [(group, made) for group in groups if (made := curves(group))]
        self.alone = [group for group in groups if not curves(group)]
        self.drawn: dict[str, list[tuple[Group, Curves]]] = {}
        for group, made in self.groups:
            self.drawn.setdefault(group.env, []).append((group, made))
        self.reproduced = any(
            paper.family(env) and g.algorithm for env, own in self.drawn.items() for g, _ in own
        )

    def best(self) -> Table:
        """The paper's table 1."""
        rows = []
        for group, own in self.groups:
            mean, deviation, at = own.best
            row = [group.env, group.label, str(len(group.runs)), f"{own.env_steps[-1]:,}"]
            row += [scored(mean, deviation if len(group.runs) > 1 else None), f"{at:,}"]
            published = paper.BEST.get(paper.family(group.env) or "", {}).get(group.algorithm or "")
            row += [scored(*published) if published else ""]
            row += [self._curve_at(group, int(own.env_steps[-1])), self._gymnasium(group)]
            rows.append(row)
        head = ["task", "algorithm", "trials", "steps", "max average return", "at step"]
        head += [
            "published, 1M steps (v1)",
            "published curve's best to this step",
            "last policy in Gymnasium",
        ]
        return Table(head, rows)

    @staticmethod
    def _curve_at(group: Group, steps: int) -> str:
        """The highest point of the published TD3 curve within ``steps``."""
        task = paper.family(group.env)
        if group.algorithm != "td3" or not task:
            return ""
        curve = paper.curves()[task]
        return number(float(curve.mean[1:][curve.env_steps[1:] <= max(steps, curve.env_steps[1])].max()))

    @staticmethod
    def _gymnasium(group: Group) -> str:
        """Mean and deviation, over trials, of the policies' scores in the real environment."""
        scores = [run.gymnasium["return_mean"] for run in group.runs if run.gymnasium]
        return (
            scored(float(np.mean(scores)), float(np.std(scores)) if len(scores) > 1 else None)
            if scores
            else ""
        )

    def last(self) -> Table | None:
        """The paper's table 2; None where only one algorithm ran."""
        if all(len(own) < 2 for own in self.drawn.values()):
            return None
        rows = []
        for group, own in self.groups:
            published = paper.LAST.get(group.algorithm or "", {}).get(paper.family(group.env) or "")
            deviation = float(own.last.std()) if len(group.runs) > 1 else None
            rows.append(
                [group.env, group.label, scored(float(own.last.mean()), deviation), number(published)]
            )
        return Table(
            ["task", "algorithm", "average of the last 10 evaluations", "published, 1M steps (v1)"], rows
        )

    def speed(self) -> Table:
        """Steps and time to goals: median over trials."""
        rows = []
        for group, _ in self.groups:
            published = paper.BEST.get(paper.family(group.env) or "", {}).get("td3")
            for goal in goals(group, published.mean if published else None):
                there = median_reached(group.runs, goal)
                share = f" ({goal / published.mean:.0%} of the paper's)" if published else ""
                steps, spent = (f"{there[0]:,}", duration(there[1])) if there else ("not reached", "")
                rows.append([group.env, group.label, number(goal) + share, steps, spent])
        return Table(["task", "algorithm", "return", "environment steps", "time, compiling included"], rows)

    def trials(self) -> Table:
        """Every run."""
        head = ["run", "task", "algorithm", "seed", "steps", "best", "last", "last 10 evaluations"]
        head += ["env steps/s", "time", "last policy in Gymnasium"]
        rows = []
        for group in [*(group for group, _ in self.groups), *self.alone]:
            for run in sorted(group.runs, key=lambda run: (run.config["seed"], run.name)):
                returns = [r["eval/return_mean"] for r in run.evaluations]
                real = run.gymnasium
                rows.append(
                    [
                        run.name,
                        group.env,
                        group.label,
                        str(run.config["seed"]),
                        f"{run.evaluations[-1]['env_steps']:,}",
                        number(max(returns)),
                        number(returns[-1]),
                        number(float(np.mean(returns[-10:]))),
                        number(run.env_steps_per_s),
                        duration(run.reports[-1].get("wall_s") or 0.0),
                        scored(real["return_mean"], real["return_std"]) if real else "",
                    ]
                )
        return Table(head, rows)

    def points(self) -> Table:
        """Every point of the curves, as text that loses nothing."""
        head = ["task", "algorithm", "env_steps", "trials", "mean", "half_std", "iqm", "iqm_low", "iqm_high"]
        head += ["q_mean", "q_true"]
        rows = []
        for group, own in self.groups:
            low, high = interval(own.returns)
            columns = [own.mean, own.half_std, iqm(own.returns), low, high]
            columns += [own.q_mean.mean(axis=0), own.q_true.mean(axis=0)]
            for i, steps in enumerate(own.env_steps):
                values = ["" if math.isnan(column[i]) else f"{column[i]:.6g}" for column in columns]
                rows.append([group.env, group.label, str(steps), str(len(group.runs)), *values])
        return Table(head, rows)

    def evaluations(self) -> Table:
        """Every evaluation of every run."""
        head = ["run", "task", "algorithm", "seed", "env_steps", "return_mean", "return_std", "length_mean"]
        head += ["q_mean", "q_true"]
        rows = []
        for group in [*(group for group, _ in self.groups), *self.alone]:
            for run in sorted(group.runs, key=lambda run: (run.config["seed"], run.name)):
                for r in run.evaluations:
                    values = [r.get(f"eval/{name}") for name in head[5:]]
                    text = ["" if value is None else f"{value:.8g}" for value in values]
                    seed, steps = str(run.config["seed"]), str(r["env_steps"])
                    rows.append([run.name, group.env, group.label, seed, steps, *text])
        return Table(head, rows)

    def write(self, out: Path) -> Path:
        """Write the page, and its pictures and tables beside it; returns the page's path."""
        pictures = self._pictures()
        tables = {"best": self.best(), "speed": self.speed(), "runs": self.trials()}
        tables |= {"curves": self.points(), "evaluations": self.evaluations()}
        if last := self.last():
            tables["last"] = last
        (out / FOLDER).mkdir(parents=True, exist_ok=True)
        for name, (_, _, picture) in pictures.items():
            write_whole(out / FOLDER / f"{name}.png", picture)
        for name, table in tables.items():
            write_whole(out / FOLDER / f"{name}.csv", as_csv(table).encode())
        write_whole(out / FILE, self._html(pictures, tables).encode())
        return out / FILE

    def _pictures(self) -> dict[str, tuple[str, str, bytes]]:
        """Name -> heading, what is to be seen, PNG."""
        made = {}
        if self.drawn:
            beside = "; dashed, the authors' ten published curves on the v1 tasks" * self.reproduced
            made["learning"] = (
                "Learning curves",
                f"Mean of the trials' greedy returns, and half a standard deviation{beside}.",
                figures.learning(self.drawn),
            )
            made["robust"] = (
                "Interquartile mean",
                "Over trials, with its 95% interval (percentile bootstrap of 2,000 resamples).",
                figures.robust(self.drawn),
            )
            made["trials"] = ("Every trial", "One line for each run.", figures.trials(self.drawn))
            if compared := figures.overestimation(self.drawn):
                made["overestimation"] = (
                    "What the critic says, and what is true",
                    "The first critic's value of the greedy policy's actions, and the discounted return that "
                    "truly followed, both over the states of the first half of the evaluation episodes.",
                    compared,
                )
        return made

    def _html(self, pictures: Mapping[str, tuple[str, str, bytes]], tables: Mapping[str, Table]) -> str:
        parts = [f"<h1>{html.escape(self.title)}</h1>"]
        parts += [f'<p class="note">{html.escape(note)}</p>' for note in self.notes]

        def picture(name: str) -> None:
            if name in pictures:
                heading, what, png = pictures[name]
                data = base64.b64encode(png).decode()
                parts.append(f"<h2>{html.escape(heading)}</h2><p>{html.escape(what)}</p>")
                parts.append(f'<img alt="{html.escape(heading)}" src="data:image/png;base64,{data}">')

        def table(name: str, heading: str, what: str) -> None:
            if name in tables:
                parts.append(f"<h2>{html.escape(heading)}</h2><p>{what}</p>{as_html(tables[name])}")

        picture("learning")
        table(
            "best",
            "Max average return",
            "The highest point of the mean curve, ± one standard deviation over trials there"
            + f", as in table 1 of {html.escape(paper.SOURCE)}." * self.reproduced,
        )
        parts += self._others()
        if self.reproduced:
            parts += self._honest()
        table(
            "last",
            "Ablations",
            "± one standard deviation over trials"
            + "; the published column is the paper's table 2. DP: delayed policy updates, TPS: target policy "
            "smoothing, CDQ: clipped double Q-learning, AHE: the paper's architecture, hyper-parameters and "
            "exploration." * self.reproduced,
        )
        picture("overestimation")
        picture("robust")
        picture("trials")
        table(
            "speed", "Steps and time to a return", "Median over trials; at the first evaluation that has it."
        )
        table("runs", "Runs", "")
        parts += self._how()
        body = "\n".join(parts)
        return (
            '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
            f"<title>{html.escape(self.title)}</title>"
            f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style></head>\n'
            f"<body>\n{body}\n</body></html>\n"
        )

    def _others(self) -> list[str]:
        said = [
            f"{html.escape(who)} on {task}: {html.escape(what)}"
            for task in {paper.family(env) for env in self.drawn} & {*paper.OTHERS}
            for who, what in paper.OTHERS[str(task)]
        ]
        return [f"<p>Others' results after a million steps: {'; '.join(said)}.</p>"] if said else []

    def _honest(self) -> list[str]:
        """What differs from the paper."""
        trained = max(int(own.env_steps[-1]) for _, own in self.groups)
        trials = [len(group.runs) for group, _ in self.groups]
        lines = [
            "The paper's tasks are the v1 ones (MuJoCo 1.3; Ant-v1 observes contact forces, 111 numbers in "
            "all). These are Gymnasium's v4 and v5 tasks, on MJX with constraints and a solver of our own, "
            "which the project's tests hold against the real environments step by step. So published numbers "
            "are for orientation: the tasks are not the same.",
        ]
        envs = sorted({run.config["num_envs"] for group, _ in self.groups for run in group.runs})
        if envs != [1]:
            lines.append(
                f"{' or '.join(map(str, envs))} environments step together; then as many updates follow as "
                "transitions were stored. The paper alternates one step and one update."
            )
        if trained < paper.STEPS or min(trials) < paper.SEEDS:
            few = f"{min(trials)}" if min(trials) == max(trials) else f"{min(trials)} to {max(trials)}"
            lines.append(
                f"The paper trains for 1,000,000 steps with ten seeds; here {trained:,} at most, with {few}."
            )
        if any(run.gymnasium for group, _ in self.groups for run in group.runs):
            lines.append(
                "“Last policy in Gymnasium”: each trial's last policy as it is, over ten episodes in the "
                "real environment with C MuJoCo; mean ± standard deviation over trials."
            )
        if any(group.algorithm == "ddpg" for group, _ in self.groups):
            lines.append(DDPG_DIFFERS)
        items = "".join(f"<li>{html.escape(line)}</li>" for line in lines)
        return [f"<h2>What differs from the paper</h2><ul>{items}</ul>"]

    def _how(self) -> list[str]:
        """Commands, machines, options."""
        parts = ["<h2>How it was made</h2>"]
        runs = [run for group in [*(g for g, _ in self.groups), *self.alone] for run in group.runs]
        about = [entry for run in runs for entry in run.about]
        commands = [self.command] if self.command else list(dict.fromkeys(str(a["command"]) for a in about))
        if commands:
            parts.append("<pre>" + html.escape("\n".join(commands)) + "</pre>")
        machines = list(dict.fromkeys(json.dumps(a["versions"]) for a in about))
        for machine in machines:
            said = ", ".join(f"{name} {value}" for name, value in json.loads(machine).items())
            parts.append(f"<p>{html.escape(said)}</p>")
        for group in [*(g for g, _ in self.groups), *self.alone]:
            own = {k: v for k, v in group.runs[0].config.items() if k not in ("seed", "out", "wandb")}
            text = " ".join(f"--{name}={show(value)}" for name, value in own.items() if value != "")
            summary = html.escape(f"{group.env}, {group.label}: options")
            parts.append(f"<details><summary>{summary}</summary><pre>{html.escape(text)}</pre></details>")
        return parts


def as_csv(table: Table) -> str:
    """A table as CSV."""
    made = io.StringIO()
    csv.writer(made, lineterminator="\n").writerows([table.head, *table.rows])
    return made.getvalue()


def as_html(table: Table) -> str:
    """A table as HTML, without the columns that hold nothing."""
    filled = [i for i in range(len(table.head)) if any(row[i] for row in table.rows)]

    def cells(row: Row, kind: str) -> Iterable[str]:
        return (f"<{kind}>{html.escape(row[i])}</{kind}>" for i in filled)

    head = "".join(cells(table.head, "th"))
    rows = "".join(f"<tr>{''.join(cells(row, 'td'))}</tr>" for row in table.rows)
    return f'<div class="wide"><table><tr>{head}</tr>{rows}</table></div>'
