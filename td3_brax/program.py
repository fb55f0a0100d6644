"""The compiled functions of a run, and its state: what the host job starts and reads."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.monitoring
import numpy as np

from td3_brax import __version__, checkpoint, evaluate, loop, plan, shards
from td3_brax.config import BRAX_TASKS, Config
from td3_brax.envs.registry import make_task
from td3_brax.networks import OBS_CLIP, deviation
from td3_brax.policy import Policy
from td3_brax.state import ObsStats, Params
from td3_brax.tracking import Display, Report, duration


@contextlib.contextmanager
def counting_cache_misses() -> Iterator[list[str]]:
    """Collect the persistent cache's misses while the block runs."""
    misses: list[str] = []

    def listen(event: str, **_: Any) -> None:
        if event == "/jax/compilation_cache/cache_misses":
            misses.append(event)

    jax.monitoring.register_event_listener(listen)
    try:
        yield misses
    finally:
        jax.monitoring.unregister_event_listener(listen)


class Program:
    """The compiled functions of a run, and its state."""

    def __init__(self, config: Config, display: Display) -> None:
        self.config = config
        self.task = make_task(config)
        self.loop = loop.build(config, self.task)
        if self.task.open_loops:
            others = "; ant and humanoid, or --backend spring, have none" * (config.env in BRAX_TASKS)
            display.line(
                f"note: {config.env} steps with a solver loop of unknown length, which makes a GPU wait for "
                f"the host{others}"
            )
        device = jax.devices()[0]
        key = jax.random.key(config.seed)
        make, chunk = loop.jit_init(self.loop, config), loop.jit_chunk(self.loop)
        shapes = jax.eval_shape(make, key)
        plan.check_state(shapes, config.devices, device)

        def greedy(actor: Params, stats: ObsStats, keys: jax.Array) -> tuple[jax.Array, jax.Array]:
            actor, stats = jax.tree.map(lambda x: x[0], (actor, stats))
            return evaluate.greedy_returns(self.task, self.loop.policy(actor, stats), keys, config.time_limit)

        score = shards.jit(greedy, config.devices, (shards.ALIKE, shards.ALIKE, shards.SPLIT), shards.SPLIT)
        many = f"{config.devices} of " if config.devices > 1 else ""
        display.line(f"compiling for {many}{device.device_kind}")
        began = time.perf_counter()
        actor, stats = shapes.members.learner.actor_eval, shapes.members.obs_stats
        lowered = (chunk.lower(shapes), score.lower(actor, stats, self._eval_keys(0)), make.lower(key))
        traced = time.perf_counter() - began
        with counting_cache_misses() as misses, ThreadPoolExecutor(2) as pool:
            self.chunk, self._score, make = pool.map(lambda x: x.compile(), lowered)
        self.compile_s = time.perf_counter() - began
        self.cached = not misses
        workspace = max(plan.workspace_bytes(program) for program in (self.chunk, self._score))
        plan.check_program(shapes, workspace, config.devices, device)
        part = shards.shard_shapes(shapes, config.devices)
        held, ring = plan.tree_bytes(part) / plan.GB, plan.tree_bytes(part.replay) / plan.GB
        source = ", the rest from the cache" if self.cached else ""
        display.line(
            f"compiled in {duration(self.compile_s)} (tracing {traced:.0f} s{source}); "
            f"{held:.2f} GB on {'each' if many else device.device_kind}, of which replay {ring:.2f} GB"
        )
        self.replay_bytes = plan.tree_bytes(shapes.replay)
        self._make, self._shapes, self._line = make, shapes, display.line
        self.state: Any = None

    def begin(self) -> None:
        """Start at the beginning."""
        self.state = self._make(jax.random.key(self.config.seed))

    def restore(self, arrays: checkpoint.Arrays) -> None:
        """Go on from a checkpoint's arrays.

        Raises:
            CheckpointError: they are not this program's.
        """
        arrays = arrays | {
            ".members.hyper.total_env_steps": np.array([self.config.total_env_steps], np.int32)
        }
        if checkpoint.REPLAY not in arrays:
            rows = self._shapes.replay.rows
            waits = max(self.config.warmup_env_steps, self.config.batch_size)
            self._line(
                f"note: the checkpoint holds no replay: updates wait for {waits:,} new steps, and what "
                "follows is not what it would have been"
            )
            arrays |= {
                checkpoint.REPLAY: np.zeros(rows.shape, rows.dtype),
                ".replay.position": np.zeros((), np.int32),
                ".replay.size": np.zeros(1, np.int32),
                ".members.hyper.learn_from": arrays[".members.env_steps"] + np.int32(waits),
            }
        self.state = checkpoint.to_device(arrays, self._shapes, self.chunk.input_shardings[0][0])

    def _eval_keys(self, env_steps: int) -> jax.Array:
        """A key for each episode of the evaluation at ``env_steps``, rounded up to equal parts of devices."""
        key = jax.random.fold_in(jax.random.key(self.config.seed + 2**31), env_steps)
        devices = self.config.devices
        return jax.random.split(key, -(-self.config.eval_episodes // devices) * devices)

    def run_chunk(self) -> Report:
        """Advance by one chunk; what it reports."""
        began = time.perf_counter()
        self.state, metrics = self.chunk(self.state)
        m = jax.tree.map(lambda x: x[0].item(), jax.device_get(metrics))
        seconds = time.perf_counter() - began
        ended = m.episodes.episodes
        schedule = self.loop.schedule
        return {
            "env_steps": m.env_steps,
            "updates": m.updates,
            "train/episodes": ended,
            "train/return_mean": m.episodes.return_sum / ended if ended else None,
            "train/length_mean": m.episodes.length_sum / ended if ended else None,
            "train/terminated_fraction": m.episodes.terminated / ended if ended else None,
            "env/quarantined": m.episodes.quarantined,
            "env/waited": m.episodes.waited,
            "loss/critic": m.update.critic_loss if m.updates else None,
            "loss/actor": m.update.actor_loss if m.updates else None,
            "q/mean": m.update.q_mean if m.updates else None,
            "q/target_mean": m.update.target_q_mean if m.updates else None,
            "q/target_outside": (
                m.update.target_q_outside if m.updates and self.config.num_atoms > 1 else None
            ),
            "update/skipped": m.update.skipped,
            "time/env_steps_per_s": schedule.env_steps / seconds,
            "time/updates_per_s": schedule.total_updates / seconds,
        }

    def evaluate(self, env_steps: int) -> Report:
        """Greedy returns of the present policy."""
        began = time.perf_counter()
        members, episodes = self.state.members, self.config.eval_episodes
        scored = self._score(members.learner.actor_eval, members.obs_stats, self._eval_keys(env_steps))
        returns, lengths = (x[:episodes] for x in jax.device_get(scored))
        return {
            "eval/return_mean": float(returns.mean()),
            "eval/return_std": float(returns.std()),
            "eval/length_mean": float(lengths.mean()),
            "time/eval_s": time.perf_counter() - began,
        }

    def policy(self, meta: Mapping[str, Any]) -> Policy:
        """The present policy, for a file."""
        members = self.state.members
        actor, stats = jax.device_get(
            jax.tree.map(lambda x: x[0], (members.learner.actor_eval, members.obs_stats))
        )
        layers = [actor["params"]["mlp"][f"layer_{i}"] for i in range(len(self.config.hidden_sizes) + 1)]
        scaled = self.config.normalize_obs
        size = self.task.obs_size
        return Policy(
            env=self.config.env,
            weights=tuple(np.asarray(layer["kernel"]) for layer in layers),
            biases=tuple(np.asarray(layer["bias"]) for layer in layers),
            obs_mean=np.asarray(stats.mean if scaled else np.zeros(size), np.float32),
            obs_deviation=np.asarray(deviation(stats) if scaled else np.ones(size), np.float32),
            obs_clip=OBS_CLIP if scaled else math.inf,
            action_low=self.task.action_low,
            action_high=self.task.action_high,
            meta={"version": __version__, **meta},
        )
