"""Plain module: the arguments of the command `cifar_nb`. Nothing of torch is imported here.

Tests: tests/test_cli.py.
"""
import argparse
import ast
import json

from ..core.errors import InputError

__all__ = ['parser']

ANY_DATA = 'found, else downloaded, else toy'


class Parser(argparse.ArgumentParser):
    "argparse, with its errors as `InputError`."
    def error(self, message):
        raise InputError(f'{message[:1].upper()}{message[1:]}; see `{self.prog} --help`.')


def setting(text: str) -> tuple:
    "(key, value) of 'KEY=VALUE'; the value is JSON, or else a Python literal, or else a text."
    key, equals, value = (part.strip() for part in text.partition('='))
    if not key or not equals:
        raise argparse.ArgumentTypeError(f'{text!r} is not KEY=VALUE, such as lr=0.05')
    for read in (json.loads, ast.literal_eval):
        try: return key, read(value)
        except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError): continue
    return key, value


class Version(argparse.Action):
    "Print version and commit, and end."
    def __call__(self, parser, *_):
        from ..core.version import commit, package_version
        print(f'cifar_nb {package_version()}, commit {commit()}')
        parser.exit()


def parser() -> Parser:
    "The parser of the `cifar_nb` command."
    p = Parser(
        'cifar_nb',
        description='CIFAR-10 in under five million parameters: train, evaluate, submit.')
    p.add_argument('--version', action=Version, nargs=0,
                   help='the version of the package, and its commit')
    sub = p.add_subparsers(dest='command', required=True, parser_class=Parser, metavar='COMMAND')
    def command(name, text): return sub.add_parser(name, help=text, description=text)
    command('recipes', 'list the recipes with their parameters, MACs and epochs')
    s = command('train', 'train a recipe, evaluate it and write its answers')
    _train_arguments(s)
    s = command('evaluate', 'metrics, confusion matrix and mistakes of a finished run')
    s.add_argument('run', metavar='RUN', help='folder that train wrote')
    _shared_arguments(s)
    s.add_argument('--results', metavar='DIR', help='also keep the figures as a JSON file in DIR')
    s = command('predict', "labels for the course's test file, as Kaggle wants them")
    s.add_argument('run', metavar='RUN',
                   help='folder that train wrote, or a name that `cifar_nb pretrained` lists (to '
                   'compare with: the assignment forbids to hand in pretrained weights)')
    s.add_argument('file', metavar='FILE.pkl', help="the course's test file")
    _shared_arguments(s)
    s.add_argument('--out', default='submission.csv',
                   help='the file to write (default: submission.csv)')
    s.add_argument('--overwrite', action='store_true', help='write over an existing file')
    s.add_argument('--anyway', action='store_true',
                   help='also where the network was trained on the toy set')
    s = command('bench', 'side by side with the plain torchvision way, as ratios')
    _bench_arguments(s)
    _other_commands(command)
    return p


def _other_commands(command):
    s = command('scoreboard', 'the claims of the five reports beside what was found')
    s.add_argument('--results', metavar='DIR', default='results',
                   help='folder of recorded runs (default: results)')
    s = command('kaggle', 'the notebook for Kaggle: build, check or push it')
    s.add_argument('action', choices=['build', 'check', 'push'])
    s.add_argument('--folder', default='kaggle',
                   help='where notebook and metadata lie (default: kaggle)')
    s.add_argument(
        '--user', help='the owner on Kaggle (default: as in the metadata, or of the token)')
    s.add_argument('--competition', metavar='SLUG',
                   help='attach this competition, whose test file is then answered')
    s.add_argument('--resume-from', metavar='OWNER/NOTEBOOK',
                   help='attach the output of this notebook, from which the training goes on')
    s = command('site', 'the book as a site: build it, or show it on this machine')
    s.add_argument('action', choices=['build', 'serve'])
    s.add_argument('--out', metavar='DIR', default='_site',
                   help='where the site lies (default: _site)')
    s.add_argument('--port', type=int, default=8000, metavar='N',
                   help='where to show it (default: 8000)')
    s.add_argument('--book', metavar='DIR', help="the book's folder (default: that of the package)")
    s = command('ablate', 'small designed experiments: one change at a time, several seeds')
    _ablate_arguments(s)
    s = command('budgets', 'recipes side by side at the same training compute')
    _budgets_arguments(s)
    s = command('search', 'Optuna looks for channels and blocks under the limit')
    _search_arguments(s)
    s = command(
        'reproduce',
        'the recipes of the five reports at full length, in as many sittings as it takes')
    _reproduce_arguments(s)
    s = command('ladder', 'from the plain loop to the recipe quick, one change at a time; or what '
                'was weighed for hour')
    s.add_argument('recipe', nargs='?', choices=['quick', 'hour', 'lengths'], default='quick',
                   help="whose cumulative ablation; 'lengths': quick in fewer epochs (default: "
                   'quick)')
    s.add_argument('--seeds', type=int, default=1, metavar='N',
                   help='runs of each variant (default: 1)')
    _recorded(s)
    _where(s)
    s = command('shift', 'how much a network keeps on noisy, blurred and foggy images')
    _shift_arguments(s)
    s = command('tta', 'what test-time augmentation gains a network, and how far its confidence '
                'can be trusted')
    _tta_arguments(s)
    command('pretrained', 'the networks that come trained')
    s = command('publish', 'pack the network of a finished run, with a card and a checksum')
    _publish_arguments(s)
    s = command('migrate', 'give records and runs of older releases a manifest; what nobody wrote '
                'down is marked as unknown')
    s.add_argument('folder', metavar='DIR', help='folder of records, or of runs')
    s.add_argument('--kernels', metavar='NAMES', help="the compiled kernels that these ran with, "
                   "if you know: 'none', or 'fused_norm,winograd' (default: unknown)")
    command('progress', 'which exercises of the book you have solved')


def _recorded(s):
    s.add_argument('--results', metavar='DIR', default='results',
                   help='folder of recorded runs; what is there is not run again (default: '
                   'results)')


def _where(s, data='found, else downloaded', gpus='the first CUDA GPU'):
    if data:
        s.add_argument('--data', metavar='ROOT',
                       help=f"folder of CIFAR-10, or 'toy' (default: {data})")
    s.add_argument('--device', help="'cpu', 'cuda', 'cuda:1' or, on a Mac, 'mps' (default: "
                   f"{gpus}, else the CPU; 'mps' must be named)")


def _shared_arguments(s):
    _where(s, ANY_DATA)
    s.add_argument('--tta', action='store_true',
                   help='average the predictions for several transforms of each image')


def _bench_arguments(s):
    s.add_argument(
        'what', choices=['augment', 'convolution', 'winograd', 'norm', 'train', 'predict', 'parts'],
        help='what to race')
    s.add_argument('--recipe', action='append', default=[], metavar='NAME',
                   help="train, predict, parts: NAME, NAME:VARIANT or NAME:VARIANT:OTHER (with the "
                   "network of OTHER) to race, again for more (default: the five teams'; parts: "
                   'laptop)')
    _where(s, data=None)
    s.add_argument('--images', type=int, metavar='N', help='images a round (default: 2000 for '
                   'augment, 250 for convolution, winograd and norm, 1000 for predict, 4096 for '
                   'parts, some batches for train)')
    s.add_argument('--repeats', type=int, metavar='R', help='rounds; the median and the spread are '
                   'shown (default: 5 for augment, 9 for convolution, winograd and norm, else 3)')
    s.add_argument('--out', metavar='FILE.json', help='also write the rows to this file')


def _ablate_arguments(s):
    s.add_argument('study', nargs='*', metavar='STUDY', help='names of studies (default: all)')
    s.add_argument('--list', action='store_true',
                   help='only list the studies, and what is recorded of each')
    s.add_argument('--scale', choices=['fast', 'long', 'medium', 'full'],
                   default='fast',
                   help="'fast': a small network on a CPU; 'long': the same in 40 epochs; "
                   "'medium': one past 90%% on all images; 'full': the teams' own recipes, for a "
                   "GPU")
    s.add_argument('--seeds', type=int, default=3, metavar='N',
                   help='runs of each variation (default: 3)')
    _recorded(s)
    _where(s)


def _budgets_arguments(s):
    s.add_argument('recipe', nargs='*', metavar='RECIPE',
                   help="NAME, NAME:VARIANT or NAME:VARIANT:OTHER (with the network of OTHER; "
                   "default: the five teams', resnet18, plain, quick, laptop)")
    s.add_argument('--pflop', type=float, default=.1, metavar='P',
                   help='compute of each training, in 10^15 operations (default: 0.1)')
    s.add_argument('--list', action='store_true',
                   help='only list the plans, and the seeds that are recorded')
    s.add_argument('--seeds', type=int, default=3, metavar='N',
                   help='runs of each recipe (default: 3)')
    _recorded(s)
    _where(s)


def _shift_arguments(s):
    s.add_argument('run', nargs='*', metavar='RUN',
                   help='folders that train wrote, or names that `cifar_nb pretrained` lists')
    s.add_argument('--trainings', action='store_true',
                   help='train quick with one augmentation after the other, and see which helps')
    s.add_argument('--seeds', type=int, default=1, metavar='N',
                   help='runs of each training (default: 1)')
    s.add_argument('--results', metavar='DIR', help="also keep the figures as JSON files in "
                   "DIR/shift (--trainings: default results)")
    s.add_argument('--images', type=int, metavar='N', help='the first N test images only')
    _where(s)


def _tta_arguments(s):
    s.add_argument('run', nargs='*', metavar='RUN',
                   help='folders that train wrote, or names that `cifar_nb pretrained` lists')
    s.add_argument('--results', metavar='DIR', help='also keep the figures as JSON files in '
                   'DIR/tta')
    s.add_argument('--images', type=int, metavar='N', help='the first N test images only')
    _where(s)


def _search_arguments(s):
    s.add_argument('--trials', type=int, default=25, metavar='N',
                   help='networks to try in all, those of earlier calls included (default: 25)')
    s.add_argument('--storage', metavar='URL', help="Optuna's database, say mysql://... for many "
                   "machines (default: an SQLite file)")
    s.add_argument('--study', default='fast',
                   help='name of the study in the database (default: fast)')
    s.add_argument('--results', metavar='DIR', default='results',
                   help='folder of recorded runs (default: results)')
    _where(s)


def _train_arguments(s):
    s.add_argument('recipe', metavar='RECIPE', help='a name that `cifar_nb recipes` lists, '
                   "NAME:VARIANT, NAME:VARIANT:OTHER (with the network of OTHER), a recipe's file "
                   'FILE.json, or the folder of a run, whose recipe is trained again')
    s.add_argument('--variant',
                   help="'report': as described; 'code': as the public code ran it (default: "
                   'report)')
    s.add_argument('--set', dest='settings', type=setting, action='append', default=[],
                   metavar='KEY=VALUE', help='change one field of the recipe, again for more: '
                   'lr=0.05, "widths=[32,64,64]", schedule.warmup_epochs=1, phase2.lr=0.01, '
                   '\'net={"widths": [32, 64, 64], "dropout": 0.1}\', '
                   '\'augment=["RandomCrop", {"transform": "Cutout", "size": 8}]\' (the shells of '
                   'Windows do not take the last two: write them into a FILE.json there)')
    s.add_argument('--epochs', type=int, metavar='N',
                   help="another length; the schedule keeps its shape (default: the recipe's)")
    s.add_argument('--seed', type=int, default=0, metavar='S',
                   help='of weights, order and augmentation (default: 0)')
    _where(s, ANY_DATA)
    s.add_argument('--precision', metavar='P', help="'fp32', 'bf16', 'fp16', or 'fp32 nchw' for "
                   "channels first (default: by capability)")
    # None, without N: argparse would read a text as a number
    s.add_argument('--holdout', type=int, nargs='?', const=None, default=0, metavar='N',
                   help='hold N training images (a tenth) out for validation and keep the epoch '
                   'that is best on them; the test images are left alone, unless --test is given')
    s.add_argument('--test', action='store_true', help='with --holdout: evaluate on the test '
                   'images at the end as well')
    s.add_argument('--images', type=int, metavar='N', help='train on the first N images only')
    _compiling(s, 'the network')
    s.add_argument('--out', metavar='DIR', help='folder of the run (default: a new one in runs/)')
    s.add_argument('--resume', action='store_true', help='go on with an interrupted run')
    s.add_argument('--log', choices=('tensorboard', 'trackio'), help='show the log there too, as '
                   'it grows (log.jsonl is written anyway); needs the extra `log`')
    s.add_argument('--competition', metavar='FILE.pkl',
                   help="the course's test file, for submission.csv (default: the answers to "
                   'the test images, in test_predictions.csv)')
    s.add_argument('--results', metavar='DIR', help='also keep the figures as a JSON file in DIR')


def _compiling(s, what):
    s.add_argument('--compile', nargs='?', const='inductor', default=False, metavar='MODE',
                   choices=('inductor', 'reduce-overhead', 'max-autotune'),
                   help=f'let torch.compile prepare {what} first (for a GPU; takes a minute or '
                   "more); 'reduce-overhead' and 'max-autotune' replay CUDA graphs")
    s.add_argument('--curve', action='store_true', help='measure the test images after every '
                   'epoch too, for drawing (test.jsonl); no choice is made by them')


def _reproduce_arguments(s):
    s.add_argument('recipe', nargs='*', metavar='RECIPE', help="NAME (all its variants), "
                   "NAME:VARIANT or NAME:VARIANT:OTHER (with the network of OTHER; default: the "
                   "five teams', resnet18 and plain)")
    s.add_argument('--seeds', type=int, default=3, metavar='N',
                   help='runs of each recipe (default: 3)')
    s.add_argument('--together', type=int, default=1, metavar='K',
                   help='trainings at a time on each device (default: 1)')
    s.add_argument('--minutes', type=float, metavar='M',
                   help='save and stop after M minutes; the same command goes on (default: no '
                   'limit)')
    s.add_argument('--list', action='store_true',
                   help='only list what is missing, and what it costs')
    _recorded(s)
    s.add_argument('--runs', metavar='DIR', default='runs',
                   help='folder of the trainings (default: runs)')
    s.add_argument('--images', type=int, metavar='N',
                   help='train on the first N images only, for a try')
    _compiling(s, 'the networks')
    _where(s, gpus='every CUDA GPU')


def _publish_arguments(s):
    s.add_argument('run', metavar='RUN', help='folder that train wrote')
    s.add_argument('--name', help="what to call it (default: as its recipe)")
    s.add_argument('--weights', default='fp16', help="'fp16' or 'int8' (default: fp16)")
    s.add_argument('--overwrite', action='store_true',
                   help='even if a network of another run has this name')
    s.add_argument('--folder', metavar='DIR', default='weights',
                   help='where to write it (default: weights; those of the package are in '
                   'cifar_nb/weights)')
    s.add_argument('--data', metavar='ROOT',
                   help=f"folder of CIFAR-10, or 'toy' (default: {ANY_DATA})")
