"""Plain module: what the notebook for Kaggle says and does before and after the chapters' code.

`%% md NAME` and `%% code NAME` begin a cell. `delivery.kaggle` fills in what stands in brackets.
"""


__all__ = ['BADGES', 'BEFORE', 'CODE', 'TEAMS_PAGE', 'RUN', 'MEMBERS', 'TRAIN', 'JUDGE', 'SUBMIT']


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

Five student teams built ResNets for CIFAR-10 with at most five million parameters. This notebook
trains their recipes, or yours, and writes a submission. It brings its own code, the chapters of [a
workbook]([GIT]), and needs no internet.

1. *Add Input*: the dataset `pankrzysiu/cifar10-python` (any other copy of CIFAR-10 will do), and
   your course's competition if there is one.
2. *Settings*: the accelerator GPU T4 x2. Without one the notebook trains a short recipe on the
   processor.
3. Choose a recipe below, then *Run All*, or *Save Version* to let it run without you.

%% md settings-text
## Settings

`RECIPES` and `SEEDS` make the members: two seeds, or two recipes, train side by side, one on each
GPU, and are averaged at the end. With `PARALLEL = 'data'` all GPUs work on one member, each on its
part of every batch, and the next member follows. `None` means: choose for me.

%% code settings parameters
RECIPES = None      # names from the teams' cells; None: [DEFAULT] on a GPU, else 'small'
VARIANT = 'report'  # 'report': as the team described it; 'code': as its program ran, if different
EPOCHS = None       # None: the recipe's own; another number keeps the shape of its schedule
SEEDS = None        # say [0, 1]; None: one a GPU, counted from 0 (only 0 for 'data')
PARALLEL = 'members'  # several GPUs: a member each; 'data': all of them on one member, by torchrun
VIEWS = None        # to average, say ['identity', 'flip']; None: the recipe's own, or this pair
SUBMIT = 'auto'     # 'mean' of the members, 'first', or 'auto': the mean up to 5,000,000 parameters
HOURS = 11.0        # stop then and save; a session on Kaggle lasts 12
RESUME = True       # go on with what an earlier session left, if its output is attached
HOLDOUT = 0         # so many training images judge the epochs, and the best epoch on them is kept
IMAGES = None       # train and test on the first so many images only, for a first try
DATA = None         # a folder, or 'toy' for ten drawn shapes; None: found by itself
DEVICES = None      # say ['cuda:0']; None: every GPU, or the processor
PRECISION = None    # 'fp32', 'fp16' or 'bf16'; None: what the device is good at
'''


CODE = '''
%% md code-text
## The code

Each of the next cells is a chapter. The first line, `%%chapter NAME`, makes it the module
`cifar_nb.NAME`, or a file that one of them reads. The cells are folded on Kaggle and in JupyterLab;
unfold one to read or change it, then run all below it again.

%% code magic hidden
import importlib, sys, tempfile, time
from pathlib import Path
from IPython.core.magic import register_cell_magic

STARTED = time.time()
HOME = Path(tempfile.mkdtemp(prefix='cifar_nb-'), 'cifar_nb')  # for this notebook and its processes
for name in [n for n in sys.modules if n.split('.')[0] == 'cifar_nb']: del sys.modules[name]
sys.path.insert(0, str(HOME.parent))

@register_cell_magic
def chapter(name, code):
    "Make the cell the module cifar_nb.`name`, or the file `name` (with a slash) of the package."
    is_file = '/' in name
    file = HOME / name if is_file else HOME.joinpath(*name.split('.')).with_suffix('.py')
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(code, encoding='utf-8')
    if is_file: return
    for folder in (HOME, file.parent): (folder / '__init__.py').touch()
    importlib.invalidate_caches()
    module = sys.modules.get(f'cifar_nb.{name}')
    importlib.reload(module) if module else importlib.import_module(f'cifar_nb.{name}')
'''
TEAMS_PAGE = '''
%% md teams-text
## The teams

A recipe is data: the network, the augmentation, the optimizer and its schedule; what is not written
is the default of its chapter. Add one of your own in the same way and name it in `RECIPES`.

%% code registry
from cifar_nb.recipes.spec import Registry

known = Registry()  # recipes by name; the next cells fill it
'''


RUN = '''
%% md run-text
## Where are we?

%% code surroundings
from cifar_nb.delivery.session import one_sentence, surroundings
from cifar_nb.training.jobs import choose_devices

one_sentence()  # a mistake in the settings is told without a page of traceback
devices = choose_devices(DEVICES)
print(surroundings(devices))

%% md data-text
## The images

CIFAR-10 is found by what it is, wherever it is mounted, and the official files are checked by md5.
So is the course's test file, if it is there.

%% code data
from cifar_nb.data.competition import load_competition
from cifar_nb.augment.preview import show_images
from cifar_nb.data.images import find_competition, load_images

images, file = load_images(DATA).first(IMAGES), find_competition()
# read now: a damaged file should not wait for the end
course = load_competition(file) if file and images.name != 'toy' else None
if file and not course:
    print(f'{file} is left alone: a network that has seen drawn shapes only cannot answer for it')
show_images(images.x[:16], [images.classes[k] for k in images.y[:16]])
'''


MEMBERS = '''
%% md members-text
## The members

%% code members
from cifar_nb.models.resnet import count_parameters
from cifar_nb.data.images import working_folder
from cifar_nb.delivery.session import describe_network
from cifar_nb.training.jobs import plan_members

default = ['small'] if devices[0] == 'cpu' else [[DEFAULT]]
alone = len(devices) == 1 or PARALLEL == 'data'
seeds = SEEDS if SEEDS is not None else [0] if alone else range(len(devices))
names = [RECIPES] if isinstance(RECIPES, str) else RECIPES or default
chosen = [known.get(r, VARIANT) if isinstance(r, str) else r for r in names]
members = plan_members(chosen, seeds, EPOCHS, working_folder() / 'runs', images.name, IMAGES)
for m in members:
    print(f'{m.name}: {m.recipe.title}, {count_parameters(m.recipe.net.build()):,} parameters')

%% code network
describe_network(members[0].recipe.net.build())

%% md preview-text
What the first member sees: a row of images, and below it three draws of its augmentation.

%% code preview
import torch
from cifar_nb.augment.preview import draws

row = images.x[:10]
augmented = draws(row, members[0].recipe.phases[0].augment, n=3)
show_images(torch.cat([row, *(augmented[i::3] for i in range(3))]), ncols=10)
'''
TRAIN = '''
%% md training-text
## Training

Each member trains in a process of its own, or in one for each GPU. Press *stop* at any time:
everything is saved, and the next run of this cell goes on. The same happens when the hours are
over.

%% code training
from cifar_nb.delivery.session import Live, bring_back, unfinished
from cifar_nb.training.jobs import identified, train_members
from cifar_nb.training.checkpoints import Run

settings = dict(precision=PRECISION, holdout=HOLDOUT, info=dict(data=images.name))
# which run is which: recipe, images, hold-out, seed, precision
identified(members, images.x, images.y, devices, images.name, **settings)
if RESUME: bring_back(members)
finished = train_members(members, devices, images.x, images.y, until=STARTED + 3600 * HOURS,
                         show=Live(), parallel=PARALLEL, **settings)
print(unfinished(members) or f'Finished: {", ".join(m.name for m in finished)}')
runs = [Run(m.out) for m in finished]
'''


JUDGE = '''
%% md judge-text
## How good is it?

The test images are used here for the first time. One view of each image, then the mean of several.
(With two members, a last row: their mean, which has the parameters of both.)

%% code scores
from cifar_nb.delivery.session import answers, choose_views, scores, mean_of_members

views = choose_views(members[0].recipe, VIEWS)
single = answers(runs, images.xt, ['identity'], devices[0])
several = answers(runs, images.xt, views, devices[0])
print(f'{len(images.xt):,} images, {images.test}; several views are {", ".join(views)}')
scores(runs, images.yt, one_view=single, several_views=several)

%% code report
from IPython.display import display
from cifar_nb.evaluation.report import evaluate, show_confusion, show_curves, show_mistakes

for run, logits in zip(runs, single):
    result = evaluate(run, images.xt, images.yt, logits, devices[0], classes=images.classes,
                      name=images.test, data=images.name)
    display(show_curves(run.log, result))
    display(show_confusion(result['confusion'], images.classes, run.path.name))

%% md mistakes-text
The surest mistakes of the members' mean: what it is, what was said, and how surely.

%% code mistakes
mean = mean_of_members(several) if runs else None
if runs: display(show_mistakes(images.xt, mean, images.yt, classes=images.classes))
else: print('no member is finished')
'''


SUBMIT = '''
%% md submission-text
## The submission

For the course's test file if it is attached, else for the test images, with the header `ID,Labels`.

%% code submission
from cifar_nb.delivery.session import submit

ids, x = (course.ids, course.images) if course else (torch.arange(len(images.xt)), images.xt)
if runs: submit(runs, answers(runs, x, views, devices[0]), ids, working_folder(), SUBMIT)

%% md end-text
## What is left

Everything below is in the notebook's output. To go on with an unfinished training, attach that
output to the next session.

%% code files
work = working_folder()
files = [*work.glob('submission*.csv'), *(p for m in members for p in m.out.glob('*'))]
print(*(f'{p.stat().st_size:>12,}  {p.relative_to(work)}' for p in sorted(files)), sep='\\n')
'''
