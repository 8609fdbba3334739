"""Every stored figure says what it shows."""
import importlib.util
import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
spec = importlib.util.spec_from_file_location("alts", ROOT / "tools/alts.py")
alts = importlib.util.module_from_spec(spec)
spec.loader.exec_module(alts)


def test_every_figure_of_the_book_has_its_text():
    assert alts.main(["--check"]) == 0


@pytest.mark.parametrize("source, found", [
    ("#| fig-alt: a curve that falls and rises\nshow()", "a curve that falls and rises"),
    ("#| slow\n#| fig-alt: a curve that falls and rises\nshow()", "a curve that falls and rises"),
    ("show()", None), ("#| fig-alt: a curve\nshow()", None),
    ("x = '#| fig-alt: not a line of its own'", None)])
def test_the_text_goes_where_it_is_read(tmp_path, source, found):
    (tmp_path / "nbs").mkdir()
    cell = dict(cell_type="code", id="one", metadata={}, source=source, execution_count=None,
                outputs=[dict(output_type="display_data", data={"image/png": ""}, metadata={})])
    path = tmp_path / "nbs/a.ipynb"
    path.write_text(json.dumps(dict(cells=[cell])), encoding="utf-8")
    assert alts.main(["--check"], tmp_path) == 1  # not copied yet, or not there
    assert alts.main([], tmp_path) == (found is None)
    about = json.loads(path.read_text(encoding="utf-8"))["cells"][0]["outputs"][0]["metadata"]
    if found: assert about["image/png"]["alt"] == found and alts.main(["--check"], tmp_path) == 0
