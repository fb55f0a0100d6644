"""Other trainers' TD3 on brax Ant (mjx): seconds of training against greedy returns of 32 episodes.

    python tests/bench/peers.py rejax|sbx [--seconds 480] [--envs 1024] [--lr 0.002] [--tau 0.02]

Needs ``pip install rejax==0.1.3 gymnax==0.0.9 sbx-rl`` beside brax, in an environment of its own. Compiling
and evaluations are not counted. Their settings are the nearest to ``quick``'s that they have: its Ants,
16 updates of 256 per vector step, 256-256, its critics' step size, gamma 0.99, normalised observations,
noise 0.15. ``policy_delay`` is theirs, 2, and so ``tau`` half of ours.
"""

from __future__ import annotations

import argparse
import os
import time
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import jax.numpy as jnp
import numpy as np
from brax import envs as brax_envs

UPDATES, EPISODES, LIMIT = 16, 32, 1000
BATCH, GAMMA, NOISE = 256, 0.99, 0.15
FROM, HELD = 16_384, 1_000_000
"""Steps before the first update; transitions kept."""
REJAX_HELD = 307_200
"""The more it keeps, the slower rejax is."""
EVERY = 65_536
"""Steps between evaluations."""


def show(env_steps: int, seconds: float, returns: Any) -> None:
    """One line."""
    r = np.asarray(returns)
    print(f"{env_steps:>9,} steps {seconds:6.0f} s  {r.mean():7.0f} +- {r.std():.0f}", flush=True)


def rejax(seconds: float, envs: int, lr: float, tau: float) -> None:
    """Rejax's TD3, wholly on the device."""
    from td3_brax.commands.bench.peer_rejax import trainer

    algo = trainer(
        "ant",
        LIMIT,
        (256, 256),
        num_envs=envs,
        num_epochs=UPDATES,
        batch_size=BATCH,
        buffer_size=REJAX_HELD,
        fill_buffer=FROM,
        learning_rate=lr,
        gamma=GAMMA,
        polyak=1 - tau,
        policy_delay=2,
        exploration_noise=NOISE,
        normalize_observations=True,
        total_timesteps=100_000_000,
    )
    per_call = max(EVERY // (8 * envs), 1)
    train = jax.jit(lambda ts: jax.lax.fori_loop(0, per_call, lambda _, s: algo.train_iteration(s), ts))
    score = jax.jit(lambda ts, key: algo.eval_callback(algo, ts, key)[1][:EPISODES])
    state = algo.init_state(jax.random.key(0))
    state = jax.block_until_ready(train(state))
    spent, steps, calls = 0.0, per_call * 2 * envs, 0
    while spent < seconds:
        began = time.perf_counter()
        state = jax.block_until_ready(train(state))
        spent += time.perf_counter() - began
        steps += per_call * 2 * envs
        calls += 1
        if calls % 4 == 0:
            show(steps, spent, score(state, jax.random.key(calls)))


def sbx(seconds: float, envs: int, lr: float, tau: float) -> None:
    """SBX's TD3 on a vectorised environment of ours: stepped on the device, replayed on the host."""
    from gymnasium import spaces
    from sbx import TD3
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.noise import NormalActionNoise, VectorizedActionNoise
    from stable_baselines3.common.vec_env import VecEnv, VecNormalize

    env = brax_envs.create("ant", backend="mjx", episode_length=LIMIT, auto_reset=False)
    reset = jax.jit(jax.vmap(env.reset))

    @jax.jit
    def advance(state: Any, action: jax.Array, fresh: Any) -> Any:
        after = jax.vmap(env.step)(state, action)
        done = after.done > 0

        def chosen(new: jax.Array, old: jax.Array) -> jax.Array:
            return jnp.where(done.reshape(done.shape + (1,) * (new.ndim - 1)), new, old)

        return after, jax.tree.map(chosen, fresh, after)

    class Ants(VecEnv):
        def __init__(self) -> None:
            self.key = jax.random.key(0)
            self.fresh = reset(jax.random.split(self.key, envs))
            obs = self.fresh.obs.shape[1:]
            super().__init__(
                envs,
                spaces.Box(-np.inf, np.inf, obs, np.float32),
                spaces.Box(-1, 1, (env.action_size,), np.float32),
            )

        def reset(self) -> np.ndarray:
            self.state, self.count = self.fresh, 0
            return np.asarray(self.state.obs)

        def step_async(self, actions: np.ndarray) -> None:
            self.actions = actions

        def step_wait(self) -> Any:
            self.count += 1
            if self.count % 16 == 0:
                self.key, key = jax.random.split(self.key)
                self.fresh = reset(jax.random.split(key, envs))
            after, self.state = advance(self.state, self.actions, self.fresh)
            obs, reward, done, cut = jax.device_get(
                (after.obs, after.reward, after.done, after.info["truncation"])
            )
            infos: list[dict[str, Any]] = [{} for _ in range(envs)]
            for i in np.flatnonzero(done):
                infos[i] = {"terminal_observation": obs[i], "TimeLimit.truncated": bool(cut[i])}
            return np.asarray(self.state.obs), reward, done > 0, infos

        def close(self) -> None: ...

        def get_attr(self, name: str, indices: Any = None) -> list[Any]:
            return [None] * envs

        def set_attr(self, *_: Any, **__: Any) -> None: ...

        def env_method(self, *_: Any, **__: Any) -> list[Any]:
            return [None] * envs

        def env_is_wrapped(self, *_: Any, **__: Any) -> list[bool]:
            return [False] * envs

    vector = VecNormalize(Ants(), norm_obs=True, norm_reward=False)
    noise = VectorizedActionNoise(
        NormalActionNoise(np.zeros(env.action_size), np.full(env.action_size, NOISE)), envs
    )
    model = TD3(
        "MlpPolicy",
        vector,
        learning_rate=lr,
        qf_learning_rate=lr,
        buffer_size=HELD,
        learning_starts=FROM,
        batch_size=BATCH,
        tau=tau,
        gamma=GAMMA,
        train_freq=1,
        gradient_steps=UPDATES,
        policy_delay=2,
        action_noise=noise,
        policy_kwargs={"net_arch": [256, 256]},
        seed=0,
    )
    step = jax.jit(jax.vmap(env.step))

    class Clock(BaseCallback):
        spent, last, began = 0.0, 0, 0.0

        def _on_step(self) -> bool:
            now = time.perf_counter()
            if not self.began:  # from the second update on: what compiles has compiled
                self.began = now if self.num_timesteps > FROM + 2 * envs else 0.0
                return True
            if self.num_timesteps - self.last < EVERY:
                return True
            self.last = self.num_timesteps
            self.spent += now - self.began
            state = reset(jax.random.split(jax.random.key(self.last), EPISODES))
            returns, alive = np.zeros(EPISODES), np.ones(EPISODES, bool)
            for _ in range(LIMIT):
                action, _ = model.predict(vector.normalize_obs(np.asarray(state.obs)), deterministic=True)
                state = step(state, action)
                reward, done = jax.device_get((state.reward, state.done))
                returns += alive * reward
                alive &= done == 0
                if not alive.any():
                    break
            show(self.last, self.spent, returns)
            self.began = time.perf_counter()
            return self.spent < seconds

    model.learn(100_000_000, callback=Clock())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("trainer", choices=("rejax", "sbx"))
    parser.add_argument("--seconds", type=float, default=480)
    parser.add_argument("--envs", type=int, default=1024)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--tau", type=float, default=0.02)
    args = parser.parse_args()
    {"rejax": rejax, "sbx": sbx}[args.trainer](args.seconds, args.envs, args.lr, args.tau)
