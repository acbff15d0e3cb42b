"""The page in headless Chromium: light, dark and as wide as a phone, with nothing fetched and nothing cut off."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from pipeline.reporting import comparison, page
from pipeline.reporting.folder import load
from tests.reporting.conftest import grades, ranking
from tests.reporting.test_page import fill
from tests.search.driver import Browser, missing

pytestmark = pytest.mark.browser
LONG = "a_very_long_name_without_any_place_to_break_it_" * 4
# what sticks out of the window to the right, boxes that scroll by themselves excepted
STICKING_OUT = """
const wide = document.documentElement.clientWidth;
return [...document.querySelectorAll('body *')].filter(e => !e.closest('.scroll') && !e.closest('svg')
  && e.getBoundingClientRect().right > wide + 1).map(e => e.tagName + '.' + e.className);
"""
# cards of which a picture fills the left part alone
HALF_EMPTY = """
return [...document.querySelectorAll('.card > figure > svg')].filter(e => e.getBoundingClientRect().width
  < .8 * e.closest('.card').getBoundingClientRect().width).map(e => e.closest('.card').textContent.slice(0, 40));
"""
# the least contrast (WCAG 2) of any text with what lies under it, that of figures on their card
CONTRAST = """
const channel = c => { c /= 255; return c <= .04045 ? c / 12.92 : ((c + .055) / 1.055) ** 2.4; };
const rgb = text => text.match(/[\\d.]+/g).map(Number);
const light = ([r, g, b]) => .2126 * channel(r) + .7152 * channel(g) + .0722 * channel(b);
const ground = e => { for (; e; e = e.parentElement) { const c = rgb(getComputedStyle(e).backgroundColor);
  if (c.length < 4 || c[3] === 1) return c; } return [255, 255, 255]; };
let least = 21, where = '';
for (const e of document.querySelectorAll('body *')) {
  if (![...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim())) continue;
  if (e.closest('.weights, .share')) continue;
  const style = getComputedStyle(e), ink = e.tagName === 'text' ? style.fill : style.color;
  const a = light(rgb(ink)), b = light(ground(e));
  const found = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
  if (found < least) { least = found; where = e.tagName + ' ' + e.textContent.slice(0, 40); }
}
return [least, where];
"""


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A report with every section, and a comparison, of long names and texts."""
    from tests.reporting import conftest

    folder = tmp_path_factory.mktemp("pages")
    make = conftest.evaluation.__wrapped__(folder)  # type: ignore[attr-defined]
    one = make("one", {"ranking": ranking(200, 0.5, text=LONG), "graded": grades(300, ["bad", "fair", LONG])})
    fill(one, "some text of a document that goes on for a while " + LONG, wins=4, tokens=20)
    found = load(one)
    other = load(make("other", {"ranking": ranking(200, 0.3, seed=4)}, test_data="other"))
    paths = {"report": folder / "report.html", "compare": folder / "compare.html"}
    paths["report"].write_text(page.build(found))
    paths["compare"].write_text(comparison.html(comparison.compare([found, other])))
    return paths


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """One for all tests of this file."""
    if why := missing():
        pytest.skip(why)
    with Browser(tmp_path_factory.mktemp("chromium") / "profile") as window:
        yield window


@pytest.mark.parametrize("name", ["report", "compare"])
@pytest.mark.parametrize("width, dark", [(1200, False), (1200, True), (360, True), (360, False)])
def test_page(name: str, width: int, dark: bool, browser: Browser, pages: dict[str, Path], tmp_path: Path) -> None:
    browser.view(width, 900, dark)
    browser.open(pages[name].as_uri())
    browser.run("document.querySelectorAll('details').forEach(e => e.open = true)")
    assert browser.run(STICKING_OUT) == []
    assert browser.run("return document.documentElement.scrollWidth") <= width
    assert browser.run("return performance.getEntriesByType('resource').map(e => e.name)") == []
    assert browser.complaints() == []
    assert browser.run("return [...document.querySelectorAll('svg')].every(e => e.clientWidth > 200)")
    assert browser.run(HALF_EMPTY) == []
    least, where = browser.run(CONTRAST)
    assert least >= 4.5, where
    shot = browser.screenshot(tmp_path / f"{name}-{width}-{'dark' if dark else 'light'}.png")
    with Image.open(shot) as image:
        assert image.width == width
        grey = image.convert("L")
        assert grey.getpixel((2, 2)) < 60 if dark else grey.getpixel((2, 2)) > 200
        assert len(set(grey.getdata())) > 30
