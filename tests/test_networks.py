"""Confidence and gain by TTA: the figures against scikit-learn and numpy, what is kept, what is
refused."""
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, log_loss

from cifar_nb.core.errors import InputError
from cifar_nb.data.cifar import CIFAR10, toy
from cifar_nb.evaluation.answers import SETS, answer_figures, network_records
from cifar_nb.evaluation.pretrained import load_pretrained, registry
from cifar_nb.studies.networks import answers_table, command_tta, show_calibrations, show_tta

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def answered():
    "Figures of `quick` on 300 images that it does not know, and its logits from the network alone."
    x, y = toy(300, seed=1)
    net, recipe = load_pretrained("quick", "cpu")
    p = recipe.phases[-1]
    def logits(images):
        mean, std = (torch.tensor(v).view(3, 1, 1) for v in (p.mean, p.std))
        with torch.no_grad(): return net((images.float() / 255 - mean) / std).double()
    return answer_figures(net, x, y, p), x, y, logits


def test_accuracy_loss_and_calibration(answered):
    found, x, y, logits = answered
    p = logits(x).softmax(1).numpy()
    confidence, right = p.max(1), p.argmax(1) == y.numpy()
    assert found["accuracy"] == pytest.approx(100 * accuracy_score(y, p.argmax(1)), abs=.5)
    assert found["loss"] == pytest.approx(log_loss(y, p, labels=range(10)), rel=.02)
    assert found["confidence"] == pytest.approx(100 * confidence.mean(), abs=.3)
    which = np.digitize(confidence, np.linspace(0, 1, 16)[1:-1], right=True)
    ece = sum(abs(confidence[which == k].mean() - right[which == k].mean()) * (which == k).mean()
              for k in range(15) if (which == k).any())
    assert found["ece"] == pytest.approx(100 * ece, abs=2)
    n, mean, share = map(np.array, found["bins"])
    assert n.sum() == 300 and found["ece"] == pytest.approx(
        100 * (n * abs(mean - share)).sum() / 300)
    assert 0 < found["by_chance"] < found["ece"]  # shapes, which it does not know


def test_gains(answered):
    found, x, y, logits = answered
    def right(z): return (z.argmax(1) == y).double()
    one, pair = logits(x), (logits(x) + logits(x.flip(-1))) / 2
    change = 100 * (right(pair) - right(one))
    gain, error = found["gains"]["pair"]
    assert gain == pytest.approx(change.mean().item(), abs=.7)
    assert error == pytest.approx(change.std().item() / 300 ** .5, abs=.2)
    assert found["gains"]["identity, flip"] == found["gains"]["pair"]
    # cutting what was padded gives the image back
    assert found["gains"]["identity, centre crop"] == [0., 0.]
    assert set(SETS) < set(found["gains"])


def test_what_is_kept(tmp_path, monkeypatch):
    said = []
    for n in (20, 30, 20):
        command_tta(["quick"], tmp_path, "toy", "cpu", n, said.append)
    files = sorted((tmp_path / "tta").glob("*.json"))
    assert len(files) == 2 and all("images" in f.stem for f in files)  # never the whole test set's
    assert "20 images" in said[-1] and "quick" in said[-1]
    record = json.loads(files[0].read_text(encoding="utf-8"))
    assert registry()["quick"]["sha256"].startswith(record["asked"]["weights"])
    assert record["versions"]["torch"] and record["device"] == "cpu" and record["processor"]
    assert network_records(tmp_path / "tta") == {}, "drawn shapes count as the test set"
    record["asked"]["images"]["fingerprint"] = CIFAR10["test"]
    files[0].write_text(json.dumps(record), encoding="utf-8")
    assert set(network_records(tmp_path / "tta")) == {"quick"}
    record["asked"]["weights"] = "0" * 16
    files[0].write_text(json.dumps(record), encoding="utf-8")
    assert network_records(tmp_path / "tta") == {}, "figures of other weights count"


@pytest.mark.parametrize("names, images, told", [
    ([], None, "name a run"), (["quik"], None, "nor a published network"),
    (["quick", "quick"], 10, "have one name"), (["quick"], 0, "--images 0"),
    (["quick"], 10**6, "--images")])
def test_refused(names, images, told):
    with pytest.raises(InputError, match=told):
        command_tta(names, data="toy", images=images, say=str)


RECORDS = network_records(ROOT / "results/tta")


def test_the_records():
    "Those of the whole test set; accuracies are those of the cards."
    cards = registry()
    assert set(RECORDS) == set(cards), "run cifar_nb tta for what is published"
    for name, f in RECORDS.items():
        assert f["images"] == 10_000
        assert f["accuracy"] == pytest.approx(cards[name]["accuracy"], abs=.1)
        assert sum(f["bins"][0]) == 10_000
    assert list(RECORDS) == sorted(RECORDS, key=lambda n: RECORDS[n]["accuracy"])
    assert len(answers_table(RECORDS)) == len(RECORDS)


def test_the_figures():
    fig = show_calibrations(RECORDS)
    titled = [ax for ax in fig.axes if ax.get_title()]
    assert [ax.get_title().split("\n")[0] for ax in titled] == list(RECORDS)
    for ax, f in zip(titled, RECORDS.values()):
        drawn = sorted(tuple(p) for c in ax.collections for p in c.get_offsets().data.tolist())
        n, confidence, accuracy = f["bins"]
        want = sorted((c, a) for k, c, a in zip(n, confidence, accuracy) if k >= 10)
        assert np.allclose(drawn, want)
    ax = show_tta(RECORDS).axes[0]
    assert [t.get_text().split(",")[0] for t in ax.get_yticklabels()] == list(RECORDS)
