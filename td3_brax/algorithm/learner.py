"""TD3 (Fujimoto, van Hoof, Meger 2018, arXiv 1802.09477, Algorithm 1), for one member.

The fifteen steps of the algorithm are numbered here and in ``replay.py``:
 1 replay memory            (replay.init)        9 the target r + gamma min  (targets)
 2 actor and its target     (init)              10 both critics' Q(s, a)     (critic_step)
 3 critics and their targets(init)              11 the critic loss           (critic_step)
 4 sample a batch           (replay.sample)     12 Adam step on the critics  (critic_step)
 5 the target's action      (targets)           13 Adam ascent of the actor  (actor_step)
 6 clipped noise on it      (targets)           14 Polyak: actor target      (actor_step)
 7 both targets' Q(s', a')  (targets)           15 Polyak: critic targets    (actor_step)
 8 their minimum            (targets)
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
from td3_brax.algorithm.shards import mean, most
from td3_brax.algorithm.state import Batch, Hyper, Learner, Params, UpdateStats, ValueScale

RECENT = 8
"""The average of actors reaches back over a ninth of their updates, until ``eval_tau`` is shorter."""
ADAM = optax.scale_by_adam(b1=0.9, b2=0.999, eps=1e-8)


def adam_step(params: Params, opt: Any, grads: Params, lr: jax.Array) -> tuple[Params, Any]:
    """One Adam step (Kingma, Ba 2015, Algorithm 1)."""
    direction, opt = ADAM.update(grads, opt)
    return jax.tree.map(lambda p, d: p - lr * d, params, direction), opt


def all_finite(tree: Any) -> jax.Array:
    """[] whether every element is finite."""
    return jnp.stack([jnp.isfinite(x).all() for x in jax.tree.leaves(tree)]).all()


def averaging_step(tau: jax.Array, count: jax.Array) -> jax.Array:
    """Return the step [] of an average that has taken in ``count`` [] values, the newest among them.

    It is ``tau`` in the end. Before, it is larger, so that no weight is left on where the average began, and
    little on the first values (Shamir, Zhang 2013, section 4, with eta = RECENT).
    """
    return jnp.maximum(tau, (RECENT + 1) / (count + RECENT).astype(tau.dtype))


def polyak(target: Params, params: Params, tau: jax.Array) -> Params:
    """tau * params + (1 - tau) * target."""
    return jax.tree.map(lambda t, p: tau * p + (1 - tau) * t, target, params)


@dataclass(frozen=True)
class TD3:
    """The learner's static part. Its functions take a :class:`Learner` and return a new one.

    With more than one of ``shards`` each takes its share of a batch, and gradients are averaged over them.
    """

    actor: nn.Module
    critic: Critic
    policy_delay: int
    shards: int = 1
    packed: bool = False
    """Whether each network's parameters are one array: few operations for an accelerator, where a CPU
    would only copy them."""

    def init(self, key: jax.Array, obs_size: int, action_size: int) -> Learner:
        """New parameters; the targets equal them."""
        actor_key, critic_key = jax.random.split(key)
        obs, action = jnp.zeros((1, obs_size)), jnp.zeros((1, action_size))
        form = pack if self.packed else lambda tree: tree
        # 2. An actor and an actor target, equal at the start.
        actor = form(self.actor.init(actor_key, obs))
        # 3. Two critics and two critic targets, likewise.
        critic = form(self.critic.init(critic_key, obs, action))
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
        """Steps 5 to 9: what the critics should say of the batch [B, ...], as [B].

        The target networks stand still between two updates of the actor, so one call serves all batches in
        between.

        Args:
            noise: [B, A], standard normal.
        """
        # 5. From s' the actor target plays a'.
        next_action = apply(self.actor, learner.actor_target, batch.next_obs)
        # 6. Clipped Gaussian noise on a', clipped to the action range.
        clip = hyper.target_noise_clip
        next_action = jnp.clip(next_action + jnp.clip(noise * hyper.target_noise, -clip, clip), -1, 1)
        # 7. Both critic targets give Q(s', a').
        next_out = apply(self.critic, learner.critic_target, batch.next_obs, next_action)
        # 8. Their minimum.
        next_value = jnp.min(values.value(next_out, learner.value_scale_target), axis=0)
        # 9. The target, without bootstrap after a termination (the paper's batches have one step).
        target = batch.reward + hyper.gamma**batch.steps * (1 - batch.terminated) * next_value
        if target.shape != batch.reward.shape:
            raise ValueError(f"target {target.shape} for rewards {batch.reward.shape}")
        return target

    def critic_step(
        self, learner: Learner, hyper: Hyper, batch: Batch, target: jax.Array
    ) -> tuple[Learner, jax.Array]:
        """Steps 10 to 12, on a batch [B, ...] with its targets [B].

        Returns:
            the learner, and statistics [2 num_critics + 1]: each critic's loss, the mean Q of each, and the
            mean target.
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
            grads, moments = mean((grads, moments), self.shards)
            learner = replace(learner, value_scale=values.follow(scale, *moments))
        else:
            grads = mean(grads, self.shards)
        # 12. One Adam step on the critics.
        critic, critic_opt = adam_step(learner.critic, learner.critic_opt, grads, hyper.critic_lr)
        learner = replace(learner, critic=critic, critic_opt=critic_opt)
        # One mean of all: an operation of a GPU, where each by itself would be one or two.
        return learner, jnp.concatenate([errors, q, target[None]]).mean(axis=1)

    def actor_step(self, learner: Learner, hyper: Hyper, batch: Batch) -> tuple[Learner, jax.Array]:
        """Steps 13 to 15. Returns the learner, and [] the actor loss."""

        def loss(params: Params) -> tuple[jax.Array, jax.Array]:
            action = apply(self.actor, params, batch.obs)
            out = apply_first(self.critic, learner.critic, batch.obs, action)
            return -jnp.mean(values.normal(out)), -jnp.mean(values.value(out, learner.value_scale))

        # 13. Every second update, one Adam ascent step of the actor on the first critic.
        grads, actor_loss = jax.grad(loss, has_aux=True)(learner.actor)
        grads = mean(grads, self.shards)
        actor, actor_opt = adam_step(learner.actor, learner.actor_opt, grads, hyper.actor_lr)
        return replace(
            learner,
            actor=actor,
            actor_opt=actor_opt,
            # 14. Then Polyak averaging of the actor target,
            actor_target=polyak(learner.actor_target, actor, hyper.tau),
            # 15. and of both critic targets.
            critic_target=polyak(learner.critic_target, learner.critic, hyper.tau),
            value_scale_target=polyak(learner.value_scale_target, learner.value_scale, hyper.tau),
            # Beyond the paper, where eval_tau is 1: the average of the actor's steps (Polyak, Juditsky 1992).
            actor_eval=polyak(learner.actor_eval, actor, averaging_step(hyper.eval_tau, actor_opt.count)),
        ), actor_loss

    def update_block(
        self,
        learner: Learner,
        hyper: Hyper,
        batches: Batch,
        noise: jax.Array,
        active: jax.Array,
        done: int = 0,
    ) -> tuple[Learner, UpdateStats]:
        """U consecutive updates: actor and targets with every ``policy_delay``-th.

        The delay is unrolled inside a scan over whole delays, so that no branch is compiled. Where a
        gradient is not finite, or its square, none of the updates is made: it would be in the second moments
        ever after, so that one look at the end finds it, and no update waits for all of its gradients.

        Args:
            batches: leaves [U, B, ...].
            noise: [U, B, A], standard normal.
            active: [] bool; where false the learner stays as it is.
            done: updates since the last one of the actor.
        Returns:
            the learner, and sums of the statistics over the updates that were made.
        """
        delay, total = self.policy_delay, noise.shape[0]

        def updates(learner: Learner, xs: Any, done: int) -> tuple[Learner, jax.Array]:
            # Statistics are one array, whose sum is one operation of a GPU.
            of_critics, of_actor = jnp.zeros(2 * self.critic.num_critics + 1), jnp.zeros(())
            batches, noise = xs
            every = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), (batches, noise))
            target = self.targets(learner, hyper, *every).reshape(batches.reward.shape)
            if self.critic.num_atoms > 1:
                below, above = most(jnp.stack([-target.ravel(), target.ravel()]).max(axis=1), self.shards)
                scale = values.widen(learner.value_scale, -below, above)
                learner = replace(learner, value_scale=scale)
            for i in range(noise.shape[0]):
                batch = jax.tree.map(lambda x, i=i: x[i], batches)
                learner, stats = self.critic_step(learner, hyper, batch, target[i])
                of_critics += stats
                if (done + i + 1) % delay == 0:
                    learner, actor_loss = self.actor_step(learner, hyper, batch)
                    of_actor += actor_loss
            return learner, jnp.append(of_critics, of_actor)

        def take(start: int, stop: int) -> Any:
            return jax.tree.map(lambda x: x[start:stop], (batches, noise))

        head = min(-done % delay, total)
        cycles = (total - head) // delay
        tail = head + cycles * delay
        before, sums = learner, []
        if head:
            learner, stats = updates(learner, take(0, head), done)
            sums += [stats]
        if cycles:
            xs = jax.tree.map(lambda x: x.reshape((cycles, delay, *x.shape[1:])), take(head, tail))
            learner, stats = jax.lax.scan(lambda c, x: updates(c, x, 0), learner, xs)
            sums += [stats.sum(axis=0)]
        if tail < total:
            learner, stats = updates(learner, take(tail, total), 0)
            sums += [stats]
        count = self.critic.num_critics
        every = sum(sums[1:], start=sums[0])
        fine = all_finite((learner.critic_opt.nu, learner.actor_opt.nu))
        made = active & fine
        learner = jax.tree.map(lambda new, old: jnp.where(made, new, old), learner, before)
        losses, q_means, others = jnp.split(jnp.where(made, every, 0), [count, 2 * count])
        target, actor_loss = others
        return learner, UpdateStats(
            made=jnp.where(made, total, 0),
            actor_made=jnp.where(made, (done + total) // delay - done // delay, 0),
            critic_loss=losses.sum(),
            actor_loss=actor_loss,
            q_mean=q_means.mean(),
            target_q_mean=target,
            skipped=jnp.where(active & ~fine, total, 0),
        )
