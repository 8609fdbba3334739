"""The wheel in an environment that has the runtime dependencies and nothing else: no nbdev, no
fastcore, no notebook tools."""
import ast
import csv
import json
import os
import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent
FORBIDDEN = ["nbdev", "fastcore", "execnb", "ghapi", "pytest"]


def closure(names):
    "All distributions that `names` need, by name, themselves included."
    found, todo = {}, list(names)
    while todo:
        name = todo.pop().lower().replace("_", "-")
        if name in found: continue
        try: found[name] = distribution(name)
        except Exception: continue  # an optional platform package that is not here
        for line in found[name].requires or []:
            need = Requirement(line)
            if need.marker is None or need.marker.evaluate({"extra": ""}): todo.append(need.name)
    return found


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    """A folder with links to the files of the runtime dependencies, and the freshly built wheel
    unpacked beside them."""
    here = tmp_path_factory.mktemp("clean")
    build = subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", here / "dist", ROOT],
        capture_output=True, encoding="utf-8")
    assert build.returncode == 0, build.stdout[-2000:] + build.stderr[-2000:]
    site = here / "site"
    wheel = next((here / "dist").glob("*.whl"))
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-compile", "--target",
         site, wheel], check=True)
    runtime = [Requirement(r).name for r in distribution("cifar_nb").requires
               if "extra ==" not in r]
    for dist in closure(runtime).values():
        for top in {Path(f.parts[0]) for f in dist.files or [] if f.parts[0] != ".."}:
            source, target = dist.locate_file(top), site / top
            if not target.exists() and Path(source).exists(): os.symlink(source, target)
    return site


def python(site, code):
    env = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")} | {
        "PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, "-S", "-c", code], cwd=site.parent, env=env,
                          capture_output=True, timeout=300, encoding="utf-8")


def test_no_development_tool_is_there(clean):
    code = ("import importlib.util, sys; print([n for n in sys.argv[1:] if "
            "importlib.util.find_spec(n)])")
    found = python(clean, code.replace("sys.argv[1:]", repr(FORBIDDEN)))
    assert found.stdout.strip() == "[]", found.stderr


def test_the_version_names_the_commit_that_it_was_built_from(clean):
    from cifar_nb.core.version import commit
    p = python(clean, "import sys; from cifar_nb.cli import main; main(['--version'])")
    assert p.stdout.rstrip().endswith(f", commit {commit()}"), (p.stdout, p.stderr)


def test_every_module_imports(clean):
    code = ("import cifar_nb, pkgutil, importlib\nfor m in "
            "pkgutil.walk_packages(cifar_nb.__path__, 'cifar_nb.'):\n    "
            "importlib.import_module(m.name); print(m.name)\nprint(cifar_nb.__file__)")
    p = python(clean, code)
    assert p.returncode == 0, p.stderr
    assert (str(clean) in p.stdout and "cifar_nb.cli" in p.stdout
            and "cifar_nb.teams.narrow_resnet" in p.stdout)


def test_the_command_trains(clean, tmp_path):
    argv = ["train", "small", "--data", "toy", "--images", "256", "--epochs", "1", "--device",
            "cpu", "--set", "widths=[8, 16, 32]", "--out", str(tmp_path / "run")]
    p = python(clean, f"import sys; from cifar_nb.cli import main; sys.exit(main({argv!r}))")
    assert p.returncode == 0, p.stderr
    assert (tmp_path / "run" / "test_predictions.csv").exists()


def test_the_training_path_needs_little(clean):
    """On a bare GPU machine there may be no torchinfo, no ipywidgets, no matplotlib: training must
    import without them."""
    code = ("import sys\nfor n in ('torchinfo', 'ipywidgets', 'matplotlib', 'sklearn', "
            "'torchvision', 'IPython'): sys.modules[n] = None\nfrom cifar_nb.training.train import "
            "train\nfrom cifar_nb.teams.zoo import get_recipe\nfrom cifar_nb.data.cifar import "
            "toy\nr = get_recipe('small').with_(widths=(8, 16, 32), epochs=1)\nt = train(r, "
            "*toy(256), progress=False, device='cpu')\nprint(len(t.log))")
    p = python(clean, code)
    assert p.returncode == 0 and p.stdout.strip().endswith("1"), p.stderr


def test_the_table_of_contents_lists_every_chapter():
    rows = list(csv.DictReader((ROOT / "nbs/chapters.csv").open(encoding="utf-8")))
    names = [r["chapter"] for r in rows]
    assert names == sorted(p.stem for p in (ROOT / "nbs").glob("*.ipynb") if p.stem != "index")
    numbers = [n.split("_")[0] for n in names]
    for i, row in enumerate(rows):
        assert row["afterwards"] and float(row["hours"]) > 0
        assert set(row["before"].split()) <= set(numbers[:i]), row
        cells = json.loads(
            (ROOT / f"nbs/{row['chapter']}.ipynb").read_text(encoding="utf-8"))["cells"]
        title = next(c for c in cells if c["cell_type"] == "markdown")["source"][0]
        assert title.rstrip("\n") == f"# {row['title']}", row


def test_the_trained_networks_come_along(clean):
    code = ("import torch\nfrom cifar_nb.evaluation.pretrained import load_pretrained\nnet, recipe "
            "= load_pretrained('quick', 'cpu')\nprint(recipe.name, tuple(net(torch.zeros(2, 3, 32, "
            "32)).shape))")
    found = python(clean, code)
    assert found.stdout.strip() == "quick (2, 10)", found.stderr


def test_a_public_name_has_one_meaning():
    """What stands in two `__all__` lists: only what each of the five teams' modules has, and the
    constants of solutions, which nobody imports."""
    found = {}
    for p in sorted((ROOT / "cifar_nb").rglob("*.py")):
        for node in ast.parse(p.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__":
                for e in node.value.elts: found.setdefault(e.value, []).append(p)
    plain = {p.name for p in (ROOT / "cifar_nb/exercises").glob("*.py")
             if "AUTOGENERATED" not in p.read_text(encoding="utf-8")}
    def counts(p): return p.parent.name != "teams" and (p.parent.name != "exercises"
                                                        or p.name in plain)
    twice = {n: [str(p) for p in files if counts(p)] for n, files in found.items()}
    assert {n: files for n, files in twice.items() if len(files) > 1} == {}


def test_the_recorded_outcomes_of_predictions_come_along(clean):
    code = ("import json\nfrom cifar_nb.exercises import predictions\nprint((predictions.resources."
            "files('cifar_nb.exercises') / 'recorded.json').read_text(encoding='utf-8'))")
    found = python(clean, code)
    here = (ROOT / "cifar_nb/exercises/recorded.json").read_text(encoding="utf-8")
    assert json.loads(found.stdout) == json.loads(here), found.stderr


def code_lines(text):
    "The lines of a module that are code: no blank ones, comments or docstrings."
    docs = set()
    for node in ast.walk(ast.parse(text)):
        body = getattr(node, "body", None)
        if (isinstance(body, list) and body and isinstance(body[0], ast.Expr)
            and isinstance(body[0].value, ast.Constant) and isinstance(body[0].value.value, str)):
            docs |= set(range(body[0].lineno, body[0].end_lineno + 1))
    return [line for i, line in enumerate(text.splitlines(), 1)
            if i not in docs and line.strip() and not line.lstrip().startswith("#")]


def test_code_lines_are_counted_as_by_hand():
    text = ('"""A module.\n\nMore."""\nimport os  # a comment\n\n# another\n'
            'def f():\n    "Says."\n    return """\na\n"""\n')
    assert len(code_lines(text)) == 5  # import, def, and three lines of a string


MODULES = sorted(p for p in (ROOT / "cifar_nb").rglob("*.py") if p.name != "_modidx.py")


@pytest.mark.parametrize("path", MODULES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_a_module_is_short_and_says_what_it_offers(path):
    text = path.read_text(encoding="utf-8")
    assert len(code_lines(text)) <= 300
    silent = [node.name for node in ast.parse(text).body
              if isinstance(node, (ast.FunctionDef, ast.ClassDef))
              and not node.name.startswith("_") and not ast.get_docstring(node)]
    assert not silent, f"no docstring: {', '.join(silent)}"
