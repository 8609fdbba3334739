"A dictionary that many processes write to loses nothing, whatever happened to its file before."
import json
import os
import signal
import subprocess
import sys
import time

import pytest

from cifar_nb.core import files
from cifar_nb.core.errors import InputError
from cifar_nb.exercises import memory
from cifar_nb.exercises.memory import change, recall

WRITE = """
import sys, time
from cifar_nb.exercises.memory import change
print('ready', flush=True); sys.stdin.readline()
for j in range(6): change(sys.argv[1], lambda d: d | {f'{sys.argv[2]}.{j}': 'solved'})
"""


@pytest.fixture
def file(tmp_path): return tmp_path / "deep" / "progress.json"


def add(name, value="solved"): return lambda d: d | {name: value}


def names(file): return {p.name for p in file.parent.iterdir()} - {f".{file.name}.lock"}


def test_eight_writers_at_once_lose_nothing(file):
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITE, str(file), str(i)], stdin=subprocess.PIPE,
                         stdout=subprocess.PIPE, encoding="utf-8") for i in range(8)]
    for w in writers: assert w.stdout.readline() == "ready\n"
    for w in writers: w.stdin.write("go\n"); w.stdin.flush()
    assert [w.wait(60) for w in writers] == [0] * 8
    assert (recall(file) == {f"{i}.{j}": "solved" for i in range(8) for j in range(6)}
            and names(file) == {"progress.json"})


def test_what_was_there_stays(file):
    change(file, add("b"))
    change(file, add("a", "wrong"))
    file.write_text(
        json.dumps(
            {"c": ["of", "another", "program"]} | json.loads(file.read_text(encoding="utf-8"))),
        encoding="utf-8")
    change(file, add("a"))
    assert json.loads(file.read_text(encoding="utf-8")) == {
        "a": "solved", "b": "solved", "c": ["of", "another", "program"]}


def test_nothing_is_written_if_nothing_changes(file):
    change(file, add("a"))
    before = file.stat().st_mtime_ns, file.stat().st_ino
    change(file, add("a"))
    assert (file.stat().st_mtime_ns, file.stat().st_ino) == before


@pytest.mark.parametrize("raw", ['{"a": "solved"}'.encode("utf-8-sig"), b'{"a":\r\n"solved"}\r\n'])
def test_what_windows_makes_of_a_file_is_read(file, raw):
    file.parent.mkdir()
    file.write_bytes(raw)
    assert recall(file) == {"a": "solved"}


DAMAGED = [b"", b"{", b"[1]", b"null", b"\xff\xfe{\0}\0", b"[" * 100_000, b'{"a":' * 100_000,
           b"\0" * 64]


@pytest.mark.parametrize("raw", DAMAGED, ids=range(len(DAMAGED)))
@pytest.mark.parametrize(
    "use", [recall, lambda file: change(file, add("a"))], ids=["read", "write"])
def test_what_is_no_dictionary_is_put_aside_and_nothing_aside_is_lost(file, raw, use):
    file.parent.mkdir()
    for n in (1, 2, 3):
        file.write_bytes(raw)
        use(file)
        aside = {p.name: p.read_bytes() for p in file.parent.glob("progress.json.damaged*")}
        assert aside == {"progress.json.damaged" + (f"-{i}" if i > 1 else ""): raw
                         for i in range(1, n + 1)}
    assert recall(file) == ({} if use is recall else {"a": "solved"})


def test_who_comes_second_does_not_put_aside_what_the_first_has_written(file, monkeypatch):
    """Two processes find the file damaged; the first has put it aside and written anew when the
    second gets the lock."""
    file.parent.mkdir()
    file.write_bytes(b"{")
    real, seen = memory._read, []
    def slow(path):
        if not seen:
            seen.append(1)
            change(path, add("a"))
            raise ValueError("damaged when I looked")
        return real(path)
    monkeypatch.setattr(memory, "_read", slow)
    assert (recall(file) == {"a": "solved"}
            and names(file) == {"progress.json", "progress.json.damaged"})


def test_what_killed_writers_left_is_removed_and_only_that(file):
    file.parent.mkdir()
    mine = {".progress.json.123", "progress.json.77"}
    others = {".other.json.123", "progress.json.txt", "progress.json.damaged", "xprogress.json.12"}
    for name in mine | others: (file.parent / name).touch()
    change(file, add("a"))
    assert names(file) == others | {"progress.json"}


@pytest.mark.skipif(os.name == "nt", reason="signals are those of POSIX")
def test_a_killed_writer_leaves_the_file_whole_and_the_lock_free(file):
    change(file, add("before"))
    code = WRITE.replace("range(6)", "range(10**6)")
    for _ in range(3):
        p = subprocess.Popen([sys.executable, "-c", code, str(file), "x"], stdin=subprocess.PIPE,
                             stdout=subprocess.PIPE, encoding="utf-8")
        p.stdout.readline()
        p.stdin.write("go\n")
        p.stdin.flush()
        time.sleep(.1)
        p.send_signal(signal.SIGKILL)
        p.communicate()
        change(file, add("after"))
        found = recall(file)
        assert found["before"] == found["after"] == "solved" and names(file) == {"progress.json"}
        change(file, lambda d: {"before": "solved"})


@pytest.mark.parametrize(
    "number, word", [(28, "No space left"), (5, "Input/output"), (30, "Read-only")])
def test_a_disk_that_does_not_take_it_is_one_sentence_and_changes_nothing(
    file, monkeypatch, number, word):
    change(file, add("a"))
    def fails(fd): raise OSError(number, os.strerror(number))
    monkeypatch.setattr(files.os, "fsync", fails)
    with pytest.raises(InputError, match=f"progress.json cannot be written .{word}"):
        change(file, add("b"))
    assert recall(file) == {"a": "solved"} and names(file) == {"progress.json"}


def test_a_place_that_cannot_be_is_one_sentence(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "folder.json").mkdir()
    for place in (tmp_path / "file" / "x.json", tmp_path / "file" / "deep" / "x.json",
                  tmp_path / "folder.json"):
        with pytest.raises(InputError, match=place.name) as e: change(place, add("a"))
        assert "\n" not in str(e.value)
    assert recall(tmp_path / "file" / "x.json") == {}


def test_windows_is_asked_again_while_a_reader_has_the_file_open(file, monkeypatch):
    change(file, add("a"))
    real, calls = os.replace, []
    def busy(a, b):
        calls.append(1)
        if len(calls) < 4: raise PermissionError(13, "Access is denied")
        real(a, b)
    monkeypatch.setattr(files.os, "replace", busy)
    monkeypatch.setattr(files, "WINDOWS", False)
    with pytest.raises(InputError): change(file, add("b"))
    monkeypatch.setattr(files, "WINDOWS", True)
    files.write_atomic(str(file), "{}")
    assert len(calls) == 4 and file.read_bytes() == b"{}"
