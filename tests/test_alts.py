"""Every stored figure says what it shows, and can be read."""
import base64
import importlib.util
import io
import json
import re
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parent.parent
spec = importlib.util.spec_from_file_location("alts", ROOT / "tools/alts.py")
alts = importlib.util.module_from_spec(spec)
spec.loader.exec_module(alts)


def test_every_figure_of_the_book_has_its_text():
    assert alts.main(["--check"]) == 0


def test_the_figures_are_stored_with_150_dots_an_inch_and_letters_of_9_points_or_more():
    coarse, letters = [], r"(?:fontsize|labelsize|font\.size'?)(?:=|\(|: )([0-8](?:\.\d)?)\b"
    for path in sorted([*ROOT.glob("nbs/*.ipynb"), *ROOT.glob("cifar_nb/**/*.py")]):
        text = path.read_text(encoding="utf-8")
        if re.search(letters, text): coarse.append(path.stem)
        for cell in json.loads(text)["cells"] if path.suffix == ".ipynb" else ():
            for picture in (o["data"]["image/png"] for o in cell.get("outputs", ())
                            if "image/png" in o.get("data", ())):
                image = Image.open(io.BytesIO(base64.b64decode("".join(picture))))
                dots, _ = image.info.get("dpi", (0, 0))
                if round(dots) < 150: coarse.append((path.stem, cell["id"]))
    assert not coarse


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
