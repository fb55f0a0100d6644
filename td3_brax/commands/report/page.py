"""The report page: one HTML file that needs nothing else, and its figures and tables as PNG and CSV."""

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
from td3_brax.runs.formatting import counted

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
    """A report page about groups of runs.

    Args:
        title: title of the page.
        notes: lines for the top of the page, for example that it shows a reduced version.
        command: the command that made all runs; if empty, the page lists the commands in the runs' folders.
    """

    def __init__(
        self, groups: Sequence[Group], title: str, notes: Sequence[str] = (), command: str = ""
    ) -> None:
        self.title, self.notes, self.command = title, list(notes), command
        self.groups = [(group, found) for group in groups if (found := curves(group))]
        self.all_groups = [group for group, _ in self.groups] + [g for g in groups if not curves(g)]
        self.drawn: dict[str, list[tuple[Group, Curves]]] = {}
        for group, found in self.groups:
            self.drawn.setdefault(group.env, []).append((group, found))
        self.reproduced = any(
            paper.family(env) and g.algorithm for env, groups in self.drawn.items() for g, _ in groups
        )
        self.ablations = any(group.algorithm not in (None, "td3") for group, _ in self.groups)
        self.notes += [note for group in self.all_groups if (note := _uneven_note(group))]

    def write(self, out: Path) -> Path:
        """Write the page and the folder with its figures and tables; return the path of the page."""
        pictures = self._pictures()
        candidates = {
            "best": tables.best(self.groups),
            "last": tables.last(self.groups),
            "speed": tables.speed(self.groups),
            "runs": tables.trials(self.all_groups),
            "curves": tables.points(self.groups),
            "evaluations": tables.evaluations(self.all_groups),
        }
        known = {name: table for name, table in candidates.items() if table}
        (out / FOLDER).mkdir(parents=True, exist_ok=True)
        for name, (_, _, picture) in pictures.items():
            write_atomically(out / FOLDER / f"{name}.png", picture)
        for name, table in known.items():
            write_atomically(out / FOLDER / f"{name}.csv", tables.as_csv(table).encode())
        write_atomically(out / FILE, self._html(pictures, known).encode())
        return out / FILE

    def _pictures(self) -> dict[str, tuple[str, str, bytes]]:
        """Draw the figures; return (heading, description, PNG) by name."""
        pictures = {}
        if self.drawn:
            published = any(paper.family(env) for env in self.drawn)
            dashed = (
                " The dashed line is the mean of the authors' ten published curves, on the v1 tasks."
                * published
            )
            pictures["learning"] = (
                "Learning curves",
                f"Mean greedy return over trials; the band is half a standard deviation.{dashed}",
                figures.learning(self.drawn),
            )
            pictures["robust"] = (
                "Interquartile mean",
                "Mean of the middle half of the trials, with its 95% interval (percentile bootstrap, 2,000 "
                "resamples).",
                figures.robust(self.drawn),
            )
            pictures["trials"] = ("Every trial", "One line per run.", figures.trials(self.drawn))
            if compared := figures.overestimation(self.drawn):
                pictures["overestimation"] = (
                    "Overestimation: the critic's value and the true return",
                    "The first critic's value of the greedy policy's actions, and the discounted return that "
                    "followed them. Both are means over the states in the first half of the evaluation "
                    "episodes.",
                    compared,
                )
        return pictures

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
            "The highest point of the mean learning curve, ± one standard deviation over trials at that step"
            + f", as in table 1 of {html.escape(paper.SOURCE)}" * self.reproduced
            + ".",
        )
        parts += self._other_results()
        if self.reproduced:
            parts += self._differences()
        table(
            "last",
            "Ablations" if self.ablations else "Average of the last evaluations",
            "Average return of each trial's last ten evaluations (or of all, if there are fewer), ± one "
            "standard deviation over trials."
            + " The published values are the paper's table 2."
            * self.reproduced
            + " “- DP” is without delayed policy updates, “- TPS” without target policy smoothing, “- CDQ” "
            "without clipped double Q-learning. AHE is the paper's architecture, hyper-parameters and "
            "exploration without all three." * self.ablations,
        )
        picture("overestimation")
        picture("robust")
        picture("trials")
        parts += self._films()
        table(
            "speed",
            "Steps and time to a return",
            "Median over trials, at the first evaluation that reaches the return.",
        )
        table("runs", "Runs", "")
        parts += self._provenance()
        body = "\n".join(parts)
        return (
            '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
            f"<title>{html.escape(self.title)}</title>"
            f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style></head>\n'
            f"<body>\n{body}\n</body></html>\n"
        )

    def _films(self) -> list[str]:
        """Embed the film of each group's best run, among its runs that have a film."""
        parts = []
        for group in self.all_groups:
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

    def _other_results(self) -> list[str]:
        """List results that others published."""
        results = [
            f"{html.escape(who)} on {task}: {html.escape(what)}"
            for task in {paper.family(env) for env in self.drawn} & {*paper.OTHERS}
            for who, what in paper.OTHERS[str(task)]
        ]
        return [f"<p>Other results after a million steps: {'; '.join(results)}.</p>"] if results else []

    def _differences(self) -> list[str]:
        """List what differs from the paper."""
        groups = [(g, found) for g, found in self.groups if g.algorithm and paper.family(g.env)]
        trained = max(int(found.env_steps[-1]) for _, found in groups)
        trials = [len(group.runs) for group, _ in groups]
        lines = [
            "The paper used the v1 tasks (MuJoCo 1.3; Ant-v1 also observes contact forces, 111 numbers in "
            "all). These runs use Gymnasium's v4 and v5 tasks, simulated on the device; the project's tests "
            "compare this simulation with the real environments step by step. The tasks are not the same, so "
            "the published numbers are for orientation only.",
        ]
        envs = sorted({run.config["num_envs"] for group, _ in groups for run in group.runs})
        if envs != [1]:
            lines.append(
                f"{' or '.join(map(str, envs))} environments step together, and as many updates follow as "
                "transitions were stored. The paper alternates between one step and one update."
            )
        if any(run.config["spread_phases"] for group, _ in groups for run in group.runs):
            lines.append(
                "The first episode of each environment is cut at a random step. Otherwise all environments "
                "would begin their episodes together, which the paper's single environment can't do."
            )
        if trained < paper.STEPS or min(trials) < paper.SEEDS:
            few, many = min(trials), max(trials)
            seeds = counted(few, "seed") if few == many else f"{few} to {many} seeds"
            lines.append(
                f"The paper trains for 1,000,000 steps with ten seeds; these runs train for at most "
                f"{trained:,} steps, with {seeds}."
            )
        if any(run.gymnasium for group, _ in groups for run in group.runs):
            lines.append(
                "“Last policy in Gymnasium” is the return of each trial's last policy over ten episodes in "
                "the real environment with C MuJoCo: the mean ± one standard deviation over trials."
            )
        if any(group.algorithm == "ddpg" for group, _ in groups):
            lines.append(DDPG_DIFFERS)
        items = "".join(f"<li>{html.escape(line)}</li>" for line in lines)
        return [f"<h2>What differs from the paper</h2><ul>{items}</ul>"]

    def _provenance(self) -> list[str]:
        """List the commands, machines and options that made the runs."""
        parts = ["<h2>How the runs were made</h2>"]
        runs = [run for group in self.all_groups for run in group.runs]
        about = [entry for run in runs for entry in run.about]
        commands = [self.command] if self.command else list(dict.fromkeys(str(a["command"]) for a in about))
        if commands:
            parts.append("<pre>" + html.escape("\n".join(commands)) + "</pre>")
        machines = list(dict.fromkeys(json.dumps(a["versions"]) for a in about))
        for machine in machines:
            text = ", ".join(f"{name} {value}" for name, value in json.loads(machine).items())
            parts.append(f"<p>{html.escape(text)}</p>")
        for group in self.all_groups:
            options = {k: v for k, v in group.runs[0].config.items() if k not in ("seed", "out", "wandb")}
            text = shlex.join(f"--{name}={show(value)}" for name, value in options.items() if value != "")
            summary = html.escape(f"{group.env}, {group.label}: options")
            parts.append(f"<details><summary>{summary}</summary><pre>{html.escape(text)}</pre></details>")
        return parts


def _uneven_note(group: Group) -> str:
    """Return a note if a group's trials were not all evaluated up to the same step, else an empty text."""
    ends = sorted({int(run.evaluations[-1]["env_steps"]) for run in group.runs})
    found = curves(group)
    if found is None:
        why = "its trials share no evaluation step, so they are listed but not averaged"
    elif ends[0] != ends[-1]:
        why = (
            f"its trials end between {ends[0]:,} and {ends[-1]:,} steps; means are over all trials and go "
            f"up to step {int(found.env_steps[-1]):,}"
        )
    else:
        return ""
    return f"{group.env}, {group.label}: {why}."
