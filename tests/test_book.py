"book.py sets itself up whatever interrupted it before, one at a time, and says what is in the way."
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

BOOK = Path(__file__).parent.parent / "book.py"
pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("ensurepip") is None, reason="this Python cannot make environments")
posix = pytest.mark.skipif(os.name == "nt", reason="signals and links are those of POSIX")
BACKEND = '''
import os, time, zipfile
def build_editable(folder, config_settings=None, metadata_directory=None):
    with open("began", "a", encoding="utf-8") as f: f.write("x")
    time.sleep(float(open("pause", encoding="utf-8").read()))
    if os.path.exists("full"): raise OSError(28, "No space left on device")
    meta, name = "tiny-1.dist-info/", "tiny-1-py3-none-any.whl"
    about = "Metadata-Version: 2.1\\nName: tiny\\nVersion: 1\\nProvides-Extra: dev\\n"
    wheel = "Wheel-Version: 1.0\\nGenerator: x\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n"
    with zipfile.ZipFile(os.path.join(folder, name), "w") as z:
        for file, text in (("tiny.py", "HERE = 1"), (meta + "METADATA", about),
                           (meta + "WHEEL", wheel), (meta + "RECORD", "")):
            z.writestr(file, text)
    return name
'''


@pytest.fixture
def place(tmp_path):
    """A folder with book.py and a package that pip installs without a network; `began` counts how
    often."""
    here = tmp_path / "a book"
    here.mkdir()
    shutil.copy(BOOK, here)
    files = {"settings.ini": "", "setup.py": "", "constraints.txt": "", "pause": "0",
             "backend.py": BACKEND, "began": "",
             "pyproject.toml": '[build-system]\nrequires = []\nbuild-backend = '
             '"backend"\nbackend-path = ["."]\n'}
    for name, text in files.items(): (here / name).write_text(text, encoding="utf-8")
    return here


@pytest.fixture(scope="module")
def fresh(tmp_path_factory):
    "An environment with pip, to be copied and damaged."
    venv = tmp_path_factory.mktemp("fresh") / ".venv"
    subprocess.run([sys.executable, "-m", "venv", venv], check=True)
    return venv


@pytest.fixture
def with_pip(place, fresh):
    "A place whose .venv is made, with nothing in it yet."
    shutil.copytree(fresh, place / ".venv", symlinks=True)
    return place


def start(place, *argv, code=None):
    how = ["-c", code] if code else ["book.py"]
    argv = argv or ("run", "python", "-c", "import tiny; print('it runs')")
    return subprocess.Popen([sys.executable, *how, *argv], cwd=place, env=clean(PIP_NO_INDEX="1"),
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8",
                            preexec_fn=hearing if os.name == "posix" else None)


def hearing():
    "Ctrl-C means what it usually means, also where the tests run in the background of a shell."
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def clean(**more):
    "The environment without anybody's settings of pip."
    env = {k: v for k, v in os.environ.items() if not k.startswith("PIP_")}
    return env | {"PIP_CONFIG_FILE": os.devnull, "CIFAR_NB_DATA": "toy"} | more


def call(place, *argv, **kwargs):
    p = start(place, *argv, **kwargs)
    out, err = p.communicate(timeout=120)
    return p.returncode, out, err


def runs(place):
    status, out, err = call(place)
    assert status == 0 and out.endswith("it runs\n"), (status, out, err)
    return out


def times(place): return len((place / "began").read_text(encoding="utf-8"))


def until(condition):
    end = time.time() + 60
    while not condition():
        assert time.time() < end
        time.sleep(.02)


def test_it_is_set_up_once_and_again_when_something_else_is_asked_for(place):
    assert "installing" in runs(place) and "installing" not in runs(place) and times(place) == 1
    assert not (place / ".venv/unfinished").exists()
    (place / "settings.ini").write_text("[DEFAULT]", encoding="utf-8")
    assert "made again" not in runs(place) and times(place) == 2
    (place / ".venv/set-up-dev").write_bytes(b"\xff\0")
    assert "installing" in runs(place)


@posix
@pytest.mark.parametrize("name, seconds", [("SIGINT", .3), ("SIGINT", 1.2), ("SIGKILL", 2.5)])
def test_whatever_moment_it_is_interrupted_the_same_command_goes_on(place, name, seconds):
    (place / "pause").write_text(".5", encoding="utf-8")
    p = start(place)
    time.sleep(seconds)
    p.send_signal(getattr(signal, name))
    out, err = p.communicate()
    assert p.returncode in (0, 130, -9) and "Traceback" not in err, err
    runs(place)
    assert "installing" not in runs(place)


@posix
def test_a_killed_set_up_leaves_a_pip_that_is_waited_for(with_pip):
    (with_pip / "pause").write_text("2", encoding="utf-8")
    p = start(with_pip)
    until(lambda: times(with_pip) == 1)
    p.kill()
    p.communicate()
    (with_pip / "pause").write_text("0", encoding="utf-8")
    out = runs(with_pip)
    assert "waiting for it" in out and "made again: an earlier installation was broken off" in out


def test_of_two_at_once_one_waits(with_pip):
    place = with_pip
    (place / "pause").write_text("1", encoding="utf-8")
    both = [start(place) for _ in range(2)]
    outs = [p.communicate(timeout=120)[0] for p in both]
    assert [p.returncode for p in both] == [0, 0] and all(out.endswith("it runs\n") for out in outs)
    assert times(place) == 1 and sum("waiting for it" in out for out in outs) == 1


def gone(venv):
    (venv / "bin/python").unlink()
    (venv / "bin/python").symlink_to("/nowhere/python3")


def not_a_program(venv):
    (venv / "bin/python").unlink()
    (venv / "bin/python").write_text("", encoding="utf-8")


def without_pip(venv):
    for p in venv.glob("lib/python*/site-packages/pip*"): shutil.rmtree(p)


def half_a_pip(venv):
    for p in venv.glob("lib/python*/site-packages/pip/_vendor"): shutil.rmtree(p)


def no_environment(venv):
    "Its pip would install beside the system's own Python."
    (venv / "pyvenv.cfg").unlink()


def a_file(venv):
    shutil.rmtree(venv)
    venv.write_text("", encoding="utf-8")


def a_link_that_leads_nowhere(venv):
    shutil.rmtree(venv)
    venv.symlink_to("/nowhere/at/all")


@posix
@pytest.mark.parametrize(
    "damage",
    [gone, not_a_program, without_pip, half_a_pip, no_environment, a_file,
     a_link_that_leads_nowhere])
def test_an_environment_that_cannot_install_is_noticed(with_pip, damage):
    place = with_pip
    book = load(place)
    assert not book.spoiled() and not book.ready(True)
    (place / ".venv/set-up-dev").write_text(f"{book.wanted()}\n{book.HERE}\n", encoding="utf-8")
    assert book.ready(True) and book.ready(False)
    damage(place / ".venv")
    assert book.spoiled()
    assert book.ready(True) == (damage is half_a_pip)  # what has been set up needs no pip any more


@posix
@pytest.mark.parametrize("damage", [gone, a_link_that_leads_nowhere])
def test_an_environment_that_cannot_install_is_made_again(with_pip, damage):
    place = with_pip
    damage(place / ".venv")
    assert ".venv is made again: it " in runs(place)


@posix
def test_somebodys_own_environment_is_used_and_a_linked_one_not_emptied(place, fresh, tmp_path):
    shutil.copytree(fresh, tmp_path / "own", symlinks=True)
    (tmp_path / "own/mine").touch()
    (place / ".venv").symlink_to(tmp_path / "own")
    assert "made again" not in runs(place) and (tmp_path / "own/mine").exists()
    (place / ".venv/unfinished").touch()
    assert "made again" in runs(place) and (tmp_path / "own/mine").exists()


@posix
def test_a_folder_that_was_moved_gets_scripts_that_know_it(with_pip, tmp_path):
    assert "made again" not in runs(with_pip)
    with_pip.rename(tmp_path / "elsewhere")
    assert "made again: its folder was moved" in runs(tmp_path / "elsewhere")


def test_a_python_without_venv_is_told(place):
    for module in ("ensurepip", "venv"):
        code = (f"import sys; sys.modules[{module!r}] = None; sys.argv[0] = 'book.py'; import "
                "runpy; runpy.run_path('book.py', run_name='__main__')")
        status, out, err = call(place, "run", "python", "-V", code=code)
        assert (status == 1 and "comes without the modules venv and ensurepip" in err
                and "network" not in err and err.count("\n") == 1)
        assert not (place / ".venv").exists()


def load(place):
    "book.py of `place` as a module."
    spec = importlib.util.spec_from_file_location("book_under_test", place / "book.py")
    book = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(book)
    return book


@pytest.mark.parametrize("text, word, halves", [
    ("WARNING: Retrying (Retry(total=0)) after connection broken by 'NewConnectionError('<pip>: "
     "Failed to establish a new connection: [Errno 111] Connection refused')': /simple/x/\nERROR: "
     "Could not find a version that satisfies the requirement x (from versions: none)\nERROR: No "
     "matching distribution found for x", "cannot be reached. Look at the network", False),
    ("WARNING: Retrying after connection broken by 'NewConnectionError([Errno -3] Temporary "
     "failure in name resolution)'", "be reached. Look", False),
    ("ERROR: Could not find a version that satisfies the requirement torch>=2.4 (from versions: "
     "none)\nERROR: No matching distribution found for torch>=2.4",
     "cannot be reached, or has nothing for Python 3.", False),
    ("ERROR: Could not find a version that satisfies the requirement torch>=2.4 (from versions: "
     "1.0, 2.0)\nERROR: No matching distribution found for torch>=2.4",
     "no version that fits Python 3.", False),
    ("ERROR: Ignored the following versions that require a different python version: 2.4 "
     "Requires-Python >=3.8\nERROR: Could not find a version that satisfies the requirement "
     "torch>=2.4 (from versions: none)", "no version that fits", False),
    ("/x/.venv/bin/python: No module named ensurepip", "without the modules venv and ensurepip",
     True),
    ("  error: subprocess-exited-with-error\n  × Preparing editable metadata did not run "
     "successfully.", "cannot be built", False),
    ("ERROR: Package 'cifar-nb' requires a different Python: 3.9.1 not in '>=3.10'",
     "no version that fits", False),
    ("ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device",
     "disk is full", True),
    ("ERROR: Could not install packages due to an OSError: [Errno 13] Permission denied: '/x'",
     "cannot be written to", True),
    ("ERROR: HTTP error 503 while getting https://x", "refuses", False),
    ("there was a problem confirming the ssl certificate: SSLError(SSLCertVerificationError(1, "
     "'[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed')) - Max retries exceeded",
     "certificate", False),
    ("ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE.", "damaged", False),
    ("something else", "lines above say why", True)])
def test_the_last_sentence_names_the_cause(place, text, word, halves, monkeypatch, capsys):
    book = load(place)
    (place / ".venv").mkdir()
    monkeypatch.setattr(book, "spoiled", lambda: "")
    monkeypatch.setattr(book, "listen", lambda lock, *argv: (1, text))
    with pytest.raises(SystemExit) as stopped: book.set_up(dev=True)
    assert word in str(stopped.value) and ("network" in str(stopped.value)) == ("reached" in word)
    assert (str(stopped.value).endswith("Then run the same command again.")
            and "\n" not in str(stopped.value))
    assert (place / ".venv/unfinished").exists() == halves and not (
        place / ".venv/set-up-dev").exists()


def test_a_killed_pip_is_no_question_of_the_network(place):
    why, halves = load(place).cause(-9, "")
    assert "signal 9" in why and "memory" in why and halves


@posix
def test_a_full_disk_is_told_and_then_it_goes_on(with_pip):
    place = with_pip
    (place / "full").touch()
    status, out, err = call(place)
    assert status == 1 and "disk is full" in err and "network" not in err and "Traceback" not in err
    (place / "full").unlink()
    runs(place)


@posix
def test_a_network_that_is_missing_is_told_by_the_real_pip(with_pip):
    place = with_pip
    (place / "pyproject.toml").write_text(
        '[build-system]\nrequires = ["setuptools"]\n', encoding="utf-8")
    env = clean(PIP_INDEX_URL="http://127.0.0.1:9/simple", PIP_RETRIES="1")
    p = subprocess.run([sys.executable, "book.py", "run", "python", "-V"], cwd=place, env=env,
                       capture_output=True, encoding="utf-8")
    assert p.returncode == 1 and "index cannot be reached. Look at the network" in p.stderr
    status, _, err = call(place)  # an index that has nothing
    assert status == 1 and "cannot be reached, or has nothing for Python" in err
    assert not (place / ".venv/unfinished").exists()


@posix
def test_a_command_gets_its_own_signals_and_status(with_pip):
    place = with_pip
    assert call(place, "run", "python", "-c", "raise SystemExit(7)")[0] == 7
    assert (call(place, "run",
                 "no-such-program")[2] == "book: no-such-program cannot be run (No such file or "
            "directory).\n")
    slow = ("import time, pathlib\ntry:\n  pathlib.Path('began').write_text('y')\n  "
            "time.sleep(60)\nexcept KeyboardInterrupt: time.sleep(1.5); print('saved')")
    (place / "began").unlink()
    p = start(place, "run", "python", "-c", slow)
    until(lambda: (place / "began").exists())
    p.send_signal(signal.SIGINT)
    out, err = p.communicate()
    assert (p.returncode, out) == (0, "saved\n"), err


@pytest.mark.parametrize("argv, opened", [
    ((), "work/00_start.ipynb"), (("x.ipynb",), "x.ipynb"), (("--edit",), "nbs/00_start.ipynb"),
    (("--edit", "nbs/30_scoreboard.ipynb", "--no-browser"),
     "nbs/30_scoreboard.ipynb --no-browser")])
def test_the_book_opens_at_its_first_chapter(place, monkeypatch, argv, opened):
    book, calls = load(place), []
    monkeypatch.setenv("JUPYTER_CONFIG_PATH", "/mine")
    monkeypatch.setattr(book, "set_up", lambda dev: calls.append(dev))
    monkeypatch.setattr(book, "call", lambda *argv: calls.append(argv[-1]))
    monkeypatch.setattr(book, "become", lambda *argv: calls.append([str(a) for a in argv]))
    book.lab(*argv)
    copies = [] if "--edit" in argv else ["tools/copies.py"]
    assert calls == [True, *copies, [str(book.PYTHON), "-m", "jupyter", "lab", *opened.split()]]
    assert (BOOK.parent / "nbs/00_start.ipynb").is_file()
    config = os.environ["JUPYTER_CONFIG_PATH"].split(os.pathsep)
    assert config[-1] == "/mine" and len(config) == (1 if copies else 2)


def test_a_lossless_copy_beside_the_folder_is_restored_once(with_pip, tmp_path):
    beside = tmp_path / "shared/cifar10/restore.py"
    beside.parent.mkdir(parents=True)
    beside.write_text("import sys, pathlib\nout = pathlib.Path(sys.argv[1], "
                      "'cifar-10-batches-py')\nout.mkdir(parents=True, "
                      "exist_ok=True)\nprint('noise')\nfor name in ('test_batch', 'batches.meta'): "
                      "(out / name).open('a', encoding='utf-8').write('x')\n", encoding="utf-8")
    env = clean(PIP_NO_INDEX="1", CIFAR_NB_CACHE=str(tmp_path / "cache"))
    def lines(**more):
        return subprocess.run([sys.executable, "book.py", "run", "python", "-c", "print(1)"],
                              cwd=with_pip, env=env | more, capture_output=True,
                              encoding="utf-8").stdout.splitlines()
    assert "restoring" not in " ".join(lines())  # CIFAR_NB_DATA names other images
    del env["CIFAR_NB_DATA"]
    assert lines() == ["book: restoring CIFAR-10 from the lossless copy beside this folder",
                       "1"] and lines() == ["1"]
    assert (tmp_path / "cache/cifar-10-batches-py/test_batch").read_text(encoding="utf-8") == "x"


# ---- what is asked for wrongly, or only asked about

@pytest.mark.parametrize("argv", [
    ("--help",), *((c, h) for c in ("test", "lab", "run", "prepare") for h in ("-h", "--help"))])
def test_help_is_answered_before_any_set_up(place, argv):
    status, out, err = call(place, *argv)
    assert status == 0 and "python3 book.py prepare" in out and not err
    assert not (place / ".venv").exists()


@pytest.mark.parametrize("argv", [("--help",), ("quick", "-h"), ("--gpu", "--help")])
def test_what_train_takes_is_said_before_any_set_up(place, argv):
    "By the package as it lies there: that part of it needs nothing that is installed."
    shutil.copytree(BOOK.parent / "cifar_nb", place / "cifar_nb",
                    ignore=shutil.ignore_patterns("weights", "__pycache__"))
    code = (f"import sys; sys.argv = ['book.py', 'train', *{argv!r}]; import runpy; "
            "runpy.run_path('book.py', run_name='__main__')")
    status, out, err = call(place, code=code)
    assert status == 0 and "--holdout" in out and not err and not (place / ".venv").exists()


@pytest.mark.parametrize("argv", [("prepare", "all"), ("prepare", "--gpu", "all"),
                                  ("test", "--quik"), ("test", "--quick", "all")])
def test_a_word_that_is_not_known_is_one_sentence(place, argv):
    status, out, err = call(place, *argv)
    assert status == 1 and not out and err == (
        f"book: `{argv[0]}` does not know {argv[-1]!r}; `{load(place).TYPED} --help` says what it "
        "takes.\n") and not (place / ".venv").exists()


def test_the_words_that_are_known_are_passed_on(place, monkeypatch):
    book, calls = load(place), []
    monkeypatch.setattr(book, "set_up", lambda dev: None)
    monkeypatch.setattr(book, "become", lambda *argv: calls.append(argv[1:]))
    book.test(); book.test("--quick"); book.train("--epochs", "1"); book.train("mine.json")
    train = "-m", "cifar_nb", "train"
    assert calls == [("tools/checks.py",), ("tools/checks.py", "--quick"),
                     (*train, "quick", "--epochs", "1"), (*train, "mine.json")]


# ---- which PyTorch, and whether there is room for it

def test_the_readme_names_the_sizes(place):
    text = (BOOK.parent / "README.md").read_text(encoding="utf-8")
    assert all(f"{gb} GB" in text for gb in load(place).ON_DISK.values())


def test_the_readme_says_what_holds_on_other_systems():
    readme, contributing, script = [(BOOK.parent / name).read_text(encoding="utf-8")
                                    for name in ("README.md", "CONTRIBUTING.md", "book.py")]
    assert "`py book.py train`" in readme and "Macs with Intel processors" in readme
    assert all("On Windows write `py` for `python3`" in text for text in (contributing, script))
    assert "Once installed, it works without a network too" in readme


SETTINGS = "[DEFAULT]\nrequirements = torch>=2.4 torchvision>=0.19 numpy>=1.24\n"


@pytest.mark.parametrize("platform, driver, asked, build", [
    ("linux", False, False, "cpu"), ("linux", True, False, "gpu"), ("linux", False, True, "gpu"),
    ("darwin", False, False, ""), ("win32", True, True, "")])
def test_which_builds_are_taken(place, monkeypatch, tmp_path, platform, driver, asked, build):
    book = load(place)
    monkeypatch.setattr(book.sys, "platform", platform)
    monkeypatch.setattr(book.shutil, "which", lambda name: None)
    (tmp_path / "version").touch()
    monkeypatch.setattr(book, "DRIVERS", [str(tmp_path / ("version" if driver else "none"))])
    assert book.build_for(asked) == build


@pytest.mark.parametrize("system, machine, stops", [
    ("darwin", "x86_64", True), ("darwin", "arm64", False), ("linux", "x86_64", False)])
def test_a_mac_with_an_intel_processor_is_told_before_anything_is_made(
        place, monkeypatch, system, machine, stops):
    (place / "settings.ini").write_text(SETTINGS, encoding="utf-8")
    book = load(place)
    monkeypatch.setattr(book.sys, "platform", system)
    monkeypatch.setattr(book.platform, "machine", lambda: machine)
    def room(dev, build): sys.exit("the next step")
    monkeypatch.setattr(book, "make_sure_of_room", room)
    with pytest.raises(SystemExit) as stopped: book.install(False, None)
    assert ("Use Colab or Kaggle" in str(stopped.value)) == stops
    assert not (place / ".venv").exists()


def for_cpu(place, monkeypatch, reached, *answers):
    "What `install_for_cpu` gives, where pip answers `answers`, and the calls of pip."
    (place / "settings.ini").write_text(SETTINGS, encoding="utf-8")
    book, calls, answers = load(place), [], list(answers)
    def listen(lock, *argv):
        calls.append(argv)
        return answers.pop(0)
    monkeypatch.setattr(book, "listen", listen)
    monkeypatch.setattr(book, "reached", lambda url: reached)
    return book.install_for_cpu(None, ["pip", "install"]), calls


def test_the_builds_for_the_processor_come_from_their_own_index(place, monkeypatch):
    build, (call,) = for_cpu(place, monkeypatch, True, (0, ""))
    assert build == "cpu" and call == ("pip", "install", "--index-url",
                                       "https://download.pytorch.org/whl/cpu", "torch>=2.4",
                                       "torchvision>=0.19")


def test_where_that_index_cannot_be_reached_it_says_so(place, monkeypatch, capsys):
    assert for_cpu(place, monkeypatch, False) == ("", [])
    assert "cannot be reached" in capsys.readouterr().out
    build, calls = for_cpu(place, monkeypatch, True, (1, "No matching distribution found"))
    assert build == "" and len(calls) == 1 and "cannot be had" in capsys.readouterr().out


def test_a_full_disk_is_not_answered_by_the_larger_builds(place, monkeypatch):
    with pytest.raises(SystemExit, match="disk is full"):
        for_cpu(place, monkeypatch, True, (1, "[Errno 28] No space left on device"))


@posix
def test_an_index_that_is_not_there_is_noticed_soon(place):
    began = time.time()
    assert not load(place).reached("http://127.0.0.1:9/whl/cpu/")
    assert time.time() - began < 10


def with_free(book, monkeypatch, one_disk=True, **gb):
    """Let `gb` be free in the book's folder, in that for temporary files and at home, on one disk
    or on three."""
    places = {str(book.ROOT): "here", tempfile.gettempdir(): "temp"}
    def place(p): return places.get(str(p), "home")
    monkeypatch.setattr(book, "free_in", lambda p: gb.get(place(p), gb["here"]))
    monkeypatch.setattr(book, "same_disk", lambda a, b: one_disk or place(a) == place(b))
    for name in ("PIP_CACHE_DIR", "XDG_CACHE_HOME"): monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("free, room", [(1.8, False), (2.5, False), (2.6, True)])
def test_the_disk_is_looked_at_before_anything_is_made(place, monkeypatch, capsys, free, room):
    "1.7 GB stay, and half as much is downloaded meanwhile."
    (place / "settings.ini").write_text(SETTINGS, encoding="utf-8")
    book, made = load(place), []
    monkeypatch.setattr(book, "build_for", lambda asked: "cpu")
    monkeypatch.setattr(book.shutil, "disk_usage", lambda p: shutil._ntuple_diskusage(
        100, 90, int(free * 1e9)))
    monkeypatch.setattr(book, "same_disk", lambda a, b: True)
    def make(lock): made.append(1); sys.exit(3)
    monkeypatch.setattr(book, "make", make)
    with pytest.raises(SystemExit) as stopped: book.install(True, None)
    out = capsys.readouterr().out
    assert bool(made) == room and "1.7 GB of the disk" in out and "downloaded" not in out
    assert room or (f"{free} GB of the disk are free, and 2.5 GB are needed: 1.7 GB for .venv and "
                    "0.8 GB meanwhile for what pip downloads" in str(stopped.value)
                    and str(stopped.value).endswith("Then run the same command again."))


@pytest.mark.parametrize("one_disk, free, said", [
    (True, dict(here=5.7), "5.7 GB of the disk are free, and 8.7 GB are needed"),
    (True, dict(here=8.8), ["--no-cache-dir"]), (True, dict(here=11.9), []),
    (False, dict(here=5.5, temp=9, home=9), "5.6 GB are needed: 5.6 GB for .venv. Make room"),
    (False, dict(here=5.7, temp=3, home=9), f"downloads into {tempfile.gettempdir()}, where 3.0"),
    (False, dict(here=5.7, temp=3.2, home=3), ["--no-cache-dir"]),
    (False, dict(here=5.7, temp=3.2, home=3.2), [])])
def test_there_must_be_room_for_the_downloads_too(place, monkeypatch, capsys, one_disk, free, said):
    "5.6 GB stay; 3.1 GB are downloaded, and once more for pip's cache if there is room for it."
    (place / "settings.ini").write_text(SETTINGS, encoding="utf-8")
    book = load(place)
    with_free(book, monkeypatch, one_disk, **free)
    try: found = book.make_sure_of_room(False, "gpu")
    except SystemExit as e: found = str(e)
    assert said == found if isinstance(said, list) else said in found
    out = capsys.readouterr().out
    assert "5.6 GB of the disk, and 3.1 GB are downloaded" in out
    assert ("keeps no copies" in out) == (found == ["--no-cache-dir"])


def test_pip_is_told_to_keep_no_copies(with_pip, monkeypatch):
    (with_pip / "settings.ini").write_text(SETTINGS, encoding="utf-8")
    book, calls = load(with_pip), []
    monkeypatch.setattr(book, "build_for", lambda asked: "gpu")
    monkeypatch.setattr(book, "spoiled", lambda: "")
    monkeypatch.setattr(book, "listen", lambda lock, *argv: calls.append(argv) or (0, ""))
    with_free(book, monkeypatch, here=10)
    book.install(True, None)
    assert len(calls) == 1 and "--no-cache-dir" in calls[0]


def test_the_larger_builds_are_only_taken_where_there_is_room_for_them(with_pip, monkeypatch):
    "The index of the smaller ones gives none, and the disk has room for those alone."
    (with_pip / "settings.ini").write_text(SETTINGS, encoding="utf-8")
    book, calls = load(with_pip), []
    monkeypatch.setattr(book, "build_for", lambda asked: "cpu")
    monkeypatch.setattr(book, "reached", lambda url: False)
    monkeypatch.setattr(book, "listen", lambda lock, *argv: calls.append(argv) or (0, ""))
    with_free(book, monkeypatch, here=6.5)
    with pytest.raises(SystemExit, match="6.5 GB of the disk are free, and 9.6 GB are needed"):
        book.install(True, None)
    assert calls == []


def test_gpu_replaces_the_builds_for_the_processor_and_nothing_else_does(with_pip):
    book = load(with_pip)
    stamp = with_pip / ".venv/set-up-dev"
    for build, asked, ready in (("cpu", False, True), ("cpu", True, False), ("gpu", True, True),
                                ("gpu", False, True), ("", True, True)):
        stamp.write_text(f"{book.wanted()}\n{book.HERE}\n{build}\n", encoding="utf-8")
        book.GPU = asked
        assert book.ready(True) == ready and bool(book.spoiled()) == (not ready)


def test_of_what_pip_prints_only_what_tells_something_is_shown(place, capsys):
    book = load(place)
    for line in ("Collecting torch>=2.4", "  Downloading torch-2.14.1.whl.metadata (1 kB)",
                 "Requirement already satisfied: numpy in /x", "Progress 5 of 10", "",
                 "Downloading torch-2.14.1-cp311.whl (191.8 MB)", "ERROR: this went wrong",
                 "Installing collected packages: " + "a, " * 200, "[notice] a newer pip"):
        book.tell(line + "\n")
    out = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in out] == ["Downloading", "ERROR:", "Installing"]
    assert all(len(line) < 160 for line in out)
