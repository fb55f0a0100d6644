"""Ask W&B which runs to start and stop (bayes, hyperband), with one virtual agent for each place.

W&B's client has no public function that asks what to run next without starting a process for the run. Its own
launch scheduler registers agents and sends heartbeats through two private functions. This module uses the
same two functions; no other module does.
"""

from __future__ import annotations

import inspect
import queue
import socket
import threading
from typing import Any

HEARTBEAT_S = 5.0
"""Seconds between heartbeats, as in W&B's own agents."""
WANDB_FUNCTIONS = {
    "_register_agent": ["api", "host", "sweep_id", "project", "entity"],
    "_agent_heartbeat": ["api", "agent_id", "metrics", "run_states"],
}
"""The functions of ``wandb.apis.public.sweeps`` that are used, and their parameters."""


def missing() -> str:
    """Return why this version of W&B's client can't be used; an empty text if it can."""
    import wandb

    try:
        from wandb.apis.public import sweeps
    except ImportError as error:
        return f"wandb {wandb.__version__}: {error}"
    for name, parameters in WANDB_FUNCTIONS.items():
        function = getattr(sweeps, name, None)
        if function is None or list(inspect.signature(function).parameters) != parameters:
            return f"wandb {wandb.__version__} has no {name}({', '.join(parameters)})"
    return ""


class Agents:
    """One agent of a registered sweep for each place, with heartbeats from a separate thread."""

    def __init__(self, sweep_id: str, entity: str | None, project: str, places: int) -> None:
        import wandb
        from wandb.apis.public import sweeps

        self._api: Any = wandb.Api()
        self._beat = sweeps._agent_heartbeat
        host = socket.gethostname()
        self._ids = [
            sweeps._register_agent(self._api, host, sweep_id=sweep_id, entity=entity, project=project)["id"]
            for _ in range(places)
        ]
        self._lock = threading.Lock()
        self._running: list[str | None] = [None] * places
        self._ended = [False] * places
        self._stopped: set[str] = set()
        self._suggested: list[queue.SimpleQueue[tuple[str, dict[str, Any]]]] = [
            queue.SimpleQueue() for _ in range(places)
        ]
        self._closed = threading.Event()
        self.error: Exception | None = None
        """The error that ended the heartbeats (such as a deleted sweep), after which no more runs follow."""
        self._thread = threading.Thread(target=self._send_heartbeats, daemon=True)
        self._thread.start()

    def _send_heartbeats(self) -> None:
        """Send a heartbeat for each place in turn until closed."""
        try:
            while not self._closed.is_set():
                for place in range(len(self._ids)):
                    if not self._closed.is_set() and not self._ended[place]:
                        self._heartbeat(place)
                self._closed.wait(HEARTBEAT_S)
        except Exception as error:  # W&B raises many kinds; a server that is silent for a while raises none
            self.error = error
            self._ended = [True] * len(self._ids)

    def _heartbeat(self, place: int) -> None:
        """Send one heartbeat, and act on the commands in W&B's answer."""
        running = self._running[place]
        commands = self._beat(self._api, self._ids[place], {}, {running: True} if running else {})
        with self._lock:
            for command in commands:
                kind, run = command.get("type"), str(command.get("run_id"))
                if kind in ("run", "resume") and self._running[place] is None:
                    args = {name: item["value"] for name, item in command.get("args", {}).items()}
                    self._running[place] = run
                    self._suggested[place].put((run, args))
                elif kind == "stop":
                    self._stopped.add(run)
                elif kind == "exit":
                    self._ended[place] = True
                    if running:
                        self._stopped.add(running)

    def take(self, place: int) -> tuple[str, dict[str, Any]] | None:
        """Return W&B's id and the options of the next run in ``place``; None if there is none yet."""
        try:
            return self._suggested[place].get_nowait()
        except queue.Empty:
            return None

    def stopped(self, run: str) -> bool:
        """Return whether W&B asked to stop ``run``."""
        return run in self._stopped

    def free(self, place: int) -> None:
        """Note that the run in ``place`` has ended, so that W&B is asked for the next."""
        with self._lock:
            self._running[place] = None

    @property
    def exhausted(self) -> bool:
        """Return whether no place will get another run. Running ones continue, even if heartbeats failed."""
        return all(self._ended) and all(suggested.empty() for suggested in self._suggested)

    def close(self) -> None:
        """Stop the heartbeats."""
        self._closed.set()
        self._thread.join(timeout=HEARTBEAT_S)
