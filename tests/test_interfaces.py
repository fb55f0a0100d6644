"""Our tasks as environments of brax, gymnax and Gymnasium: what each library expects of an episode's end."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium.error import ResetNeeded
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import TimeLimit
from gymnasium.wrappers.vector import RecordEpisodeStatistics
from odd import AllBreak, KeyState, Point
from toy import Toy
from visits import task_of

from td3_brax.envs import make
from td3_brax.envs.interfaces import gymnasium as interface
from td3_brax.envs.interfaces.brax import BraxEnv
from td3_brax.envs.interfaces.gymnax import GymnaxEnv
from td3_brax.envs.suppress import suppress_output, suppress_warnings
from td3_brax.option import ConfigError

with suppress_output():
    from brax.envs import training

HERE = Path(__file__).parent
PENDULUM = "InvertedPendulum-v5"
MODES = list(AutoresetMode)


# Gymnasium.


@pytest.fixture(scope="module")
def three() -> interface.VectorEnv:
    """Three pendulums; a test sets their mode."""
    return interface.VectorEnv(task_of(PENDULUM), 3, 12)


def in_mode(env: interface.VectorEnv, mode: AutoresetMode) -> interface.VectorEnv:
    env.autoreset_mode = env.metadata["autoreset_mode"] = mode
    return env


class Placed(gymnasium.Wrapper):
    """The real task, which begins where a row of ``board`` says."""

    def __init__(self, board: np.ndarray, row: int) -> None:
        with suppress_warnings():
            super().__init__(gymnasium.make(PENDULUM).unwrapped)
        self.board, self.row = board, row

    def reset(self, **options: Any) -> Any:
        _, info = super().reset(**options)
        start = self.board[self.row]
        self.unwrapped.set_state(start[:2], start[2:])
        return self.unwrapped._get_obs(), info


@pytest.mark.parametrize("mode", MODES)
def test_many_do_what_gymnasiums_own_do_with_the_real_task(mode: AutoresetMode, three: Any) -> None:
    board = np.zeros((3, 4))
    rows: list[Callable[[], Any]] = [lambda i=i: TimeLimit(Placed(board, i), 12) for i in range(3)]
    theirs = RecordEpisodeStatistics(SyncVectorEnv(rows, autoreset_mode=mode))
    ours = RecordEpisodeStatistics(in_mode(three, mode))
    assert ours.metadata["autoreset_mode"] == theirs.metadata["autoreset_mode"]
    assert ours.single_action_space == theirs.single_action_space
    assert ours.action_space == theirs.action_space
    assert ours.observation_space.shape == theirs.observation_space.shape
    board[:], info = ours.reset(seed=3)
    obs, _ = theirs.reset(seed=3)
    assert info == {}
    np.testing.assert_allclose(board, obs, atol=1e-6)
    actions = np.array([[0.05], [1.5], [-0.7]], np.float32)
    ends = set()
    for _ in range(40):
        one = ours.step(actions)
        board[:] = one[0]
        two = theirs.step(actions)
        for mine, real in zip(one[:4], two[:4], strict=True):
            assert mine.shape == real.shape
            np.testing.assert_allclose(mine, real, atol=1e-4)
        assert [x.dtype for x in one[1:4]] == [x.dtype for x in two[1:4]]
        assert all(one[0][i] in ours.single_observation_space for i in range(3))
        ends |= set(zip(one[2].tolist(), one[3].tolist(), strict=True))
        modes_own = {name for name in two[4] if name.strip("_") in ("final_obs", "final_info", "episode")}
        assert set(one[4]) == modes_own
        for name in modes_own - {"final_info", "episode", "final_obs"}:
            assert one[4][name].dtype == two[4][name].dtype
            assert one[4][name].tolist() == two[4][name].tolist()
        if "final_obs" in modes_own:
            for mine, real in zip(one[4]["final_obs"], two[4]["final_obs"], strict=True):
                assert (mine is None) == (real is None)
                if mine is not None:
                    np.testing.assert_allclose(mine, real, atol=1e-4)
        done = one[2] | one[3]
        if "episode" in modes_own and mode is not AutoresetMode.DISABLED:
            for part in ("r", "l"):
                np.testing.assert_array_equal(one[4]["episode"][part], two[4]["episode"][part])
        if mode is AutoresetMode.DISABLED and done.any():
            board[:], info = ours.reset(options={"reset_mask": done})
            obs, _ = theirs.reset(options={"reset_mask": done.copy()})
            assert info == {}
            np.testing.assert_allclose(board, obs, atol=1e-4)
    assert ends == {(False, False), (True, False), (False, True)}


class Model:
    """Do in plain Python what one :class:`Toy` has to do."""

    def __init__(self, limit: int) -> None:
        self.limit = limit

    def begin(self, obs: np.ndarray) -> None:
        self.birth, self.t = float(obs[0]), 0
        assert obs[1] == 0

    def step(self, action: float) -> tuple[list[float], float, bool, bool, bool]:
        """Observation, reward, terminated, truncated and broken after an action in the task's units."""
        if action / 2 > POISON:
            self.limit_now = self.t + 1
            return [self.birth, self.t], 0, False, True, True
        self.t += 1
        falls = self.t >= 1 + np.floor(np.float32(self.birth) * np.float32(12))
        return [self.birth, self.t], self.birth + self.t + action / 2, falls, self.t >= self.limit, False


POISON, COUNT = 0.9, 40


@pytest.mark.parametrize("mode", MODES)
def test_episodes_of_many_are_those_of_one_each_from_a_fresh_state_and_finite(mode: AutoresetMode) -> None:
    env = interface.VectorEnv(Toy(longest=12, poison=POISON), COUNT, 8, mode)
    models = [Model(8) for _ in range(COUNT)]
    obs, _ = env.reset(seed=0)
    births = []

    def begin(i: int) -> None:
        models[i].begin(obs[i])
        births.append(models[i].birth)

    for i in range(COUNT):
        begin(i)
    rng, waits, seen = np.random.default_rng(0), np.zeros(COUNT, bool), np.zeros(3, int)
    for _ in range(60):
        actions = rng.uniform(-2, 2, (COUNT, 1)).astype(np.float32)
        obs, reward, terminated, truncated, info = env.step(actions)
        assert np.isfinite(obs).all()
        assert np.isfinite(reward).all()
        info_now = info.get("final_info", info)
        last = info.get("final_obs", np.full(COUNT, None))
        for i in range(COUNT):
            if waits[i]:
                assert (reward[i], terminated[i], truncated[i]) == (0, False, False)
                begin(i)
                waits[i] = False
                continue
            final, expected, falls, cut, broken = models[i].step(float(actions[i, 0]))
            np.testing.assert_allclose(reward[i], expected, rtol=1e-5, atol=1e-6)
            assert (terminated[i], truncated[i]) == (falls, cut)
            assert bool(info_now.get("broken", np.zeros(COUNT))[i]) == broken
            ended = falls or cut
            same_step = mode is AutoresetMode.SAME_STEP and ended
            np.testing.assert_allclose(last[i] if same_step else obs[i], final)
            assert same_step or last[i] is None
            seen += [falls, cut and not broken, broken]
            if same_step:
                begin(i)
            waits[i] = ended and mode is AutoresetMode.NEXT_STEP
        over = terminated | truncated
        if mode is AutoresetMode.DISABLED and over.any():
            with pytest.raises(ResetNeeded, match="reset_mask"):
                env.step(actions)
            before = obs.copy()
            obs, _ = env.reset(options={"reset_mask": over})
            np.testing.assert_array_equal(obs[~over], before[~over])
            for i in np.flatnonzero(over):
                begin(i)
    assert (seen > 20).all()
    assert len(set(births)) == len(births)


def test_an_environment_depends_on_its_own_seed_and_actions_alone() -> None:
    def birth(env: Any, **options: Any) -> list[float]:
        return env.reset(**options)[0][:, 0].tolist()

    env = interface.VectorEnv(Toy(longest=3), 3, 5, AutoresetMode.SAME_STEP)
    first = birth(env, seed=7)
    assert birth(env, seed=[9, 8, 7]) == [*first[2:0:-1], first[0]]
    assert birth(env, seed=7) == first
    second = birth(env)
    assert not set(second) & set(first)
    assert birth(env, seed=[None, 7, None])[1] == first[0]
    assert birth(env, seed=7) == first
    assert birth(env) == second
    assert birth(interface.VectorEnv(Toy(longest=3), 3, 5)) != birth(
        interface.VectorEnv(Toy(longest=3), 3, 5)
    )


@pytest.mark.parametrize(
    "mask", [[True, False], np.ones(2), np.ones(3, bool), np.zeros(2, bool), np.ones((2, 1), bool)]
)
def test_a_wrong_mask_is_refused_as_gymnasium_does(mask: Any) -> None:
    theirs = SyncVectorEnv([lambda: gymnasium.make("CartPole-v1")] * 2)
    ours = interface.VectorEnv(Toy(), 2, 5)
    errors = []
    for env in (theirs, ours):
        env.reset(seed=0)
        with pytest.raises((TypeError, ValueError)) as caught:
            env.reset(options={"reset_mask": mask})
        errors.append(caught.type)
    assert errors[0] == errors[1]


def test_wrong_calls_are_refused() -> None:
    env = interface.VectorEnv(Toy(), 2, 5)
    with pytest.raises(ResetNeeded):
        env.step(np.zeros((2, 1)))
    env.reset(seed=0)
    with pytest.raises(ValueError, match=r"\(1, 2\)"):
        env.step(np.zeros((1, 2)))
    with pytest.raises(ValueError, match="3 seeds"):
        env.reset(seed=[1, 2, 3])


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_one_passes_gymnasiums_check() -> None:
    env = interface.Env(task_of(PENDULUM), 1000)
    check_env(env, skip_render_check=True)
    env.observation_space = gymnasium.spaces.Box(5, 6, (4,), np.float32)
    with pytest.raises(AssertionError):  # the check can fail
        check_env(env, skip_render_check=True)


def test_what_is_broken_from_the_start_or_has_a_key_in_its_state_is_stepped() -> None:
    env = interface.VectorEnv(AllBreak(), 2, 5, AutoresetMode.SAME_STEP)
    env.reset(seed=0)
    for _ in range(3):
        obs, reward, _, truncated, info = env.step(np.zeros((2, 1)))
        assert np.isfinite(obs).all()
        assert reward.tolist() == [0, 0]
        assert truncated.all()
        assert info["final_info"]["broken"].all()
    env = interface.VectorEnv(KeyState(), 2, 2)
    env.reset(seed=0)
    for _ in range(4):
        assert np.isfinite(env.step(np.zeros((2, 1)))[0]).all()


# Brax.


def test_brax_wraps_it_with_truncation_and_the_true_last_observation() -> None:
    env = training.EvalWrapper(training.wrap(BraxEnv(Toy(longest=12, poison=POISON)), episode_length=8))
    assert (env.observation_size, env.action_size, env.backend) == (2, 1, "mjx")
    count, step = 16, jax.jit(env.step)
    state = jax.jit(env.reset)(jax.random.split(jax.random.PRNGKey(0), count))
    models = [Model(8) for _ in range(count)]
    first = np.asarray(state.obs)
    for i in range(count):
        models[i].begin(first[i])
    rng, seen = np.random.default_rng(0), np.zeros(3, int)
    for _ in range(50):
        actions = rng.uniform(-1, 1, (count, 1)).astype(np.float32)
        state = step(state, actions)
        got = jax.device_get((state.obs, state.reward, state.done, state.info, state.metrics))
        obs, reward, done, info, metrics = got
        for i in range(count):
            final, expected, falls, cut, broken = models[i].step(2 * float(actions[i, 0]))
            cut = cut and not broken
            np.testing.assert_allclose(reward[i], expected, rtol=1e-5)
            np.testing.assert_allclose(info["final_observation"][i], final)
            assert done[i] == (falls or cut or broken)
            assert info["truncation"][i] == (cut and not falls)
            assert metrics["broken"][i] == broken
            np.testing.assert_allclose(obs[i], first[i] if done[i] else final)
            seen += [falls, cut and not falls, broken]
            if done[i]:
                models[i].begin(obs[i])
    assert (seen > 5).all()


class Typed(Point):
    """It takes only the keys that a task is promised."""

    def reset(self, key: jax.Array) -> Any:
        assert jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
        return super().reset(key)


def test_both_kinds_of_keys_begin_the_same_episode() -> None:
    keys = jax.random.PRNGKey(3), jax.random.key(3)
    brax = [BraxEnv(Typed()).reset(key).obs for key in keys]
    gymnax = [GymnaxEnv(Typed(), 10).reset(key)[0] for key in keys]
    assert {tuple(obs.tolist()) for obs in brax + gymnax} == {tuple(brax[0].tolist())}


# Gymnax.


def test_gymnax_steps_as_the_task_does_and_begins_each_episode_afresh() -> None:
    count, limit = 16, 8
    env = GymnaxEnv(Toy(longest=12, poison=POISON), time_limit=99)
    params = env.default_params.replace(max_steps_in_episode=limit)
    assert env.default_params.max_steps_in_episode == 99
    reset, step = jax.vmap(env.reset, (0, None)), jax.vmap(env.step, (0, 0, 0, None))
    key, start = jax.random.split(jax.random.PRNGKey(0))
    obs, state = reset(jax.random.split(start, count), params)
    models = [Model(limit) for _ in range(count)]
    births = []

    def begin(i: int) -> None:
        models[i].begin(np.asarray(obs[i]))
        births.append(models[i].birth)

    for i in range(count):
        begin(i)
    rng, seen = np.random.default_rng(0), np.zeros(3, int)
    for _ in range(50):
        key, now = jax.random.split(key)
        actions = rng.uniform(-1, 1, (count, 1)).astype(np.float32)
        out = step(jax.random.split(now, count), state, actions, params)
        obs, state, reward, done, info = jax.device_get(out)
        np.testing.assert_array_equal(jax.vmap(env.get_obs)(state), obs)
        for i in range(count):
            final, expected, falls, cut, broken = models[i].step(2 * float(actions[i, 0]))
            np.testing.assert_allclose(reward[i], expected, rtol=1e-5)
            np.testing.assert_allclose(info["final_observation"][i], final)
            assert (info["terminated"][i], info["truncated"][i], info["broken"][i]) == (falls, cut, broken)
            assert info["discount"][i] == (not falls)
            assert done[i] == (falls or cut)
            seen += [falls, cut and not broken, broken]
            if done[i]:
                begin(i)
            else:
                np.testing.assert_allclose(obs[i], final)
        assert not env.is_terminal(jax.tree.map(lambda x: x[0], state), params)
    assert (seen > 5).all()
    assert len(set(births)) == len(births)


def test_without_gymnax_its_spaces_name_it() -> None:
    program = (
        "import sys; sys.modules['gymnax'] = None\n"
        "from td3_brax.envs.interfaces.gymnax import GymnaxEnv\n"
        "from td3_brax.option import ConfigError\n"
        "from toy import Toy\n"
        "try: GymnaxEnv(Toy(), 5).action_space()\n"
        "except ConfigError as error: print(error)\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=HERE
    )
    assert "pip install 'gymnax<1'" in run.stdout


# The physics of a real task.


def test_brax_and_gymnax_step_the_real_task_as_it_steps_alone() -> None:
    task = task_of(PENDULUM)
    key, actions = jax.random.key(5), jax.random.uniform(jax.random.key(6), (8, 1), minval=-1, maxval=1)
    one, other = BraxEnv(task), GymnaxEnv(task, 100)

    def play(key: jax.Array, actions: jax.Array) -> Any:
        def step(carry: Any, action: jax.Array) -> Any:
            bare, brax, gymnax = carry
            out = task.step(bare, action)
            brax = one.step(brax, action)
            obs, gymnax, reward, *_ = other.step_env(key, gymnax, action, other.default_params)
            return (out.state, brax, gymnax), ((out.obs, out.reward), (brax.obs, brax.reward), (obs, reward))

        start = (task.reset(key)[0], one.reset(key), other.reset_env(key, other.default_params)[1])
        return jax.lax.scan(step, start, actions)[1]

    bare, brax, gymnax = jax.device_get(jax.jit(play)(key, actions))
    jax.tree.map(np.testing.assert_array_equal, bare, brax)
    jax.tree.map(np.testing.assert_array_equal, bare, gymnax)
    assert len(np.unique(bare[0][:, 1])) == 8


# By name.


def test_make_gives_each_kind_with_the_tasks_time_limit() -> None:
    assert isinstance(make("Reacher-v5", "brax"), BraxEnv)
    assert make("Reacher-v5", "gymnax").default_params.max_steps_in_episode == 50
    assert make(PENDULUM, "gymnax").default_params.max_steps_in_episode == 1000
    assert make("odd:Point", "gymnax", time_limit=7).default_params.max_steps_in_episode == 7
    assert isinstance(make("odd:Point", "gymnasium"), interface.Env)
    env = make("odd:Asymmetric", "gymnasium", num_envs=2, autoreset="same_step")
    assert env.autoreset_mode is AutoresetMode.SAME_STEP
    assert env.action_space == gymnasium.spaces.Box(0, 10, (2, 1), np.float32)
    env = make("odd:Point", "gymnasium", num_envs=2, autoreset=AutoresetMode.DISABLED)
    assert env.metadata["autoreset_mode"] is AutoresetMode.DISABLED


@pytest.mark.parametrize(
    ("name", "kind", "options", "said"),
    [
        (PENDULUM, "gymnasum", {}, "--kind=gymnasum: .*did you mean gymnasium"),
        ("HalfCheeta-v5", "brax", {}, "--env=HalfCheeta-v5: .*did you mean HalfCheetah-v5"),
        (PENDULUM, "gymnasium", {"num_envs": 2, "autoreset": "samestep"}, "did you mean same_step"),
        (PENDULUM, "gymnasium", {"autoreset": "same_step"}, "--autoreset=same_step: .*num_envs"),
        (PENDULUM, "gymnasium", {"num_envs": 0}, "--num_envs=0: must be above 0"),
        (PENDULUM, "gymnasium", {"time_limit": 1.5}, "--time_limit=1.5: must be a whole number"),
        (PENDULUM, "gymnax", {"num_envs": 2}, "--num_envs=2: .*jax.vmap"),
        (PENDULUM, "brax", {"time_limit": 2}, "--time_limit=2: .*episode_length"),
        (PENDULUM, "brax", {"env_args": {"reset_noise": 1}}, "reset_noise_scale"),
        (PENDULUM, "brax", {"physics": "fastest"}, "--physics=fastest: .*did you mean fast"),
    ],
)
def test_wrong_names_and_values_are_one_line(name: str, kind: str, options: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        make(name, kind, **options)
    assert "\n" not in str(caught.value)


def test_only_the_library_of_the_kind_is_imported() -> None:
    program = (
        "import sys, td3_brax.envs\n"
        "assert not {'jax', 'mujoco', 'gymnasium'} & set(sys.modules)\n"
        "td3_brax.envs.make('odd:Point', kind='gymnax')\n"
        "assert not {'brax', 'gymnasium.vector', 'gymnax'} & set(sys.modules)\n"
        "td3_brax.envs.make('odd:Point', kind='gymnasium')\n"
        "assert not {'brax', 'gymnax'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=HERE)


# The page.


@pytest.mark.parametrize("kind", ["gymnasium", "brax"])
def test_the_pages_examples_run(kind: str) -> None:
    page = (HERE.parent / "docs" / "other-trainers.md").read_text()
    (code,) = (
        code for code in re.findall(r"^```python\n(.*?)^```", page, re.M | re.S) if f'kind="{kind}"' in code
    )
    short = code.replace("Ant-v5", PENDULUM).replace("1024", "4").replace("range(100)", "range(20)")
    names: dict[str, Any] = {}
    exec(short.replace("episode_length=1000", "episode_length=20"), names)
    if kind == "brax":
        assert names["cut"].shape == (4,)
        assert names["cut"].any()
    else:
        assert names["final_obs"].shape[1] == 4
