"The table of tools/mutate.py is of today's lines; the tool itself runs the tests."
import importlib.util
from pathlib import Path

ROOT = Path(__file__).parent.parent
place = importlib.util.spec_from_file_location('mutate', ROOT / 'tools/mutate.py')
mutate = importlib.util.module_from_spec(place)
place.loader.exec_module(mutate)


def test_every_mutation_still_stands_where_it_is_made():
    lost = []
    for file, old, new, _ in mutate.read():
        text = (ROOT / 'cifar_nb' / file).read_text(encoding='utf-8')
        if mutate.changed(text, old, new) is None: lost.append(f'{file}: {old}')
    assert lost == []


def test_every_mutation_names_files_of_tests_that_are_there():
    for *_, tests in mutate.read():
        files = [a for a in mutate.named(tests) if a.endswith('.py')]
        assert files and all((ROOT / f).is_file() for f in files), tests
