"""Cells that look like a check and cannot fail: nobody looks at a True that is shown.

    python tools/bare_comparisons.py                        # every notebook below nbs/
    python tools/bare_comparisons.py nbs/61_training.ipynb  # this one

A statement of a cell is such a one if it is nothing but a comparison, a `not`, an `and` or `or`, a
call that answers yes or no (`torch.equal`, `path.exists()`, ...), or a tuple that holds one. Write
`assert`, or fastcore's `test_eq`. Exit status 1 if there are any. Standard library only.
"""
import ast
import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
YES_OR_NO = {'all', 'any', 'allclose', 'array_equal', 'bool', 'endswith', 'equal', 'exists',
             'hasattr', 'is_contiguous', 'is_dir', 'is_file', 'isclose', 'isfinite', 'isinstance',
             'issubclass', 'issubset', 'startswith'}
EXCEPTIONS = {}  # 'notebook:cell id' -> why a yes or no that is only shown belongs there


def is_claim(node):
    "Whether the expression `node` is a yes or no, or shows one."
    if isinstance(node, (ast.Tuple, ast.List)): return any(map(is_claim, node.elts))
    if isinstance(node, ast.UnaryOp): return isinstance(node.op, ast.Not) or is_claim(node.operand)
    if isinstance(node, ast.BoolOp): return any(map(is_claim, node.values))
    if isinstance(node, ast.IfExp): return is_claim(node.body) or is_claim(node.orelse)
    if isinstance(node, ast.NamedExpr): return is_claim(node.value)
    if isinstance(node, ast.Call):
        return getattr(node.func, 'attr', getattr(node.func, 'id', '')) in YES_OR_NO
    return isinstance(node, ast.Compare)


def python(source):
    "The lines of a cell without those that are for Jupyter, which are left empty."
    if source.lstrip().startswith('%%'): return ''
    lines = source.split('\n')
    return '\n'.join('' if line.lstrip().startswith(('%', '!')) else line for line in lines)


def found(path):
    "(cell id, text) of each bare comparison in the notebook `path`."
    for cell in json.loads(path.read_text(encoding='utf-8'))['cells']:
        if cell['cell_type'] != 'code': continue
        source = ''.join(cell['source'])
        try: body = ast.parse(python(source)).body
        except SyntaxError as e: yield cell['id'], f'is not Python ({e.msg})'; continue
        for node in body:
            if isinstance(node, ast.Expr) and is_claim(node.value):
                yield cell['id'], ast.unparse(node)


def main(names, root=ROOT):
    everything = [p for p in sorted((root / 'nbs').rglob('*.ipynb'))
                  if '.ipynb_checkpoints' not in p.parts]
    paths, wrong, excused = [Path(n) for n in names] or everything, [], set()
    for path in paths:
        for cell, text in found(path):
            key = f'{path.stem}:{cell}'
            if key in EXCEPTIONS: excused.add(key)
            else: wrong.append(f'{path.name}, cell {cell}: {text[:100]}')
    gone = [] if names else sorted(EXCEPTIONS.keys() - excused)
    wrong += [f'{key} is no exception any more: take it out' for key in gone]
    for line in wrong: print(f'bare_comparisons: {line}', file=sys.stderr)
    return bool(wrong)


if __name__ == '__main__': sys.exit(main(sys.argv[1:]))
