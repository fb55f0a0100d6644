"""Members of one program are what they would be alone; a freed place takes a new one."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_loop import SMALL, bits
from test_shards import as_double
from toy import Toy

from td3_brax.algorithm import build, shards
from td3_brax.algorithm.population import make_hyper, make_hypers, make_keys
from td3_brax.algorithm.state import Hyper
from td3_brax.config import FIELDS, Config
from td3_brax.envs.tasks.brax import BraxTask

NOW = SMALL | {"warmup_env_steps": 0}
CONFIGS = [
    Config(**NOW),
    Config(**NOW, seed=1, gamma=0.9, actor_lr=1e-2, target_noise=0.5, exploration_noise=0.4),
    Config(**NOW, seed=2, tau=0.1, critic_lr=1e-4, lr_decay=0.5, exploration_noise_spread=0.3),
    Config(**(NOW | {"seed": 3, "warmup_env_steps": 64, "update_during_warmup": True})),
]


def test_every_option_that_varies_is_data_of_the_program() -> None:
    """All of ``Hyper`` comes from options that vary; of the others that vary, the program knows nothing."""
    host = {"preset", "out", "init_from", "wandb", "tensorboard", "film", "on_nonfinite"} | {
        n for n in FIELDS if n.startswith("checkpoint_")
    }
    data = {field.name for field in dataclasses.fields(Hyper)} - {"learn_from"}
    varies = {name for name, field in FIELDS.items() if field.metadata["varies"]}
    assert varies == data | host | {"seed", "update_during_warmup"}
    one, other = CONFIGS[0], CONFIGS[1]
    assert one.shape == other.shape
    assert one.shape != dataclasses.replace(one, batch_size=one.batch_size * 2).shape


@pytest.mark.parametrize("side_by_side", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_members_are_what_they_would_be_alone(side_by_side: bool) -> None:
    """Four members: a vector step and 52 updates of each, in x64 to 1e-9."""
    with jax.enable_x64(True):
        loop = build.build(CONFIGS[0], Toy(30.0), side_by_side)

        # Compiled once for four members and once for one, whose options are data.
        @jax.jit
        def run(*of_members):
            state = loop.refill(as_double(loop.init(*of_members)))

            def round_of_updates(state, _):
                state, _ = loop.collect(state)
                return loop.learn(state, 1, 0)

            return jax.lax.scan(round_of_updates, state, length=26)[0]

        together = run(make_keys(CONFIGS), make_hypers(CONFIGS))
        assert together.members.updates.tolist() == [52] * 4
        for m, config in enumerate(CONFIGS):
            alone = run(make_keys([config]), make_hypers([config]))
            ours = jax.tree.map(lambda x, m=m: x[m : m + 1], together.members)
            jax.tree.map(
                lambda a, b: np.testing.assert_allclose(a, b, atol=1e-9, rtol=0),
                (ours.learner, ours.obs_stats, ours.env.obs, ours.env.episode_return),
                (
                    alone.members.learner,
                    alone.members.obs_stats,
                    alone.members.env.obs,
                    alone.members.env.episode_return,
                ),
            )
            np.testing.assert_allclose(together.replay.rows[:, m], alone.replay.rows[:, 0], atol=1e-9, rtol=0)


@pytest.mark.slow
def test_a_step_of_ant_is_what_it_would_be_alone() -> None:
    """Real physics, in float32 to 1e-5, side by side and one after another."""
    small = SMALL | {"env": "ant", "num_envs": 4, "replay_capacity": 64}
    configs = [Config(**small, seed=seed) for seed in range(2)]
    task = BraxTask("ant")

    @functools.partial(jax.jit, static_argnums=2)
    def step(keys, hypers, side_by_side):
        loop = build.build(configs[0], task, side_by_side)
        state, _ = loop.collect(loop.refill(loop.init(keys, hypers)))
        return state.replay.rows[:4], state.members.env.obs

    alone = [step(make_keys([config]), make_hypers([config]), False) for config in configs]
    for side_by_side in (True, False):
        rows, obs = step(make_keys(configs), make_hypers(configs), side_by_side)
        for m, (alone_rows, alone_obs) in enumerate(alone):
            np.testing.assert_allclose(rows[:, m], alone_rows[:, 0], atol=1e-5, rtol=1e-5)
            np.testing.assert_allclose(obs[m], alone_obs[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("devices", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_a_freed_place_takes_a_new_member(devices: int) -> None:
    """It is as if it had been there from the start; the others notice nothing; nothing is compiled again."""
    layout = shards.spread(devices)
    loop = build.build(CONFIGS[0], Toy(30.0), side_by_side=False)
    traces = []

    def chunk(state):
        traces.append(0)
        return loop.train_chunk(state)

    chunk = shards.jit(chunk, devices, (layout.state,), (layout.state, layout.members), donate_argnums=(0,))
    put = shards.jit(
        loop.put, devices, (layout.state, layout.members, shards.REPLICATED, shards.REPLICATED), layout.state
    )

    def start(configs):
        state = build.start(loop, configs)
        return state if devices == 1 else jax.device_put(state, chunk_shardings(state))

    def chunk_shardings(state):
        return chunk.lower(state).compile().input_shardings[0][0]

    new = CONFIGS[3]
    state, _ = chunk(start(CONFIGS[:2]))
    undisturbed, _ = chunk(jax.tree.map(jnp.copy, state))
    here = jnp.array([False, True])
    state = put(state, here, jax.random.key(new.seed), make_hyper(new))
    before = len(traces)
    state, metrics = chunk(state)
    assert len(traces) == before
    assert metrics.env_steps.tolist() == [512, 256]
    assert state.replay.size.tolist() == [512, 256]
    own = lambda tree, m: bits(jax.tree.map(lambda x: x[m], tree))  # noqa: E731
    assert own(state.members, 0) == own(undisturbed.members, 0)
    fresh, fresh_metrics = chunk(start([CONFIGS[0], new]))
    assert own(state.members, 1) == own(fresh.members, 1)
    assert own(metrics, 1) == own(fresh_metrics, 1)
    ring = state.replay.rows.shape[0]
    newest = np.arange(-256, 0) + int(state.replay.position)
    np.testing.assert_array_equal(state.replay.rows[newest % ring, 1], fresh.replay.rows[:256, 1])


@pytest.mark.parametrize("side_by_side", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_members_over_devices_are_members_on_one(side_by_side: bool) -> None:
    """Whole members on two devices, with nothing between them; a chunk, in x64 to 1e-9."""
    with jax.enable_x64(True):
        layout = shards.spread(2)
        loop = build.build(CONFIGS[0], Toy(30.0), side_by_side)
        chunk = shards.jit(loop.train_chunk, 2, (layout.state,), (layout.state, layout.members))
        state = as_double(build.start(loop, CONFIGS))
        compiled = chunk.lower(state).compile()
        text = compiled.as_text()
        for word in ("all-reduce(", "all-reduce-start(", "all-gather(", "collective-permute("):
            assert word not in text
        apart, metrics = compiled(jax.device_put(state, compiled.input_shardings[0][0]))
        together, expected = jax.jit(loop.train_chunk)(state)
        assert metrics.env_steps.tolist() == expected.env_steps.tolist() == [256] * 4
        for a, b in ((apart.members.learner, together.members.learner), (apart.replay, together.replay)):
            jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-9, rtol=0), a, b)
