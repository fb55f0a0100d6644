"""A sweep on Weights & Biases: known there, and with its suggestions as jobs."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
from collections.abc import Callable

from td3_brax.commands.sweep import agents
from td3_brax.commands.sweep.file import Sweep
from td3_brax.commands.sweep.jobs import make_job
from td3_brax.option import ConfigError
from td3_brax.runs.jobs import Job, Source
from td3_brax.runs.tracking import one_line
from td3_brax.runs.wandb_run import log_in, project


@dataclasses.dataclass(frozen=True)
class Home:
    """A sweep on W&B."""

    sweep_id: str
    entity: str | None
    project: str

    @property
    def path(self) -> str:
        """As `wandb agent` takes it."""
        return "/".join(part for part in (self.entity, self.project, self.sweep_id) if part)


def register(sweep: Sweep, line: Callable[[str], None]) -> Home:
    """Make the sweep known to W&B.

    Raises:
        ConfigError: W&B can't be reached, or does not take it.
    """
    import wandb

    content = dict(sweep.content)
    entity, where = (
        content.get("entity"),
        os.environ.get("WANDB_PROJECT") or content.get("project") or project(),
    )
    said = io.StringIO()
    try:
        log_in("online")
        with contextlib.redirect_stdout(said):
            sweep_id = wandb.sweep(content, entity=entity, project=where)
    except Exception as error:  # W&B raises many kinds
        raise ConfigError("wandb", "online", f"{one_line(error)}; offline and disabled need no W&B") from None
    for text in said.getvalue().splitlines():
        line(text)
    return Home(sweep_id, entity, where)


class Suggestions(Source):
    """Jobs as W&B suggests them."""

    def __init__(self, sweep: Sweep, home: Home, places: int, where: str, mode: str) -> None:
        self._sweep, self._where, self._mode = sweep, where, mode
        self.jobs: list[Job] = []
        self.agents = agents.Agents(home.sweep_id, home.entity, home.project, places)

    def take(self, place: int) -> Job | None:
        """What W&B has suggested for this place."""
        if (suggestion := self.agents.take(place)) is None:
            return None
        run, options = suggestion
        stopped = lambda: self.agents.stopped(run)  # noqa: E731
        number = len(self.jobs) + 1
        job = make_job(self._sweep, number, options, self._where, self._mode, run_id=run, stopped=stopped)
        self.jobs.append(job)
        return job

    def ended(self, place: int) -> None:
        """Ask for the next."""
        self.agents.free(place)

    @property
    def exhausted(self) -> bool:
        """Whether W&B has no more."""
        return self.agents.exhausted
