"What a value must look like: whole numbers, numbers, texts, lists and dictionaries, by hand."
import pytest

from cifar_nb.core.forms import misfit

FORM = {"epoch": int, "loss?": (float, None), "name": str, "maps": [{"*": float}], "on?": bool}
GOOD = dict(epoch=1, loss=None, name="x", maps=[{"a": 1, "b": .5}], on=True, more="is free")


def test_what_fits():
    for change in ({}, dict(loss=1), dict(loss=1.5), dict(maps=[]), dict(epoch=-3),
                   dict(epoch=2 ** 63 - 1)):
        assert misfit(GOOD | change, FORM) == ""
    assert misfit({k: GOOD[k] for k in ("epoch", "name", "maps")}, FORM) == ""


@pytest.mark.parametrize("change, words", [
    (dict(epoch=True), "epoch is not a whole number"),
    (dict(epoch=1.), "epoch is not a whole number"),
    (dict(epoch=2 ** 63), "epoch is not a whole number"), (dict(loss="1"), "loss is not a number"),
    (dict(loss=float("nan")), "loss is not a number"),
    (dict(loss=10 ** 400), "loss is not a number"),
    (dict(loss=False), "loss is not a number"), (dict(name=None), "name is not a text"),
    (dict(maps={}), "maps is not a list"),
    (dict(maps=[{"a": 1}, []]),
     "maps[1] is not a dictionary"),
    (dict(maps=[{"a": "b"}]), "maps[0].a is not a number"),
    (dict(on=1), "on is not true or false")])
def test_the_first_place_that_does_not_fit_is_named(change, words):
    assert misfit(GOOD | change, FORM) == words


def test_what_is_missing_and_what_is_no_dictionary():
    assert misfit({k: v for k, v in GOOD.items() if k != "name"}, FORM) == "it lacks name"
    for value in ([], None, "x", 3): assert misfit(value, FORM) == "it is not a dictionary"
    assert misfit([1, "a"], [int], "log") == "log[1] is not a whole number"
