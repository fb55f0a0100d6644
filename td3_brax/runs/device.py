"""The machine: settings that JAX needs before it starts, and what there is to run on."""

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
    """Settings that must stand before JAX starts, and start it. The user's own ``XLA_FLAGS`` win.

    Args:
        devices: of a CPU; 0 for as many as it has cores.
        join: called before JAX starts, to meet other hosts.
    Raises:
        ConfigError: what ``JAX_PLATFORMS`` asks for is not there.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    os.environ["XLA_FLAGS"] = xla_flags(flags, deterministic)
    files = ("/dev/nvidiactl", "/dev/dxg", "/dev/nvmap")
    plugin = any(map(importlib.util.find_spec, ("jax_cuda13_plugin", "jax_cuda12_plugin")))
    if plugin and not any(map(os.path.exists, files)):
        os.environ.setdefault("JAX_PLATFORMS", "cpu")  # the plugin would report at length that it found none
    import jax

    if os.environ.get("JAX_PLATFORMS"):  # JAX reads it when it is imported, which it may have been
        jax.config.update("jax_platforms", os.environ["JAX_PLATFORMS"])
    if "xla_force_host_platform_device_count" not in flags:
        with contextlib.suppress(RuntimeError):  # JAX has started: what there is stays
            jax.config.update("jax_num_cpu_devices", devices or cpu_cores())
    from td3_brax.runs import cache

    cache.prepare()
    join()
    _start(devices)


def _start(devices: int) -> None:
    """Let JAX look for its devices; where it finds none, what it logs meanwhile goes into the error."""
    import jax

    log, held = logging.getLogger("jax._src.xla_bridge"), list[logging.LogRecord]()

    def hold(record: logging.LogRecord) -> bool:
        held.append(record)
        return False

    log.addFilter(hold)
    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:  # without text where a plugin has found no GPU
        logged = [str(record.exc_info[1]) for record in held if record.exc_info]
        why = " ".join(" ".join([str(error), *logged]).split()) or "no such device is here"
        asked = os.environ.get("JAX_PLATFORMS")
        said = f" with JAX_PLATFORMS={asked} in the environment" if asked else ""
        raise ConfigError("devices", devices or "all", f"JAX finds none{said} ({why})") from None
    finally:
        log.removeFilter(hold)
    for record in held:
        log.handle(record)


def xla_flags(users: str, deterministic: bool) -> str:
    """The user's flags, and ours for what they leave open; why a GPU has few is in ``bench/README.md``."""
    # Independent operations on different cores: 1.2 times the rate of `quick` on two.
    wanted = ["--xla_cpu_enable_concurrency_optimized_scheduler=true"]
    if deterministic:
        wanted += ["--xla_gpu_deterministic_ops=true", "--xla_gpu_autotune_level=0"]
    set_already = {flag.partition("=")[0] for flag in users.split()}
    return " ".join([*users.split(), *(flag for flag in wanted if flag.partition("=")[0] not in set_already)])


def cpu_cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def on_accelerator() -> bool:
    """Whether JAX's devices are others than a CPU's: what ``side_by_side`` of ``loop.build`` is to be."""
    import jax

    return jax.default_backend() != "cpu"


def platform() -> str:
    """Of ``PLATFORMS``, the one that this is; ``gpu`` for any accelerator."""
    if on_accelerator():
        return "gpu"
    with contextlib.suppress(OSError):
        return "amx" if "amx_bf16" in Path("/proc/cpuinfo").read_text() else "cpu"
    return "cpu"


def resolve_devices(config: Config, asked: bool = True) -> Config:
    """``config`` with the number of devices in place of ``all``.

    Args:
        asked: whether its number is somebody's wish; a preset's gives way where JAX, which may have started
            before, has one only.
    Raises:
        ConfigError: fewer are there than it asks for, or hosts that train together have more.
    """
    import jax

    there, hosts = len(jax.devices()), jax.process_count()
    if hosts > 1:
        if asked and config.devices not in (0, there):
            raise ConfigError("devices", config.devices, f"the {hosts} hosts have {there}: all train one run")
        return dataclasses.replace(config, devices=there)
    if config.devices > there and not asked:
        return dataclasses.replace(config, devices=1)
    if config.devices > there:
        raise ConfigError("devices", config.devices, f"there {'is' if there == 1 else 'are'} {there}")
    return dataclasses.replace(config, devices=config.devices or there)
