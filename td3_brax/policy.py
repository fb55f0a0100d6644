"""Trained policies: the object, which needs only NumPy, and its file."""

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
    """A missing or unusable policy file. Its text is one line that names the file."""


@dataclass(frozen=True)
class Policy:
    """The greedy policy of a run; see :func:`load_policy`."""

    env: str
    """Name of the task."""
    weights: tuple[np.ndarray, ...]
    """Weights of each layer, [inputs, outputs] float32."""
    biases: tuple[np.ndarray, ...]
    """Biases of each layer, [outputs] float32."""
    obs_mean: np.ndarray
    """[O] mean with which observations are normalised."""
    obs_deviation: np.ndarray
    """[O] standard deviation with which observations are normalised."""
    obs_clip: float
    """Bound to which normalised observations are clipped (inf if observations are not normalised)."""
    action_low: np.ndarray
    """[A] lower bounds of actions, in the task's units."""
    action_high: np.ndarray
    """[A] upper bounds of actions, in the task's units."""
    meta: Mapping[str, Any]
    """Facts about the run: ``env_steps``, ``return_mean``, ``version``, the task's ``env_args`` and
    ``time_limit``."""

    def forward(self, obs: Any, xp: Any = np) -> Any:
        """Compute actions [..., A] in [-1, 1] from observations [..., O]; ``xp`` is NumPy or jax.numpy."""
        x = xp.clip((obs - self.obs_mean) / self.obs_deviation, -self.obs_clip, self.obs_clip)
        for i, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            x = (xp.maximum(x, 0) if i else x) @ weight + bias
        return xp.tanh(x)

    def __call__(self, obs: Any) -> np.ndarray:
        """Return actions in [-1, 1] for one observation [O] or a batch [..., O].

        Raises:
            ValueError: the observations have the wrong size.
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
        """Return (actions in the task's units, None), like the policies of stable-baselines3.

        Args:
            observation: one observation [O] or a batch [..., O].
            state: ignored; it is for recurrent policies, like ``episode_start``.
            deterministic: ignored; a TD3 policy is always deterministic.
        Raises:
            ValueError: the observations have the wrong size.
        """
        return self.in_task_units(self(observation)), None

    def in_task_units(self, actions: np.ndarray) -> np.ndarray:
        """Return actions [..., A] in [-1, 1] in the task's own units."""
        low, high = self.action_low, self.action_high
        return np.clip(low + (actions + 1) / 2 * (high - low), low, high)


def save_policy(policy: Policy, path: Path) -> None:
    """Write ``policy`` to ``path`` as .npz without pickle. An existing file is replaced atomically.

    Raises:
        PolicyError: the written file can't be loaded; ``path`` is unchanged.
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
    """Load a policy from a run's folder or from a policy file. Loading never executes code from the file.

    Args:
        run: folder of a run, or path of a ``policy_*.npz``.
        which: ``best`` (by evaluation), ``last`` or ``early``; used only if ``run`` is a folder.
    Raises:
        PolicyError: the file does not exist or is damaged.
    """
    path = Path(run)
    if path.is_dir():
        path = path / f"policy_{which}.npz"
    if not path.is_file():
        raise PolicyError(f"{path}: no such policy file")
    try:
        with np.load(path, allow_pickle=False) as data:
            head = json.loads(str(data["head"]))
            if head["format"] != FORMAT:
                raise PolicyError(f"{path}: has policy format {head['format']}, this version reads {FORMAT}")
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
            raise ValueError("array sizes do not match")
        if not (policy.obs_deviation > 0).all() or not policy.obs_clip > 0:
            raise ValueError("obs_deviation and obs_clip must be above 0")
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
