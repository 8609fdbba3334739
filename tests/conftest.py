"""What several files of tests need."""
import os

import pytest
import torch

from cifar_nb.blocks import BatchNorm
from cifar_nb.convolution import Conv


SURROUNDINGS = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST")}


def pytest_collection_finish(session):
    "A file of tests that changes the environment by being imported would change what all the others test."
    now = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST")}
    changed = sorted(k for k in SURROUNDINGS.keys() | now if SURROUNDINGS.get(k) != now.get(k))
    if changed: raise pytest.UsageError(f"The import of a file of tests has changed {', '.join(changed)}.")


@pytest.fixture(autouse=True)
def doors():
    "Every test begins with the library's layers and leaves them behind: a training lets the kernels of 03b and 04c in for the whole process."
    Conv.quicker = BatchNorm.quicker = None
    yield
    Conv.quicker = BatchNorm.quicker = None


@pytest.fixture
def threads():
    "Sets the number of threads, which is put back afterwards."
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)
