"""Every chapter and every notebook of solutions runs from its first cell to its last."""
import json
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tools"))
import chapters


@pytest.fixture(scope="session")
def runner():
    "A process that runs the notebooks whose paths it is given."
    p = subprocess.Popen([sys.executable, ROOT / "tools/chapters.py", "--serve"], text=True,
                         stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8")
    def run(path):
        p.stdin.write(f"{path}\n")
        p.stdin.flush()
        return json.loads(p.stdout.readline())
    yield run
    p.stdin.close()
    p.wait(60)


@pytest.mark.parametrize("path", chapters.notebooks(),
                         ids=lambda p: p.relative_to(ROOT / "nbs").with_suffix("").as_posix())
def test_it_runs(path, runner):
    status, text, seconds = runner(path)
    assert not status, text


@pytest.mark.parametrize("stored, status", [("3 of 4", 0), ("2 of 4", 1), ("", 0)])
def test_an_output_that_the_records_have_outrun_is_seen(stored, status, tmp_path, runner):
    cell = nbformat.v4.new_code_cell("def tally(n): return f'{n} of 4'\nprint(tally(3))")
    if stored: cell.outputs = [nbformat.v4.new_output("stream", text=f"{stored}\n")]
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), tmp_path / "some.ipynb")
    found, text, seconds = runner(tmp_path / "some.ipynb")
    assert found == status and ("out of date" in text) == bool(status), text


CELLS = {"right": (["x = 1", "import os\nassert os.path.samefile('.', HERE) and x == 1"], 0),
         "wrong": (["x = 1", "print('so far')", "assert x == 2, 'not two'"], 1),
         "interrupted": (["raise KeyboardInterrupt"], 1),
         "ended": (["import os", "os._exit(3)"], 3),
         "ended early": (["import os", "os._exit(0)", "assert False"], 2),
         "without a place to print": (["import os", "os.close(1); os.close(2)", "assert False"], 2),
         "left out": (["#| eval: false\nassert False"], 0)}


@pytest.mark.parametrize("case", CELLS)
def test_a_failure_is_seen_and_told(case, tmp_path, runner):
    cells, expected = CELLS[case]
    nb = nbformat.v4.new_notebook(cells=[
        nbformat.v4.new_code_cell(c.replace("HERE", repr(str(tmp_path)))) for c in cells])
    nbformat.write(nb, tmp_path / "some.ipynb")
    for _ in range(2):  # one notebook leaves nothing behind for the next
        status, text, seconds = runner(tmp_path / "some.ipynb")
        assert status == expected, text
    if case == "wrong": assert "assert x == 2, 'not two'" in text and "AssertionError" in text
