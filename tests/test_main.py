"""The command's own process: it draws to files and writes letters that a terminal may lack; a
notebook that calls it keeps its ways."""
import os
import subprocess
import sys
from configparser import ConfigParser
from importlib import import_module
from pathlib import Path

import pytest
import torch

from cifar_nb import cli

ROOT = Path(__file__).parent.parent
FAKE = """
import os, sys, types
def main():
    if sys.argv[1:] == ['print']: print('100 \\xb1 5 \\u2713'); print('\\u2713', file=sys.stderr)
    if sys.argv[1:] == ['stop']: raise KeyboardInterrupt
    if sys.argv[1:] == ['name']: print(os.fsdecode(b'a\\xff'))
    if sys.argv[1:] == ['draw']:
        import matplotlib.pyplot as plt
        plt.figure().savefig('figure.png')
        print(plt.get_backend())
    return 3
cli = types.ModuleType('cifar_nb.cli'); cli.main = main
sys.modules['cifar_nb.cli'] = cli
from cifar_nb.__main__ import main
sys.exit(main())
"""  # the command with another inside, for speed: the way into it is what is tested


def command(what, cwd, **env):
    p = subprocess.run([sys.executable, "-c", FAKE, what], cwd=cwd, capture_output=True,
                       env=os.environ | {"PYTHONPATH": str(ROOT)} | env)
    assert p.returncode == 3, p.stderr.decode("utf-8", "replace")
    return p.stdout


@pytest.mark.parametrize(
    "env",
    [dict(PYTHONIOENCODING="ascii"), dict(PYTHONIOENCODING="ascii:strict"),
     dict(PYTHONIOENCODING="ascii:surrogateescape"), dict(PYTHONIOENCODING="cp437"),
     dict(PYTHONUTF8="0", PYTHONCOERCECLOCALE="0", LC_ALL="C")])
def test_a_terminal_that_lacks_letters_gets_others(tmp_path, env):
    out = command("print", tmp_path, **env)
    assert out.startswith(b"100 ") and b" 5 ?" in out


def test_a_terminal_that_has_them_gets_them(tmp_path):
    assert command("print", tmp_path, PYTHONIOENCODING="utf-8") == "100 ± 5 ✓".encode(
        ) + os.linesep.encode()


@pytest.mark.skipif(os.name == "nt", reason="names of files are bytes on POSIX")
def test_a_file_with_a_name_that_is_no_text_is_named(tmp_path):
    assert command("name", tmp_path, PYTHONIOENCODING="utf-8") == b"a?\n"
    assert command("name", tmp_path, PYTHONIOENCODING="utf-8:surrogateescape") == b"a\xff\n"


@pytest.mark.parametrize(
    "backend", ["module://not_here.backend_inline", "no such thing", "TkAgg", ""])
def test_it_draws_to_files_whatever_a_notebook_has_set(tmp_path, backend):
    assert (command("draw", tmp_path, MPLBACKEND=backend).strip().lower() == b"agg"
            and (tmp_path / "figure.png").stat().st_size)


def test_a_notebook_that_calls_the_command_keeps_its_backend(monkeypatch, capsys):
    from cifar_nb.cli import main
    monkeypatch.setenv("MPLBACKEND", "svg")
    errors = sys.stdout.errors
    assert (main(["pretrained"]) == 0 and os.environ["MPLBACKEND"] == "svg"
            and sys.stdout.errors == errors)


def test_an_interruption_while_one_is_told_of_ends_it_without_a_traceback():
    p = subprocess.run([sys.executable, "-c", FAKE, "stop"], capture_output=True,
                       env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert (p.returncode, p.stdout, p.stderr) == (130, b"", b"")


def test_the_installed_command_is_this_one():
    cfg = ConfigParser(delimiters=["="])
    cfg.read(ROOT / "settings.ini", encoding="utf-8")
    module, name = cfg["DEFAULT"]["console_scripts"].removeprefix("cifar_nb=").split(":")
    assert module == "cifar_nb.__main__" and callable(getattr(import_module(module), name))


def test_the_real_table_comes_in_ascii(tmp_path):
    p = subprocess.run(
        [sys.executable, "-m", "cifar_nb", "scoreboard", "--results", str(ROOT / "results")],
        cwd=tmp_path, capture_output=True, encoding="ascii",
        env=os.environ | {"PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "ascii",
                          "OMP_NUM_THREADS": "1"})
    assert p.returncode == 0 and len(p.stdout.splitlines()) > 10, p.stderr


@pytest.mark.parametrize(
    "asked",
    [["--help"], ["--version"], ["train", "--help"], ["nonsense"], ["train"],
     ["train", "quick", "--epochs", "x"]])
def test_what_needs_no_network_does_not_wait_for_torch(asked):
    code = f"""import sys
from cifar_nb.cli import main
try: status = main({asked!r})
except SystemExit as e: status = e.code
print(status, sorted({{'torch', 'numpy', 'matplotlib'}} & set(sys.modules)))"""
    p = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8",
                       env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert p.stdout.splitlines()[-1] == ("0 []" if asked[-1].startswith("--") else "2 []"), p.stderr


def test_the_version_names_the_commit():
    from cifar_nb.core.version import commit, package_version
    p = subprocess.run([sys.executable, "-m", "cifar_nb", "--version"], capture_output=True,
                       encoding="utf-8", cwd=ROOT)
    assert p.stdout == f"cifar_nb {package_version()}, commit {commit()}\n"


def test_every_subcommand_does_something():
    from cifar_nb.cli import commands
    from cifar_nb.cli.arguments import parser
    names = next(a.choices for a in parser()._actions if a.dest == "command")
    assert {f"cmd_{n}" for n in names} == {n for n in vars(commands) if n.startswith("cmd_")}


@pytest.mark.parametrize("fill", [
    lambda: torch.empty(2 ** 60, dtype=torch.uint8), lambda: bytearray(2 ** 62),
    lambda: raised(torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"))])
def test_too_little_memory_is_one_sentence(fill, monkeypatch, capsys):
    monkeypatch.setattr(cli, "_run", lambda a: fill())
    assert cli.main(["recipes"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("cifar_nb: there is too little memory") and said.count("\n") == 1


def test_another_fault_is_told_as_it_is(monkeypatch):
    monkeypatch.setattr(cli, "_run", lambda a: raised(RuntimeError("of another kind")))
    with pytest.raises(RuntimeError, match="of another kind"): cli.main(["recipes"])


def raised(error): raise error
