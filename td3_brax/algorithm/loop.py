"""The training program: ``init`` makes the state, ``train_chunk`` advances it by one chunk.

    chunk = groups x [ refill the fresh initial states
                       blocks x turns x [ rounds x steps x (act, step, store)          collect
                                          sample, rounds x updates x (TD3 update) ] ]  learn

A chunk is one jitted call whose state is donated, without Python, host transfers or branches inside.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp

from td3_brax.algorithm import collect, replay, values
from td3_brax.algorithm.apply import apply, apply_first
from td3_brax.algorithm.learner import TD3
from td3_brax.algorithm.obs_stats import init_obs_stats, normalize, update_obs_stats
from td3_brax.algorithm.population import over_members
from td3_brax.algorithm.schedule import Schedule
from td3_brax.algorithm.shards import shard_index, shard_key, shard_mean, shard_sum
from td3_brax.algorithm.state import Batch, Hyper, Member, Metrics, ObsStats, Params, TrainState, UpdateStats
from td3_brax.envs.state import EpisodeStats, Transition
from td3_brax.envs.vector import VectorEnv


def repeat(
    step: Callable[[TrainState], tuple[TrainState, Any]], state: TrainState, times: int
) -> tuple[TrainState, Any]:
    """Call ``step`` ``times`` times; return the last state, and the sums of its other outputs, leaves [M].

    Inside the loop all leaves of one dtype are stacked into one array, because a GPU would write each leaf
    with a separate operation.
    """
    shapes: Any = None

    def body(state: TrainState, _: None) -> tuple[TrainState, dict[str, jax.Array]]:
        nonlocal shapes
        state, made = step(state)
        shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), made)
        by_dtype: dict[str, list[jax.Array]] = {}
        for leaf in jax.tree.leaves(made):
            by_dtype.setdefault(leaf.dtype.name, []).append(leaf)
        return state, {dtype: jnp.stack(leaves) for dtype, leaves in by_dtype.items()}

    state, stacked = jax.lax.scan(body, state, length=times)
    sums = {dtype: iter(leaves.sum(axis=0)) for dtype, leaves in stacked.items()}
    return state, jax.tree.map(lambda x: next(sums[x.dtype.name]), shapes)


@dataclass(frozen=True)
class Loop:
    """The static part of the program, made by :func:`td3_brax.algorithm.build.build`.

    Its methods see one shard of the run; ``env``, ``batch_size`` and ``capacity`` are those of a shard.
    """

    env: VectorEnv
    td3: TD3
    schedule: Schedule
    batch_size: int
    capacity: int
    n_step: int
    normalize_obs: bool
    shards: int
    side_by_side: bool

    def over_members(self, function: Callable[..., Any], num_members: int) -> Callable[..., Any]:
        """Map ``function``, which takes one member, over a leading member axis."""
        return over_members(function, num_members, self.side_by_side)

    def init_member(self, key: jax.Array, hyper: Hyper) -> Member:
        """Return the initial state of one member."""
        task = self.env.task
        env_key, learner_key, key = jax.random.split(key, 3)
        return Member(
            env=self.env.init(shard_key(env_key, self.shards)),
            learner=self.td3.init(learner_key, task.obs_size, task.action_size),
            obs_stats=init_obs_stats(task.obs_size),
            hyper=hyper,
            key=key,
            env_steps=jnp.zeros((), jnp.int32),
            updates=jnp.zeros((), jnp.int32),
        )

    def init(self, keys: jax.Array, hyper: Hyper) -> TrainState:
        """Return the initial state for members with ``keys`` [M] and ``hyper``, leaves [M]."""
        num_members, task = keys.shape[0], self.env.task
        return TrainState(
            members=self.over_members(self.init_member, num_members)(keys, hyper),
            replay=replay.init(self.capacity, num_members, task.obs_size, task.action_size),
        )

    def put(self, state: TrainState, mask: jax.Array, key: jax.Array, hyper: Hyper) -> TrainState:
        """Put a new member where ``mask`` [M] is true; its part of the replay counts as empty."""
        new = self.init_member(key, hyper)

        def leaf(all_members: jax.Array, one: jax.Array) -> jax.Array:
            return jnp.where(mask.reshape(-1, *[1] * one.ndim), one[None], all_members)

        size = jnp.where(mask, 0, state.replay.size)
        return TrainState(
            members=jax.tree.map(leaf, state.members, new), replay=replace(state.replay, size=size)
        )

    @jax.named_scope("refill")
    def refill(self, state: TrainState) -> TrainState:
        """Draw fresh initial states for all environments."""

        def member(m: Member) -> Member:
            key, refill_key = jax.random.split(m.key)
            return replace(m, env=self.env.refill(m.env, shard_key(refill_key, self.shards)), key=key)

        return replace(state, members=self.over_members(member, state.num_members)(state.members))

    @jax.named_scope("collect")
    def collect(self, state: TrainState) -> tuple[TrainState, EpisodeStats]:
        """Make one vector step of every member and store its transitions in the replay."""

        num_envs, total_envs = self.env.num_envs, self.schedule.num_envs
        place = (shard_index(self.shards) * num_envs + jnp.arange(num_envs) + 0.5) / total_envs

        def member(m: Member) -> tuple[Member, Transition, EpisodeStats]:
            key, step_key = jax.random.split(m.key)
            act = self.policy(m.learner.actor, m.obs_stats)
            step_key = shard_key(step_key, self.shards)
            action = collect.explore(act(m.env.obs), m.hyper, m.env_steps, place, step_key)
            env, transition, episodes = self.env.step(m.env, action)
            obs_stats = m.obs_stats
            if self.normalize_obs:
                obs_stats = update_obs_stats(obs_stats, transition.obs, transition.valid, self.shards)
            m = replace(m, env=env, obs_stats=obs_stats, key=key, env_steps=m.env_steps + total_envs)
            return m, transition, episodes

        step = self.over_members(member, state.num_members)
        members, transition, episodes = step(state.members)
        return TrainState(members=members, replay=replay.add(state.replay, transition)), episodes

    @jax.named_scope("learn")
    def learn(self, state: TrainState, rounds: int, done: int) -> tuple[TrainState, UpdateStats]:
        """Make the updates of ``rounds`` rounds for every member, after the vector steps of all these rounds.

        Each update samples only what was stored by the end of its own round's steps.

        Args:
            done: number of updates since the last update of the actor.
        """
        s = self.schedule
        count = rounds * s.updates
        rows = count * self.batch_size
        later_rows = jnp.arange(rounds - 1, -1, -1, jnp.int32) * s.steps * self.env.num_envs
        unseen = jnp.repeat(later_rows, rows // rounds) if rounds > 1 else 0

        def split(key: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
            sample_key, noise_key, key = jax.random.split(key, 3)
            return shard_key(sample_key, self.shards), shard_key(noise_key, self.shards), key

        sample_keys, noise_keys, keys = jax.vmap(split)(state.members.key)
        batches = replay.sample(
            state.replay,
            sample_keys,
            rows,
            self.env.task.obs_size,
            self.env.num_envs,
            self.n_step,
            state.members.hyper.gamma,
            unseen,
        )
        # Sample before the next vector step is written. Nothing else orders the two after the last update of
        # the actor, so a GPU's compiler would copy the ring.
        batches, ring = jax.lax.optimization_barrier((batches, state.replay))
        state = replace(state, replay=ring)

        def member(
            m: Member, batches: Batch, noise_key: jax.Array, key: jax.Array
        ) -> tuple[Member, UpdateStats]:
            batches = jax.tree.map(lambda x: x.reshape((count, self.batch_size, *x.shape[1:])), batches)
            if self.normalize_obs:
                batches = replace(
                    batches,
                    obs=normalize(m.obs_stats, batches.obs),
                    next_obs=normalize(m.obs_stats, batches.next_obs),
                )
            noise = jax.random.normal(noise_key, batches.action.shape)
            active = m.env_steps - (rounds - 1) * s.steps * s.num_envs > m.hyper.learn_from
            share = 1 - m.hyper.lr_decay * jnp.minimum(m.env_steps / m.hyper.total_env_steps, 1)
            hyper = replace(m.hyper, actor_lr=m.hyper.actor_lr * share, critic_lr=m.hyper.critic_lr * share)
            learner, stats = self.td3.update_block(m.learner, hyper, batches, noise, active, done)
            return replace(m, learner=learner, updates=m.updates + stats.made, key=key), stats

        update = self.over_members(member, state.num_members)
        members, stats = update(state.members, batches, noise_keys, keys)
        return replace(state, members=members), stats

    def policy(self, actor: Params, obs_stats: ObsStats) -> Callable[[jax.Array], jax.Array]:
        """Return one member's greedy policy: observations [..., O] -> actions [..., A] in [-1, 1]."""
        if not self.normalize_obs:
            return lambda obs: apply(self.td3.actor, actor, obs)
        return lambda obs: apply(self.td3.actor, actor, normalize(obs_stats, obs))

    def value(self, m: Member) -> Callable[[jax.Array, jax.Array], jax.Array]:
        """Return one member's first critic: observations [B, O] and actions [B, A] -> values [B]."""

        def value(obs: jax.Array, action: jax.Array) -> jax.Array:
            inputs = normalize(m.obs_stats, obs) if self.normalize_obs else obs
            out = apply_first(self.td3.critic, m.learner.critic, inputs, action)
            return values.value(out, m.learner.value_scale)

        return value

    def train_chunk(self, state: TrainState) -> tuple[TrainState, Metrics]:
        """Run one chunk on a shard; see :func:`td3_brax.algorithm.build.jit_chunk`."""
        s = self.schedule

        def tree_sum(*parts: Any) -> Any:
            return jax.tree.map(lambda *x: sum(x), *parts)

        def block(state: TrainState) -> tuple[TrainState, tuple[EpisodeStats, UpdateStats]]:
            collected, learned, updates = [], [], 0
            for rounds in s.turns:
                for _ in range(rounds):
                    state, episodes = repeat(self.collect, state, s.steps)
                    collected.append(episodes)
                state, stats = self.learn(state, rounds, updates % self.td3.policy_delay)
                updates += rounds * s.updates
                learned.append(stats)
            return state, (tree_sum(*collected), tree_sum(*learned))

        state, (episodes, sums) = repeat(lambda x: repeat(block, self.refill(x), s.blocks), state, s.groups)
        stats = self.mean_stats(sums)
        return state, Metrics(
            env_steps=jnp.copy(state.members.env_steps),
            updates=jnp.copy(state.members.updates),
            episodes=shard_sum(episodes, self.shards),
            update=stats,
        )

    def mean_stats(self, sums: UpdateStats) -> UpdateStats:
        """Return the means over a chunk's updates on all shards; 0 if none took effect."""
        made, actor_made = jnp.maximum(sums.made, 1), jnp.maximum(sums.actor_made, 1)
        floats = (
            sums.critic_loss / made,
            sums.actor_loss / actor_made,
            sums.q_mean / made,
            sums.target_q_mean / made,
        )
        critic_loss, actor_loss, q_mean, target_q_mean = shard_mean(floats, self.shards)
        return replace(
            sums,
            critic_loss=critic_loss,
            actor_loss=actor_loss,
            q_mean=q_mean,
            target_q_mean=target_q_mean,
        )
