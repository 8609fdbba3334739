"""What the cells of 01_data cannot show: hostile pickles of many kinds, broken files, an
interrupted download.

Nothing here needs CIFAR-10 or the internet: the batches are tiny, the md5 table knows them, the
server is our own.
"""
import copyreg
import errno
import gzip
import hashlib
import io
import os
import pickle
import struct
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cifar_nb.core.errors import InputError
from cifar_nb.data import cifar as data
from cifar_nb.data import download
from cifar_nb.data.competition import load_competition


def md5(raw): return hashlib.md5(raw).hexdigest()


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    "A machine without data: every place that `find` looks at is below `tmp_path`."
    monkeypatch.delenv("CIFAR_NB_DATA", raising=False)
    monkeypatch.setenv("KAGGLE_INPUT", str(tmp_path / "kaggle"))
    monkeypatch.setenv("CIFAR_NB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.fixture
def batches(monkeypatch):
    """Six batch files of three images, as bytes, in the manner of Python 2; the md5 table knows
    them."""
    files = {}
    for k, name in enumerate(data.MD5):
        images = np.random.default_rng(k).integers(0, 256, (3, 3072), np.uint8)
        files[name] = python2(
            {b"data": images, b"labels": [k, 9, 0], b"filenames": [b"a.png", b"b.png", b"c.png"]})
    monkeypatch.setattr(data, "MD5", {name: md5(raw) for name, raw in files.items()})
    return files


def put(files, folder):
    folder.mkdir(parents=True)
    for name, raw in files.items(): (folder / name).write_bytes(raw)
    return folder


def one_sentence(error):
    """The message of an InputError is one line, and says what to do after the last colon or
    semicolon."""
    text = str(error.value)
    assert "\n" not in text and len(text) < 700
    return text


# -- pickles
# --------------------------------------------------------------------------------------------------

def python2(d):
    """`d` as Python 2 wrote it at protocol 2: strings are SHORT_BINSTRING and BINSTRING, NumPy is
    numpy.core."""
    def s(b):
        return b"U" + bytes([len(b)]) + b if len(b) < 256 else b"T" + struct.pack("<i", len(b)) + b
    def value(v):
        if isinstance(v, bytes): return s(v)
        if isinstance(v, int): return b"K" + bytes([v])
        if isinstance(v, list): return b"](" + b"".join(map(value, v)) + b"e"
        shape = b"".join(b"J" + struct.pack("<i", n) for n in v.shape)
        return (
            b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01("
            + shape
            + b"tcnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNN"
            + b"J\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89"
            + s(v.tobytes()) + b"tb")
    return b"\x80\x02}(" + b"".join(value(x) for kv in d.items() for x in kv) + b"u."


def test_python2_oracle():
    "The made-up Python 2 pickle is one that the standard reader understands too."
    a = np.arange(600, dtype=np.uint8).reshape(2, 300)
    raw = python2({b"data": a, b"labels": [3, 4]})
    theirs, ours = pickle.loads(raw, encoding="bytes"), data.unpickle(raw)
    assert theirs.keys() == ours.keys() and theirs[b"labels"] == ours[b"labels"]
    np.testing.assert_array_equal(theirs[b"data"], a)
    np.testing.assert_array_equal(ours[b"data"], a)


class Call:
    def __init__(self, f, *args): self.f, self.args = f, args
    def __reduce__(self): return self.f, self.args


def glob(module, name): return f"c{module}\n{name}\n".encode()
def text(s): return b"X" + struct.pack("<I", len(s.encode())) + s.encode()
DTYPE, RECONSTRUCT = glob("numpy", "dtype"), glob("numpy.core.multiarray", "_reconstruct")


def array(dtype=b"U\x02u1", order=b"U\x01|", shape=b"K\x04\x85", raw=b"C\x04abcd",
          tail=b"NNNK\x01K\x01K\x00"):
    "An array put together by hand, so that each part can lie."
    return (b"\x80\x04" + RECONSTRUCT + glob("numpy", "ndarray") + b"K\x00\x85C\x01b\x87R(K\x01"
            + shape
            + DTYPE + dtype + b"\x89\x88\x87R(K\x03" + order + tail + b"tb\x89" + raw + b"tb.")


def test_handmade_array():
    np.testing.assert_array_equal(
        pickle.loads(array(), encoding="bytes"), np.frombuffer(b"abcd", np.uint8))
    np.testing.assert_array_equal(data.unpickle(array()), np.frombuffer(b"abcd", np.uint8))


FORBIDDEN = [line.split() for line in """\
    builtins eval,  builtins getattr,  __builtin__ eval,  builtins open,  subprocess Popen
    functools partial,  operator attrgetter,  copyreg _reconstructor,  copyreg add_extension
    types FunctionType,  _codecs decode,  codecs open,  io FileIO,  numpy load,  numpy memmap
    numpy fromfile,  numpy matrix,  numpy dtype.__reduce__,  numpy.core.records recarray
    numpy.core.multiarray fromfile,  numpy.core.multiarray _reconstruct.__globals__,  torch load
    numpy.testing._private.utils runstring,  torch._utils _rebuild_tensor_v2
    cifar_nb.data.cifar fetch,  cifar_nb.data.cifar _Stand"""
             .replace("\n", ",").split(",")]


def hostile(trap):
    "Pickles that call something; the first ones would make the folder `trap`."
    mkdir, line, system = (glob("os", "mkdir"), f"__import__('os').mkdir({trap!r})",
                           glob("os", "system"))
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        yield f"reduce, protocol {protocol}", pickle.dumps({"data": Call(os.mkdir, trap)}, protocol)
        yield f"eval, protocol {protocol}", pickle.dumps([Call(eval, line)], protocol)
        yield (f"exec in a key, protocol {protocol}",
               pickle.dumps({(Call(exec, line), 1): 0}, protocol))
    yield "INST", b"(" + text(trap) + b"ios\nmkdir\n."
    yield "OBJ", b"(" + mkdir + text(trap) + b"o."
    yield ("STACK_GLOBAL", b"\x80\x04" + text("os") + text("mkdir") + b"\x93"
           + text(trap) + b"\x85R.")
    yield ("a dotted name", b"\x80\x04" + text("numpy") + text("ctypeslib.os.mkdir") + b"\x93"
           + text(trap) + b"\x85R.")
    yield "after an honest array", array()[:-1] + b"0" + mkdir + text(trap) + b"\x85R."
    yield "as the state of an array", array()[:-1] + mkdir + text(trap) + b"\x85Rb."
    yield "in the shape", array(shape=mkdir + text(trap) + b"\x85R\x85")
    yield "in the type", array(dtype=mkdir + text(trap) + b"\x85R")
    for name in ("system", "popen", "execv"):
        yield f"os.{name}", glob("os", name) + text("true") + b"\x85R."
    for module, name in FORBIDDEN:
        yield f"{module}.{name}", b"\x80\x04" + text(module) + text(name) + b"\x93."
        yield f"{module}.{name}, called", b"\x80\x04" + text(module) + text(name) + b"\x93)R."
    yield "NEWOBJ", system + text("true") + b"\x85\x81."
    yield "NEWOBJ of a stand-in", b"\x80\x04" + DTYPE + text("u1") + b"\x85\x81."
    yield "NEWOBJ_EX of a stand-in", b"\x80\x04" + DTYPE + text("u1") + b"\x85}\x92."
    yield "BUILD on a stand-in", b"\x80\x04" + DTYPE + b"}" + text("call") + system + b"sb."
    yield ("BUILD with slots on a stand-in",
           b"\x80\x04" + DTYPE + b"N}" + text("call") + text("x") + b"s\x86b.")
    yield "PERSID", b"Pos.system\n."
    yield "BINPERSID", text("os.system") + b"Q."
    yield "EXT1", b"\x82\xf0."
    yield ("a codec that runs",
           b"\x80\x04" + glob("_codecs", "encode") + text("x") + text("rot13") + b"\x86R.")
    yield "encode without a codec", b"\x80\x04" + glob("_codecs", "encode") + text("x") + b"\x85R."
    yield ("encode of an array",
           array()[:-1] + glob("_codecs", "encode") + RECONSTRUCT + text("latin1") + b"\x86R.")
    yield "objects", pickle.dumps(np.array([None, {}]))
    yield "objects as bytes", array(dtype=b"U\x01O", shape=b"K\x01\x85", raw=b"C\x08" + b"A" * 8)
    yield ("objects under another name",
           array(dtype=b"U\x02O8", shape=b"K\x01\x85", raw=b"C\x08" + b"A" * 8))
    yield ("objects in the byte order",
           array(order=b"U\x02O,", shape=b"K\x01\x85", raw=b"C\x09" + b"A" * 9))
    yield "a record", pickle.dumps(np.zeros(2, [("a", "u1"), ("b", "O")]))
    yield "dates", pickle.dumps(np.zeros(2, "M8[s]"))
    yield "strings", pickle.dumps(np.array(["a", "b"]))
    yield "too few bytes", array(shape=b"K\x09\x85")
    yield "too many bytes", array(shape=b"K\x03\x85")
    yield "a negative shape", array(shape=b"J\xfc\xff\xff\xff\x85")
    yield "two negative shapes", array(shape=b"J\xfe\xff\xff\xffJ\xfe\xff\xff\xff\x86")
    yield ("a shape that overflows",
           array(shape=b"\x8a\x09" + b"\x00" * 8 + b"\x01K\x04\x86", raw=b"C\x00"))
    yield "text for bytes", array(raw=text("abcd"))
    yield "a list for bytes", array(raw=b"]")
    yield "no state", RECONSTRUCT + b")Rb."
    yield "a gigantic bytearray", b"\x80\x05\x96" + struct.pack("<Q", 1 << 40) + b"."
    yield "gigantic bytes", b"\x80\x04\x8e" + struct.pack("<Q", 1 << 62) + b"."
    yield "a number of many digits", b"I" + b"9" * 100_000 + b"\n."


@pytest.fixture
def trap(tmp_path): return tmp_path / "trap"


def test_hostile_pickles_do_something_elsewhere(trap):
    "The trap is a real one: the standard reader falls into it."
    for kind in ("reduce, protocol 2", "eval, protocol 4", "INST", "OBJ", "STACK_GLOBAL",
                 "after an honest array"):
        pickle.loads(dict(hostile(str(trap)))[kind])
        trap.rmdir()


KINDS = list(dict(hostile("")))


@pytest.mark.parametrize("kind", KINDS)
def test_hostile_pickle(kind, trap, tmp_path, capfd):
    raw = dict(hostile(str(trap)))[kind]
    with pytest.raises(InputError) as e: data.unpickle(raw, "FILE")
    assert "FILE" in one_sentence(e) and not trap.exists()
    path = tmp_path / "cifar_test_nolabel.pkl"
    path.write_bytes(raw)
    with pytest.raises(InputError) as e: load_competition(path)
    assert str(path) in one_sentence(e) and not trap.exists()
    assert capfd.readouterr().out == ""


def test_extension_registry_in_use():
    "A name that the process itself has registered and cached is not given out either."
    copyreg.add_extension("posixpath", "join", 0xF0)
    try:
        assert pickle.loads(b"\x80\x02\x82\xf0.") is os.path.join or os.name == "nt"
        with pytest.raises(InputError, match="extension 240"): data.unpickle(b"\x80\x02\x82\xf0.")
    finally: copyreg.remove_extension("posixpath", "join", 0xF0)


def test_large_numbers_cost_nothing():
    assert data.unpickle(b"\x80\x02]r\xff\xff\xff\x7f.") == []  # a memo number
    assert data.unpickle(b"\x80\x04\x95" + struct.pack("<Q", 1 << 50) + b"K\x01.") == 1  # a frame


def test_stand_ins_survive():
    "Whatever the files above tried, the table still gives what it gave."
    for _, raw in hostile("/nonexistent/trap"):
        with pytest.raises(InputError): data.unpickle(raw)
    test_handmade_array()


@pytest.mark.parametrize("core", ["numpy.core", "numpy._core"])
def test_both_names_of_numpy(core):
    for a in (np.arange(3000, dtype="u1").reshape(2, 1500), np.int64(7), np.float32(.5)):
        raw = pickle.dumps(a, 2).replace(b"numpy._core", core.encode()).replace(
            b"numpy.core", core.encode())
        np.testing.assert_array_equal(data.unpickle(raw), a)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_altered_pickles_raise_or_read(choice):
    """Any bytes whatever, and an honest file with some bytes changed: data, or an InputError, and
    no third thing."""
    mixed = {"a": np.arange(9), "b": [1, 2.5, "x", None, {3}]}
    honest = choice.draw(
        st.sampled_from([array(), pickle.dumps(mixed, 5), pickle.dumps(np.arange(9), 0)]))
    raw = bytearray(choice.draw(st.one_of(st.binary(max_size=60), st.just(honest))))
    for at, byte in choice.draw(
        st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=4)):
        if at < len(raw): raw[at] = byte
    try: data.unpickle(bytes(raw))
    except InputError: pass


# -- files and folders
# -----------------------------------------------------------------------------------------------

def test_load_reads_what_was_written(batches, tmp_path):
    folder = put(batches, tmp_path / "d" / "cifar-10-batches-py")
    x, y = data.load("train", tmp_path / "d", say=str)
    want = [pickle.loads(batches[f"data_batch_{i}"], encoding="bytes") for i in range(1, 6)]
    assert x.dtype == torch.uint8 and y.dtype == torch.int64 and x.shape == (15, 3, 32, 32)
    np.testing.assert_array_equal(x.flatten(1), np.concatenate([w[b"data"] for w in want]))
    assert y.tolist() == sum((w[b"labels"] for w in want), [])
    x, y = data.load("test", str(folder), say=str)
    assert x.shape == (3, 3, 32, 32) and y.tolist() == [5, 9, 0]
    x[0], y[0] = 1, 1  # the tensors own their memory


@pytest.mark.parametrize(
    "harm", ["truncated", "empty", "altered", "hostile", "missing", "a folder"])
def test_broken_batch(harm, batches, tmp_path, trap):
    folder = put(batches, tmp_path / "d")
    bad, raw = folder / "data_batch_3", batches["data_batch_3"]
    if harm in ("missing", "a folder"): bad.unlink()
    if harm == "a folder": bad.mkdir()
    if harm == "truncated": bad.write_bytes(raw[:-100])
    if harm == "empty": bad.write_bytes(b"")
    if harm == "altered": bad.write_bytes(raw[:500] + bytes([raw[500] ^ 1]) + raw[501:])
    if harm == "hostile": bad.write_bytes(pickle.dumps(Call(os.mkdir, str(trap))))
    with pytest.raises(InputError) as e: data.load("train", folder, say=str)
    message = one_sentence(e)
    assert str(bad) in message and not trap.exists()
    assert ("copy this one" if harm in ("missing", "a folder")
            else data.MD5["data_batch_3"]) in message
    data.load("test", folder, say=str)  # the others are none the worse


def test_a_wrong_root_is_never_replaced(batches, tmp_path, monkeypatch):
    put(batches, tmp_path / "cache" / "cifar-10-batches-py")
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    for wrong, why in (("empty", "holds no data_batch_1"), ("file", "is not a folder"),
                       ("nowhere", "is not a folder")):
        with pytest.raises(InputError, match=why) as e: data.find(tmp_path / wrong, say=str)
        assert str(tmp_path / wrong) in one_sentence(e)
        with pytest.raises(InputError, match=why): data.load_or_toy("train", tmp_path / wrong)
        monkeypatch.setenv("CIFAR_NB_DATA", str(tmp_path / wrong))
        with pytest.raises(InputError, match=r"\$CIFAR_NB_DATA"): data.find(say=str)
        monkeypatch.delenv("CIFAR_NB_DATA")


def test_order_of_places(batches, tmp_path, monkeypatch):
    "Each place wins over the ones after it, and the line that is said names it."
    said = []
    def taken(*root): said.clear(); return data.find(*root, say=said.append).parent.name
    put(batches, tmp_path / "cache" / "py")
    assert taken() == "cache" and said[0].endswith("the cache")
    put(batches, tmp_path / "kaggle" / "course" / "py")
    assert taken() == "course" and said[0].endswith("Kaggle")
    put(batches, tmp_path / "mine" / "py")
    monkeypatch.setenv("CIFAR_NB_DATA", str(tmp_path / "mine"))
    assert taken() == "mine" and said[0].endswith("$CIFAR_NB_DATA")
    put(batches, tmp_path / "given" / "py")
    assert taken(tmp_path / "given") == "given" and said[0].endswith("root given")
    assert len(said) == 1


def test_nothing_anywhere(tmp_path):
    with pytest.raises(InputError, match="no CIFAR-10 on this machine") as e:
        data.find(download=False)
    assert str(tmp_path / "cache") in one_sentence(e) and "toy" in str(e.value)
    said = []
    x, y = data.load_or_toy("test", say=said.append)
    assert len(said) == 1 and "toy" in said[0] and len(x) == 1000


def test_toy_by_name(monkeypatch):
    said = []
    assert str(data.find("toy", say=said.append)) == "toy" and "toy" in said[0]
    monkeypatch.setenv("CIFAR_NB_DATA", "toy")
    x, _ = data.load("train", say=said.append)
    assert len(x) == 5000 and torch.equal(x[:500], data.toy(500, seed=0)[0])
    assert torch.equal(data.load_or_toy("test", say=said.append)[1], data.toy(1000, seed=1)[1])
    assert len(said) == 3 and "$CIFAR_NB_DATA" in said[2]


def test_home_and_xdg(tmp_path, monkeypatch):
    monkeypatch.delenv("CIFAR_NB_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert data.cache_folder() == tmp_path / "xdg" / "cifar_nb"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert os.name == "nt" or data.cache_folder() == tmp_path / ".cache" / "cifar_nb"
    assert os.name == "nt" or data.tilde(data.cache_folder()) == os.path.join(
        "~", ".cache", "cifar_nb")


@pytest.mark.parametrize(
    "path", ["py", "competitions/course/cifar-10-python/cifar-10-batches-py", "a/b/c/d/e/f"])
def test_kaggle_mounts(path, batches, tmp_path):
    put(batches, tmp_path / "kaggle" / path)
    # half a copy beside it is passed over
    put(dict(list(batches.items())[:3]), tmp_path / "kaggle" / "a-half")
    assert data.find(download=False, say=str) == tmp_path / "kaggle" / path
    assert len(data.load("train", download=False, say=str)[0]) == 15


def test_nearest_copy_wins_and_circles_end(batches, tmp_path):
    deep = put(batches, tmp_path / "d" / "a" / "a" / "py")
    near = put(batches, tmp_path / "d" / "z")
    for name in ("a", "b", "c"): os.symlink(tmp_path / "d", tmp_path / "d" / "a" / f"circle-{name}")
    assert data.find(tmp_path / "d", say=str) == near
    assert data.find(tmp_path / "d" / "a", say=str) in (deep, tmp_path / "d/a/circle-a/z")
    os.symlink(near, tmp_path / "link")
    assert data.find(tmp_path / "link", say=str) == tmp_path / "link"


HARMS = ["truncated", "empty", "altered", "a page", "missing", "a folder"]


def harm(path, how):
    "Spoil the batch file `path`."
    raw = path.read_bytes()
    path.unlink()
    if how == "a folder": path.mkdir()
    elif how != "missing":
        path.write_bytes(
            {"truncated": raw[:-9], "empty": b"",
             "altered": raw[:500] + bytes([raw[500] ^ 1]) + raw[501:], "a page": b"<html>"}[how])


@pytest.mark.parametrize("how", HARMS)
@pytest.mark.parametrize("sizes", ["as published", "others"])
def test_a_damaged_copy_does_not_hide_a_whole_one(how, sizes, batches, tmp_path, monkeypatch):
    """Further down, and in another place; also where the size of a file tells nothing, for it is
    right."""
    if sizes == "as published":
        monkeypatch.setattr(data, "SIZES", {name: len(raw) for name, raw in batches.items()})
    near, far = put(batches, tmp_path / "d" / "a"), put(batches, tmp_path / "d" / "b" / "c")
    harm(near / "data_batch_4", how)
    said = []
    x, y = data.load("train", tmp_path / "d", say=said.append)
    assert len(x) == 15 and str(far) in said[-1]
    assert data.load_set("test", tmp_path / "d", say=str).name == "cifar10"
    mounted, cached = (put(batches, tmp_path / "kaggle" / "x"),
                       put(batches, tmp_path / "cache" / "y"))
    harm(mounted / "test_batch", how)
    assert (len(data.load("test", download=False, say=said.append)[0]) == 3
            and str(cached) in said[-1])
    harm(far / "data_batch_5", how)  # now neither is whole: the nearest is told of
    with pytest.raises(InputError) as e: data.load("train", tmp_path / "d", say=str)
    assert str(near / "data_batch_4") in one_sentence(e)


def test_what_the_page_in_place_of_a_batch_is(batches, tmp_path):
    folder = put(batches, tmp_path / "d")
    (folder / "test_batch").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid "
                                        b"sha256:0\nsize 31035526\n")
    with pytest.raises(InputError, match="it is a pointer of Git LFS in place of the file") as e:
        data.load("test", folder, say=str)
    assert data.MD5["test_batch"] in one_sentence(e)


INSTEAD = {  # files in the folder that was named -> what the message must say
           "cifar-10-python.tar.gz, which is not unpacked: unpack it there": [
               "cifar-10-python.tar.gz"],
           "cifar-10-python (1).tar, which is not unpacked": ["cifar-10-python (1).tar"],
           "archive.zip, which is not unpacked": ["archive.zip"],
           "deep/down/x.7z, which is not unpacked": ["deep/down/x.7z"],
           "a download that has not come to its end": ["cifar-10-python.tar.gz.crdownload"],
           "but CIFAR-100 in": ["train", "test", "meta"],
           "cifar-100-python.tar.gz): get CIFAR-10": ["cifar-100-python.tar.gz", "other.zip"],
           "the binary version of CIFAR-10": [
               *(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"],
           "the MATLAB version of CIFAR-10": ["cifar-10-batches-mat/data_batch_1.mat"],
           "tables of Parquet": ["plain_text/train-00000-of-00001.parquet"],
           "where the folders frog, ship are lacking: add them": [
               f"train/{c}/1.png" for c in data.CLASSES if c not in ("frog", "ship")],
           "itself: put them into a folder called train": [f"mine/{c}/1.png" for c in data.CLASSES],
           "CIFAR-100 as pictures": [
               "train/apple/1.png", "train/aquarium_fish/1.png", "train/baby/1.png"],
           "holds no data_batch_1: name the folder": [".hidden.zip", "readme.md"],
}


@pytest.mark.parametrize("what", INSTEAD)
def test_what_lies_there_in_place_of_the_batches_is_named(what, tmp_path):
    for name in INSTEAD[what]:
        (tmp_path / "d" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "d" / name).write_bytes(b"x")
    with pytest.raises(InputError) as e: data.load("train", tmp_path / "d", say=str)
    assert (what in one_sentence(e).replace(os.sep, "/") and "holds no data_batch_1" in str(e.value)
            and "'toy'" in str(e.value))


def test_a_file_in_place_of_a_folder(batches, tmp_path):
    (tmp_path / "x.tar.gz").write_bytes(tar(batches))
    with pytest.raises(InputError, match="is not a folder, but packed by gzip: unpack it") as e:
        data.find(tmp_path / "x.tar.gz")
    one_sentence(e)
    with pytest.raises(InputError, match="is not a folder: name the folder"):
        data.find(put(batches, tmp_path / "d") / "test_batch")


@pytest.mark.parametrize("root", [5, b"toy", ["x"], {"toy"}, 1.5])
def test_a_root_that_is_no_path(root):
    with pytest.raises(InputError, match=type(root).__name__): data.load("train", root, say=str)


@pytest.mark.parametrize("root", ["a\0b", "x" * 5000, "~nobody-of-this-name/x"])
def test_a_root_that_cannot_be(root):
    with pytest.raises(InputError) as e: data.load("train", root, say=str)
    assert "Traceback" not in str(e.value)


def test_empty_variables_are_as_good_as_none(batches, tmp_path, monkeypatch):
    for name in ("CIFAR_NB_DATA", "CIFAR_NB_CACHE", "KAGGLE_INPUT", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, "")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    if os.name != "nt": assert data.cache_folder() == tmp_path / "home" / ".cache" / "cifar_nb"
    monkeypatch.setenv("CIFAR_NB_CACHE", str(tmp_path / "cache"))
    home = put(batches, tmp_path / "cache" / "py")
    assert data.find("", download=False, say=str) == home


@pytest.mark.skipif(os.name == "nt", reason="there is a home folder on Windows")
def test_without_a_home_folder(batches, tmp_path, monkeypatch):
    """A container with a user's number and no more: the cache lies among temporary files, and ~ is
    told to be nothing."""
    import pwd
    def nobody(uid): raise KeyError(uid)
    monkeypatch.setattr(pwd, "getpwuid", nobody)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    for value in (None, ""):
        for name in ("HOME", "CIFAR_NB_CACHE", "XDG_CACHE_HOME"):
            monkeypatch.delenv(name, raising=False)
        if value is not None: monkeypatch.setenv("HOME", value)
        assert data.cache_folder() == tmp_path / f"cifar_nb-{os.getuid()}"
        assert str(data.find("toy", say=str)) == "toy"
        with pytest.raises(InputError, match="no CIFAR-10 on this machine"):
            data.find(download=False)
        with pytest.raises(InputError, match="no home folder"): data.find("~/data")
        with pytest.raises(InputError, match="no home folder"): load_competition("~/test.pkl")
        assert data.tilde(tmp_path) == str(tmp_path)


def test_many_files_cost_no_calls_each(tmp_path, monkeypatch):
    "A folder is listed, and none of its files is asked anything."
    (tmp_path / "d" / "pictures").mkdir(parents=True)
    for i in range(2000): (tmp_path / "d" / "pictures" / f"{i}.png").touch()
    calls = []
    for name in ("stat", "lstat"):
        monkeypatch.setattr(os, name, lambda *a, f=getattr(os, name),
                            **k: calls.append(a) or f(*a, **k))
    with pytest.raises(InputError, match="holds no data_batch_1"):
        data.find(tmp_path / "d", say=str)
    assert len(calls) < 100


def test_links_to_and_fro_are_not_followed_for_ever(tmp_path):
    "Six floors with ten links each to the next: a million ways, seven folders."
    floors = [tmp_path / "d" / f"{i}" for i in range(7)]
    for floor in floors: floor.mkdir(parents=True)
    for a, b in zip(floors, floors[1:]):
        for k in range(10): os.symlink(b, a / f"link-{k}")
    assert data.holder(tmp_path / "d") is None


# -- what was really read
# --------------------------------------------------------------------------------------------

def test_the_name_is_that_of_what_was_read(batches, tmp_path, monkeypatch):
    folder = put(batches, tmp_path / "d")
    assert data.load_set("test", folder, say=str).name == "cifar10"
    assert data.load_set("test", "toy", say=str).name == "toy"
    monkeypatch.setenv("CIFAR_NB_DATA", "toy")
    x, y, name = data.load_set("test", say=str)
    assert name == "toy" and torch.equal(x, data.toy(1000, seed=1)[0])
    # a root that is named wins over the variable
    assert data.load_set("test", folder, say=str).name == "cifar10"
    monkeypatch.setenv("CIFAR_NB_DATA", str(folder))
    assert (data.load_set("test", say=str).name == "cifar10"
            and data.load_set("test", "toy", say=str).name == "toy")
    monkeypatch.chdir(folder)
    assert data.load_set("test", ".", say=str).name == "cifar10"
    with pytest.raises(InputError, match="ask for 'train' or 'test'"): data.load_set("validation")


def test_load_gives_what_load_set_gives(batches, tmp_path):
    put(batches, tmp_path / "cache" / "py")
    for part in ("train", "test"):
        x, y = data.load(part, say=str)
        got = data.load_set(part, say=str)
        assert torch.equal(x, got.x) and torch.equal(y, got.y)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0,
                    reason="root may look everywhere")
def test_folders_without_permission(batches, tmp_path):
    put(batches, tmp_path / "d" / "open")
    (tmp_path / "d" / "closed").mkdir(mode=0)
    assert data.find(tmp_path / "d", say=str) == tmp_path / "d" / "open"


# -- the download
# --------------------------------------------------------------------------------------------------

@pytest.fixture
def server():
    """A server on 127.0.0.1 for `server.body`; it may hang up after `server.cut` bytes, or not know
    about ranges.

    `length` and `span` replace what it says of itself, `more` is called with its file when the body
    is through."""
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            s, start = self.server, 0
            s.asked.append(self.headers.get("Range"))
            if s.status: return self.send_error(s.status)
            if s.ranges and s.asked[-1]:
                start = int(s.asked[-1].removeprefix("bytes=").rstrip("-"))
                if start >= len(s.body): return self.send_error(416)
            self.send_response(206 if start else 200)
            if s.length != "none":
                self.send_header("Content-Length", s.length or str(len(s.body) - start))
            if start and s.span: self.send_header("Content-Range", s.span)
            self.end_headers()
            try:
                self.wfile.write(s.body[start:start + s.cut])
                if s.more: s.more(self.wfile)
            except OSError: pass  # whoever asked has gone
        def log_message(self, *args): pass
    s = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    s.daemon_threads = True
    s.body, s.cut, s.ranges, s.status, s.asked, s.length, s.span, s.more = (
        b"", 1 << 30, True, None, [], None, None, None)
    s.url = f"http://127.0.0.1:{s.server_port}/cifar-10-python.tar.gz"
    thread = threading.Thread(target=s.serve_forever, kwargs={"poll_interval": .01}, daemon=True)
    thread.start()
    yield s
    s.shutdown(), s.server_close(), thread.join()


def tar(files, **others):
    """A tar.gz of `files` in the folder of the official one; `others` are ready members (TarInfo,
    bytes)."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as t:
        for name, raw in files.items():
            info = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            info.size = len(raw)
            t.addfile(info, io.BytesIO(raw))
        for info, raw in others.values(): t.addfile(info, io.BytesIO(raw))
    return out.getvalue()


def below(folder):
    "What lies there; the lock of a download may stay."
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*")
                  if p.name != download.DOWNLOAD_LOCK)


def whole(batches):
    return sorted(["cifar-10-batches-py", *(f"cifar-10-batches-py/{n}" for n in batches)])


def test_fetch_resumes(server, batches, tmp_path):
    server.body, server.cut = tar(batches), 20_000
    folder, sums, size = tmp_path / "cache", md5(server.body), len(server.body)
    for start in range(0, size - server.cut, server.cut):
        with pytest.raises(InputError, match="run it again") as e:
            data.fetch(folder, server.url, sums, say=str)
        assert f"{start + server.cut:,} of {size:,}" in one_sentence(e)
        assert below(folder) == ["cifar-10-python.tar.gz.part"]  # nothing that looks like data
    home = data.fetch(folder, server.url, sums, say=str)
    assert server.asked == [None, *(f"bytes={k}-" for k in range(server.cut, size, server.cut))]
    assert below(folder) == whole(batches)
    assert data.find(download=False, say=str) == home and len(data.load("train", say=str)[0]) == 15


def test_fetch_without_ranges_starts_again(server, batches, tmp_path):
    server.body, server.cut, server.ranges = tar(batches), 20_000, False
    with pytest.raises(InputError, match="broke off"):
        data.fetch(tmp_path, server.url, md5(server.body), say=str)
    server.cut = 1 << 30
    data.fetch(tmp_path, server.url, md5(server.body), say=str)
    assert len(server.asked) == 2
    assert (tmp_path / "cifar-10-batches-py" / "test_batch").read_bytes() == batches["test_batch"]


def test_fetch_after_it_was_killed_before_unpacking(server, batches, tmp_path):
    raw = tar(batches)
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "cifar-10-python.tar.gz.part").write_bytes(raw)
    data.fetch(tmp_path / "cache", server.url, md5(raw), say=str)
    assert server.asked == [] and below(tmp_path / "cache") == whole(batches)


def test_fetch_leftover_that_is_too_long(server, batches, tmp_path):
    server.body = tar(batches)
    (tmp_path / "cifar-10-python.tar.gz.part").write_bytes(server.body + b"rest of something else")
    data.fetch(tmp_path, server.url, md5(server.body), say=str)
    assert len(server.asked) == 2 and server.asked[1] is None


def test_fetch_of_something_else(server, batches, tmp_path):
    server.body = b"<html>Please log in</html>"
    with pytest.raises(InputError, match="thrown away") as e:
        data.fetch(tmp_path, server.url, md5(tar(batches)), say=str)
    assert server.url in one_sentence(e) and below(tmp_path) == []


def test_fetch_completes_half_a_cache(server, batches, tmp_path, monkeypatch):
    """A cache from which a file was deleted is made whole again by `find`, through torchvision's
    address."""
    from torchvision.datasets import CIFAR10
    home = put(dict(list(batches.items())[1:]), tmp_path / "cache" / "cifar-10-batches-py")
    server.body = tar(batches)
    monkeypatch.setattr(CIFAR10, "url", server.url)
    monkeypatch.setattr(CIFAR10, "tgz_md5", md5(server.body))
    said = []
    assert data.find(say=said.append) == home and server.url in said[0]
    assert below(tmp_path / "cache") == whole(batches)


def test_malicious_archive(server, batches, tmp_path):
    """Climbing names, absolute names, links and devices are passed over; only the six names are
    written."""
    def member(name, kind=tarfile.REGTYPE, target="", raw=b""):
        info = tarfile.TarInfo(name)
        info.type, info.linkname, info.size = kind, target, len(raw)
        return info, raw
    top = "cifar-10-batches-py"
    server.body = tar(batches, climb=member(f"{top}/../../climbed", raw=b"x"),
                      absolute=member(str(tmp_path / "absolute"), raw=b"x"),
                      soft=member(f"{top}/data_batch_2", tarfile.SYMTYPE, str(tmp_path / "linked")),
                      device=member(f"{top}/data_batch_3", tarfile.FIFOTYPE),
                      extra=member(f"{top}/readme.html", raw=b"x"))
    data.fetch(tmp_path / "cache", server.url, md5(server.body), say=str)
    assert below(tmp_path) == ["cache", *sorted(f"cache/{n}" for n in whole(batches))]


def test_archive_without_a_batch(server, batches, tmp_path):
    server.body = tar({n: raw for n, raw in batches.items() if n != "test_batch"})
    with pytest.raises(InputError, match="lacks test_batch") as e:
        data.fetch(tmp_path / "cache", server.url, md5(server.body), say=str)
    one_sentence(e)
    assert not (tmp_path / "cache" / "cifar-10-batches-py").exists()


def test_offline(server, tmp_path, monkeypatch):
    from torchvision.datasets import CIFAR10
    server.status = 503
    monkeypatch.setattr(CIFAR10, "url", server.url)
    with pytest.raises(InputError, match="cannot be reached") as e: data.load("train", say=str)
    assert all(word in one_sentence(e)
               for word in (server.url, "CIFAR_NB_DATA", "toy", str(tmp_path / "cache")))
    monkeypatch.setattr(CIFAR10, "url", "http://127.0.0.1:9/nobody-listens")
    with pytest.raises(InputError, match="127.0.0.1:9/nobody-listens cannot be reached"):
        data.find(say=str)


def test_cache_that_cannot_be_written(server, batches, tmp_path, monkeypatch):
    server.body = tar(batches)
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="CIFAR_NB_CACHE") as e:
        data.fetch(tmp_path / "file", server.url, md5(server.body), say=str)
    one_sentence(e)
    def full(src, dst): raise OSError(errno.ENOSPC, "No space left on device")
    monkeypatch.setattr(download.shutil, "copyfileobj", full)
    with pytest.raises(InputError, match="No space left on device") as e:
        data.fetch(tmp_path / "cache", server.url, md5(server.body), say=str)
    one_sentence(e)
    # what came is kept for the next time
    assert below(tmp_path / "cache") == ["cifar-10-python.tar.gz.part"]
    monkeypatch.undo()


@pytest.mark.parametrize(
    "length", ["abc", "-5", "", " ", "1e3", "\u0663".encode().decode("latin1"), "9" * 400, "none"])
def test_fetch_from_a_server_that_does_not_know_the_length(length, server, batches, tmp_path):
    if length == "9" * 400: server.length = "none"  # no client of Python takes such a line
    server.body, server.length = tar(batches), length or " "
    data.fetch(tmp_path, server.url, md5(server.body), say=str)
    assert below(tmp_path) == whole(batches)


@pytest.mark.parametrize("length", ["none", "500000", "1000000000000"])
def test_what_never_ends_is_not_written_to_the_disk(length, server, batches, tmp_path, monkeypatch):
    "No more than the archive has is ever written, whatever the server says and sends."
    monkeypatch.setattr(data, "ARCHIVE_BYTES", {"its md5": 100_000})
    def more(file):
        while True: file.write(bytes(1 << 16))
    server.more, server.length = more, length
    for sums in ("its md5", "another"):  # a size that is known, and one that is not
        with pytest.raises(InputError, match="100,000") as e:
            data.fetch(tmp_path, server.url, sums, say=str)
        assert server.url in one_sentence(e)
        assert sum(p.stat().st_size for p in tmp_path.rglob("*")) < 100_000


def test_a_page_in_place_of_an_archive_of_known_size(server, tmp_path, monkeypatch):
    monkeypatch.setattr(data, "ARCHIVE_BYTES", {"its md5": 100_000})
    server.body = b"<html>Please log in</html>"
    with pytest.raises(InputError, match="26 bytes, and the archive has 100,000"):
        data.fetch(tmp_path, server.url, "its md5", say=str)
    assert below(tmp_path) == []


@pytest.mark.parametrize(
    "span",
    ["bytes 0-9/10", "bytes 30000-40000/50000", "bytes */500", "lines 20000-", "bytes x-y/z",
     "bytes"])
def test_a_part_that_was_not_asked_for(span, server, batches, tmp_path):
    "The rest of the file is asked for, another part is announced: then all of it is fetched anew."
    server.body, server.cut = tar(batches), 20_000
    with pytest.raises(InputError, match="broke off"):
        data.fetch(tmp_path, server.url, md5(server.body), say=str)
    server.cut, server.span, announced = 1 << 30, span, span.startswith(
        "bytes 0") or span.startswith("bytes 3")
    data.fetch(tmp_path, server.url, md5(server.body), say=str)
    assert (server.asked == [None, "bytes=20000-", None][:3 if announced else 2]
            and below(tmp_path) == whole(batches))


def test_a_server_that_drips(server, batches, tmp_path, monkeypatch):
    "A byte now and then is no download; what came is kept."
    monkeypatch.setattr(download, "PATIENCE", .3)
    server.body, server.cut = tar(batches), 20_000
    def drip(file):
        for _ in range(100):
            file.write(b"x")
            file.flush()
            time.sleep(.05)
    server.more, start = drip, time.time()
    with pytest.raises(InputError, match="broke off after 20,0"):
        data.fetch(tmp_path, server.url, md5(server.body), say=str)
    assert time.time() - start < 4


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.EROFS])
def test_a_disk_that_is_full_or_closed(number, server, batches, tmp_path, monkeypatch):
    "One sentence, which says what it is; with room the next call goes on from what is there."
    server.body, opened = tar(batches), Path.open
    def full(self, mode="r", *args, **kwargs):
        f = opened(self, mode, *args, **kwargs)
        if self.suffix != ".part" or "r" in mode: return f
        class Full:
            def __enter__(self): return self
            def __exit__(self, *e): f.close()
            def tell(self): return f.tell()
            def write(self, block):
                f.write(block[:10_000])
                f.flush()
                raise OSError(number, os.strerror(number))
        return Full()
    with monkeypatch.context() as m:
        m.setattr(Path, "open", full)
        with pytest.raises(InputError, match=os.strerror(number)) as e:
            data.fetch(tmp_path, server.url, md5(server.body), say=str)
    assert ("CIFAR_NB_CACHE" in one_sentence(e)
            and ("make room" in str(e.value)) == (number == errno.ENOSPC))
    assert below(tmp_path) == ["cifar-10-python.tar.gz.part"]
    came = (tmp_path / "cifar-10-python.tar.gz.part").stat().st_size
    data.fetch(tmp_path, server.url, md5(server.body), say=str)
    assert (came > 0 and server.asked == [None, f"bytes={came}-"]
            and below(tmp_path) == whole(batches))


def child(call):
    "A process that has the tiny batches' md5 and runs `call`; what it prints comes line by line."
    code = f"from cifar_nb.data import cifar as data; data.MD5 = {data.MD5!r}; {call}"
    env = os.environ | {"PYTHONPATH": str(Path(data.__file__).parents[1]),
                        "PYTHONIOENCODING": "utf-8"}
    return subprocess.Popen([sys.executable, "-u", "-c", code], stdout=subprocess.PIPE,
                            stderr=subprocess.STDOUT, text=True, encoding="utf-8", env=env)


def test_two_processes_at_once_and_the_first_is_killed(server, batches, tmp_path):
    """The second waits and says so; when the first dies half way it goes on from there; a third
    finds the files."""
    server.body, server.cut, gate = tar(batches), 20_000, threading.Event()
    server.more, server.length = lambda file: (file.flush(), gate.wait(60)), "none"
    call = f"data.fetch({str(tmp_path)!r}, {server.url!r}, {md5(server.body)!r})"
    first = child(call)
    assert "downloading" in first.stdout.readline()
    second = child(call)
    assert "waiting for it" in second.stdout.readline()
    part = tmp_path / "cifar-10-python.tar.gz.part"
    deadline = time.time() + 60
    while (not part.exists() or part.stat().st_size < 20_000) and time.time() < deadline:
        time.sleep(.05)
    server.cut, server.more, server.length = 1 << 30, None, None
    first.kill()
    out, _ = second.communicate(timeout=60)
    gate.set()
    assert second.returncode == 0 and "downloading" in out, out
    assert server.asked == [None, "bytes=20000-"] and below(tmp_path) == whole(batches)
    said = []
    data.fetch(tmp_path, server.url, md5(server.body), say=said.append)
    assert len(server.asked) == 2 and len(said) == 1 and "CIFAR-10 in" in said[0]
    first.communicate()


def test_many_at_once_fetch_once(server, batches, tmp_path):
    "As the processes of torchrun do; the one that was first does the work, and all get the folder."
    server.body, said, got = tar(batches), [], []
    def all_wait(): return sum("waiting" in line for line in said) == 3
    def the_rest_once_all_wait(file, seconds=60):
        end = time.time() + seconds
        while not all_wait() and time.time() < end: time.sleep(.01)
        file.write(server.body[server.cut:])
    server.cut, server.more = 10, the_rest_once_all_wait
    def fetch(): got.append(data.fetch(tmp_path, server.url, md5(server.body), say=said.append))
    threads = [threading.Thread(target=fetch) for _ in range(4)]
    for t in threads: t.start()
    for t in threads: t.join()
    assert (len(server.asked) == 1 and set(got) == {tmp_path / "cifar-10-batches-py"}
            and len(got) == 4)
    assert all_wait() and sum("another process has brought" in line for line in said) == 3
    assert below(tmp_path) == whole(batches)


def test_an_archive_that_was_put_there_by_hand_is_used(server, batches, tmp_path):
    raw = tar(batches)
    (tmp_path / "cifar-10-python.tar.gz").write_bytes(raw)
    data.fetch(tmp_path, server.url, md5(raw), say=str)
    assert (server.asked == []
            and below(tmp_path) == sorted([*whole(batches), "cifar-10-python.tar.gz"]))


@pytest.mark.parametrize(
    "raw",
    [b"no archive", b"", tar({"data_batch_1": bytes(5000)})[:-900], b"\x1f\x8b\x08" + bytes(90)])
def test_an_archive_that_cannot_be_unpacked(raw, server, batches, tmp_path):
    server.body = raw
    with pytest.raises(InputError, match="delete it and run again|broke off|md5") as e:
        data.fetch(tmp_path, server.url, md5(raw), say=str)
    one_sentence(e)
    assert not (tmp_path / "cifar-10-batches-py").exists() and not list(tmp_path.glob(".unpack*"))


def test_what_a_killed_process_left_is_swept_away(server, batches, tmp_path):
    server.body = tar(batches)
    for name, age in ((".unpackold", 7200), (".unpacknew", 60)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "data_batch_1").write_bytes(b"half")
        os.utime(tmp_path / name, (time.time() - age,) * 2)
    data.fetch(tmp_path, server.url, md5(server.body), say=str)
    # its process may be at work
    assert [p.name for p in tmp_path.glob(".unpack*")] == [".unpacknew"]


@pytest.mark.parametrize(
    "url",
    ["no address", "http://", "http://[", "ftp://127.0.0.1:9/x", "http://127.0.0.1:99999/x",
     "http://a b/"])
def test_an_address_that_is_none(url, tmp_path):
    with pytest.raises(InputError, match="cannot be reached") as e:
        data.fetch(tmp_path, url, "0", say=str)
    one_sentence(e)


# -- toy and split
# --------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("n", [1, 9, 499, 501, 1234])
def test_toy_sizes(n):
    x, y = data.toy(n, seed=3)
    assert x.shape == (n, 3, 32, 32) and x.dtype == torch.uint8 and y.dtype == torch.int64
    counts = y.bincount(minlength=10)
    assert counts.max() - counts.min() <= 1
    state = torch.get_rng_state()
    assert torch.equal(data.toy(n, seed=3)[0], x)
    assert torch.equal(torch.get_rng_state(), state)  # the global generator is left alone


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 4), min_size=2, max_size=200), st.data())
@example([0, 0, 0, 1], None)
def test_split_is_stratified(labels, choice):
    n = choice.draw(st.integers(1, len(labels) - 1)) if choice else 2
    y = torch.tensor(labels)
    train, held = data.split(y, n, seed=n)
    assert (torch.equal(torch.cat([train, held]).sort().values, torch.arange(len(y)))
            and len(held) == n)
    for part in train, held:
        assert part.tolist() == sorted(part.tolist()) and part.dtype == torch.int64
    for c in set(labels):
        assert abs((y[held] == c).sum().item() - n * labels.count(c) / len(y)) < 1 + 1e-9


def test_split_depends_on_its_seed_only():
    y = torch.arange(50_000) % 10
    a, b = data.split(y), data.split(y)
    assert torch.equal(a[1], b[1]) and not torch.equal(a[1], data.split(y, seed=1)[1])
    assert y[a[1]].bincount().tolist() == [500] * 10
    for n in (0, -1, 50_000): pytest.raises(InputError, data.split, y, n)


# -- the competition's file
# ------------------------------------------------------------------------------------------

IMAGES = np.random.default_rng(0).integers(0, 256, (12, 3, 32, 32), np.uint8)
SHOWN = {"last": IMAGES.transpose(0, 2, 3, 1), "flat": IMAGES.reshape(12, 3072), "first": IMAGES,
         "fortran": np.asfortranarray(IMAGES)}


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("layout", SHOWN)
def test_competition_layouts(layout, protocol, tmp_path):
    all_ids = None, list(range(7, 19)), np.arange(12)[::-1], np.arange(12, dtype=">u2")
    for kind, ids in zip((str, bytes, bytes, str), all_ids):
        entries = {"data": SHOWN[layout], **({} if ids is None else {"ids": ids})}
        if kind is bytes: entries = {key.encode(): value for key, value in entries.items()}
        (tmp_path / "f.pkl").write_bytes(pickle.dumps(entries, protocol))
        said = []
        got = load_competition(str(tmp_path / "f.pkl"), say=said.append)
        np.testing.assert_array_equal(got.images, IMAGES)
        assert (got.images.dtype == torch.uint8 and got.images.is_contiguous()
                and got.ids.dtype == torch.int64)
        assert got.ids.tolist() == list(range(12) if ids is None else ids)
        assert got.layout in said[0] and ("no ids" in said[0]) == (ids is None) and len(said) == 1


def test_competition_from_python2(tmp_path):
    (tmp_path / "f.pkl").write_bytes(python2({b"data": SHOWN["flat"], b"ids": list(range(12))}))
    np.testing.assert_array_equal(load_competition(tmp_path / "f.pkl", say=str).images, IMAGES)


@pytest.mark.parametrize("why, entries", [
    ("float64 instead of uint8", {"data": IMAGES / 255.}),
    ("int64 instead of uint8", {"data": IMAGES.astype(int)}),
    ("shape (12, 28, 28, 3)", {"data": np.zeros((12, 28, 28, 3), np.uint8)}),
    ("shape (3072,)", {"data": np.zeros(3072, np.uint8)}),
    ("shape ()", {"data": np.zeros((), np.uint8)}),
    ("shape (12, 32, 32)", {"data": IMAGES[:, 0]}),
    ("shape (0, 32, 32, 3)", {"data": np.zeros((0, 32, 32, 3), np.uint8)}),
    ("no array of images", {"data": IMAGES.tolist()}),
    ("no array of images", {"images": IMAGES}),
    ("no array of images", {}),
    ("holds list instead of a dict", [IMAGES]),
    ("holds int instead of a dict", 3),
    ("id 5 occurs 2 times", {"data": IMAGES, "ids": [5, *range(11)]}),
    ("shape (11,) for 12 images", {"data": IMAGES, "ids": list(range(11))}),
    ("shape (12, 1) for 12 images", {"data": IMAGES, "ids": np.arange(12)[:, None]}),
    ("shape () for 12 images", {"data": IMAGES, "ids": 12}),
    ("float64 instead of whole numbers", {"data": IMAGES, "ids": np.arange(12.)}),
    ("bool instead of whole numbers", {"data": IMAGES, "ids": [True] * 12}),
    ("instead of whole numbers", {"data": IMAGES, "ids": [str(k) for k in range(12)]}),
    ("not the test file", {"data": IMAGES, "ids": [[1], [2, 3]]}),
])
def test_competition_mistakes(why, entries, tmp_path):
    path = tmp_path / "f.pkl"
    path.write_bytes(pickle.dumps(entries))
    with pytest.raises(InputError) as e: load_competition(path, say=str)
    assert why in one_sentence(e) and str(path) in str(e.value)


def smooth(n, seed=0):
    """uint8 n x 3 x 32 x 32, as smooth as photographs are: coarse noise, drawn larger, and a little
    grain."""
    g = torch.Generator().manual_seed(seed)
    coarse = torch.rand(n, 3, 5, 5, generator=g) * 255
    grain = torch.rand(n, 3, 32, 32, generator=g) * 12
    return (torch.nn.functional.interpolate(coarse, size=32, mode="bilinear") + grain).clamp(
        0, 255).byte().numpy()


@pytest.mark.parametrize("n", [1, 7, 2500])
@pytest.mark.parametrize("source", ["smooth", "toy", "grey"])
def test_the_order_of_colours_is_seen(n, source, tmp_path):
    """Flat rows, and shapes that say one thing while the bytes say the other: always the images
    come back."""
    x = data.toy(min(n, 500))[0].numpy() if source == "toy" else smooth(n)
    if source == "grey": x[:] = x[:, :1]  # the colours of a pixel are all alike
    last = np.ascontiguousarray(x.transpose(0, 2, 3, 1))
    told = {"flat, colours first": x.reshape(-1, 3072),
            "flat, colours last by the look of them": last.reshape(-1, 3072),
            "N x 3 x 32 x 32, colours first": x, "N x 32 x 32 x 3, colours last": last,
            "N x 3 x 32 x 32, colours last by the look of them": last.reshape(-1, 3, 32, 32),
            "N x 32 x 32 x 3, colours first by the look of them": x.reshape(-1, 32, 32, 3)}
    for words, images in told.items():
        (tmp_path / "f.pkl").write_bytes(pickle.dumps({"data": images}))
        got = load_competition(tmp_path / "f.pkl", say=str)
        assert words in got.layout
        np.testing.assert_array_equal(got.images, x)


@pytest.mark.parametrize("value", [0, 255])
def test_images_that_tell_nothing_keep_the_order_of_their_shape(value, tmp_path):
    for shape, order in (((4, 3072), "colours first"), ((4, 3, 32, 32), "colours first"),
                         ((4, 32, 32, 3), "colours last")):
        (tmp_path / "f.pkl").write_bytes(pickle.dumps({"data": np.full(shape, value, np.uint8)}))
        assert load_competition(tmp_path / "f.pkl", say=str).layout.endswith(order)


def zipped(name, raw=b"x"):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as z: z.writestr(name, raw)
    return out.getvalue()


def saved(save, value):
    out = io.BytesIO()
    save(out, value)
    return out.getvalue()


KINDS_OF_FILES = {
    "it is empty": b"", "it is a web page": b"<!DOCTYPE html><html><title>Sign in</title>",
    "a web page, again": b"\n <HTML>\n<body>",
    "it is a page of XML": b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>",
    "it is text (JSON)": b'{"error": "not found"}',
    "it is a zip archive; unpack it": zipped("cifar_test_nolabel.pkl"),
    "it is an empty zip archive": b"PK\5\6" + bytes(18),
    "it is a file of torch.save": saved(lambda f, v: torch.save(v, f), torch.zeros(3)),
    "it is an archive of numpy.savez": saved(lambda f, v: np.savez(f, data=v), np.zeros(3)),
    "it is an array of numpy.save": saved(np.save, np.zeros((3, 3072), np.uint8)),
    "it is packed by gzip": gzip.compress(b"x"), "it is packed by bzip2": b"BZh91AY&SY" + bytes(20),
    "it is packed by xz": b"\xfd7zXZ\0" + bytes(20),
    "it is a tar archive": bytes(257) + b"ustar\x0000" + bytes(300),
    "it is a pointer of Git LFS": b"version https://git-lfs.github.com/spec/v1\noid "
    b"sha256:"
    + b"a" * 64 + b"\nsize 30730276\n",
                  "it is a pointer of git-annex": b"/annex/objects/MD5E-s3--0.pkl\n",
                  "it is a picture (PNG)": b"\x89PNG\r\n\x1a\n",
    "it is a picture (JPEG)": b"\xff\xd8\xff\xe0" + bytes(9), "it is a document (PDF)": b"%PDF-1.4",
                  "it is a file of HDF5": b"\x89HDF\r\n\x1a\n",
    "it is a table of Parquet": b"PAR1" + bytes(9),
                  "it is plain text": "ID,Labels\n0,\u00e4".encode() * 90,
                  "it is nothing but zeros": bytes(5000),
    "it is a Mac's companion": b"\0\5\x16\7\0\2\0\0Mac OS X",
                  "it is text in UTF-16": "ID,Labels".encode("utf-16"),
    "it breaks off in the middle": pickle.dumps({"data": IMAGES})[:-500],
                  "it does not read as a pickle": bytes(range(256)),
}


@pytest.mark.parametrize("kind", KINDS_OF_FILES)
def test_the_message_says_what_the_file_is(kind, tmp_path):
    path = tmp_path / "cifar_test_nolabel.pkl"
    path.write_bytes(KINDS_OF_FILES[kind])
    with pytest.raises(InputError) as e: load_competition(path, say=str)
    said = one_sentence(e).removeprefix(str(path))
    assert (kind.partition(",")[0] in said
            and not [word for word in ("Error", "Exception") if word in said])


@pytest.mark.parametrize("depth", [3, 30, 60])
def test_ids_that_are_lists_in_lists(depth, tmp_path):
    "Each list holds the one before twice: what NumPy makes of that has two to the depth members."
    ids = [1, 2]
    for _ in range(depth): ids = [ids, ids]
    for entries in ({"data": IMAGES[:2], "ids": ids}, {"data": IMAGES[:2], "ids": tuple(ids)},
                    {"data": ids}):
        (tmp_path / "f.pkl").write_bytes(pickle.dumps(entries))
        with pytest.raises(InputError, match="list instead of whole numbers|no array of images"):
            load_competition(tmp_path / "f.pkl")


def test_ids_that_are_too_large(tmp_path):
    for top, good in ((2**63 - 1, True), (-2**63 + 1, True), (2**63, False), (10**30, False)):
        (tmp_path / "f.pkl").write_bytes(pickle.dumps({"data": IMAGES[:2], "ids": [0, top]}))
        if good: assert load_competition(tmp_path / "f.pkl", say=str).ids.tolist() == [0, top]
        else:
            with pytest.raises(InputError, match="more than 63 bits"):
                load_competition(tmp_path / "f.pkl")


def test_a_batch_of_cifar100(tmp_path):
    (tmp_path / "test").write_bytes(
        python2({b"data": SHOWN["flat"], b"fine_labels": [1] * 12, b"coarse_labels": [1] * 12}))
    with pytest.raises(InputError, match="a batch of CIFAR-100"):
        load_competition(tmp_path / "test")


def test_competition_files_that_are_none(tmp_path):
    cut = pickle.dumps({"data": IMAGES})[:-500]
    for raw in (b"", b"garbage", b"ID,Labels\n0,1\n", bytes(range(256)), cut,
                b"\x1f\x8b" + bytes(50)):
        (tmp_path / "f.pkl").write_bytes(raw)
        with pytest.raises(InputError, match="not a file of images") as e:
            load_competition(tmp_path / "f.pkl")
        one_sentence(e)
    for path in (tmp_path, tmp_path / "nowhere.pkl"):
        with pytest.raises(InputError, match="is not a file"): load_competition(path)
    # a hole of 5 GB that takes no disk
    with (tmp_path / "huge.pkl").open("wb") as f: f.truncate(5 << 30)
    with pytest.raises(InputError, match="over 1,073,741,824 bytes"):
        load_competition(tmp_path / "huge.pkl")


# -- what is refused, and in which words
# --------------------------------------------------------------------------------------------------

def test_a_toy_set_has_one_image_or_more():
    with pytest.raises(InputError, match="ask for one or more"): data.toy(0)


def test_a_part_that_does_not_exist():
    with pytest.raises(InputError, match="ask for 'train' or 'test'"): data.load("validation")


@pytest.mark.parametrize("n", [0, 50])
def test_a_split_leaves_images_on_both_sides(n):
    with pytest.raises(InputError, match="ask for 1 to 49"): data.split(torch.arange(50) % 10, n)


def doubled(depth):
    "A pickle of a dict whose key is a pair of a pair of a pair ..., `depth` deep."
    pair = ()
    for _ in range(depth): pair = pair, pair
    return pickle.dumps({pair: 0})


def test_a_pickle_that_calls_doubles_or_is_none(trap):
    with pytest.raises(InputError, match="mkdir, which was not done"):
        data.unpickle(pickle.dumps({b"data": Call(os.mkdir, str(trap)), b"labels": []}))
    with pytest.raises(InputError, match="nested"): data.unpickle(doubled(20))
    with pytest.raises(InputError, match="it is a web page"):
        data.unpickle(b"<html>Not found</html>")
    with pytest.raises(InputError, match="which is not a number"):
        data.unpickle(pickle.dumps(np.array([None, "object"])))
    assert not trap.exists()


@pytest.fixture
def altered(tmp_path):
    "Six batch files of the right names and form that are not the official ones, in a folder."
    x, y = data.toy(5)
    raw = pickle.dumps({b"data": x.reshape(5, 3072).numpy(), b"labels": y.tolist()})
    return put(dict.fromkeys(data.MD5, raw), tmp_path / "mount/a/cifar-10-batches-py")


def test_what_is_altered_is_not_read(altered, tmp_path):
    with pytest.raises(InputError, match="is truncated or altered, its md5 is"):
        data._checked(altered / "data_batch_1")
    with pytest.raises(InputError, match="is truncated or altered"):
        data.load("train", tmp_path / "mount", say=str)


def test_a_root_without_the_batches(altered, tmp_path, monkeypatch):
    "Another place that has them does not help: what was named is binding."
    monkeypatch.setenv("KAGGLE_INPUT", str(tmp_path / "mount"))
    (tmp_path / "empty").mkdir()
    assert data.find(say=str) == altered
    with pytest.raises(InputError, match="is not a folder"):
        data.find(altered / "data_batch_1", say=str)
    with pytest.raises(InputError, match="holds no data_batch_1"):
        data.find(tmp_path / "empty", say=str)


def test_an_archive_of_another_md5_and_none_at_all(altered, tmp_path):
    archive = tmp_path / "small.tar.gz"
    with tarfile.open(archive, "w:gz") as tar: tar.add(altered, "cifar-10-batches-py")
    assert data.fetch(tmp_path / "a", archive.as_uri(), md5(archive.read_bytes()), say=str)
    with pytest.raises(InputError, match="it was thrown away"):
        data.fetch(tmp_path / "b", archive.as_uri(), "another md5", say=str)
    with pytest.raises(InputError, match="cannot be reached"):
        data.fetch(tmp_path / "b", (tmp_path / "gone").as_uri(), say=str)


@pytest.mark.parametrize("why, entries", [
    ("float32 instead of uint8", dict(data=(IMAGES / 1.).astype(np.float32))),
    ("its images have shape (12, 32, 32)", dict(data=IMAGES[:, 0])),
    ("its id 7 occurs 2 times", dict(data=IMAGES, ids=[7, *range(11)])),
    ("its ids have shape (11,) for 12 images", dict(data=IMAGES, ids=list(range(11)))),
    ("no array of images under 'data'", dict(pictures=IMAGES))])
def test_a_competition_file_is_refused_before_anything_is_computed(why, entries, tmp_path):
    (tmp_path / "f.pkl").write_bytes(pickle.dumps(entries))
    with pytest.raises(InputError) as e: load_competition(tmp_path / "f.pkl")
    assert why in one_sentence(e)


# -- the real ones, where they are
# -----------------------------------------------------------------------------------

def test_real_data(monkeypatch):
    monkeypatch.delenv("CIFAR_NB_CACHE")
    monkeypatch.delenv("KAGGLE_INPUT")
    try: folder = data.find(download=False, say=str)
    except InputError: pytest.skip("no CIFAR-10 on this machine")
    x, y = data.load("test", folder, say=str)
    theirs = pickle.loads((folder / "test_batch").read_bytes(), encoding="bytes")
    np.testing.assert_array_equal(x.flatten(1), theirs[b"data"])
    assert y.tolist() == theirs[b"labels"] and x.shape == (10_000, 3, 32, 32)
