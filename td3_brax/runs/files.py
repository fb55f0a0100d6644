"""Write files atomically: whole or not at all."""

from __future__ import annotations

import dataclasses
import json
import os
import threading
from pathlib import Path

from td3_brax.config import Config


def write_atomically(path: Path, content: bytes) -> None:
    """Replace the file at ``path``; a failure leaves the old file as it was."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.{threading.get_ident()}.tmp")
    try:
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())  # otherwise a power cut could leave an empty file under the new name
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_config(out: Path, config: Config) -> None:
    """Write ``config.json``."""
    write_atomically(out / "config.json", (json.dumps(dataclasses.asdict(config), indent=2) + "\n").encode())
