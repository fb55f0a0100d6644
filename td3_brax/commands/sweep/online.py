"""Register a sweep with Weights & Biases, and turn its suggestions into jobs."""

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
class WandbSweep:
    """The address of a sweep on W&B."""

    sweep_id: str
    entity: str | None
    project: str

    @property
    def path(self) -> str:
        """The path that `wandb agent` takes."""
        return "/".join(part for part in (self.entity, self.project, self.sweep_id) if part)


def register(sweep: Sweep, line: Callable[[str], None]) -> WandbSweep:
    """Register the sweep with W&B.

    Args:
        line: prints a line.
    Raises:
        ConfigError: W&B can't be reached, or refuses the sweep.
    """
    import wandb

    content = dict(sweep.content)
    entity, project_name = (
        content.get("entity"),
        os.environ.get("WANDB_PROJECT") or content.get("project") or project(),
    )
    printed = io.StringIO()
    try:
        log_in("online")
        with contextlib.redirect_stdout(printed):
            sweep_id = wandb.sweep(content, entity=entity, project=project_name)
    except Exception as error:  # W&B raises many kinds
        raise ConfigError(
            "wandb", "online", f"{one_line(error)}; --wandb=offline and --wandb=disabled need no server"
        ) from None
    for text in printed.getvalue().splitlines():
        line(text)
    return WandbSweep(sweep_id, entity, project_name)


class Suggestions(Source):
    """The source of the jobs that W&B suggests."""

    def __init__(self, sweep: Sweep, registered: WandbSweep, places: int, platform: str, mode: str) -> None:
        self._sweep, self._platform, self._mode = sweep, platform, mode
        self.jobs: list[Job] = []
        self.agents = agents.Agents(registered.sweep_id, registered.entity, registered.project, places)

    def take(self, place: int) -> Job | None:
        """Return the job that W&B suggested for this place; None if there is none yet."""
        if (suggestion := self.agents.take(place)) is None:
            return None
        run, options = suggestion
        stopped = lambda: self.agents.stopped(run)  # noqa: E731
        number = len(self.jobs) + 1
        job = make_job(self._sweep, number, options, self._platform, self._mode, run_id=run, stopped=stopped)
        self.jobs.append(job)
        return job

    def ended(self, place: int) -> None:
        """Ask W&B for the next job in this place."""
        self.agents.free(place)

    @property
    def exhausted(self) -> bool:
        """Return whether W&B has no more jobs."""
        return self.agents.exhausted
