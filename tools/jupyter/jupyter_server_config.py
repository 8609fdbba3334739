"""What JupyterLab does here for authors (`python3 book.py lab --edit`): a chapter is saved in the
form that is committed, so that saving without an edit changes nothing."""
from nbdev.clean import clean_jupyter

c = get_config()  # noqa: F821, of Jupyter
c.FileContentsManager.pre_save_hook = clean_jupyter
