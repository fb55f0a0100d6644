"""The quickstart notebook: it runs from top to bottom, and its pole stands."""

from __future__ import annotations

import json
from pathlib import Path

import nbclient
import nbformat

NOTEBOOK = Path(__file__).parent.parent / "docs" / "quickstart.ipynb"
FULL_RETURN = 1000.0
"""Of InvertedPendulum-v5: 1 for each of 1,000 steps."""
MOST_BYTES = 300_000


def test_runs_and_its_pole_stands(tmp_path: Path) -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    found = "import json; print(json.dumps([max(returns), returns[-1], min(scores), len(scores)]))"
    notebook.cells.append(nbformat.v4.new_code_cell(found))
    nbclient.NotebookClient(notebook, timeout=900, resources={"metadata": {"path": str(tmp_path)}}).execute()
    best, last, worst_score, episodes = json.loads(notebook.cells[-1].outputs[0].text)
    assert (best, last) == (FULL_RETURN, FULL_RETURN)
    assert (worst_score, episodes) == (FULL_RETURN, 10)
    outputs = [output for cell in notebook.cells[:-1] for output in cell.get("outputs", [])]
    assert {"image/png", "image/gif"} <= {kind for output in outputs for kind in output.get("data", {})}


def test_stored_outputs_are_of_a_whole_run_and_small() -> None:
    assert NOTEBOOK.stat().st_size < MOST_BYTES
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert "error" not in {output.output_type for output in outputs}
    assert any("done: greedy return 1,000" in output.get("text", "") for output in outputs)
