"""The checker of exercises: what counts as not started, what a verdict says, how answers are
compared, and what a proof refuses. Chapter 68 shows the whole of it."""
import random
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from cifar_nb.exercises import checker
from cifar_nb.exercises.checker import Verdict, Wrong, exercise, is_stub, judge, prove, same, whole

Z = torch.zeros(2, 3)


def untouched(numbers):
    "The mean of `numbers`."
    ...


def begun(numbers): return sum(numbers)


@dataclass
class Empty:
    times: int = 2
    def __call__(self, numbers): ...


class Doubling(Empty):
    def __call__(self, numbers): return [2 * n for n in numbers]


@pytest.fixture
def demo():
    "An exercise that asks for the mean of a list."
    @exercise('demo.1', 'The mean of a list', 'What do you divide the sum by?',
              'Python has `sum` and `len`.')
    def _(answer):
        for numbers in ([3.0], [1.0, 2.0, 6.0]):
            if answer(numbers) != sum(numbers) / len(numbers):
                raise Wrong(f'Not the mean of {numbers}.')
    yield 'demo.1'
    del checker._exercises['demo.1']


@pytest.mark.parametrize('answer, stub', [
    (None, True), (..., True), (untouched, True), (begun, False), (0, False), ((..., ...), True),
    ((1, ...), False), (Empty, True), (Doubling, False), (torch.no_grad()(untouched), True),
    (torch.no_grad()(begun), False)])
def test_what_counts_as_not_started(answer, stub): assert is_stub(answer) is stub


def test_a_verdict_is_a_sentence_and_its_hints_unfold():
    assert repr(Verdict('demo.1', 'The mean', 'solved', '')) == 'demo.1 The mean: solved.'
    wrong = Verdict('demo.1', 'The mean', 'wrong', 'Not the mean of `[3.0]`.', ('Sum & `len`?',))
    assert '<summary>Hint 1</summary>Sum &amp; <code>len</code>?' in wrong._repr_html_()


def no_division(numbers): return sum(numbers)
def wrong_name(numbers): return sum(number) / len(numbers)  # noqa: F821
def mean(numbers): return sum(numbers) / len(numbers)
def later(numbers): raise NotImplementedError
def no_such_kernel(numbers):
    return torch.nn.functional.pad(torch.zeros(1, 4, 4).byte(), (1, 1, 1, 1), mode='reflect')


def test_nothing_wrong_or_right(demo):
    answers = untouched, later, no_division, wrong_name, no_such_kernel, mean
    assert [judge(demo, a).state for a in answers] == ['unsolved'] * 2 + ['wrong'] * 3 + ['solved']
    assert judge(demo, no_division).message == 'Not the mean of [1.0, 2.0, 6.0].'
    line = wrong_name.__code__.co_firstlineno
    assert judge(demo, wrong_name).message == (
        f"It stops with NameError: name 'number' is not defined (line {line} of the cell).")


def test_an_error_without_a_text_leaves_no_colon(demo):
    def answer(numbers): raise ValueError
    line = answer.__code__.co_firstlineno
    assert judge(demo, answer).message == (
        f'It stops with ValueError (line {line} of the cell).')


@pytest.mark.parametrize('seed, draw', [
    (torch.manual_seed, lambda: torch.rand(1).item()), (random.seed, random.random),
    (np.random.seed, np.random.rand)], ids=['torch', 'python', 'numpy'])
def test_random_numbers_go_on_as_if_there_had_been_no_check(demo, seed, draw):
    seed(1)
    drawn = [draw() for _ in range(3)]
    seed(1)
    seen = []
    for _ in range(2): judge(demo, lambda numbers: seen.append(draw()))
    assert [draw() for _ in range(3)] == drawn and seen[0] == seen[len(seen) // 2]


def test_an_exercise_that_is_not_there():
    with pytest.raises(KeyError, match='There is no exercise'): judge('99.9', 3)


@pytest.mark.parametrize('value, number', [
    (3, 3), (3., 3), (np.int64(3), 3), (np.float32(3), 3), (torch.tensor(3), 3), (0, 0),
    (3.5, None), (True, None), (np.bool_(True), None), ('3', None), (float('nan'), None),
    (float('inf'), None), (np.array([3]), None), (None, None)])
def test_what_is_a_whole_number(value, number):
    assert whole(value) == number and type(whole(value)) is type(number)


@pytest.mark.parametrize('got, want', [
    (Z, Z.clone()), (2, 2.0), (np.float32(.5), .5), (torch.tensor(True), True),
    ([1, 'a'], (1, 'a')), ({'a': Z}, {'a': Z})])
def test_what_is_the_same(got, want): same(got, want)


@pytest.mark.parametrize('got, want, why', [
    (Z, torch.zeros(3), 'The result has shape (2, 3); (3,) is asked for.'),
    (Z, Z.long(), 'The result is torch.float32; torch.int64 is asked for.'),
    (Z, Z + torch.eye(2, 3), 'The result has the right shape, but 2 of 6 values differ, the first '
                             'at [0, 0].'),
    (3, 2.0, 'The result is 3, which is too large.'),
    (float('nan'), 1., 'The result is nan, which comes of 0 / 0, of 0 * log(0) or of infinities.'),
    (True, 1, 'The result is of type bool; a number is asked for.'),
    ([1, 2], (1, 3), 'The result, item 1, is 2, which is too small.'),
    ('cat', 'dog', "The result is 'cat', which is not right.")])
def test_a_difference_is_named_and_the_right_value_is_not(got, want, why):
    with pytest.raises(Wrong) as e: same(got, want)
    assert str(e.value) == why


@pytest.mark.parametrize('got, want', [
    (Z, Z + 1), ({'a': 1}, {'b': 1}), (float('nan'), 1.0), (None, Z), (torch.tensor(1), True),
    (Z.numpy(), Z)])
def test_what_is_not_the_same(got, want):
    with pytest.raises(Wrong): same(got, want)


def test_a_proof_refuses_a_check_that_errs(demo):
    with pytest.raises(AssertionError, match='a mistake is called'): prove(demo, mean, mean)
    with pytest.raises(AssertionError, match='the solution is called'):
        prove(demo, no_division, no_division)
    with pytest.raises(AssertionError, match='show at least one mistake'): prove(demo, mean)
    assert prove(demo, mean, no_division, wrong_name).state == 'wrong'
