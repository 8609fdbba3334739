"""What the cells of chapters 08, 08a, 08b and 09 cannot show: odd inputs, many networks, hostile
submissions, and oracles over random cases."""
import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter
from torch.nn import functional as F

from cifar_nb.core.errors import InputError
from cifar_nb.data.cifar import SHAPES, toy
from cifar_nb.evaluation.calibration import calibration_floor, fit_temperature, run_temperature
from cifar_nb.evaluation.inside import (class_activation, feature_maps, overlay, pair_mistakes,
                                        show_attention)
from cifar_nb.evaluation.report import (calibration_error, evaluate, metrics, paired_gain,
                                        reliability, show_reliability, worst_mistakes)
from cifar_nb.evaluation.tta import (VIEW_SETS, VIEWS, check_views, colour_blur, learn_weights,
                                     mean_of_views, predict_views, read_submission, same_answers,
                                     view, view_gains, view_logits, write_submission)
from cifar_nb.models.resnet import NetSpec
from cifar_nb.recipes.spec import Optimizer, Phase, Recipe, Schedule
from cifar_nb.training.checkpoints import Run
from cifar_nb.training.loop import predict
from cifar_nb.training.train import train

SMALL = NetSpec(widths=(8, 16), depths=(1, 1), strides=(2, 2))
PHASE = Phase(1, Optimizer(lr=.05), Schedule(), batch_size=50)


def generator(seed=0): return torch.Generator().manual_seed(seed)


# calibration

def ece(p, y, bins=15):
    "The definition, a bin at a time, in numpy."
    sure, said, total = p.max(1), p.argmax(1), 0
    for k in range(bins):
        i = (sure > k / bins) & (sure <= (k + 1) / bins)
        if i.any(): total += i.sum() * abs((said == y)[i].mean() - sure[i].mean())
    return 100 * total / len(y)


@given(st.integers(1, 300), st.integers(2, 12), st.integers(1, 30), st.floats(.1, 8),
       st.integers(0, 10**6))
@settings(max_examples=60, deadline=None)
def test_ece_is_its_definition(n, classes, bins, scale, seed):
    logits = scale * torch.randn(n, classes, dtype=torch.float64, generator=generator(seed))
    y = torch.randint(classes, (n,), generator=generator(seed + 1))
    assert calibration_error(logits, y, bins) == pytest.approx(
        ece(logits.softmax(1).numpy(), y.numpy(), bins), abs=1e-6)
    assert reliability(logits, y, bins).images.sum() == n


def test_certain_answers_fall_into_the_last_bin():
    logits, y = torch.eye(10)[:4] * 1e4, torch.tensor([0, 1, 2, 9])
    assert reliability(logits, y).images[-1] == 4
    assert calibration_error(logits, y) == pytest.approx(25)
    # said 0, right, with 10%
    assert calibration_error(
        -torch.zeros(8, 10), torch.zeros(8, dtype=torch.int64)) == pytest.approx(90)


def test_half_precision_logits_are_read_as_they_are():
    logits, y = (torch.randn(200, 10, generator=generator()),
                 torch.randint(10, (200,), generator=generator()))
    assert calibration_error(logits.bfloat16(), y) == pytest.approx(
        calibration_error(logits.bfloat16().float(), y))


@pytest.mark.parametrize("factor", [.1, .5, 1, 4, 15])
def test_a_known_temperature_is_found(factor):
    z = 2 * torch.randn(20_000, 10, generator=generator())
    y = torch.multinomial(z.softmax(1), 1, generator=generator(1)).flatten()
    T = fit_temperature(factor * z, y)
    assert T == pytest.approx(factor, rel=.04)
    assert torch.equal((factor * z / T).argmax(1), z.argmax(1))


@pytest.mark.parametrize("scale", [1e-3, 1, 1e3])
def test_temperatures_stay_in_bounds(scale):
    z = scale * torch.randn(300, 10, generator=generator())
    for y in (z.argmax(1), z.argmin(1), torch.zeros(300, dtype=torch.int64)):
        assert 1 / 20 - 1e-9 <= fit_temperature(z, y) <= 20 + 1e-9
    assert fit_temperature(z[:1], z[:1].argmax(1)) > 0


def test_the_floor_is_what_perfect_networks_get():
    z = torch.randn(500, 10, generator=generator())
    assert 0 < calibration_floor(z) < 12 and calibration_floor(z) == calibration_floor(z)
    assert calibration_floor(torch.eye(10) * 1e4) == pytest.approx(0, abs=1e-6)


def test_reliability_can_be_drawn_side_by_side():
    z, y = (torch.randn(50, 10, generator=generator()),
            torch.randint(10, (50,), generator=generator()))
    assert len(show_reliability(z, y).axes) == 2
    assert len(show_reliability({"a": z, "b": z / 2, "c": z / 3}, y).axes) == 6


def test_a_gain_has_no_error_where_nothing_differs():
    z, y = (torch.randn(50, 10, generator=generator()),
            torch.randint(10, (50,), generator=generator()))
    assert paired_gain(z, z, y) == (0, 0)
    gain, back = paired_gain(z, -z, y), paired_gain(-z, z, y)
    assert gain[0] == -back[0] and gain[1] == pytest.approx(back[1])
    with pytest.raises(InputError, match="no images"): paired_gain(z[:0], z[:0], y[:0])


# a run, evaluated

@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out, (x, y) = tmp_path_factory.mktemp("run") / "demo", toy(300)
    train(Recipe("demo", SMALL, (PHASE,)), x, y, out, holdout=50, device="cpu", progress=False,
          say=str)
    return Run(out), x, y


def test_the_page_has_a_line_a_fact_and_all_its_pictures(run):
    r, x, y = run
    m = evaluate(r, *toy(200, seed=9), device="cpu", classes=list(SHAPES), name="toy test set")
    text = (r.path / "report.md").read_text(encoding="utf-8")
    assert f"| calibration error | {m['ece']:.2f} points" in text
    assert text.count("\n| accuracy |") == 1
    for line in text.splitlines():
        if line.startswith("!["):
            assert (r.path / line.split("(")[1].rstrip(")")).stat().st_size > 1000
    assert (r.path / "reliability.png").exists() and r.result["test"]["ece"] == m["ece"]


def test_the_page_tells_the_networks_own_probabilities(run):
    r, x, y = run
    xt, yt = toy(200, seed=9)
    logits = predict(r.load_net("cpu"), xt, PHASE)
    m = evaluate(r, xt, yt, logits, classes=list(SHAPES), tta=("identity", "flip"))
    assert m["ece"] == calibration_error(logits, yt)
    assert json.loads(
        (r.path / "result.json").read_text(
            encoding="utf-8"))["test, mean of identity, flip"]["ece"] == m["ece"]


def test_the_temperature_of_a_run_needs_its_own_images(run, tmp_path):
    r, x, y = run
    assert 1 / 20 <= run_temperature(r, x, y, "cpu") <= 20
    with pytest.raises(InputError, match="give the same ones"): run_temperature(r, x[:100], y[:100])
    train(Recipe("demo", SMALL, (PHASE,)), x, y, tmp_path / "all", device="cpu", progress=False,
          say=str)
    with pytest.raises(InputError, match="train with --holdout"):
        run_temperature(tmp_path / "all", x, y)


def test_metrics_know_classes_that_do_not_occur():
    m = metrics(torch.eye(10)[:2], torch.tensor([0, 1]))
    assert (m["classes"]["truck"] == dict(precision=0, recall=0, f1=0, images=0)
            and m["accuracy"] == 100)


def test_without_images_there_is_nothing_to_measure():
    "Metrics, calibration error and temperature of none."
    z, y = (torch.randn(20, 10, generator=generator()),
            torch.randint(10, (20,), generator=generator()))
    with pytest.raises(InputError, match="no images"): metrics(z[:0], y[:0])
    with pytest.raises(InputError, match="no answers"): calibration_error(z[:0], y[:0])
    with pytest.raises(InputError, match="no images"): fit_temperature(z[:0], y[:0])


def test_a_temperature_is_fitted_on_the_runs_own_images(run):
    r, x, y = run
    with pytest.raises(InputError, match="was trained with 300"):
        run_temperature(r, x[:250], y[:250])


# class activation

SPECS = [SMALL, NetSpec(widths=(8, 16), depths=(1, 1), strides=(1, 2), block="plain"),
         NetSpec(widths=(8, 16), depths=(1, 2), strides=(2, 2), se=4, dropout=.5),
         NetSpec(widths=(8, 12, 16), depths=(1, 1, 0), strides=(2, 2, 2), classes=7),
         NetSpec(widths=(8,), depths=(1,), strides=(1,), shortcut_kernel=3),
         NetSpec(widths=(8, 16), depths=(1, 1), strides=(2, 2), block="preact")]


@pytest.mark.parametrize("spec", SPECS)
def test_the_mean_of_the_map_is_the_logit(spec):
    torch.manual_seed(0)
    net, x = spec.build(), toy(12)[0]
    net.train()
    k = torch.arange(12) % spec.classes
    maps = class_activation(net, x, PHASE, k)
    assert net.training and not net.stages._forward_hooks
    with torch.no_grad():
        logits = net.eval()(
            (x.float() / 255 - torch.tensor(PHASE.mean).view(3, 1, 1)) / torch.tensor(
                PHASE.std).view(3, 1, 1))
    assert torch.allclose(maps.mean((1, 2)) + net.linear.bias[k].detach(),
                          logits.gather(1, k[:, None]).flatten(), atol=1e-4)


def test_maps_need_a_class_of_the_network_and_a_last_linear_layer():
    net, x = SMALL.build(), toy(2)[0]
    with pytest.raises(InputError, match="knows 0 to 9"): class_activation(net, x, PHASE, 10)
    with pytest.raises(InputError, match="does not end in"):
        class_activation(torch.nn.Sequential(torch.nn.Linear(2, 2)), x, PHASE, 3)
    with pytest.raises(InputError, match="average pooling"):
        class_activation(NetSpec((8,), (1,), (1,), pool="max").build(), x, PHASE, 3)


def test_the_most_confident_errors_come_first_even_where_float32_rounds_to_one():
    "Gaps of 20, 30 and 25 between the wrong class and the true one."
    logits, y = torch.zeros(3, 10), torch.full((3,), 3)
    logits[:, 5] = torch.tensor([20., 30., 25.])
    assert logits.softmax(1)[1:, 5].tolist() == [1, 1]
    assert worst_mistakes(logits, y).tolist() == [1, 2, 0]
    assert pair_mistakes(logits, y, 3, 5).tolist() == [1, 2, 0]


def test_hooks_are_removed_when_the_network_fails():
    net = SMALL.build()
    with pytest.raises(RuntimeError):
        feature_maps(net, torch.zeros(2, 5, 32, 32, dtype=torch.uint8), PHASE)
    assert not net.stages._forward_hooks


def test_no_mistakes_no_pictures():
    net, (x, y) = SMALL.build(), toy(6)
    assert pair_mistakes(torch.eye(10)[y], y, 3, 5).tolist() == []
    assert class_activation(net, x[:0], PHASE, 3).shape[0] == 0
    assert show_attention(net, x[:0], y[:0], PHASE) is not None
    assert overlay(x, torch.zeros(6, 4, 4)).isfinite().all()


# views

@given(st.integers(1, 3), st.sampled_from([.3, .7, 1., 1.5, 2.5]), st.integers(0, 10**6))
@settings(max_examples=25, deadline=None)
def test_the_colour_blur_is_scipys(n, sigma, seed):
    x = torch.randint(256, (n, 3, 32, 32), dtype=torch.uint8, generator=generator(seed))
    want = np.stack([gaussian_filter(im, sigma) for im in x.permute(0, 2, 3, 1).numpy()])
    got = colour_blur(x, sigma).permute(0, 2, 3, 1).numpy()
    assert np.abs(got.astype(int) - want).max() <= 1 and (got != want).mean() < 1e-2
    real = gaussian_filter(x[0].permute(1, 2, 0).double().numpy(), sigma)
    assert np.allclose(colour_blur(x[:1].double(), sigma)[0].permute(1, 2, 0).numpy(), real,
                       atol=1e-9)


@pytest.mark.parametrize("name", sorted({*VIEWS, *(v for s in VIEW_SETS.values() for v in s)}))
def test_views_keep_shape_and_type_and_leave_the_images_alone(name):
    x = toy(5)[0]
    before = x.clone()
    out = view(x, name)
    assert out.shape == x.shape and out.dtype == x.dtype and torch.equal(x, before)
    assert torch.equal(view(x[2:3], name), out[2:3])  # an image does not depend on its neighbours
    assert view(x[:0], name).shape == (0, 3, 32, 32)


def test_a_plain_image_stays_plain_in_every_view():
    x = torch.full((2, 3, 32, 32), 200, dtype=torch.uint8)
    for name in VIEWS: assert (view(x, name).int() - 200).abs().max() <= 1, name


def test_the_five_views_of_report_002():
    net, x = SMALL.build(), toy(20)[0]
    images = [x, x.flip(-1), x.flip(-2), x, colour_blur(x)]
    by_hand = torch.stack([predict(net, im, PHASE) for im in images]).mean(0)
    assert torch.allclose(predict_views(net, x, PHASE, "five"), by_hand, atol=1e-5)
    weighted = predict_views(
        net, x, PHASE, ("identity", "flip", "vflip", "colour blur"), weights=(2, 1, 1, 1))
    assert torch.allclose(weighted, by_hand, atol=1e-5)


def test_views_are_asked_in_pieces():
    net, x = SMALL.build(), toy(2100)[0]
    assert torch.allclose(view_logits(net, x, PHASE, ["flip"])[0], predict(net, x.flip(-1), PHASE),
                          atol=2e-2)
    assert view_logits(net, x[:0], PHASE, "pair").shape == (2, 0, 10)


@pytest.mark.parametrize(
    "views, match",
    [("flip", "no set of views"), ([], "no views"), (["identity", "flip+lft"], "did you mean left"),
     ((), "no views")])
def test_unknown_views_are_named(views, match):
    with pytest.raises(InputError, match=match): check_views(views)


def useful(n=3000, seed=0):
    "Two noisy looks at the truth, and one at nothing."
    y = torch.randint(10, (n,), generator=generator(seed))
    look = lambda noise, s: 2 * F.one_hot(y, 10) + noise * torch.randn(
        n, 10, generator=generator(s))
    return torch.stack(
        [look(1., seed + 1), look(1.4, seed + 2),
         torch.randn(n, 10, generator=generator(seed + 3))]), y


@pytest.mark.parametrize("mean", ["logits", "probabilities"])
def test_a_useless_view_gets_no_weight(mean):
    answers, y = useful()
    w = learn_weights(answers, y, mean)
    assert w.sum() == pytest.approx(1, abs=1e-5) and w[2] < .02 and w[0] > w[1] > 0
    turned = learn_weights(answers.flip(0), y, mean)
    assert torch.allclose(turned.flip(0), w, atol=1e-2)
    loss = lambda w: F.nll_loss(mean_of_views(answers, w, mean).log_softmax(1), y).item()
    assert all(loss(w) <= loss(torch.tensor(other)) + 1e-4
               for other in ([1., 1., 1.], [1., 0, 0], [0, 1., 0], [.7, .3, 0]))


def test_equal_views_share_their_weight():
    answers, y = useful()
    w = learn_weights(answers[[0, 1, 0]], y)
    assert w[0] == pytest.approx(w[2].item(), abs=1e-3)


def test_gains_are_measured_against_the_plain_image():
    answers, y = useful()
    gains = view_gains({"identity": answers[0], "good": answers[1], "useless": answers[2]}, y)
    assert (gains["identity"][1:] == (0, 0) and gains["good"][1] > gains["useless"][1]
            and gains["useless"][0] < 15)


# submissions

BAD = {"empty": b"", "header": b"ID;Labels\n1;2\n", "three columns": b"ID,Labels\n1,2,3\n4,5,6\n",
       "one column": b"ID,Labels\n1\n2\n", "words": b"ID,Labels\n1,cat\n",
       "fractions": b"ID,Labels\n1,2.0\n", "twice": b"ID,Labels\n1,2\n1,2\n",
       "label 10": b"ID,Labels\n1,10\n", "negative": b"ID,Labels\n1,-1\n",
       "huge": b"ID,Labels\n99999999999999999999999,1\n", "binary": bytes(range(256)),
       "zeros": b"ID,Labels\n\0\0,1\n", "utf-16": "ID,Labels\n1,2\n".encode("utf-16")}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_submission_is_a_sentence(name, tmp_path):
    (tmp_path / "s.csv").write_bytes(BAD[name])
    with pytest.raises(InputError) as e: read_submission(tmp_path / "s.csv")
    assert "s.csv" in str(e.value) and "\n" not in str(e.value) and len(str(e.value)) < 300


@pytest.mark.parametrize(
    "raw",
    [b"ID,Labels\r\n5,2\r\n7,9\r\n", b"\xef\xbb\xbfID,Labels\n5,2\n7,9\n",
     b"ID,Labels\n5,2\n7,9\n\n\n", b"ID,Labels\n 5, 2\n7,9"])
def test_harmless_variations_are_read(raw, tmp_path):
    # report 002's file has CRLF line ends; spreadsheets write a byte order mark
    (tmp_path / "s.csv").write_bytes(raw)
    ids, labels = read_submission(tmp_path / "s.csv")
    assert ids.tolist() == [5, 7] and labels.tolist() == [2, 9]


@given(
    st.lists(st.tuples(st.integers(0, 10**12), st.integers(0, 9)), unique_by=lambda r: r[0],
             min_size=1, max_size=50))
@settings(max_examples=30, deadline=None)
def test_what_is_written_is_read(tmp_path_factory, rows):
    here = tmp_path_factory.mktemp("submission")
    ids, labels = torch.tensor(rows).T
    write_submission(here / "a.csv", ids, labels)
    assert [v.tolist() for v in read_submission(here / "a.csv")] == [ids.tolist(), labels.tolist()]
    write_submission(here / "b.csv", ids.flip(0), labels.flip(0))
    assert same_answers(here / "a.csv", here / "b.csv") == 100


def test_a_refused_submission_leaves_nothing_behind(tmp_path):
    for ids, labels in (([1, 1], [2, 2]), ([1, 2], [3, 11]), ([1, 2], [3])):
        with pytest.raises(InputError):
            write_submission(tmp_path / "s.csv", torch.tensor(ids), torch.tensor(labels))
    with pytest.raises(InputError, match="whole numbers"):
        write_submission(tmp_path / "s.csv", torch.arange(2), torch.rand(2))
    assert list(tmp_path.iterdir()) == []
    write_submission(tmp_path / "s.csv", torch.tensor([1]), torch.tensor([2]))
    write_submission(tmp_path / "t.csv", torch.tensor([2]), torch.tensor([2]))
    with pytest.raises(InputError, match="no id in common"):
        same_answers(tmp_path / "s.csv", tmp_path / "t.csv")


def test_the_curves_show_training_and_validation():
    "Each with its own figures, by the names that the log has."
    from cifar_nb.evaluation.report import show_curves
    log = [
        dict(epoch=e, lr=.1, train_loss=2. - e, train_accuracy=10. * e, val_loss=2.5 - e,
             val_accuracy=9. * e) for e in (1, 2)]
    loss, accuracy, _ = show_curves(log).axes
    assert [(line.get_label(), list(line.get_ydata())) for line in loss.lines] == [
        ("training", [1., 0.]), ("validation", [1.5, .5])]
    assert [list(line.get_ydata()) for line in accuracy.lines] == [[10., 20.], [9., 18.]]
