"""What a release checks, and that what it builds knows its commit."""
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from cifar_nb.core.version import packed_commit

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tools"))
import release


def git(here, *argv):
    return subprocess.run(
        ["git", "-C", here, "-c", "user.name=a", "-c", "user.email=a@b", "-c",
         "commit.gpgsign=false", *argv],
        check=True, capture_output=True, encoding="utf-8").stdout.strip()


@pytest.fixture
def clone(tmp_path):
    "A clone with little in it but what setup.py reads."
    here = tmp_path / "clone"
    for name in ("setup.py", "settings.ini", "README.md", "LICENSE", "MANIFEST.in",
                 "cifar_nb/__init__.py", "cifar_nb/core/__init__.py"):
        (here / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, here / name)
    (here / "cifar_nb/core/COMMIT").write_text("$Format:%H$\n", encoding="utf-8")
    git(tmp_path, "init", "-q", here)
    git(here, "add", ".")
    git(here, "commit", "-q", "-m", "all")
    return here


def built(here, *what):
    "The file COMMIT in each of what `build` makes of `here`: in the wheel, and in the sources."
    out = here.parent / "dist"
    shutil.rmtree(out, ignore_errors=True)
    p = subprocess.run([sys.executable, "-m", "build", "--no-isolation", *what, "--outdir", out,
                        here], capture_output=True, encoding="utf-8")
    assert p.returncode == 0, p.stdout[-2000:] + p.stderr[-2000:]
    found = {}
    for path in out.glob("*.whl"):
        with zipfile.ZipFile(path) as z: found["wheel"] = z.read("cifar_nb/core/COMMIT")
    for path in out.glob("*.tar.gz"):
        with tarfile.open(path) as t:
            name = next(n for n in t.getnames() if n.endswith("/cifar_nb/core/COMMIT"))
            found["sources"] = t.extractfile(name).read()
    return {k: v.decode().strip() for k, v in found.items()}


def test_the_wheel_and_the_sources_know_their_commit(clone):
    head = git(clone, "rev-parse", "HEAD")
    assert len(head) == 40 and built(clone) == dict(wheel=head, sources=head)
    assert git(clone, "status", "--porcelain", "-uno") == ""  # what is in the clone stays
    (clone / "cifar_nb/core/__init__.py").write_text("1\n", encoding="utf-8")
    assert built(clone, "--wheel") == dict(wheel=f"{head}+")
    (clone / ".git").rename(clone.parent / "git")
    shutil.rmtree(clone / "build")
    assert built(clone, "--wheel") == dict(wheel="$Format:%H$")


@pytest.mark.parametrize("text, commit", [
    ("0123456789abcdef" * 2 + "01234567\n", "0123456789ab"),
    ("0123456789abcdef" * 2 + "01234567+\n", "0123456789ab+"),
    ("0123456789abcdef" * 2 + "0123456\n", "unknown"), ("$Format:%H$\n", "unknown"),
    ("", "unknown")])
def test_a_packed_commit_is_read(text, commit, tmp_path):
    (tmp_path / "COMMIT").write_text(text, encoding="utf-8")
    assert packed_commit(tmp_path / "COMMIT") == commit


@pytest.fixture
def ready(tmp_path):
    "The files that name a version, as they are for a release of 1.2.3."
    for name, text in {
        "settings.ini": "[DEFAULT]\nlib_name = x\nversion = 1.2.3\nmin_python = 3.10\n",
        "CITATION.cff": "cff-version: 1.2.0\ntitle: x\nversion: 1.2.3\n",
        "CHANGELOG.md": "# Changes\n\nWords.\n\n## 1.2.3\n\n- New.\n\n## 1.2.2\n",
        "cifar_nb/__init__.py": '__version__ = "1.2.3"\n',
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    return tmp_path


def test_a_release_that_agrees_has_no_problems(ready):
    assert release.problems("v1.2.3", ready) == []
    assert len(release.problems("v1.2.4", ready)) == len(release.problems("1.2.3", ready)) == 4


@pytest.mark.parametrize("name, old, new, said", [
    ("settings.ini", "version = 1.2.3", "version = 1.2.2", "'1.2.2'"),
    ("CITATION.cff", "\nversion: 1.2.3", "\nversion: 1.2.2", "'1.2.2'"),
    ("CITATION.cff", "\nversion: 1.2.3", "", "'nothing'"),
    ("CHANGELOG.md", "## 1.2.3", "## 1.2.3, not released yet", "'1.2.3, not released yet'"),
    ("CHANGELOG.md", "## 1.2.3\n", "", "'1.2.2'"),
    ("cifar_nb/__init__.py", "1.2.3", "1.2.2", "'1.2.2'")])
def test_what_disagrees_at_a_release_is_named(ready, name, old, new, said):
    text = (ready / name).read_text(encoding="utf-8")
    assert text.count(old) == 1
    (ready / name).write_text(text.replace(old, new), encoding="utf-8")
    sentence, = release.problems("v1.2.3", ready)
    assert sentence.startswith(f"{name} has {said}") and "the tag v1.2.3 needs '1.2.3'" in sentence


def test_between_releases_the_files_agree_but_for_the_changes_to_come():
    found = release.versions()
    changes = found.pop("CHANGELOG.md")
    assert len(set(found.values())) == 1
    assert changes in found.values() or changes.endswith(", not released yet")


def test_the_release_checks_the_versions_before_and_the_commit_after_it_builds():
    steps = (ROOT / ".github/workflows/release.yaml").read_text(encoding="utf-8")
    order = [steps.index(words) for words in (
        'python tools/release.py "$GITHUB_REF_NAME"', "python -m build",
        'cifar_nb/core/COMMIT | grep -qx "$(git rev-parse HEAD)"', "gh release create")]
    assert order == sorted(order)
    p = subprocess.run([sys.executable, ROOT / "tools/release.py", "v9.9.9"], capture_output=True,
                       encoding="utf-8")
    assert p.returncode == 1 and "settings.ini has " in p.stderr
