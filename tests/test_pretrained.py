"""The networks that come with the package: that they are what was published, and as good as their
cards say."""
import json
import pickle
import re
from hashlib import sha256
from pathlib import Path

import pytest
import torch

from cifar_nb.augment.ops import RandomHorizontalFlip
from cifar_nb.core.errors import InputError
from cifar_nb.data.cifar import SHAPES, load, search_places, toy
from cifar_nb.delivery import publish as publishing
from cifar_nb.delivery.publish import card, publish
from cifar_nb.evaluation.pretrained import (WEIGHTS, Pretrained, load_pretrained, open_network,
                                            pack, registry, unpack)
from cifar_nb.evaluation.records import load_results
from cifar_nb.evaluation.report import evaluate, standard_error, viewed
from cifar_nb.evaluation.tta import predict_views
from cifar_nb.models.resnet import NetSpec, count_parameters
from cifar_nb.recipes.spec import Optimizer, Phase, Recipe, Schedule, trained
from cifar_nb.teams.zoo import get_recipe
from cifar_nb.training.checkpoints import Run
from cifar_nb.training.loop import loss_and_accuracy, predict
from cifar_nb.training.train import train

ROOT = Path(__file__).parent.parent
ENTRIES = registry()
each = pytest.mark.parametrize("name", ENTRIES)
real = pytest.mark.skipif(not search_places(None), reason="needs CIFAR-10")


@pytest.fixture(scope="module")
def images():
    x, y = load("test", say=str)
    return x[:400], y[:400]


@pytest.fixture
def shelf(tmp_path):
    "A copy of what is published of `quick`."
    for file in ("quick.safetensors", "registry.json"):
        (tmp_path / file).write_bytes((WEIGHTS / file).read_bytes())
    return tmp_path


def test_something_is_published_and_it_is_small():
    assert {"laptop", "quick"} <= set(ENTRIES)
    assert sum(f.stat().st_size for f in WEIGHTS.iterdir()) < 30e6


@real
@each
def test_a_network_is_as_good_as_its_card_says(name, images):
    (x, y), entry = images, ENTRIES[name]
    net, recipe = load_pretrained(name, "cpu")
    wanted = {"accuracy": ("identity",)} | (
        {"tta_accuracy": recipe.tta_transforms} if len(recipe.tta_transforms) > 1 else {})
    for key, views in wanted.items():
        accuracy = loss_and_accuracy(predict_views(net, x, recipe.phases[-1], views), y)[1]
        assert abs(accuracy - entry[key]) < 3 * standard_error(entry[key], len(y)), (
            key, accuracy, entry[key])


@each
def test_file_entry_and_card_agree(name):
    entry, data = ENTRIES[name], (WEIGHTS / ENTRIES[name]["file"]).read_bytes()
    assert (entry["sha256"], entry["bytes"]) == (sha256(data).hexdigest(), len(data))
    card = (WEIGHTS / f"{name}.md").read_text(encoding="utf-8")
    assert (entry["sha256"] in card and f"{entry['accuracy']:.2f}%" in card
            and f"load_pretrained('{name}')" in card)
    assert count_parameters(Pretrained(name).recipe.net.build()) == entry["parameters"] < 5_000_000
    assert sorted(f.stem for f in WEIGHTS.glob("*.md")) == sorted(
        f.stem for f in WEIGHTS.glob("*.safetensors")) == sorted(ENTRIES)


@each
def test_a_card_is_what_todays_code_writes_and_its_header_is_yaml(name):
    yaml = pytest.importorskip("yaml")
    text = (WEIGHTS / f"{name}.md").read_text(encoding="utf-8")
    assert text == card(name, ENTRIES[name], Pretrained(name).recipe), (
        "run renew_cards of cifar_nb.delivery.publish")
    code = re.search(r"```python\n(.*?)```", text, re.S)[1]
    found = {}
    exec(code, found)  # the lines that a reader copies
    assert found["recipe"] == Pretrained(name).recipe
    head = yaml.safe_load(text.split("---\n")[1])
    result, = head["model-index"][0]["results"]
    assert head["license"] == "mit" and head["datasets"] == ["uoft-cs/cifar10"]
    assert abs(100 * result["metrics"][0]["value"] - ENTRIES[name]["accuracy"]) < 1e-6


@each
def test_a_network_comes_from_a_recorded_run(name):
    run = ENTRIES[name]["run"]
    same = ("recipe", "variant", "seed", "epochs", "hardware", "seconds", "torch")
    found = [r["result"] for r in load_results(ROOT / "results")
             if all(r.get("result", {}).get(k) == run[k] for k in same)]
    assert [r["test"]["accuracy"] for r in found] == [run["accuracy"]]
    assert (run["seed"] == 0), ("not the best of several seeds, which the test images would have "
                                "chosen")
    if "tta_accuracy" in ENTRIES[name]:
        assert abs(viewed(found[0]) - ENTRIES[name]["tta_accuracy"]) < .3


@each
def test_the_recipe_in_the_file_is_that_of_the_book(name):
    "What is trained and how it is asked; claims and notes are the book's, and may be mended."
    run = ENTRIES[name]["run"]
    ours, theirs = Pretrained(name).recipe, get_recipe(run["recipe"], run["variant"])
    assert trained(ours) == trained(theirs)
    for k in ("name", "variant", "title", "source", "tta_transforms"):
        assert getattr(ours, k) == getattr(theirs, k)


@pytest.mark.parametrize("place", [3, 2000, -1])
def test_a_changed_byte_is_found(shelf, place):
    file = shelf / "quick.safetensors"
    data = bytearray(file.read_bytes())
    data[place] ^= 16
    file.write_bytes(data)
    for ask in (lambda p: p.recipe, lambda p: p.load_net("cpu")):
        with pytest.raises(InputError, match="is not the file that was published"):
            ask(Pretrained("quick", shelf))


def test_a_pickle_in_its_place_is_never_opened(shelf, tmp_path):
    class Trap:
        def __reduce__(self): return (Path.touch, (tmp_path / "sprung",))
    (shelf / "quick.safetensors").write_bytes(pickle.dumps(Trap()))
    with pytest.raises(InputError, match="install the package again"):
        load_pretrained("quick", folder=shelf)
    assert not (tmp_path / "sprung").exists()


def test_a_name_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match="did you mean laptop"): load_pretrained("laptopp")
    with pytest.raises(InputError, match="no published networks"):
        load_pretrained("laptop", folder=tmp_path)


def test_int8_answers_nearly_as_fp16():
    net, recipe = load_pretrained("quick", "cpu")
    small = recipe.net.build().eval()
    small.load_state_dict(unpack(pack(net.state_dict(), "int8")))
    xb = torch.randn(200, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad(): a, b = net(xb), small(xb)
    assert (a - b).abs().max() < .1 * a.abs().max() and (a - b).abs().max() > 0


def test_a_network_of_another_run_keeps_its_name(tmp_path, capsys):
    from cifar_nb.cli import main
    def published(*more):
        return main(
            ["publish", str(tmp_path / run), "--data", "toy", "--folder", str(tmp_path / "shelf"),
             *more])
    for run in "01":
        assert main(
            ["train", "small", "--set", "widths=[8, 16, 32]", "--data", "toy", "--images", "256",
             "--epochs", "1", "--device",
             "cpu", "--seed", run, "--out", str(tmp_path / run)]) == 0
        # of one run as often as one likes
        if run == "0": assert published() == published() == published("--weights", "int8") == 0
    first = (tmp_path / "shelf/registry.json").read_bytes()
    capsys.readouterr()
    assert (
        published() == 2
        and "a network small_widths of another run: choose another --name, or say --overwrite"
        in capsys.readouterr().err)
    assert (tmp_path / "shelf/registry.json").read_bytes() == first
    assert published("--name", "second") == published("--overwrite") == 0
    assert {e["run"]["seed"] for e
            in json.loads((tmp_path / "shelf/registry.json").read_text(encoding="utf-8")).values(
                )} == {1}


def test_the_registry_is_json_that_a_person_can_read():
    text = (WEIGHTS / "registry.json").read_text(encoding="utf-8")
    assert json.loads(text) == ENTRIES and text.count("\n") > 20 * len(ENTRIES)


def test_a_network_is_not_judged_on_other_images_than_its_own(tmp_path, capsys):
    from cifar_nb.cli import main
    run = tmp_path / "run"
    assert main(
        ["train", "small", "--set", "widths=[8, 16, 32]", "--data", "toy", "--images", "256",
             "--epochs", "1", "--device", "cpu",
         "--out", str(run)]) == 0
    result = json.loads((run / "result.json").read_text(encoding="utf-8"))
    (run / "result.json").write_text(json.dumps(result | {"data": "cifar10"}), encoding="utf-8")
    capsys.readouterr()
    assert main(["publish", str(run), "--data", "toy", "--folder", str(tmp_path / "shelf")]) == 2
    # the manifest says what it was trained on
    assert "is not the result of the run that" in capsys.readouterr().err
    (run / "result.json").write_text(json.dumps(result), encoding="utf-8")
    manifest = json.loads((run / "manifest.json").read_text(encoding="utf-8"))
    (run / "manifest.json").write_text(
        json.dumps(manifest | {"data": manifest["data"] | {"name": "unknown"}}), encoding="utf-8")
    assert main(["publish", str(run), "--data", "toy", "--folder", str(tmp_path / "shelf")]) == 2
    assert "was trained on unknown, and these test images are toy" in capsys.readouterr().err
    assert not (tmp_path / "shelf").exists()


# What is refused (chapter 63 shows the whole way)

@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    "The folder of a small network trained on the toy set, not evaluated."
    recipe = Recipe("tiny", NetSpec(widths=(8, 16, 32), depths=(1, 1, 1), strides=(2, 2, 2)),
                    title="A tiny ResNet", source="this test", tta_transforms=("identity", "flip"),
                    phases=(Phase(1, Optimizer(lr=.1, momentum=.9),
                                  Schedule("cosine", t_max=1, unit="step"),
                                  (RandomHorizontalFlip(),), batch_size=32),))
    folder = tmp_path_factory.mktemp("tiny") / "run"
    train(recipe, *toy(128), folder, device="cpu", precision="fp32", progress=False, say=str,
          info=dict(data="toy"))
    return folder


def evaluated(folder):
    run, (xt, yt) = Run(folder), toy(100, seed=1)
    logits = predict(run.load_net("cpu"), xt, run.recipe.phases[-1])
    evaluate(run, xt, yt, logits, name="toy test set", classes=list(SHAPES), pictured=False,
             data="toy")
    return xt, yt


def test_a_run_is_published_once_evaluated_and_under_a_name_that_is_one(tiny, tmp_path):
    xt, yt = toy(100, seed=1)
    with pytest.raises(InputError, match="has not been evaluated"):
        publish(tiny, xt, yt, folder=tmp_path)
    evaluated(tiny)
    with pytest.raises(InputError, match=re.escape("'../tiny' cannot be")):
        publish(tiny, xt, yt, name="../tiny", folder=tmp_path)
    entry = publish(tiny, xt, yt, folder=tmp_path / "shelf")
    assert publish(tiny, xt, yt, folder=tmp_path / "twin")["sha256"] == entry["sha256"]
    assert list(registry(tmp_path / "shelf")) == ["tiny"] and registry(tmp_path) == {}


def test_what_is_published_is_what_was_judged(tiny, tmp_path, monkeypatch):
    "Weights that are packed badly are told with the accuracy that they have."
    def coarse(weights, kind):
        return {k: w.half().round().contiguous() if w.ndim > 1 else w for k, w in weights.items()}
    monkeypatch.setattr(publishing, "pack", coarse)
    xt, yt = evaluated(tiny)
    entry, net = publish(tiny, xt, yt, folder=tmp_path), Run(tiny).load_net("cpu")
    net.load_state_dict(unpack(coarse(net.state_dict(), "")))
    wanted = loss_and_accuracy(predict(net, xt, Run(tiny).recipe.phases[-1]), yt)[1]
    assert entry["accuracy"] == pytest.approx(wanted, abs=.006) != entry["run"]["accuracy"]


def test_what_cannot_be_opened_is_a_sentence(shelf, tmp_path):
    def refused(why, call):
        with pytest.raises(InputError, match=why): call()
    weights = Pretrained("quick").load_net("cpu").state_dict()
    refused("did you mean int8", lambda: pack(weights, "int4"))
    refused("neither the folder of a run nor a published network", lambda: open_network("tiny"))
    refused("did you mean quick", lambda: load_pretrained("quik", folder=shelf))
    empty = tmp_path / "empty"
    empty.mkdir()
    refused("no published networks", lambda: load_pretrained("tiny", folder=empty))
    data = bytearray((shelf / "quick.safetensors").read_bytes())
    data[len(data) // 2] ^= 1
    (shelf / "quick.safetensors").write_bytes(data)
    refused("is not the file that was published", lambda: load_pretrained("quick", folder=shelf))
    (shelf / "quick.safetensors").unlink()
    refused("cannot be read", lambda: load_pretrained("quick", folder=shelf))
