"""Curves of one legend differ by more than their color."""
import sys
from pathlib import Path
from types import SimpleNamespace

import matplotlib.pyplot as plt
import nbformat
import pytest

from cifar_nb.core.plotting import curve_look
from cifar_nb.teams.reading import draw_net, show_logged, show_schedule
from cifar_nb.teams.zoo import TEAMS
from cifar_nb.training.jobs import live_curves

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tools"))
import chapters
from curves import alike, watched


@pytest.fixture
def ax():
    fig, ax = plt.subplots()
    yield ax
    plt.close(fig)


STEP = [1, 2], [3, 4]
DRAWN = {
    "colors": (lambda ax: [ax.plot(*STEP, color=c, label=c) for c in "rg"], [("r", "g")]),
    "markers": (lambda ax: [ax.plot(*STEP, m, label=m) for m in "os"], []),
    "styles": (lambda ax: [ax.plot(*STEP, m, label=m) for m in ("-", "--")], []),
    "dashes": (lambda ax: [ax.plot(*STEP, ls=(0, d), label=str(d)) for d in ((5, 1), (1, 1))], []),
    "hollow": (lambda ax: [ax.plot(*STEP, "o", mfc=m, label=m) for m in ("none", "r")], []),
    "no names": (lambda ax: [ax.plot(*STEP, color=c) for c in "rg"], []),
    "one name": (lambda ax: [ax.plot(*STEP, color="r", label="a") for _ in range(2)], []),
    "errors": (lambda ax: [ax.errorbar(*STEP, 1, label=k) for k in "ab"], [("a", "b")]),
    "other errors": (lambda ax: [ax.errorbar(*STEP, 1, fmt=k, label=k) for k in "os"], []),
    "points": (lambda ax: [ax.scatter(*STEP, label=k) for k in "ab"], [("a", "b")]),
    "other points": (lambda ax: [ax.scatter(*STEP, marker=k, label=k) for k in "os"], []),
    "bars": (lambda ax: [ax.bar(*STEP, label=k) for k in "ab"], []),
    "a legend made up": (lambda ax: ax.legend(handles=[
        plt.Line2D([], [], color=c, label=c) for c in "rg"]), [("r", "g")])}


@pytest.mark.parametrize("case", DRAWN)
def test_what_color_alone_tells_apart_is_found(ax, case):
    draw, found = DRAWN[case]
    draw(ax)
    assert alike(ax.figure) == found


def test_it_is_found_as_a_figure_is_drawn(ax, tmp_path):
    DRAWN["colors"][0](ax)
    with watched() as found: ax.figure.savefig(tmp_path / "a.png")
    assert found == [("r", "g")]
    ax.figure.savefig(tmp_path / "b.png")
    assert len(found) == 1 and (tmp_path / "a.png").exists()


@pytest.mark.parametrize("colors, wrong", [("rr", True), ("r", False)])
def test_a_chapter_that_draws_it_fails(tmp_path, colors, wrong):
    source = (f"import matplotlib.pyplot as plt\nfor i, c in enumerate('{colors}'):\n"
              "    plt.plot([1, 2], color=c, label=str(i))\nplt.legend();")
    nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)])
    nbformat.write(nb, tmp_path / "some.ipynb")
    status, text, _ = chapters.timed(tmp_path / "some.ipynb")
    assert status == wrong and ("only their color tells 0 and 1 apart" in text) == wrong


def test_seventy_curves_have_a_look_of_their_own():
    looks = [tuple(curve_look(i).items()) for i in range(70)]
    assert len({*looks}) == 70
    assert len({m for (_, _), (_, m) in looks[:10]}) == 10


def test_curves_of_many_trainings_are_told_apart():
    log = [dict(epoch=e, train_loss=1 / e, train_accuracy=e, val_accuracy=e) for e in (1, 2, 3)]
    fig = live_curves([SimpleNamespace(log=log, name=f"run {i}") for i in range(5)])
    assert alike(fig) == [] and len(fig.axes[0].lines) == 5
    drawn = [(str(line.get_marker()), line.get_linestyle()) for line in fig.axes[1].lines]
    assert len({*drawn}) == 10  # validation, too


def test_the_figures_of_the_reports_are_told_apart():
    logged = [dict(epoch=e, train_accuracy=e, test_accuracy=e) for e in (1, 2, 3)]
    runs = [dict(result=dict(variant=variant, seed=seed, epochs=3, test=dict(accuracy=3)),
                 log=logged, test_curve=logged)
            for variant in ("report", "code") for seed in (0, 1)]
    assert alike(show_logged(logged, runs)) == []
    for team in TEAMS:
        assert alike(show_schedule(team.report, team.code)) == []
        assert alike(draw_net(team.code.net, "the network")) == []
