"""One place that the chapters' paths come from: a chapter runs from any folder."""
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cifar_nb.core import places
from cifar_nb.core.errors import InputError
from cifar_nb.delivery.site import book_folder

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "nbs").glob("**/[!.]*.ipynb"))
BOUND = re.compile(r"""['"](\.\./[^'"]*|logs/[^'"]*|chapters\.csv|[\w{}]+\.ipynb)['"]""")
LEFT = {("01_data", "../stowaway")}  # a name in an archive


@pytest.mark.parametrize("inside, found", [
    (".", "."), ("nbs", ".."), ("work", ".."), ("work/mine/today", "../../.."),
    ("nbs/solutions", "../..")])
def test_it_is_the_working_folder_or_one_above_it(tmp_path, monkeypatch, inside, found):
    (tmp_path / "nbs").mkdir()
    (tmp_path / "nbs/chapters.csv").touch()
    (tmp_path / inside).mkdir(parents=True, exist_ok=True)
    monkeypatch.chdir(tmp_path / inside)
    assert places.book_root() == book_folder() == Path(found)
    assert places.book_root().samefile(tmp_path)


def test_elsewhere_it_is_where_the_package_lies(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert places.book_root() == ROOT.resolve()
    monkeypatch.setattr(places, "__file__", str(tmp_path / "a/b/site-packages/places.py"))
    with pytest.raises(InputError, match=r"neither .*nor does .*Run this in a clone"):
        places.book_root()


def strings(path):
    "What the code of a notebook has as a path that holds from one folder only."
    for c in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        if c["cell_type"] != "code": continue
        for line in c["source"]:
            yield from (m[1] for m in BOUND.finditer(line) if (path.stem, m[1]) not in LEFT)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.relative_to(ROOT / "nbs").as_posix())
def test_no_path_of_a_chapter_holds_from_its_folder_only(path):
    assert not [*strings(path)]


@pytest.mark.parametrize("line, found", [
    ("load_results('../results')", ["../results"]), ('read_log(f"logs/{n}.csv")', ["logs/{n}.csv"]),
    ("Path(f'{chapter}.ipynb')", ["{chapter}.ipynb"]), ("'../../results/a'", ["../../results/a"]),
    ("load_results(book_root()/'results')", []), ("'results', 'nbs/logs/a.csv', here/'x.csv'", [])])
def test_such_a_path_is_found(tmp_path, line, found):
    nb = dict(cells=[dict(cell_type="code", source=[line])])
    (tmp_path / "a.ipynb").write_text(json.dumps(nb), encoding="utf-8")
    assert [*strings(tmp_path / "a.ipynb")] == found


@pytest.mark.parametrize("inside", [".", "book/work/mine"])
def test_a_chapter_finds_its_records_from_any_folder(tmp_path, inside):
    """Cells of chapter 42, from a folder that has nothing to do with the book, and from a copy that
    somebody has put into a folder below work/ of another clone."""
    (tmp_path / "book/work/mine").mkdir(parents=True)
    for name in ("nbs/chapters.csv", "results/bench/convolution-cpu.json"):
        (tmp_path / "book" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / "book" / name)
    cells = json.loads((ROOT / "nbs/42_im2col.ipynb").read_text(encoding="utf-8"))["cells"]
    source = next(s for c in cells if "race = json" in (s := "".join(c["source"])))
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    p = subprocess.run([sys.executable, "-c", f"{source}\nprint(book_root(), len(race))"],
                       cwd=tmp_path / inside, env=env, capture_output=True, encoding="utf-8")
    assert p.returncode == 0, p.stderr
    root = ROOT if inside == "." else Path("../..")
    record = json.loads((ROOT / "results/bench/convolution-cpu.json").read_text(encoding="utf-8"))
    assert p.stdout.split() == [str(root), str(len(record))]
