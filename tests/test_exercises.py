"""The exercises of the chapters: that they are there, begin unsolved, agree with their solutions,
and are remembered.

The chapters of `checker.CHAPTERS` must have exercises; whatever is said of exercises is asked of
every chapter that has any.
"""
import ast
import inspect
import json
import re
import textwrap
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from cifar_nb.core import places
from cifar_nb.exercises import checker as workbook
from cifar_nb.exercises.checker import (CHAPTERS, find_exercise, judge, load_exercises, progress,
                                        read_progress)
from cifar_nb.exercises.predictions import Prediction, compare_prediction

NBS = Path(__file__).parent.parent / "nbs"
BOOK = {p.stem.split("_", 1)[1]: p for p in sorted(NBS.glob("[0-9]*_*.ipynb"))}
CHECK = re.compile(r"^(check|compare_prediction)\(", re.MULTILINE)


def cells(path):
    return [(c["cell_type"], "".join(c["source"]), c.get("outputs", []))
            for c in json.loads(path.read_text(encoding="utf-8"))["cells"]]


def section(chapter):
    "The cells of a chapter from its heading `## Exercises` on; none if it has no such heading."
    found = cells(BOOK[chapter])
    starts = [i for i, (kind, source, _) in enumerate(found) if kind == "markdown"
              and re.search(r"^## Exercises\s*$", source, re.MULTILINE)]
    assert len(starts) <= 1, f"{BOOK[chapter].name} has {len(starts)} headings '## Exercises'"
    return found[starts[0]:] if starts else []


def checked(source):
    """The name that a cell's last line, `check(name, answer)` or `compare_prediction(name, guess,
    run)`, asks for, and the answer's source; None for a cell that does not end so."""
    last = (ast.parse(source).body or [None])[-1]
    call = last.value if isinstance(last, ast.Expr) else None
    if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Name)
            and call.func.id in ("check", "compare_prediction")):
        return None
    name, answer = call.args[:2]
    return name.value, ast.unparse(answer)


def stubs(chapter):
    "Name, source and outputs of each cell of a chapter's exercises that ends in `check(...)`."
    found = [(checked(source), source, outputs) for kind, source, outputs in section(chapter)
             if kind == "code"]
    return [(name[0], source, outputs) for name, source, outputs in found if name]


def functions(source):
    "The functions that a cell defines, by name."
    return {line.name: line for line in ast.parse(source).body if isinstance(line, ast.FunctionDef)}


def solutions(chapter): return NBS / "solutions" / BOOK[chapter].name


def module(chapter): return import_module(f"cifar_nb.exercises.{chapter}")


def kept(chapter):
    "The exercises of a chapter's checks."
    load_exercises(chapter)
    return {name: e for name, e in workbook._exercises.items() if name.split(".")[0] == chapter}


HAVE = [c for c in BOOK if section(c)]
SOLVED = sorted(p.name for p in (NBS / "solutions").glob("*.ipynb"))
each = pytest.mark.parametrize("chapter", HAVE)


@pytest.fixture(autouse=True)
def memory(tmp_path, monkeypatch):
    "A memory of its own for each test."
    monkeypatch.setenv("CIFAR_NB_PROGRESS", str(tmp_path / "progress.json"))
    return tmp_path / "progress.json"


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_a_chapter_ends_with_three_exercises_or_more(chapter):
    assert chapter in BOOK, f"there is no chapter {chapter}"
    assert len(stubs(chapter)) >= 3, f"{BOOK[chapter].name} has {len(stubs(chapter))} exercises"


def test_every_solutions_notebook_belongs_to_a_chapter_with_exercises():
    assert SOLVED == sorted(BOOK[c].name for c in HAVE)


@each
def test_chapter_and_solutions_agree(chapter):
    "Names in order from .1 on, titles, and a heading, a check and a proof for each."
    names, text = [name for name, _, _ in stubs(chapter)], section(chapter)
    assert names == [f"{chapter}.{i + 1}" for i in range(len(names))]
    tasks = dict(
        re.findall(r"^\*\*(\w+\.\d+) (.+?)\.?\*\*",
                   "\n".join(s for k, s, _ in text if k == "markdown"), re.MULTILINE))
    heads = dict(
        re.findall(r"^## (\w+\.\d+) (.+?)\s*$",
                   "\n".join(s for k, s, _ in cells(solutions(chapter)) if k == "markdown"),
                   re.MULTILINE))
    titles = {name: e.title.rstrip(".") for name, e in kept(chapter).items()}
    assert list(tasks) == list(heads) == names and sorted(titles) == sorted(names)
    for name in names: assert tasks[name] == heads[name] == titles[name]
    assert {name: e.look.__module__ for name, e in kept(chapter).items()} == dict.fromkeys(
        titles, module(chapter).__name__)


@each
def test_the_marks_stand_behind_each_title(chapter):
    text = "\n".join(s for k, s, _ in section(chapter) if k == "markdown")
    marks = r"^\*\*(\w+\.\d+) [^*]+\*\* \((difficulty [^)]+)\)"
    shown = dict(re.findall(marks, text, re.MULTILINE))
    assert shown == {name: e.marks for name, e in kept(chapter).items()}


@each
def test_a_task_precedes_each_cell(chapter):
    """The text before a stub names the exercise; between the two stands nothing but the experiment
    of a prediction."""
    text = section(chapter)
    for i, (kind, source, _) in enumerate(text):
        if kind != "code" or not checked(source): continue
        before = i - 1
        if CHECK.search(source)[1] != "check" and text[before][0] == "code" and functions(
            text[before][1]): before -= 1
        kind, task, _ = text[before]
        assert kind == "markdown" and f"**{checked(source)[0]} " in task, (source, task)


@each
def test_a_prediction_is_about_what_is_shown(chapter):
    """`compare_prediction` stands where the exercise is a prediction, and the experiment that it
    gets is the one that the solutions export."""
    shown = {}
    for kind, source, _ in section(chapter):
        if kind != "code": continue
        shown |= functions(source)
        if not checked(source): continue
        e, call = kept(chapter)[checked(source)[0]], ast.parse(source).body[-1].value
        assert call.func.id == e.answered_by, source
        if not isinstance(e, Prediction): continue
        assert ast.unparse(call.args[2]) == e.look.__name__, source
        mine = ast.parse(textwrap.dedent(inspect.getsource(e.look))).body[0]
        mine.decorator_list = []
        assert ast.unparse(shown[e.look.__name__]) == ast.unparse(mine), e.name


@each
def test_links_lead_somewhere(chapter):
    there = section(chapter)[0][1]
    assert f"(solutions/{BOOK[chapter].name})" in there, "the chapter links to its solutions"
    back = "\n".join(s for k, s, _ in cells(solutions(chapter)) if k == "markdown")
    assert f"(../{BOOK[chapter].name})" in back, "the solutions link to their chapter"
    for base, text in (NBS, "\n".join(s for k, s, _ in section(chapter) if k == "markdown")), (
        NBS / "solutions", back):
        for link in re.findall(r"\]\(([^)\s]+\.ipynb)", text):
            if "://" not in link: assert (base / link).is_file(), link


@each
def test_the_exercises_export_nothing(chapter):
    for kind, source, _ in section(chapter):
        assert kind == "markdown" or not re.search(r"^\s*#\s*\|\s*exports?\b", source, re.MULTILINE)


@each
def test_untouched_cells_are_unsolved(chapter, memory):
    """Each cell runs as it stands, after the chapter's imports and definitions, is called unsolved,
    leaves no trace, and is shown so on the page."""
    exported = [m[1] for kind, source, _ in cells(BOOK[chapter]) if kind == "code"
                and (m := re.search(r"#\|\s*default_exp\s+(\S+)", source))]
    names = dict(vars(import_module(f"cifar_nb.{exported[0]}"))) if exported else {}
    for kind, source, _ in cells(BOOK[chapter]):  # imports that only the chapter's own cells use
        if kind != "code" or re.search(r"^[%!]", source, re.MULTILINE): continue
        for line in ast.parse(source).body:
            if isinstance(line, (ast.Import, ast.ImportFrom)) and getattr(line, "level", 0) == 0:
                exec(compile(ast.Module([line], []), "<imports>", "exec"), names)
    for kind, source, _ in section(chapter):  # experiments that a prediction is about
        if kind == "code" and not checked(source):
            lines = list(functions(source).values())
            exec(compile(ast.Module(lines, []), "<functions>", "exec"), names)
    for name, source, outputs in stubs(chapter):
        tree = ast.parse(source)
        exec(compile(ast.Module(tree.body[:-1], []), f"<{name}>", "exec"), names)
        verdict = eval(compile(ast.Expression(tree.body[-1].value), f"<{name}>", "eval"), names)
        assert (verdict.name, verdict.state) == (name, "unsolved"), verdict
        (shown,) = [o["data"] for o in outputs if o["output_type"] == "execute_result"]
        assert ("".join(shown["text/plain"]) == repr(verdict)), (f"{name}: the page shows an older "
                                                                 "check")
        assert "".join(shown["text/html"]) == verdict._repr_html_(
            ), f"{name}: the page shows older hints"
    assert not memory.exists()


@each
def test_each_check_has_hints(chapter):
    for name, e in kept(chapter).items():
        assert len(e.hints) >= 2, f"{name} has {len(e.hints)} hints"
        for hint in e.hints:
            assert (isinstance(hint, str) and len(hint.split()) >= 3
                    and hint.strip()[-1] in ".?!`)"), (f"{name}: {hint!r}")


@each
def test_each_solution_is_proved_against_two_mistakes(chapter):
    """nbdev_test runs the proofs; here we see that there is one for each exercise, at the top level
    of a cell, with at least two mistakes. Of a prediction `judge_prediction` or a small form of the
    experiment is run."""
    proved, tried = {}, ""
    for kind, source, _ in cells(solutions(chapter)):
        if kind != "code": continue
        if not re.search(r"^#\|\s*export", source, re.MULTILINE): tried += source
        for line in ast.parse(source).body:
            call = line.value if isinstance(line, (ast.Expr, ast.Assign)) else None
            if isinstance(call, ast.Call) and getattr(call.func, "id", "") == "prove":
                assert "eval: false" not in source and call.args[0].value not in proved
                proved[call.args[0].value] = sum(
                    not isinstance(a, ast.Starred) for a in call.args[2:])
    answers = [n for n, _, _ in stubs(chapter) if not isinstance(find_exercise(n), Prediction)]
    assert list(proved) == answers
    for name, e in kept(chapter).items():
        if isinstance(e, Prediction):
            assert f"judge_prediction('{name}'" in tried or f"{e.look.__name__}(" in tried, name
    assert not re.search(r"\b(check|compare_prediction)\(", tried), "solutions remember nothing"
    for name, mistakes in proved.items(): assert mistakes >= 2, f"{name}: {mistakes} mistakes"


@each
def test_nonsense_is_wrong(chapter):
    "Whatever is handed in, a check neither raises nor is satisfied, and says a sentence."
    for name in kept(chapter):
        for answer in (lambda *args, **more: print(end=""), lambda: 1 / 0, "a string", -12345.678,
                       [], object(), (..., "half")):
            predicted = isinstance(find_exercise(name), Prediction)
            verdict = compare_prediction(name, answer) if predicted else judge(name, answer)
            assert verdict.state == "wrong" and verdict.message.strip()[-1:] in ".!?", (
                name, answer, verdict)


@pytest.mark.parametrize("device, state, why", [
    (True, "solved", ""), (False, "wrong", "CPU")])
def test_an_index_must_be_on_the_device_of_the_images(device, state, why):
    def crop_by_index(xb, dy, dx):
        n, c, h, w = xb.shape
        i, k, r, q = (torch.arange(m, device=xb.device if device else None) for m in (n, c, h, w))
        return F.pad(xb, [4] * 4)[i[:, None, None, None], k[:, None, None],
                                  (dy[:, None] + r)[:, None, :, None],
                                  (dx[:, None] + q)[:, None, None, :]]
    verdict = judge("augment.2", crop_by_index)
    assert verdict.state == state and why in verdict.message, verdict


@pytest.mark.parametrize("off, state", [
    (.0045, "solved"), (-.0045, "solved"), (.006, "wrong"), (-.006, "wrong")])
def test_the_share_that_is_black_is_compared_with_the_truth(off, state):
    "30,000 images through the package have the shares .0673, .1340 and .2160."
    def black(ops): return off + (.216 if len(ops) == 3 else .134 if "Crop" in repr(ops) else .067)
    assert judge("modified_resnet.2", black).state == state


def test_pieces_that_are_views_are_named():
    def of_the_first(pieces):
        pivot = next(pieces)[0]
        return pivot, torch.cat([(p - pivot)[:1] for p in pieces]).var()
    assert "p[0].item()" in judge("fused_norm.3", of_the_first).message


@pytest.mark.parametrize("name, answer", [
    ("resnet.4", tuple(np.array([44, 3, 1]))), ("resnet.4", tuple(torch.tensor([44, 3, 1]))),
    ("regularization.3", ("E", np.float32(.82))), ("regularization.3", ("E", torch.tensor(.82))),
    ("evaluation.2", lambda a, b: np.ceil(
        4 * (a * (100 - a) + b * (100 - b)) / (b - a) ** 2).astype(int)),
    ("parallel.1", lambda b, speeds: [tuple(p) for p in np.stack(
        [(b * np.cumsum([0, *speeds]) / sum(speeds)).astype(int)[i:len(speeds) + i]
         for i in (0, 1)], 1)])])
def test_numbers_of_numpy_and_torch_are_numbers(name, answer):
    assert judge(name, answer).state == "solved", judge(name, answer)


def test_seeds_needed_may_be_a_number_of_numpy():
    from cifar_nb.core.statistics import detectable_difference
    def seeds_needed(spread, difference):
        return np.int64(next(n for n in range(2, 1000)
                             if detectable_difference(spread, n) <= difference))
    assert judge("ablations.1", seeds_needed).state == "solved"


def trainings_by_recipe(costs, seeds, done):
    return [(name, seed) for name in sorted(costs, key=costs.get) for seed in seeds
            if (name, seed) not in done]


@pytest.mark.parametrize("name, answer, why", [
    ("reproduce.1", trainings_by_recipe,
     "another order: ('small', 1) stands too early."),
    ("competition.2", lambda text: {i: row.split(",")[1]
                                    for i, row in enumerate(text.split()[1:])}, "not texts"),
    ("geometry.3", lambda image, m, fill: np.zeros(image.shape), "A tensor is asked for."),
    ("policies.3", [], "a tuple of sub-policies")])
def test_a_message_says_what_is_wrong(name, answer, why):
    assert why in judge(name, answer).message, judge(name, answer)


def test_progress_lists_them_all_in_order(memory):
    names = [name for chapter in HAVE for name, _, _ in stubs(chapter)]
    mine = progress()
    assert [n for n in mine if not n.startswith("demo.")] == names and set(mine.values()) == {"new"}
    assert mine.solved == 0 and str(mine).startswith(f"0 of {len(mine)} exercises solved")
    assert not memory.exists(), "looking leaves no trace"
    workbook.remember_verdict(workbook.Verdict(names[0], "", "wrong", ""))
    workbook.remember_verdict(workbook.Verdict(names[-1], "", "solved", ""))
    mine = progress()
    assert mine[names[0]] == "wrong" and mine[names[-1]] == "solved" and mine.solved == 1
    for chapter, marks in mine.chapters().items():
        assert re.search(rf"^{chapter}\s+{re.escape(''.join(marks))}\s", str(mine), re.MULTILINE)


@pytest.fixture
def exercise():
    "An exercise that asks for 3, for the tests of the memory."
    @workbook.exercise("demo.1", "Three", "More than two.", "Less than four.")
    def _(answer): workbook.same(answer, 3)
    yield "demo.1"
    del workbook._exercises["demo.1"]


def test_what_is_solved_stays_solved(exercise, memory):
    states = [(workbook.check(exercise, a).state, read_progress().get(exercise))
              for a in (..., 2, None, 3, 2)]
    assert states == [("unsolved", None), ("wrong", "wrong"), ("unsolved", "wrong"),
                      ("solved", "solved"), ("wrong", "solved")]
    assert {p.name for p in memory.parent.iterdir()} == {
        "progress.json", ".progress.json.lock"}, "no half-written file is left"


@pytest.mark.parametrize(
    "damage",
    ["", "{", "[1, 2]", "null", '"solved"', "\x00\x01", "{'demo.1': 'solved'}", "[" * 100_000],
    ids=range(8))
def test_a_damaged_memory_is_put_aside(exercise, memory, damage):
    memory.write_text(damage, encoding="utf-8")
    assert set(progress().values()) == {"new"}
    assert (memory.parent / "progress.json.damaged").read_text(encoding="utf-8") == damage
    assert (workbook.check(exercise, 3).state == "solved"
            and json.loads(memory.read_text(encoding="utf-8")) == {exercise: "solved"})


def test_bytes_that_are_no_text_are_put_aside(exercise, memory):
    memory.write_bytes(b"\xff\xfe\x80")
    assert read_progress() == {} and (memory.parent / "progress.json.damaged").exists()


@pytest.mark.parametrize("state", ["half", 3, None, ["solved"], {"solved": True}])
def test_a_state_that_nobody_knows_counts_as_none(exercise, memory, state):
    memory.write_text(json.dumps({exercise: state, "none.7": "solved"}), encoding="utf-8")
    assert progress()[exercise] == "new" and "none.7" not in progress() and str(progress())


def test_without_a_place_to_write_the_verdict_comes_all_the_same(
    exercise, memory, monkeypatch, capsys):
    "A file in the place of a folder, and a folder in the place of the file."
    memory.write_text("{}", encoding="utf-8")
    folder = memory.parent / "folder"
    folder.mkdir()
    for place in (memory / "below" / "progress.json", folder):
        monkeypatch.setenv("CIFAR_NB_PROGRESS", str(place))
        assert workbook.check(exercise, 3).state == "solved"
        told = capsys.readouterr().out
        assert str(place) in told and told.count("\n") == 1 and "CIFAR_NB_PROGRESS" in told
        assert progress()[exercise] == "new"
    assert memory.read_text(encoding="utf-8") == "{}" and not list(folder.iterdir())


def test_without_a_home_folder_the_verdict_comes_all_the_same(exercise, monkeypatch, capsys):
    monkeypatch.delenv("CIFAR_NB_PROGRESS")
    monkeypatch.setattr(places, "home_folder", lambda: None)
    monkeypatch.setattr(workbook.Path, "is_dir", lambda p: False)
    assert workbook.check(exercise, 3).state == "solved" and progress()[exercise] == "new"
    told = ("~/.cifar_nb/progress.json cannot be found, for there is no home folder here: write "
            "the whole path")
    assert (capsys.readouterr().out == 2 * f"There is no memory of what is solved: {told}. Set "
            "CIFAR_NB_PROGRESS to a file that can be written.\n")


def test_a_tilde_is_the_home_folder(exercise, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    monkeypatch.setenv("CIFAR_NB_PROGRESS", "~/mine.json")
    workbook.check(exercise, 3)
    assert (tmp_path / "mine.json").exists()
