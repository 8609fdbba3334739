"""The notebook for Kaggle, as Kaggle would run it: the package not importable, no network, a
made-up /kaggle of each layout."""
import ast
import errno
import hashlib
import json
import os
import pickle
import re
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest
import torch
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from packaging.requirements import Requirement
from PIL import Image

from cifar_nb.cli import main
from cifar_nb.core.errors import InputError
from cifar_nb.data import images as images_
from cifar_nb.data.cifar import CLASSES, MD5, search_places, toy
from cifar_nb.data.competition import load_competition
from cifar_nb.delivery import kaggle, kaggle_push, session
from cifar_nb.evaluation.tta import read_submission
from cifar_nb.training import jobs

ROOT = Path(__file__).parent.parent
COURSE = "deep-learning-spring-2025-project-1"


# ----------------------------------------------------------------------------------------------
# what is committed

def test_the_committed_files_are_what_the_chapters_give(tmp_path):
    kaggle.build(tmp_path)
    for name in ("cifar-nb.ipynb", "kernel-metadata.json"):
        assert (ROOT / "kaggle" / name).read_bytes() == (tmp_path / name).read_bytes(
            ), f"kaggle/{name} is out of step: delete it, and run `cifar_nb kaggle build`"


def test_it_passes_its_own_check_and_nbformat():
    assert kaggle_push.check_notebook(ROOT / "kaggle") == []
    nb = nbformat.read(ROOT / "kaggle/cifar-nb.ipynb", 4)
    nbformat.validate(nb)
    assert not any(c.get("outputs") for c in nb.cells) and nb.metadata.kernelspec.name == "python3"
    assert os.path.getsize(ROOT / "kaggle/cifar-nb.ipynb") < 2**20  # Kaggle's limit


def test_a_student_sees_at_most_25_short_cells_and_the_library_folded():
    nb = nbformat.read(ROOT / "kaggle/cifar-nb.ipynb", 4)
    folded = [c for c in nb.cells if c.metadata.get("_kg_hide-input")]
    seen = [c for c in nb.cells if c not in folded]
    assert [c.id for c in folded] == ["magic", *(f"layer-{n}" for n in kaggle.LAYER_TEXTS)]
    assert all(c.metadata.jupyter.source_hidden and c.metadata.cellView == "form" for c in folded)
    assert len(seen) <= 25
    assert all(len(c.source.splitlines()) <= 15 for c in seen if c.cell_type == "code")
    assert all(len(line) <= 100 for c in seen if c.cell_type == "code"
               for line in c.source.splitlines())


def test_every_link_leads_to_a_file_of_the_repository():
    text = (ROOT / "kaggle/cifar-nb.ipynb").read_text(encoding="utf-8")
    paths = re.findall(r"/blob/main/([\w./-]+\.ipynb)", text)
    assert len(paths) > 12 and all((ROOT / p).is_file() for p in paths), paths


def committed(): return json.loads((ROOT / "kaggle/cifar-nb.ipynb").read_text(encoding="utf-8"))


def uncommented(source):
    "The cell `source` with the code in its comments: a reader takes their `# ` away."
    return re.sub("^# ", "", source, flags=re.M)


def yours(RECIPES=None):
    "What the cell `yours` with its example makes, and what it prints."
    said, names = [], dict(RECIPES=RECIPES, print=lambda *words: said.append(" ".join(words)))
    exec(uncommented("".join(code_cell(committed(), "yours")["source"])), names)
    return names, said


def test_the_example_of_a_recipe_changes_what_it_names_and_nothing_else():
    names, said = yours()
    mine, quick = names["YOURS"].to_dict(), kaggle.zoo.get_recipe("quick").to_dict()
    (new,), (old,) = mine.pop("phases"), quick.pop("phases")
    assert {k for k in quick if mine[k] != quick[k]} == {"name", "title"}
    assert {k for k in old if new[k] != old[k]} == {"augment", "optimizer"}
    rate, was = new["optimizer"].pop("lr"), old["optimizer"].pop("lr")
    assert new["optimizer"] == old["optimizer"] and rate != was and was / 10 < rate < was * 10
    added = [op for op in new["augment"] if op not in old["augment"]]
    assert len(added) == 1 and [op for op in new["augment"] if op not in added] == old["augment"]
    assert len(said) == 1 and said[0].startswith("known: ")


def test_the_cell_of_ones_own_recipe_imports_what_is_used_without_and_with_its_example():
    cells = committed()["cells"]
    source = "".join(code_cell(committed(), "yours")["source"])
    others = ["".join(c["source"]) for c in cells if c["cell_type"] == "code"
              and c["id"] != "yours" and not c["metadata"].get("_kg_hide-input")]
    for text in (source, uncommented(source)):
        nodes = [n for code in (text, *others) for n in ast.walk(ast.parse(code))]
        used = {n.id for n in nodes if isinstance(n, ast.Name)}
        used |= set(re.findall(r"\w+", "".join(code_cell(committed(), "yours-text")["source"])))
        assert {a.name for n in ast.walk(ast.parse(text)) if isinstance(n, ast.ImportFrom)
                for a in n.names} <= used


@pytest.mark.parametrize("given", ["hour", ["hour", "laptop"]])
def test_which_counts_of_ones_own_recipe_and_those_of_the_settings_is_said(given):
    names, (said, _) = yours(given)
    assert said.startswith(f"ATTENTION: RECIPES = {given!r} counts, and YOURS (mine) is not")
    assert "set RECIPES = None" in said
    text = "".join(code_cell(committed(), "members")["source"])
    names |= dict(devices=["cpu"], SEEDS=None, PARALLEL="members", VARIANT="report")
    exec(text[:text.index("members = ")], names)
    assert [r.name for r in names["chosen"]] == ([given] if isinstance(given, str) else given)


def test_a_mistake_in_ones_own_recipe_is_told_without_a_page_of_traceback(monkeypatch):
    monkeypatch.delattr(InputError, "_render_traceback_", raising=False)
    source = "".join(code_cell(committed(), "yours")["source"])
    with pytest.raises(InputError) as e:
        exec(source.replace("YOURS = None", "YOURS = get_recipe('qick')"), dict(RECIPES=None))
    line, = e.value._render_traceback_()
    assert line.startswith("InputError: ") and "did you mean quick" in line


def test_a_training_that_is_refused_leaves_no_earlier_one_to_be_judged(monkeypatch):
    def refuse(*args, **kwargs): raise InputError("not so")
    monkeypatch.setattr(jobs, "identified", refuse)
    names = dict(runs=["of an earlier recipe"], well=["its member"], PRECISION=None, holdout=4,
                 images=SimpleNamespace(x=None, y=None, name="toy"), members=[], devices=["cpu"])
    with pytest.raises(InputError, match="not so"):
        exec("".join(code_cell(committed(), "training")["source"]), names)
    assert names["runs"] == names["well"] == []


def test_the_first_start_counts_when_all_is_run_again(monkeypatch):
    source = "".join(code_cell(committed(), "magic")["source"])
    line, = [line for line in source.splitlines() if line.startswith("STARTED")]
    first = dict(time=time)
    exec(line, first)
    again = first | dict(time=SimpleNamespace(time=lambda: first["STARTED"] + 7200))
    exec(line, again)
    assert abs(first["STARTED"] - time.time()) < 60 and again["STARTED"] == first["STARTED"]


def edit(path, change):
    "Apply `change` to the JSON object in `path`."
    value = json.loads(path.read_text(encoding="utf-8"))
    change(value)
    path.write_text(json.dumps(value), encoding="utf-8")


def code_cell(nb, name): return next(c for c in nb["cells"] if c["id"] == name)


BROKEN = {
    "user/slug": lambda m: m.update(id="cifar-nb"),
    "without a version": lambda m: m.update(id="cifar-nb/cifar-nb/3"),
    "not the slug": lambda m: m.update(title="Another title"),
    "5 to 50": lambda m: m.update(title="abc"),
    "no such notebook": lambda m: m.update(code_file="other.ipynb"),
    "code_file is '../": lambda m: m.update(code_file="../cifar-nb/cifar-nb.ipynb"),
    "language is": lambda m: m.update(language="julia"),
    "kernel_type is": lambda m: m.update(kernel_type="job"),
    "enable_internet is None": lambda m: m.pop("enable_internet"),
    "is_private is 'yes'": lambda m: m.update(is_private="yes"),
    "both true": lambda m: m.update(enable_tpu=True),
    "although enable_gpu is false": lambda m: m.update(enable_gpu=False),
    "although enable_tpu is false": lambda m: m.update(machine_shape="TpuV5E8"),
    "machine_shape is ['Nvi": lambda m: m.update(machine_shape=["NvidiaTeslaT4"]),
    "not a field": lambda m: m.update(enable_gpus=True),
    "the form is owner/slug": lambda m: m.update(dataset_sources=["cifar10-python"]),
    "the form is slug": lambda m: m.update(competition_sources=[f"c/{COURSE}"]),
    "the form is owner/model": lambda m: m.update(model_sources=["a/b/c"]),
    "must be a list": lambda m: m.update(kernel_sources="me/first"),
}
BROKEN_NOTEBOOK = {
    "kernelspec": lambda nb: nb["metadata"].pop("kernelspec"),
    "has outputs": lambda nb: code_cell(nb, "data")["outputs"].append({}),
    "0 cells are tagged": lambda nb: code_cell(nb, "settings")["metadata"].clear(),
    "no ids": lambda nb: code_cell(nb, "data").pop("id"),
    "which no cell above it makes": lambda nb: nb["cells"].remove(
        code_cell(nb, "layer-evaluation")),
    "layer-data, data/cifar.py, is not Python": lambda nb: code_cell(nb, "layer-data").update(
        source=["%%layer data\n", "#: data/cifar.py\n", "def\n"]),
    "is not Python": lambda nb: code_cell(nb, "data").update(source=["def"]),
    "calls the shell": lambda nb: code_cell(nb, "data").update(source=["!pip install cifar_nb"]),
    "no notebook of format 4": lambda nb: nb.pop("cells"),
    "ipynb is no notebook": lambda nb: nb["cells"].append("a text"),
    "ipynb is no notebook of": lambda nb: nb["cells"][-1].pop("source"),
    "ipynb is no notebook of format": lambda nb: nb.update(metadata=[]),
    "ipynb is no notebook of format 4": lambda nb: nb["cells"][0].update(id=7),
}


@pytest.mark.parametrize("reason", [*BROKEN, *BROKEN_NOTEBOOK])
def test_check_names_what_is_broken(reason, tmp_path):
    for name in ("cifar-nb.ipynb", "kernel-metadata.json"):
        (tmp_path / name).write_bytes((ROOT / "kaggle" / name).read_bytes())
    file = "kernel-metadata.json" if reason in BROKEN else "cifar-nb.ipynb"
    edit(tmp_path / file, (BROKEN | BROKEN_NOTEBOOK)[reason])
    assert any(reason in p for p
               in kaggle_push.check_notebook(tmp_path)), kaggle_push.check_notebook(tmp_path)


@pytest.mark.parametrize("change, said", [
    (dict(enable_gpu=False, machine_shape=""), ""),
    (dict(enable_gpu=False, machine_shape=None), ""),
    (dict(machine_shape="NvidiaTeslaT4"), ""),
    (dict(machine_shape="NvidiaTeslaP100"), "is retired"),
    (dict(machine_shape="NvidiaL4"), "is not known here"),
    (dict(machine_shape=""), "Kaggle chooses the GPU"),
    (dict(enable_gpu=False, enable_tpu=True, machine_shape="TpuV5E8"), "cannot use one"),
    (dict(enable_gpu=False, enable_tpu=True, machine_shape=None), "cannot use one"),
])
def test_a_machine_that_kaggle_may_not_start_is_warned_of_and_no_problem(tmp_path, change, said):
    "None in `change`: the field is left out."
    for name in ("cifar-nb.ipynb", "kernel-metadata.json"):
        (tmp_path / name).write_bytes((ROOT / "kaggle" / name).read_bytes())
    def changed(m):
        m.update(change)
        for k in change:
            if m[k] is None: del m[k]
    edit(tmp_path / "kernel-metadata.json", changed)
    lines = []
    kaggle_push.command_kaggle("check", tmp_path, say=lines.append)
    *warned, ready = lines
    assert ready.endswith("is ready to be pushed")
    assert [w.startswith("ATTENTION: ") and said in w for w in warned] == [True] * bool(said)


@pytest.mark.parametrize("raw", [b"", b"[" * 100_000, b"\xff\xfe", b"[1]", b'{"cells": '])
@pytest.mark.parametrize("name", ["cifar-nb.ipynb", "kernel-metadata.json"])
def test_check_tells_a_damaged_file_in_one_sentence(tmp_path, name, raw):
    for other in ("cifar-nb.ipynb", "kernel-metadata.json"):
        (tmp_path / other).write_bytes((ROOT / "kaggle" / other).read_bytes())
    (tmp_path / name).write_bytes(raw)
    said, = kaggle_push.check_notebook(tmp_path)
    assert (said.startswith(str(tmp_path / name)) and said.endswith("run `cifar_nb kaggle build`.")
            and "\n" not in said)


@pytest.mark.parametrize("encoding", ["cp1252", "gbk", "ascii"])
def test_the_notebook_is_the_same_whatever_the_systems_encoding_is(tmp_path, monkeypatch, encoding):
    "Everything that opens a text without naming its encoding gets this one."
    import builtins
    import io
    (tmp_path / "probe").write_bytes("ä±€".encode())
    real = io.open
    def other(file, mode="r", buffering=-1, given=None, *rest, **more):
        given = more.pop("encoding", given)
        return real(file, mode, buffering,
                    given if "b" in mode or given not in (None, "locale") else encoding, *rest,
                    **more)
    for module in (io, builtins): monkeypatch.setattr(module, "open", other)
    try: assert open(tmp_path / "probe", encoding=None).read() != "ä±€"
    except UnicodeError: pass
    path = kaggle.build(tmp_path)
    monkeypatch.undo()
    for name in ("cifar-nb.ipynb", "kernel-metadata.json"):
        assert (tmp_path / name).read_bytes() == (ROOT / "kaggle" / name).read_bytes(), path


def test_push_needs_a_good_folder_the_client_and_a_token(tmp_path, monkeypatch):
    with pytest.raises(InputError, match="cifar_nb kaggle build"): kaggle_push.push(tmp_path)
    monkeypatch.setitem(sys.modules, "kaggle.api.kaggle_api_extended", None)
    with pytest.raises(InputError, match="-m pip install kaggle`"):
        kaggle_push.push(ROOT / "kaggle")
    def authenticate(self): print("a page of advice"); sys.exit(1)
    fake = SimpleNamespace(KaggleApi=type("KaggleApi", (), dict(authenticate=authenticate)))
    for name in ("kaggle", "kaggle.api"): monkeypatch.setitem(sys.modules, name, SimpleNamespace())
    monkeypatch.setitem(sys.modules, "kaggle.api.kaggle_api_extended", fake)
    with pytest.raises(InputError, match="KAGGLE_API_TOKEN"): kaggle_push.push(ROOT / "kaggle")


def test_what_is_missing_cut_off_or_unknown_is_said(tmp_path, monkeypatch):
    folder = kaggle.build(tmp_path / "built").parent
    notebook = folder / "cifar-nb.ipynb"
    notebook.write_bytes(notebook.read_bytes()[:1000])
    said = [kaggle_push.check_notebook(f)[0].replace(str(tmp_path), "")
            for f in (tmp_path / "nowhere", folder)]
    assert said[0] == ("/nowhere/kernel-metadata.json cannot be read (No such file or directory): "
                       "run `cifar_nb kaggle build`.")
    assert said[1].startswith("/built/cifar-nb.ipynb is not JSON (Unterminate")
    with pytest.raises(InputError, match="was not sent"): kaggle_push.push(folder)
    with pytest.raises(InputError, match="no action"): kaggle_push.command_kaggle("bild")
    monkeypatch.setitem(sys.modules, "kaggle.api.kaggle_api_extended", None)
    with pytest.raises(InputError, match="is not installed here"): kaggle_push.client()


CLIENTS = {  # what is said, and what the client does when it is imported
    "make a token at kaggle.com/settings/api": "raise OSError('Could not find kaggle.json.')",
    "KAGGLE_API_TOKEN, or KAGGLE_USERNAME": "print('a page of advice'); raise SystemExit(1)",
    "client cannot use /home/ann/.kaggle .No room.: set KAGGLE_CONFIG_DIR":
        "raise OSError(28, 'No room', '/home/ann/.kaggle')",
    "kaggle 1.7.4.5 cannot ask for a machine: .*kaggle>=2":
        "class KaggleApi: __version__ = '1.7.4.5'",
}


@pytest.mark.parametrize("said", CLIENTS)
def test_a_client_that_cannot_start_or_is_too_old_is_said(said, tmp_path, monkeypatch):
    "Clients of 1.x log in when they are imported, and send no machine."
    names = ("kaggle", "kaggle.api", "kaggle.api.kaggle_api_extended")
    for name in names:
        monkeypatch.setitem(sys.modules, name, None)
        del sys.modules[name]
    home = tmp_path / "kaggle/api"
    home.mkdir(parents=True)
    for file in (home.parent / "__init__.py", home / "__init__.py"): file.touch()
    (home / "kaggle_api_extended.py").write_text(CLIENTS[said], encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InputError, match=said): kaggle_push.client()


def test_the_extra_asks_for_a_client_that_sends_the_machine():
    "kaggle 1.6.17 and 1.7.4.5 have no word of machine_shape, 2.0.0 sends it."
    settings = (ROOT / "settings.ini").read_text(encoding="utf-8")
    extra, = re.findall(r"^kaggle_requirements = (.*)$", settings, re.MULTILINE)
    allowed = Requirement(extra).specifier
    assert [v for v in ("1.6.17", "1.7.4.5", "2.0.0", "2.2.5") if v in allowed] == ["2.0.0",
                                                                                    "2.2.5"]


URL = "https://kaggle.com/code/ann/cifar-nb"


@pytest.fixture
def sent(monkeypatch):
    "Gives `sent(**invalid)`: a list that gets the metadata that a client is to push."
    def client(**invalid):
        got = []
        def push(folder):
            got.append(json.loads(Path(folder, "kernel-metadata.json").read_text("utf-8")))
            return SimpleNamespace(error="", url=URL, version_number=4, **invalid)
        api = SimpleNamespace(kernels_push=push, config_values=dict(username="ann"))
        monkeypatch.setattr(kaggle_push, "client", lambda: api)
        return got
    return client


@pytest.mark.parametrize("field, name, advice", [
    ("dataset", "pankrzysiu/cifar10-python", "whether you may see it"),
    ("competition", COURSE, "accept its rules"),
    ("kernel", "ann/first", "whether it has an output"),
    ("model", "a/b/c/d/1", "accept its licence")])
def test_a_push_without_its_data_is_no_success(sent, field, name, advice):
    got, lines = sent(**{f"invalid_{field}_sources": [name], "invalid_tags": []}), []
    with pytest.raises(InputError, match=f"Version 4 .*left out {name} .*{advice}"):
        kaggle_push.push(ROOT / "kaggle", say=lines.append)
    assert lines == [f"version 4 is at {URL}"] and len(got) == 1


def test_a_push_tells_of_each_thing_that_was_left_out_and_a_tag_is_no_failure(sent):
    lines = []
    sent(invalid_tags=["gpu"], invalid_dataset_sources=None)
    assert kaggle_push.push(ROOT / "kaggle", say=lines.append) == URL
    assert lines[1:] == ["ATTENTION: Kaggle left out gpu (keywords: Kaggle has no such tags)"]
    sent(invalid_tags=["gpu"], invalid_dataset_sources=["a/one", "a/two"],
         invalid_competition_sources=["three"])
    with pytest.raises(InputError, match="a/one, a/two .*three"):
        kaggle_push.push(ROOT / "kaggle", say=str)


def test_a_push_attaches_a_competition_and_an_earlier_output_and_changes_no_file(sent):
    before, got = contents(ROOT / "kaggle"), sent()
    kaggle_push.command_kaggle("push", ROOT / "kaggle", say=str, competition=COURSE,
                               resume_from="ann/cifar-nb")
    assert (got[0]["competition_sources"], got[0]["kernel_sources"]) == ([COURSE], ["ann/cifar-nb"])
    assert got[0]["dataset_sources"] == ["pankrzysiu/cifar10-python"]
    assert contents(ROOT / "kaggle") == before


def metadata_of(folder): return json.loads((folder / "kernel-metadata.json").read_text("utf-8"))


def test_a_build_keeps_name_and_sources_and_says_so(tmp_path, capsys):
    assert main(["kaggle", "build", "--folder", str(tmp_path), "--competition", COURSE,
                 "--resume-from", "ann/first"]) == 0
    assert "kept" not in capsys.readouterr().out
    mine = dict(id="ann/my-cifar", title="My CIFAR", dataset_sources=["ann/pngs"],
                model_sources=["a/b/c/d/1"])
    edit(tmp_path / "kernel-metadata.json", lambda m: m.update(mine, enable_internet=True))
    assert main(["kaggle", "build", "--folder", str(tmp_path), "--resume-from", "ann/second",
                 "--competition", COURSE]) == 0
    said = capsys.readouterr().out.splitlines()[0]
    assert said.startswith(f"kept from {tmp_path / 'kernel-metadata.json'}: ")
    assert all(repr(v) in said for v in mine.values()) and COURSE in said and "ann/first" in said
    m = metadata_of(tmp_path)
    assert m | mine == m and m["competition_sources"] == [COURSE]
    assert m["kernel_sources"] == ["ann/first", "ann/second"] and m["enable_internet"] is False
    assert kaggle_push.check_notebook(tmp_path) == []
    kaggle.build(tmp_path, "bob", say=str)
    assert metadata_of(tmp_path)["id"] == "bob/my-cifar"


def test_a_build_over_metadata_that_are_damaged_or_of_another_kind(tmp_path):
    file, lines = tmp_path / "kernel-metadata.json", []
    file.write_bytes(b'{"id": ')
    kaggle.build(tmp_path, say=lines.append)
    assert len(lines) == 1 and lines[0].endswith("it is written anew.")
    assert file.read_bytes() == (ROOT / "kaggle/kernel-metadata.json").read_bytes()
    for k, v, kind in (("kernel_sources", "ann/first", "list"), ("id", 7, "text")):
        edit(file, lambda m, k=k, v=v: m.update({k: v}))
        before = contents(tmp_path)
        with pytest.raises(InputError, match=f"has the {k} {v!r}, which must be a {kind}"):
            kaggle.build(tmp_path)
        assert contents(tmp_path) == before
        file.unlink()
        kaggle.build(tmp_path)


def test_what_is_attached_has_the_form_of_an_address(tmp_path):
    for words, said in ((dict(competition=f"c/{COURSE}"), "--competition has .* the form is slug"),
                        (dict(resume_from="first"), "--resume-from has .* the form is owner/slug")):
        for action in ("build", "push"):
            with pytest.raises(InputError, match=said):
                kaggle_push.command_kaggle(action, tmp_path, say=str, **words)
    with pytest.raises(InputError, match="for build and push"):
        kaggle_push.command_kaggle("check", ROOT / "kaggle", competition=COURSE)
    assert contents(tmp_path) == {}


def test_the_official_client_would_send_it(tmp_path, monkeypatch):
    "The client's own checks, and its own answer, with a stub in place of the network."
    extended = pytest.importorskip("kaggle.api.kaggle_api_extended")
    import contextlib

    from kagglesdk.kernels.types.kernels_api_service import ApiSaveKernelResponse
    sent, answer = [], ApiSaveKernelResponse()
    answer.url, answer.version_number, answer.error = URL, 1, ""
    stub = SimpleNamespace(kernels=SimpleNamespace(kernels_api_client=SimpleNamespace(
        save_kernel=lambda r: sent.append(r) or answer)))
    api = extended.KaggleApi()
    api.build_kaggle_client = lambda: contextlib.nullcontext(stub)
    api.config_values = dict(username="ann")
    monkeypatch.setattr(kaggle_push, "client", lambda: api)
    assert kaggle_push.push(ROOT / "kaggle", say=str) == URL
    assert (sent[0].slug, sent[0].enable_internet, sent[0].machine_shape) == (
        "ann/cifar-nb", False, "NvidiaTeslaT4")
    answer.invalid_competition_sources, answer.invalid_tags = [COURSE], ["gpu"]
    with pytest.raises(InputError, match=f"left out {COURSE} "):
        kaggle_push.push(ROOT / "kaggle", say=str, more=kaggle_push.sources(COURSE, "ann/first"))
    assert (sent[1].competition_data_sources, sent[1].kernel_data_sources) == (
        [COURSE], ["ann/first"])


# ----------------------------------------------------------------------------------------------
# what is mounted

@pytest.fixture
def mount(tmp_path, monkeypatch):
    "Empty input and working folders, nothing in the cache, no internet."
    for name in ("input", "working", "cache"): (tmp_path / name).mkdir()
    for k, v in dict(KAGGLE_INPUT="input", KAGGLE_WORKING="working", CIFAR_NB_CACHE="cache").items(
        ):
        monkeypatch.setenv(k, str(tmp_path / v))
    monkeypatch.delenv("CIFAR_NB_DATA", raising=False)
    def unreachable(*args, **kwargs): raise OSError("Network is unreachable")
    monkeypatch.setattr("cifar_nb.data.cifar.urlopen", unreachable)
    return tmp_path / "input"


def pngs(folder, n=40):
    """A picture set of `n` toy images in class folders; every fifth is a test picture. Its images,
    by part and name."""
    x, y = toy(n)
    for i in range(n):
        path = folder / ("test" if i % 5 == 0 else "train") / CLASSES[y[i]] / f"{i:04}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(x[i].permute(1, 2, 0).numpy()).save(path)
    return x, y


def competition_file(path, n=30, flat=False, ids=True):
    x, _ = toy(n, seed=3)
    data = x.flatten(1).numpy() if flat else x.permute(0, 2, 3, 1).numpy()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(
        pickle.dumps({b"data": data} | ({b"ids": [7 * i for i in range(n)]} if ids else {})))
    return x


def read_only(folder):
    for f in [*folder.rglob("*"), folder]: f.chmod(0o555 if f.is_dir() else 0o444)


@pytest.mark.parametrize(
    "place",
    ["cifar10-python", "cifar10-python/cifar-10-batches-py",
     "datasets/pankrzysiu/cifar10-python/cifar-10-batches-py",
     f"competitions/{COURSE}/cifar-10-python/cifar-10-batches-py",
     f"{COURSE}/cifar-10-python/cifar-10-batches-py"])
def test_batches_are_found_in_each_layout(mount, place):
    (mount / place).mkdir(parents=True)
    for name in MD5: (mount / place / name).write_bytes(b"cut off")
    read_only(mount)
    assert search_places(None)[0] == mount / place
    with pytest.raises(InputError, match="truncated or altered"): images_.load_images(say=str)


@pytest.mark.parametrize(
    "place",
    ["cifar10-pngs-in-folders/cifar10", "datasets/anna/cifar10-pngs-in-folders/cifar10/cifar10"])
def test_pictures_are_found_in_each_layout(mount, place):
    x, y = pngs(mount / place)
    read_only(mount)
    images = images_.load_images(say=str)
    part = torch.arange(40) % 5 == 0
    assert (torch.equal(images.y.bincount(minlength=10), y[~part].bincount(minlength=10))
            and len(images.xt) == 8)
    assert sorted(map(bytes, images.x.flatten(1).numpy())) == sorted(
        map(bytes, x[~part].flatten(1).numpy()))


def test_a_table_of_labels_and_one_folder_of_pictures(mount):
    x, y = toy(40)
    folder = mount / "competitions/cifar-10"
    (folder / "train").mkdir(parents=True)
    for i in range(40):
        Image.fromarray(x[i].permute(1, 2, 0).numpy()).save(folder / f"train/{i + 1}.png")
    (folder / "trainLabels.csv").write_text(
        "id,label\n" + "".join(f"{i + 1},{CLASSES[k]}\n" for i, k in enumerate(y)),
        encoding="utf-8")
    images = images_.load_images(say=str)
    assert len(images.x) == 36 and len(images.xt) == 4 and "set aside" in images.test
    assert sorted(map(bytes, torch.cat([images.x, images.xt]).flatten(1).numpy())) == sorted(
        map(bytes, x.flatten(1).numpy()))


@pytest.mark.parametrize(
    "place",
    [f"{COURSE}/cifar_test_nolabel.pkl", f"competitions/{COURSE}/cifar_test_nolabels.pkl",
     "datasets/me/kaggle-test/deep/er/cifar_test_nolabel.pkl"])
def test_the_course_file_is_found_in_each_layout(mount, place):
    x = competition_file(mount / place, flat="labels" in place, ids="labels" not in place)
    read_only(mount)
    c = load_competition(images_.find_competition(), say=str)
    assert (torch.equal(c.images, x)
            and c.ids.tolist() == ([*range(30)]
                                   if "labels" in place else [7 * i for i in range(30)]))


def test_the_course_file_is_known_by_what_it_holds(mount, monkeypatch):
    x = competition_file(mount / f"competitions/{COURSE}/test.data")
    for name, what in (("labels", b"labels"), ("fine", b"fine_labels")):
        (mount / f"{name}.pkl").write_bytes(pickle.dumps(
            {b"data": x.flatten(1).numpy(), what: [0] * 30}))
    (mount / "weights.pkl").write_bytes(pickle.dumps({"data": [1.5] * 2000}))
    (mount / "list.pkl").write_bytes(pickle.dumps(list(range(5000))))
    (mount / "cut.pkl").write_bytes(pickle.dumps({"data": x.numpy()})[:5000])
    (mount / "stranger.pkl").write_bytes(b"\x80\x04cposix\nsystem\n" + b"x" * 4000)
    (mount / "text.csv").write_text("x" * 4000, encoding="utf-8")
    read_only(mount)
    assert images_.course_files(say=str) == [mount / f"competitions/{COURSE}/test.data"]
    pictures, said = SimpleNamespace(name="cifar10"), []
    assert torch.equal(session.find_course(pictures, say=said.append).images, x)
    assert not any("ATTENTION" in line for line in said)


def labelled(path, key, n=30):
    "A pickle of images with labels under `key` at `path`."
    path.parent.mkdir(parents=True, exist_ok=True)
    x, y = toy(n, seed=5)
    path.write_bytes(pickle.dumps({b"data": x.flatten(1).numpy(), key: y.tolist()}))
    return path


@pytest.mark.parametrize("key", [
    "label", "labels", b"labels", "fine_labels", b"fine_labels", "coarse_labels", "y", b"y",
    "target", "targets", b"targets", "Labels"])
def test_a_file_with_labels_is_not_the_courses_whatever_its_name(mount, key):
    x = competition_file(mount / "deep/er/test_images.pkl")
    named = labelled(mount / "cifar_test_batch.pkl", key)
    labelled(mount / "other.pkl", key)
    said = []
    assert images_.course_files(say=said.append) == [mount / "deep/er/test_images.pkl"]
    assert len(said) == 1 and said[0].startswith(f"passed over: {named} is not the test file")
    c = session.find_course(SimpleNamespace(name="cifar10"), say=said.append)
    assert torch.equal(c.images, x)
    with pytest.raises(InputError, match="labels|CIFAR-100"):
        session.find_course(SimpleNamespace(name="cifar10"), named)


def test_without_a_file_of_the_course_one_with_labels_makes_no_submission(mount):
    named, said = labelled(mount / "cifar_test_batch.pkl", "labels"), []
    assert session.find_course(SimpleNamespace(name="cifar10"), say=said.append) is None
    assert said[0].startswith(f"passed over: {named}") and said[1].startswith("ATTENTION: no comp")


DAMAGED = {
    "breaks off": lambda raw: raw[:5000], "empty": lambda raw: b"",
    "a web page": lambda raw: b"<!DOCTYPE html><html>" + b" " * 4000,
    "ids have shape": lambda raw: pickle.dumps(pickle.loads(raw) | {b"ids": [1, 2]}),
    "asks to call": lambda raw: b"\x80\x04cposix\nsystem\n" + b"x" * 4000,
}


@pytest.mark.parametrize("why", DAMAGED)
def test_a_damaged_file_does_not_hide_a_whole_one(mount, why):
    whole, broken = mount / "deep/er/images.data", mount / "cifar_test_nolabel.pkl"
    x = competition_file(whole)
    broken.write_bytes(DAMAGED[why](whole.read_bytes()))
    said = []
    c = session.find_course(SimpleNamespace(name="cifar10"), say=said.append)
    assert torch.equal(c.images, x)
    assert said[0].startswith(f"passed over: {broken} ") and why in said[0], said
    assert len(said) == 2 and "\n" not in said[0]
    whole.unlink()
    with pytest.raises(InputError, match=why):
        session.find_course(SimpleNamespace(name="cifar10"), say=str)
    assert images_.course_files(say=str) == []
    assert session.find_course(SimpleNamespace(name="toy"), say=str) is None


def test_damaged_pickles_of_other_names_are_told_in_one_sentence(mount):
    competition_file(mount / "images.data")
    cut = (mount / "images.data").read_bytes()[:5000]
    for name in ("a.pkl", "b.pkl", "c.pkl"): (mount / name).write_bytes(cut)
    said = []
    assert images_.course_files(say=said.append) == [mount / "images.data"]
    assert len(said) == 1 and f"{mount / 'a.pkl'} is not a file of images" in said[0]
    assert said[0].endswith("(and 2 more like it)")


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_the_course_file_is_found_in_each_protocol(mount, protocol):
    x, _ = toy(20)
    (mount / "test").write_bytes(pickle.dumps({"data": x.numpy()}, protocol))
    assert images_.course_files(say=str) == [mount / "test"]


def test_two_course_files_are_both_named_and_one_can_be_chosen(mount):
    first = competition_file(mount / "a/first.pkl", n=20)
    second = competition_file(mount / "b/deeper/cifar_test_nolabel.pkl", n=30)
    pictures, said = SimpleNamespace(name="cifar10"), []
    c = session.find_course(pictures, say=said.append)
    assert len(c.images) == len(second), "the usual name goes before others"
    assert "ATTENTION" in said[0] and "first.pkl" in said[0] and "cifar_test_nolabel.pkl" in said[0]
    c = session.find_course(pictures, mount / "a/first.pkl", say=[].append)
    assert torch.equal(c.images, first)
    with pytest.raises(InputError, match="not a file"):
        session.find_course(pictures, mount / "none.pkl")


def test_without_a_course_file_it_is_said_loudly(mount):
    said = []
    assert session.find_course(SimpleNamespace(name="cifar10"), say=said.append) is None
    assert said[0].startswith("ATTENTION") and "test_predictions.csv" in said[0]
    competition_file(mount / "cifar_test_nolabel.pkl")
    assert session.find_course(SimpleNamespace(name="toy"), say=said.append) is None
    assert "drawn shapes" in said[1]


def test_a_broken_copy_does_not_hide_a_whole_one(mount, monkeypatch):
    "One of the right sizes and with another byte, which is nearer, and the official one."
    whole = mount / "datasets/someone/weird-name/v2/extracted/cifar 10 (1)/more/cifar-10-batches-py"
    real_or_pictures(whole)
    if not (whole / "test_batch").is_file(): pytest.skip("the official files are not here")
    broken = mount / "a/cifar-10-batches-py"
    broken.mkdir(parents=True)
    for name in MD5:
        raw = bytearray((whole / name).read_bytes())
        raw[-5000] ^= name == "data_batch_3"
        (broken / name).write_bytes(raw)
    said = []
    images = images_.load_images(say=said.append)
    assert len(images.x) == 50_000 and images.name == "cifar10"
    assert any("instead, for" in line and "data_batch_3" in line for line in said), said


@pytest.mark.parametrize("n, given, held", [(50_000, None, 5000), (45, None, 4), (45, 0, 0),
                                            (45, 44, 44)])
def test_how_many_images_judge(n, given, held):
    said = []
    assert session.choose_holdout(n, given, said.append) == held
    assert ("final run" in said[0]) == (held == 0)


@pytest.mark.parametrize("given", [45, -1, True, 1.5, "all"])
def test_a_holdout_that_is_none(given):
    with pytest.raises(InputError, match="HOLDOUT = .*below 45"): session.choose_holdout(45, given)


PIXELS = ("label," + ",".join(f"p{i}" for i in range(3072)) + "\n").encode()


@pytest.mark.parametrize("place, raw, what", [
    ("data/train-00000-of-00001.parquet", b"PAR1", "tables of Parquet"),
    ("cifar-10-batches-bin/data_batch_1.bin", b"x", "the binary version of CIFAR-10"),
    ("data_batch_1.mat", b"x", "the MATLAB version of CIFAR-10"),
    ("deep/er/than/two/train.csv", PIXELS, "a table of pixels"),
])
def test_a_copy_that_cannot_be_used_says_why(mount, place, raw, what):
    path = mount / "datasets/a/copy" / place
    path.parent.mkdir(parents=True)
    path.write_bytes(raw)
    with pytest.raises(InputError) as e: images_.load_images(say=str)
    said = str(e.value)
    assert f"gave none; {what} ({path}) cannot be used (get the one for Python" in said
    assert "Add Input" in said and "\n" not in said


def test_a_table_of_something_else_is_no_copy(mount):
    (mount / "mnist").mkdir()
    (mount / "mnist/train.csv").write_bytes(b"label," * 785 + b"\n")
    with pytest.raises(InputError, match="internet gave none; choose Add Input"):
        images_.load_images(say=str)


def test_nothing_mounted_says_what_to_add(mount):
    with pytest.raises(InputError, match=r"holds nothing.*Add Input.*pankrzysiu/cifar10-python"):
        images_.load_images(say=str)
    (mount / "titanic").mkdir()
    (mount / "titanic/train.csv").touch()
    with pytest.raises(InputError, match=r"holds titanic/ \(1 file\)"): images_.load_images(say=str)


# ----------------------------------------------------------------------------------------------
# GPUs that are not here

def gpu(monkeypatch, name, capability, count):
    "Let torch believe that the machine has `count` such GPUs."
    for k, v in dict(is_available=True, device_count=count, get_device_capability=capability,
                     get_device_name=name,
                     get_arch_list=["sm_70", "sm_75", "sm_80", "sm_90"]).items():
        monkeypatch.setattr(torch.cuda, k, lambda *a, v=v: v)
    for module in (session, jobs): monkeypatch.setattr(module, "choose_device", torch.device)


def test_two_t4_train_in_fp16(monkeypatch):
    gpu(monkeypatch, "Tesla T4", (7, 5), 2)
    assert jobs.choose_devices() == ["cuda:0", "cuda:1"]
    assert session.surroundings(["cuda:1"]).splitlines(
        )[-1] == "cuda:1   Tesla T4: fp16 (CUDA compute capability 7.5)"


def test_a_p100_that_torch_has_no_code_for(monkeypatch):
    gpu(monkeypatch, "Tesla P100-PCIE-16GB", (6, 0), 1)
    def touched(*args): pytest.fail("a number was put on the card, which fails there")
    for module in (session, jobs): monkeypatch.setattr(module, "choose_device", touched)
    with pytest.raises(InputError, match="P100.* is too old for PyTorch .*T4 x2"):
        jobs.choose_devices()
    with pytest.raises(InputError, match="P100.* is too old"): jobs.choose_devices(["cuda:0"])


# ---------------------------------------------------------------------------------------------- the
# clock

def test_the_clock_stops_and_saves(mount, tmp_path, monkeypatch):
    """When the hours are over, a member in the middle of its training is saved and the next call
    goes on."""
    from dataclasses import replace

    from cifar_nb.models.resnet import NetSpec
    from cifar_nb.recipes.spec import SMALL, Recipe
    tiny = Recipe("tiny", NetSpec(widths=(8, 16), depths=(1, 1), strides=(2, 2)),
                  (replace(SMALL.phases[0], epochs=400, batch_size=16),))
    members, (x, y) = jobs.plan_members([tiny], out=tmp_path / "runs"), toy(256)
    start = time.time()
    # an hour an epoch
    monkeypatch.setattr(jobs.time, "time", lambda: start + 3600 * len(members[0].log))
    assert jobs.train_members(members, ["cpu"], x, y, until=start + 1800, poll=.05) == []
    assert (members[0].out / "checkpoint.pt").exists() and 0 < len(members[0].log) < 400
    assert "Not finished: tiny-400epochs-seed0 at epoch" in session.unfinished(members)


def test_when_the_hours_end_the_checkpoint_answers(mount, tmp_path, monkeypatch):
    """The weights that are best on the held-out images, or the moving average, or the last: against
    what a training that ends there keeps."""
    from dataclasses import replace

    from cifar_nb.data.images import Images
    from cifar_nb.models.resnet import NetSpec
    from cifar_nb.recipes.spec import SMALL, Recipe
    from cifar_nb.training import train as whole
    from cifar_nb.training.checkpoints import Run, unfinished_net
    from cifar_nb.training.jobs import identified, plan_members
    phase = replace(SMALL.phases[0], epochs=2, batch_size=16)
    tiny = Recipe("tiny", NetSpec(widths=(8, 16), depths=(1, 1), strides=(2, 2)), (phase,), ema=.5)
    x, y = toy(200)
    images = Images(x, y, x[:40], y[:40], "toy", "toy test set")
    quiet = dict(device="cpu", precision="fp32", kernels=False, progress=False, say=lambda s: None,
                 info=dict(data="toy"))
    class Over(BaseException): pass
    save = whole.save_checkpoint
    def dies(t, out):
        save(t, out)
        if t.epoch == 1: raise Over
    for r, holdout in ((tiny, 20), (tiny, 0), (replace(tiny, ema=0.), 0)):
        m, = plan_members([r], out=tmp_path / f"{holdout}-{r.ema}")
        identified([m], x, y, data="toy", holdout=holdout, precision="fp32", kernels=False)
        monkeypatch.setattr(whole, "save_checkpoint", dies)
        with pytest.raises(Over): whole.train(r, x, y, m.out, holdout=holdout, **quiet)
        monkeypatch.setattr(whole, "save_checkpoint", save)
        # its rate is constant within the epoch that counts: one epoch of the plan of two
        t = whole.Trainer(r, 200 - holdout, device="cpu", precision="fp32")
        from cifar_nb.training.checkpoints import load_checkpoint
        load_checkpoint(t, m.out)
        want = (t.best_weights or whole.network(t).state_dict())
        net = unfinished_net(Run(m.out), "cpu")
        assert all(torch.equal(v, want[k]) for k, v in net.state_dict().items())
        said, folder = [], tmp_path / "working"
        path = session.hand_in([m], None, images, ("identity",), "cpu", folder=folder,
                               say=said.append)
        assert path.name == "test_predictions-unfinished.csv"
        assert len(read_submission(path)[1]) == 40
        assert "not finished (tiny-2epochs-seed0, 1 of 2 epochs)" in said[0]
        assert "this is no submission" in said[1] and ("HOLDOUT = 0" in said[-1]) == (holdout > 0)
        assert not (folder / "submission.csv").exists()
        course = load_competition(course_at(mount), say=str)
        path = session.hand_in([m], course, images, ("identity",), "cpu", folder=folder, say=str)
        assert path.name == "submission-unfinished.csv"
        whole.train(r, x, y, m.out, holdout=holdout, resume=True, **quiet)
        path = session.hand_in([m], course, images, ("identity",), "cpu", folder=folder, say=str)
        assert path.name == "submission.csv"
        path.unlink()


def course_at(mount):
    competition_file(mount / "cifar_test_nolabel.pkl")
    return mount / "cifar_test_nolabel.pkl"


# ---------------------------------------------------------------------------------------------- the
# whole notebook

SHIM = f"""
import socket, sys
sys.path[:] = [p for p in sys.path if p != {str(ROOT)!r}]
def named(f): return getattr(f, '__module__', '') + getattr(f, '__name__', '')
sys.meta_path[:] = [f for f in sys.meta_path if 'editable' not in named(f)]
class Offline(socket.socket):
    def connect(self, address):
        if isinstance(address, tuple) and address[0] not in ('127.0.0.1', 'localhost', '::1'):
            raise OSError(101, 'Network is unreachable')
        return super().connect(address)
socket.socket = Offline
import os
if 'FULL_DISK' in os.environ:  # in the processes of the members, which begin after it is set
    import errno
    def full(handle): raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    os.fsync = full
"""
FIRST = ("import importlib.util, socket\nassert importlib.util.find_spec('cifar_nb') is None and "
         "'Offline' in repr(socket.socket)")


TINY = "tiny"  # registered below the library, as a reader would
TINY_CODE = """
from cifar_nb.models.resnet import NetSpec
from cifar_nb.recipes.spec import Phase, Recipe
from cifar_nb.teams.zoo import register
net = NetSpec(widths=(8, 16), depths=(1, 1), strides=(2, 2))
register(Recipe('tiny', net, (Phase(1, batch_size=8),)))
"""


def execute(nb, here, **options):
    "Execute `nb` in `here` in a kernel that cannot import this package and has no network."
    nb.cells.insert(0, nbformat.v4.new_code_cell(FIRST))
    (here / "shim").mkdir(exist_ok=True)
    (here / "shim/sitecustomize.py").write_text(SHIM, encoding="utf-8")
    env = {k: v for k, v in os.environ.items() if k != "CIFAR_NB_DATA"} | dict(
        PYTHONPATH=str(here / "shim"), OMP_NUM_THREADS="1", KAGGLE_KERNEL_RUN_TYPE="Batch")
    NotebookClient(nb, timeout=300, kernel_name="python3",
                   resources={"metadata": {"path": str(here)}}, **options).execute(env=env)


def run(mount, more=TINY_CODE, stops_at=None, **settings):
    """Execute the committed notebook with `settings` in the made-up /kaggle of `mount`, and with
    the code `more` below the library; its outputs as one text. It ends with an error in the cell
    `stops_at`, or, for None, without one."""
    nb = nbformat.read(ROOT / "kaggle/cifar-nb.ipynb", 4)
    nb.cells.insert(next(i for i, c in enumerate(nb.cells) if c.id == "surroundings"),
                    nbformat.v4.new_code_cell(more))
    at = next(i for i, c in enumerate(nb.cells) if "parameters" in c.metadata.get("tags", []))
    settings = dict(HOURS=24.) | settings  # this machine may run for as long as a session lasts
    # as papermill does
    nb.cells.insert(
        at + 1, nbformat.v4.new_code_cell("\n".join(f"{k} = {v!r}" for k, v in settings.items())))
    try: execute(nb, mount.parent)
    except CellExecutionError:
        if stops_at is None: raise
    outputs = [o for c in nb.cells if c.cell_type == "code" for o in c.outputs]
    stopped = [c.id for c in nb.cells if c.cell_type == "code"
               and any(o.output_type == "error" for o in c.outputs)]
    assert stopped == ([stops_at] if stops_at else [])
    return "".join(o.get("text", "") or o.get("data", {}).get("text/plain", "")
                   for o in outputs), outputs


def labels_of(file, ids):
    "The labels of a submission, each row looked at."
    header, *rows = file.read_text(encoding="utf-8").splitlines()
    assert header == "ID,Labels" and [int(r.split(",")[0]) for r in rows] == ids
    assert all(re.fullmatch(r"\d+,[0-9]", r) for r in rows)
    return read_submission(file)[1]


def real_or_pictures(folder):
    "CIFAR-10 under `folder`, by links, where this machine has it, else a few pictures."
    try: found = search_places(None)
    except InputError: found = None
    cache = Path(os.environ.get("XDG_CACHE_HOME")
                 or Path.home() / ".cache") / "cifar_nb/cifar-10-batches-py"
    source = found[0] if found and found[0] != Path("toy") else cache
    if not (source / "test_batch").is_file(): return pngs(folder, 220)
    folder.mkdir(parents=True)
    for name in MD5: (folder / name).symlink_to(source / name)


def test_two_members_new_layout_read_only(mount):
    real_or_pictures(mount / "datasets/pankrzysiu/cifar10-python/cifar-10-batches-py")
    competition_file(mount / f"competitions/{COURSE}/cifar_test_nolabel.pkl")
    for f in mount.rglob("*"):
        if f.is_dir(): f.chmod(0o555)
    text, outputs = run(mount, EPOCHS=1, IMAGES=160, DEVICES=["cpu", "cpu"], RECIPES=[TINY])
    work = mount.parent / "working"
    ids = [7 * i for i in range(30)]
    mean = labels_of(work / "submission-mean.csv", ids)
    single = [labels_of(work / f"submission-tiny-1epochs-seed{s}-160images.csv", ids)
              for s in (0, 1)]
    total = sum(
        json.loads(
            (work / f"runs/tiny-1epochs-seed{s}-160images/result.json").read_text(
                encoding="utf-8"))["parameters"] for s in (0, 1))
    assert torch.equal(labels_of(work / "submission.csv", ids),
                       mean if total <= 5_000_000 else single[0])
    assert "mean of the 2" in text and f"{total:,}" in text and "Kaggle, Batch" in text
    assert all((work / f"runs/tiny-1epochs-seed{s}-160images/confusion.png").exists()
               for s in (0, 1))
    assert sum("image/png" in o.get("data", {}) for o in outputs) >= 8
    last = json.loads(
        (work / "runs/tiny-1epochs-seed1-160images/log.jsonl").read_text(
            encoding="utf-8").splitlines()[-1])
    assert last["epoch"] == 1


@pytest.mark.skipif(not jobs.torchrun_works(), reason="PyTorch without libuv")
def test_data_parallel_competition_layout(mount):
    """`PARALLEL = 'data'`: torchrun and two gloo processes train one member, which is judged and
    submitted like any other."""
    pngs(mount / f"competitions/{COURSE}/cifar10")
    competition_file(mount / f"competitions/{COURSE}/cifar_test_nolabel.pkl")
    text, _ = run(mount, EPOCHS=1, DEVICES=["cpu", "cpu"], RECIPES=[TINY], PARALLEL="data",
                  HOLDOUT=0)
    work = mount.parent / "working"
    result = json.loads((work / "runs/tiny-1epochs-seed0/result.json").read_text(encoding="utf-8"))
    assert (result["processes"] == 2 and result["train_images"] == 32
            and [p.name for p in (work / "runs").iterdir() if p.is_dir()] == ["tiny-1epochs-seed0"])
    labels_of(work / "submission.csv", [7 * i for i in range(30)])
    assert ("one of 2 processes"
            in (work / "runs/tiny-1epochs-seed0.txt").read_text(encoding="utf-8")
            and "mean of the 2" not in text)


ONE = dict(EPOCHS=1, DEVICES=["cpu"], RECIPES=[TINY])


@pytest.fixture
def layout(mount, monkeypatch):
    "As `mount`, without the compiled kernels, which each run would compile again."
    monkeypatch.setenv("CIFAR_NB_KERNEL", "off")
    return mount


def contents(folder): return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_the_whole_notebook_with_a_course_file_of_another_name_and_read_only_input(layout):
    "Beside files with labels and one that is cut off, all of them nearer and of better names."
    pngs(layout / "datasets/me/cifar10-pngs/cifar10")
    competition_file(layout / f"competitions/{COURSE}/deep/er/images.data")
    named = labelled(layout / "cifar_test_batch.pkl", "y")
    raw = (layout / f"competitions/{COURSE}/deep/er/images.data").read_bytes()
    (layout / "cifar_test_nolabel.pkl").write_bytes(raw[:5000])
    read_only(layout)
    before = contents(layout)
    text, _ = run(layout, **ONE)
    labels_of(layout.parent / "working/submission.csv", [7 * i for i in range(30)])
    assert f"passed over: {named} is not the test file" in text and "its images have labels" in text
    assert f"passed over: {layout / 'cifar_test_nolabel.pkl'} is not a file of images" in text
    assert "ATTENTION" not in text and contents(layout) == before
    assert not [*(layout.parent / "working").glob("test_predictions*")]


def test_the_whole_notebook_with_two_course_files(layout):
    pngs(layout / "cifar10")
    competition_file(layout / "a/first.pkl", n=20)
    competition_file(layout / "b/deeper/cifar_test_nolabel.pkl", n=30)
    text, _ = run(layout, **ONE)
    labels_of(layout.parent / "working/submission.csv", [7 * i for i in range(30)])
    assert "ATTENTION: 2 files hold images without labels" in text
    assert "a/first.pkl" in text.replace(os.sep, "/") and "name another one in COURSE" in text


def small_batches(folder):
    "Six batch files of 20 toy images each in `folder`, and the md5 of each."
    folder.mkdir(parents=True)
    x, y = toy(20 * len(MD5), seed=1)
    for k, name in enumerate(MD5):
        part = slice(20 * k, 20 * k + 20)
        (folder / name).write_bytes(pickle.dumps(
            {b"data": x[part].flatten(1).numpy(), b"labels": y[part].tolist()}))
    return {n: hashlib.md5((folder / n).read_bytes()).hexdigest() for n in MD5}


def test_the_whole_notebook_with_a_broken_copy_of_cifar10_beside_a_whole_one(layout):
    "The broken one is nearer, has the right sizes, and another byte in one file."
    whole = layout / "datasets/someone/more/cifar-10-batches-py"
    md5, broken = small_batches(whole), layout / "a/cifar-10-batches-py"
    broken.mkdir(parents=True)
    for name in MD5:
        raw = bytearray((whole / name).read_bytes())
        raw[-2000] ^= name == "data_batch_3"
        (broken / name).write_bytes(raw)
    competition_file(layout / f"competitions/{COURSE}/cifar_test_nolabel.pkl")
    sizes = {n: (whole / n).stat().st_size for n in MD5}
    official = (f"\nfrom cifar_nb.data.cifar import MD5, SIZES\nMD5.update({md5!r})\n"
                f"SIZES.update({sizes!r})\n")  # as if these were the files that the world has
    text, _ = run(layout, TINY_CODE + official, **ONE)
    assert re.search(r"Data: CIFAR-10 in .*more.cifar-10-batches-py instead, for .*data_batch_3",
                     text)
    result = json.loads((layout.parent / "working/runs/tiny-1epochs-seed0/result.json").read_text(
        encoding="utf-8"))
    assert result["train_images"] == 90  # of 100, with one in ten held out
    labels_of(layout.parent / "working/submission.csv", [7 * i for i in range(30)])


def test_the_whole_notebook_with_a_member_that_fails_answers_with_the_other(layout):
    pngs(layout / "cifar10")
    competition_file(layout / f"competitions/{COURSE}/cifar_test_nolabel.pkl")
    greedy = "\nregister(Recipe('greedy', net, (Phase(1, batch_size=4096),)))\n"
    text, _ = run(layout, TINY_CODE + greedy, **ONE | dict(RECIPES=["greedy", TINY]))
    assert "ATTENTION: greedy-1epochs-seed0 was left out: A batch of 4096 is larger than" in text
    assert "Finished: tiny-1epochs-seed0\n" in text and "Not finished" not in text
    labels_of(layout.parent / "working/submission.csv", [7 * i for i in range(30)])


def test_the_whole_notebook_where_the_hours_are_over_at_once(layout):
    pngs(layout / "cifar10")
    competition_file(layout / f"competitions/{COURSE}/cifar_test_nolabel.pkl")
    text, _ = run(layout, HOURS=0., **ONE)
    assert "Not finished: tiny-1epochs-seed0 at epoch 0 of 1" in text
    assert "Nothing is trained yet, so there are no answers: give it more HOURS" in text
    assert "no member is finished" in text
    assert not [*(layout.parent / "working").rglob("*.csv")]


def test_the_whole_notebook_on_a_full_disk_stops_at_the_training_with_one_sentence(layout):
    "It is full where a member saves; with room again it trains to the end."
    pngs(layout / "cifar10")
    competition_file(layout / f"competitions/{COURSE}/cifar_test_nolabel.pkl")
    full = "\nimport os\nos.environ['FULL_DISK'] = 'yes'\n"
    _, outputs = run(layout, TINY_CODE + full, "training", **ONE)
    error, = [o for o in outputs if o.output_type == "error"]
    assert error.ename == "InputError" and len(error.traceback) == 1
    sentence = error.traceback[0]
    assert os.strerror(errno.ENOSPC) in sentence and "free some space" in sentence
    assert "\n" not in sentence and not [*(layout.parent / "working").rglob("*.csv")]
    run(layout, **ONE)
    labels_of(layout.parent / "working/submission.csv", [7 * i for i in range(30)])


EVERY = """
from cifar_nb.teams.zoo import list_recipes, register
slim = [r.with_(widths=tuple(max(8, w // 16) for w in r.net.widths), name=r.name)
        for r in list_recipes()]
register(*slim, overwrite=True)
RECIPES = list_recipes()
import cifar_nb.augment.preview as page
once = page.preview
def each(images, augment, **more):  # of every member, not of the first alone
    return [once(images, m.recipe.phases[0].augment, **more) for m in members][0]
page.preview = each
"""


def test_every_recipe(mount):
    "Each at its own batches, augmentation and phases, in two epochs and on a narrow network."
    (mount / "none").mkdir()
    text, outputs = run(mount, EVERY, EPOCHS=2, IMAGES=800, DEVICES=["cpu", "cpu"], SEEDS=[0],
                        DATA="toy")
    names = {r.name for r in kaggle.zoo.list_recipes()}
    members = re.findall(r"^(\S+)-2epochs-seed0-toy-800images: ", text, re.M)
    assert {n.removesuffix("-code") for n in members} == names and len(members) == len(
        kaggle.zoo.list_recipes())
    assert f"mean of the {len(members)}" in text and "ATTENTION: this is no submission" in text
    assert "80 training images were held out" in text


# ----------------------------------------------------------------------------------------------
# what bad input gets: one sentence

FAKE = ("import torch\nkept = {k: getattr(torch.cuda, k) for k in ('is_available', 'device_count', "
        "'get_device_capability', 'get_device_name', 'get_arch_list')}\nfor k, v in zip(kept, "
        "(True, 1, (6, 0), 'Tesla P100', ['sm_70', 'sm_75'])): setattr(torch.cuda, k, lambda *a, "
        "v=v: v)\nDEVICES = None")
FULL_DISK = """import errno
room = os.fsync
def full(handle): raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
os.fsync = full
PARALLEL, HOURS = 'members', 24."""
# in one kernel, one after the other: code before, the cells to run, and the words of the sentence
# with which the last of them stops
CASES = {
    "nothing": ("", ["surroundings", "data"],
                ["There is no CIFAR-10 here", "Add Input", "pankrzysiu/cifar10-python"]),
    "gpu": (FAKE, ["surroundings"], ["The GPU Tesla P100 is too old", "GPU T4 x2"]),
    "damaged": ("for k, v in kept.items(): setattr(torch.cuda, k, v)\nDEVICES = ['cpu']",
                ["surroundings", "data"], ["cifar_test_nolabel.pkl", "get it again"]),
    "foreign": ("", ["data", "members", "training"],
                ["is an unfinished run of small (9 epochs", "RESUME = False"]),
    "setting": ("PARALLEL = 'both'", ["data", "members", "training"],
                ["There is no PARALLEL 'both'"]),
    "full": (FULL_DISK, ["data", "members", "training"],
             ["No space left on device", "free some space"]),
    "room": ("os.fsync = room", [], None),
    "no time": ("PARALLEL, HOURS = 'members', 0.",
                ["training", "scores", "report", "mistakes", "submission", "files"], None),
    "csv": ("HOURS = 24.", ["training", "scores", "submission"],
            ["test_predictions.csv cannot be written"]),
}


@pytest.fixture(scope="module")
def mistakes(tmp_path_factory):
    "The outputs of the last cell of each of `CASES`."
    from cifar_nb.recipes.spec import SMALL
    here = tmp_path_factory.mktemp("mistakes")
    for name in ("working/test_predictions.csv", "cache", "nothing", "gpu", "no time", "csv",
                 f"damaged/{COURSE}", "foreign/notebooks/me/first/runs/other"):
        (here / name).mkdir(parents=True)
    for name in ("damaged", "foreign", "setting", "full"): pngs(here / name / "cifar10")
    (here / f"damaged/{COURSE}/cifar_test_nolabel.pkl").write_bytes(b"\x80\x04cut off")
    (here / "foreign/notebooks/me/first/runs/other/recipe.json").write_text(
        SMALL.to_json(), encoding="utf-8")
    (here / "foreign/notebooks/me/first/runs/other/log.jsonl").write_text(
        '{"epoch": 1, "lr": 0.1, "train_loss": 1.5, "train_accuracy": 40.0}\n', encoding="utf-8")
    nb = nbformat.read(ROOT / "kaggle/cifar-nb.ipynb", 4)
    cells = {c.id: c for c in nb.cells}
    nb.cells = nb.cells[:next(i for i, c in enumerate(nb.cells) if c.id == "surroundings")] + [
        nbformat.v4.new_code_cell(c) for c in (TINY_CODE, f"RECIPES, EPOCHS = ['{TINY}'], 1")]
    for name, (code, run, _) in CASES.items():
        nb.cells.append(nbformat.v4.new_code_cell("import os; os.environ['KAGGLE_INPUT'] = "
                                                  f"{str(here / name)!r}\n{code}"))
        nb.cells += [nbformat.v4.new_code_cell(cells[c].source, metadata=dict(case=name))
                     for c in run]
    with pytest.MonkeyPatch.context() as m:
        m.setenv("KAGGLE_WORKING", str(here / "working"))
        m.setenv("CIFAR_NB_CACHE", str(here / "cache"))
        execute(nb, here, allow_errors=True)
    return {name: [c.outputs for c in nb.cells if c.metadata.get("case") == name] for name in CASES}


@pytest.mark.parametrize("case", [case for case in CASES if CASES[case][2]])
def test_one_sentence(mistakes, case):
    *before, last = mistakes[case]
    errors = [o for o in last if o.output_type == "error"]
    assert not any(o.output_type == "error" for outputs in before for o in outputs), before
    assert len(errors) == 1 and len(errors[0].traceback) == 1, last
    sentence = errors[0].traceback[0]
    assert (sentence.startswith("InputError: ") and "\n" not in sentence
            and all(w in sentence for w in CASES[case][2])), (sentence)


def test_no_time_saves_and_says_how_to_go_on(mistakes):
    training, *others, submission, files = mistakes["no time"]
    assert not any(o.output_type == "error" for outputs in mistakes["no time"] for o in outputs)
    def said(outputs): return "".join(o.get("text", "") for o in outputs)
    assert "Not finished: tiny-1epochs-seed0 at epoch 0 of 1" in said(training)
    assert "Nothing is trained yet" in said(submission)
    assert "held out" not in said(submission) and "runs" not in said(files)


def test_a_recipe_is_written_in_lines_of_a_hundred_columns_but_for_its_long_sentences():
    for recipes in kaggle.team_recipes().values():
        for line in kaggle.recipe_code(recipes).splitlines():
            words = re.sub(r"'[^']*'|\"[^\"]*\"", "", line)
            assert len(line) <= 100 or len(words) < 20, line
