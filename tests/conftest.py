"""What several files of tests need."""
import pytest
import torch

from cifar_nb.blocks import BatchNorm
from cifar_nb.convolution import Conv


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
