"One stop-watch: what it says of a clock that we hold."
import pytest

from cifar_nb.core import timing as T


@pytest.fixture
def clock(monkeypatch):
    "A clock that moves only when a function says so."
    now = [0.]
    monkeypatch.setattr(T.time, 'perf_counter', lambda: now[0])
    def taking(*seconds):
        left = [*seconds]
        def f(): now[0] += left.pop(0) if len(left) > 1 else left[0]
        return f
    return taking


def test_a_single_call(clock): assert T.once(clock(.25)) == .25


def test_the_best_of_several_without_the_first(clock):
    assert T.best(clock(.01, .04, .03, .05, 9.), least=.1) == pytest.approx(.03)
    # one that takes long is run once more and no oftener
    assert T.best(clock(.01, 2.), least=.1) == 2.


def test_by_turns(clock):
    rounds = T.alternate(dict(theirs=clock(4., 6., 9.), ours=clock(2., 2., 3.)), 3)
    assert rounds == [dict(theirs=4., ours=2.), dict(theirs=6., ours=2.), dict(theirs=9., ours=3.)]
    assert T.ratio(rounds) == dict(ratio=3., least=2., most=3.) and T.middle(rounds, 'theirs') == 6.


def test_two_rounds_to_warm_up(clock):
    row = T.in_turns(3, a=clock(9., 9., .004, .006, .009), b=clock(9., 9., .002, .002, .003))
    assert row == {'a, ms': 6., 'b, ms': 2., 'ratio': 3., 'least': 2., 'most': 3.}
