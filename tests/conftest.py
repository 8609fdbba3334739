"""What several files of tests need."""
import os

import pytest
import torch


SURROUNDINGS = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST")}


def pytest_collection_finish(session):
    "A file of tests that changes the environment by being imported would change what all the others test."
    now = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST")}
    changed = sorted(k for k in SURROUNDINGS.keys() | now if SURROUNDINGS.get(k) != now.get(k))
    if changed: raise pytest.UsageError(f"The import of a file of tests has changed {', '.join(changed)}.")


@pytest.fixture
def threads():
    "Sets the number of threads, which is put back afterwards."
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)
