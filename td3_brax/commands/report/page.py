"""One page about runs: HTML that opens from disk, and the same as PNG and CSV."""

from __future__ import annotations

import base64
import html
import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from td3_brax.commands.report import figures, paper, tables
from td3_brax.commands.report.algorithms import DDPG_DIFFERS
from td3_brax.commands.report.groups import Group
from td3_brax.commands.report.stats import Curves, curves
from td3_brax.commands.report.tables import Table
from td3_brax.option import show
from td3_brax.runs.files import write_atomically

FILE = "report.html"
FOLDER = "report"
FILM = "film.mp4"
STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2.2rem; }
img, video { max-width: 100%; background: white; }
figure { margin: 0.6rem 0; }
table { border-collapse: collapse; font-size: 0.9rem; margin: 0.6rem 0; }
th, td { padding: 0.25rem 0.5rem; text-align: right; border-bottom: 1px solid #8884; vertical-align: top; }
td { white-space: nowrap; }
.name { text-align: left; white-space: normal; overflow-wrap: anywhere; min-width: 8rem; }
.name span { white-space: nowrap; }
div.wide { overflow-x: auto; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; background: #8881; padding: 0.6rem; }
details { overflow-wrap: anywhere; }
p.note { border-left: 3px solid #D55E00; padding-left: 0.8rem; }
"""


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
        self.title, self.notes, self.command = title, list(notes), command
        self.groups = [(group, made) for group in groups if (made := curves(group))]
        self.every = [group for group, _ in self.groups] + [g for g in groups if not curves(g)]
        self.drawn: dict[str, list[tuple[Group, Curves]]] = {}
        for group, made in self.groups:
            self.drawn.setdefault(group.env, []).append((group, made))
        self.reproduced = any(
            paper.family(env) and g.algorithm for env, own in self.drawn.items() for g, _ in own
        )
        self.ablations = any(group.algorithm not in (None, "td3") for group, _ in self.groups)
        self.notes += [note for group in self.every if (note := _uneven(group))]

    def write(self, out: Path) -> Path:
        """Write the page, and its pictures and tables beside it; returns the page's path."""
        pictures = self._pictures()
        made = {
            "best": tables.best(self.groups),
            "last": tables.last(self.groups),
            "speed": tables.speed(self.groups),
            "runs": tables.trials(self.every),
            "curves": tables.points(self.groups),
            "evaluations": tables.evaluations(self.every),
        }
        known = {name: table for name, table in made.items() if table}
        (out / FOLDER).mkdir(parents=True, exist_ok=True)
        for name, (_, _, picture) in pictures.items():
            write_atomically(out / FOLDER / f"{name}.png", picture)
        for name, table in known.items():
            write_atomically(out / FOLDER / f"{name}.csv", tables.as_csv(table).encode())
        write_atomically(out / FILE, self._html(pictures, known).encode())
        return out / FILE

    def _pictures(self) -> dict[str, tuple[str, str, bytes]]:
        """Name -> heading, what is to be seen, PNG."""
        made = {}
        if self.drawn:
            published = any(paper.family(env) for env in self.drawn)
            beside = "; dashed, the authors' ten published curves on the v1 tasks" * published
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

    def _html(self, pictures: Mapping[str, tuple[str, str, bytes]], known: Mapping[str, Table]) -> str:
        parts = [f"<h1>{html.escape(self.title)}</h1>"]
        parts += [f'<p class="note">{html.escape(note)}</p>' for note in self.notes]

        def picture(name: str) -> None:
            if name in pictures:
                heading, what, png = pictures[name]
                data = base64.b64encode(png).decode()
                parts.append(f"<h2>{html.escape(heading)}</h2><p>{html.escape(what)}</p>")
                parts.append(f'<img alt="{html.escape(heading)}" src="data:image/png;base64,{data}">')

        def table(name: str, heading: str, what: str) -> None:
            if name in known:
                parts.append(f"<h2>{html.escape(heading)}</h2><p>{what}</p>{tables.as_html(known[name])}")

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
            "Ablations" if self.ablations else "Average of the last evaluations",
            "Of the last ten (of all, where there are fewer), ± one standard deviation over trials"
            + "; the published column is the paper's table 2" * self.reproduced
            + ". DP: delayed policy updates, TPS: target policy smoothing, CDQ: clipped double Q-learning, "
            "AHE: the paper's architecture, hyper-parameters and exploration." * self.ablations,
        )
        picture("overestimation")
        picture("robust")
        picture("trials")
        parts += self._films()
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

    def _films(self) -> list[str]:
        """Of each group the film of its best run that has one."""
        parts = []
        for group in self.every:
            filmed = [run for run in group.runs if (Path(run.name) / FILM).is_file()]
            if filmed:
                run = max(filmed, key=lambda run: max(r["eval/return_mean"] for r in run.evaluations))
                data = base64.b64encode((Path(run.name) / FILM).read_bytes()).decode()
                what = html.escape(f"{group.env}, {group.label}: {run.name}")
                parts.append(
                    f'<figure><video controls loop muted src="data:video/mp4;base64,{data}"></video>'
                )
                parts.append(f"<figcaption>{what}</figcaption></figure>")
        return ["<h2>Films</h2>", *parts] if parts else []

    def _others(self) -> list[str]:
        said = [
            f"{html.escape(who)} on {task}: {html.escape(what)}"
            for task in {paper.family(env) for env in self.drawn} & {*paper.OTHERS}
            for who, what in paper.OTHERS[str(task)]
        ]
        return [f"<p>Others' results after a million steps: {'; '.join(said)}.</p>"] if said else []

    def _honest(self) -> list[str]:
        """What differs from the paper."""
        groups = [(g, own) for g, own in self.groups if g.algorithm and paper.family(g.env)]
        trained = max(int(own.env_steps[-1]) for _, own in groups)
        trials = [len(group.runs) for group, _ in groups]
        lines = [
            "The paper's tasks are the v1 ones (MuJoCo 1.3; Ant-v1 observes contact forces, 111 numbers in "
            "all). These are Gymnasium's v4 and v5 tasks, simulated on the device by physics that "
            "the project's tests hold against the real environments step by step. So published numbers "
            "are for orientation: the tasks are not the same.",
        ]
        envs = sorted({run.config["num_envs"] for group, _ in groups for run in group.runs})
        if envs != [1]:
            lines.append(
                f"{' or '.join(map(str, envs))} environments step together; then as many updates follow as "
                "transitions were stored. The paper alternates one step and one update."
            )
        if any(run.config["spread_phases"] for group, _ in groups for run in group.runs):
            lines.append(
                "First episodes of environments that step together are cut at random steps, so that from the "
                "start on episodes begin as evenly as a single environment's."
            )
        if trained < paper.STEPS or min(trials) < paper.SEEDS:
            few = f"{min(trials)}" if min(trials) == max(trials) else f"{min(trials)} to {max(trials)}"
            lines.append(
                f"The paper trains for 1,000,000 steps with ten seeds; here {trained:,} at most, with {few}."
            )
        if any(run.gymnasium for group, _ in groups for run in group.runs):
            lines.append(
                "“Last policy in Gymnasium”: each trial's last policy as it is, over ten episodes in the "
                "real environment with C MuJoCo; mean ± standard deviation over trials."
            )
        if any(group.algorithm == "ddpg" for group, _ in groups):
            lines.append(DDPG_DIFFERS)
        items = "".join(f"<li>{html.escape(line)}</li>" for line in lines)
        return [f"<h2>What differs from the paper</h2><ul>{items}</ul>"]

    def _how(self) -> list[str]:
        """Commands, machines, options."""
        parts = ["<h2>How it was made</h2>"]
        runs = [run for group in self.every for run in group.runs]
        about = [entry for run in runs for entry in run.about]
        commands = [self.command] if self.command else list(dict.fromkeys(str(a["command"]) for a in about))
        if commands:
            parts.append("<pre>" + html.escape("\n".join(commands)) + "</pre>")
        machines = list(dict.fromkeys(json.dumps(a["versions"]) for a in about))
        for machine in machines:
            said = ", ".join(f"{name} {value}" for name, value in json.loads(machine).items())
            parts.append(f"<p>{html.escape(said)}</p>")
        for group in self.every:
            own = {k: v for k, v in group.runs[0].config.items() if k not in ("seed", "out", "wandb")}
            text = shlex.join(f"--{name}={show(value)}" for name, value in own.items() if value != "")
            summary = html.escape(f"{group.env}, {group.label}: options")
            parts.append(f"<details><summary>{summary}</summary><pre>{html.escape(text)}</pre></details>")
        return parts


def _uneven(group: Group) -> str:
    """What is to be said where a group's trials were not all evaluated to the same step."""
    ends = sorted({int(run.evaluations[-1]["env_steps"]) for run in group.runs})
    made = curves(group)
    if made is None:
        why = "its trials were never evaluated at the same step; they are listed, and not averaged"
    elif ends[0] != ends[-1]:
        why = (
            f"its trials end between {ends[0]:,} and {ends[-1]:,} steps; "
            f"means are over all of them, to {int(made.env_steps[-1]):,}"
        )
    else:
        return ""
    return f"{group.env}, {group.label}: {why}."
