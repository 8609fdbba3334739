"Files are whole or not there, locks die with their process, readers say what is wrong."
import json
import os
import subprocess
import sys
import time

import pytest

from cifar_nb.core.errors import InputError, check_choice
from cifar_nb.core.files import (check_writable, free_name, is_empty, json_records, locked,
                                 make_folder, read_json, read_lines, read_text, remove_leftovers,
                                 to_json, writable_folder, write_atomic)


def test_a_file_is_written_whole_and_an_unwritable_place_is_one_sentence(tmp_path):
    write_atomic(tmp_path / 'a.txt', 'one ä'); write_atomic(tmp_path / 'a.txt', b'two')
    assert (tmp_path / 'a.txt').read_bytes() == b'two' and [p.name for p in tmp_path.iterdir()] == [
        'a.txt']
    with pytest.raises(InputError, match='cannot be written'):
        write_atomic(tmp_path / 'nowhere' / 'a.txt', 'three')
    for call in (make_folder, writable_folder):
        with pytest.raises(InputError, match='cannot be made') as e: call(tmp_path / 'a.txt' / 'b')
        assert '--out' not in str(e.value)  # which not every command has
    assert writable_folder(tmp_path / 'new' / 'b').is_dir()
    assert list((tmp_path / 'new' / 'b').iterdir()) == []


def test_texts_are_utf8_whatever_the_system_says(tmp_path):
    write_atomic(tmp_path / 'a.txt', 'Größe')
    assert (tmp_path / 'a.txt').read_bytes() == 'Größe'.encode()
    (tmp_path / 'bom.json').write_bytes(b'\xef\xbb\xbf{"a": 1}')
    assert read_json(tmp_path / 'bom.json') == {'a': 1}
    (tmp_path / 'latin.txt').write_bytes('Größe'.encode('latin1'))
    with pytest.raises(InputError, match='not text in UTF-8'): read_text(tmp_path / 'latin.txt')


@pytest.mark.parametrize(
    'raw, why',
    [(b'{"a":', 'not JSON'), (b'', 'is empty'), (b'[1]', 'a list where a dict'),
     (b'3', 'a int where'),
     (b'\xff\xfe{', 'not text'), (b'[' * 100_000, 'not JSON')])
def test_a_damaged_json_is_one_sentence(tmp_path, raw, why):
    (tmp_path / 'x.json').write_bytes(raw)
    with pytest.raises(InputError, match=why): read_json(tmp_path / 'x.json')
    said = []
    (tmp_path / 'good.json').write_text('{"b": 2}', encoding="utf-8")
    assert list(json_records(tmp_path, said.append)) == [(tmp_path / 'good.json', {'b': 2})]
    assert len(said) == 1 and 'x.json' in said[0]


def test_hidden_files_folders_and_dangling_links_are_no_records(tmp_path):
    (tmp_path / '._x.json').write_bytes(b'\0\5\x16\7\0\2\xff')
    (tmp_path / 'folder.json').mkdir()
    (tmp_path / '.a.json.17').touch()
    (tmp_path / 'lost.json').symlink_to(tmp_path / 'nowhere')
    said = []
    assert (list(json_records(tmp_path, said.append)) == [] and len(said) == 1
            and 'lost.json' in said[0])
    assert list(json_records(tmp_path / 'missing')) == []


def test_lines(tmp_path):
    (tmp_path / 'log.jsonl').write_text('{"a": 1}\n{"a": 2}\n', encoding="utf-8")
    assert read_lines(tmp_path / 'log.jsonl') == [{'a': 1}, {'a': 2}]
    (tmp_path / 'log.jsonl').write_text('{"a": 1}\n{"a', encoding="utf-8")
    with pytest.raises(InputError, match='line 2'): read_lines(tmp_path / 'log.jsonl')


def test_numbers_that_are_none_become_null():
    assert json.loads(to_json({'a': [float('nan'), float('inf'), 1.5]})) == {'a': [None, None, 1.5]}


def test_leftovers_and_clutter_do_not_fill_a_folder(tmp_path):
    for name in ('.recipe.json.123', '.DS_Store', 'Thumbs.db', '.lock', '._a'):
        (tmp_path / name).touch()
    (tmp_path / '.ipynb_checkpoints').mkdir()
    assert is_empty(tmp_path)
    remove_leftovers(tmp_path)
    assert not (tmp_path / '.recipe.json.123').exists() and (tmp_path / '.DS_Store').exists()
    (tmp_path / 'a.txt').touch()
    assert not is_empty(tmp_path)


def test_free_names_are_never_given_twice(tmp_path):
    from concurrent.futures import ThreadPoolExecutor
    with ThreadPoolExecutor(8) as pool:
        got = list(pool.map(lambda _: free_name(tmp_path / 'runs' / 'a'), range(16)))
    assert sorted(p.name for p in got) == sorted(['a', *(f'a-{i}' for i in range(2, 17))])
    (tmp_path / 'runs' / 'a-3').rmdir()
    # a gap is free, and what exists is not touched
    assert free_name(tmp_path / 'runs' / 'a').name == 'a-3'


HOLD = ('import sys; from cifar_nb.core.files import locked\nwith locked(sys.argv[1], "busy"): '
        'print("held", flush=True); sys.stdin.read()')


def holder(lock):
    "A process that has `lock`, until it is killed or its stdin is closed."
    p = subprocess.Popen([sys.executable, '-c', HOLD, str(lock)], stdin=subprocess.PIPE,
                         stdout=subprocess.PIPE, encoding='utf-8')
    assert p.stdout.readline() == 'held\n'
    return p


def test_a_lock_is_held_by_a_process_and_freed_by_its_death(tmp_path):
    lock = tmp_path / '.lock'
    p = holder(lock)
    with pytest.raises(InputError, match='in use'):
        with locked(lock, 'in use'): pass
    p.kill(); p.wait()
    with locked(lock, 'in use'): pass


def test_a_lock_can_be_waited_for(tmp_path):
    p, told = holder(tmp_path / '.lock'), []
    def waiting():
        told.append(p.poll())
        p.stdin.close()  # and the other lets go
    with locked(tmp_path / '.lock', 'in use', wait=60, waiting=waiting): assert told == [None]
    assert p.wait() == 0


@pytest.mark.skipif(os.name == 'nt' or os.geteuid() == 0, reason='root may write everywhere')
def test_a_folder_that_cannot_be_written_to_needs_no_lock(tmp_path):
    tmp_path.chmod(0o500)
    with locked(tmp_path / '.lock', 'in use'): pass
    tmp_path.chmod(0o700)


def test_names_are_checked_and_near_ones_suggested():
    check_choice('optimizer', 'SGD', ('SGD', 'AdamW'))
    with pytest.raises(InputError, match='did you mean AdamW'):
        check_choice('optimizer', 'adamw', ('SGD', 'AdamW'))
    with pytest.raises(InputError, match='choose one of'):
        check_choice('optimizer', 'xyz', ('SGD', 'AdamW'))


def test_what_goes_wrong_in_the_middle_changes_nothing(tmp_path, monkeypatch):
    "Bytes go beside the file and to the disk before they take its place."
    import errno
    write_atomic(tmp_path / 'a.txt', 'whole')
    def full(handle): raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    monkeypatch.setattr(os, 'fsync', full)
    with pytest.raises(InputError, match='nothing was changed'):
        write_atomic(tmp_path / 'a.txt', 'half of something longer')
    assert (tmp_path / 'a.txt').read_text(encoding='utf-8') == 'whole'
    assert [p.name for p in tmp_path.iterdir()] == ['a.txt']


def test_what_a_killed_writer_left_goes_with_the_next_write(tmp_path):
    old, fresh, other = (tmp_path / name for name in ('.a.json.123', '.a.json.124', '.notes.2024'))
    for p in (old, fresh, other): p.touch()
    for p in (old, other): os.utime(p, (time.time() - 3600,) * 2)
    write_atomic(tmp_path / 'a.json', '{}')
    # a writer may be at work, and other hidden files are not ours
    assert not old.exists() and fresh.exists() and other.exists()


def test_a_place_is_tried_before_the_work(tmp_path):
    "Without a trace, and with what is there left alone."
    (tmp_path / "old.json").write_text("old", encoding="utf-8")
    for fine in (tmp_path / "new.json", tmp_path / "old.json", None): check_writable(fine)
    assert [f.name for f in tmp_path.iterdir()] == ["old.json"]
    assert (tmp_path / "old.json").read_text(encoding="utf-8") == "old"
    for bad in (".", "/", tmp_path, tmp_path / "no/such/folder.json", tmp_path / "old.json/x"):
        with pytest.raises(InputError, match="cannot be written"): check_writable(bad)


@pytest.mark.parametrize("name", ["train", "predict", "parts"])
def test_a_race_is_not_run_for_nothing(name, monkeypatch, tmp_path):
    from cifar_nb.bench import commands
    def ran(*a, **k): raise AssertionError("the race was run, and its figures would be lost")
    monkeypatch.setattr(commands, f"bench_{name}", ran)
    with pytest.raises(InputError, match="cannot be written"):
        getattr(commands, f"command_{name}")(["small"], out=tmp_path / "no/where.json", say=str)
