"The tool that finds checks which cannot fail, on lines that it must and must not find."
import importlib.util
import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TOOL = ROOT / 'tools/bare_comparisons.py'
spec = importlib.util.spec_from_file_location('bare_comparisons', TOOL)
tool = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tool)

CLAIMS = ['a == b', 'x < 1e-2', 'a in b', 'not a', 'a == 1 and b == 2', 'a or b > 1', 'a, b > 0',
          '[a is None]', 'torch.equal(a, b)', 'path.exists()', 'all(a)', 'x = 1\na == x\nprint(x)',
          '%time f()\na != b', 'f(x); a <= b', 'isinstance(a, B)', '(y := a == b)',
          'a < b if c else d', '#| hide\na == b']
VALUES = ['a', 'assert a == b', 'test_eq(a, b)', 'x = a == b', 'f(a == b)', 'a + b',
          '[a == b for a in c]', 'if a == b: c', 'def f(): return a == b', 'a, b', 'len(a)', '-a',
          'd[a == b]', '!ls\n5', '%%bash\n[ a == b ]', '']


def notebook(folder, *sources):
    path = folder / 'nbs/x.ipynb'
    path.parent.mkdir(exist_ok=True)
    cells = [dict(cell_type='code', id=f'c{i}', source=s.splitlines(keepends=True))
             for i, s in enumerate(sources)]
    cells.append(dict(cell_type='markdown', id='m', source=['a == b']))
    path.write_text(json.dumps(dict(cells=cells)), encoding='utf-8')
    return path


@pytest.mark.parametrize('source', CLAIMS)
def test_what_cannot_fail_is_found(source, tmp_path):
    assert len(list(tool.found(notebook(tmp_path, source)))) == 1


@pytest.mark.parametrize('source', VALUES)
def test_what_is_a_value_or_can_fail_is_left_alone(source, tmp_path):
    assert list(tool.found(notebook(tmp_path, source))) == []


def test_it_says_where_and_ends_with_one(tmp_path, capsys, monkeypatch):
    notebook(tmp_path, 'a', 'b == c', 'd ==')
    assert tool.main([], tmp_path) == 1
    said = capsys.readouterr().err
    assert 'x.ipynb, cell c1: b == c' in said and 'cell c2: is not Python' in said
    assert 'c0' not in said
    notebook(tmp_path, 'a', 'b == c')
    monkeypatch.setattr(tool, 'EXCEPTIONS', {'x:c1': 'an exercise asks what is shown'})
    assert tool.main([], tmp_path) == 0
    notebook(tmp_path, 'a')
    assert tool.main([], tmp_path) == 1 and 'no exception any more' in capsys.readouterr().err


def test_no_chapter_has_a_check_that_cannot_fail(capsys):
    assert tool.main([]) == 0, capsys.readouterr().err
