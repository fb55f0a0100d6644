"""The main job on the host: build, run chunks, evaluate, track, save."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from td3_brax import __version__
from td3_brax.cli import guarded, parse_train
from td3_brax.config import FIELDS, Config, ConfigError, resolve
from td3_brax.policy import Policy, save_policy
from td3_brax.tracking import Display, JsonLines, Report, duration

INTERRUPTED = 130
DIVERGED = 1


def prepare_jax(deterministic: bool) -> None:
    """Settings that must stand before JAX starts. The user's own ``XLA_FLAGS`` win."""
    if deterministic:
        flags = os.environ.get("XLA_FLAGS", "")
        for flag in ("--xla_gpu_deterministic_ops=true", "--xla_gpu_autotune_level=0"):
            if flag.partition("=")[0] not in flags:
                flags += f" {flag}"
        os.environ["XLA_FLAGS"] = flags.strip()
    import jax

    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
        jax.config.update("jax_compilation_cache_dir", os.path.join(home, "td3-brax", "xla"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)


def platform() -> str:
    """``cpu``, or ``gpu`` for any accelerator."""
    import jax

    return "cpu" if jax.default_backend() == "cpu" else "gpu"


def make_run_folder(config: Config) -> Path:
    """Create the run's folder, which must not hold a run yet, and prove that it can be written.

    Raises:
        ConfigError: it holds a run, or can't be written.
    """
    stamp = time.strftime("%Y%m%d-%H%M%S")
    name = config.out or f"runs/{config.env}-{config.preset}-s{config.seed}-{stamp}"
    out = Path(name)
    if any((out / file).exists() for file in ("config.json", "metrics.jsonl")):
        raise ConfigError(
            "out", name, "holds a run already, which is never overwritten; choose another folder"
        )
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / "config.json").write_text(json.dumps(dataclasses.asdict(config), indent=2) + "\n")
    except OSError as error:
        raise ConfigError("out", name, f"can't be written ({error.strerror})") from None
    return out


@contextlib.contextmanager
def counting_cache_misses() -> Iterator[list[str]]:
    """Collect the persistent cache's misses while the block runs."""
    import jax

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
    """The compiled functions of a run, and its state."""

    def __init__(self, config: Config, display: Display) -> None:
        import jax

        from td3_brax import evaluate, loop, plan
        from td3_brax.envs.brax import BraxTask

        self.config = config
        self.task = BraxTask(config.env, config.backend)
        self.loop = loop.build(config, self.task)
        if self.task.open_loops:
            display.line(
                f"note: {config.env} on {config.backend} steps with a solver loop of unknown length, which "
                "makes a GPU wait for the host; ant and humanoid, or --backend spring, have none"
            )
        device = jax.devices()[0]
        shapes = jax.eval_shape(lambda: loop.init(self.loop, config))
        plan.check_state(shapes, device)

        def greedy(members: Any, key: jax.Array) -> tuple[jax.Array, jax.Array]:
            actor, stats = jax.tree.map(lambda x: x[0], (members.learner.actor, members.obs_stats))
            return evaluate.greedy_returns(
                self.task,
                self.loop.policy(actor, stats),
                key,
                config.eval_episodes,
                config.time_limit,
            )

        began = time.perf_counter()
        init = jax.jit(lambda: loop.init(self.loop, config)).lower()
        chunk = jax.jit(self.loop.train_chunk, donate_argnums=0).lower(shapes)
        key = jax.eval_shape(lambda: jax.random.key(0))
        score = jax.jit(greedy).lower(shapes.members, key)
        traced = time.perf_counter() - began
        with counting_cache_misses() as misses, ThreadPoolExecutor(2) as pool:
            self._chunk, self._score, make = pool.map(lambda lowered: lowered.compile(), (chunk, score, init))
        self.compile_s = time.perf_counter() - began
        self.cached = not misses
        analysis = self._chunk.memory_analysis()
        self.workspace = int(analysis.temp_size_in_bytes) if analysis else 0
        plan.check_program(shapes, self.workspace, device)
        held, ring = plan.tree_bytes(shapes) / plan.GB, plan.tree_bytes(shapes.replay) / plan.GB
        source = ", the rest from the cache" if self.cached else ""
        display.line(
            f"compiled in {duration(self.compile_s)} (tracing {traced:.0f} s{source}); "
            f"{held:.2f} GB on {device.device_kind}, of which replay {ring:.2f} GB"
        )
        self.state = make()
        self._eval_key = jax.random.key(config.seed + 2**31)

    def run_chunk(self) -> Report:
        """Advance by one chunk; what it reports."""
        import jax

        began = time.perf_counter()
        self.state, metrics = self._chunk(self.state)
        m = jax.tree.map(lambda x: x[0].item(), jax.device_get(metrics))
        seconds = time.perf_counter() - began
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
            "loss/critic": m.update.critic_loss if m.updates else None,
            "loss/actor": m.update.actor_loss if m.updates else None,
            "q/mean": m.update.q_mean if m.updates else None,
            "q/target_mean": m.update.target_q_mean if m.updates else None,
            "time/env_steps_per_s": schedule.env_steps / seconds,
            "time/updates_per_s": schedule.total_updates / seconds,
        }

    def evaluate(self, env_steps: int) -> Report:
        """Greedy returns of the present policy."""
        import jax

        began = time.perf_counter()
        key = jax.random.fold_in(self._eval_key, env_steps)
        returns, lengths = jax.device_get(self._score(self.state.members, key))
        return {
            "eval/return_mean": float(returns.mean()),
            "eval/return_std": float(returns.std()),
            "eval/length_mean": float(lengths.mean()),
            "time/eval_s": time.perf_counter() - began,
        }

    def policy(self, meta: Mapping[str, Any]) -> Policy:
        """The present policy, for a file."""
        import jax
        import numpy as np

        from td3_brax.networks import OBS_CLIP, deviation

        members = self.state.members
        actor, stats = jax.device_get(
            jax.tree.map(lambda x: x[0], (members.learner.actor, members.obs_stats))
        )
        layers = [actor["params"]["mlp"][f"layer_{i}"] for i in range(len(self.config.hidden_sizes) + 1)]
        scaled = self.config.normalize_obs
        size = self.task.obs_size
        return Policy(
            env=self.config.env,
            weights=tuple(np.asarray(layer["kernel"]) for layer in layers),
            biases=tuple(np.asarray(layer["bias"]) for layer in layers),
            obs_mean=np.asarray(stats.mean if scaled else np.zeros(size), np.float32),
            obs_deviation=np.asarray(deviation(stats) if scaled else np.ones(size), np.float32),
            obs_clip=OBS_CLIP if scaled else math.inf,
            action_low=self.task.action_low,
            action_high=self.task.action_high,
            meta={"version": __version__, **meta},
        )


@dataclass
class Outcome:
    """How a run ended."""

    out: Path
    code: int
    env_steps: int
    wall_s: float
    return_mean: float
    return_std: float
    best: float
    best_env_steps: int


class StopRequest:
    """Ctrl-C while training: remembered, and acted on after the chunk; a second one does no harm."""

    def __init__(self, display: Display) -> None:
        self.asked = False
        self._display = display
        self._before: Any = None

    def __enter__(self) -> StopRequest:
        self._before = signal.signal(signal.SIGINT, self._ask)
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGINT, self._before)

    def _ask(self, *_: object) -> None:
        if not self.asked:
            self._display.line("stopping after this chunk; what was learnt is saved")
        self.asked = True


def train(config: Config, out: Path, began: float) -> Outcome:
    """Run ``config`` into the folder ``out``; ``began`` is when the job started (perf_counter)."""
    display = Display(config.total_env_steps)
    program = Program(config, display)
    schedule = program.loop.schedule
    log = JsonLines(out / "metrics.jsonl")
    result = Outcome(out, 0, 0, 0.0, math.nan, math.nan, -math.inf, 0)
    display.line(
        f"{config.env}: {schedule.chunks * schedule.env_steps:,} steps in {config.num_envs} environments, "
        f"{schedule.updates} update{'s' * (schedule.updates > 1)} of {config.batch_size} after every "
        f"{schedule.steps} vector step{'s' * (schedule.steps > 1)}; "
        f"greedy evaluation every {schedule.chunks_per_eval * schedule.env_steps:,} steps; writing to {out}"
    )
    with StopRequest(display) as stop:
        display.begin()
        for chunk in range(1, schedule.chunks + 1):
            report = program.run_chunk()
            result.env_steps = report["env_steps"]
            losses = [report["loss/critic"], report["loss/actor"], report["q/mean"]]
            if not all(loss is None or math.isfinite(loss) for loss in losses):
                display.line(f"stopped: the losses are no longer finite at {result.env_steps:,} steps")
                result.code = DIVERGED
            last = chunk == schedule.chunks or stop.asked
            if result.code == 0 and (last or chunk % schedule.chunks_per_eval == 0):
                report |= program.evaluate(result.env_steps)
                _keep(program, report, result)
            result.wall_s = time.perf_counter() - began
            report |= {"wall_s": result.wall_s, "time/compile_s": program.compile_s}
            log.write(report)
            display.show(report)
            if last or result.code:
                break
    if stop.asked and result.env_steps < schedule.chunks * schedule.env_steps:
        result.code = result.code or INTERRUPTED
    log.close()
    display.close()
    _close(config, program, result, display)
    return result


def _keep(program: Program, report: Report, result: Outcome) -> None:
    """Save the policy just evaluated as the last one, and as the best if it is."""
    result.return_mean, result.return_std = report["eval/return_mean"], report["eval/return_std"]
    meta = {"env_steps": result.env_steps, "return_mean": result.return_mean}
    policy = program.policy(meta)
    save_policy(policy, result.out / "policy_last.npz")
    if result.return_mean > result.best:
        result.best, result.best_env_steps = result.return_mean, result.env_steps
        save_policy(policy, result.out / "policy_best.npz")
    report["eval/return_best"] = result.best


def _close(config: Config, program: Program, result: Outcome, display: Display) -> None:
    """The curve, and the closing line: what was reached, in how long, and what to do next."""
    from td3_brax.report import save_curve

    out = result.out
    title = f"TD3 on brax {config.env} ({config.preset}, seed {config.seed})"
    save_curve(out / "metrics.jsonl", out / "curve.png", config.env, title)
    if math.isnan(result.return_mean):
        display.line(f"nothing was learnt yet; the log is in {out}")
        return
    state = {0: "done", INTERRUPTED: "stopped early", DIVERGED: "diverged"}[result.code]
    display.line(
        f"{state}: greedy return {result.return_mean:,.0f} +- {result.return_std:,.0f} over "
        f"{config.eval_episodes} episodes after {result.env_steps:,} steps (best {result.best:,.0f} at "
        f"{result.best_env_steps:,}) in {duration(result.wall_s)}, of which compiling "
        f"{duration(program.compile_s)}.\nsaved in {out}: policy_best.npz, policy_last.npz, curve.png, "
        f"metrics.jsonl. Next: td3-brax eval {out}"
    )


def job(argv: Sequence[str]) -> int:
    """``td3-brax train``; returns the exit code."""
    began = time.perf_counter()
    explicit = parse_train(argv)
    prepare_jax(bool(explicit.get("deterministic", FIELDS["deterministic"].default)))
    config = resolve(explicit, platform())
    from td3_brax.schedule import make_schedule

    make_schedule(config)
    out = make_run_folder(config)
    try:
        return train(config, out, began).code
    except ConfigError:
        (out / "config.json").unlink()
        with contextlib.suppress(OSError):
            out.rmdir()
        raise
    except KeyboardInterrupt:
        print(f"stopped before training began; {out} holds the options only", file=sys.stderr, flush=True)
        os._exit(INTERRUPTED)  # do not wait for the compiler's threads


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns the exit code."""
    return guarded(job, argv)


if __name__ == "__main__":
    sys.exit(main())
