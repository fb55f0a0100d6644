"""Where the tests run: on the CPU, with compiled programs kept from one run to the next."""

import os
import sys

import pytest

for name in [name for name in os.environ if name.startswith("WANDB_")]:
    del os.environ[name]  # runs follow it

# All of this must stand before JAX is imported. `pytest -m gpu -n 0` runs on whatever JAX finds.
if "gpu" not in sys.argv and "-mgpu" not in sys.argv:
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", os.path.join(cache, "td3-brax", "tests"))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")

QUICK = ("test_cli", "test_policy", "test_docs", "test_learner", "test_docker", "test_code")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Quick files last, so that no worker ends long before the other."""
    items.sort(key=lambda item: item.path.stem in QUICK)
