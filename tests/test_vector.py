"""Contracts 2, 4 and 5: the environments' side of a transition."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy import Toy

from td3_brax.envs.vector import VectorEnv


def play(env: VectorEnv, steps: int, refill_every: int, seed: int = 0):
    """Transitions and statistics, stacked over ``steps`` vector steps with uniform actions."""

    @jax.jit
    def run(key):
        def step(carry, i):
            state, key = carry
            key, refill_key, action_key = jax.random.split(key, 3)
            filled = env.refill(state, refill_key)
            state = jax.tree.map(lambda a, b: jnp.where(i % refill_every == 0, a, b), filled, state)
            action = jax.random.uniform(action_key, (env.num_envs, 1), minval=-1, maxval=1)
            state, transition, stats = env.step(state, action)
            return (state, key), (transition, stats)

        return jax.lax.scan(step, (env.init(key), key), jnp.arange(steps))[1]

    return jax.device_get(run(jax.random.key(seed)))


@settings(max_examples=25, deadline=None)
@given(
    num_envs=st.integers(1, 9),
    time_limit=st.integers(1, 30),
    refill_every=st.integers(1, 20),
    longest=st.sampled_from([2.0, 10.0, 40.0, 1000.0]),
    poison=st.sampled_from([0.9, 2.0]),
    spread=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_episodes(num_envs, time_limit, refill_every, longest, poison, spread, seed):
    steps = 80
    env = VectorEnv(Toy(longest, poison), num_envs, time_limit, spread)
    t, stats = play(env, steps, refill_every, seed)

    for leaf in jax.tree.leaves(t):
        assert np.isfinite(leaf).all()
        assert (leaf[t.valid == 0] == 0).all()
    births, returns, lengths, broken, waited = [], [], [], 0, 0
    for e in range(num_envs):
        waiting, reserve, begins, first = True, False, True, True
        at, total = 0, 0.0
        for i in range(steps):
            if i % refill_every == 0:
                waiting, reserve = False, not waiting
            if waiting:
                assert t.valid[i, e] == 0
                waited += 1
                continue
            ends = t.valid[i, e] == 0
            if ends:
                broken += 1
            else:
                birth = t.obs[i, e, 0]
                if begins:
                    # Contract 4: a reset gives a state that nobody has had.
                    births.append(float(birth))
                    at, total = 0, 0.0
                # Contract 2: next_obs is the episode's own, also at its end.
                assert t.obs[i, e].tolist() == [births[-1], at]
                at, total = at + 1, total + t.reward[i, e]
                assert t.next_obs[i, e].tolist() == [births[-1], at]
                # Contract 2: a fall is a termination, a limit is a truncation.
                falls = at >= 1 + np.floor(birth * np.float32(longest))
                assert t.terminated[i, e] == falls
                if not (spread and first):
                    assert t.truncated[i, e] == (at >= time_limit and not falls)
                assert at <= time_limit
                ends = bool(t.terminated[i, e] or t.truncated[i, e])
                if ends:
                    returns.append(total)
                    lengths.append(at)
            begins = ends
            if ends:
                first, waiting, reserve = False, not reserve, False
    assert len(set(births)) == len(births)
    assert stats.episodes.sum() == len(lengths)
    assert stats.length_sum.sum() == sum(lengths)
    assert stats.return_sum.sum() == pytest.approx(sum(returns), rel=1e-4, abs=1e-4)
    assert stats.terminated.sum() == t.terminated.sum()
    assert stats.quarantined.sum() == broken
    assert stats.waited.sum() == waited
    assert ((t.valid == 0).sum()) == broken + waited


def test_spread_phases_truncate_at_different_steps():
    t, _ = play(VectorEnv(Toy(1e6), 64, 50, spread_phases=True), 60, 16)
    firsts = np.argmax(t.truncated > 0, axis=0)
    assert len(set(firsts.tolist())) > 20
    t, _ = play(VectorEnv(Toy(1e6), 64, 50), 60, 16)
    assert (np.argmax(t.truncated > 0, axis=0) == 49).all()


def test_wrong_action_shape_is_refused_while_tracing():
    env = VectorEnv(Toy(), 4, 10)
    with pytest.raises(ValueError, match=r"action has shape \(3, 1\)"):
        jax.eval_shape(env.step, env.init(jax.random.key(0)), jnp.zeros((3, 1)))
