"""The glossary: what counts as running text, and that each chapter links first uses of terms."""
import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tools"))
import glossary

TABLE = [("batch", ["batch"], "02_loop"),
         ("batch-normalization-bn", ["batch normalization", "batch norm", "BN"], "04_batch_norm"),
         ("sgd", ["SGD"], "06_optimizers")]


@pytest.mark.parametrize("text, linked", [
    ("A batch, and a batch.", "A [batch](91_glossary.ipynb#batch), and a batch."),
    ("Batch norm in batches", "[Batch norm](91_glossary.ipynb#batch-normalization-bn) in "
     "[batches](91_glossary.ipynb#batch)"),
    ("`batch`, $batch$, [batch](x), **batch**, ![batch](y)\n# batch\n| batch |", None),
    ("sgd is no name, SGD is", "sgd is no name, [SGD](91_glossary.ipynb#sgd) is"),
    ("microbatches and batch-wise", None)])
def test_the_first_use_in_running_text_is_linked(text, linked):
    assert glossary.linked([text], "01_data", TABLE) == [linked or text]
    again = glossary.linked([linked or text], "01_data", TABLE)
    assert again == [linked or text], "running it again changes nothing"


def test_a_chapter_that_explains_a_term_does_not_link_it():
    assert glossary.linked(["a batch of SGD"], "06_optimizers", TABLE) == [
        "a [batch](91_glossary.ipynb#batch) of SGD"]


def test_names_of_a_term():
    assert glossary.names_of("cosine (schedule)") == ["cosine", "cosine schedule"]
    assert glossary.names_of("Adam, AdamW") == ["Adam", "AdamW"]
    assert glossary.names_of("clip (gradient clipping)") == ["clip", "gradient clipping"]


def test_every_link_has_its_place_and_none_is_missing():
    page = "".join("".join(c["source"]) for c in json.loads(
        (ROOT / "nbs/91_glossary.ipynb").read_text(encoding="utf-8"))["cells"])
    table = list(glossary.terms())
    assert len(table) > 50 and all(f'<a id="{place}"></a>' in page for place, _, _ in table)
    assert glossary.main(["--check"]) == 0
