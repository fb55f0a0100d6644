"""TD3 for one member (Fujimoto, van Hoof, Meger 2018, arXiv 1802.09477, Algorithm 1).

The fifteen steps of the algorithm are numbered here and in ``replay.py``:
 1 replay memory             (replay.init)       9 target r + gamma min Q    (targets)
 2 actor and target actor    (init)             10 both critics' Q(s, a)     (critic_step)
 3 critics, target critics   (init)             11 critic loss               (critic_step)
 4 sample a batch            (replay.sample)    12 Adam step of the critics  (critic_step)
 5 target actor's action a'  (targets)          13 Adam ascent of the actor  (actor_step)
 6 clipped noise on a'       (targets)          14 Polyak: target actor      (actor_step)
 7 target critics' Q(s', a') (targets)          15 Polyak: target critics    (actor_step)
 8 minimum of the two        (targets)
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from td3_brax.algorithm import values
from td3_brax.algorithm.apply import apply, apply_first
from td3_brax.algorithm.networks import Critic
from td3_brax.algorithm.packing import pack
from td3_brax.algorithm.shards import shard_max, shard_mean
from td3_brax.algorithm.state import Batch, Hyper, Learner, Params, UpdateStats, ValueScale

AVERAGING_ETA = 8
"""Eta of the polynomial-decay average of actors: it reaches back over about a ninth of the updates so far."""
ADAM = optax.scale_by_adam(b1=0.9, b2=0.999, eps=1e-8)


def adam_step(params: Params, opt: Any, grads: Params, lr: jax.Array) -> tuple[Params, Any]:
    """Make one Adam step (Kingma, Ba 2015, Algorithm 1); return the new parameters and optimiser state."""
    direction, opt = ADAM.update(grads, opt)
    return jax.tree.map(lambda p, d: p - lr * d, params, direction), opt


def all_finite(tree: Any) -> jax.Array:
    """Return whether every element of every leaf is finite, as a bool []."""
    return jnp.stack([jnp.isfinite(x).all() for x in jax.tree.leaves(tree)]).all()


def averaging_step(tau: jax.Array, count: jax.Array) -> jax.Array:
    """Return the step size [] with which a moving average takes in its ``count``-th [] value.

    The step size is larger at first, so that the average keeps no weight on its initial value and little on
    the first values (Shamir, Zhang 2013, section 4, with eta = ``AVERAGING_ETA``). Later it is ``tau``.
    """
    return jnp.maximum(tau, (AVERAGING_ETA + 1) / (count + AVERAGING_ETA).astype(tau.dtype))


def polyak(target: Params, params: Params, tau: jax.Array) -> Params:
    """Return ``tau * params + (1 - tau) * target``, leaf by leaf."""
    return jax.tree.map(lambda t, p: tau * p + (1 - tau) * t, target, params)


@dataclass(frozen=True)
class TD3:
    """The static part of the learner. Its methods take a :class:`Learner` and return a new one.

    With several ``shards``, each uses its part of a batch, and gradients are averaged over the shards.
    """

    actor: nn.Module
    critic: Critic
    policy_delay: int
    shards: int = 1
    packed: bool = False
    """Whether each network's parameters are packed into one array. This saves operations on an accelerator;
    on a CPU it would only cost copies."""

    def init(self, key: jax.Array, obs_size: int, action_size: int) -> Learner:
        """Steps 2 and 3: return new parameters, with targets equal to them."""
        actor_key, critic_key = jax.random.split(key)
        obs, action = jnp.zeros((1, obs_size)), jnp.zeros((1, action_size))
        store = pack if self.packed else lambda tree: tree
        # 2. An actor and a target actor, equal at the start.
        actor = store(self.actor.init(actor_key, obs))
        # 3. Two critics and two target critics, likewise.
        critic = store(self.critic.init(critic_key, obs, action))
        return Learner(
            actor=actor,
            actor_target=jax.tree.map(jnp.copy, actor),
            actor_eval=jax.tree.map(jnp.copy, actor),
            critic=critic,
            critic_target=jax.tree.map(jnp.copy, critic),
            actor_opt=ADAM.init(actor),
            critic_opt=ADAM.init(critic),
            value_scale=ValueScale(jnp.zeros(()), jnp.zeros(())),
            value_scale_target=ValueScale(jnp.zeros(()), jnp.zeros(())),
        )

    def targets(self, learner: Learner, hyper: Hyper, batch: Batch, noise: jax.Array) -> jax.Array:
        """Steps 5 to 9: return the targets [B] of the critics for a batch [B, ...].

        The target networks do not change between two updates of the actor, so one call serves all batches of
        that time.

        Args:
            noise: [B, A], standard normal.
        """
        # 5. The target actor chooses a' in s'.
        next_action = apply(self.actor, learner.actor_target, batch.next_obs)
        # 6. Add clipped Gaussian noise to a'; clip the sum to the action range.
        clip = hyper.target_noise_clip
        next_action = jnp.clip(next_action + jnp.clip(noise * hyper.target_noise, -clip, clip), -1, 1)
        # 7. Both target critics give Q(s', a').
        next_out = apply(self.critic, learner.critic_target, batch.next_obs, next_action)
        # 8. Their minimum.
        next_value = jnp.min(values.value(next_out, learner.value_scale_target), axis=0)
        # 9. The target; it does not bootstrap after a termination. In the paper, steps is 1.
        target = batch.reward + hyper.gamma**batch.steps * (1 - batch.terminated) * next_value
        if target.shape != batch.reward.shape:
            raise ValueError(f"target {target.shape} for rewards {batch.reward.shape}")
        return target

    def critic_step(
        self, learner: Learner, hyper: Hyper, batch: Batch, target: jax.Array
    ) -> tuple[Learner, jax.Array]:
        """Steps 10 to 12: update the critics on a batch [B, ...] with its targets [B].

        Returns:
            the learner, and statistics [2 num_critics + 1]: the loss of each critic, the mean Q of each
            critic, and the mean target.
        """
        scale = learner.value_scale

        def loss(params: Params) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
            # 10. Both critics give Q(s, a).
            out = apply(self.critic, params, batch.obs, batch.action)
            # 11. The sum of two mean squared errors.
            errors = values.loss(out, target, scale)
            return errors.mean(axis=1).sum(), (errors, values.value(out, scale))

        grads, (errors, q) = jax.grad(loss, has_aux=True)(learner.critic)
        if self.critic.num_atoms > 1:
            distance = values.distance(target, scale)
            moments = distance.mean(), jnp.square(distance).mean()
            grads, moments = shard_mean((grads, moments), self.shards)
            learner = replace(learner, value_scale=values.update_scale(scale, *moments))
        else:
            grads = shard_mean(grads, self.shards)
        # 12. One Adam step on the critics.
        critic, critic_opt = adam_step(learner.critic, learner.critic_opt, grads, hyper.critic_lr)
        learner = replace(learner, critic=critic, critic_opt=critic_opt)
        # One mean over all statistics is a single GPU operation; separate means would be one or two each.
        return learner, jnp.concatenate([errors, q, target[None]]).mean(axis=1)

    def actor_step(self, learner: Learner, hyper: Hyper, batch: Batch) -> tuple[Learner, jax.Array]:
        """Steps 13 to 15: update the actor and all targets; return the learner and the actor loss []."""

        def loss(params: Params) -> tuple[jax.Array, jax.Array]:
            action = apply(self.actor, params, batch.obs)
            out = apply_first(self.critic, learner.critic, batch.obs, action)
            return -jnp.mean(values.standardized_value(out)), -jnp.mean(
                values.value(out, learner.value_scale)
            )

        # 13. Every second update, one Adam ascent step of the actor on the first critic.
        grads, actor_loss = jax.grad(loss, has_aux=True)(learner.actor)
        grads = shard_mean(grads, self.shards)
        actor, actor_opt = adam_step(learner.actor, learner.actor_opt, grads, hyper.actor_lr)
        return replace(
            learner,
            actor=actor,
            actor_opt=actor_opt,
            # 14. Polyak averaging of the target actor,
            actor_target=polyak(learner.actor_target, actor, hyper.tau),
            # 15. and of both target critics.
            critic_target=polyak(learner.critic_target, learner.critic, hyper.tau),
            value_scale_target=polyak(learner.value_scale_target, learner.value_scale, hyper.tau),
            # Not in the paper: the average of the actors (Polyak, Juditsky 1992). With eval_tau = 1, the
            # actor.
            actor_eval=polyak(learner.actor_eval, actor, averaging_step(hyper.eval_tau, actor_opt.count)),
        ), actor_loss

    def start_values(self, learner: Learner, hyper: Hyper, batches: Batch) -> Learner:
        """Before the first update, move the centers of both value scales to the first batches' value."""
        discount = hyper.gamma**batches.steps * (1 - batches.terminated)
        means = jnp.stack([batches.reward, discount]).mean(axis=(1, 2))  # one GPU operation
        center = values.start(*shard_mean(means, self.shards))
        first = learner.value_scale.spread == 0

        def moved(scale: ValueScale) -> ValueScale:
            return replace(scale, center=jnp.where(first, center, scale.center))

        return replace(
            learner,
            value_scale=moved(learner.value_scale),
            value_scale_target=moved(learner.value_scale_target),
        )

    def update_block(
        self,
        learner: Learner,
        hyper: Hyper,
        batches: Batch,
        noise: jax.Array,
        active: jax.Array,
        done: int = 0,
    ) -> tuple[Learner, UpdateStats]:
        """Make U consecutive updates; every ``policy_delay``-th also updates the actor and the targets.

        The delay is unrolled inside a scan over whole delays, so no branch is compiled. If a gradient or its
        square is not finite, all U updates are undone. Adam's second moments keep such a value for ever, so a
        single check of them at the end suffices, and no update has to wait for a check of its gradients.

        Args:
            batches: leaves [U, B, ...].
            noise: [U, B, A], standard normal.
            active: [] bool; if false, the learner is returned unchanged.
            done: number of updates since the last update of the actor.
        Returns:
            the learner, and sums of the statistics over the updates that took effect.
        """
        delay, total = self.policy_delay, noise.shape[0]

        def updates(learner: Learner, xs: Any, done: int) -> tuple[Learner, jax.Array]:
            # All statistics are one array, because its sum is a single GPU operation.
            critic_stats, actor_loss_sum = jnp.zeros(2 * self.critic.num_critics + 1), jnp.zeros(())
            batches, noise = xs
            flat = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), (batches, noise))
            target = self.targets(learner, hyper, *flat).reshape(batches.reward.shape)
            if self.critic.num_atoms > 1:
                below, above = shard_max(
                    jnp.stack([-target.ravel(), target.ravel()]).max(axis=1), self.shards
                )
                scale = values.widen(learner.value_scale, -below, above)
                learner = replace(learner, value_scale=scale)
            for i in range(noise.shape[0]):
                batch = jax.tree.map(lambda x, i=i: x[i], batches)
                learner, stats = self.critic_step(learner, hyper, batch, target[i])
                critic_stats += stats
                if (done + i + 1) % delay == 0:
                    learner, actor_loss = self.actor_step(learner, hyper, batch)
                    actor_loss_sum += actor_loss
            return learner, jnp.append(critic_stats, actor_loss_sum)

        def span(start: int, stop: int) -> Any:
            return jax.tree.map(lambda x: x[start:stop], (batches, noise))

        head = min(-done % delay, total)
        cycles = (total - head) // delay
        tail = head + cycles * delay
        before, sums = learner, []
        if self.critic.num_atoms > 1:
            learner = self.start_values(learner, hyper, batches)
        if head:
            learner, stats = updates(learner, span(0, head), done)
            sums += [stats]
        if cycles:
            xs = jax.tree.map(lambda x: x.reshape((cycles, delay, *x.shape[1:])), span(head, tail))
            learner, stats = jax.lax.scan(lambda c, x: updates(c, x, 0), learner, xs)
            sums += [stats.sum(axis=0)]
        if tail < total:
            learner, stats = updates(learner, span(tail, total), 0)
            sums += [stats]
        count = self.critic.num_critics
        stats = sum(sums[1:], start=sums[0])
        finite = all_finite((learner.critic_opt.nu, learner.actor_opt.nu))
        made = active & finite
        learner = jax.tree.map(lambda new, old: jnp.where(made, new, old), learner, before)
        losses, q_means, others = jnp.split(jnp.where(made, stats, 0), [count, 2 * count])
        target, actor_loss = others
        return learner, UpdateStats(
            made=jnp.where(made, total, 0),
            actor_made=jnp.where(made, (done + total) // delay - done // delay, 0),
            critic_loss=losses.sum(),
            actor_loss=actor_loss,
            q_mean=q_means.mean(),
            target_q_mean=target,
            skipped=jnp.where(active & ~finite, total, 0),
        )
