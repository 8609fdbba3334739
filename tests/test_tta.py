"""What chapter 09 need not show: names, weights and submissions that are refused, and in which
words."""
import pytest
import torch

from cifar_nb.core.errors import InputError
from cifar_nb.data.cifar import toy
from cifar_nb.evaluation.tta import (VIEW_SETS, VIEWS, check_views, mean_of_views, predict_views,
                                     read_submission, write_submission)
from cifar_nb.models.resnet import NetSpec
from cifar_nb.recipes.spec import Optimizer, Phase, Schedule

PHASE = Phase(1, Optimizer(lr=.05), Schedule(), batch_size=50)


@pytest.mark.parametrize("names, match", [
    (["flp"], "did you mean flip"), ([], "no views"), ("twelve", "no set of views")])
def test_unknown_transforms_are_refused(names, match):
    with pytest.raises(InputError, match=match): check_views(names)


def test_every_set_has_known_transforms():
    for names in VIEW_SETS.values(): assert check_views(list(names)) == names
    assert check_views([*VIEWS]) == tuple(VIEWS)


def test_each_transform_has_its_weight():
    net, x = NetSpec(widths=(8,), depths=(1,), strides=(2,)).build(), toy(4)[0]
    with pytest.raises(InputError, match="2 numbers"):
        predict_views(net, x, PHASE, weights=[1])
    answers = torch.zeros(2, 4, 10)
    for weights in ([1], [1, 2, 3], [0, 0], [1, -1]):
        with pytest.raises(InputError, match="2 numbers"): mean_of_views(answers, weights)


def test_a_submission_is_not_written_over(tmp_path):
    path = write_submission(tmp_path / "a.csv", torch.arange(2), torch.tensor([3, 4]))
    with pytest.raises(InputError, match="already there"):
        write_submission(path, torch.arange(2), torch.tensor([1, 2]))
    assert read_submission(path)[1].tolist() == [3, 4]
    write_submission(path, torch.arange(2), torch.tensor([1, 2]), overwrite=True)
    assert read_submission(path)[1].tolist() == [1, 2]


@pytest.mark.parametrize("match, ids, labels", [
    ("twice", torch.tensor([3, 3]), torch.tensor([1, 2])),
    ("from 0 to 9", torch.tensor([3, 4]), torch.tensor([1, 10])),
    ("whole numbers", torch.arange(2), torch.rand(2))])
def test_rows_that_kaggle_would_refuse_are_not_written(match, ids, labels, tmp_path):
    with pytest.raises(InputError, match=match): write_submission(tmp_path / "b.csv", ids, labels)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("match, text", [
    ("begins with id,label", "id,label\n1,2\n"),
    ("not two whole numbers", "ID,Labels\n1,2,3\n4,5,6\n")])
def test_a_file_that_is_no_submission(match, text, tmp_path):
    (tmp_path / "b.csv").write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=match): read_submission(tmp_path / "b.csv")
