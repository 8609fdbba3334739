"""The sliders of the preview chapter, moved in JupyterLab by a real Chromium, by keyboard and by
mouse.

Needs `pip install playwright` and a Chromium (`apt-get install chromium`, or set CIFAR_NB_CHROMIUM
to its path); skipped, with the reason, elsewhere.
"""
import hashlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
CHROMIUM = os.environ.get('CIFAR_NB_CHROMIUM') or next(
    filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome'))), None)
sync = pytest.importorskip('playwright.sync_api', reason='playwright is not installed')
pytest.importorskip('jupyterlab', reason='JupyterLab is not installed')
if not CHROMIUM: pytest.skip('there is no Chromium on this machine', allow_module_level=True)

IGNORES = ("from cifar_nb.augment.preview import *\nfrom cifar_nb.augment.ops import "
           "RandomCrop\nfrom cifar_nb.data.cifar import toy\nx, y = toy(50)\npage = sliders(lambda "
           "strength, seed: preview(x[:1], RandomCrop(), 0), **controls(strength=.5, seed=99))")


def until(f, seconds, what):
    "The first true value of `f()`; it may raise until then."
    end, last = time.time() + seconds, None
    while time.time() < end:
        try:
            if value := f(): return value
        except Exception as e: last = e
        time.sleep(.1)
    raise AssertionError(f'{what} did not happen in {seconds} s ({last})')


@pytest.fixture(scope='module')
def lab(tmp_path_factory):
    """JupyterLab on a free port over a copy of the chapter and a notebook whose callback ignores
    its sliders: (address, ask the server)."""
    home = tmp_path_factory.mktemp('lab')
    shutil.copy(ROOT/'nbs'/'07e_preview.ipynb', home)
    cell = dict(cell_type='code', id='ignores', metadata={}, source=IGNORES, execution_count=None,
                outputs=[])
    spec = {'kernelspec': {'display_name': 'Python 3', 'language': 'python', 'name': 'python3'}}
    (home/'ignores.ipynb').write_text(
        json.dumps(dict(cells=[cell], metadata=spec, nbformat=4, nbformat_minor=5)),
        encoding="utf-8")
    quiet = home/'settings/@jupyterlab/apputils-extension'; quiet.mkdir(parents=True)
    (quiet/'notification.jupyterlab-settings').write_text('{"fetchNews": "false", '
                                                          '"checkForUpdates": false}',
                                                          encoding="utf-8")
    with socket.socket() as s: s.bind(('127.0.0.1', 0)); port = s.getsockname()[1]
    token = secrets.token_hex(16)
    env = dict(os.environ, JUPYTER_CONFIG_DIR=str(home/'config'),
               JUPYTER_RUNTIME_DIR=str(home/'runtime'),
               JUPYTERLAB_SETTINGS_DIR=str(home/'settings'),
               JUPYTERLAB_WORKSPACES_DIR=str(home/'workspaces'), IPYTHONDIR=str(home/'ipython'),
               PYTHONPATH=str(ROOT), OMP_NUM_THREADS='1',
               PATH=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get('PATH', '')]))
    log = open(home/'lab.log', 'w', encoding="utf-8")
    server = subprocess.Popen(
        [sys.executable, '-m', 'jupyter', 'lab', '--no-browser', '--allow-root',
         '--ServerApp.ip=127.0.0.1', f'--ServerApp.port={port}',
         '--ServerApp.port_retries=0', f'--IdentityProvider.token={token}',
         f'--ServerApp.root_dir={home}'],
        env=env, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
    def ask(path):
        return json.load(
            urllib.request.urlopen(f'http://127.0.0.1:{port}/api/{path}?token={token}', timeout=5))
    try:
        until(lambda: ask('status'), 90, 'the start of JupyterLab')
        yield lambda name: f'http://127.0.0.1:{port}/lab/tree/{name}?token={token}&reset', ask
    finally:
        server.send_signal(signal.SIGTERM)
        try: server.wait(20)
        except subprocess.TimeoutExpired: server.kill(); server.wait()
        log.close()


@pytest.fixture(scope='module')
def browser():
    with sync.sync_playwright() as p:
        b = p.chromium.launch(executable_path=CHROMIUM, headless=True,
                              args=['--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage'])
        yield b
        b.close()


def open_and_run(lab, browser, name):
    "The page of notebook `name` after all its cells ran."
    address, ask = lab
    page = browser.new_context(viewport={'width': 1400, 'height': 1000}).new_page()
    page.goto(address(name), wait_until='domcontentloaded', timeout=90_000)
    page.locator('.jp-Notebook .jp-Cell').first.wait_for(timeout=90_000)
    def kernel():  # the indicator says idle before there is a kernel, and Run All then does nothing
        here = [s['kernel'] for s in ask('sessions') if s['path'].endswith(name)]
        return here and here[0]['execution_state'] == 'idle' and here[0]['connections'] > 0
    until(kernel, 90, 'an idle kernel')
    for _ in range(3):
        page.get_by_role('menuitem', name='Run', exact=True).click()
        page.get_by_role('menuitem', name='Run All Cells', exact=True).click()
        try: until(lambda: page.locator('img.widget-image').count(), 60, 'a picture'); break
        except AssertionError: pass
    until(kernel, 120, 'the end of the last cell')
    page.locator('.widget-slider .noUi-handle').first.scroll_into_view_if_needed(timeout=30_000)
    return page


def picture(page):
    "A fingerprint of the first page's picture, read from the pixels the browser shows."
    image = page.locator('img.widget-image').first
    return hashlib.sha256(image.screenshot()).hexdigest()


def move(page, how):
    "Move the strength slider by keyboard or mouse; gives what it reads before and after."
    handle, track = (page.locator('.widget-slider .noUi-handle').first,
                     page.locator('.widget-slider .noUi-base').first)
    reads = lambda: page.locator('.widget-slider .widget-readout').first.inner_text()
    before = reads()
    if how == 'keyboard':
        handle.focus()
        for _ in range(4): page.keyboard.press('ArrowRight')
    else:
        at, box = handle.bounding_box(), track.bounding_box()
        page.mouse.move(at['x']+at['width']/2, at['y']+at['height']/2); page.mouse.down()
        page.mouse.move(box['x']+box['width']*.95, at['y']+at['height']/2, steps=8); page.mouse.up()
    return before, until(lambda: reads() != before and reads(), 20, 'a move of the slider')


def test_a_moved_slider_changes_the_picture(lab, browser):
    page = open_and_run(lab, browser, '07e_preview.ipynb')
    for how in 'keyboard', 'mouse':
        before = picture(page)
        move(page, how)
        until(lambda: picture(page) != before, 20, f'a new picture after the {how}')
    assert not page.locator('[data-mime-type="application/vnd.jupyter.error"]').count()
    if shots := os.environ.get('CIFAR_NB_SCREENSHOTS'):
        page.screenshot(path=Path(shots)/'sliders.png')


def test_the_test_would_notice_a_callback_that_ignores_its_slider(lab, browser):
    page = open_and_run(lab, browser, 'ignores.ipynb')
    before = picture(page)
    move(page, 'keyboard')
    with pytest.raises(AssertionError, match='a new picture'):
        until(lambda: picture(page) != before, 4, 'a new picture')
