"""Make `pytest --nbval[-lax]` agree with nbdev about the notebooks.

* cells that nbdev_test leaves out (tools/cells.py) are skipped;
* nbdev_clean nulls `execution_count` but keeps outputs, which nbval would call "Unrun reference
cell has outputs".
"""
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent / "tools"))
from cells import skipped


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items):
    for item in items:
        cell = getattr(item, "cell", None)
        if cell is None or not hasattr(item, "options"): continue
        if skipped(cell.source): item.options["skip"] = True
        if cell.execution_count is None and cell.outputs: cell.execution_count = 0
