"""Badges: every chapter has its own, and each leads to a file of the repository. Below them the
cell that makes the chapter run on Colab."""
import json
import os
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


def test_only_the_title_cell_and_the_one_below_change_and_only_once(copy):
    for path in (copy / "nbs").glob("*.ipynb"):  # as they would be without badges
        nb = json.loads(path.read_text(encoding="utf-8"))
        badges.title_cell(nb)["source"] = [
            "# A title\n", "\n", "> and a subtitle\n", "\n", "First words."]
        nb["cells"] = [c for c in nb["cells"] if c["id"] != "colab"]
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
        assert new["cells"].pop(new["cells"].index(cell) + 1) == badges.set_up()
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


def test_the_cell_for_colab_comes_before_all_other_code():
    for path in sorted((ROOT / "nbs").glob("*.ipynb")):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        code = [c for c in cells if c["cell_type"] == "code"
                and any(line[:1] != "#" for line in c["source"])]  # more than directives
        if path.stem != "index": assert [c["id"] for c in code].index("colab") == 0, path
        folded = [c["id"] for c in cells if c["metadata"].keys() & {"jupyter", "cellView"}]
        assert folded == ["colab"] * (path.stem != "index"), path


def test_a_chapter_without_code_needs_no_cell_for_colab():
    title = dict(cell_type="markdown", id="1", metadata={}, source=["# A title"])
    code = dict(cell_type="code", id="2", metadata={}, source=["1 + 1"], outputs=[])
    def ids(*cells): return [c["id"] for c in badges.fitted(dict(cells=[*cells]), "x")["cells"]]
    assert ids(title) == ids(title, badges.set_up()) == ["1"]
    assert ids(title, code) == ids(badges.set_up(), title, code) == ["1", "colab", "2"]


GIT = """#!/bin/sh
echo "git $@" >> "$ASKED"
mkdir -p cifar_nb/nbs
"""
PIP = """#!/bin/sh
echo "pip $@ in $PWD" >> "$ASKED"
"""
SHELL = """
import json, os, sys
from IPython.core.interactiveshell import InteractiveShell
class Shell(InteractiveShell): pass
if sys.argv[1]: Shell.__module__ = 'google.colab._shell'  # as Colab's own is called
shell = Shell.instance()
for _ in range(2): shell.run_cell(sys.argv[2], silent=True).raise_error()
print(os.getcwd(), sorted(k for k in shell.user_ns if k[0] != '_'))
"""


@pytest.mark.skipif(os.name == "nt", reason="Colab is Linux")
@pytest.mark.parametrize("colab", [True, False])
def test_the_cell_fetches_the_book_once_and_only_on_colab(tmp_path, colab):
    for name, text in ("git", GIT), ("pip", PIP):
        (tmp_path / name).write_text(text, encoding="utf-8")
        (tmp_path / name).chmod(0o755)
    content, asked = tmp_path / "content", tmp_path / "asked"
    content.mkdir()
    source = "".join(badges.set_up()["source"])
    assert source.count("/content") == 1
    env = os.environ | {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}", "ASKED": str(asked),
                        "IPYTHONDIR": str(tmp_path / "ipython")}
    def state(where, cell):
        done = subprocess.run(
            [sys.executable, "-c", SHELL, "colab" * colab, cell.replace("/content", str(content))],
            cwd=where, env=env, capture_output=True, encoding="utf-8")
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()[-1].split(" ", 1)
    where, names = state(tmp_path, source)
    if not colab:
        assert [where, names] == state(tmp_path, "pass") and not asked.exists()
        return
    assert where == str(content / "cifar_nb/nbs")
    install = f"pip install -q ./cifar_nb[notebook] fastcore in {content}"
    assert asked.read_text(encoding="utf-8").splitlines() == [
        "git clone -q https://github.com/cifar-nb/cifar_nb", install, install]
