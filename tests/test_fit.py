"How long a training takes at a given pace, and the longest one that fits."
from pathlib import Path

import pytest
import torch

from cifar_nb.augment.ops import RandomCrop, Resize
from cifar_nb.bench.pace import at_side, measure_pace
from cifar_nb.core.errors import InputError
from cifar_nb.data.cifar import toy
from cifar_nb.evaluation.records import study_records
from cifar_nb.models.resnet import NetSpec
from cifar_nb.recipes.fit import FORWARD, expected_seconds, plan_within, images_by_side, all_sides
from cifar_nb.recipes.house import QUICK
from cifar_nb.recipes.spec import Phase, Recipe, trained

PLAIN = Recipe('plain', NetSpec(widths=(8,), depths=(1,), strides=(2,)),
               (Phase(4, batch_size=100, augment=(RandomCrop(2),)),))
PACE = {16: 1e-4, 32: 4e-4}


def half(recipe):
    "The first half of the epochs at 16 pixels."
    return Recipe('half', recipe.net, (
        Phase(4, batch_size=100, augment=(Resize((16, 16, 32, 32)),)),))


def test_what_an_epoch_shows():
    assert images_by_side(PLAIN, 1000) == [(32, 1000)] * 4
    assert images_by_side(half(PLAIN), 1000) == [(16, 1000)] * 2 + [(32, 1000)] * 2
    assert all_sides(PLAIN) == [32] and all_sides(half(PLAIN)) == [16, 32]
    quick = images_by_side(QUICK, 50_000)
    assert [side for side, _ in quick] == [16, 20, 24, 24, 28, 32, 32, 32]
    assert [n for _, n in quick] == [50_000] * 4 + [35_000] * 4  # then the hard examples only


def test_seconds_by_hand():
    assert expected_seconds(PLAIN, 1000, PACE) == pytest.approx(4 * .4)
    assert expected_seconds(half(PLAIN), 1000, PACE) == pytest.approx(2 * .1 + 2 * .4)
    assert expected_seconds(PLAIN, 1000, PACE, held=300) == pytest.approx(
        4 * .4 + 4 * 300 * 4e-4 * FORWARD)


@pytest.mark.parametrize("seconds, epochs", [(100, 4), (1.6, 4), (1.59, 3), (.8, 2), (.41, 1)])
def test_the_longest_that_fits(seconds, epochs):
    plan = plan_within(PLAIN, seconds, 1000, PACE)
    assert plan[:2] == (epochs, 1000) and plan.seconds <= seconds


def test_only_lengths_that_are_offered():
    assert plan_within(PLAIN, 1.3, 1000, PACE, lengths=(4, 1, 2)).epochs == 2
    assert plan_within(PLAIN, 9, 1000, PACE, lengths=(8, 1)).epochs == 8


def test_fewer_images_where_an_epoch_is_too_long():
    plan = plan_within(PLAIN, .25, 1000, PACE)
    assert plan == (1, 600, pytest.approx(.24))
    assert plan_within(PLAIN, 1e-9, 1000, PACE)[:2] == (1, 100)  # a batch at least
    assert plan_within(PLAIN, 1e-9, 60, PACE)[:2] == (1, 60)
    held = plan_within(PLAIN, .25, 1000, PACE, held=300)
    assert held.images == 500 and held.seconds <= .25
    with pytest.raises(InputError, match='more than 0'): plan_within(PLAIN, 0, 1000, PACE)


def test_the_machine_that_needs_327_seconds():
    "A pace that is the same for each pixel, as a slow processor has it."
    whole = expected_seconds(QUICK, 50_000, {s: s * s for s in all_sides(QUICK)})
    slow = {s: s * s * 327 / whole for s in all_sides(QUICK)}
    assert expected_seconds(QUICK, 50_000, slow) == pytest.approx(327)
    plan = plan_within(QUICK, 100, 45_000, slow, (1, 2, 3, 4, 6, 8), held=5000)
    assert plan.epochs in (2, 3) and 50 < plan.seconds <= 100


def test_a_recipe_at_one_side():
    assert images_by_side(at_side(QUICK, 20), 10)[0] == (20, 10)
    assert [type(o).__name__ for o in at_side(QUICK, 20).phases[0].augment] == [
        type(o).__name__ for o in QUICK.phases[0].augment]
    assert at_side(PLAIN, 16).phases[0].augment == (RandomCrop(2), Resize((16,)))


def test_a_pace_is_measured_and_no_random_number_is_drawn():
    x, y = toy(300)
    before = torch.get_rng_state()
    pace = measure_pace(half(PLAIN), x, y, steps=1, device='cpu')
    assert list(pace) == [16, 32] and all(0 < s < 1 for s in pace.values())
    assert torch.equal(torch.get_rng_state(), before)


def test_the_recorded_lengths_are_of_quick_and_longer_is_better():
    found = study_records(Path(__file__).parent.parent / 'results/lengths')
    by_length = {}
    for r in found:
        assert r['manifest']['recipe'] == trained(QUICK.with_epochs(r['epochs']))
        assert r['manifest']['validation']['images'] == 5000
        by_length.setdefault(r['epochs'], []).append(r['accuracy'])
    means = [sum(by_length[n]) / len(by_length[n]) for n in sorted(by_length)]
    assert len(means) > 2 and means == sorted(means) and means[0] > 70


def test_without_images_and_without_a_download_the_toy_set_stands_in(monkeypatch, tmp_path):
    from cifar_nb.cli.commands import images_of
    from cifar_nb.data import cifar
    monkeypatch.delenv('CIFAR_NB_DATA', raising=False)
    for name in ('CIFAR_NB_CACHE', 'KAGGLE_INPUT'): monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.setattr(cifar, 'fetch', lambda *args, **kwargs: pytest.fail('a download'))
    said = []
    x, y, name = images_of('train', say=said.append, download=False)
    assert name == 'toy' and len(x) == len(y) == 5000
    assert 'toy set stands in' in said[-1] and 'no download was allowed' in said[-1]


def test_the_recorded_lengths_are_those_that_the_command_trains():
    "Each record answers for its length of quick, on 45,000 images with 5,000 for validation."
    from cifar_nb.studies.lengths import lengths
    folder = Path(__file__).parents[1] / "results/lengths"
    found = {r["variation"]: r for r in study_records(folder)}
    assert set(found) == set(lengths())
    for name, recipe in lengths().items():
        m = found[name]["manifest"]
        assert m["recipe"] == trained(recipe) and m["data"]["images"] == 50_000
        assert m["validation"]["images"] == 5000 and found[name]["epochs"] == int(name[0])
