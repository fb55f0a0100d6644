"""Contract 1: TD3 is TD3. An independent NumPy reference, written from the paper's equations."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from td3_brax.algorithm import learner
from td3_brax.algorithm.apply import apply_by_kernels
from td3_brax.algorithm.learner import TD3, averaging_step
from td3_brax.algorithm.networks import Actor, Critic
from td3_brax.algorithm.packing import unpack
from td3_brax.algorithm.state import Batch, Hyper

OBS, ACTION, HIDDEN, BATCH, UPDATES = 5, 3, (16, 12), 32, 50
HYPER = {
    "gamma": 0.97,
    "tau": 0.03,
    "actor_lr": 2e-3,
    "critic_lr": 3e-3,
    "lr_decay": 0.0,
    "exploration_noise": 0.1,
    "exploration_noise_spread": 0.0,
    "target_noise": 0.4,
    "target_noise_clip": 0.5,
    "eval_tau": 0.4,
}


def forward(layers: list[tuple[np.ndarray, np.ndarray]], x: np.ndarray) -> tuple[np.ndarray, list[Any]]:
    """A ReLU network and the inputs of its layers."""
    inputs = []
    for i, (w, b) in enumerate(layers):
        x = np.maximum(x, 0) if i else x
        inputs.append(x)
        x = x @ w + b
    return x, inputs


def backward(layers: list[Any], inputs: list[np.ndarray], dy: np.ndarray) -> tuple[list[Any], np.ndarray]:
    """Gradients of the layers and of the network's input, for dy, the gradient of its output."""
    grads = []
    for i in reversed(range(len(layers))):
        grads.append((inputs[i].T @ dy, dy.sum(0)))
        dy = dy @ layers[i][0].T
        if i:
            dy = dy * (inputs[i] > 0)
    return grads[::-1], dy


class Adam:
    def __init__(self, layers: list[Any], lr: float) -> None:
        self.lr, self.t = lr, 0
        self.m = [[np.zeros_like(p) for p in layer] for layer in layers]
        self.v = [[np.zeros_like(p) for p in layer] for layer in layers]

    def step(self, layers: list[Any], grads: list[Any]) -> list[Any]:
        self.t += 1
        new = []
        for i, layer in enumerate(layers):
            out = []
            for j, p in enumerate(layer):
                g = grads[i][j]
                self.m[i][j] = 0.9 * self.m[i][j] + 0.1 * g
                self.v[i][j] = 0.999 * self.v[i][j] + 0.001 * g**2
                m, v = self.m[i][j] / (1 - 0.9**self.t), self.v[i][j] / (1 - 0.999**self.t)
                out.append(p - self.lr * m / (np.sqrt(v) + 1e-8))
            new.append(tuple(out))
        return new


class Reference:
    """Algorithm 1 of the paper, one update at a time; value histograms where critics have many outputs.

    Its actions reach to ``bound``, and its noise is in their units, as the paper's; the learner's reach to 1.
    """

    first_spread: float
    """Spread of the grid at the first update."""

    def __init__(
        self, actor: list[Any], critics: list[list[Any]], delay: int, hyper: dict[str, float], bound: float
    ):
        self.bound = bound
        self.scale = self.scale_target = (0.0, 0.0)
        self.actor, self.critics, self.delay, self.h = actor, critics, delay, hyper
        self.actor_target, self.critic_targets = list(actor), [list(c) for c in critics]
        self.actor_eval = list(actor)
        self.actor_adam = Adam(actor, hyper["actor_lr"])
        self.critic_adams = [Adam(c, hyper["critic_lr"]) for c in critics]
        self.t = 0

    def value(self, out: np.ndarray, scale: tuple[float, float]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Values, their gradient with respect to the outputs, and the outputs' shares."""
        bins = out.shape[1]
        if bins == 1:
            return out[:, 0], np.ones_like(out), out
        step = np.arcsinh(200) / ((bins - 1) / 2 - 3)
        atoms = 0.5 * np.sinh(step * (np.arange(bins) - (bins - 1) / 2))
        atoms /= np.exp((0.75 * step) ** 2 / 2) * np.sinh(step / 2) / (step / 2)
        shares = np.exp(out) / (1 + atoms**2)
        shares /= shares.sum(1, keepdims=True)
        center, spread = scale
        q = center + spread * (shares @ atoms)
        return q, shares * (center + spread * atoms - q[:, None]), shares

    def critic_error(self, out: np.ndarray, y: np.ndarray) -> tuple[float, np.ndarray]:
        """The loss, and its gradient with respect to the outputs."""
        n, bins = out.shape
        q, _, shares = self.value(out, self.scale)
        if bins == 1:
            return ((q - y) ** 2).mean(), (2 * (q - y) / n)[:, None]
        step = np.arcsinh(200) / ((bins - 1) / 2 - 3)
        wanted = np.zeros_like(out)
        for i, target in enumerate(y):
            place = np.arcsinh((target - self.scale[0]) / self.scale[1] / 0.5) / step + (bins - 1) / 2
            below = [math.erf((e - 0.5 - place) / (2**0.5 * 0.75)) for e in range(bins + 1)]
            wanted[i] = np.diff(below) / (below[-1] - below[0])
        return -(wanted * np.log(shares)).sum(1).mean(), (shares - wanted) / n

    def update(self, b: Batch, noise: np.ndarray) -> tuple[float, float | None]:
        h, n = self.h, len(b.reward)
        bound = self.bound
        a2 = bound * np.tanh(forward(self.actor_target, b.next_obs)[0])
        clip = bound * h["target_noise_clip"]
        eps = np.clip(bound * noise * h["target_noise"], -clip, clip)
        x2 = np.concatenate([b.next_obs, np.clip(a2 + eps, -bound, bound)], 1)
        next_q = [self.value(forward(c, x2)[0], self.scale_target)[0] for c in self.critic_targets]
        lowest = np.min(next_q, axis=0)
        y = b.reward + h["gamma"] ** b.steps * (1 - b.terminated) * lowest
        if self.scale[1] == 0:
            # The learner makes all targets up to the actor's next update at once.
            self.scale = self.scale[0], self.first_spread
        center, spread = self.scale
        self.scale = center, max(spread, np.abs(y - center).max() / 100)
        x, loss = np.concatenate([b.obs, bound * b.action], 1), 0.0
        for k, c in enumerate(self.critics):
            out, inputs = forward(c, x)
            error, d_out = self.critic_error(out, y)
            loss += error
            grads, _ = backward(c, inputs, d_out)
            self.critics[k] = self.critic_adams[k].step(c, grads)
        center, spread = self.scale
        x = (y - center) / spread
        center += 0.01 * spread * x.mean()
        self.scale = center, max(spread * (1 + 0.01 * (x.var() - 1)) ** 0.5, 1e-3 * abs(center))
        self.t += 1
        if self.t % self.delay:
            return loss, None
        raw, actor_inputs = forward(self.actor, b.obs)
        action = bound * np.tanh(raw)
        out, inputs = forward(self.critics[0], np.concatenate([b.obs, action], 1))
        q, d_out, _ = self.value(out, self.scale)
        if len(out[0]) > 1:
            d_out = d_out / self.scale[1]
        _, dx = backward(self.critics[0], inputs, -d_out / n)
        d_action = dx[:, b.obs.shape[1] :]
        grads, _ = backward(self.actor, actor_inputs, d_action * bound * (1 - np.tanh(raw) ** 2))
        self.actor = self.actor_adam.step(self.actor, grads)
        mix = lambda t, p, tau=h["tau"]: [  # noqa: E731
            tuple(tau * x + (1 - tau) * y for x, y in zip(lp, lt, strict=True))
            for lt, lp in zip(t, p, strict=True)
        ]
        actor_updates = self.t // self.delay
        self.actor_eval = mix(self.actor_eval, self.actor, max(h["eval_tau"], 9 / (actor_updates + 8)))
        self.actor_target = mix(self.actor_target, self.actor)
        self.critic_targets = [mix(t, c) for t, c in zip(self.critic_targets, self.critics, strict=True)]
        tau = h["tau"]
        self.scale_target = tuple(
            tau * x + (1 - tau) * y for x, y in zip(self.scale, self.scale_target, strict=True)
        )
        return loss, -q.mean()


def layers_of(params: Any, critic: int | None = None) -> list[tuple[np.ndarray, np.ndarray]]:
    """A flax tree as a list of (weights, biases)."""
    tree = params["params"]["mlp"]
    pick = (lambda x: np.asarray(x)) if critic is None else (lambda x: np.asarray(x)[critic])
    return [(pick(tree[f"layer_{i}"]["kernel"]), pick(tree[f"layer_{i}"]["bias"])) for i in range(len(tree))]


def make_batches(rng: np.random.Generator, dtype: Any) -> tuple[Batch, np.ndarray]:
    normal = lambda *s: rng.normal(size=(UPDATES, BATCH, *s)).astype(dtype)  # noqa: E731
    batches = Batch(
        obs=normal(OBS),
        action=np.clip(normal(ACTION), -1, 1),
        reward=normal(),
        next_obs=normal(OBS),
        terminated=(rng.random((UPDATES, BATCH)) < 0.2).astype(dtype),
        steps=rng.integers(1, 4, (UPDATES, BATCH)).astype(dtype),
    )
    return batches, normal(ACTION)


def run_both(
    dtype: Any,
    delay: int,
    critics: int,
    changes: dict[str, float],
    cuts: tuple[int, ...] = (),
    num_atoms: int = 1,
    packed: bool = False,
    bound: float = 1.0,
):
    """The learner's and the reference's parameters after 50 updates, the learner's in blocks ``cuts``."""
    floats = HYPER | changes
    critic = Critic(HIDDEN, critics, num_atoms, action_scale=bound)
    td3 = TD3(Actor(HIDDEN, ACTION), critic, delay, packed=packed)
    learner = td3.init(jax.random.key(3), OBS, ACTION)
    obs, action = jnp.zeros(OBS), jnp.zeros(ACTION)

    def actor_layers(params):
        return layers_of(unpack(td3.actor, params, obs))

    def critic_layers(params, k):
        return layers_of(unpack(td3.critic, params, obs, action), k)

    learner = jax.tree.map(lambda x: x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x, learner)
    hyper = Hyper(
        **{k: jnp.asarray(v, dtype) for k, v in floats.items()},
        warmup_env_steps=0,
        learn_from=0,
        total_env_steps=1,
    )
    batches, noise = make_batches(np.random.default_rng(7), dtype)
    wide = jax.tree.map(lambda x: np.asarray(x, np.float64), (batches, noise))
    reference = Reference(
        [tuple(np.asarray(p, np.float64) for p in layer) for layer in actor_layers(learner.actor)],
        [
            [tuple(np.asarray(p, np.float64) for p in layer) for layer in critic_layers(learner.critic, k)]
            for k in range(critics)
        ],
        delay,
        floats,
        bound,
    )
    # Before the first update all values are alike: they solve the Bellman equation of the block's mean.
    block = jax.tree.map(lambda x: x[: (*cuts, UPDATES)[0]], wide[0])
    discount = floats["gamma"] ** block.steps * (1 - block.terminated)
    center = block.reward.mean() / (1 - discount.mean())
    reference.scale = reference.scale_target = center, 0.0
    # What comes before the actor's next update is made together.
    reference.first_spread = np.abs((block.reward + discount * center - center)[:delay]).max() / 3
    losses = [reference.update(*jax.tree.map(lambda x, i=i: x[i], wide)) for i in range(UPDATES)]

    step = jax.jit(td3.update_block, static_argnames="done")
    stats = []
    for start, stop in zip((0, *cuts), (*cuts, UPDATES), strict=True):
        part = jax.tree.map(lambda x, s=slice(start, stop): x[s], (batches, noise))
        learner, s = step(learner, hyper, *part, True, done=start % delay)
        stats.append(jax.tree.map(np.asarray, s))
    if num_atoms > 1:
        for ours, wanted in (
            (learner.value_scale, reference.scale),
            (learner.value_scale_target, reference.scale_target),
        ):
            np.testing.assert_allclose([ours.center, ours.spread], wanted, rtol=1e-9)
    pairs = [
        (actor_layers(learner.actor), reference.actor),
        (actor_layers(learner.actor_target), reference.actor_target),
        (actor_layers(learner.actor_eval), reference.actor_eval),
    ]
    for k in range(critics):
        pairs.append((critic_layers(learner.critic, k), reference.critics[k]))
        pairs.append((critic_layers(learner.critic_target, k), reference.critic_targets[k]))
    error = max(
        np.abs(got - want).max()
        for ours, layers in pairs
        for got_layer, want_layer in zip(ours, layers, strict=True)
        for got, want in zip(got_layer, want_layer, strict=True)
    )
    critic_loss = sum(float(s.critic_loss) for s in stats)
    actor_loss = sum(float(s.actor_loss) for s in stats)
    wanted = sum(c for c, _ in losses), sum(a for _, a in losses if a is not None)
    return error, (critic_loss, actor_loss), wanted


SETTINGS = {
    "td3": (2, 2, {}),
    "delay of 3": (3, 2, {}),
    "without delay": (1, 2, {}),
    "without smoothing": (2, 2, {"target_noise": 0.0}),
    "without clipped double Q": (2, 1, {}),
    "our-ddpg": (1, 1, {"target_noise": 0.0}),
}


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("cuts", [(), (7, 12, 41)], ids=["one block", "uneven blocks"])
@pytest.mark.parametrize("packed", [False, True], ids=["trees", "packed"])
def test_fifty_updates_equal_the_reference_in_float64(setting, cuts, packed):
    with jax.enable_x64(True):
        error, got, wanted = run_both(np.float64, *SETTINGS[setting], cuts, packed=packed)
    assert error < 1e-9
    assert got == pytest.approx(wanted, abs=1e-7)


@pytest.mark.parametrize("packed", [False, True], ids=["trees", "packed"])
def test_fifty_updates_with_value_histograms_equal_the_reference_in_float64(packed):
    with jax.enable_x64(True):
        error, got, wanted = run_both(np.float64, *SETTINGS["td3"], num_atoms=21, packed=packed)
    assert error < 1e-9
    assert got == pytest.approx(wanted, abs=1e-7)


def test_fifty_updates_with_critics_that_see_the_tasks_units_equal_the_reference_in_float64():
    with jax.enable_x64(True):
        error, got, wanted = run_both(np.float64, *SETTINGS["td3"], bound=3.0)
    assert error < 1e-9
    assert got == pytest.approx(wanted, abs=1e-7)


def test_fifty_updates_by_a_gpus_kernels_equal_the_reference_in_float64(monkeypatch):
    """Their arithmetic, run by XLA here."""
    traced = []

    def by_kernels(copies, network, *args):
        traced.append(copies)
        return apply_by_kernels(network, copies, *args, interpret=True)

    monkeypatch.setattr(learner, "apply", partial(by_kernels, None))
    monkeypatch.setattr(learner, "apply_first", lambda *args: by_kernels(1, *args)[0])
    jax.clear_caches()  # what was traced without them
    with jax.enable_x64(True):
        error, got, wanted = run_both(np.float64, *SETTINGS["td3"], packed=True)
    jax.clear_caches()
    assert set(traced) == {None, 1}
    assert error < 1e-9
    assert got == pytest.approx(wanted, abs=1e-7)


def test_fifty_updates_stay_close_in_float32():
    # Rounding grows through 50 Adam steps of at most 3e-3 each; measured 1.0e-6.
    error, got, wanted = run_both(np.float32, *SETTINGS["td3"])
    assert error < 2e-5
    assert got == pytest.approx(wanted, rel=1e-4)


@pytest.mark.parametrize(
    ("setting", "wrong"),
    [
        ("td3", {"gamma": 0.98}),
        ("td3", {"target_noise_clip": 0.6}),
        ("td3", {"tau": 0.031}),
        ("td3", {"eval_tau": 0.41}),
    ],
)
def test_the_reference_tells_a_wrong_setting(setting, wrong, monkeypatch):
    delay, critics, _ = SETTINGS[setting]
    original = Reference.__init__
    monkeypatch.setattr(
        Reference, "__init__", lambda self, a, c, d, h, b: original(self, a, c, d, h | wrong, b)
    )
    with jax.enable_x64(True):
        error, *_ = run_both(np.float64, delay, critics, {})
    assert error > 1e-6


def test_inactive_updates_change_nothing():
    td3 = TD3(Actor(HIDDEN, ACTION), Critic(HIDDEN, 2), 2)
    learner = td3.init(jax.random.key(0), OBS, ACTION)
    batches, noise = make_batches(np.random.default_rng(0), np.float32)
    hyper = Hyper(
        **{k: jnp.float32(v) for k, v in HYPER.items()}, warmup_env_steps=0, learn_from=0, total_env_steps=1
    )
    after, stats = jax.jit(td3.update_block)(learner, hyper, batches, noise, False)
    jax.tree.map(np.testing.assert_array_equal, after, learner)
    assert not any(jax.tree.leaves(stats)), "what was not made counts in no mean"


def test_initial_weights_follow_the_authors_framework():
    td3 = TD3(Actor((400, 300), 8), Critic((400, 300), 2), 2)
    learner = td3.init(jax.random.key(0), 27, 8)
    for tree, first in ((learner.actor, 27), (learner.critic, 35)):
        for i, fan_in in enumerate((first, 400, 300)):
            for leaf in tree["params"]["mlp"][f"layer_{i}"].values():
                bound = fan_in**-0.5
                assert np.abs(leaf).max() <= bound
                if leaf.size >= 300:
                    assert np.std(leaf) == pytest.approx(bound / 3**0.5, rel=0.1)
    kernel = learner.critic["params"]["mlp"]["layer_0"]["kernel"]
    assert not np.allclose(kernel[0], kernel[1])
    jax.tree.map(np.testing.assert_array_equal, learner.actor, learner.actor_target)
    jax.tree.map(np.testing.assert_array_equal, learner.critic, learner.critic_target)


def test_the_average_of_actors_forgets_where_it_began_and_follows_the_last_ones():
    """After any number of updates: no weight on the first parameters, and most on the last actors."""
    for count in (1, 10, 300, 30_000):
        weights = np.zeros(count + 1)  # of the initial parameters, and of each actor
        weights[0] = 1
        steps = np.asarray(averaging_step(jnp.float32(1e-3), jnp.arange(1, count + 1)), np.float64)
        for i, step in enumerate(steps, 1):
            weights[:i] *= 1 - step
            weights[i] = step
        assert weights.sum() == pytest.approx(1)
        assert weights[0] < 1e-6
        assert weights[-max(count // 2, 1) :].sum() > 0.98
        # In the end it is the average of eval_tau.
        assert steps[-1] == pytest.approx(max(1e-3, 9 / (count + 8)), rel=1e-5)
