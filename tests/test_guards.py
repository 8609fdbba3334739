"""What is refused when an argument makes no sense, and with which words: the guards of the modules
that the chapters on augmentation, corruptions, studies and networks export."""
import pytest

from cifar_nb.augment.arguments import count, fraction, number, one_of, pair, require
from cifar_nb.augment.colour import ColorJitter, PilBlur
from cifar_nb.augment.geometry import RandomRotation, Warp, matrix
from cifar_nb.augment.ops import (PAD_MODES, CutMix, MixUp, RandomCrop, RandomErasing,
                                  RandomHorizontalFlip, Resize, Transform, check_images,
                                  transform_from_dict)
from cifar_nb.augment.policies import check_policy
from cifar_nb.augment.preview import at_strength, controls, show_images, show_mixing, sliders
from cifar_nb.bench.augmentation import bench_augment, pillow_way
from cifar_nb.core.errors import InputError
from cifar_nb.data.cifar import toy
from cifar_nb.evaluation.corruptions import corrupt
from cifar_nb.models.airbench import FastSpec
from cifar_nb.studies.ablate import command_ablate
from cifar_nb.studies.ablations import FAST, Scale
from cifar_nb.studies.ladder import run_ladder
from cifar_nb.studies.search import Space, command_search, describe_search, open_study
from cifar_nb.studies.shift import command_shift, train_and_survey

x, y = toy(64)

CALLS = {
    'require': (lambda: require(False, 'RandomCrop', 'padding', -1, '0 or more'),
                'RandomCrop: padding=-1 is not possible'),
    'count': (lambda: count('Cutout', 'size', 0),
              'size=0 is not possible; size must be a whole number, 1 or more'),
    'number': (lambda: number('RandomRotation', 'degrees', -5, 0, 180), 'from 0 to 180'),
    'one of': (lambda: one_of('RandomCrop', 'mode', 'mirror', PAD_MODES),
               'one of zero, reflect, edge'),
    'pair': (lambda: pair('RandomErasing', 'area', (.5, .1), 0, 1),
             'a pair (least, most) from 0 to 1'),
    'fraction': (lambda: fraction('RandomHorizontalFlip', 1.5), 'p must be a number from 0 to 1'),
    'values': (lambda: check_images(x.float(), 'RandomCrop'), 'must stay in 0 to 1'),
    'shape': (lambda: check_images(x[:, :1], 'RandomCrop'), 'N x 3 x H x W'),
    'dtype': (lambda: check_images(x.int(), 'RandomCrop'), 'give uint8 from 0 to 255'),
    'padding': (lambda: RandomCrop(padding=-1), 'RandomCrop: padding=-1'),
    'sizes': (lambda: Resize((4,)), 'Resize'),
    'area': (lambda: RandomErasing(area=(.5, .1)), 'area'),
    'labels': (lambda: MixUp()(x), '64 images came with no labels'),
    'fewer labels': (lambda: CutMix()(x, y[:3]), '64 images came with 3 labels'),
    'a name': (lambda: transform_from_dict({'transform': 'Cutuot'}), "did you mean 'Cutout'?"),
    'hue': (lambda: ColorJitter(hue=.7), 'hue=0.7'),
    'radius': (lambda: PilBlur(radius=(1., 5.)), 'radius'),
    'matrix': (lambda: matrix(Transform(), 1, 32, 32), 'an operation that moves pixels'),
    'degrees': (lambda: RandomRotation(-5), 'degrees=-5'),
    'warp': (lambda: Warp((RandomCrop(mode='reflect'),))(x), 'cannot mirror'),
    'policy': (lambda: check_policy(((('Equalise', .5, None),),)), "did you mean 'Equalize'?"),
    'magnitude': (lambda: check_policy(((('Rotate', .5, 12),),)), 'step 1: magnitude=12'),
    'titles': (lambda: show_images(x, titles=['one']), '1 titles came with 64 images'),
    'strength': (lambda: at_strength('Rotaton'), "did you mean 'RandomRotation'?"),
    'mixing': (lambda: show_mixing(x, y, RandomHorizontalFlip()),
               'RandomHorizontalFlip does not mix'),
    'sharpen': (lambda: pillow_way('Sharpen'), 'an operation that torchvision has'),
    'lists': (lambda: bench_augment(lists=['005']), "lists='005'"),
    'study': (lambda: command_ablate(['optimiser']), 'did you mean optimizer'),
    'seeds': (lambda: command_ablate(['kernel'], seeds=1), 'two seeds or more'),
    'trials': (lambda: command_search(0), '1 or more'),
    'activation': (lambda: FastSpec(activation='swish'), 'choose one of relu'),
    'width': (lambda: FastSpec(widths=(64, 0)), 'at least one channel'),
    'depth': (lambda: FastSpec(depth=4), '2 or 3 convolutions'),
    'ladder images': (lambda: run_ladder(x, y), 'there are 64'),
    'ladder seeds': (lambda: run_ladder(*toy(9000), seeds=0), '--seeds 0'),
    'corruption': (lambda: corrupt(x, 'frog'), 'did you mean fog'),
    'severity': (lambda: corrupt(x, 'fog', 6), 'from 1 to 5'),
    'training': (lambda: train_and_survey('jiter', x, y), 'did you mean jitter'),
    'no run': (lambda: command_shift(), 'name a run'),
    'no network': (lambda: command_shift(['quik']), 'nor a published network'),
    'toy': (lambda: command_shift(trainings=True, data='toy', say=str), 'compares on CIFAR-10'),
    'both': (lambda: command_shift(['quick'], trainings=True), 'leave the runs'),
    'no images': (lambda: command_shift(['quick'], data='toy', images=0, say=str), '--images 0'),
}


@pytest.mark.parametrize('call, words', CALLS.values(), ids=CALLS)
def test_what_makes_no_sense_is_refused_in_a_sentence(call, words):
    with pytest.raises(InputError) as refused: call()
    assert words in str(refused.value)


def test_a_slider_without_a_figure_is_a_mistake():
    with pytest.raises(AttributeError): sliders(lambda seed: None, **controls(seed=3))


def test_a_storage_that_cannot_be_opened_and_another_space(tmp_path):
    pytest.importorskip('optuna')
    scale = Scale('fast', 64, 13, 'toy')
    def described(**more): return describe_search(Space(**more), scale, FAST, x, y, 'cpu')
    with pytest.raises(InputError, match='cannot be used'):
        open_study('sqlite:////no/such/place/search.db', 'fast', described(), 0)
    storage = f'sqlite:///{tmp_path / "search.db"}'
    open_study(storage, 'fast', described(), 0)
    assert not open_study(storage, 'fast', described(), 0).trials  # the same again is opened
    with pytest.raises(InputError, match='another space'):
        open_study(storage, 'fast', described(width=(8, 16)), 0)
