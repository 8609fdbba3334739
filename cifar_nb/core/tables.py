"""Plain module: rows that show themselves as a table, in a notebook and in print.

Tests: tests/test_tables.py.
"""

__all__ = ['words', 'Table']


def words(value, digits: int | None = None) -> str:
    """`value` as a reader wants it: 2,777,674, yes, 0.0005, and nothing for None; what has a method
    `brief` says itself. `digits`: that many significant ones of floats."""
    if value is None: return ''
    if isinstance(value, bool): return 'yes' if value else 'no'
    if isinstance(value, int): return f'{value:,}'
    if isinstance(value, float) and digits: return f'{value:.{digits}g}'
    if isinstance(value, float): return f'{value:,.2f}' if abs(value) >= 1000 else f'{value:.6g}'
    if isinstance(value, (tuple, list)): return ', '.join(words(v, digits) for v in value) or 'none'
    return value.brief() if hasattr(value, 'brief') else str(value)


class Table(list):
    "Rows, each a dict with the keys of the first; floats are shown with `digits` significant ones."
    def __init__(self, rows=(), digits: int | None = None):
        super().__init__(rows)
        self.digits = digits

    def cells(self) -> list:
        "The head and the rows as lists of strings."
        return [list(self[0]), *([words(v, self.digits) for v in row.values()] for row in self)]

    def __repr__(self):
        if not self: return '(an empty table)'
        cells = self.cells()
        width = [max(len(r[i]) for r in cells) for i in range(len(cells[0]))]
        return '\n'.join('  '.join(map(str.ljust, r, width)).rstrip() for r in cells)

    def _repr_markdown_(self):
        head, *rows = self.cells() if self else [['nothing']]
        return '\n'.join(f'| {" | ".join(r)} |' for r in (head, ['---'] * len(head), *rows))
