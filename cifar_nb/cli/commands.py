"""Plain module: what each sub-command of `cifar_nb` does, as a function of the parsed arguments.

`cli.main` imports it after the arguments were understood. Tests: tests/test_cli.py.
"""
import json
import os
from pathlib import Path

import torch

from ..augment.arguments import count
from ..core.errors import InputError
from ..core.files import check_writable, free_name, slug, writable_folder, write_atomic
from ..core.statistics import mcnemar
from ..data.cifar import CLASSES, SHAPES, load_set, split
from ..data.competition import load_competition
from ..evaluation.records import record_run
from ..evaluation.report import evaluate
from ..evaluation.tta import (check_views, examine, one_and_mean, predict_views,
                              write_submission)
from ..models.count import counts_of
from ..teams.zoo import list_recipes
from ..training.checkpoints import Run
from ..training.distributed import asked, from_first, joined
from ..training.loggers import logger, logging_to
from ..training.loop import check_batches
from ..training.precision import choose_device, hardware
from ..training.runs import unfinished_runs
from ..training.train import check_compile, planned, train
from .asked import recipe_asked

NO_SUBMISSION = ("ATTENTION: this is no submission. No competition's test file was given "
                 '(--competition); these are answers for the test images.')


def images_of(part: str, data: str | None = None, say=print, stand_in: bool = True,
              download: bool = True) -> tuple:
    """`(x, y, name)` of the 'train' or 'test' part; without CIFAR-10, and without a place named,
    the toy set, announced, if that may `stand_in`."""
    try: return tuple(load_set(part, data, say, download))
    except InputError as e:
        if data or os.environ.get('CIFAR_NB_DATA') or not stand_in: raise
        say('CIFAR-10 could not be had, so the built-in toy set stands in: the figures below say '
            f'nothing about CIFAR-10. ({e})')
        return tuple(load_set(part, 'toy', lambda s: None))


def cmd_recipes(a):
    "The registry as a table."
    print(f"{'recipe':24}{'variant':9}{'parameters':>11}{'MACs':>9}{'epochs':>8}  title")
    for r in list_recipes():
        parameters, macs = counts_of(r.net)
        print(f'{r.name:24}{r.variant:9}{parameters:>11,}{macs / 1e6:>8.1f}M{r.epochs:>8}  '
              f'{r.title}')


def run_folder(manifest: dict, root='runs') -> Path:
    """A new folder in `root` for the training `manifest`, made by this call, so that nobody else
    gets it."""
    epochs = sum(p['epochs'] for p in manifest['recipe']['phases'])
    words = [slug(manifest['name']), *(['code'] if manifest['variant'] == 'code' else []),
             f'{epochs}epochs', f'seed{manifest["seed"]}']
    return free_name(Path(root, '-'.join(words + ['toy'] * (manifest['data']['name'] == 'toy'))))


def folder_to_resume(manifest: dict, root='runs', say=print) -> Path:
    """The unfinished run of the training `manifest` in `root` that was written to last; a new
    folder where there is none."""
    if there := unfinished_runs(root, manifest): return there[-1]
    say(f'There is no unfinished run of this training in {root}, so it begins anew.')
    return run_folder(manifest, root)


def cmd_train(a):
    "Train, evaluate, write the answers, and say where everything lies."
    recipe, base = recipe_asked(a.recipe, a.variant, a.epochs, a.settings)
    log_to = logger(a.log) if a.log else None  # missing now rather than after the first epoch
    if a.results and os.path.exists(a.results) and not os.path.isdir(a.results):
        raise InputError(f'--results {a.results} is a file: name a folder.')
    competition = load_competition(a.competition) if a.competition else None
    x, y, data = images_of('train', a.data)
    if a.images is not None:
        if not 1 <= a.images <= len(x):
            raise InputError(f'--images {a.images}: choose a number from 1 to {len(x)}.')
        x, y = x[:a.images], y[:a.images]
    if competition and data == 'toy' and a.data != 'toy':
        raise InputError(f"{a.competition} would be answered by a network that has seen drawn "
                         "shapes only, since there is no CIFAR-10 here: name its folder with "
                         "--data, or say --data toy for a try.")
    holdout = len(x) // 10 if a.holdout is None else a.holdout
    alone = holdout and not a.test  # the test images are
    if alone and (a.results or a.curve):
        flag, does = ('--results', 'keeps figures of') if a.results else ('--curve', 'measures')
        raise InputError(f'{flag} {does} the test images, and with --holdout they are left alone: '
                         f'say --test as well, or leave {flag} out.')
    # found missing now rather than in an hour
    test = None if alone else images_of('test', 'toy' if data == 'toy' else a.data,
                                        say=lambda s: None)[:2]
    if a.results: writable_folder(a.results)
    settings = dict(seed=a.seed, device=a.device, precision=a.precision, holdout=holdout)
    def folder():  # made only for a training that may begin
        manifest = planned(recipe, x, y, data=data, **settings)
        check_batches(recipe, len(x) - holdout)
        check_compile(recipe, a.compile)
        return str((folder_to_resume if a.resume else run_folder)(manifest))
    with joined() as group:
        out = Path(a.out or from_first(group, folder))
        with logging_to(log_to, out) as callback:
            train(recipe, x, y, out, resume=a.resume, compile=a.compile, info=dict(data=data),
                  curve=test if a.curve else None, base=base, callback=callback, **settings)
    if not asked().first: return
    if holdout:
        held = split(y, holdout)[1]
        named = _names(data) | dict(name='validation set', data=f'{data}, held out of the training')
        if alone: return finish_run_of(out, (x[held], y[held]), named, a, competition)
        print(_accuracy_of(examine(Run(out), x[held], y[held], a.device, **named)[0]))
    finish_run_of(out, test, _names(data), a, competition, tested=True)


def finish_run_of(out, images, names, a, competition=None, tested=False):
    """Evaluate the run `out` on `images` (images, labels), the test images where `tested`, else
    those held out; `names` are for `examine`. Write its answers, which are a submission for the
    file of a `competition` only, and print where the results lie."""
    run, ids, views = Run(out), torch.arange(len(images[0])), Run(out).recipe.tta_transforms
    m, averaged, logits = examine(run, *images, a.device, **names)
    if competition:
        ids, logits = (competition.ids,
                       predict_views(run.load_net(a.device), competition.images,
                                     run.recipe.phases[-1], views))
    file = out / ('submission.csv' if competition else 'test_predictions.csv')
    if competition or tested: write_submission(file, ids, logits.argmax(1), overwrite=True)
    if a.results: record_run(run, a.results)
    r = run.result
    with_tta = f" ({averaged['accuracy']:.2f}% with TTA)" if averaged is not m else ''
    print(f"{_accuracy_of(m)}{with_tta}, {r['parameters']:,} parameters, {r['seconds']:.0f} s of "
          f"training on {r['hardware']}\nreport      {out / 'report.md'}\ncurves      "
          f"{out / 'curves.png'}\nconfusion   {out / 'confusion.png'}\nmistakes    "
          f"{out / 'mistakes.png'}\n"
          + (f'submission  {file}' if competition else f'answers     {file}\n{NO_SUBMISSION}'
             if tested else
             'The test images were left alone: choose by this figure, then train without --holdout '
             'and read them once.'))


def _accuracy_of(m: dict) -> str:
    return f"{m['accuracy']:.2f}% of {m['images']:,} {m['set']} images"


def _names(data) -> dict:
    "What `evaluate` calls the images and the classes."
    return (dict(name='test set', classes=CLASSES, data=data)
            if data != 'toy' else dict(name='toy test set', classes=list(SHAPES), data=data))


def views_of(run, tta: bool) -> tuple:
    "The views to use: one, or with `tta` the recipe's own, or the mirrored pair if it has none."
    return check_views(('identity',) if not tta else run.recipe.tta_transforms
                       if tuple(run.recipe.tta_transforms) != ('identity',) else
                       ('identity', 'flip'))


def _run(folder) -> Run:
    "The run in `folder`; where a recipe is named instead, the sentence says so."
    if not os.path.lexists(folder) and any(r.name == folder for r in list_recipes()):
        raise InputError(f'{folder} is a recipe, and the folder of a run is asked for: '
                         f'train it first, `cifar_nb train {folder}` says where its run lies.')
    return Run(folder)


def cmd_evaluate(a):
    "Judge a run on the test images."
    run = _run(a.run)
    run.result
    own = run.manifest['data']['name']
    try: x, y, data = images_of('test', a.data or ('toy' if own == 'toy' else None), stand_in=False)
    except InputError as e:
        raise InputError(f'{a.run} was trained on {own}, and its test images are not here: name '
                         f'their folder with --data. {e}') from None
    views = views_of(run, a.tta)
    tta = views != ('identity',)
    one, logits = one_and_mean(run.load_net(a.device), x, run.recipe.phases[-1], views)
    m = evaluate(run, x, y, logits, a.device, tta=views, pictured=data == own,
                 beside=one if tta else None, **_names(data))
    how = 'without TTA' if not tta else f'TTA: {", ".join(views)}'
    print(f"{_accuracy_of(m)} ({how}); " +
          (f"see {run.path / 'report.md'}" if data == own else "kept in "
           f"{run.path / 'evaluations'}: the report stays that of the run's own test set, {own}"))
    if 'paired' in m:
        gained, lost = m['paired']['gained'], m['paired']['lost']
        print(f'beside the answers without TTA: {gained:,} images won, {lost:,} lost '
              f"(McNemar's test: p = {mcnemar(gained, lost):.2g})")
    if a.results: print(f'recorded in {record_run(run, a.results)}')


def cmd_predict(a):
    "Write the submission for the course's file."
    from ..evaluation.pretrained import Pretrained, open_network
    run, out = open_network(a.run), Path(a.out)
    run.result
    if not run.trained_on.startswith(('cifar10', 'pictures')) and not a.anyway:
        what = ('the toy set, drawn shapes'
                if run.trained_on == 'toy' else f'images of a set called {run.trained_on}')
        raise InputError(f'{a.run} was trained on {what}: its answers to {a.file} may mean '
                         'nothing. Name a network trained on CIFAR-10, or say --anyway.')
    if os.path.lexists(out) and not a.overwrite:
        raise InputError(f'{out} is already there: choose another name with --out, or say '
                         '--overwrite.')
    c = load_competition(a.file)
    logits = predict_views(run.load_net(a.device), c.images, run.recipe.phases[-1],
                           views_of(run, a.tta))
    write_submission(out, c.ids, logits.argmax(1), a.overwrite)
    print(f'{len(c.ids):,} rows in {out}')
    if isinstance(run, Pretrained):
        print(f'{a.run} comes trained with this package, and the assignment forbids pretrained '
              'weights: to hand in this file would break its rules. Train a network of your own.')


def cmd_bench(a):
    "Side by side with the usual way, as ratios."
    chosen = {k: v for k, v in dict(images=a.images, repeats=a.repeats).items() if v is not None}
    if a.what == 'augment':
        from ..bench.augmentation import bench_augment
        if a.recipe:
            raise InputError('bench augment races lists of operations, not recipes: leave --recipe '
                             'out.')
        return bench_rows('augment', a.out, str(choose_device(a.device)), bench_augment,
                          {'images': 2000, 'repeats': 5} | chosen)
    if a.what in ('convolution', 'winograd', 'norm'):
        if a.recipe:
            raise InputError(f'bench {a.what} races shapes of layers, not recipes: leave --recipe '
                             'out.')
        from ..kernels.fused_norm import bench_norm
        from ..kernels.gradient import bench_convolution
        from ..kernels.winograd import bench_winograd
        race = dict(convolution=bench_convolution, winograd=bench_winograd, norm=bench_norm)[a.what]
        return bench_rows(a.what, a.out, str(choose_device(a.device)), race,
                          {'images': 250, 'repeats': 9} | chosen)
    from ..bench import commands
    race = getattr(commands, f'command_{a.what}')
    race(tuple(a.recipe), device=a.device, out=a.out, **chosen)


def bench_rows(name, out, device, race, chosen):
    "Run the `race` called `name` and print it; with `out`, keep it as JSON."
    for k, v in chosen.items(): count(f'bench {name}', k, v)
    check_writable(out)
    rows = race(device, n=chosen['images'], repeats=chosen['repeats'])
    where = (f'{hardware(device)}, {torch.get_num_threads()} threads, torch {torch.__version__}, '
             f'{chosen["images"]:,} images, {chosen["repeats"]} repeats')
    print(rows, where, sep='\n')
    if out:
        write_atomic(
            out,
            json.dumps(dict(bench=name, machine=where, rows=[dict(r) for r in rows]), indent=1))


def cmd_scoreboard(a):
    "Claims and results."
    from ..evaluation.records import load_results
    from ..studies.scoreboard import scoreboard
    if not os.path.isdir(a.results):
        raise InputError(f'There is no folder {a.results}: name the one that holds the recorded '
                         'runs with --results.')
    print(scoreboard(load_results(a.results)))


def cmd_kaggle(a):
    "Build, check or push the notebook for Kaggle."
    from ..delivery.kaggle_push import command_kaggle
    command_kaggle(a.action, a.folder, a.user, print, a.competition, a.resume_from)


def cmd_site(a):
    "Build the book's site, or show it."
    from ..delivery.site import command_site
    command_site(a.action, a.out, a.port, a.book, print)


def cmd_reproduce(a):
    "The recipes of the five reports at full length: what is missing in the results is trained."
    from ..studies.reproduce import command_reproduce
    command_reproduce(a.recipe, a.seeds, a.together, a.minutes, a.results, a.runs, a.data, a.device,
                      a.images,
                      a.list, a.compile, a.curve)


def cmd_shift(a):
    "How much of its accuracy a network keeps on corrupted images."
    from ..studies.shift import command_shift
    command_shift(a.run, a.trainings, a.seeds, a.results, a.data, a.device, a.images)


def cmd_tta(a):
    "What test-time augmentation gains a network, and how far its confidence can be trusted."
    from ..studies.networks import command_tta
    command_tta(a.run, a.results, a.data, a.device, a.images)


def cmd_pretrained(a):
    "The networks that come trained."
    from ..evaluation.pretrained import list_pretrained
    print(list_pretrained())


def cmd_publish(a):
    "Pack the network of a run, with a card."
    from ..delivery.publish import publish
    trained = _run(a.run).trained_on
    x, y, data = images_of('test', a.data or ('toy' if trained == 'toy' else None), stand_in=False)
    if trained != data:
        raise InputError(f'{a.run} was trained on {trained}, and these test images are {data}: '
                         'name others with --data.')
    e = publish(a.run, x, y, a.name, a.weights, a.folder, a.overwrite)
    print(f"{a.folder}/{e['file']}: {e['bytes']:,} bytes, {e['accuracy']:.2f}% of {e['images']:,} "
          f"images ({e['run']['accuracy']:.2f}% before it was packed)")


def cmd_migrate(a):
    "Give older records and runs a manifest."
    from ..studies.migrate import command_migrate
    command_migrate(a.folder, a.kernels)


def cmd_progress(a):
    "Which exercises of the book are solved."
    from ..exercises.checker import progress
    print(progress())


def cmd_ablate(a):
    "One change at a time, several seeds: what is missing in the results is run."
    from ..studies.ablate import command_ablate
    command_ablate(a.study, a.scale, a.seeds, a.results, a.data, a.device, a.list)


def cmd_budgets(a):
    "Recipes at the same training compute: what is missing in the results is run."
    from ..studies.budgets import command_budgets
    command_budgets(a.recipe, a.pflop, a.seeds, a.results, a.data, a.device, a.list)


def cmd_search(a):
    "Let Optuna look for channels and blocks."
    from ..studies.search import command_search
    command_search(a.trials, a.storage, a.study, a.results, a.data, a.device)


def cmd_ladder(a):
    """From the plain loop to the recipe quick, one trick at a time, what was weighed for hour, or
    quick in fewer epochs; what is missing in the results is run."""
    from ..studies import ladder, lengths, record
    command = dict(quick=ladder.command_ladder, hour=record.command_hour,
                   lengths=lengths.command_lengths)[a.recipe]
    command(a.seeds, a.results, a.data, a.device)
