"""Tasks in brax's and Playground's manner: what is kept between steps, and named observations."""

from __future__ import annotations

import subprocess
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest

from td3_brax.envs.tasks.playground import PlaygroundTask, robot_observation
from td3_brax.envs.tasks.wrapper import WrappedTask
from td3_brax.option import ConfigError


@flax.struct.dataclass
class State:
    place: jax.Array
    trail: jax.Array
    obs: Any
    reward: jax.Array
    done: jax.Array
    info: dict[str, jax.Array]


class Walk:
    """Steps on a line; ``trail`` is written and never read, and a robot sees less than its teacher."""

    action_size = 1
    dt = 0.5
    traced = 0

    def reset(self, key: jax.Array) -> State:
        return self._at(jax.random.uniform(key, (1,)), jnp.zeros(50), jnp.zeros((), int))

    def step(self, state: State, action: jax.Array) -> State:
        self.traced += 1
        return self._at(state.place + action, state.trail.at[0].set(action[0]), state.info["count"] + 1)

    def _at(self, place: jax.Array, trail: jax.Array, count: jax.Array) -> State:
        obs = {"state": place, "privileged_state": jnp.concatenate([place, count[None]])}
        done = (place[0] > 3).astype(float)
        return State(place, trail, obs, -place[0] - 0.1 * count, done, {"count": count})


def test_a_named_observation_is_the_robots_own_and_only_what_is_read_is_kept() -> None:
    model = mujoco.MjModel.from_xml_string("<mujoco/>")
    task = WrappedTask("walk", Walk(), model, lambda state: state.place, robot_observation)
    assert task.dt == 0.5
    assert (task.obs_size, task.action_size, task.open_loops) == (1, 1, False)
    state, obs = task.reset(jax.random.key(0))
    assert sorted(x.shape for x in jax.tree.leaves(state)) == [(), (1,)]
    place = float(obs[0])
    for count in range(1, 6):
        out = task.step(state, jnp.ones(1))
        state, place = out.state, place + 1
        np.testing.assert_allclose(out.obs, [place], rtol=1e-6)
        assert float(out.reward) == pytest.approx(-place - 0.1 * count)
        assert bool(out.terminated) == (place > 3)
    out, shown = task.shown(state, jnp.ones(1))
    np.testing.assert_allclose(shown, out.obs)


def test_the_library_is_traced_once_however_many_programs_step() -> None:
    walk, model = Walk(), mujoco.MjModel.from_xml_string("<mujoco/>")
    task = WrappedTask("walk", walk, model, lambda state: state.place, robot_observation)
    states, _ = jax.eval_shape(jax.vmap(task.reset), jax.random.split(jax.random.key(0), 4))
    for _ in range(3):
        text = jax.jit(jax.vmap(task.step)).lower(states, jnp.ones((4, 1))).as_text()
        assert "50x" not in text  # what nobody reads is not computed
    assert walk.traced == 1


def test_an_observation_without_a_name_is_taken_whole() -> None:
    assert robot_observation(jnp.arange(3)).shape == (3,)


@pytest.mark.parametrize(
    "error",
    [
        subprocess.CalledProcessError(128, ["git", "clone"]),  # no network
        FileNotFoundError("git"),
        PermissionError("external_deps"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_model_that_playground_cannot_get_is_one_line(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its robots' models are no part of the package."""

    def load(*_: Any, **__: Any) -> Any:
        raise error

    package: Any = ModuleType("mujoco_playground")
    package.registry = SimpleNamespace(ALL_ENVS=["Go1"], get_default_config=lambda _: {}, load=load)
    monkeypatch.setitem(sys.modules, "mujoco_playground", package)
    with pytest.raises(ConfigError) as raised:
        PlaygroundTask("Go1", {})
    assert "playground:Go1" in str(raised.value)
    assert "\n" not in str(raised.value)
