"""Every notebook runs from its first cell to its last, in an empty folder."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

FOLDER = Path(__file__).resolve().parents[1] / "workflows" / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
# Packages beyond those that every user has.
NEEDS = {"02-scan-in-a-bucket": ("boto3", "moto", "obstore")}

each = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


@each
def test_notebook_is_kept_without_outputs(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert cells
    assert notebook.cells[0].cell_type == "markdown"
    for cell in cells:
        assert not cell.outputs, "clear the outputs before committing"
        assert cell.execution_count is None


@each
@pytest.mark.long
def test_notebook_runs(path: Path, tmp_path: Path) -> None:
    missing = [name for name in NEEDS.get(path.stem, ()) if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"the notebook needs {', '.join(missing)}, which are not installed")
    notebook = nbformat.read(path, as_version=4)
    # The limit is that of the test.
    patience = {"timeout": None, "startup_timeout": 10**4}
    NotebookClient(notebook, resources={"metadata": {"path": str(tmp_path)}}, **patience).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    kinds = {kind for output in outputs for kind in output.get("data", ())}
    # The notebook shows something.
    assert {"image/png", "text/html"} & kinds
    complaints = [output.text for output in outputs if output.get("name") == "stderr"]
    assert not any("Warning" in text for text in complaints), complaints
