"""What several files of tests need."""
import os

import pytest
import torch

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


@pytest.fixture
def threads():
    "Sets the number of threads, which is put back afterwards."
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)
