"A clone holds the committed bytes, whatever Git's settings say of the ends of lines."
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
pytestmark = pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a clone")


def git(*argv, **kwargs):
    return subprocess.run(["git", "-C", ROOT, *argv], check=True, capture_output=True,
                          encoding="utf-8", **kwargs).stdout


@pytest.mark.parametrize("autocrlf", ["true", "input", "false"])
def test_a_clone_is_what_was_committed(tmp_path, autocrlf):
    "`core.autocrlf=true` is what Git for Windows proposes."
    git("-c", f"core.autocrlf={autocrlf}", "checkout-index", "-a", f"--prefix={tmp_path}/")
    committed = {}
    for line in git("ls-files", "-s", "-z").split("\0")[:-1]:
        about, name = line.split("\t")
        committed[name] = about.split()[1]
    paths = "".join(f"{tmp_path / name}\n" for name in committed)
    found = git("hash-object", "--no-filters", "--stdin-paths", input=paths).split()
    assert [name for name, ours in zip(committed, found) if committed[name] != ours] == []


def test_no_file_is_changed_by_an_end_of_line():
    "Every file is known as text that ends its lines with LF, or as none."
    for line in git("ls-files", "--eol", "-z").split("\0")[:-1]:
        (kind, _, *attributes), name = line.split("\t")[0].split(), line.split("\t")[1]
        expected = ["attr/-text"] if kind == "i/-text" else ["attr/text=auto", "eol=lf"]
        assert kind in ("i/lf", "i/none", "i/-text") and attributes == expected, name
