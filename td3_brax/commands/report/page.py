"""The report page: one HTML file that needs nothing else, and its figures and tables as PNG and CSV."""

from __future__ import annotations

import base64
import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

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
TEMPLATE = "page.html.jinja"


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
        for name, picture in pictures.items():
            write_atomically(out / FOLDER / f"{name}.png", picture)
        for name, table in known.items():
            write_atomically(out / FOLDER / f"{name}.csv", tables.as_csv(table).encode())
        write_atomically(out / FILE, self._html(pictures, known).encode())
        return out / FILE

    def _pictures(self) -> dict[str, bytes]:
        """Draw the figures; return their PNG files by name."""
        if not self.drawn:
            return {}
        drawn = {
            "learning": figures.learning(self.drawn),
            "robust": figures.robust(self.drawn),
            "trials": figures.trials(self.drawn),
            "overestimation": figures.overestimation(self.drawn),
        }
        return {name: picture for name, picture in drawn.items() if picture}

    def _html(self, pictures: Mapping[str, bytes], known: Mapping[str, Table]) -> str:
        environment = Environment(
            loader=FileSystemLoader(Path(__file__).parent),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            keep_trailing_newline=True,
        )
        return environment.get_template(TEMPLATE).render(
            zip=zip,
            title=self.title,
            notes=self.notes,
            pictures={name: _base64(picture) for name, picture in pictures.items()},
            tables={name: table.filled for name, table in known.items()},
            published=any(paper.family(env) for env in self.drawn),
            reproduced=self.reproduced,
            ablations=self.ablations,
            source=paper.SOURCE,
            others=self._other_results(),
            differences=self._differences() if self.reproduced else [],
            films=self._films(),
            **self._provenance(),
        )

    def _films(self) -> list[tuple[str, str]]:
        """Return (label, film) of each group's best run, among its runs that have a film."""
        films = []
        for group in self.all_groups:
            filmed = [run for run in group.runs if (Path(run.name) / FILM).is_file()]
            if filmed:
                run = max(filmed, key=lambda run: max(r["eval/return_mean"] for r in run.evaluations))
                film = _base64((Path(run.name) / FILM).read_bytes())
                films.append((f"{group.env}, {group.label}: {run.name}", film))
        return films

    def _other_results(self) -> list[str]:
        """List results that others published."""
        drawn = {paper.family(env) for env in self.drawn}
        return [
            f"{who} on {task}: {what}"
            for task, results in paper.OTHERS.items()
            if task in drawn
            for who, what in results
        ]

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
        return lines

    def _provenance(self) -> dict[str, list[Any]]:
        """Return the commands, the machines, and (label, options) of the groups that made the runs."""
        about = [entry for group in self.all_groups for run in group.runs for entry in run.about]
        commands = [self.command] if self.command else list(dict.fromkeys(str(a["command"]) for a in about))
        machines = [
            ", ".join(f"{name} {value}" for name, value in json.loads(machine).items())
            for machine in dict.fromkeys(json.dumps(a["versions"]) for a in about)
        ]
        groups = []
        for group in self.all_groups:
            options = {k: v for k, v in group.runs[0].config.items() if k not in ("seed", "out", "wandb")}
            text = shlex.join(f"--{name}={show(value)}" for name, value in options.items() if value != "")
            groups.append((f"{group.env}, {group.label}", text))
        return {"commands": commands, "machines": machines, "groups": groups}


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


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
