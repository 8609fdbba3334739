"""Run notebooks in place and keep their outputs, leaving alone what nbdev_test leaves alone.

    python tools/execute.py nbs/01_data.ipynb ...      # no names: every chapter
    python tools/execute.py --time ...                 # also keep the seconds in
    results/bench/chapters.json

Cells behind `#| eval: false` or one of settings.ini's `tst_flags` keep the outputs they have.
Widgets are dropped: their model ids are random, and a saved widget shows as an empty box in static
viewers. Follow it with `nbdev_clean`.
"""
import json
import os
import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient

sys.path.insert(0, str(Path(__file__).parent))
from alts import described
from cells import skipped

WIDGET = "application/vnd.jupyter.widget-view+json"


class Client(NotebookClient):
    async def async_execute_cell(self, cell, cell_index, **kwargs):
        if cell.cell_type == "code" and skipped(cell.source): return cell
        return await super().async_execute_cell(cell, cell_index, **kwargs)


def tidy(nb):
    """Drop widgets and what went to stderr (progress bars): a static page cannot show them, and
    they differ on every run."""
    nb.metadata.pop("widgets", None)
    for cell in nb.cells:
        if cell.cell_type != "code": continue
        cell.outputs = [o for o in cell.outputs if WIDGET not in o.get("data", {})
                        and o.get("name") != "stderr"]


def keep(seconds):
    "Add the seconds of each chapter to what is known, with the machine they were measured on."
    import torch

    from cifar_nb.training.precision import hardware
    file = Path("results/bench/chapters.json")
    old = json.loads(file.read_text(encoding="utf-8"))["seconds"] if file.exists() else {}
    machine = (f"{hardware('cpu')}, {os.cpu_count()} cores, {torch.get_num_threads()} threads of "
               f"torch {torch.__version__.split('+')[0]}")
    file.write_text(
        json.dumps(dict(machine=machine, seconds=dict(sorted({**old, **seconds}.items()))),
                   indent=1) + "\n", encoding="utf-8")


def main(names):
    timed, names = "--time" in names, [n for n in names if n != "--time"]
    for path in map(Path, names or sorted(Path("nbs").glob("*.ipynb"))):
        start, nb = time.time(), nbformat.read(path, 4)
        Client(nb, timeout=1800, kernel_name="python3",
               resources={"metadata": {"path": str(path.parent)}}).execute()
        tidy(nb)
        described(nb)
        nbformat.write(nb, path)
        seconds = time.time() - start
        print(f"{path} {seconds:.1f}s", flush=True)
        if timed: keep({path.stem: round(seconds, 1)})


if __name__ == "__main__": main(sys.argv[1:])
