"""A trained policy as a file, and as an object that needs only NumPy."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

FORMAT = 1


class PolicyError(ValueError):
    """A policy file that can't be used; its text is one line that names it."""


@dataclass(frozen=True)
class Policy:
    """Greedy policy of a run; see :func:`load_policy`."""

    env: str
    """The task's name."""
    weights: tuple[np.ndarray, ...]
    """Per layer, [inputs, outputs] float32."""
    biases: tuple[np.ndarray, ...]
    """Per layer, [outputs]."""
    obs_mean: np.ndarray
    """[O]"""
    obs_deviation: np.ndarray
    """[O]"""
    obs_clip: float
    """Normalised observations are clipped to +- this (inf where observations are not normalised)."""
    action_low: np.ndarray
    """[A] in the task's own units."""
    action_high: np.ndarray
    """[A]"""
    meta: Mapping[str, Any]
    """What the run noted beside it: ``env_steps``, ``return_mean``, ``version``; the task's ``env_args`` and
    ``time_limit``."""

    def forward(self, obs: Any, xp: Any = np) -> Any:
        """[..., O] -> [..., A] in [-1, 1], with NumPy or jax.numpy as ``xp``."""
        x = xp.clip((obs - self.obs_mean) / self.obs_deviation, -self.obs_clip, self.obs_clip)
        for i, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            x = (xp.maximum(x, 0) if i else x) @ weight + bias
        return xp.tanh(x)

    def __call__(self, obs: Any) -> np.ndarray:
        """Actions in [-1, 1] for one observation [O] or a batch [..., O].

        Raises:
            ValueError: observations of another size.
        """
        obs = np.asarray(obs, np.float32)
        if obs.shape[-1:] != self.obs_mean.shape:
            raise ValueError(
                f"observation {obs.shape}: this policy of {self.env} takes {self.obs_mean.shape}"
            )
        return np.asarray(self.forward(obs))

    def predict(
        self,
        observation: Any,
        state: Any = None,
        episode_start: Any = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, None]:
        """Act as stable-baselines3's policies do: return (actions in the task's own units, None).

        Args:
            observation: one [O] or a batch [..., O].
            state: of a recurrent policy, which this is not, as is ``episode_start``.
            deterministic: a TD3 policy always is; noise belongs to training.
        Raises:
            ValueError: observations of another size.
        """
        low, high = self.action_low, self.action_high
        return np.clip(low + (self(observation) + 1) / 2 * (high - low), low, high), None


def save_policy(policy: Policy, path: Path) -> None:
    """Write ``policy`` to ``path`` (.npz, no pickle), replacing it whole or not at all.

    Raises:
        PolicyError: it could not be loaded again.
    """
    arrays = {f"weight_{i}": w for i, w in enumerate(policy.weights)}
    arrays |= {f"bias_{i}": b for i, b in enumerate(policy.biases)}
    head = {"format": FORMAT, "env": policy.env, "layers": len(policy.weights), "meta": dict(policy.meta)}
    partial = path.with_suffix(f".{os.getpid()}.tmp")
    try:
        with partial.open("wb") as file:
            np.savez(
                file,
                allow_pickle=False,
                head=np.array(json.dumps(head)),
                obs_mean=policy.obs_mean,
                obs_deviation=policy.obs_deviation,
                obs_clip=np.float32(policy.obs_clip),
                action_low=policy.action_low,
                action_high=policy.action_high,
                **arrays,
            )
        load_policy(partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def load_policy(run: str | os.PathLike[str], which: str = "best") -> Policy:
    """The policy of a run's folder, or of a policy file. Loading never executes anything from it.

    Args:
        run: a run's folder or a ``policy_*.npz``.
        which: ``best`` (by evaluation) or ``last``, where ``run`` is a folder.
    Raises:
        PolicyError: no such file, or one that is broken.
    """
    path = Path(run)
    if path.is_dir():
        path = path / f"policy_{which}.npz"
    if not path.is_file():
        raise PolicyError(f"{path}: no policy there")
    try:
        with np.load(path, allow_pickle=False) as data:
            head = json.loads(str(data["head"]))
            if head["format"] != FORMAT:
                raise PolicyError(f"{path}: policy format {head['format']}, this version reads {FORMAT}")
            layers = range(int(head["layers"]))
            policy = Policy(
                env=str(head["env"]),
                weights=tuple(_array(data, f"weight_{i}", 2) for i in layers),
                biases=tuple(_array(data, f"bias_{i}", 1) for i in layers),
                obs_mean=_array(data, "obs_mean", 1),
                obs_deviation=_array(data, "obs_deviation", 1),
                obs_clip=float(data["obs_clip"]),
                action_low=_array(data, "action_low", 1),
                action_high=_array(data, "action_high", 1),
                meta=dict(head["meta"]),
            )
        with np.errstate(all="ignore"):
            action = policy(np.zeros_like(policy.obs_mean))
        fits = [w.shape[1:] == b.shape for w, b in zip(policy.weights, policy.biases, strict=True)]
        fits += [action.shape == limit.shape for limit in (policy.action_low, policy.action_high)]
        if not fits[:-2] or not all(fits) or policy.obs_deviation.shape != policy.obs_mean.shape:
            raise ValueError("sizes that do not fit")
        if not (policy.obs_deviation > 0).all() or not policy.obs_clip > 0:
            raise ValueError("deviations or clip not above 0")
        return policy
    except PolicyError:
        raise
    except Exception as error:  # zipfile, zlib, NumPy and json raise almost anything for a damaged file
        why = " ".join(f"{type(error).__name__}: {error}".split())
        raise PolicyError(f"{path}: not a readable policy ({why})") from None


def _array(data: Any, name: str, ndim: int) -> np.ndarray:
    array = np.asarray(data[name])
    if array.dtype != np.float32 or array.ndim != ndim or not np.isfinite(array).all():
        raise ValueError(f"{name} is not {ndim}-dimensional finite float32")
    return array
