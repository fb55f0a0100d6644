"""Our tasks as Gymnasium's environments: one, or many that step together on the device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium.error import ResetNeeded
from gymnasium.spaces import Box
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space

from td3_brax.envs.interfaces.batch import Batch
from td3_brax.envs.task import Task

Seeds = int | Sequence[int | None] | None


def spaces(task: Task) -> tuple[Box, Box]:
    """Return the spaces of one environment's observations and actions, these in the task's own units."""
    low, high = np.asarray(task.action_low, np.float32), np.asarray(task.action_high, np.float32)
    return Box(-np.inf, np.inf, (task.obs_size,), np.float32), Box(low, high, dtype=np.float32)


class VectorEnv(gymnasium.vector.VectorEnv):
    """Step ``num_envs`` environments of a task in one program on the device. NumPy arrays go in and come out.

    It does what Gymnasium's ``SyncVectorEnv`` does in each of its autoreset modes. ``info`` has what the
    modes themselves put there, but not the terms of the reward that some of Gymnasium's tasks report.

    If the physics of an environment break, its step returns the observation before, a reward of 0 and
    ``truncated``, and ``info["broken"]`` marks it. Observations and rewards are always finite.

    Args:
        task: the task.
        num_envs: environments that step together.
        time_limit: steps after which an episode is truncated.
        autoreset_mode: when an environment starts anew after its episode: in the ``NEXT_STEP``, in the
            ``SAME_STEP``, or only when :meth:`reset` is called (``DISABLED``).
    """

    def __init__(
        self,
        task: Task,
        num_envs: int,
        time_limit: int,
        autoreset_mode: AutoresetMode = AutoresetMode.NEXT_STEP,
    ) -> None:
        self.num_envs, self.autoreset_mode = num_envs, autoreset_mode
        self.metadata = {"render_modes": [], "autoreset_mode": autoreset_mode}
        self.single_observation_space, self.single_action_space = spaces(task)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._batch = Batch(task, num_envs, time_limit)
        self._obs = np.zeros((num_envs, task.obs_size), np.float32)
        self._seeds = np.zeros((num_envs, 2), np.uint32)
        self._seeded = np.zeros(num_envs, bool)
        self._episodes = np.zeros(num_envs, np.uint32)
        self._ended = np.zeros(num_envs, bool)
        self._begun = np.zeros(num_envs, bool)

    def reset(
        self, *, seed: Seeds = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin new episodes. Return observations [N, O] and an empty ``info``.

        Args:
            seed: a seed s for the seeds s, s + 1, ... of the environments; or one for each; or None to go on
                with the present ones.
            options: ``reset_mask``, bool [N]: the environments to reset; all others stay where they are.
        """
        seeds = self._seeds_of(seed)
        mask = self._mask_of(options)
        super().reset(seed=seed if isinstance(seed, int) else None)
        for i in np.flatnonzero(mask).tolist():
            if seeds[i] is None and self._seeded[i]:
                continue
            drawn = seeds[i]
            if drawn is None:
                drawn = int(self.np_random.integers(2**63))
            self._seeds[i] = np.random.SeedSequence(drawn).generate_state(2)
            self._seeded[i], self._episodes[i] = True, 0
        self._begin(mask)
        return self._obs.copy(), {}

    def step(
        self, actions: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Take one step with actions [N, A] in the task's own units.

        Returns:
            Observations [N, O], rewards [N], terminated [N], truncated [N] and ``info``.
        """
        if not self._begun.all():
            raise ResetNeeded("call reset before step")
        if self.autoreset_mode is AutoresetMode.DISABLED and self._ended.any():
            which = np.flatnonzero(self._ended).tolist()
            raise ResetNeeded(f"call reset with reset_mask: the episodes of environments {which} have ended")
        actions = np.asarray(actions, np.float32)
        if actions.shape != self.action_space.shape:
            raise ValueError(f"actions have shape {actions.shape}, must have {self.action_space.shape}")
        restart = self._ended & (self.autoreset_mode is AutoresetMode.NEXT_STEP)
        out = self._batch.step(actions, restart)
        self._obs = out.obs
        self._ended = out.terminated | out.truncated
        info: dict[str, Any] = {}
        if out.broken.any():
            info = {"broken": out.broken, "_broken": out.broken.copy()}
        ended = self._ended.copy()
        if self.autoreset_mode is AutoresetMode.SAME_STEP and ended.any():
            final = np.full(self.num_envs, None, object)
            for i in np.flatnonzero(ended):
                final[i] = out.obs[i].copy()
            info = {
                "final_obs": final,
                "_final_obs": ended,
                "final_info": info,
                "_final_info": ended.copy(),
            }
            restart = ended
        self._begin(restart)
        return self._obs.copy(), out.reward.astype(np.float64), out.terminated, out.truncated, info

    def _begin(self, mask: np.ndarray) -> None:
        which = np.flatnonzero(mask)
        if not which.size:
            return
        self._obs[which] = self._batch.begin(which, self._seeds[which], self._episodes[which])
        self._episodes[which] += 1
        self._ended[which], self._begun[which] = False, True

    def _seeds_of(self, seed: Seeds) -> Sequence[int | None]:
        if seed is None:
            return [None] * self.num_envs
        if isinstance(seed, int):
            return range(seed, seed + self.num_envs)
        if len(seed) != self.num_envs:
            raise ValueError(f"there are {len(seed)} seeds, must be {self.num_envs}")
        return seed

    def _mask_of(self, options: dict[str, Any] | None) -> np.ndarray:
        if not options or "reset_mask" not in options:
            return np.ones(self.num_envs, bool)
        mask = options["reset_mask"]
        if not isinstance(mask, np.ndarray) or mask.dtype != np.bool_:
            raise TypeError("options['reset_mask'] must be a NumPy array of bool")
        if mask.shape != (self.num_envs,) or not mask.any():
            raise ValueError(f"options['reset_mask'] must have shape ({self.num_envs},) and a True in it")
        return mask


class Env(gymnasium.Env):
    """One environment of a task. See :class:`VectorEnv` for what it does where physics break."""

    def __init__(self, task: Task, time_limit: int) -> None:
        self.metadata = {"render_modes": []}
        self.observation_space, self.action_space = spaces(task)
        self._vector = VectorEnv(task, 1, time_limit, AutoresetMode.DISABLED)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin a new episode. Return its first observation [O] and an empty ``info``."""
        super().reset(seed=seed)
        if not self._vector._seeded[0] and seed is None:
            seed = int(self.np_random.integers(2**63))
        obs, info = self._vector.reset(seed=seed)
        return obs[0], info

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Take one step with an action [A] in the task's own units."""
        obs, reward, terminated, truncated, info = self._vector.step(np.asarray(action)[None])
        said = {"broken": True} if info else {}
        return obs[0], float(reward[0]), bool(terminated[0]), bool(truncated[0]), said
