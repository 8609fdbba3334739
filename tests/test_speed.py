"""What chapter 41 cannot show: loader workers that start afresh, as on macOS and Windows, get their
data as a pickle."""
import pickle

import pytest
import torch

from cifar_nb.bench.augmentation import RACES, pillow_list
from cifar_nb.bench.training import LabelledPictures, contenders
from cifar_nb.data.cifar import toy

x, y = toy(4)


def copied(thing): return pickle.loads(pickle.dumps(thing))


def same(one, other, make):
    "Whether both give the same image after the same seed."
    images = []
    for thing in (one, other):
        torch.manual_seed(0)
        images.append(make(thing))
    return torch.equal(*images)


@pytest.mark.parametrize("name", RACES)
def test_a_list_of_torchvision_reaches_a_worker(name):
    from torchvision.transforms import ToPILImage
    image, way = ToPILImage()(x[0]), pillow_list(RACES[name])
    assert same(way, copied(way), lambda way: way(image))


@pytest.mark.parametrize("recipe", contenders(), ids=lambda r: r.name)
def test_the_pictures_of_a_contender_reach_a_worker(recipe):
    for phase in recipe.phases:
        pictures = LabelledPictures(x, y, phase)
        assert same(pictures, copied(pictures), lambda pictures: pictures[3][0])
