"""Show again what the checks say of the untouched exercises, without executing the chapters.

    python tools/stubs.py                         # every chapter with exercises
    python tools/stubs.py nbs/05_resnet.ipynb     # this one

After a change of a check's title, marks or hints the pages still show the older ones; a test says
so. Cells that end in `check(...)` or `compare_prediction(...)` are run as they stand, after the
chapter's imports, and their outputs are replaced.
"""
import ast
import io
import json
import os
import re
import sys
import tempfile
from contextlib import redirect_stdout, suppress
from importlib import import_module
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))


def asks(source):
    "Whether the cell's last line is `check(...)` or `compare_prediction(...)`."
    try: last = (ast.parse(source).body or [None])[-1]
    except SyntaxError: return False
    call = last.value if isinstance(last, ast.Expr) else None
    return (isinstance(call, ast.Call)
            and getattr(call.func, 'id', '') in ('check', 'compare_prediction') and call.args
            and isinstance(call.args[0], ast.Constant)
            and bool(re.fullmatch(r'(?!demo)[a-z]\w*\.\d+', str(call.args[0].value))))


def surroundings(nb):
    "What the chapter's module exports, and what its cells import."
    code = [''.join(c['source']) for c in nb['cells'] if c['cell_type'] == 'code']
    owner = [m[1] for s in code if (m := re.search(r'#\|\s*default_exp\s+(\S+)', s))]
    names = dict(vars(import_module(f'cifar_nb.{owner[0]}'))) if owner else {}
    for source in code:
        if re.search(r'^[%!]', source, re.MULTILINE): continue
        for line in ast.parse(source).body:
            if isinstance(line, (ast.Import, ast.ImportFrom)) and not getattr(line, 'level', 0):
                exec(compile(ast.Module([line], []), '<imports>', 'exec'), names)
    return names


def show(path):
    "Refresh the outputs of `path`; True if anything changed."
    nb = json.loads(path.read_text(encoding='utf-8'))
    cells = [c for c in nb['cells'] if c['cell_type'] == 'code' and asks(''.join(c['source']))]
    if not cells: return False
    names, before = surroundings(nb), json.dumps(nb)
    for c in nb['cells']:  # experiments that a prediction is about, shown in a cell before it
        source = ''.join(c['source'])
        if c['cell_type'] != 'code' or asks(source): continue
        if not re.search(r'^[%!]|^#\|\s*export', source, re.MULTILINE):
            for line in ast.parse(source).body:
                if isinstance(line, ast.FunctionDef) and not line.decorator_list:
                    with suppress(NameError):
                        exec(compile(ast.Module([line], []), '<functions>', 'exec'), names)
    for c in cells:
        tree = ast.parse(''.join(c['source']))
        with redirect_stdout(io.StringIO()):
            exec(compile(ast.Module(tree.body[:-1], []), path.name, 'exec'), names)
            v = eval(compile(ast.Expression(tree.body[-1].value), path.name, 'eval'), names)
        data = {'text/html': [v._repr_html_()], 'text/plain': [repr(v)]}
        printed = [o for o in c['outputs'] if o['output_type'] != 'execute_result']
        c['outputs'] = [*printed, dict(data=data, execution_count=None, metadata={},
                                       output_type='execute_result')]
    if json.dumps(nb) == before: return False
    path.write_text(json.dumps(nb, indent=1, ensure_ascii=False, sort_keys=True) + '\n',
                    encoding='utf-8')
    return True


if __name__ == '__main__':
    os.environ['CIFAR_NB_PROGRESS'] = str(Path(tempfile.mkdtemp()) / 'progress.json')
    for p in map(Path, sys.argv[1:] or sorted((ROOT / 'nbs').glob('[0-9]*.ipynb'))):
        if show(p): print(p.name)
