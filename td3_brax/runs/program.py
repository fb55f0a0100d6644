"""The compiled functions of runs, and their state: what the host job starts and reads."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.monitoring
import jax.numpy as jnp
import numpy as np

from td3_brax.algorithm import build, shards
from td3_brax.algorithm.evaluate import Scores, greedy_returns
from td3_brax.algorithm.packing import pack
from td3_brax.algorithm.population import make_hyper, make_hypers, make_keys
from td3_brax.algorithm.shards import Layout
from td3_brax.algorithm.state import Hyper, Member
from td3_brax.config import MOST, Config
from td3_brax.envs.registry import make_task
from td3_brax.names import BRAX_TASKS
from td3_brax.policy import Policy
from td3_brax.runs import checkpoint, hosts, memory
from td3_brax.runs.device import on_accelerator
from td3_brax.runs.export import actor_params, make_policy
from td3_brax.runs.tracking import Report, duration


def _at_hand(array: jax.Array) -> jax.Array:
    """An array, or this host's copy of one that all have."""
    return array.addressable_data(0) if array.is_fully_replicated else array


FRESH = 2**31
"""Stands for the environment steps, always fewer, in the keys of episodes that no evaluation has."""
MOST_CUT = 0.05
"""Of a discounted return, for the critic's values to be compared with it."""


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
    """The compiled functions of a run, or of members that train together, and their state.

    Args:
        configs: one for each member; alike but for options that vary.
        layout: how they lie on the devices; a single run is split over its ``devices``.
        line: takes a line for people.
    """

    def __init__(self, configs: Sequence[Config], line: Callable[[str], None], layout: Layout) -> None:
        self.config = config = configs[0]
        self.configs, self.layout, self._line = list(configs), layout, line
        began = time.perf_counter()
        self.task = make_task(config)
        built = time.perf_counter()
        self.model_s = built - began
        device = jax.local_devices()[0]
        self.loop = build.build(config, self.task, side_by_side=on_accelerator())
        if self.task.open_loops:
            others = "; tasks that --physics=fast covers, and --backend=spring, have none"
            others *= config.env in BRAX_TASKS
            line(
                f"note: {config.env} steps with a solver loop of unknown length, which makes a GPU wait for "
                f"the host{others}"
            )
        begin, keys = jax.eval_shape(lambda: (self._begin(), self._eval_keys([0] * len(configs))))
        state, members = layout.state, layout.members
        make = self._jit(self.loop.init, (members, members), state)
        chunk = self._jit(self.loop.train_chunk, (state,), (state, members), donate_argnums=(0,))
        shapes = jax.eval_shape(make, *begin)
        memory.check_state(shapes, layout, device)

        def greedy(m: Member, keys: jax.Array) -> Scores:
            policy, value = self.loop.policy(m.learner.actor_eval, m.obs_stats), self.loop.value(m)
            return greedy_returns(self.task, policy, keys, config.time_limit, value, m.hyper.gamma)

        def score(all_members: Member, keys: jax.Array) -> Scores:
            return self.loop.over_members(greedy, keys.shape[0])(all_members, keys)

        scoring = self._jit(score, (state.members, layout.episodes), layout.episodes)
        many = f"{layout.devices} of " if layout.devices > 1 else ""
        line(f"compiling for {many}{device.device_kind}")
        with counting_cache_misses() as misses, ThreadPoolExecutor(2) as pool:
            # The chunk, which takes longest, compiles while the others are traced.
            programs = [
                pool.submit(function.lower(*args).compile)
                for function, args in ((chunk, (shapes,)), (scoring, (shapes.members, keys)), (make, begin))
            ]
            self.trace_s = time.perf_counter() - built
            self.chunk, self._score, self._make = (program.result() for program in programs)
        self.compile_s = time.perf_counter() - built
        self.cached = not misses
        workspace = max(memory.workspace_bytes(program) for program in (self.chunk, self._score))
        memory.check_program(shapes, workspace, layout, device)
        part = layout.share(shapes)
        held, ring = memory.tree_bytes(part) / memory.GB, memory.tree_bytes(part.replay) / memory.GB
        source = ", the rest from the cache" if self.cached else ""
        line(
            f"compiled in {duration(self.compile_s)} (tracing {self.trace_s:.0f} s{source}); "
            f"{held:.2f} GB on {'each' if many else device.device_kind}, of which replay {ring:.2f} GB"
        )
        self.replay_bytes = memory.tree_bytes(shapes.replay)
        self._shapes = shapes
        self.state: Any = None

    def _jit(self, function: Any, in_specs: Any, out_specs: Any, **donated: Any) -> Any:
        return shards.jit(function, self.layout.devices, in_specs, out_specs, **donated)

    def begin(self) -> None:
        """Start at the beginning."""
        self.state = self._make(*self._laid(self._begin(), self._make))

    def _begin(self) -> tuple[jax.Array, Hyper]:
        """What the members start from."""
        return make_keys(self.configs), make_hypers(self.configs)

    def _laid(self, args: tuple[Any, ...], compiled: Any) -> tuple[Any, ...]:
        """Arguments where ``compiled`` takes them."""
        laid: tuple[Any, ...] = jax.tree.map(hosts.shard, args, compiled.input_shardings[0][-len(args) :])
        return laid

    def put(self, place: int, config: Config) -> None:
        """Start another member in the place of one; the others are as they were."""
        self.configs[place] = config
        here = jnp.arange(len(self.configs)) == place
        key, hyper = jax.random.key(config.seed), make_hyper(config)
        self.state = self._put(self.state, here, key, hyper)

    @functools.cached_property
    def _put(self) -> Any:
        state, alike = self.layout.state, shards.ALIKE
        specs = (state, self.layout.members, alike, alike)
        return self._jit(self.loop.put, specs, state, donate_argnums=(0,))

    def restore(self, arrays: checkpoint.Arrays) -> None:
        """Go on from a checkpoint's arrays.

        Raises:
            CheckpointError: they are not this program's.
        """
        lengths = np.array([config.total_env_steps for config in self.configs], np.int32)
        arrays = arrays | {".members.hyper.total_env_steps": lengths}
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
                ".replay.size": np.zeros(len(self.configs), np.int32),
                ".members.hyper.learn_from": np.minimum(
                    arrays[".members.env_steps"].astype(np.int64) + waits, MOST
                ).astype(np.int32),
            }
        self.state = checkpoint.to_device(arrays, self._shapes, self.chunk.input_shardings[0][0])

    def _eval_keys(self, env_steps: Sequence[int]) -> jax.Array:
        """A key for each member's episodes [M, episodes], of a number that its devices share equally."""
        devices = self.config.devices
        episodes = -(-self.config.eval_episodes // devices) * devices
        own = (jax.random.key(config.seed + 2**31) for config in self.configs)
        folded = map(jax.random.fold_in, own, env_steps)
        return jnp.stack([jax.random.split(key, episodes) for key in folded])

    def run_chunk(self) -> list[Report]:
        """Advance by one chunk; what each member reports."""
        began = time.perf_counter()
        self.state, metrics = self.chunk(self.state)
        with hosts.detecting_lost_hosts():
            metrics = jax.device_get(metrics)
        seconds = time.perf_counter() - began
        return [self._report(metrics, place, seconds) for place in range(len(self.configs))]

    def _report(self, metrics: Any, place: int, seconds: float) -> Report:
        m = jax.tree.map(lambda x: x[place].item(), metrics)
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
            "loss/critic": m.update.critic_loss if m.update.made else None,
            "loss/actor": m.update.actor_loss if m.update.actor_made else None,
            "q/mean": m.update.q_mean if m.update.made else None,
            "q/target_mean": m.update.target_q_mean if m.update.made else None,
            "update/skipped": m.update.skipped,
            "time/env_steps_per_s": schedule.env_steps / seconds,
            "time/updates_per_s": m.update.made / seconds,
        }

    def evaluate(self, env_steps: Sequence[int]) -> list[Report]:
        """Greedy returns of each member's present policy; ``env_steps`` as each counts them."""
        began = time.perf_counter()
        scored = self._play(self.state.members, env_steps)
        seconds = time.perf_counter() - began
        return [self._scored(scored, place, seconds) for place in range(len(self.configs))]

    def _scored(self, scored: Scores, place: int, seconds: float) -> Report:
        own = jax.tree.map(lambda x: x[place, : self.config.eval_episodes], scored)
        broken = int(own.broken.sum())
        own = jax.tree.map(lambda x: x[~own.broken], own)
        whole = own.returns.size > 0
        limit, states = self.config.time_limit, own.states.sum()
        # What the time limit cuts off of a discounted return has this weight, or less.
        cut = self.configs[place].gamma ** (limit - limit // 2)
        compared = states > 0 and cut < MOST_CUT
        return {
            "eval/return_mean": float(own.returns.mean()) if whole else None,
            "eval/return_std": float(own.returns.std()) if whole else None,
            "eval/length_mean": float(own.lengths.mean()) if whole else None,
            "eval/broken": broken,
            "eval/q_mean": float(own.value_sum.sum() / states) if compared else None,
            "eval/q_true": float(own.later_sum.sum() / states) if compared else None,
            "time/eval_s": seconds,
        }

    def _play(self, members: Member, env_steps: Sequence[int]) -> Scores:
        """Return the scores of ``members`` in the episodes of these ``env_steps``, on the host."""
        keys = self._laid((self._eval_keys(env_steps),), self._score)
        scores: Scores = jax.tree.map(hosts.gather, self._score(members, *keys))
        return scores

    def score_kept(self, policies: Mapping[int, Policy]) -> dict[int, Report]:
        """Score the ``policies`` of some members, by place, on episodes that no evaluation has had."""
        began = time.perf_counter()
        members = self.state.members
        places = (members.learner.actor_eval, members.obs_stats)
        actor, stats = jax.tree.map(lambda x: np.array(_at_hand(x)), places)
        for place, policy in policies.items():
            own = actor_params(policy)
            own = pack(own) if self.loop.td3.packed else own
            jax.tree.map(lambda all_members, one, i=place: all_members.__setitem__(i, one), actor, own)
            stats.count[place], stats.mean[place] = 2, policy.obs_mean
            stats.variance[place] = policy.obs_deviation**2
        actor, stats = jax.tree.map(lambda x, at: hosts.shard(x, at.sharding), (actor, stats), places)
        learner = dataclasses.replace(members.learner, actor_eval=actor)
        members = dataclasses.replace(members, learner=learner, obs_stats=stats)
        scored = self._play(members, [FRESH] * len(self.configs))
        seconds = time.perf_counter() - began
        reports: dict[int, Report] = {}
        for place in policies:
            own = self._scored(scored, place, seconds)
            mean, std = own["eval/return_mean"], own["eval/return_std"]
            reports[place] = {"eval/return_kept": mean, "eval/return_kept_std": std}
        return reports

    def policy(self, place: int, meta: Mapping[str, Any]) -> Policy:
        """A member's present policy, for a file."""
        members = self.state.members
        now = (members.learner.actor_eval, members.obs_stats)
        actor, stats = jax.tree.map(lambda x: np.asarray(_at_hand(x)[place]), now)
        return make_policy(self.config, self.task, actor, stats, meta)
