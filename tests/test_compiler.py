"""A compiled library is loaded only if it is whole and nobody else can have written it; the
compiler is what $CXX says."""
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from cifar_nb.core.errors import InputError
from cifar_nb.kernels import compiler as C

pytestmark = pytest.mark.skipif(
    platform.system() != "Linux", reason="kernels are compiled on Linux only")
root = pytest.mark.skipif(
    not hasattr(os, "getuid") or os.getuid() != 0, reason="only root can make files of others")
FAKE = """#!/bin/sh
echo "$@" >> {log}
{then}
while [ "$1" != -o ]; do shift; done
printf 'a library of %s' $$ > "$2"
"""


@pytest.fixture
def cxx(tmp_path, monkeypatch):
    """A compiler that notes its calls: `cxx(then)` puts a line of shell before it writes;
    `cxx.calls()` says how many there were."""
    log, program = tmp_path / "calls", tmp_path / "c++"
    def make(then=""):
        program.write_text(FAKE.format(log=log, then=then), encoding="utf-8")
        program.chmod(0o755)
    make()
    make.calls = lambda: len(log.read_text(encoding="utf-8").splitlines()) if log.exists() else 0
    monkeypatch.setenv("CXX", str(program))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "own"))
    return make


@pytest.fixture
def folder(tmp_path): return tmp_path / "cache" / "kernels"


@pytest.fixture
def open_folder():
    "Like `folder`, in a place that others can enter, as a shared cache is."
    top = Path(tempfile.mkdtemp()).resolve()
    top.chmod(0o755)
    yield top / "cache" / "kernels"
    shutil.rmtree(top)


def library(folder, name="nothing", source="int zero() { return 0; }"):
    return C.compiled_library(name, source, ["-O3"], ["-lm"], folder)


def test_it_is_compiled_once_and_kept(folder, cxx):
    path = library(folder)
    assert (path.parent == folder and path.read_bytes().startswith(b"a library")
            and library(folder) == path and cxx.calls() == 1)
    assert library(folder, source="int one() { return 1; }") != path and cxx.calls() == 2
    assert sorted(p.suffix for p in folder.glob("[!.]*")) == [".sha256", ".sha256", ".so", ".so"]


@pytest.mark.parametrize(
    "damage",
    [lambda data: b"", lambda data: data[:-1], lambda data: data + b"\0",
     lambda data: data[:9] + bytes(len(data) - 9), None])
def test_what_is_not_whole_is_compiled_anew(folder, cxx, damage):
    path = library(folder)
    good = path.read_bytes()
    if damage: path.write_bytes(damage(good))
    else: path.unlink()
    assert (library(folder) == path and path.read_bytes().startswith(b"a library")
            and path.read_bytes() != good and cxx.calls() == 2)


@pytest.mark.parametrize("digest", [b"", b"\xff\xfe", b"0" * 64, None])
def test_a_library_without_its_sum_is_compiled_anew(folder, cxx, digest):
    beside = library(folder).with_suffix(".so.sha256")
    if digest is None: beside.unlink()
    else: beside.write_bytes(digest)
    library(folder)
    assert cxx.calls() == 2
    library(folder)
    assert cxx.calls() == 2


def planted(path, mode=0o755):
    "Another library with the right sum beside it."
    beside = path.with_suffix(".so.sha256")
    path.write_bytes(b"evil")
    beside.write_text(C._digest(path), encoding="ascii")
    for p in (path, beside): p.chmod(mode)
    return path, beside


def test_what_others_may_write_to_is_not_loaded(folder, cxx):
    for mode in (0o777, 0o757, 0o646):
        path, _ = planted(library(folder), mode)
        assert library(folder).read_bytes() != b"evil"
    assert cxx.calls() == 4


@root
def test_what_belongs_to_others_is_not_loaded(folder, cxx):
    for which in ([0], [1], [0, 1]):
        both = planted(library(folder))
        for i in which: os.chown(both[i], 65534, 65534)
        assert library(folder).read_bytes() != b"evil"
    assert cxx.calls() == 4


@pytest.mark.parametrize("where", [0, 1, 2])
def test_a_folder_that_others_may_write_to_is_not_used(open_folder, cxx, tmp_path, where):
    planted(library(open_folder))
    [open_folder, *open_folder.parents][where].chmod(0o777)  # kernels, cache, or the folder above
    safe = library(open_folder)
    assert safe.is_relative_to(tmp_path / "own") and safe.read_bytes() != b"evil"


@root
@pytest.mark.parametrize("where", [0, 1])
def test_a_folder_of_others_is_not_used(folder, cxx, tmp_path, where):
    planted(library(folder))
    os.chown([folder, folder.parent][where], 65534, 65534)
    assert library(folder).is_relative_to(tmp_path / "own")


def test_without_a_safe_place_there_is_a_reason(open_folder, cxx, monkeypatch):
    open_folder.mkdir(parents=True)
    open_folder.chmod(0o777)
    monkeypatch.setenv("XDG_CACHE_HOME", str(open_folder))
    says = (f"no kernel can be kept in {open_folder} .others may write to {open_folder}; chmod "
            "go-w ends that.; CIFAR_NB_CACHE")
    with pytest.raises(RuntimeError, match=says): library(open_folder)
    assert cxx.calls() == 0


def test_who_cannot_get_in_cannot_write(open_folder):
    """A private folder makes safe what is below it; a sticky one, like /tmp, lets nobody move what
    is another's."""
    open_folder.mkdir(parents=True)
    cache, top = open_folder.parents[:2]
    cache.chmod(0o777)
    assert "others may write" in C.distrust(open_folder)
    cache.chmod(0o1777)
    assert C.distrust(open_folder) == ""
    cache.chmod(0o777)
    top.chmod(0o700)
    assert C.distrust(open_folder) == ""


def test_a_group_counts_as_others_unless_it_is_the_users_own(open_folder, monkeypatch):
    open_folder.mkdir(parents=True)
    open_folder.parent.chmod(0o775)
    open_folder.chmod(0o755)
    monkeypatch.setattr(C, "_own_group", lambda gid: False)
    assert "others may write" in C.distrust(open_folder)
    monkeypatch.setattr(C, "_own_group", lambda gid: True)
    assert C.distrust(open_folder) == ""


@pytest.mark.parametrize(
    "name, members, own",
    [("me", [], True), ("me", ["me"], True), ("me", ["you"], False), ("users", [], False)])
def test_which_group_is_the_users_own(monkeypatch, name, members, own):
    import grp
    import pwd
    monkeypatch.setattr(pwd, "getpwuid",
                        lambda uid: pwd.struct_passwd(("me", "x", 5, 5, "", "/", "/")))
    monkeypatch.setattr(grp, "getgrgid", lambda gid: grp.struct_group((name, "x", 5, members)))
    assert C._own_group(5) == own


def test_whatever_the_umask_others_cannot_write(folder, cxx):
    old = os.umask(0)
    try: library(folder)
    finally: os.umask(old)
    assert [p.name for p in [folder, *folder.glob("[!.]*")] if p.stat().st_mode & 0o022] == []
    library(folder)
    assert cxx.calls() == 1


def test_a_place_that_cannot_be_written_gives_way_to_the_users_own(folder, cxx, tmp_path):
    (tmp_path / "file").touch()
    assert library(tmp_path / "file" / "kernels").is_relative_to(tmp_path / "own")


def test_a_full_disk_is_a_reason(folder, cxx, monkeypatch):
    def full(*args, **kwargs): raise OSError(28, "No space left on device")
    monkeypatch.setattr(C.os, "fsync", full)
    with pytest.raises(RuntimeError, match="No space left"): library(folder)
    assert not [*folder.glob("*build*")]


@pytest.mark.parametrize("words, want", [
    ("ccache g++", ["ccache", "g++"]), ("g++ -std=gnu++17", ["g++", "-std=gnu++17"]), ("", ["g++"]),
    ("  ", ["g++"]), ("''", ["g++"]),
    ("'/a b/g++' -x", ["/a b/g++", "-x"]), ('"g++"', ["g++"]), ("g++-13", ["g++-13"])])
def test_cxx_is_read_as_a_shell_reads_it(monkeypatch, words, want):
    monkeypatch.setenv("CXX", words)
    assert C.compiler() == want


def test_a_path_with_a_space_needs_no_quotes(monkeypatch, tmp_path, folder, cxx):
    (tmp_path / "my tools").mkdir()
    name = shutil.move(tmp_path / "c++", tmp_path / "my tools" / "c++")
    monkeypatch.setenv("CXX", str(name))
    assert C.compiler() == [str(name)] and library(folder)


@pytest.mark.parametrize(
    "words, says",
    [("'g++", "CXX='g\\+\\+ has a quotation mark too few"),
     ("no-such-compiler -x", "there is no compiler called no-such-compiler$"),
     ("true", "the compiler says: nothing"), ("false", "the compiler says: nothing"),
     ("/", "compiler / cannot be run")])
def test_a_compiler_that_does_not_compile_is_a_reason(monkeypatch, folder, words, says):
    monkeypatch.setenv("CXX", words)
    with pytest.raises(RuntimeError, match=says): library(folder)
    assert not [*folder.glob("[!.]*")]


@pytest.mark.skipif(not shutil.which("g++"), reason="no g++ here")
def test_a_real_compiler_with_words(monkeypatch, folder):
    import ctypes
    monkeypatch.setenv("CXX", "env g++ -std=gnu++17")
    path = C.compiled_library(
        "answer", 'extern "C" int answer() { return 42; }', ["-shared", "-fPIC"], [], folder)
    assert ctypes.CDLL(str(path)).answer() == 42
    with pytest.raises(RuntimeError, match="the compiler says: .*error"):
        C.compiled_library("bad", "this is not C++", [], [], folder)


CALL = ("import sys; from cifar_nb.kernels.compiler import compiled_library as c; from pathlib "
        "import Path; print(c('x', 'source', [], [], Path(sys.argv[1])).read_bytes().decode())")


def process(folder):
    return subprocess.Popen([sys.executable, "-c", CALL, str(folder)], stdout=subprocess.PIPE,
                            encoding="utf-8")


def test_of_two_at_once_one_takes_what_the_other_compiled(folder, cxx):
    cxx("sleep 1")
    both = [process(folder) for _ in range(3)]
    said = {p.communicate(timeout=60)[0] for p in both}
    assert len(said) == 1 and "a library" in said.pop() and cxx.calls() == 1


def test_what_a_killed_compilation_left_is_cleared_away(folder, cxx):
    cxx("sleep 5")
    p = process(folder)
    end = time.time() + 30
    while not cxx.calls() and time.time() < end: time.sleep(.05)
    p.send_signal(signal.SIGKILL)
    p.communicate()
    assert [*folder.glob(".build-*")] and not [*folder.glob("*.so")]
    (folder / "tmpabcdefgh").mkdir()  # as earlier versions called theirs
    cxx()
    path = library(folder, "x", "source")
    assert path.exists() and {p.name for p in folder.iterdir()} == {
        ".lock", path.name, path.name + ".sha256"}


def test_the_kernels_of_the_book_are_kept_like_this(monkeypatch, tmp_path, cxx):
    import torch

    from cifar_nb.kernels import compiler
    monkeypatch.setenv("CIFAR_NB_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("CIFAR_NB_KERNEL", raising=False)
    if not (Path(torch.__file__).parent / "lib/libgomp.so.1").exists():
        pytest.skip("no OpenMP of GCC")
    path = compiler.kernel_library("winograd")
    assert path.parent == tmp_path / "cache/kernels" and cxx.calls() == 1
    path.write_bytes(b"")
    assert "file too short" not in compiler.load_kernel("winograd") and cxx.calls() == 2
    assert path.read_bytes()


def test_the_source_is_one_text(monkeypatch):
    from cifar_nb.kernels.compiler import excerpt, source
    for name in ("winograd", "fused_norm"):
        text = source(name)
        assert ("vectors.h" not in text and text.count("struct Vec;") == 1
                and "TORCH_LIBRARY" in text)
    assert (excerpt("fused_norm.cpp", "bends").startswith("// 1/2 + z times")
            and "[forwards]" not in excerpt("fused_norm.cpp", "bends"))
    with pytest.raises(InputError, match="no section"): excerpt("winograd.cpp", "nothing")


@pytest.mark.parametrize("name", ["winograd", "fused_norm"])
def test_the_compiler_has_no_complaints(name, tmp_path):
    "About our lines; what PyTorch's headers do is theirs."
    from cifar_nb.kernels.compiler import _command, source
    if not shutil.which("g++"): pytest.skip("no g++")
    (tmp_path / "k.cpp").write_text(source(name), encoding="utf-8")
    flags = [f.replace("-I", "-isystem", 1) if f.startswith("-I") else f for f in _command()[0]
             if not f.startswith(("-L", "-shared", "-O3"))]
    done = subprocess.run(
        ["g++", "-Wall", "-Wextra", "-fsyntax-only", *flags, str(tmp_path / "k.cpp")],
        capture_output=True, encoding="utf-8")
    if "ATen.h: No such file" in done.stderr: pytest.skip("PyTorch came without its headers")
    assert (done.returncode, done.stderr) == (0, "")


def test_the_files_are_formatted():
    "As .clang-format beside them says; where the tool is there."
    if not (tool := shutil.which("clang-format")
            or shutil.which("clang-format", path=str(Path(sys.executable).parent))):
        pytest.skip("no clang-format")
    folder = Path(__file__).parent.parent / "cifar_nb/kernels/csrc"
    for f in (f for f in folder.iterdir() if f.suffix in (".h", ".cpp")):
        assert subprocess.run([tool, str(f)], capture_output=True).stdout == f.read_bytes(), f
