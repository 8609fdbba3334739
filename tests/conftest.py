"""What several files of tests need."""
import os

import pytest
import torch

try: from xdist.scheduler import LoadScopeScheduling
except ImportError: LoadScopeScheduling = object

WATCHED = ("CIFAR_NB", "KAGGLE", "OMP_", "MPL", "CUDA_", "RANK", "WORLD_SIZE", "LOCAL_RANK",
           "MASTER_", "HOME", "XDG_", "PATH", "PYTHON")


def surroundings(): return {k: v for k, v in os.environ.items() if k.startswith(WATCHED)}


BEFORE = surroundings()


def pytest_collection_finish(session):
    """A file of tests that changes the environment by being imported would change what all the
    others test."""
    now = surroundings()
    changed = sorted(k for k in BEFORE.keys() | now if BEFORE.get(k) != now.get(k))
    if changed:
        raise pytest.UsageError(f"The import of a file of tests has changed {', '.join(changed)}.")


class ByFile(LoadScopeScheduling):
    "The tests of a file go to one process, for they share fixtures; chapters one by one."
    def _split_scope(self, nodeid):
        return nodeid if "test_chapters.py" in nodeid else nodeid.split("::")[0]


@pytest.hookimpl(optionalhook=True, tryfirst=True)
def pytest_xdist_make_scheduler(config, log):
    return ByFile(config, log) if config.getvalue("dist") == "loadfile" else None


@pytest.fixture
def threads():
    "Sets the number of threads, which is put back afterwards."
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)
