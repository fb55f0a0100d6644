"""Train on your own MJX task: swing up a pole by moving the cart below it, and keep it upright.

python -m td3_brax.examples.own_task
"""

import jax
import jax.numpy as jnp
import mujoco
import numpy as np

import td3_brax
from td3_brax.envs.physics.mjx.patched import mjx
from td3_brax.envs.task import Step

XML = """
<mujoco>
  <option timestep="0.04" integrator="implicitfast"><flag constraint="disable"/></option>
  <worldbody>
    <light pos="0 -2 3"/>
    <body name="cart">
      <joint name="slide" type="slide" axis="1 0 0" stiffness="5" damping="1"/>
      <geom type="box" size="0.2 0.1 0.08" mass="1"/>
      <body><joint name="hinge" type="hinge" axis="0 1 0" damping="0.01"/>
        <geom type="capsule" fromto="0 0 0 0 0 0.6" size="0.03" mass="0.2"/></body>
    </body>
  </worldbody>
  <actuator><motor joint="slide" gear="20" ctrlrange="-1 1" ctrllimited="true"/></actuator>
</mujoco>"""


class SwingUp:
    """A :class:`td3_brax.envs.task.Task` whose reward is 0 hanging and 1 upright. It never terminates.

    Rewards are multiplied by ``scale``, then ``offset`` is added: ``--env_args '{"scale": 1000}'``.
    """

    name, obs_size, action_size, open_loops = "swing_up", 5, 1, False
    action_low, action_high = -np.ones(1, np.float32), np.ones(1, np.float32)

    def __init__(self, scale: float = 1.0, offset: float = 0.0) -> None:
        self.scale, self.offset = scale, offset
        self.model = mujoco.MjModel.from_xml_string(XML)
        self.dt = self.model.opt.timestep
        self._mjx = mjx.put_model(self.model)

    def _obs(self, qpos: jax.Array, qvel: jax.Array) -> jax.Array:
        return jnp.concatenate([qpos[:1], jnp.cos(qpos[1:]), jnp.sin(qpos[1:]), qvel])

    def reset(self, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Draw an initial state: hanging down, nearly at rest."""
        state = jnp.array([0, jnp.pi, 0, 0]) + 0.05 * jax.random.normal(key, (4,))
        return state, self._obs(state[:2], state[2:])

    def step(self, state: jax.Array, action: jax.Array) -> Step:
        """Make one environment step. The state is [qpos, qvel]."""
        data = mjx.make_data(self._mjx).replace(qpos=state[:2], qvel=state[2:], ctrl=action)
        after = mjx.step(self._mjx, data)
        reward = self.scale * (1 + jnp.cos(after.qpos[1])) / 2 + self.offset
        obs = self._obs(after.qpos, after.qvel)
        return Step(jnp.concatenate([after.qpos, after.qvel]), obs, reward, jnp.bool_(False))

    def shown(self, state: jax.Array, action: jax.Array) -> tuple[Step, jax.Array]:
        """Make one step and return the model's positions, for films."""
        out = self.step(state, action)
        return out, out.state[:2]


if __name__ == "__main__":
    task = "td3_brax.examples.own_task:SwingUp"
    run = td3_brax.fit(env=task, time_limit=250, total_env_steps=300_000, eval_every=50_000)
    print(f"td3-brax render {run.out} --html")
