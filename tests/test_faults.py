"""A part of `python tests/faults.py`: disks that fail and processes that are killed at chosen file
operations lead to what is led to undisturbed."""
import os

import pytest

if os.name != 'posix': pytest.skip('forks', allow_module_level=True)
import faults

PARTS = [('train', ('kill', 'half', 'enospc'), 12), ('progress', ('kill', 'full'), 2),
         ('study', ('kill', 'enospc'), 3),
         ('migrate', ('kill',), 7), ('publish', ('kill',), 5)]


@pytest.fixture(scope='module')
def world(tmp_path_factory):
    here = tmp_path_factory.mktemp('faults')
    made = faults.child(lambda: None, here / 'nothing')  # a platform that cannot fork says so here
    assert made.status == 0, made.last
    return faults.World(here)


@pytest.mark.parametrize('name, modes, every', PARTS, ids=[p[0] for p in PARTS])
def test_nothing_is_lost(world, name, modes, every):
    rows = faults.sweep(world, name, modes, every, say=lambda s: None)
    assert sum(r.tried for r in rows) >= len(modes), 'nothing was tried'
    assert not [problem for r in rows for problem in r.lost]


def test_two_trainings_into_one_new_folder(world):
    row, = faults.repeated(world, 'at once', {'two trainings': faults.two_trainings}, 2,
                           say=lambda s: None)
    assert row.tried == 2 and not row.lost
