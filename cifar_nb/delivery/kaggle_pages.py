"""Plain module: what the notebook for Kaggle says and does before and after the package's code.

`%% md NAME` and `%% code NAME` begin a cell. `delivery.kaggle` fills in what stands in brackets.
"""


__all__ = ['BADGES', 'BEFORE', 'LIBRARY', 'YOURS', 'RUN', 'MEMBERS', 'TRAIN', 'JUDGE', 'SUBMIT']


_OF_KAGGLE = 'https://kaggle.com/static/images/open-in-kaggle.svg'
_TO_KAGGLE = 'https://kaggle.com/kernels/welcome?src=[BLOB]/kaggle/cifar-nb.ipynb'
_COLAB = 'https://colab.research.google.com'
_TO_COLAB = f'{_COLAB}/github/[REPO]/blob/[BRANCH]/kaggle/cifar-nb.ipynb'
BADGES = f'''[![Open in Kaggle]({_OF_KAGGLE})]({_TO_KAGGLE})
[![Open in Colab]({_COLAB}/assets/colab-badge.svg)]({_TO_COLAB})'''

BEFORE = '''
%% md title
# CIFAR-10 in under five million parameters

[BADGES]

Ten kinds of small pictures, a network of at most five million parameters, a file of answers: how
good can it get? Five student teams tried for a course. This notebook trains their recipes, the
ones that [a workbook]([GIT]) found since, or yours. It brings its own code and needs no internet.

1. *Add Input*: the dataset `pankrzysiu/cifar10-python`, and your course's competition if there is
   one. Another copy of CIFAR-10 will do if it holds the six Python batches or picture files; tables
   (CSV, Parquet) and the versions for C and MATLAB will not.
2. *Settings*: the accelerator GPU T4 x2. Without one the notebook trains `quick`, a minute or some
   on a processor.
3. *Run All*, or *Save Version* to let it run without you. Then change one thing and run it again.

%% md settings-text
## Settings

`RECIPES` and `SEEDS` make the members: two seeds, or two recipes, train side by side, one on each
GPU. If together they keep to five million parameters, their mean is submitted; else the first of
them is, and the others show the spread. Which it will be is said before the training. With
`PARALLEL = 'data'` all GPUs work on one member, each on its part of every batch. `None` means:
choose for me.

%% code settings parameters
RECIPES = None      # say ['dreamfire:code']; None: yours below, else [DEFAULT] on a GPU or 'quick'
VARIANT = 'report'  # of the teams: 'report' as described, 'code' as their programs ran
EPOCHS = None       # None: the recipe's own; another number keeps the shape of its schedule
SEEDS = None        # say [0, 1]; None: one a GPU, counted from 0 (only 0 for 'data')
HOLDOUT = None      # training images that judge; None: one in ten; 0: none, for the final run
PARALLEL = 'members'  # or 'data'
VIEWS = None        # to average, say ['identity', 'flip']; None: the recipe's own, or this pair
SUBMIT = 'auto'     # 'mean' of the members, 'first'; 'auto': the mean up to 5,000,000 parameters
HOURS = 11.0        # stop then and save; a session on Kaggle lasts 12
RESUME = True       # go on with what an earlier session left, if its output is attached
IMAGES = None       # train and test on the first so many images only, for a first try
DATA = COURSE = None  # folder of CIFAR-10, or 'toy'; the course's file; None: found by themselves
DEVICES = None      # say ['cuda:0']; None: every GPU, or the processor
PRECISION = None    # 'fp32', 'fp16' or 'bf16'; None: what the device is good at
'''


LIBRARY = '''
%% md library-text
## The library

The next cells are folded: they hold the package `cifar_nb`, one cell for each of its layers, the
lowest first. Run them; you need not read them here. The chapters explain them line by line:

[TABLE]

To change the library, unfold a cell, edit, and run it and everything below it again.

%% code magic hidden
import re, sys, tempfile, time
from pathlib import Path
from IPython.core.magic import register_cell_magic

STARTED = globals().get('STARTED', time.time())  # the first run counts
HOME = Path(tempfile.mkdtemp(prefix='cifar_nb-'), 'cifar_nb')  # for this notebook and its processes
sys.path.insert(0, str(HOME.parent))

@register_cell_magic
def layer(name, cell):
    "Write the files of the layer `name`; each begins after a line `#: path`."
    for at in [n for n in sys.modules if n.split('.')[0] == 'cifar_nb']: del sys.modules[at]
    parts = re.split(r'^#: (.+)\\n', cell, flags=re.M)[1:]
    for path, text in zip(parts[::2], parts[1::2]):
        file = HOME / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding='utf-8')
        for folder in (HOME, file.parent): (folder / '__init__.py').touch()
'''


YOURS = '''
%% md yours-text
## Yours

A recipe is data: a network, an augmentation, an optimizer and its schedule. Take one that works,
change one thing, and give it a name: what you get is trained below. The three lines below halve
the learning rate of `quick` and hide a square of each image besides what `quick` does; take away
their `# `. The fields are those of `print(get_recipe('quick').to_json())`; a name that does not
exist is answered with near ones.

%% code yours
from cifar_nb.delivery.session import one_sentence
from cifar_nb.teams.zoo import get_recipe, list_recipes

one_sentence()  # from here on a mistake is told without a page of traceback
YOURS = None
# from cifar_nb.augment.ops import Cutout
# quick = get_recipe('quick')
# YOURS = quick.with_(lr=0.05, augment=[Cutout(8), *quick.phases[0].augment], name='mine')
if YOURS and RECIPES:
    print(f'ATTENTION: RECIPES = {RECIPES!r} counts, and YOURS ({YOURS.name}) is not trained: '
          'set RECIPES = None in the settings to train yours.')
print('known:', ', '.join(dict.fromkeys(r.name for r in list_recipes())))
'''


RUN = '''
%% code surroundings
from cifar_nb.delivery.session import session_start, surroundings
from cifar_nb.training.jobs import choose_devices

STARTED = session_start(STARTED)
devices = choose_devices(DEVICES)
print(surroundings(devices))

%% md data-text
## The images

CIFAR-10 is found by what it is, wherever it is mounted, and the official files are checked by md5.
The competition's test file is found in the same way: a pickle with images and no labels.

%% code data
from cifar_nb.augment.preview import preview, show_images
from cifar_nb.data.images import load_images
from cifar_nb.delivery.session import find_course

images = load_images(DATA).first(IMAGES)
course = find_course(images, COURSE)  # read now: a damaged file should not wait for the end
show_images(images.x[:16], [images.classes[k] for k in images.y[:16]])
'''


MEMBERS = '''
%% md members-text
## The members

%% code members
from cifar_nb.data.images import working_folder
from cifar_nb.delivery.session import choose_holdout, foretold, named_recipes
from cifar_nb.training.jobs import plan_members

default = [YOURS] if YOURS else ['quick'] if devices[0] == 'cpu' else [[DEFAULT]]
alone = len(devices) == 1 or PARALLEL == 'data'
seeds = SEEDS if SEEDS is not None else [0] if alone else range(len(devices))
chosen = named_recipes(RECIPES or default, VARIANT)
members = plan_members(chosen, seeds, EPOCHS, working_folder() / 'runs', images.name, IMAGES)
holdout = choose_holdout(len(images.y), HOLDOUT)
print(foretold(members, SUBMIT))

%% md preview-text
What the first member sees: five images, and beside each of them eight draws of its augmentation.

%% code preview
preview(images.x[:5], members[0].recipe.phases[0].augment, n=8)
'''
TRAIN = '''
%% md training-text
## Training

Each member trains in a process of its own, or in one for each GPU. The curves grow as it learns,
those of the held-out images dashed. Press *stop* at any time: everything is saved, and the next run
of this cell goes on. The same happens when the hours are over. A member that fails does not stop
the others.

%% code training
from cifar_nb.delivery.session import Live, bring_back, train_all
from cifar_nb.training.checkpoints import Run
from cifar_nb.training.jobs import identified

runs = well = []  # of an earlier training none should be judged, if this one is refused
settings = dict(precision=PRECISION, holdout=holdout, info=dict(data=images.name))
# which run is which: recipe, images, hold-out, seed, precision
identified(members, images.x, images.y, devices, images.name, **settings)
if RESUME: bring_back(members)
well = train_all(members, devices, images.x, images.y, until=STARTED + 3600 * HOURS, show=Live(),
                 parallel=PARALLEL, **settings)
runs = [Run(m.out) for m in well if m.finished]
'''


JUDGE = '''
%% md judge-text
## How good is it?

One view of each test image, then the mean of several; with two members, a last row for their mean,
which has the parameters of both. This is what you report, at the end. What you *choose* by is the
validation accuracy above: whoever tries ten things on the test images and keeps the best has fitted
the test set. At last the most confident errors: true class, predicted class, confidence.

%% code scores
from cifar_nb.delivery.session import answers, choose_views, mean_of_members, scores

views = choose_views(members[0].recipe, VIEWS)
single = answers(runs, images.xt, ['identity'], devices[0])
several = answers(runs, images.xt, views, devices[0])
print(f'{len(images.xt):,} images, {images.test}; TTA averages {", ".join(views)}')
scores(runs, images.yt, one_view=single, several_views=several)

%% code report
from IPython.display import display
from cifar_nb.evaluation.report import evaluate, show_confusion, show_curves, show_mistakes

for run, logits in zip(runs, single):
    result = evaluate(run, images.xt, images.yt, logits, devices[0], classes=images.classes,
                      name=images.test, data=images.name)
    display(show_curves(run.log, result, images.test))
    display(show_confusion(result['confusion'], images.classes, run.path.name))

%% code mistakes
mean = mean_of_members(several) if runs else None
if runs: display(show_mistakes(images.xt, mean, images.yt, classes=images.classes))
else: print('no member is finished')
'''


SUBMIT = '''
%% md submission-text
## The submission

`submission.csv` for the competition's test file, with the header `ID,Labels`. Without that file the
answers are for the test images and are called `test_predictions.csv`; if the hours were over too
early, the checkpoint answers, in a file that ends in `-unfinished.csv`.

%% code submission
from cifar_nb.delivery.session import hand_in

hand_in(well, course, images, views, devices[0], SUBMIT)

%% md end-text
## What is left

The files, and how long they stay. To go on with an unfinished training, the next session needs the
folder `runs`.

%% code files
from cifar_nb.delivery.session import keeping

work = working_folder()
files = [*work.glob('*.csv'), *(p for m in members for p in m.out.glob('*') if p.is_file())]
print(*(f'{p.stat().st_size:>12,}  {p.relative_to(work)}' for p in sorted(files)), sep='\\n')
print(keeping())
'''
