"""The built site, in a real browser: `make docs-check`.

Every page, at the width of a desktop and of a phone, light and dark: nothing is wider than the page, text can be read,
in pictures too, formulas are drawn, and nothing comes from elsewhere. The links, the names, and the search. A picture
of each is left in build/site-pictures, to be looked at.
"""

import functools
import http.server
import importlib.util
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import quote, unquote, urldefrag, urljoin

import pytest
import torch
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright
from sphinx.util.inventory import InventoryFile

import ste

ROOT = Path(__file__).parent.parent
if importlib.util.find_spec("ste_core") is None:  # the site has its Python part in any case
    sys.path.append(str(ROOT / "packages" / "ste-core" / "src"))
sys.path.append(str(ROOT / "tools"))

import bench_report  # noqa: E402 - found by the path that stands above
import figures  # noqa: E402
import jobs  # noqa: E402
import matrix  # noqa: E402

SITE = ROOT / "build" / "site"
PICTURES = ROOT / "build" / "site-pictures"
PAGES = sorted(str(page.relative_to(SITE)) for page in SITE.rglob("*.html") if "_static" not in page.parts)
WIDTHS = {"desktop": 1280, "phone": 390}

# What is too faint to read, as WCAG 2.2 has it for text of normal size (AA).
FAINT = """() => {
  const channel = c => { c /= 255; return c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4; };
  const parse = color => color.match(/[\\d.]+/g).map(Number);
  const luminance = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
  const behind = element => {
    for (let e = element; e; e = e.parentElement) {
      const color = parse(getComputedStyle(e).backgroundColor);
      if (color.length === 3 || color[3] === 1) return color;
    }
    return [255, 255, 255];
  };
  const faint = [];
  for (const element of document.querySelectorAll("article :is(p, li, td, th, a, h1, h2, h3, dt, code)")) {
    if (!element.textContent.trim() || !element.checkVisibility()) continue;
    const [a, b] = [parse(getComputedStyle(element).color), behind(element)].map(luminance);
    const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (contrast < 4.5) faint.push(`${contrast.toFixed(1)}: ${element.textContent.trim().slice(0, 40)}`);
  }
  return faint;
}"""

# What scrolls within a table, but in a matrix, and the first columns of matrices that do not stay.
SCROLLS = """() => {
  const found = [];
  for (const table of document.querySelectorAll("article table")) {
    const around = table.closest(".table-wrapper") ?? table.parentElement;
    const name = table.textContent.trim().slice(0, 40);
    const [left, right] = [around.getBoundingClientRect().left, around.getBoundingClientRect().right];
    if (table.matches(".matrix")) {
      if (around.scrollWidth <= around.clientWidth) continue;
      around.scrollLeft = around.scrollWidth;
      for (const row of table.rows) {
        const cell = row.cells[0].getBoundingClientRect();
        if (cell.left < left || cell.left > left + 4 || cell.width > (right - left) / 2) {
          found.push(`the first column: ${name}`);
        }
      }
      around.scrollLeft = 0;
      continue;
    }
    // A table's margin is not its content.
    for (const cell of table.querySelectorAll("td, th")) {
      if (cell.checkVisibility() && cell.getBoundingClientRect().right > right + 1) found.push(`scrolls: ${name}`);
      if (cell.scrollWidth > cell.clientWidth + 1) found.push(`scrolls: ${cell.textContent.trim().slice(0, 40)}`);
    }
  }
  return [...new Set(found)];
}"""

# Lines of code that do not fit.
CUT = """() => [...document.querySelectorAll("article pre")]
  .filter(pre => pre.checkVisibility() && pre.scrollWidth > pre.clientWidth + 1)
  .map(pre => pre.textContent.split("\\n").reduce((a, b) => (a.length < b.length ? b : a)))"""

# Pictures that are so much reduced that their text cannot be read, and names that are broken between two letters.
SMALL = """() => {
  const found = [];
  for (const image of document.querySelectorAll("article img")) {
    const reduced = image.getBoundingClientRect().width / image.naturalWidth;
    if (image.checkVisibility() && reduced < 0.6) found.push(`${reduced.toFixed(2)}: ${image.alt}`);
  }
  for (const name of document.querySelectorAll("article table.whole-words td:first-child code .pre")) {
    if (name.getClientRects().length > 1) found.push(`broken: ${name.textContent}`);
  }
  return found;
}"""

# What sticks out of the page, or out of something that does not scroll.
WIDE = """() => {
  const width = document.documentElement.clientWidth;
  const whole = document.documentElement.scrollWidth;
  const found = whole > width ? [`the page: ${whole}`] : [];
  for (const element of document.querySelectorAll("article :is(table, pre, img, p, dt, code, mjx-container)")) {
    if (element.checkVisibility() && element.getBoundingClientRect().right > width + 1) {
      let scrolls = false;
      for (let e = element.parentElement; e.tagName !== "ARTICLE"; e = e.parentElement) {
        scrolls ||= ["auto", "scroll"].includes(getComputedStyle(e).overflowX);
      }
      if (!scrolls) found.push(`${element.tagName}: ${element.textContent.trim().slice(0, 40)}`);
    }
  }
  return found;
}"""


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(SITE))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    assert chromium is not None, "there is no Chromium: apt-get install chromium"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module", params=["light", "dark"])
def scheme(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module", params=WIDTHS)
def width(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def context(browser: Browser, width: str, scheme: str) -> Iterator[BrowserContext]:
    context = browser.new_context(
        viewport={"width": WIDTHS[width], "height": 900}, color_scheme="dark" if scheme == "dark" else "light"
    )
    yield context
    context.close()


@pytest.fixture
def tab(context: BrowserContext) -> Iterator[Page]:
    page = context.new_page()
    yield page
    page.close()


@pytest.mark.parametrize("page", PAGES)
def test_page(tab: Page, address: str, width: str, scheme: str, page: str) -> None:
    elsewhere: list[str] = []
    problems: list[str] = []

    def on_request(url: str) -> None:
        if not url.startswith((address, "data:", "blob:")):
            elsewhere.append(url)

    tab.on("request", lambda request: on_request(request.url))
    tab.on("response", lambda r: problems.append(f"{r.status}: {r.url}") if r.status >= 400 else None)
    tab.on("pageerror", lambda error: problems.append(str(error)))
    tab.goto(address + page, wait_until="load")
    tab.wait_for_function("!document.querySelector('.math') || window.MathJax?.startup?.promise")
    tab.evaluate("window.MathJax?.startup?.promise")
    assert not elsewhere
    assert not problems
    formulas, drawn = tab.locator(".math").count(), tab.locator(".math mjx-container").count()
    assert formulas <= drawn
    assert tab.locator("mjx-merror").count() == 0
    assert tab.evaluate(WIDE) == []
    assert tab.evaluate(SCROLLS) == []
    assert tab.evaluate(FAINT) == []
    assert tab.evaluate(SMALL) == []
    if width == "desktop":
        assert tab.evaluate(CUT) == []
    description = tab.locator("meta[name=description]").get_attribute("content")
    assert description is not None
    assert len(description) > 3
    PICTURES.mkdir(exist_ok=True)
    tab.screenshot(
        path=PICTURES / f"{page.removesuffix('.html').replace('/', '-')}-{width}-{scheme}.png", full_page=True
    )


def test_what_is_copied_of_an_example(browser: Browser, address: str) -> None:
    context = browser.new_context(permissions=["clipboard-read", "clipboard-write"])
    page = context.new_page()
    page.goto(f"{address}reference/ops_ste.html")
    example = page.locator("dd:has(> .highlight-default)", has_text=">>> y = ste.round_ste(x)").first
    example.locator("button.copybtn").first.click()
    code = page.evaluate("navigator.clipboard.readText()")
    context.close()
    assert "y = ste.round_ste(x)" in code
    assert ">>>" not in code
    exec(code, {"torch": torch, "ste": ste})


@pytest.mark.parametrize("page", [page for page in PAGES if page.startswith("reference/")])
def test_a_page_of_the_reference_begins_with_what_it_has(page: str) -> None:
    text = (SITE / page).read_text()
    if page not in ("reference/schemas.html", "reference/special_values.html"):  # which are a table themselves
        first, defined = text.index("<table"), text.index('<dt class="sig')
        assert first < defined


@pytest.mark.parametrize("word", ["round_ste", "fake_quantize", "lsq_grad_scale"])
def test_search(browser: Browser, address: str, word: str) -> None:
    page = browser.new_page()
    page.goto(f"{address}search.html?q={word}")
    page.locator("#search-results li a").first.wait_for()
    links = page.locator("#search-results li a").evaluate_all("links => links.map(link => link.getAttribute('href'))")
    assert any(f"#ste.{word}" in link for link in links)
    page.close()


# What people search for, and the guide that is right: the first result, by the entries of the index in the guides.
GUIDES = {
    "observer": "modules",
    "percentile": "modules",
    "per-channel": "modules",
    "group-wise": "int4_groups",
    "int4": "int4_groups",
    "QDQ": "onnx",
    "ONNX Runtime": "onnx",
    "LSQ": "lsq",
    "PACT": "pact_dorefa",
    "DoReFa": "pact_dorefa",
    "XNOR": "binary",
    "straight-through": "straight_through",
    "surrogate": "surrogates",
    "spiking": "spiking",
    "FP8": "float_formats",
    "MXFP4": "block_formats",
    "NVFP4": "block_formats",
    "stochastic rounding": "stochastic_rounding",
    "FSDP": "distributed",
    "Gumbel": "straight_through",
}


@pytest.mark.parametrize("words", GUIDES)
def test_search_finds_the_guide(browser: Browser, address: str, words: str) -> None:
    page = browser.new_page()
    page.goto(f"{address}search.html?q={quote(words)}")
    page.locator("p.search-summary", has_text="found").wait_for()
    links = page.locator("#search-results li a").evaluate_all("links => links.map(link => link.getAttribute('href'))")
    page.close()
    assert links[0].startswith(f"guides/{GUIDES[words]}.html"), links[:10]


class Links(HTMLParser):
    def __init__(self, page: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.feed((SITE / page).read_text())

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        of = dict(attributes)
        self.anchors |= {value for value in (of.get("id"), of.get("name")) if value}
        self.links += [link for link in (of.get("href"), of.get("src")) if link]


@pytest.fixture(scope="module")
def pages() -> dict[str, Links]:
    return {page: Links(page) for page in PAGES}


@pytest.mark.parametrize("page", PAGES)
def test_links(pages: dict[str, Links], page: str) -> None:
    for link in pages[page].links:
        target, anchor = urldefrag(urljoin(page, link))
        if ":" in target:
            continue  # another site's
        target = target.split("?")[0] or page
        assert (SITE / unquote(target)).is_file(), link
        if anchor and target in pages:
            assert unquote(anchor) in pages[target].anchors, link


@pytest.mark.parametrize("page", figures.PAGES, ids=lambda page: page.name)
def test_figures_are_those_of_the_results(page: Path) -> None:
    text = page.read_text()
    assert "<!-- figures: matrix -->" in text
    assert figures.with_figures(text, figures.PAGES[page]) == text


def test_the_benchmark_is_that_of_its_results() -> None:
    results = bench_report.load(ROOT / "docs" / "bench" / "results.json")
    assert (ROOT / "docs" / "bench.md").read_text() == bench_report.page(*results, "bench")
    assert (ROOT / "docs" / "bench" / "all.md").read_text() == bench_report.all_tables(*results)


def test_the_matrices_are_those_of_their_results() -> None:
    assert matrix.PAGE.read_text() == matrix.page(matrix.last_results())
    assert jobs.PAGE.read_text() == jobs.page(jobs.last_results())


CARDS = 4


@pytest.mark.parametrize("card", range(CARDS))
def test_two_clicks_from_the_front_page_to_code_that_runs(
    browser: Browser, address: str, card: int, tmp_path: Path
) -> None:
    context = browser.new_context(permissions=["clipboard-read", "clipboard-write"])
    page = context.new_page()
    page.goto(address)
    assert page.locator(".card a").count() == CARDS
    page.locator(".card a").nth(card).click()
    page.locator(":target button.copybtn").first.click()
    code = page.evaluate("navigator.clipboard.readText()")
    context.close()
    assert "import ste" in code
    found = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    assert found.stdout


def documented() -> set[str]:
    inventory = InventoryFile.loads((SITE / "objects.inv").read_bytes(), uri="")
    return {name for role, names in inventory.data.items() if role.startswith("py:") for name in names}


def test_every_public_name_is_documented() -> None:
    import ste_core

    modules = [ste.ops, ste.ops_ste, ste.surrogates, ste.quantization, ste.shape, ste.onnx, ste.autograd_ops]
    public = {f"ste.{name}" for name in ste.__all__}
    apart = (ste.surrogates, ste.onnx, ste.autograd_ops)
    public |= {f"{module.__name__}.{name}" for module in apart for name in module.__all__}
    public |= {module.__name__ for module in modules} | {f"ste_core.{name}" for name in ste_core.__all__}
    assert public <= documented()


def test_every_documented_name_exists() -> None:
    for name in documented():
        parts = name.split(".")
        value: object = importlib.import_module(parts[0])
        for i, part in enumerate(parts[1:], 2):
            if part in getattr(value, "__annotations__", {}):
                break  # a field of a class
            value = getattr(value, part) if hasattr(value, part) else importlib.import_module(".".join(parts[:i]))
