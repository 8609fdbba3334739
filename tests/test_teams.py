"""The five teams: networks and recipes against the figures of their reports, and the claims, whose
figures are computed and never typed."""
import csv
import importlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cifar_nb.augment.policies import LISTS
from cifar_nb.bench.training import work
from cifar_nb.cli import main
from cifar_nb.core.errors import InputError
from cifar_nb.data.cifar import toy
from cifar_nb.evaluation.records import full_record, load_results
from cifar_nb.models.resnet import LIMIT, NetSpec, count_macs, count_parameters
from cifar_nb.recipes.spec import Claim, Phase, Recipe, recipe_from_json
from cifar_nb.studies.scoreboard import (VERDICTS, all_claims, claimed_accuracy, networks,
                                         repeats, scoreboard, short_form, standings, tally,
                                         trained_on)
from cifar_nb.teams.claims import Check, check_claims, verdict
from cifar_nb.teams.reading import (accuracy, differences, full_runs, parts, show_augmented, sketch,
                                    spec_facts)
from cifar_nb.teams.zoo import TEAMS, get_recipe, list_recipes

NAMES = ("narrow_resnet", "modified_resnet", "learning_too_deep", "dreamfire", "neural_nomads")
BOTH = [(n, v) for n in NAMES for v in ("report", "code")]
ROOT = Path(__file__).parent.parent
COUNTS = {  # parameters, multiply-adds, epochs
          ("narrow_resnet", "report"): (2_797_610, 139_299_328, 250),
          ("narrow_resnet", "code"): (2_797_610, 139_299_328, 250),
          ("modified_resnet", "report"): (2_777_674, 421_202_432, 50),
          ("modified_resnet", "code"): (2_777_674, 421_202_432, 50),
          ("learning_too_deep", "report"): (4_754_218, 271_419_904, 100),
          ("learning_too_deep", "code"): (4_754_218, 271_419_904, 200),
          ("dreamfire", "report"): (4_918_602, 798_689_792, 50),
          ("dreamfire", "code"): (4_918_602, 798_689_792, 50),
          ("neural_nomads", "report"): (2_777_674, 421_202_432, 100),
          ("neural_nomads", "code"): (4_992_586, 874_187_264, 100),
}


def team(name): return importlib.import_module(f"cifar_nb.teams.{name}")


@pytest.mark.parametrize("name, variant", BOTH)
def test_network_and_length_are_those_of_the_facts(name, variant):
    r = get_recipe(name, variant)
    net = r.net.build()
    assert (count_parameters(net), count_macs(net), r.epochs) == COUNTS[name, variant]
    assert count_parameters(net) < LIMIT
    assert (sum(p.parameters for p in parts(r.net)),
            sum(p.macs for p in parts(r.net))) == COUNTS[name, variant][:2]


@pytest.mark.parametrize("name, variant", BOTH)
def test_a_recipe_goes_through_json(name, variant):
    r = get_recipe(name, variant)
    assert recipe_from_json(r.to_json()) == r and json.loads(r.to_json())["variant"] == variant
    assert r.source and r.notes and r.title
    assert len(r.learning_rates()) == r.epochs and all(rate >= 0 for rate in r.learning_rates())


def test_the_registry_has_the_baselines_too():
    known = {(r.name, r.variant) for r in list_recipes()}
    assert set(BOTH) | {("resnet18", "report"), ("plain", "report"), ("quick", "report"),
                        ("small", "report"), ("laptop", "report")} <= known
    assert get_recipe("resnet18").net == NetSpec() and get_recipe("plain").net.block == "plain"
    assert replace(get_recipe("plain").net, block="basic") == get_recipe("neural_nomads").net


@pytest.mark.parametrize(
    "name, phase, key",
    [("narrow_resnet", 0, "000"), ("modified_resnet", 0, "001"),
     ("learning_too_deep", 0, "002, first run"),
     ("learning_too_deep", 1, "002, second run"), ("dreamfire", 0, "003"),
     ("neural_nomads", 0, "004")])
def test_the_augmentation_is_that_of_chapter_2(name, phase, key):
    assert get_recipe(name, "code").phases[phase].augment == LISTS[key]


@pytest.mark.parametrize("name, variant", BOTH)
def test_every_recipe_trains_and_repeats_from_its_seed(name, variant):
    x, y = toy(160)
    r = get_recipe(name, variant)
    r = replace(r, phases=tuple(replace(p, batch_size=32) for p in r.phases))
    logs = [sketch(r, x, y, epochs=2, images=160, narrower=8, seed=s).log for s in (3, 3, 4)]
    assert logs[0] == logs[1] != logs[2]


@pytest.mark.parametrize("name", ["quick", "laptop", "small"])
def test_recipes_of_the_book_are_shown_and_sketched_too(name):
    "They mirror images by their place in the set, and some have a network without a stem."
    x, y = toy(160)
    r = get_recipe(name)
    assert show_augmented(r, x[:2], draws=1).axes
    r = replace(r, phases=tuple(replace(p, batch_size=32) for p in r.phases))
    assert len(sketch(r, x, y, epochs=2, images=160, narrower=8).log) == 2


def test_a_growing_average_is_a_difference():
    a = replace(get_recipe("narrow_resnet"), ema=.99)
    rows = differences(a, replace(a, ema_warmup=False), "ab")
    assert [list(row.values()) for row in rows] == [["ema_warmup", True, False]]


def test_only_the_augmentation_and_the_schedule_of_003_differ():
    rows = [
        row[""] for row in differences(get_recipe("dreamfire"), get_recipe("dreamfire", "code"))]
    assert "phase 1: augment" in rows and all("schedule" in row or "augment" in row for row in rows)


# ---- what the teams' programs printed

def rows(name):
    with (ROOT / "nbs" / "logs" / f"{name}.csv").open(encoding="utf-8") as f:
        return list(csv.DictReader(f))


@pytest.mark.parametrize("name", NAMES[:4])
def test_what_was_printed_last_stands_in_the_log(name):
    as_run, accuracies = team(name).as_run, [float(r["test_accuracy"]) for r in rows(name)]
    assert as_run["last"] == accuracies[-1] and as_run["best"] >= max(accuracies)


@pytest.mark.parametrize("name", sorted(p.stem for p in (ROOT / "nbs" / "logs").glob("*.csv")))
def test_logs_are_in_order_and_in_range(name):
    table = rows(name)
    epochs = [int(r["epoch"]) for r in table]
    assert epochs == sorted(set(epochs)) and epochs[0] >= 1
    for r in table:
        for k, v in r.items():
            if v and k.endswith("accuracy"): assert 10 <= float(v) <= 100
            if v and k.endswith("loss"): assert 0 < float(v) < 5


# ---- claims

FOUND = {  # figures worked out apart from the package: by hand, or printed by the teams' own tools
         ("narrow_resnet", "trainable parameters"): (2_797_610, "agrees"),
         ("narrow_resnet", "the same count in millions"): (2.79761, "differs"),
         ("narrow_resnet", "fewer operations than ResNet-18"): (
             "yes: 25.1% of the multiply-adds", "agrees"),
         ("narrow_resnet", "warm-up"): (25, "agrees"),
         ("narrow_resnet", "bottleneck layers are integrated"): ("no: every block has two 3x3 "
                                                                 "convolutions", "differs"),
         ("narrow_resnet", "test accuracy, in the log of the team"): (95.07, "differs"),
         ("modified_resnet", "trainable parameters"): (2_777_674, "agrees"),
         ("modified_resnet", "forward and backward pass"): (10.50, "agrees"),
         ("modified_resnet", "parameters in memory"): (10.60, "agrees"),
         ("modified_resnet", "estimated total size"): (21.11, "agrees"),
         ("modified_resnet", "augmentation"): ("RandomCrop, RandomHorizontalFlip, ColorJitter, "
                                               "RandomRotation, RandomAffine", "differs"),
         ("modified_resnet", "test accuracy, in the log of the team"): (92.67, "differs"),
         ("learning_too_deep", "parameters, in the table"): (4_754_218, "agrees"),
         ("learning_too_deep", "parameters, in the text"): (4.754218, "differs"),
         ("learning_too_deep", "value of the parameter formula"): (5.090656, "differs"),
         ("learning_too_deep", "fewer parameters than ResNet-18"): (57.45, "differs"),
         ("learning_too_deep", "forward and backward pass"): (10.16, "agrees"),
         ("learning_too_deep", "parameters in memory"): (18.14, "agrees"),
         ("learning_too_deep", "estimated total size"): (28.31, "agrees"),
         ("learning_too_deep", "training"): (200, "differs"),
         ("learning_too_deep", "crops from padded images of"): (40, "differs"),
         ("learning_too_deep", "different views in test-time augmentation"): (4, "differs"),
         ("learning_too_deep", "test accuracy, in the log of the team"): (94.65, "agrees"),
         ("dreamfire", "fewer parameters than ResNet-18"): (55.98, "differs"),
         ("dreamfire", "less time an epoch than ResNet-18, judged by the work"): (
             "no: +43.8 % multiply-adds", "differs"),
         ("dreamfire", "channels of the stages"): ((64, 128, 256), "differs"),
         ("dreamfire", "first rate by the formula, with 5 epochs of warm-up"): (0.004, "differs"),
         ("dreamfire", "batch size, changed on instruction"): (128, "differs"),
         ("dreamfire", "top accuracy, in the log of the team"): (93.93, "differs"),
         ("neural_nomads", "parameters of the network as described"): (2.777674, "differs"),
         ("neural_nomads", "parameters, with six blocks placed at will"): (4.769610, "differs"),
         ("neural_nomads", "residual blocks, three stages of two"): (6, "agrees"),
}


@pytest.fixture(scope="module")
def judged(): return {(n, c.what): c for n in NAMES for c in check_claims(team(n).checks)}


@pytest.mark.parametrize("key", FOUND)
def test_figures_worked_out_apart(judged, key):
    found, says = FOUND[key]
    claim = judged[key]
    assert claim.verdict == says
    if isinstance(found, float): assert claim.found == pytest.approx(found, abs=.006)
    else: assert claim.found == found


def test_claims_are_many_and_no_figure_is_typed_in():
    assert len(all_claims()) >= 60
    for n in NAMES:
        checks = team(n).checks
        assert len(checks) >= 12 and all(isinstance(c, Check) for c in checks)
        for c in checks:
            assert (c.claim.found is None and c.claim.verdict == "open"), (
                f"{n}: {c.claim.what} has a verdict before it is judged")
            assert c.claim.where, f"{n}: {c.claim.what} does not say where it stands"
        for v in ("report", "code"):
            assert get_recipe(n, v).claims == tuple(c.claim for c in checks)


def test_what_can_be_computed_is_decided_and_what_needs_trainings_is_open():
    for _, c in all_claims():
        wanted = dict(computed={"agrees", "differs"}, measured={"open"})
        assert c.verdict in wanted.get(c.check, {"not checkable"}), c
        assert c.verdict == verdict(c, c.found)


def run(recipe, accuracy, seed=0, **changes):
    "A record as `load_results` gives it."
    log = [dict(epoch=e, train_loss=1., train_accuracy=95. * e / 70 if e < 70 else 95.)
           for e in range(1, recipe.epochs + 1)]
    confusion = [[0] * 10 for _ in range(10)]
    confusion[3][5] = confusion[4][7] = 50  # cats called dogs, deer called horses
    result = dict(hardware="one", images_per_second=1000.,
                  test=dict(accuracy=accuracy, confusion=confusion))
    return full_record(recipe, result, log, seed, **changes)


def test_recorded_runs_close_what_is_open():
    results = [
        run(m.code, claimed_accuracy(m).value
            if not isinstance(claimed_accuracy(m).value, tuple) else 93.5, seed)
        for m in TEAMS for seed in (0, 1)]
    results += [run(get_recipe(n), a)
                for n, a in (("plain", 75.2), ("neural_nomads", 93.4))]
    # ResNet-18 under the training of two of the teams
    results += [run(replace(get_recipe(n, "code"), net=NetSpec()), 95.)
                for n in ("modified_resnet", "dreamfire")]
    before, after = all_claims(), all_claims(results)
    closed = {(t, b.what): a.verdict for (t, b), (_, a) in zip(before, after) if b.verdict == "open"
              and a.verdict != "open"}
    assert {k: v for k, v in closed.items() if "accuracy" in k[1]} == {
        ("Narrow ResNet-18", "test accuracy"): "agrees", (
            "ModifiedResNet", "test accuracy"): "agrees", (
                "LearningtooDeep", "test accuracy"): "agrees",
        ("Dreamfire", "top accuracy"): "agrees", (
            "Neural Nomads", "validation accuracy at the end"): "agrees",
        ("Neural Nomads", "training accuracy at epoch 70"): "agrees", (
            "Neural Nomads", "accuracy of the network without shortcuts"): "agrees"}
    says = "cats and dogs, deer and horses challenge the model"
    assert closed["LearningtooDeep", says] == "agrees"
    assert closed["Dreamfire", "time an epoch saved, beside ResNet-18"] == "differs"
    assert closed["ModifiedResNet", "better than the baseline ResNet"] == "differs"
    assert closed["Neural Nomads", "residual better than plain"] == "agrees"
    assert "95.53 (2, code)" in scoreboard(results) and "95.53 (2, code)" in short_form(results)


def test_without_runs_of_the_code_those_of_the_report_count():
    "Where both describe one network; team 004's two do not."
    results = [run(m.report, 90.) for m in TEAMS]
    assert [accuracy(m.code, results) for m in TEAMS] == [90.] * 4 + [None]
    assert "90.00 (1, report)" in scoreboard(results)
    results.append(run(TEAMS[0].code, 95.))
    assert accuracy(TEAMS[0].code, results) == 95.


def test_runs_that_do_not_count():
    r = get_recipe("dreamfire", "code")
    good = run(r, 93.)
    untested = run(r, 10.); del untested["result"]["test"]
    held, other = run(r, 10.), run(r, 10.)
    held["manifest"]["validation"] = dict(images=5000, indices="x")
    other["manifest"]["data"] = dict(
        name="cifar10", images=50_000, fingerprint="another set of that size")
    # of the same name and length
    lr = replace(
        r, phases=tuple(replace(p, optimizer=replace(p.optimizer, lr=1e-5)) for p in r.phases))
    bad = [run(r, 10., images=1280), run(r.with_epochs(3), 10.), run(lr, 10.), untested, held,
           other]
    assert full_runs(r, bad + [good]) == [good]
    twin = replace(r, name="renamed", title="?", notes=("mended",), tta_transforms=("flip",))
    assert full_runs(twin, bad + [good]) == [good]  # names, notes and TTA change nothing


# ---- the scoreboard

def test_the_scoreboard_prints_every_claim_within_a_terminal():
    text = " ".join(scoreboard().split())
    for _, c in all_claims(): assert c.what.split()[0] in text
    assert max(map(len, scoreboard().splitlines())) <= 130
    total = tally(all_claims())[-1]
    assert sum(int(total[v]) for v in VERDICTS) == int(total["claims"]) == len(all_claims())


def test_the_chapter_and_the_command_agree_to_the_character(capsys):
    "The standings, the tally, the first claims and what repeats them, as chapter 30 stores them."
    main(["scoreboard", "--results", str(ROOT / "results")])
    printed = capsys.readouterr().out
    cells = json.loads((ROOT / "nbs/30_scoreboard.ipynb").read_text(encoding="utf-8"))["cells"]
    def stored(start):  # what the cell that begins so shows, as text
        c, = (c for c in cells if "".join(c["source"]).startswith(start))
        return "".join("".join(o.get("text") or o["data"]["text/plain"]) for o in c["outputs"])
    for start in ("test_eq([row['parameters'] for row in standings()]", "claims = all_claims(",
                  "test_eq(fold(["):
        assert stored(start).strip("\n") in printed
    again = printed[printed.index("report  measured claim"):]  # cells folded to several lines
    assert sorted(again.split()) == sorted(stored("again = repeats(results)").split())
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for row in standings(load_results(ROOT / "results")):
        line, = (x for x in readme.splitlines() if x.startswith(f"| {row['team']} |"))
        for k in ("claimed %", "logged % (best)", "ours % (runs)", "on"):
            assert f"| {row[k] or '-'} |" in line


def test_the_table_of_repeats_shows_p_after_holm():
    "By hand: the smallest p times their number, the next times one less, none below the last."
    results = load_results(ROOT / "results")
    found = [c.found for _, c in all_claims(results) if c.check == "measured"]
    ps = sorted(f.p for f in found if getattr(f, "p", None) is not None)
    wanted, least = [], 0.
    for i, p in enumerate(ps):
        least = max(least, min(1, p * (len(ps) - i)))
        wanted.append(f"{least:.2g}")
    rows = repeats(results)
    assert len(rows) == len(found) and len(ps) > 10
    assert sorted((r["p, Holm"] for r in rows if r["p, Holm"]), key=float) == wanted
    assert [bool(r["p, Holm"]) for r in rows] == [getattr(f, "p", None) is not None for f in found]


def test_what_cannot_be_checked_says_why():
    reasons = {c.what: c.found for _, c in all_claims() if c.verdict == "not checkable"}
    assert len(reasons) > 9 and all(len(why.split()) > 3 for why in reasons.values())


def test_whose_errors_are_looked_at():
    "A claim about the errors of one network is held against its own runs."
    r, other = run(get_recipe("learning_too_deep", "code"), 90.), run(get_recipe("quick"), 90.)
    other["result"]["test"]["confusion"][4][7] = 0
    found, alone = ({c.what: c.found for _, c in all_claims(runs)}[
        "cats and dogs, deer and horses challenge the model"] for runs in ([r, other], [other]))
    assert found.startswith("yes: ") and found.endswith("(n = 1)") and alone is None


@pytest.mark.parametrize("hardware, short", [
    ("NVIDIA H200, then NVIDIA H100 80GB HBM3, then AMD EPYC", "H200, H100, EPYC"),
    ("Tesla T4", "T4"), ("NVIDIA GeForce RTX 3090", "GeForce RTX 3090")])
def test_the_machines_of_our_runs_stand_beside_their_accuracy(hardware, short):
    r = run(TEAMS[0].code, 95.)
    r["result"]["hardware"] = hardware
    assert trained_on(TEAMS[0].code, [r, r]) == short
    assert trained_on(TEAMS[0].code, []) == ""
    assert standings([r])[0]["on"] == short


@pytest.mark.parametrize("look", [
    spec_facts, parts, lambda net: work(Recipe("r", net, (Phase(1),)))])
def test_a_look_at_a_network_takes_no_random_numbers(look):
    torch.manual_seed(0)
    want = torch.rand(1)
    torch.manual_seed(0)
    # of a size that no other test remembers
    look(NetSpec((7, 11), (1, 1), (1, 2), classes=7))
    assert torch.rand(1) == want


def test_the_short_form_is_a_table_of_the_networks():
    lines = short_form().splitlines()
    assert len({line.count("|") for line in lines}) == 1
    assert len(lines) == 2 + len(standings()) == 2 + sum(len(networks(m)) for m in TEAMS)
    for m in TEAMS:
        for r in networks(m):
            assert any(f"{spec_facts(r.net).parameters:,}" in line for line in lines)


@pytest.mark.parametrize("value, found, check, unit, says", [
    (95.53, 95.526, "computed", "%", "agrees"), (95.53, 95.52, "computed", "%", "differs"),
    (95.53, 95.2, "measured", "%",
     "agrees"),
    (95.53, 95.0, "measured", "%", "differs"), (22, 22.4, "measured", "% of the time", "agrees"),
    (5e-4, 5e-4, "computed", "", "agrees"),
    ((93, 94), 94.0, "measured", "%", "agrees"), ((93, 94), 94.01, "measured", "%", "differs"),
    ((3, 5, 3), (3, 5, 3), "computed", "",
     "agrees"),
    ((3, 5, 3), (3, 5), "computed", "", "differs"),
    ("yes", "no: really", "computed", "",
     "differs"),
    ("Adam", "AdamW: here", "computed", "",
     "differs"),
    (60, "40: elsewhere", "computed", "epochs", "differs"),
    (True, "yes: so", "computed", "",
     "agrees"),
    (1, None, "computed", "", "open"),
    (1, 1, "not checkable", "", "not checkable")])
def test_the_rule_of_the_verdict(value, found, check, unit, says):
    assert verdict(Claim("a", value, unit, "b", check), found) == says


# Figures with the spread of the seeds

def test_the_margin_of_one_more_run():
    """By hand: groups (1, 3) and (10, 10, 13) have squares 2 and 6 with 1 and 2 degrees of freedom;
    t(.975, 3) = 3.18245."""
    from cifar_nb.teams.claims import estimate
    groups = [[1., 3.], [10., 10., 13.], [50.]]
    e = estimate([90., 91.], groups)
    assert (e.value, e.n) == (90.5, 2)
    assert e.margin == pytest.approx(3.18245 * (8 / 3) ** .5 * 1.5 ** .5, rel=1e-5)
    assert e.brief() == "90.50 ± 6.36 (n = 2)"
    # 90 % of 10,000: a standard error of .3 points
    assert estimate([90.], [[1.], [2.]]).margin == pytest.approx(.6)
    assert estimate([], groups) is None


@pytest.mark.parametrize("value, says", [
    (92.4, "agrees"), (92.6, "differs"), (91.3, "differs"), ((92.4, 95), "agrees"),
    ((92.6, 95), "differs"), ((80, 91.6), "agrees"), ((80, 91.4), "differs")])
def test_an_estimate_agrees_within_its_margin(value, says):
    from cifar_nb.recipes.spec import Claim
    from cifar_nb.teams.claims import Estimate
    assert verdict(Claim("accuracy", value, "%", "", "measured"), Estimate(92., .5, 1)) == says


def test_better_by_more_than_the_seeds():
    """quick's three seeds spread by 1 (2 degrees of freedom, t = 4.30265): two single runs must
    differ by 4.30265 * 2 ** .5 = 6.08."""
    from cifar_nb.teams.reading import better
    spread = [run(get_recipe("quick"), a, s) for s, a in enumerate((89., 90., 91.))]
    a, b = get_recipe("dreamfire", "code"), get_recipe("modified_resnet", "code")
    def asked(x, y): return better(a, b, [*spread, run(a, x), run(b, y)])
    assert asked(96.1, 90.).startswith("yes: ") and asked(90., 96.1).startswith("no: ")
    assert asked(96., 90.).startswith("open: no difference seen") and better(a, b, spread) is None
    # Cohen (1988), table 2.4.1: a difference of two standard deviations is seen with 6 of each
    assert asked(92., 90.).endswith("; 6.08 would be; n = 6 if it is as found")
    assert asked(91., 90.).endswith("; 6.08 would be")  # below its standard error, 1.41
    # without repeats: two binomial errors of each
    alone = better(a, b, [run(a, 90.7), run(b, 90.)])
    margin = 2 * (90.7 * 9.3 / 10_000 + 90 * 10 / 10_000) ** .5
    assert alone.endswith(f"; {margin:.2f} would be")


def test_a_race_beside_the_records(tmp_path):
    from cifar_nb.evaluation.records import Results
    from cifar_nb.teams.claims import raced
    (tmp_path / "bench").mkdir()
    rows = [{"recipe": "a", "way": "plain", "images/s": 3.},
            {"recipe": "b", "way": "plain", "images/s": 2.}]
    (tmp_path / "bench/predict-cpu.json").write_text(json.dumps(dict(rows=rows)), encoding="utf-8")
    there = Results([], tmp_path)
    assert raced(there, "predict-cpu", recipe="b", way="plain") == 2.
    assert raced(there, "predict-cpu", recipe="b", way="folded") is None
    assert raced(there, "train-cpu", recipe="b") is None and raced([], "predict-cpu") is None


@pytest.mark.parametrize("gained, lost, says", [(60, 40, "open"), (90, 58, "yes"),
                                                (58, 90, "no"), (1, 0, "open")])
def test_views_help_by_more_than_answers_can_differ_by_chance(gained, lost, says):
    """By scipy's exact binomial test; several runs are counted together."""
    from scipy.stats import binomtest

    from cifar_nb.teams.learning_too_deep import code, views_help
    assert (binomtest(gained, gained + lost).pvalue < .05) == (says != "open")
    r = run(code, 94.)
    assert views_help([r]) is None
    counts = dict(paired=dict(gained=gained, lost=lost))
    # of other images, or of other views: not the report's claim
    r["evaluations"] = [dict(metrics=counts)]
    r["result"]["test, mean of identity, flip"] = counts
    assert views_help([r]) is None
    r["result"][f"test, mean of {', '.join(code.tta_transforms)}"] = counts
    told = views_help([r])
    assert told.startswith(says) and f"{gained} images" in told and "n = 1" in told


def test_a_recipe_with_the_network_of_another():
    own, swapped = get_recipe('dreamfire', 'code'), get_recipe('dreamfire', 'code:resnet18')
    assert swapped.net == NetSpec() and swapped.phases == own.phases
    assert (swapped.name, swapped.variant) == ('dreamfire with resnet18', 'code')
    with pytest.raises(InputError, match='resnet18'): get_recipe('dreamfire', 'code:resnet81')


def test_every_measured_verdict_says_what_repeats_it():
    """The command is one that the parser knows, and its recipes and studies are known."""
    from cifar_nb.cli.arguments import parser
    from cifar_nb.evaluation.records import load_results
    from cifar_nb.studies.ablate import studies_called
    from cifar_nb.studies.budgets import plan
    from cifar_nb.studies.reproduce import choose_recipes
    from cifar_nb.evaluation.pretrained import registry
    from cifar_nb.studies.scoreboard import repeats
    rows = repeats(load_results(ROOT / 'results'))
    assert {r['again'].split()[1] for r in rows} == {
        'ablate', 'bench', 'budgets', 'reproduce', 'tta'}
    for row in rows:
        a = parser().parse_args(row['again'].split()[1:])
        if a.command == 'ablate':
            study, = studies_called(a.study, a.scale)
            assert any(row['report'] == c[:3] for c in study.claims), row
        elif a.command == 'reproduce': assert choose_recipes(a.recipe)
        elif a.command == 'budgets': assert [plan(n, a.pflop).recipe for n in a.recipe], row
        elif a.command == 'tta': assert set(a.run) <= set(registry()), row


def test_no_two_curves_of_a_figure_look_alike():
    "Two networks of one report, or two seeds of one recipe, are told apart without their colors."
    from cifar_nb.teams.reading import show_logged
    def run(variant, seed, parameters):
        return dict(result=dict(variant=variant, seed=seed, parameters=parameters, epochs=3,
                                test=dict(accuracy=90.)),
                    log=[dict(epoch=e, train_accuracy=80. + e) for e in (1, 2, 3)],
                    test_curve=[dict(epoch=e, test_accuracy=79. + e) for e in (1, 2, 3)])
    for runs, names in (
            ([run("report", 0, 2_777_674), run("code", 0, 4_992_586)], ("2.78M", "4.99M")),
            ([run("code", 0, 2_777_674), run("code", 1, 2_777_674)], ("code",))):
        lines = [line for line in show_logged([], runs).axes[0].lines
                 if not line.get_label().startswith("_")]
        looks = {(line.get_linestyle(), line.get_marker()) for line in lines}
        assert len(lines) == len(looks) == len({line.get_label() for line in lines}) == 4
        assert {n for n in names for line in lines if f"({n})" in line.get_label()} == set(names)


def test_a_figure_that_some_runs_lack_is_measured_on_the_others():
    "Runs without TTA say nothing of the spread of figures with it; by hand: 1, 3 and 5."
    from statistics import stdev
    from cifar_nb.teams.reading import measure
    results = load_results(Path(__file__).parent.parent / "results")
    recipe = get_recipe("quick")
    ours = [r for r in results if r["result"]["recipe"] == "quick"]
    assert len(ours) > 2 and len(results) > len(ours)
    told = {id(r): v for r, v in zip(ours, (1., 3., 5., 1., 3.))}
    found = measure(recipe, results, lambda r: told.get(id(r)))
    assert found.n == len(ours)
    assert found.value == pytest.approx(sum(told.values()) / len(told))
    assert found.spread == pytest.approx(stdev(told.values()))
