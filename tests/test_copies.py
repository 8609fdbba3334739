"""The copies that a reader works in, and chapters that are saved without an edit."""
import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def load():
    spec = importlib.util.spec_from_file_location("copies", ROOT / "tools/copies.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


copies = load()


def chapter(*sources, outputs=(), **more):
    cells = [dict(cell_type="code", source=[s], outputs=list(outputs), **more) for s in sources]
    return json.dumps(dict(cells=cells, metadata={}, nbformat=4, nbformat_minor=5))


@pytest.fixture
def book(tmp_path):
    for name, text in (("00_start.ipynb", chapter("a")), ("01_data.ipynb", chapter("b")),
                       ("solutions/01_data.ipynb", chapter("c")), ("logs/team.csv", "1,2\n"),
                       ("matplotlibrc", "figure.dpi: 150\n"),
                       (".ipynb_checkpoints/01_data-checkpoint.ipynb", chapter("old"))):
        path = tmp_path / "nbs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    copies.bring(tmp_path, say=str)
    return tmp_path


def names(folder):
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def put(path, text): path.write_text(text, encoding="utf-8")
def text(path): return path.read_text(encoding="utf-8")


def test_the_chapters_and_what_they_read_are_copied(book):
    assert names(book / "work") == [".copies.json", "00_start.ipynb", "01_data.ipynb",
                                    "logs/team.csv", "matplotlibrc", "solutions/01_data.ipynb"]
    said = []
    assert copies.bring(book, said.append) == [] and said == []


def test_a_copy_that_was_only_run_is_renewed(book):
    put(book / "work/01_data.ipynb", chapter("b", outputs=[dict(output_type="stream")], id="1"))
    copies.bring(book, str)
    assert "stream" in text(book / "work/01_data.ipynb"), "the book has not changed: outputs stay"
    put(book / "nbs/01_data.ipynb", chapter("b, mended"))
    put(book / "nbs/logs/team.csv", "1,3\n")
    said = []
    assert copies.bring(book, said.append) == []
    assert text(book / "work/01_data.ipynb") == text(book / "nbs/01_data.ipynb")
    assert text(book / "work/logs/team.csv") == "1,3\n" and "01_data.ipynb" in said[0]


@pytest.mark.parametrize("edited", [chapter("b", "mine"), chapter("B"), "damaged", ""])
def test_a_copy_that_was_edited_is_never_touched(book, edited):
    put(book / "work/01_data.ipynb", edited)
    assert copies.bring(book, str) == [] and text(book / "work/01_data.ipynb") == edited
    put(book / "nbs/01_data.ipynb", chapter("b, mended"))
    for _ in range(2):
        said = []
        assert copies.bring(book, said.append) == ["01_data.ipynb"]
        assert text(book / "work/01_data.ipynb") == edited and "Yours stay" in said[0]
    (book / "work/01_data.ipynb").unlink()
    assert copies.bring(book, str) == []
    assert text(book / "work/01_data.ipynb") == chapter("b, mended")


def test_a_chapter_that_is_gone_is_named_and_only_an_unedited_copy_goes(book):
    put(book / "work/mine.ipynb", chapter("my own"))
    put(book / "work/01_data.ipynb", chapter("b", outputs=[dict(output_type="stream")]))
    put(book / "work/solutions/01_data.ipynb", chapter("c", "mine"))
    (book / "nbs/01_data.ipynb").rename(book / "nbs/02_data.ipynb")
    (book / "nbs/solutions/01_data.ipynb").rename(book / "nbs/solutions/02_data.ipynb")
    (book / "nbs/logs/team.csv").unlink()
    said = []
    copies.bring(book, said.append)
    assert names(book / "work") == [".copies.json", "00_start.ipynb", "02_data.ipynb",
                                    "matplotlibrc", "mine.ipynb", "solutions/01_data.ipynb",
                                    "solutions/02_data.ipynb"]
    assert said[1].endswith(": 01_data.ipynb, logs/team.csv")
    for again in said[2:], []:
        if not again: copies.bring(book, again.append)
        assert len(again) == 1 and "solutions/01_data.ipynb (now solutions/02_data.ipynb)." in (
            again[0])
        assert text(book / "work/solutions/01_data.ipynb") == chapter("c", "mine")
    (book / "work/solutions/01_data.ipynb").unlink()
    said = []
    assert copies.bring(book, said.append) == [] and said == []


def test_an_edited_chapter_that_comes_back_is_edited_still(book):
    put(book / "work/01_data.ipynb", chapter("mine"))
    (book / "nbs/01_data.ipynb").unlink()
    said = []
    copies.bring(book, said.append)
    assert "you have edited: 01_data.ipynb. Yours" in said[0]
    put(book / "nbs/01_data.ipynb", chapter("b, mended"))
    assert copies.bring(book, said.append) == ["01_data.ipynb"]
    assert text(book / "work/01_data.ipynb") == chapter("mine")


def test_an_edit_that_the_book_has_taken_over_is_none(book):
    put(book / "work/01_data.ipynb", chapter("better"))
    put(book / "nbs/01_data.ipynb", chapter("better"))
    assert copies.bring(book, str) == []
    put(book / "nbs/01_data.ipynb", chapter("still better"))
    assert copies.bring(book, str) == []
    assert text(book / "work/01_data.ipynb") == chapter("still better")


def test_without_its_notes_every_copy_that_differs_counts_as_edited(book):
    put(book / "nbs/01_data.ipynb", chapter("b, mended"))
    put(book / "work/.copies.json", "[1")
    assert copies.bring(book, str) == ["01_data.ipynb"]
    assert text(book / "work/01_data.ipynb") == chapter("b")


def test_git_does_not_see_them():
    if not (ROOT / ".git").exists(): pytest.skip("this is no clone")
    for path in ("work/00_start.ipynb", "work/.copies.json"):
        assert subprocess.run(["git", "check-ignore", "-q", path], cwd=ROOT).returncode == 0


def test_saving_a_chapter_without_an_edit_changes_no_byte(tmp_path):
    """Through Jupyter's own server with the project's own configuration, and with what JupyterLab
    adds when it opens a notebook."""
    pytest.importorskip("jupyter_server")
    for name in ("settings.ini", "tools/jupyter/jupyter_server_config.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    shutil.copytree(ROOT / "nbs", tmp_path / "nbs", ignore=shutil.ignore_patterns("runs", ".*"))
    code = """
import asyncio, inspect, sys
from pathlib import Path
from jupyter_server.serverapp import ServerApp
app = ServerApp(root_dir='.', open_browser=False, port=0, allow_root=True)
app.initialize(argv=[], new_httpserver=False)
async def value(x): return await x if inspect.isawaitable(x) else x
async def main():
    cm = app.contents_manager
    for p in sorted(Path('nbs').glob('**/*.ipynb')):
        before = p.read_bytes()
        model = await value(cm.get(p.as_posix(), type='notebook', content=True))
        meta = model['content']['metadata']
        meta['kernelspec'] = dict(display_name='Python 3 (ipykernel)', language='python',
                                  name='python3')
        meta['language_info'] = dict(name='python', version='3.12.1', file_extension='.py')
        for c in model['content']['cells']: c['metadata']['trusted'] = True
        await value(cm.save(dict(type='notebook', format='json', content=model['content']),
                            p.as_posix()))
        if p.read_bytes() != before: print(p)
asyncio.run(main())
"""
    env = {"JUPYTER_CONFIG_PATH": str(tmp_path / "tools/jupyter"), "HOME": str(tmp_path),
           "PATH": "/usr/bin:/bin", "JUPYTER_RUNTIME_DIR": str(tmp_path / "run")}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True,
                          encoding="utf-8")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "", done.stdout
