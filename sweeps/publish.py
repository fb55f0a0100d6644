"""Write the tables and pictures of the kept results into the pages that show them.

    python sweeps/publish.py            # write
    python sweeps/publish.py --check    # write nothing; exit code 1 where a page differs

Every figure comes from the runs' own files in ``sweeps/results``. A page asks for a table by a pair of
comments, ``<!-- results:NAME -->`` and ``<!-- /results:NAME -->``; what is between them is replaced.
``TABLES`` has the names; without a name it is ``summary``. Put new runs anywhere below the folder that a
table reads and run the command again. Runs of another length, another version or other options become another
row: they are never averaged together.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from td3_brax.commands.report import figures, paper
from td3_brax.commands.report.algorithms import ALGORITHMS
from td3_brax.commands.report.groups import Group, group
from td3_brax.commands.report.runs import Run, find
from td3_brax.commands.report.stats import Curves, curves
from td3_brax.commands.report.tables import Measured, Table, number, scored
from td3_brax.runs.tracking import duration

sys.path.insert(0, str(Path(__file__).parent))  # also where the file is loaded as a module
import suite

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "sweeps" / "results"
PICTURES = ROOT / "docs" / "pictures"
PLACE = re.compile(r"(<!-- results(?::([\w-]+))? -->\n).*?(<!-- /results(?::\2)? -->)", re.S)
NOT_RUN = "not run"
GOALS = (1000, 2000, 3000, 4000, 5000)
"""Returns of the Ant whose first evaluation the table of ``quick`` names."""
LAST = 4
"""Evaluations at the end of a run of ``quick`` that are averaged."""
PUBLISHED_POINT = 25_000
"""Environment steps between the points of the paper's curves; where the phases of episodes are compared."""


def version(run: Run) -> str:
    """The version of td3-brax that trained a run.

    The first runs of 0.2.0 were made before its version number was raised, and their files say 0.1.0. They
    are told by ``eval/broken``, which 0.1.0 did not write.
    """
    said = run.about[-1]["versions"]["td3-brax"] if run.about else "unknown"
    early = said == "0.1.0" and any("eval/broken" in report for report in run.evaluations)
    return "0.2.0-dev" if early else str(said)


def device(run: Run) -> str:
    """The device that trained a run."""
    said = str(run.about[-1]["versions"]["device"]) if run.about else "unknown"
    return said.replace("(R)", "").replace("1 cores", "1 core")


def experiments(folder: str) -> list[Group]:
    """Trials of one experiment together, of one length and one version; the newest and longest first."""
    apart = []
    for own in group(find([str(RESULTS / folder)])):
        kinds: dict[tuple[str, int], list[Run]] = {}
        for run in own.runs:
            kinds.setdefault((version(run), int(run.evaluations[-1]["env_steps"])), []).append(run)
        apart += [dataclasses.replace(own, runs=kinds[kind]) for kind in sorted(kinds, reverse=True)]
    return apart


def measured(groups: Iterable[Group]) -> list[Measured]:
    """Those whose trials were evaluated at the same steps, in the paper's order of tasks."""
    order = {name: i for i, name in enumerate(paper.TASKS)}
    found = [(own, made) for own in groups if (made := curves(own))]
    return sorted(found, key=lambda one: order.get(paper.family(one[0].env) or "", len(order)))


def each(values: Iterable[str]) -> str:
    """Join the different values, each once, in their order."""
    return "; ".join(dict.fromkeys(values))


def named(own: Group) -> str:
    """The task, and the options that set an experiment apart from others of its task and algorithm."""
    title = ALGORITHMS[own.algorithm].title if own.algorithm else ""
    further = own.label.removeprefix(title).strip()
    return f"`{own.env}`" + f" `{further}`" * bool(further)


def trial_time(own: Group) -> str:
    """The longest trial's time, compiling and evaluations included."""
    return duration(max(float(run.reports[-1].get("wall_s") or 0.0) for run in own.runs))


def made_by(own: Group) -> list[str]:
    """Version, device and time."""
    return [each(map(version, own.runs)), each(map(device, own.runs)), trial_time(own)]


def gymnasium(own: Group) -> str:
    """Mean and deviation over trials of the last policies' scores in the real environment."""
    scores = [float(run.gymnasium["return_mean"]) for run in own.runs if run.gymnasium]
    return scored(float(np.mean(scores)), float(np.std(scores))) if scores else NOT_RUN


def best(made: Curves) -> str:
    """The max average return: the highest point of the mean curve, and the deviation over seeds there."""
    return scored(*made.best[:2])


def published_to(env: str, steps: int) -> str:
    """The highest point of the paper's TD3 curve up to ``steps``."""
    curve = paper.curves()[paper.family(env) or ""]
    return number(float(np.append(curve.mean[1:][curve.env_steps[1:] <= steps], curve.at(steps)).max()))


def below_band(env: str, made: Curves) -> str:
    """At how many of the paper's points the mean is below the paper's less half a standard deviation."""
    curve = paper.curves()[paper.family(env) or ""]
    low = dict(zip(curve.env_steps.tolist(), (curve.mean - curve.half_std).tolist(), strict=True))
    points = zip(made.env_steps.tolist(), made.mean.tolist(), strict=True)
    below = [mean < low[steps] for steps, mean in points if steps in low]
    return f"{sum(below)} of {len(below)}"


def td3(folder: str = "paper") -> list[Measured]:
    """The kept runs of the paper's TD3."""
    return [one for one in measured(experiments(folder)) if one[0].algorithm == "td3"]


def longest(groups: Iterable[Measured]) -> list[Measured]:
    """The longest runs of each task."""
    found: dict[str, Measured] = {}
    for one in groups:
        before = found.setdefault(one[0].env, one)
        if one[1].env_steps[-1] > before[1].env_steps[-1]:
            found[one[0].env] = one
    return list(found.values())


def table_paper() -> Table:
    """TD3 on the paper's tasks beside the published curves and its table 1."""
    rows = []
    for own, made in td3():
        steps = int(made.env_steps[-1])
        row = [named(own), str(len(own.runs)), f"{steps:,}", best(made), published_to(own.env, steps)]
        row += [below_band(own.env, made)]
        row += [scored(*paper.BEST[paper.family(own.env) or ""]["td3"]), gymnasium(own), *made_by(own)]
        rows.append(row)
    there = {paper.family(own.env) for own, _ in td3()}
    rows += [[f"`{task}-v4`", "", NOT_RUN, *[""] * 8] for task in paper.TASKS if task not in there]
    head = ["task", "seeds", "steps", "max average return", "paper's curve, best up to these steps"]
    head += ["published points below the paper's band", "paper, 1,000,000 steps"]
    head += ["last policies in Gymnasium", "version", "device", "time"]
    return Table(head, rows)


def table_ablations() -> Table:
    """Every algorithm of the paper's table 2 on its four tasks."""
    found: dict[tuple[str | None, str | None], list[Measured]] = {}
    for one in measured(experiments("paper")):
        found.setdefault((paper.family(one[0].env), one[0].algorithm), []).append(one)
    rows = []
    for task in paper.LAST["td3"]:
        for name, algorithm in ALGORITHMS.items():
            published = f"{paper.LAST[name][task]:,.2f}"
            for own, made in found.get((task, name), []):
                rows.append([named(own), algorithm.title, str(len(own.runs)), f"{made.env_steps[-1]:,}"])
                counted = made.returns.shape[1]
                last = scored(float(made.last.mean()), float(made.last.std()))
                rows[-1] += [best(made), last if counted >= 10 else f"only {counted} evaluations", published]
                rows[-1] += [gymnasium(own), each(map(version, own.runs)), each(map(device, own.runs))]
            if (task, name) not in found:
                rows.append([f"`{task}-v4`", algorithm.title, "", NOT_RUN, "", "", published, "", "", ""])
    head = [
        "task",
        "algorithm",
        "seeds",
        "steps",
        "max average return",
        "average of the last ten evaluations",
    ]
    head += ["paper's table 2, 1,000,000 steps", "last policies in Gymnasium", "version", "device"]
    return Table(head, rows)


def trained_s(run: Run) -> Callable[[float], float]:
    """Seconds since the first step at a report's ``wall_s``: evaluations count, starting does not."""
    first = run.reports[0]
    began = first["wall_s"] - first["env_steps"] / first["time/env_steps_per_s"]
    return lambda wall_s: wall_s - began


def table_quick() -> Table:
    """Each run of ``quick`` on the Ant: how soon it was how good."""
    rows = []
    for run in sorted(find([str(RESULTS / "quick")]), key=lambda run: run.config["seed"]):
        end, clock = run.evaluations[-1], trained_s(run)
        row = [str(run.config["seed"]), f"{end['env_steps']:,}"]
        row += [scored(end["eval/return_mean"], end["eval/return_std"])]
        row += [number(float(np.mean([r["eval/return_mean"] for r in run.evaluations[-LAST:]])))]
        kept = run.reports[-1].get("eval/return_kept")
        row += [scored(kept, run.reports[-1]["eval/return_kept_std"]) if kept is not None else ""]
        for goal in GOALS:
            there = next((r for r in run.evaluations if r["eval/return_mean"] >= goal), None)
            row += [f"{there['env_steps']:,} in {duration(clock(there['wall_s']))}" if there else "-"]
        rows.append([*row, version(run), device(run)])
    head = ["seed", "steps", "last evaluation", f"mean of the last {LAST} evaluations"]
    head += [
        "best policy in fresh episodes",
        *(f"first over {goal:,}" for goal in GOALS),
        "version",
        "device",
    ]
    return Table(head, rows)


def table_rewards() -> Table:
    """Greedy returns of the example's task in units of one step upright, for rewards of any size."""
    rows = []
    head: list[str] = []
    for own in experiments("reward_scales"):
        args = json.loads(own.runs[0].config["env_args"])
        scale, offset = float(args.get("scale", 1)), float(args.get("offset", 0))
        runs = sorted(own.runs, key=lambda run: run.config["seed"])
        steps = [report["env_steps"] for report in runs[0].evaluations]
        shift = f", {'plus' if offset > 0 else 'minus'} {abs(offset):g}" if offset else ""
        cells = []
        for i in range(len(steps)):
            reports = [run.evaluations[i] for run in runs]
            own_units = [
                report["eval/return_mean"] / scale - offset * report["eval/length_mean"] for report in reports
            ]
            cells.append(", ".join(f"{value:.0f}" for value in own_units))
        seeds = ", ".join(str(run.config["seed"]) for run in runs)
        rows.append([f"times {scale:g}{shift}", seeds, *cells, each(map(version, runs))])
        head = ["rewards", "seeds", *(f"{at:,} steps" for at in steps), "version"]
    return Table(head, rows)


def table_pendulum() -> Table:
    """``quick`` on Gymnasium's pole: when it stands for a whole episode."""
    rows = []
    for run in sorted(find([str(RESULTS / "pendulum")]), key=lambda run: run.config["seed"]):
        full = next((r for r in run.evaluations if r["eval/return_mean"] >= 1000), None)
        end = run.reports[-1]
        row = [f"`{run.config['env']}`", str(run.config["seed"]), f"{end['env_steps']:,}"]
        row += [f"{full['env_steps']:,}" if full else NOT_RUN, number(end["eval/return_mean"])]
        rows.append([*row, number(end.get("eval/return_kept")), version(run), device(run)])
    head = ["task", "seed", "steps", "first evaluation at 1,000", "last evaluation"]
    return Table([*head, "best policy in fresh episodes", "version", "device"], rows)


def table_phases() -> Table:
    """TD3 on HalfCheetah-v4 at the first point of the paper's curve, by how its first episodes begin."""
    rows = []
    for own, made in [*measured(experiments("phases")), *td3()]:
        at = np.flatnonzero(made.env_steps == PUBLISHED_POINT)
        if own.env != "HalfCheetah-v4" or own.algorithm != "td3" or not at.size:
            continue
        config = own.runs[0].config
        begin = "one after another"
        if config["num_envs"] > 1:
            begin = "begin together" if not config["spread_phases"] else "cut at random steps"
        reached = scored(float(made.mean[at[0]]), float(2 * made.half_std[at[0]]))
        row = [str(config["num_envs"]), begin, str(len(own.runs)), f"{made.env_steps[-1]:,}", reached]
        rows.append([*row, each(map(version, own.runs))])
    curve = paper.curves()["HalfCheetah"]
    at = np.flatnonzero(curve.env_steps == PUBLISHED_POINT)[0]
    there = scored(float(curve.mean[at]), float(2 * curve.half_std[at]))
    rows.append(["1 (the paper)", "one after another", "10", f"{paper.STEPS:,}", there, ""])
    head = [
        "environments",
        "first episodes",
        "seeds",
        "steps of the runs",
        f"return at {PUBLISHED_POINT:,} steps",
    ]
    return Table([*head, "version"], rows)


def table_suite() -> Table:
    """The suite's tasks by recipe: the mean share of the reference, and the return of each seed."""
    listed = suite.load()
    recipes: dict[str, dict[str, suite.Scored]] = {}
    for place in sorted((RESULTS / "suite").glob("*")):
        runs = {name: suite.read(place, name) for name in listed["tasks"]}
        recipes[place.name] = {name: suite.score(listed, name, own) for name, own in runs.items() if own}
    rows = []
    for name, task in listed["tasks"].items():
        if any(name in scores for scores in recipes.values()):
            rows.append([f"`{name}`", task["part"], f"{task['reference']:,} ({task['source']})"])
            for scores in recipes.values():
                one = scores.get(name)
                rows[-1] += [f"{one.shares.mean():.2f}", suite.returns(one)] if one else [NOT_RUN, ""]
    shared = [set(scores) for scores in recipes.values()]
    both = set.intersection(*shared) if shared else set()
    rows.append([f"interquartile mean of {len(both)} tasks", "", ""])
    for scores in recipes.values():
        mean, low, high = suite.interval([scores[name] for name in scores if name in both])
        rows[-1] += [f"{mean:.2f}", f"[{low:.2f}, {high:.2f}]"]
    head = ["task", "part", "reference"]
    return Table([*head, *(column for recipe in recipes for column in (recipe, "seeds"))], rows)


def table_summary() -> Table:
    """The longest runs of each task, for a page that has room for one table."""
    rows = []
    for own, made in longest(td3()):
        steps = int(made.env_steps[-1])
        seeds = f"`paper`, {len(own.runs)} seeds, {steps:,} steps"
        row = [named(own), seeds, best(made), gymnasium(own), published_to(own.env, steps)]
        published = scored(*paper.BEST[paper.family(own.env) or ""]["td3"])
        rows.append([*row, published, each(map(version, own.runs))])
    head = ["task", "run", "max average return", "last policies in Gymnasium"]
    head += ["paper's curve, best up to these steps", "paper, 1,000,000 steps", "version"]
    return Table(head, rows)


TABLES: dict[str, Callable[[], Table]] = {
    "summary": table_summary,
    "paper": table_paper,
    "ablations": table_ablations,
    "quick": table_quick,
    "rewards": table_rewards,
    "pendulum": table_pendulum,
    "phases": table_phases,
    "suite": table_suite,
}


def markdown(table: Table) -> str:
    """A table as Markdown: text to the left, numbers to the right."""
    aligned = ["---:" if re.match(r"-?[\d,.]+\b", row) else "---" for row in _typical(table)]
    lines = [table.head, aligned, *table.rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def _typical(table: Table) -> Iterator[str]:
    """The first cell of each column that holds anything."""
    for i in range(len(table.head)):
        yield next((row[i] for row in table.rows if row[i] not in ("", NOT_RUN)), "")


def pages() -> list[Path]:
    """The pages that ask for a table."""
    every = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("sweeps/*.md")]
    return sorted(page for page in every if PLACE.search(page.read_text()))


def filled(text: str) -> str:
    """A page with its tables as the kept files have them.

    Raises:
        KeyError: it asks for a table that is none of ``TABLES``.
    """

    def put(place: re.Match[str]) -> str:
        begin, name, end = place.groups()
        return f"{begin}\n{markdown(TABLES[name or 'summary']())}\n\n{end}"

    return PLACE.sub(put, text)


def pictures() -> dict[str, bytes]:
    """Name -> PNG."""
    every = measured(experiments("paper"))
    steps = {(own.env, int(made.env_steps[-1])) for own, made in every if own.algorithm not in (None, "td3")}
    beside = [(own, made) for own, made in every if (own.env, int(made.env_steps[-1])) in steps]
    return {
        "results-paper.png": figures.learning(_drawn(td3())),
        "results-ablations.png": figures.learning(_drawn(beside)),
        "results-quick.png": figures.trials(_drawn(measured(group(find([str(RESULTS / "quick")]))))),
    }


def _drawn(every: Sequence[Measured]) -> dict[str, list[Measured]]:
    """Task -> its experiments, with length and version where two have one name."""
    names = [(own.env, own.label) for own, _ in every]
    drawn: dict[str, list[Measured]] = {}
    for own, made in every:
        if names.count((own.env, own.label)) > 1:
            label = f"{own.label} ({made.env_steps[-1]:,} steps, {each(map(version, own.runs))})"
            own = dataclasses.replace(own, label=label)
        drawn.setdefault(own.env, []).append((own, made))
    return drawn


def main(argv: Sequence[str] | None = None) -> int:
    """Write or check; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="write nothing; code 1 where a page differs")
    args = parser.parse_args(argv)
    differ = [page for page in pages() if filled(page.read_text()) != page.read_text()]
    for page in differ:
        print(
            f"{page.relative_to(ROOT)}: {'differs from' if args.check else 'written from'} the kept results"
        )
        if not args.check:
            page.write_text(filled(page.read_text()))
    if args.check:
        return 1 if differ else 0
    PICTURES.mkdir(parents=True, exist_ok=True)
    for name, picture in pictures().items():
        (PICTURES / name).write_bytes(picture)
        print(f"{(PICTURES / name).relative_to(ROOT)}: written")
    return 0


if __name__ == "__main__":
    sys.exit(main())
