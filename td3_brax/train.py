"""The main job on the host: build, run chunks, evaluate, track, save."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import json
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from td3_brax.cli import guarded, parse_train
from td3_brax.config import CPU_DEVICES, Config, ConfigError, resolve
from td3_brax.policy import save_policy
from td3_brax.schedule import make_schedule
from td3_brax.tracking import Display, JsonLines, Report, duration

if TYPE_CHECKING:
    from td3_brax.program import Program

INTERRUPTED = 130
DIVERGED = 1


def prepare_jax(deterministic: bool = False, devices: int = CPU_DEVICES) -> None:
    """Settings that must stand before JAX starts. The user's own ``XLA_FLAGS`` win.

    Args:
        devices: of a CPU; 0 for as many as it has cores.
    """
    # Independent operations on different cores: 1.2 times the rate of `quick` on two.
    wanted = ["--xla_cpu_enable_concurrency_optimized_scheduler=true"]
    if deterministic:
        wanted += ["--xla_gpu_deterministic_ops=true", "--xla_gpu_autotune_level=0"]
    flags = os.environ.get("XLA_FLAGS", "")
    added = [flag for flag in wanted if flag.partition("=")[0] not in flags]
    os.environ["XLA_FLAGS"] = " ".join([flags, *added]).strip()
    files = ("/dev/nvidiactl", "/dev/dxg", "/dev/nvmap")
    if importlib.util.find_spec("jax_cuda13_plugin") and not any(map(os.path.exists, files)):
        os.environ.setdefault("JAX_PLATFORMS", "cpu")  # the plugin would report at length that it found none
    import jax

    if "xla_force_host_platform_device_count" not in flags:
        with contextlib.suppress(RuntimeError):  # JAX has started: what there is stays
            jax.config.update("jax_num_cpu_devices", devices or cores())
    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
        jax.config.update("jax_compilation_cache_dir", os.path.join(home, "td3-brax", "xla"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def platform() -> str:
    """Of ``PLATFORMS``, the one that this is; ``gpu`` for any accelerator."""
    import jax

    if jax.default_backend() != "cpu":
        return "gpu"
    with contextlib.suppress(OSError):
        return "amx" if "amx_bf16" in Path("/proc/cpuinfo").read_text() else "cpu"
    return "cpu"


def on_devices(config: Config) -> Config:
    """``config`` with the number of devices in place of ``all``.

    Raises:
        ConfigError: fewer are there than it asks for.
    """
    import jax

    there = len(jax.devices())
    if config.devices > there:
        raise ConfigError("devices", config.devices, f"there {'is' if there == 1 else 'are'} {there}")
    return dataclasses.replace(config, devices=config.devices or there)


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


def discard(out: Path) -> None:
    """Remove a run's folder that holds the options only, and ``runs`` if that leaves it empty."""
    with contextlib.suppress(OSError):
        (out / "config.json").unlink()
        out.rmdir()
        if out.parent.name == "runs":
            out.parent.rmdir()


def _say(text: str) -> None:
    """A line from within a signal handler, past whatever holds or redirects the streams."""
    os.write(2, f"{text}\n".encode())


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


class Interrupt:
    """Ctrl-C. Before training: leave at once. While training: after the chunk; more of them do no harm.

    The handler acts by itself, rather than by raising: an exception raised inside a library's import or
    callback may be swallowed there. Outside the main thread, where Python takes no signals, it does nothing.
    """

    def __init__(self) -> None:
        self.asked = False
        self.training = False
        self.out: Path | None = None
        """The run's folder, once it is made."""
        self._before: Any = None

    def __enter__(self) -> Interrupt:
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGINT, self._act)
        return self

    def __exit__(self, *_: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)

    def _act(self, *_: object) -> None:
        if not self.training:
            if self.out is not None:
                discard(self.out)
            _say("td3-brax: stopped before training began; nothing is kept")
            os._exit(INTERRUPTED)  # do not wait for the compiler's threads
        if not self.asked:
            _say("stopping after this chunk; what was learnt is saved")
        self.asked = True


def train(config: Config, out: Path, began: float, interrupt: Interrupt) -> Outcome:
    """Run ``config`` into the folder ``out``; ``began`` is when the job started (perf_counter)."""
    schedule = make_schedule(config)
    display = Display(schedule.total_env_steps)
    from td3_brax.program import Program

    program = Program(config, display)
    log = JsonLines(out / "metrics.jsonl")
    result = Outcome(out, 0, 0, 0.0, math.nan, math.nan, -math.inf, 0)
    display.line(
        f"{config.env}: {schedule.total_env_steps:,} steps in {config.num_envs} environments, "
        f"{schedule.updates} update{'s' * (schedule.updates > 1)} of {config.batch_size} after every "
        f"{schedule.steps} vector step{'s' * (schedule.steps > 1)}; "
        f"greedy evaluation every {schedule.chunks_per_eval * schedule.env_steps:,} steps; writing to {out}"
    )
    interrupt.training = True
    display.begin()
    for chunk in range(1, schedule.chunks + 1):
        report = program.run_chunk()
        result.env_steps = report["env_steps"]
        losses = [report["loss/critic"], report["loss/actor"], report["q/mean"]]
        if not all(loss is None or math.isfinite(loss) for loss in losses):
            display.line(f"stopped: the losses are no longer finite at {result.env_steps:,} steps")
            result.code = DIVERGED
        last = chunk == schedule.chunks or interrupt.asked
        if result.code == 0 and (last or chunk % schedule.chunks_per_eval == 0):
            report |= program.evaluate(result.env_steps)
            _keep(program, report, result)
        result.wall_s = time.perf_counter() - began
        report |= {"wall_s": result.wall_s, "time/compile_s": program.compile_s}
        log.write(report)
        display.show(report)
        if last or result.code:
            break
    if interrupt.asked and result.env_steps < schedule.total_env_steps:
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
    prepare_jax(explicit.get("deterministic", False), explicit.get("devices", CPU_DEVICES))
    with Interrupt() as interrupt:
        config = on_devices(resolve(explicit, platform()))
        make_schedule(config)
        out = interrupt.out = make_run_folder(config)
        try:
            return train(config, out, began, interrupt).code
        except ConfigError:
            discard(out)
            raise


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns the exit code."""
    return guarded(job, argv)


if __name__ == "__main__":
    sys.exit(main())
