"""The site: built once, its links followed, nothing in it from elsewhere."""
import http.client
import json
import os
import re
import shutil
import threading
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from filelock import FileLock

from cifar_nb.core.errors import InputError
from cifar_nb.delivery import site

ROOT = Path(__file__).parent.parent


def cell(source, kind="code", outputs=(), **metadata):
    c = dict(cell_type=kind, id="x", metadata=metadata, source=source.splitlines(keepends=True))
    return c | (dict(outputs=list(outputs), execution_count=None) if kind == "code" else {})


def page(*cells):
    return site.page_of(dict(cells=list(cells), metadata={}, nbformat=4, nbformat_minor=5))["cells"]


SHOWN = dict(output_type="stream", name="stdout", text="a table")


@pytest.mark.parametrize("source, outputs, tags, text", [
    ("#| default_exp data.cifar", [], None, None), ("#| hide\nx = 1", [], None, None),
    ("#| hide\nx = 1", [SHOWN], ["hide-input"], "x = 1"),
    ("#| echo: false\nx", [SHOWN], ["remove-input"], "x"),
    ("import os\nfrom a import (b,\n c)", [], ["hide-input"], "import os\nfrom a import (b,\n c)"),
    ("#| export\ndef f(): pass", [], [], "def f(): pass"),
    ("#| export\n" + "x = 1\n" * 30, [], ["hide-input"], ("x = 1\n" * 30).strip()),
    ("x = 1\n" * 30, [SHOWN], [], ("x = 1\n" * 30).strip()),
    ("#| slow\nimport os\nx = 1", [], [], "import os\nx = 1")])
def test_what_becomes_of_a_cell(source, outputs, tags, text):
    cells = page(cell(source, outputs=outputs))
    if text is None: assert cells == []; return
    assert cells[0]["metadata"]["tags"] == tags and cells[0]["source"] == text
    assert cells[0]["outputs"] == outputs


def test_badges_go_and_links_out_of_the_chapters_lead_to_the_repository():
    text = ("# A\n\n[![Open in Colab](https://x/y.svg)](https://z)\n\n"
            "see [results](../results), [the next](07a_augment.ipynb) and ![a](figure.png)")
    found, = page(cell(text, "markdown"))
    assert found["source"] == (f"# A\n\n\nsee [results]({site.GIT}/blob/{site.BRANCH}/results), "
                               "[the next](07a_augment.ipynb) and ![a](figure.png)")


def test_links_in_what_a_cell_shows_lead_to_pages():
    table = dict(output_type="display_data", metadata={}, data={"text/markdown": [
        "[a](01_data.ipynb) [b](https://x/y.ipynb) ", "[c](../LICENSE)"], "text/plain": "x"})
    assert page(cell("x", outputs=[table]))[0]["outputs"][0]["data"]["text/markdown"] == (
        f"[a](01_data.html) [b](https://x/y.ipynb) [c]({site.GIT}/blob/{site.BRANCH}/LICENSE)")


def test_a_figure_keeps_its_text():
    figure = dict(output_type="display_data", data={"image/png": "", "text/plain": "x"},
                  metadata={"image/png": {"alt": "a curve that falls", "width": 9}})
    assert page(cell("x", outputs=[figure]))[0]["metadata"]["mystnb"] == {
        "image": {"alt": "a curve that falls"}}
    assert "mystnb" not in page(cell("x", outputs=[SHOWN]))[0]["metadata"]


def test_every_chapter_is_in_the_contents():
    names = [n for _, names in site.contents(ROOT) for n in names]
    there = sorted(p.stem for p in (ROOT/"nbs").glob("*.ipynb") if p.stem != "index")
    assert sorted(names) == there and [p for p, _ in site.contents(ROOT)] == [*site.BOOK_PARTS]


@pytest.mark.parametrize("action, why", [("bild", "no action .bild.: build or serve"),
                                         ("serve", "holds no site: run `cifar_nb site build`")])
def test_what_cannot_be_done_is_said(tmp_path, action, why):
    with pytest.raises(InputError, match=why): site.command_site(action, tmp_path / "none")


@pytest.mark.parametrize("port", [-1, 65_536, 99_999_999])
def test_a_port_that_is_none(tmp_path, port):
    (tmp_path / "index.html").touch()
    with pytest.raises(InputError, match=f"--port {port}: give a number from 0 to 65535"):
        site.serve_site(tmp_path, port)


def test_a_folder_with_something_else_is_left_alone(tmp_path):
    pytest.importorskip("sphinx_book_theme")
    for name in ("mine.txt", "index.html"):  # a page of one's own makes it no site of ours
        (tmp_path / name).touch()
        with pytest.raises(InputError, match="something else than a site"):
            site.build_site(tmp_path, ROOT)
    with pytest.raises(InputError, match="holds no nbs/index.ipynb"): site.build_site(root=tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["index.html", "mine.txt"]


@pytest.mark.parametrize("older", [True, False])
def test_a_site_takes_the_place_of_an_older_one_when_it_is_whole(older, tmp_path, monkeypatch):
    out, made, move = tmp_path / "_site", tmp_path / "elsewhere" / "site", shutil.move
    made.mkdir(parents=True)
    (made / "index.html").write_text("new", encoding="utf-8")
    if older:
        out.mkdir()
        (out / "index.html").write_text("old", encoding="utf-8")
    def full(*args): raise OSError(28, "No space left on device")
    monkeypatch.setattr(shutil, "move", full)
    with pytest.raises(OSError, match="No space"): site._replace(out, made)
    assert sorted(os.listdir(tmp_path)) == ["_site"] * older + ["elsewhere"]
    monkeypatch.setattr(shutil, "move", move)
    site._replace(out, made)
    assert (out / "index.html").read_text(encoding="utf-8") == "new"
    assert sorted(os.listdir(tmp_path)) == ["_site", "elsewhere"] and not made.exists()


# ---- the whole of it

class Links(HTMLParser):
    "What a page asks for, and the places in it that can be linked to."
    def __init__(self, text):
        super().__init__()
        self.asked, self.loaded, self.places, self.images = set(), set(), set(), []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        a = dict(attrs)
        self.places |= {a[k] for k in ("id", "name") if a.get(k)}
        if tag == "a" and a.get("href"): self.asked.add(a["href"])
        if tag in ("script", "img") and a.get("src"): self.loaded.add(a["src"])
        if tag == "link" and a.get("rel") != "canonical" and a.get("href"):
            self.loaded.add(a["href"])


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    pytest.importorskip("sphinx_book_theme")
    # the workflow that publishes names its folder, and what is checked here is what it publishes
    kept = os.environ.get("CIFAR_NB_SITE")
    base = tmp_path_factory.getbasetemp()
    if os.environ.get("PYTEST_XDIST_WORKER"): base = base.parent  # the workers share one site
    out, told = Path(kept) if kept else base / "shared" / "_site", base / "said.json"
    with FileLock(base / "site.lock"):
        if not told.exists():
            said = []
            site.build_site(out, ROOT, said.append)
            told.write_text(json.dumps(said), encoding="utf-8")
    said = json.loads(told.read_text(encoding="utf-8"))
    pages = {p.relative_to(out).as_posix(): Links(p.read_text(encoding="utf-8"))
             for p in out.glob("**/*.html") if "_static" not in p.parts}
    return out, said, pages


def test_it_is_built_without_a_warning(built):
    out, said, pages = built
    assert len(said) == 1 and len(pages) > 80, said


def test_every_link_leads_somewhere(built):
    out, _, pages = built
    lost = []
    for name, links in pages.items():
        for url in links.asked | links.loaded:
            parts = urlsplit(url)
            if parts.scheme or parts.netloc or not (parts.path or parts.fragment): continue
            at = os.path.normpath(os.path.join(os.path.dirname(name), unquote(parts.path))
                                  ) if parts.path else name
            inside = unquote(parts.fragment)
            if not (out / at).is_file(): lost.append((name, url))
            elif inside and at in pages and inside not in pages[at].places: lost.append((name, url))
    assert not lost, lost[:10]


def test_nothing_is_loaded_from_elsewhere(built):
    foreign = {url for links in built[2].values() for url in links.loaded
               if urlsplit(url).netloc or urlsplit(url).scheme not in ("", "data")}
    assert not foreign, foreign


def test_formulas_search_dark_mode_launch_and_reference_are_there(built):
    out, _, pages = built
    text = (out / "45_muon.html").read_text(encoding="utf-8")
    assert "math notranslate" in text and "tex-svg.js" in text
    assert (out / "_static/tex-svg.js").stat().st_size > 10**6
    assert "theme-switch" in text and "colab.research.google.com" in text
    words = json.loads(re.search(r"\{.*\}", (out / "searchindex.js").read_text(encoding="utf-8"),
                                 re.S)[0])
    assert "augment" in str(words["docnames"]) and len(words["terms"]) > 1000
    assert "cifar_nb.recipes.vary.vary" in pages["api/recipes.html"].places
    assert "show code" in text
    assert 'alt="Left: one test image' in (out / "index.html").read_text(encoding="utf-8")


def test_the_page_of_claims_has_every_claim(built):
    from cifar_nb.evaluation.records import load_results
    from cifar_nb.studies.scoreboard import all_claims
    text = (built[0] / "scoreboard.html").read_text(encoding="utf-8")
    rows = re.findall(r"<tr>(.*?)</tr>", text.split('class="sortable"')[1], re.S)[1:]
    claims = all_claims(load_results(ROOT / "results"))
    assert len(rows) == len(claims) > 100
    for row, (team, c) in zip(rows, claims):
        assert team in row and f"<td>{c.verdict}</td>" in row


def test_what_is_published_was_checked():
    text = (ROOT / ".github/workflows/docs.yaml").read_text(encoding="utf-8")
    build, publish = re.split(r"^  publish:$", text.partition("\njobs:\n")[2], flags=re.M)
    steps = re.findall(r"^      - .*(?:\n        .*)*", build, re.M)
    check, = (i for i, step in enumerate(steps) if "pytest -q tests/test_site.py" in step)
    upload, = (i for i, step in enumerate(steps) if "upload-pages-artifact" in step)
    folder = re.search(r"CIFAR_NB_SITE: (\S+)", steps[check])[1]
    assert check < upload and f"path: {folder}" in steps[upload] and "needs: build" in publish
    assert all(re.search(r"^    timeout-minutes: \d+$", job, re.M) for job in (build, publish))


# ---- in a browser

@pytest.fixture(scope="module")
def browser():
    sync = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = os.environ.get("CIFAR_NB_CHROMIUM") or next(
        filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if not path: pytest.skip("there is no Chromium on this machine")
    with sync.sync_playwright() as p:
        b = p.chromium.launch(executable_path=path,
                              args=["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"])
        yield b
        b.close()


def too_wide(browser, files, width=390):
    "Those of `files` that are wider than a window of `width` pixels, and how wide they are."
    page = browser.new_page(viewport=dict(width=width, height=844))
    page.route("**/tex-svg.js*", lambda route: route.abort())  # half the time; formulas scroll
    found = {}
    for f in files:
        page.goto(f.as_uri(), wait_until="load")
        if (w := page.evaluate("document.documentElement.scrollWidth")) > width: found[f.name] = w
    page.close()
    return found


def test_no_page_is_wider_than_a_telephone(built, browser, tmp_path):
    out, _, pages = built
    assert too_wide(browser, [out / name for name in sorted(pages)]) == {}
    wide = tmp_path / "wide.html"
    wide.write_text(f"<p>{'m' * 200}</p>", encoding="utf-8")
    assert too_wide(browser, [wide])["wide.html"] > 390


def test_heads_sort_by_mouse_and_by_keyboard(browser, tmp_path):
    rows = [["name", "n"], ["b", "10"], ["a", "1,000"], ["c", "9"], ["d", "500"]]
    script = (site.STATIC / "sort.js").read_text(encoding="utf-8")
    (tmp_path / "t.html").write_text(f"{site._html_table(rows)}<script>{script}</script>",
                                     encoding="utf-8")
    page = browser.new_page()
    page.goto((tmp_path / "t.html").as_uri())
    def first(): return "".join(page.locator("tbody td:first-child").all_inner_texts())
    page.locator("th").nth(0).click()
    assert first() == "abcd"
    page.keyboard.press("Tab")
    for key, order in (("Enter", "cbda"), ("Space", "adbc")):
        page.keyboard.press(key)
        assert first() == order
    assert page.locator("th").nth(1).get_attribute("aria-sort") == "descending"
    page.locator("th").nth(0).focus()
    page.keyboard.press("Enter")
    assert first() == "abcd"
    page.close()


def test_an_older_site_is_replaced_and_can_be_looked_at(built, tmp_path, monkeypatch):
    out = tmp_path / "_site"
    shutil.copytree(built[0], out)
    said, ready = [], threading.Event()
    monkeypatch.setattr(site.http.server.ThreadingHTTPServer, "daemon_threads", True)
    def say(text): said.append(text); ready.set()
    started = []
    class Server(site.http.server.ThreadingHTTPServer):
        def __init__(self, *args): super().__init__(*args); started.append(self)
    monkeypatch.setattr(site.http.server, "ThreadingHTTPServer", Server)
    thread = threading.Thread(target=site.serve_site, args=(out, 0, say), daemon=True)
    thread.start()
    assert ready.wait(10)
    host = re.search(r"//([\d.:]+)/", said[0])[1]
    c = http.client.HTTPConnection(host, timeout=10)
    c.request("GET", "/index.html")
    assert c.getresponse().status == 200
    c.close()
    started[0].shutdown()
    thread.join(10)
    assert not thread.is_alive()
