"""The return of a policy in episodes by which it was not chosen, with its 95% interval."""

from __future__ import annotations

from dataclasses import dataclass

from td3_brax.commands.report.runs import Run, RunsError, find
from td3_brax.policy import Policy, PolicyError


@dataclass(frozen=True)
class Score:
    """Returns of a policy in episodes by which it was not chosen."""

    mean: float
    std: float
    """The sample's standard deviation."""
    low: float
    """Lower end of the 95% interval of the mean."""
    high: float
    """Upper end of the 95% interval of the mean."""
    episodes: int


def make_score(mean: float, std: float, episodes: int) -> Score:
    """Make a score with the 95% interval of the mean, by the normal approximation.

    Args:
        std: the sample's standard deviation.
    """
    half = 1.96 * std / episodes**0.5
    return Score(mean, std, mean - half, mean + half, episodes)


def read_run(folder: str) -> Run:
    """Read the reports of the run in ``folder``.

    Raises:
        RunsError: the run can't be read, or was not evaluated yet.
    """
    runs = find([folder])
    if len(runs) > 1:
        raise RunsError(f"{folder}: contains {len(runs)} runs; name one of them")
    return runs[0]


def recorded_score(run: Run, which: str, policy: Policy) -> Score:
    """Return the score that the run itself recorded for its policy.

    For the best policy these are the fresh episodes at the end of the run. The last and the early policy were
    not chosen by a return, so their evaluation is as good.

    Raises:
        PolicyError: the run has no such return.
    """
    mean = std = None
    broken = 0
    if which == "best":
        # Later reports may mean that a later policy is the best now.
        last = run.reports[-1]
        mean, std = last.get("eval/return_kept"), last.get("eval/return_kept_std")
    else:
        for report in run.evaluations:
            if report["env_steps"] == policy.meta.get("env_steps"):
                mean, std = report["eval/return_mean"], report["eval/return_std"]
                broken = report.get("eval/broken", 0)
    episodes = int(run.config["eval_episodes"]) - broken
    if mean is None or std is None:
        raise PolicyError(
            f"{run.name}: has no return of its {which} policy in fresh episodes; "
            "add --episodes=100 to play them now"
        )
    # Reports hold the deviation of these episodes, not the sample's estimate.
    return make_score(mean, std * (episodes / max(episodes - 1, 1)) ** 0.5, episodes)
