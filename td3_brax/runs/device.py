"""The machine: settings that JAX needs before it starts, and the devices it finds."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata
import importlib.util
import logging
import os
from collections.abc import Callable
from pathlib import Path

from td3_brax.config import Config
from td3_brax.option import ConfigError
from td3_brax.presets import CPU_DEVICES


def prepare_jax(
    deterministic: bool = False,
    devices: int = CPU_DEVICES,
    join: Callable[[], None] = lambda: None,
) -> None:
    """Make the settings that JAX needs before it starts, then start it. The user's ``XLA_FLAGS`` win.

    Args:
        devices: number of devices that a CPU is divided into; 0 for one per core.
        join: called before JAX starts, to join other hosts.
    Raises:
        ConfigError: JAX found no devices, for example not those of ``JAX_PLATFORMS``.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    os.environ["XLA_FLAGS"] = xla_flags(flags, deterministic)
    files = ("/dev/nvidiactl", "/dev/dxg", "/dev/nvmap")
    plugin = any(map(importlib.util.find_spec, ("jax_cuda13_plugin", "jax_cuda12_plugin")))
    if plugin and not any(map(os.path.exists, files)):
        os.environ.setdefault("JAX_PLATFORMS", "cpu")  # the plugin would log at length that it found no GPU
    import jax

    if os.environ.get("JAX_PLATFORMS"):  # JAX reads it on import, which may have happened before
        jax.config.update("jax_platforms", os.environ["JAX_PLATFORMS"])
    if "xla_force_host_platform_device_count" not in flags:
        with contextlib.suppress(RuntimeError):  # JAX has started: its devices can't change any more
            jax.config.update("jax_num_cpu_devices", devices or cpu_cores())
    from td3_brax.runs import cache

    cache.prepare()
    join()
    _start(devices)


def _start(devices: int) -> None:
    """Let JAX look for devices. If it finds none, add its log messages to the error."""
    import jax

    log, captured = logging.getLogger("jax._src.xla_bridge"), list[logging.LogRecord]()

    def capture(record: logging.LogRecord) -> bool:
        captured.append(record)
        return False

    log.addFilter(capture)
    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:  # has no text if a plugin found no GPU
        logged = [str(record.exc_info[1]) for record in captured if record.exc_info]
        why = " ".join(" ".join([str(error), *logged]).split()) or "no such device on this machine"
        platforms = os.environ.get("JAX_PLATFORMS")
        setting = f" with JAX_PLATFORMS={platforms} in the environment" if platforms else ""
        raise ConfigError("devices", devices or "all", f"JAX found no devices{setting} ({why})") from None
    finally:
        log.removeFilter(capture)
    for record in captured:
        log.handle(record)


def xla_flags(user_flags: str, deterministic: bool) -> str:
    """Return the user's flags and our defaults for those that the user does not set.

    ``bench/README.md`` says why there are few flags for a GPU.
    """
    # Independent operations on different cores: 1.2 times the rate of `quick` on two.
    wanted = ["--xla_cpu_enable_concurrency_optimized_scheduler=true"]
    if deterministic:
        wanted += ["--xla_gpu_deterministic_ops=true", "--xla_gpu_autotune_level=0"]
    given = {flag.partition("=")[0] for flag in user_flags.split()}
    return " ".join([*user_flags.split(), *(flag for flag in wanted if flag.partition("=")[0] not in given)])


def cpu_cores() -> int:
    """Return the number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def on_accelerator() -> bool:
    """Return whether JAX runs on something other than a CPU: ``side_by_side`` of ``build.build``."""
    import jax

    return jax.default_backend() != "cpu"


def platform() -> str:
    """Return this machine's entry of ``PLATFORMS``; ``gpu`` for any accelerator."""
    if on_accelerator():
        return "gpu"
    with contextlib.suppress(OSError):
        return "amx" if "amx_bf16" in Path("/proc/cpuinfo").read_text() else "cpu"
    return "cpu"


def resolve_devices(config: Config, explicit: bool = True) -> Config:
    """Return ``config`` with ``all`` devices replaced by their number.

    Args:
        explicit: whether the user has set the number of devices. A preset's number falls back to 1 if JAX,
            which the caller may have started before, has fewer devices.
    Raises:
        ConfigError: fewer devices are available than ``config`` asks for, or hosts that train together have
            another number.
    """
    import jax

    available, hosts = len(jax.devices()), jax.process_count()
    if hosts > 1:
        if explicit and config.devices not in (0, available):
            why = f"the {hosts} hosts have {available} devices, and a run on several hosts uses all of them"
            raise ConfigError("devices", config.devices, why)
        return dataclasses.replace(config, devices=available)
    if config.devices > available and not explicit:
        return dataclasses.replace(config, devices=1)
    if config.devices > available:
        verb = "is" if available == 1 else "are"
        raise ConfigError("devices", config.devices, f"only {available} {verb} available")
    return dataclasses.replace(config, devices=config.devices or available)
