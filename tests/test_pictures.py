"""CIFAR-10 as little picture files: which are found, how they are read, and what is said of those
that are none."""
import io
import os
import pickle
import struct
import time
import tracemalloc
import warnings
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from cifar_nb.core.errors import InputError
from cifar_nb.data import cifar as data
from cifar_nb.data import images as images_
from cifar_nb.data.cifar import CLASSES
from cifar_nb.data.pictures import complaint, read_pictures, training_pictures
from cifar_nb.data.pictures import test_pictures as pictures_to_test

RANDOM = np.random.default_rng(0).integers(0, 256, (60, 32, 32, 3), np.uint8)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    "A machine without data and without the internet."
    monkeypatch.delenv("CIFAR_NB_DATA", raising=False)
    monkeypatch.setenv("KAGGLE_INPUT", str(tmp_path / "kaggle"))
    monkeypatch.setenv("CIFAR_NB_CACHE", str(tmp_path / "cache"))
    def unreachable(*args, **kwargs): raise OSError("Network is unreachable")
    monkeypatch.setattr("cifar_nb.data.cifar.urlopen", unreachable)


def save(image, path, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(path, **options)
    return path


def picture_set(folder, n=40, ending="png", tests=True):
    """The first `n` of RANDOM in class folders, every fifth a test picture; the class of the k-th
    is k % 10."""
    for i in range(n):
        part = "test" if tests and i // 10 % 4 == 1 else "train"
        save(RANDOM[i], folder / part / CLASSES[i % 10] / f"{i:04}.{ending}")
    return folder


def labelled(folder, n=40, ending="png", table=None):
    "The first `n` of RANDOM in one folder, and a table of their classes."
    for i in range(n): save(RANDOM[i], folder / "train" / f"{i}.{ending}")
    table = table or "id,label\n" + "".join(f"{i},{CLASSES[i % 10]}\n" for i in range(n))
    (folder / "trainLabels.csv").write_bytes(table.encode() if isinstance(table, str) else table)
    return folder


def read_picture(path): return read_pictures([path])[0].transpose(1, 2, 0)


def one_sentence(error):
    text = str(error.value)
    assert "\n" not in text and len(text) < 900
    return text


# -- one picture
# --------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("ending", ["png", "bmp", "ppm", "PNG", "webp"])
def test_formats_without_loss(ending, tmp_path):
    path = save(RANDOM[0], tmp_path / f"x.{ending}",
                **({"lossless": True} if ending == "webp" else {}))
    np.testing.assert_array_equal(read_picture(path), RANDOM[0])


def test_jpeg(tmp_path):
    smooth = np.asarray(
        Image.fromarray(RANDOM[0, :4, :4]).resize((32, 32), Image.Resampling.BILINEAR))
    for kind in ("jpg", "jpeg"):
        got = read_picture(save(smooth, tmp_path / f"x.{kind}", quality=95))
        assert np.abs(got.astype(int) - smooth).mean() < 5


def png(width, height, depth, colour, raw, *chunks):
    "A PNG put together by hand; `raw` are the lines, each with its filter byte."
    def chunk(kind, body):
        return (struct.pack(">I", len(body)) + kind + body
                + struct.pack(">I", zlib.crc32(kind + body)))
    return (b"\x89PNG\r\n\x1a\n"
            + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
            + b"".join(chunk(k, b) for k, b in chunks) + chunk(b"IDAT", zlib.compress(raw)) + chunk(
                b"IEND", b""))


def lines(a): return b"".join(b"\0" + row.tobytes() for row in a)


def test_every_kind_of_png(tmp_path):
    "Grey, palette, alpha, 1 and 16 bits: each against what was put in."
    rgb, grey, opaque = RANDOM[0], RANDOM[0, ..., :1], np.full((32, 32, 1), 255, np.uint8)
    few = np.random.default_rng(1).integers(0, 256, (7, 3), np.uint8)
    index = RANDOM[1, ..., 0] % 7
    palette = (b"PLTE", few.tobytes())
    wide = lambda a: (a.astype(np.uint16) * 257).astype(">u2")
    # the lower eight bits are left out, not rounded
    low = lambda a: (a.astype(np.uint16) * 256 + 129).astype(">u2")
    bits = (grey[..., 0] > 127)
    kinds = {
        "RGB": (png(32, 32, 8, 2, lines(rgb)), rgb),
        "grey": (png(32, 32, 8, 0, lines(grey)), grey.repeat(3, 2)),
        "palette": (png(32, 32, 8, 3, lines(index), palette), few[index]),
        "palette, all opaque": (
            png(32, 32, 8, 3, lines(index), palette, (b"tRNS", bytes([255] * 7))), few[index]),
        "RGB and alpha": (png(32, 32, 8, 6, lines(np.concatenate([rgb, opaque], 2))), rgb),
        "grey and alpha": (png(32, 32, 8, 4, lines(np.concatenate([grey, opaque], 2))),
                           grey.repeat(3, 2)),
        "RGB, 16 bits": (png(32, 32, 16, 2, lines(wide(rgb))), rgb),
        "RGB, 16 bits, low": (png(32, 32, 16, 2, lines(low(rgb))), rgb),
        "grey, 16 bits": (png(32, 32, 16, 0, lines(wide(grey))), grey.repeat(3, 2)),
        "grey, 16 bits, low": (png(32, 32, 16, 0, lines(low(grey))), grey.repeat(3, 2)),
        "1 bit": (png(32, 32, 1, 0, lines(np.packbits(bits, axis=1))),
                  (bits * 255).astype(np.uint8)[..., None].repeat(3, 2)),
    }
    for kind, (raw, want) in kinds.items():
        (tmp_path / "x.png").write_bytes(raw)
        got = read_picture(tmp_path / "x.png")
        assert got.dtype == np.uint8 and got.shape == (32, 32, 3), kind
        np.testing.assert_array_equal(got, want, err_msg=kind)


def test_a_transparent_picture_has_no_known_colours(tmp_path):
    a = np.concatenate([RANDOM[0], np.full((32, 32, 1), 255, np.uint8)], 2)
    a[3, 4, 3] = 254
    index, palette = np.zeros((32, 32), np.uint8), (b"PLTE", bytes(6))
    for raw in (png(32, 32, 8, 6, lines(a)),
                png(32, 32, 8, 3, lines(index), palette, (b"tRNS", b"\0\xff"))):
        (tmp_path / "x.png").write_bytes(raw)
        with pytest.raises(InputError, match="transparent in places") as e:
            read_picture(tmp_path / "x.png")
        one_sentence(e)


def test_a_picture_that_would_fill_the_memory_is_not_decoded(tmp_path):
    "What it claims is asked first; what it hides beyond 32 x 32 pixels is left alone."
    rows = bytes(1 << 20)
    deflate = zlib.compressobj(9)
    # 400 MB in 400 KB
    bomb = b"".join(deflate.compress(rows) for _ in range(400)) + deflate.flush()
    def with_data(width, height, body):
        raw = png(width, height, 8, 2, b"")
        at = raw.index(b"IDAT") - 4
        return (raw[:at] + struct.pack(">I", len(body)) + b"IDAT" + body
                + struct.pack(">I", zlib.crc32(b"IDAT" + body)) + raw[-12:])
    out = io.BytesIO()
    Image.fromarray(RANDOM[0]).save(out, "BMP")
    bmp = bytearray(out.getvalue())
    bmp[18:26] = struct.pack("<ii", 60_000, 60_000)
    note = (b"zTXt", b"k\0\0" + zlib.compress(bytes(60 << 20), 9))
    cases = {"60000 x 60000": png(60_000, 60_000, 8, 2, b"\0" * 99),
             "10000 x 10000": with_data(10_000, 10_000, bomb),
             "20000 x 1": png(20_000, 1, 8, 2, b""),
             "bmp": bytes(bmp), "ppm": b"P6 60000 60000 255\n",
             "a long note": png(32, 32, 8, 2, lines(RANDOM[0]), note),
             "more rows": with_data(32, 32, bomb),
             "over a megabyte": png(32, 32, 8, 2, lines(RANDOM[0])) + bytes(2 << 20)}
    Image.init()
    tracemalloc.start()
    try:
        for name, raw in cases.items():
            (tmp_path / "x.png").write_bytes(raw)
            tracemalloc.reset_peak()
            start = time.process_time()
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                try:
                    assert (read_picture(tmp_path / "x.png").shape == (32, 32, 3)
                            and name in ("more rows", "a long note"))
                except InputError as e:
                    assert str(tmp_path / "x.png") in str(e) and "\n" not in str(e)
            assert tracemalloc.get_traced_memory()[1] < 12 << 20, name
            assert time.process_time() - start < 1, name
    finally: tracemalloc.stop()


NONE = {
    "empty": (b"", "it is empty"),
    "a pointer": (b"version https://git-lfs.github.com/spec/v1\n", "a pointer of Git LFS"),
    "a page": (b"<html>", "a web page"),
    "cut": (png(32, 32, 8, 2, lines(RANDOM[0]))[:900], "damaged"),
    "flipped": (png(32, 32, 8, 2, lines(RANDOM[0])).replace(b"IDAT", b"IDAX"), "damaged"),
    "a Mac's": (b"\0\5\x16\7\0\2", "a Mac's companion"),
    "wide": (png(32, 31, 8, 2, lines(RANDOM[0])[:-97]), "32 x 31 pixels"),
    "large": (png(96, 96, 8, 2, bytes(289 * 96)), "96 x 96 pixels"),
    "an icon": (b"\0\0\1\0\1\0" + bytes(40), "no picture"),
    "eps": (b"%!PS-Adobe-3.0 EPSF-3.0\n", "plain text"),
}


@pytest.mark.parametrize("kind", NONE)
def test_what_is_no_picture_of_cifar(kind, tmp_path):
    raw, why = NONE[kind]
    (tmp_path / "x.png").write_bytes(raw)
    for read in (read_picture, lambda p: read_pictures([p] * 600)):
        with pytest.raises(InputError, match=why) as e: read(tmp_path / "x.png")
        assert str(tmp_path / "x.png") in one_sentence(e)


def test_a_picture_that_is_not_there(tmp_path):
    (tmp_path / "d.png").mkdir()
    (tmp_path / "l.png").symlink_to(tmp_path / "nowhere")
    for name in ("d.png", "l.png", "x.png"):
        with pytest.raises(InputError, match="cannot be read as a picture") as e:
            read_picture(tmp_path / name)
        one_sentence(e)


def test_many_pictures_keep_their_order(tmp_path):
    paths = [save(a, tmp_path / f"{i}.png") for i, a in enumerate(RANDOM)]
    order = np.random.default_rng(2).integers(0, 60, 700)
    got = read_pictures([paths[i] for i in order])
    np.testing.assert_array_equal(got, RANDOM[order].transpose(0, 3, 1, 2))
    assert got.flags.c_contiguous and read_pictures([]).shape == (0, 3, 32, 32)


# -- a set of them
# --------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("ending", ["png", "PNG", "bmp", "webp", "ppm"])
def test_pictures_are_what_load_reads(ending, tmp_path, monkeypatch):
    options = {"lossless": True} if ending == "webp" else {}
    for i in range(40):
        save(RANDOM[i], tmp_path / "d"
             / ("test" if 10 <= i < 20 else "train") / CLASSES[i % 10] / f"{i:04}.{ending}",
             **options)
    x, y, name = data.load_set("train", tmp_path / "d", say=str)
    want = [*range(10), *range(20, 40)]  # the first of each class before the second of any
    assert (name.startswith("pictures-") and y.tolist() == [i % 10 for i in want]
            and x.dtype == torch.uint8 and y.dtype == torch.int64)
    np.testing.assert_array_equal(x, RANDOM[want].transpose(0, 3, 1, 2))
    xt, yt = data.load("test", tmp_path / "d", say=str)
    np.testing.assert_array_equal(xt, RANDOM[10:20].transpose(0, 3, 1, 2))
    monkeypatch.setenv("CIFAR_NB_DATA", str(tmp_path / "d"))
    said = []
    assert torch.equal(data.load("test", say=said.append)[0],
                       xt) and "pictures in" in said[0] and len(said) == 1
    both = images_.load_images(say=str)
    assert (torch.equal(both.x, x) and torch.equal(both.yt, yt) and both.test == "test set"
            and both.classes == CLASSES and both.name == name)


def test_no_two_picture_sets_have_one_name_wherever_they_lie(tmp_path):
    for name, n in zip("abc", (40, 40, 39)): labelled(tmp_path / name, n)
    name = data.load_set("train", tmp_path / "a", say=str).name
    assert (data.load_set("test", tmp_path / "a", say=str).name
            == data.load_set("train", tmp_path / "b", say=str).name == name)
    assert data.load_set("test", tmp_path / "c", say=str).name != name


def test_sets_of_other_pixels_have_other_names_where_every_file_has_one_size(tmp_path):
    for name in "ab": labelled(tmp_path / name, ending="bmp")
    save(255 - RANDOM[0], tmp_path / "b/train/0.bmp")
    sizes = {p.stat().st_size for p in tmp_path.rglob("*.bmp")}
    names = {data.load_set("test", tmp_path / n, say=str).name for n in "ab"}
    assert len(sizes) == 1 and len(names) == 2


def test_without_test_pictures_one_in_ten_is_set_aside(tmp_path):
    labelled(tmp_path / "d", 40)
    x, y, name = data.load_set("train", tmp_path / "d", say=str)
    xt, yt, _ = data.load_set("test", tmp_path / "d", say=str)
    assert (len(x), len(xt)) == (36, 4)
    both = sorted(map(bytes, torch.cat([x, xt]).permute(0, 2, 3, 1).numpy()))
    assert (both == sorted(map(bytes, RANDOM[:40]))
            and torch.equal(data.load_set("test", tmp_path / "d", say=str).x, xt))
    kept, held = data.split([i % 10 for i in range(40)], 4)
    assert yt.tolist() == (held % 10).tolist()
    assert images_.load_images(tmp_path / "d", say=str).test == "training images, set aside"
    few = labelled(tmp_path / "few", 9)
    with pytest.raises(InputError, match="has 9 pictures: add more"):
        data.load("train", few, say=str)


def test_files_that_are_no_pictures_are_passed_over(tmp_path):
    folder = picture_set(tmp_path / "d")
    for part in ("train", "test"):
        for c in CLASSES:
            (folder / part / c).mkdir(parents=True, exist_ok=True)
            for name in ("._0000.png", ".hidden.png", "Thumbs.db", "notes.txt", "0001.png.txt"):
                (folder / part / c / name).write_bytes(b"\0\5\x16\7")
            (folder / part / c / "folder.png").mkdir()
    assert (len(data.load("train", folder, say=str)[0]) == 30
            and len(data.load("test", folder, say=str)[0]) == 10)


def test_a_class_without_pictures_is_named(tmp_path):
    folder = picture_set(tmp_path / "d")
    for name in ("frog", "ship"):
        for p in (folder / "train" / name).iterdir(): p.rename(p.with_suffix(".jp2"))
    with pytest.raises(InputError,
                       match=r"no pictures \(.png.* of frog, ship: add the dataset again") as e:
        data.load("train", folder, say=str)
    assert str(folder / "train") in one_sentence(e)
    with pytest.raises(InputError, match="frog, ship"): images_.load_images(folder, say=str)
    assert [complaint(d, CLASSES) for d in (picture_set(tmp_path / "good"), tmp_path)] == ["", None]


def test_test_folders_that_are_empty_are_no_test_set(tmp_path):
    folder = picture_set(tmp_path / "d", tests=False)
    for c in CLASSES: (folder / "test" / c).mkdir(parents=True)
    assert (pictures_to_test(folder, CLASSES) == []
            and len(data.load("test", folder, say=str)[0]) == 4)


TABLES = {
    "as it was": (lambda t: t, True), "of Windows": (lambda t: t.replace("\n", "\r\n"), True),
    "with a mark": (lambda t: "\ufeff" + t, True),
    "with blanks": (lambda t: t.replace(",frog", ", frog "), True),
    "in quotes": (lambda t: t.replace("frog", '"frog"'), True),
    "with more columns": (lambda t: t.replace("label\n", "label,source\n"), True),
    "the other way round": (
              lambda t: "".join(",".join(reversed(l.split(","))) + "\n" for l in t.split()), True),
    "of CIFAR-100": (lambda t: t.replace("frog", "apple"), "it says 'apple'"),
    "of other columns": (lambda t: t.replace("id,", "file,"), "not a table of id and label"),
    "empty": (lambda t: " ", "not a table|it is empty"),
    "only a head": (lambda t: "id,label\n", "it is empty"),
    "cut": (lambda t: t[:-3], "it says 'tru'|it says"),
    "out of the folder": (lambda t: t.replace("\n7,", "\n../7,"), "an id '../7'"),
    "latin": (lambda t: t.encode("latin1") + b"\xe4", "not text in UTF-8"),
    "of bytes": (lambda t: b"\0\1" + t.encode(), "not a table"),
    "with a row twice": (lambda t: t + "7,frog\n", "it lists '7' twice"),
    "with two labels of one": (lambda t: t + "7,cat\n", "it lists '7' twice"),
    "with a gap": (lambda t: t.replace("\n7,", "\n,"), "an id ''"),
    "of more pictures": (lambda t: t + "40,cat\n41,cat\n", "lacks 2 of the 42 pictures"),
    "a field without an end": (lambda t: t + '"' + "x" * 200_000, "not a table"),
}


@pytest.mark.parametrize("kind", TABLES)
def test_tables(kind, tmp_path):
    change, works = TABLES[kind]
    folder = labelled(tmp_path / "d",
                      table=change("id,label\n"
                                   + "".join(f"{i},{CLASSES[i % 10]}\n" for i in range(40))))
    if works is True:
        files = training_pictures(folder, CLASSES)
        np.testing.assert_array_equal(
            read_pictures([p for p, _ in files]), RANDOM[:40].transpose(0, 3, 1, 2))
        assert [k for _, k in files] == [i % 10 for i in range(40)]
        return
    with pytest.raises(InputError, match=works) as e: data.load("train", folder, say=str)
    one_sentence(e)


@pytest.mark.parametrize("ending", ["jpg", "bmp", "PNG"])
def test_a_table_of_pictures_of_another_kind(ending, tmp_path):
    if ending == "PNG" and os.name == "nt":
        pytest.skip("names differ in more than the case of their letters")
    folder = labelled(tmp_path / "d", ending=ending)
    if ending == "PNG":
        with pytest.raises(InputError, match="no pictures for it"):
            data.load("train", folder, say=str)
    else: assert len(data.load("train", folder, say=str)[0]) == 36


# -- which of several
# --------------------------------------------------------------------------------------------------

def batches(folder, monkeypatch):
    "Six tiny batch files, which the table of md5 knows."
    import hashlib
    import pickle
    folder.mkdir(parents=True)
    for k, name in enumerate(data.MD5):
        (folder / name).write_bytes(
            pickle.dumps({b"data": RANDOM[k:k + 3].reshape(3, 3072), b"labels": [k, 1, 2]}))
    monkeypatch.setattr(data, "MD5",
                        {name: hashlib.md5((folder / name).read_bytes()).hexdigest()
                         for name in data.MD5})
    return folder


def test_whole_batches_come_before_pictures_and_pictures_before_damaged_batches(
    tmp_path, monkeypatch):
    pictures, far = (picture_set(tmp_path / "d" / "a"),
                     batches(tmp_path / "d" / "b" / "c", monkeypatch))
    assert (data.find(tmp_path / "d", say=str) == far
            and data.load_set("test", tmp_path / "d", say=str).name == "cifar10")
    (far / "data_batch_2").write_bytes(b"cut")
    assert (data.find(tmp_path / "d", say=str) == pictures
            and data.load_set("test", tmp_path / "d", say=str).name.startswith("pictures-"))


def test_a_set_without_pictures_does_not_hide_one_that_has_them(tmp_path):
    broken = tmp_path / "kaggle" / "a"
    broken.mkdir(parents=True)
    (broken / "trainLabels.csv").write_text("id,label\n1,frog\n", encoding="utf-8")
    with pytest.raises(InputError, match="train.7z is unpacked"): images_.load_images(say=str)
    with pytest.raises(InputError, match="train.7z is unpacked"):
        data.load("train", broken, say=str)
    good = picture_set(tmp_path / "kaggle" / "b" / "c")
    assert data.find(download=False, say=str) == good and len(images_.load_images(say=str).x) == 30


def test_mounted_pictures_come_after_batches_in_the_cache_and_before_the_internet(
    tmp_path, monkeypatch):
    picture_set(tmp_path / "kaggle" / "x")
    # and nothing was asked of the internet
    assert data.load_set("train", say=str).name.startswith("pictures-")
    home = batches(tmp_path / "cache" / "py", monkeypatch)
    assert data.find(say=str) == home and data.load_set("train", say=str).name == "cifar10"
    (home / "test_batch").write_bytes(b"cut")
    assert data.load_set("train", say=str).name.startswith("pictures-")


def test_chapters_take_pictures_only_where_they_are_named(tmp_path):
    folder, said = picture_set(tmp_path / "kaggle" / "x"), []
    assert len(data.load_or_toy("test", say=said.append)[0]) == 1000 and "toy" in said[0]
    assert len(data.load_or_toy("test", folder, say=str)[0]) == 10


def test_the_file_of_the_course_is_found_and_hidden_ones_are_not(tmp_path):
    top = tmp_path / "kaggle"
    assert images_.find_competition() is None
    (top / "a" / "b").mkdir(parents=True)
    (top / "a" / "cifar_test_folder.pkl").mkdir()
    for name in ("._cifar_test_nolabel.pkl", "cifar_test_nolabel.pkl.part", "my_cifar_test.pkl",
                 "b/cifar_test_nolabels.pkl"):
        (top / "a" / name).touch()
    (top / "a" / "b" / "cifar_test_nolabels.pkl").write_bytes(
        pickle.dumps({"data": data.toy(2)[0].numpy()}))
    os.symlink(top, top / "a" / "circle")
    assert images_.find_competition() == top / "a" / "b" / "cifar_test_nolabels.pkl"
    assert images_.find_competition(top / "a") == top / "a" / "b" / "cifar_test_nolabels.pkl"


def test_read_only_places_are_fine(tmp_path):
    folder = picture_set(tmp_path / "d")
    for p in [*folder.rglob("*"), folder]: p.chmod(0o555 if p.is_dir() else 0o444)
    assert len(data.load("train", folder, say=str)[0]) == 30
    for p in [folder, *folder.rglob("*")]: p.chmod(0o755)
