"""The compiled functions of one run or of several members, and their state on the devices."""

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
from td3_brax.config import INT32_MAX, Config
from td3_brax.envs.registry import make_task
from td3_brax.names import BRAX_TASKS
from td3_brax.policy import Policy
from td3_brax.runs import checkpoint, hosts, memory
from td3_brax.runs.device import on_accelerator
from td3_brax.runs.export import actor_params, make_policy
from td3_brax.runs.origin import Origin, start_from
from td3_brax.runs.tracking import Report, duration


def _local(array: jax.Array) -> jax.Array:
    """Return the array; of an array that all hosts have, this host's copy."""
    return array.addressable_data(0) if array.is_fully_replicated else array


FRESH_EPISODES = 2**31
"""Takes the place of the environment steps, which are always fewer, in the keys of fresh episodes."""
MAX_CUT_WEIGHT = 0.05
"""The critic's values are compared with returns only if the time limit cuts off less than this share."""


@contextlib.contextmanager
def counting_cache_misses() -> Iterator[list[str]]:
    """Collect the misses of the persistent compilation cache while the block runs."""
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
        configs: one for each member; they differ only in options that may vary.
        line: prints a line for people.
        layout: how members and arrays are distributed over the devices; a single run is split over all.
        origins: what each member starts with, see :mod:`td3_brax.runs.origin`; empty if nothing.
    """

    def __init__(
        self,
        configs: Sequence[Config],
        line: Callable[[str], None],
        layout: Layout,
        origins: Sequence[Origin | None] = (),
    ) -> None:
        self.config = config = configs[0]
        self.configs, self.layout, self._line = list(configs), layout, line
        began = time.perf_counter()
        self.task = make_task(config)
        built = time.perf_counter()
        self.model_s = built - began
        device = jax.local_devices()[0]
        self.loop = build.build(config, self.task, side_by_side=on_accelerator())
        if self.task.open_loops:
            advice = "; tasks that --physics=fast covers, and --backend=spring, do without"
            advice *= config.env in BRAX_TASKS
            line(
                f"note: the physics of {config.env} has a solver loop of unknown length, which makes a GPU "
                f"wait for the host{advice}"
            )
        begin, keys = jax.eval_shape(lambda: (self._begin(), self._eval_keys([0] * len(configs))))
        state, members = layout.state, layout.members
        make = self._jit(self.loop.init, (members, members), state)
        chunk = self._jit(self.loop.train_chunk, (state,), (state, members), donate_argnums=(0,))
        shapes = jax.eval_shape(make, *begin)
        memory.check_state(shapes, layout, device)
        self._origins = {place: origin for place, origin in enumerate(origins) if origin}
        for origin in self._origins.values():
            origin.check_sizes(config.env, self.task)
            origin.fit(shapes)

        def greedy(m: Member, keys: jax.Array) -> Scores:
            policy, value = self.loop.policy(m.learner.actor_eval, m.obs_stats), self.loop.value(m)
            return greedy_returns(self.task, policy, keys, config.time_limit, value, m.hyper.gamma)

        def score(all_members: Member, keys: jax.Array) -> Scores:
            return self.loop.over_members(greedy, keys.shape[0])(all_members, keys)

        scoring = self._jit(score, (state.members, layout.episodes), layout.episodes)
        many = f"{layout.devices} x " if layout.devices > 1 else ""
        line(f"compiling for {many}{device.device_kind}")
        with counting_cache_misses() as misses, ThreadPoolExecutor(2) as pool:
            # The chunk takes longest: it compiles while the other functions are traced.
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
        total, replay = memory.tree_bytes(part) / memory.GB, memory.tree_bytes(part.replay) / memory.GB
        source = ", the rest from the cache" if self.cached else ""
        where = "each device" if many else device.device_kind
        line(
            f"compiled in {duration(self.compile_s)} (tracing {self.trace_s:.0f} s{source}); "
            f"{total:.2f} GB on {where}, including {replay:.2f} GB of replay"
        )
        self.replay_bytes = memory.tree_bytes(shapes.replay)
        self._shapes = shapes
        self.state: Any = None

    def _jit(self, function: Any, in_specs: Any, out_specs: Any, **donated: Any) -> Any:
        return shards.jit(function, self.layout.devices, in_specs, out_specs, **donated)

    def begin(self) -> None:
        """Initialise the state of all members."""
        self.state = self._make(*self._on_devices(self._begin(), self._make))
        self.state = start_from(self.state, self._origins, self.configs)

    def _begin(self) -> tuple[jax.Array, Hyper]:
        """Return the keys and hyperparameters that the members start with."""
        return make_keys(self.configs), make_hypers(self.configs)

    def _on_devices(self, args: tuple[Any, ...], compiled: Any) -> tuple[Any, ...]:
        """Put arguments on the devices where ``compiled`` expects them."""
        placed: tuple[Any, ...] = jax.tree.map(hosts.shard, args, compiled.input_shardings[0][-len(args) :])
        return placed

    def put(self, place: int, config: Config, origin: Origin | None = None) -> None:
        """Start a new member in a place; the other members are unchanged."""
        self.configs[place] = config
        mask = jnp.arange(len(self.configs)) == place
        key, hyper = jax.random.key(config.seed), make_hyper(config)
        self.state = self._put(self.state, mask, key, hyper)
        self.state = start_from(self.state, {place: origin} if origin else {}, self.configs)

    @functools.cached_property
    def _put(self) -> Any:
        state, replicated = self.layout.state, shards.REPLICATED
        specs = (state, self.layout.members, replicated, replicated)
        return self._jit(self.loop.put, specs, state, donate_argnums=(0,))

    def restore(self, arrays: checkpoint.Arrays) -> None:
        """Restore the state from a checkpoint's arrays.

        Raises:
            CheckpointError: the arrays do not fit this program.
        """
        lengths = np.array([config.total_env_steps for config in self.configs], np.int32)
        arrays = arrays | {".members.hyper.total_env_steps": lengths}
        if checkpoint.REPLAY not in arrays:
            rows = self._shapes.replay.rows
            waits = max(self.config.warmup_env_steps, self.config.batch_size)
            self._line(
                f"note: the checkpoint contains no replay. Updates start again after {waits:,} new steps, so "
                "the run will differ from an uninterrupted one"
            )
            arrays |= {
                checkpoint.REPLAY: np.zeros(rows.shape, rows.dtype),
                ".replay.position": np.zeros((), np.int32),
                ".replay.size": np.zeros(len(self.configs), np.int32),
                ".members.hyper.learn_from": np.minimum(
                    arrays[".members.env_steps"].astype(np.int64) + waits, INT32_MAX
                ).astype(np.int32),
            }
        self.state = checkpoint.to_device(arrays, self._shapes, self.chunk.input_shardings[0][0])

    def _eval_keys(self, env_steps: Sequence[int]) -> jax.Array:
        """Return the keys of each member's episodes [M, episodes]; the devices share the episodes equally."""
        devices = self.config.devices
        episodes = -(-self.config.eval_episodes // devices) * devices
        base = (jax.random.key(config.seed + 2**31) for config in self.configs)
        folded = map(jax.random.fold_in, base, env_steps)
        return jnp.stack([jax.random.split(key, episodes) for key in folded])

    def run_chunk(self) -> list[Report]:
        """Train for one chunk; return each member's report."""
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
        """Evaluate each member's current policy; ``env_steps`` are the members' environment steps so far."""
        began = time.perf_counter()
        scored = self._play(self.state.members, env_steps)
        seconds = time.perf_counter() - began
        return [self._scored(scored, place, seconds) for place in range(len(self.configs))]

    def _scored(self, scored: Scores, place: int, seconds: float) -> Report:
        scores = jax.tree.map(lambda x: x[place, : self.config.eval_episodes], scored)
        broken = int(scores.broken.sum())
        scores = jax.tree.map(lambda x: x[~scores.broken], scores)
        any_whole = scores.returns.size > 0
        limit, states = self.config.time_limit, scores.states.sum()
        # An upper bound of the weight of the rewards that the time limit cuts off from a discounted return.
        cut = self.configs[place].gamma ** (limit - limit // 2)
        compared = states > 0 and cut < MAX_CUT_WEIGHT
        return {
            "eval/return_mean": float(scores.returns.mean()) if any_whole else None,
            "eval/return_std": float(scores.returns.std()) if any_whole else None,
            "eval/length_mean": float(scores.lengths.mean()) if any_whole else None,
            "eval/broken": broken,
            "eval/q_mean": float(scores.value_sum.sum() / states) if compared else None,
            "eval/q_true": float(scores.true_value_sum.sum() / states) if compared else None,
            "time/eval_s": seconds,
        }

    def _play(self, members: Member, env_steps: Sequence[int]) -> Scores:
        """Play the episodes that belong to ``env_steps`` with ``members``; return the scores on the host."""
        keys = self._on_devices((self._eval_keys(env_steps),), self._score)
        scores: Scores = jax.tree.map(hosts.gather, self._score(members, *keys))
        return scores

    def score_kept(self, policies: Mapping[int, Policy]) -> dict[int, Report]:
        """Score ``policies``, given by place, in fresh episodes: episodes that no evaluation has used."""
        began = time.perf_counter()
        members = self.state.members
        places = (members.learner.actor_eval, members.obs_stats)
        actor, stats = jax.tree.map(lambda x: np.array(_local(x)), places)
        for place, policy in policies.items():
            params = actor_params(policy)
            params = pack(params) if self.loop.td3.packed else params
            jax.tree.map(lambda all_members, one, i=place: all_members.__setitem__(i, one), actor, params)
            stats.count[place], stats.mean[place] = 2, policy.obs_mean
            stats.variance[place] = policy.obs_deviation**2
        actor, stats = jax.tree.map(lambda x, at: hosts.shard(x, at.sharding), (actor, stats), places)
        learner = dataclasses.replace(members.learner, actor_eval=actor)
        members = dataclasses.replace(members, learner=learner, obs_stats=stats)
        scored = self._play(members, [FRESH_EPISODES] * len(self.configs))
        seconds = time.perf_counter() - began
        reports: dict[int, Report] = {}
        for place in policies:
            report = self._scored(scored, place, seconds)
            mean, std = report["eval/return_mean"], report["eval/return_std"]
            reports[place] = {"eval/return_kept": mean, "eval/return_kept_std": std}
        return reports

    def policy(self, place: int, meta: Mapping[str, Any]) -> Policy:
        """Return a member's current policy, for a file."""
        members = self.state.members
        now = (members.learner.actor_eval, members.obs_stats)
        actor, stats = jax.tree.map(lambda x: np.asarray(_local(x)[place]), now)
        return make_policy(self.config, self.task, actor, stats, meta)
