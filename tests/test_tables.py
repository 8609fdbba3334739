"Rows that show themselves as a table."
import pytest

from cifar_nb.augment.ops import Cutout, RandomCrop
from cifar_nb.core.tables import Table, words


@pytest.mark.parametrize('value, digits, shown', [
    (2_777_674, None, '2,777,674'), (True, None, 'yes'), (False, 3, 'no'), (None, None, ''),
    (5e-4, None, '0.0005'),
    (271.419904, None, '271.42'), (1234.5678, None, '1,234.57'), (271.419904, 3, '271'),
    (.012345, 3, '0.0123'),
    ((3, 5, 3), None, '3, 5, 3'), ((), None, 'none'), ([.12345, 1], 2, '0.12, 1'), ('a', None, 'a'),
    ((RandomCrop(2), Cutout()), None, 'RandomCrop(padding=2), Cutout()')])
def test_values_in_words(value, digits, shown): assert words(value, digits) == shown


def test_what_is_shown_is_rounded_and_what_is_kept_is_not():
    t = Table([{'a': 1 / 3, 'long head': 1000}, {'a': 2., 'long head': None}], digits=2)
    assert repr(t) == 'a     long head\n0.33  1,000\n2'
    assert (t[0]['a'] == 1 / 3
            and list(t) == [{'a': 1 / 3, 'long head': 1000}, {'a': 2., 'long head': None}])
    assert t._repr_markdown_() == '| a | long head |\n| --- | --- |\n| 0.33 | 1,000 |\n| 2 |  |'


def test_an_empty_table():
    assert repr(Table()) == '(an empty table)' and 'nothing' in Table()._repr_markdown_()


def test_rows_may_come_one_after_the_other():
    t = Table(digits=3)
    t.append(dict(a=1.23456)); t += [dict(a=2)]
    assert repr(t).splitlines() == ['a', '1.23', '2']
