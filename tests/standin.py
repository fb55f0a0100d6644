"""What of Weights & Biases' server its client needs, on loopback; keeps what it is sent."""

from __future__ import annotations

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

RUN = {"id": "1", "project": {"name": "td3-brax", "entity": {"name": "someone"}}}


class StandIn:
    """A server at ``url``; with ``with`` until the block ends."""

    def __init__(self) -> None:
        self.history: dict[str, dict[int, dict[str, Any]]] = {}
        """Run -> place -> reported line."""
        self.summary: dict[str, dict[str, Any]] = {}
        self.config: dict[str, dict[str, Any]] = {}
        """Run -> option -> value."""
        self.ends: dict[str, list[dict[str, Any]]] = {}
        """Run -> what its file stream said of its end, such as exitcode or preempting."""
        self.stopped: set[str] = set()
        """Runs that are asked to stop."""
        self.silent = threading.Event()
        """While set, nothing is answered."""
        self.deleted = threading.Event()
        """Once set, agents are told that their sweep is not there (404)."""
        self.sweep = ""
        """The configuration of the one sweep that there is, named "sweep", as YAML."""
        self.queue: list[tuple[str, dict[str, Any]]] = []
        """Runs that its agents get, one after another: name and options."""
        self.agents = 0
        """How many have registered."""
        self.ended_early: set[str] = set()
        """Runs that their agents are told to stop, as hyperband does."""
        self.belongs: dict[str, dict[str, str]] = {}
        """Run -> its sweep, group and displayName."""
        self.operations: list[str] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                while outer.silent.is_set():
                    time.sleep(0.1)
                text = json.dumps(outer.answer(self.path, body)).encode()
                self.send_response(404 if outer.deleted.is_set() and b"Heartbeat" in body else 200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            do_GET = do_PUT = do_POST  # noqa: N815

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def environment(self, home: Path) -> dict[str, str]:
        """What a client needs to find it, and nothing else."""
        folders = {f"WANDB_{name}_DIR": str(home / name) for name in ("CONFIG", "CACHE", "DATA")}
        return {"WANDB_BASE_URL": self.url, "WANDB_API_KEY": "a" * 40, "HOME": str(home), **folders}

    def __enter__(self) -> StandIn:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def answer(self, path: str, body: bytes) -> Any:
        if path.endswith("/file_stream"):
            return self._stream(path.split("/")[-2], json.loads(body or b"{}"))
        if not path.endswith("/graphql"):
            return {}
        asked = json.loads(body)
        query, variables = asked["query"], asked.get("variables") or {}
        name = query.split("(")[0].split("{")[0].split()[-1]
        self.operations.append(name)
        if name == "UpsertSweep":
            self.sweep = variables["config"]
            made = {"name": "sweep", "project": RUN["project"]}
            return {"data": {"upsertSweep": {"sweep": made, "configValidationWarnings": []}}}
        if name == "SweepWithRuns":
            known = {"id": "1", "name": "sweep", "config": self.sweep, "runs": {"edges": []}}
            return {"data": {"project": {"sweep": known}}}
        if name == "CreateAgent":
            self.agents += 1
            return {"data": {"createAgent": {"agent": {"id": f"agent{self.agents}"}}}}
        if name == "Heartbeat":
            beat = {"agent": {"id": variables["id"]}, "commands": json.dumps(self._commands(variables))}
            return {"data": {"agentHeartbeat": beat}}
        if "UpsertBucket" in name:
            run = variables.get("name") or variables.get("id") or ""
            given = json.loads(variables.get("config") or "{}")
            parts = {key: variables.get(key) for key in ("sweep", "groupName", "displayName")}
            self.belongs.setdefault(run, {}).update({k: v for k, v in parts.items() if v})
            self.config.setdefault(run, {}).update(
                {
                    key: item["value"]
                    for key, item in given.items()
                    if isinstance(item, dict) and "value" in item
                }
            )
            return {"data": {"upsertBucket": {"bucket": RUN | {"name": run}, "inserted": True}}}
        if "Viewer" in name:
            return {"data": {"viewer": {"id": "1", "entity": "someone", "flags": "{}"}}}
        if "CreateRunFiles" in name:
            made = {"runID": "1", "uploadHeaders": [], "files": []}
            return {"data": {"createRunFiles": made}}
        if "RunResumeStatus" in name:
            return {"data": {"model": {"bucket": self._resumed(variables["name"])}}}
        return {"data": {}}

    def _commands(self, beat: dict[str, Any]) -> list[dict[str, Any]]:
        """What an agent is to do: end its run early, or if it has none take the next, or end itself."""
        running = [run for run, runs in json.loads(beat.get("runState") or "{}").items() if runs]
        if running:
            return [{"type": "stop", "run_id": run} for run in running if run in self.ended_early]
        if not self.queue:
            return [{"type": "exit", "args": {}}]
        run, options = self.queue.pop(0)
        args = {key: {"value": value} for key, value in options.items()}
        return [{"type": "run", "run_id": run, "program": "td3_brax/train.py", "args": args}]

    def _resumed(self, run: str) -> Any:
        if run not in self.history:
            return None
        return {
            "id": "1",
            "name": run,
            "historyLineCount": len(self.history[run]),
            "eventsLineCount": 0,
            "logLineCount": 0,
            "historyTail": json.dumps([json.dumps(self.history[run][max(self.history[run])])]),
            "eventsTail": "[]",
            "summaryMetrics": json.dumps(self.summary.get(run, {})),
            "config": json.dumps({k: {"value": v} for k, v in self.config.get(run, {}).items()}),
            "tags": [],
            "wandbConfig": json.dumps({"t": {}}),  # without which a run counts as new
        }

    def _stream(self, run: str, sent: dict[str, Any]) -> Any:
        files = sent.get("files") or {}
        if "wandb-history.jsonl" in files:
            part = files["wandb-history.jsonl"]
            for i, line in enumerate(part["content"]):
                self.history.setdefault(run, {})[part["offset"] + i] = json.loads(line)
        if "wandb-summary.json" in files:
            self.summary.setdefault(run, {}).update(json.loads(files["wandb-summary.json"]["content"][0]))
        end = {k: v for k, v in sent.items() if k in ("complete", "exitcode", "preempting")}
        if end:
            self.ends.setdefault(run, []).append(end)
        return {"stopped": run in self.stopped}
