"""Badges: every chapter has its own, and each leads to a file of the repository."""
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tools"))
import badges


def run(root, *argv):
    return subprocess.run([sys.executable, root / "tools/badges.py", *argv], capture_output=True,
                          encoding="utf-8")


def test_every_badge_of_readme_chapters_and_kaggle_leads_to_a_file():
    for path in [ROOT / "README.md", *(ROOT / "nbs").glob("*.ipynb"),
                 ROOT / "kaggle/cifar-nb.ipynb"]:
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".ipynb":
            text = "\n".join("".join(c["source"]) for c in json.loads(text)["cells"]
                             if c["cell_type"] == "markdown")
        targets = badges.TARGET.findall(text)
        assert len(targets) == text.count("[![Open in"), path
        assert all((ROOT / t).is_file() for t in targets), (path, targets)
    assert badges.TARGET.findall((ROOT / "README.md").read_text(encoding="utf-8"))


def test_the_chapters_have_their_badges():
    p = run(ROOT, "--check")
    assert p.returncode == 0, p.stderr


@pytest.fixture
def copy(tmp_path):
    "A repository with two chapters."
    for name in ("tools", "nbs", "kaggle"): (tmp_path / name).mkdir()
    for name in ("tools/badges.py", "settings.ini", "kaggle/cifar-nb.ipynb"):
        shutil.copy(ROOT / name, tmp_path / name)
    for name in ("61_training", "67_cli"): shutil.copy(ROOT / f"nbs/{name}.ipynb", tmp_path / "nbs")
    return tmp_path


def test_only_the_title_cell_changes_and_only_once(copy):
    for path in (copy / "nbs").glob("*.ipynb"):  # as they would be without badges
        nb = json.loads(path.read_text(encoding="utf-8"))
        badges.title_cell(nb)["source"] = [
            "# A title\n", "\n", "> and a subtitle\n", "\n", "First words."]
        path.write_text(json.dumps(nb), encoding="utf-8")
    before = {p: json.loads(p.read_text(encoding="utf-8")) for p in (copy / "nbs").glob("*.ipynb")}
    assert (run(copy, "--check").returncode == 1
            and "67_cli.ipynb has no badges" in run(copy, "--check").stderr)
    assert run(copy).returncode == 0
    for path, nb in before.items():
        new = json.loads(path.read_text(encoding="utf-8"))
        title, cell = badges.title_cell(nb), badges.title_cell(new)
        blocks = "".join(cell["source"]).split("\n\n")
        assert (blocks[:2] == ["# A title", "> and a subtitle"]
                and blocks[2].startswith(badges.MARK) and blocks[3:] == ["First words."])
        assert ("Open in Kaggle" in blocks[2]) == (path.stem == "61_training")
        cell["source"] = title["source"]
        assert new == nb
    once = [p.read_bytes() for p in before]
    assert (run(copy).stdout == "" and [p.read_bytes() for p in before] == once
            and run(copy, "--check").returncode == 0)


def test_a_badge_that_leads_nowhere_is_found(copy):
    run(copy)
    (copy / "kaggle/cifar-nb.ipynb").rename(copy / "kaggle/other.ipynb")
    shutil.copy(copy / "kaggle/other.ipynb", copy / "kaggle/cifar-nb.ipynb")
    assert run(copy, "--check").returncode == 0
    (copy / "settings.ini").write_text(
        (copy / "settings.ini").read_text(encoding="utf-8").replace(
            "branch = main", "branch = book"), encoding="utf-8")
    assert "old ones" in run(copy, "--check").stderr
