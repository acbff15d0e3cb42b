"""The page in headless Chromium, driven by its keys as a person would."""

import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.search import server
from tests.search.conftest import write_lines
from tests.search.driver import Browser, missing
from tests.search.models import model_folder

pytestmark = [pytest.mark.browser, pytest.mark.skipif(missing() is not None, reason=str(missing()))]

TEXTS = {
    "wing": "A thin wing carries the lift of the flow around it, and its drag grows with the angle.",
    "tide": "The tide follows the moon; a wave breaks at the shore in shallow water. \U0001f30a The moon again.",
    "markup": "<img src=x onerror=\"document.title='broken'\"> a wing <b>bold</b> & <script>document.title=1</script>",
    "scroll": "paper" * 60 + " " + "ink" * 120 + " and a lantern over " + "table" * 90,
    "heart": "Blood leaves the heart by a valve, which a pulse opens.",
}

RESULTS = "document.querySelectorAll('.result').length"
SHOWN = "document.getElementById('results').dataset.query"  # the query of these results: each letter typed is one
# what is typed before goes nowhere
READY = "document.title === 'Five & texts' && document.activeElement.id === 'query'"


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Of `duplet search --serve` over an index that `duplet index` made."""
    folder = tmp_path_factory.mktemp("page")
    words = sorted({word.strip(".,;").lower() for text in TEXTS.values() for word in text.split()})
    model = model_folder(folder / "model", [word for word in words if word.isalpha()])
    rows = ({"id": name, "title": f"About <i>{name}</i>", "text": text, "language": "de" if name == "tide" else "en",
             "pages": 2 if name == "heart" else 3,
             "url": "https://example.org/w" if name == "wing" else "javascript:document.title='broken'"}
            for name, text in TEXTS.items())  # fmt: skip
    documents = write_lines(folder / "docs.jsonl", rows)
    duplet = [sys.executable, "-m", "pipeline.cli"]
    subprocess.run([*duplet, "index", model, "--documents", documents, "--output", folder / "index",
                    "--name", "Five & texts", "--columns", "pages=pages"], check=True, capture_output=True)  # fmt: skip
    server = subprocess.Popen(
        [*duplet, "search", folder / "index", "--serve", "--port", "0"], stderr=subprocess.PIPE, text=True
    )
    assert server.stderr is not None
    yield next(word for word in server.stderr.readline().split() if word.startswith("http"))
    server.send_signal(signal.SIGTERM)
    assert server.wait(30) == 0


@pytest.fixture(scope="module")
def window(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("chromium") / "profile") as browser:
        yield browser


@pytest.fixture
def browser(window: Browser) -> Iterator[Browser]:
    """The one window, in a desk's size and light."""
    window.view()
    window.complaints()
    yield window


def test_a_query_by_keys_alone(address: str, browser: Browser, tmp_path: Path) -> None:
    browser.open(address)
    browser.until(READY)
    assert browser.run("return document.getElementById('size').textContent") == "5 documents"
    browser.run("document.activeElement.blur()")
    browser.press("/")
    browser.press("moon, the tide")
    browser.until(f"{SHOWN} === 'moon, the tide' && {RESULTS} === 5")
    assert browser.run("return document.querySelector('.id').textContent") == "tide"
    assert browser.run("return document.querySelector('.title').textContent") == "About <i>tide</i>"
    first = "document.querySelectorAll('.result')[0]"
    texts = lambda chosen: browser.run(f"return [...{first}.querySelectorAll('{chosen}')].map(m => m.textContent)")
    assert {word.lower() for word in texts("mark")} == {"moon", "tide"} and texts("mark").count("moon") == 2
    browser.press("Down", "Down", "Up", "Enter")
    browser.until("document.querySelectorAll('.why td').length > 10")
    assert browser.run(f"return {first}.querySelector('.open').getAttribute('aria-expanded')") == "true"
    assert browser.run(f"return {first}.contains(document.activeElement)") is True
    assert texts(".word") == ["moon", ",", "the", "tide"]
    browser.run(f"{first}.querySelectorAll('.word')[0].click()")
    assert "moon" in texts(".strong") and not {"shore", "shallow"} & {*texts(".strong")}
    assert "\U0001f30a The moon again." in browser.run(f"return {first}.querySelector('.text').textContent")
    assert browser.screenshot(tmp_path / "page.png").stat().st_size > 20_000
    browser.press("Escape")
    assert browser.run("return document.activeElement.id") == "query"
    assert browser.complaints() == []


def test_an_excerpt_shows_the_words_that_were_found(address: str, browser: Browser) -> None:
    browser.open(f"{address}#q=lantern&mode=words")
    browser.until(f"{RESULTS} === 1")
    assert browser.run("return [...document.querySelectorAll('.excerpt mark')].map(m => m.textContent)") == ["lantern"]


def test_the_first_result_stands_clear_of_the_header(address: str, browser: Browser) -> None:
    browser.open(f"{address}#q=wing")
    browser.until(f"{RESULTS} === 5")
    edge = lambda chosen, side: browser.run(f"return document.querySelector('{chosen}').getBoundingClientRect().{side}")
    assert edge(".result", "top") - edge("header", "bottom") > 8


def test_markup_in_query_and_document_does_nothing(address: str, browser: Browser) -> None:
    browser.open(address)
    browser.until(READY)
    browser.press("<b>wing <i>moon")
    browser.until(f"{SHOWN} === '<b>wing <i>moon' && {RESULTS} === 5")
    browser.run("for (const button of document.querySelectorAll('.open')) button.click()")
    browser.until("document.querySelectorAll('.why table').length === 5")
    assert browser.run("return document.querySelectorAll('main img, main script, main b, .title i').length") == 0
    assert browser.run("return document.title") == "Five & texts"
    browser.until("document.querySelector('main').innerText.includes('<img src=x onerror=')")  # as text
    assert browser.complaints() == []


@pytest.mark.parametrize("dark", [False, True])
def test_a_phone_shows_it_without_scrolling_sideways(
    address: str, browser: Browser, tmp_path: Path, dark: bool
) -> None:
    browser.view(360, 740, dark)
    browser.open(f"{address}#q=wing+lift&mode=hybrid")
    browser.until(f"{RESULTS} === 5")
    browser.run("document.querySelector('.open').click()")
    browser.until("document.querySelectorAll('.why td').length > 4")
    assert browser.run("return document.documentElement.scrollWidth") == 360
    assert browser.run("return document.querySelector('input[value=hybrid]').checked") is True
    paper = browser.run("return getComputedStyle(document.body).backgroundColor")
    assert (sum(int(part) for part in paper.removeprefix("rgb(").rstrip(")").split(",")) < 200) == dark
    assert browser.screenshot(tmp_path / "phone.png").stat().st_size > 10_000


def test_every_control_has_a_name(address: str, browser: Browser) -> None:
    browser.open(f"{address}#q=wing")
    browser.until(f"{RESULTS} === 5")
    browser.run("document.querySelector('.open').click()")
    browser.until("document.querySelectorAll('.why td').length > 0")
    browser.command("Accessibility.enable")
    nodes = browser.command("Accessibility.getFullAXTree")["nodes"]
    controls = [node for node in nodes if node.get("role", {}).get("value") in ("button", "searchbox", "radio")]
    assert len(controls) >= 9
    assert all(node.get("name", {}).get("value", "").strip() for node in controls)


def test_a_server_that_is_gone_is_told(address: str, browser: Browser) -> None:
    browser.open(address)
    browser.until(READY)
    conditions = {"latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
    browser.command("Network.enable")
    try:
        browser.command("Network.emulateNetworkConditions", offline=True, **conditions)
        browser.press("wing")
        browser.until("document.getElementById('status').textContent === 'The server does not answer.'")
    finally:
        browser.command("Network.emulateNetworkConditions", offline=False, **conditions)


def test_an_empty_page_says_what_it_searches(address: str, browser: Browser) -> None:
    browser.open(address)
    browser.until(READY)
    assert browser.run("return document.querySelector('#start h2').textContent") == (
        "This page searches 5 documents of Five & texts."
    )
    assert browser.run("return document.querySelectorAll('#start dt').length") == 3
    browser.run("document.querySelector('#examples .chip').click()")
    browser.until(f"{RESULTS} === 5")
    assert browser.run("return document.querySelector('#start').checkVisibility()") is False


def test_chips_filter_and_the_address_keeps_them(address: str, browser: Browser) -> None:
    browser.open(f"{address}#q=wing+moon")
    browser.until(f"{RESULTS} === 5")
    chips = "[...document.querySelectorAll('#chips .chip')]"
    assert browser.run(f"return {chips}.map(chip => chip.textContent)") == [
        "en 4", "de 1", "pages 3 4", "pages 2 1",
    ], "a number says which field's it is"  # fmt: skip
    browser.run(f"{chips}[1].click()")
    browser.until(f"{RESULTS} === 1")
    assert browser.run("return document.querySelector('.id').textContent") == "tide"
    assert "where=" in browser.run("return location.hash")
    kept = browser.run("return location.href")
    browser.open(kept)
    browser.until(f"{RESULTS} === 1")
    assert browser.run(f"return {chips}[1].getAttribute('aria-pressed')") == "true"
    browser.run(f"{chips}[1].click()")
    browser.until(f"{RESULTS} === 5")


def test_a_search_that_takes_long_says_so(address: str, browser: Browser) -> None:
    browser.open(f"{address}#q=wing")
    browser.until(f"{RESULTS} === 5")
    browser.run("window.fetch = () => new Promise(() => {}); const query = document.querySelector('#query');"
                "query.value = 'moon'; query.dispatchEvent(new Event('input', {bubbles: true}))")  # fmt: skip
    browser.until("document.querySelector('#status').textContent === 'searching …'")


def test_a_busy_server_is_still_told_when_it_takes_long(address: str, browser: Browser) -> None:
    browser.open(f"{address}#q=wing")
    browser.until(f"{RESULTS} === 5")
    browser.run("window.timers = []; window.setTimeout = (work, ms) => timers.push([work, ms]);"
                "window.fetch = async () => new Response('{}', {status: 503});"
                "const query = document.querySelector('#query');"
                "query.value = 'moon'; query.dispatchEvent(new Event('input', {bubbles: true}));"
                "timers.pop()[0]()")  # fmt: skip
    busy = "document.querySelector('#status').textContent.startsWith('Busy')"
    browser.until(f"{busy} && timers.length === 2")  # it asks again later
    browser.run("timers[0][0]()")
    assert browser.run(f"return {busy}") is True


def test_chips_take_one_line_on_a_phone(address: str, browser: Browser) -> None:
    browser.view(390, 844)
    browser.open(f"{address}#q=wing+moon")
    browser.until("document.querySelectorAll('#chips .chip').length === 4")
    height = browser.run("return document.querySelector('#chips').offsetHeight")
    browser.run("const chips = document.querySelector('#chips'), chip = chips.children[0];"
                "for (let i = 0; i < 30; i++) chips.append(chip.cloneNode(true))")  # fmt: skip
    assert browser.run("return document.querySelector('#chips').offsetHeight") <= height + 16, "a scroll bar at most"
    assert browser.run("return document.documentElement.scrollWidth") == 390


def test_links_lead_to_the_web_or_to_the_whole_text(address: str, browser: Browser) -> None:
    browser.open(f"{address}#q=wing")
    browser.until(f"{RESULTS} === 5")
    links = browser.run("return [...document.querySelectorAll('.about a')].map(link => link.href)")
    assert sum(link == "https://example.org/w" for link in links) == 1
    assert all(link.startswith(("https://example.org", f"{address}document?")) for link in links)
    browser.open(next(link for link in links if "document?" in link))
    assert browser.run("return document.contentType") == "text/plain"


def test_it_speaks_the_browsers_language(address: str, browser: Browser) -> None:
    agent = browser.run("return navigator.userAgent")
    browser.command("Emulation.setUserAgentOverride", userAgent=agent, acceptLanguage="zh-CN,zh")
    try:
        browser.open(address)
        browser.until("document.documentElement.lang === 'zh' && document.title === 'Five & texts'")
        assert browser.run("return document.getElementById('query').placeholder") == "要找什么？"
        assert browser.run("return document.querySelector('input[value=hybrid] + span').textContent") == "模型 + 词"
    finally:
        browser.command("Emulation.setUserAgentOverride", userAgent=agent, acceptLanguage="en-US,en")


def test_both_languages_say_the_same_things() -> None:
    script = server.PAGE.read_text(encoding="utf-8")
    english, chinese = (script.partition(f"  {name}: {{\n")[2].partition("\n  },")[0] for name in ("en", "zh"))
    keys = lambda text: re.findall(r"(?:^|[{,(]\s*)([a-zA-Z]+): ", re.sub(r'"[^"]*"', '""', text), re.MULTILINE)
    assert sorted(keys(english)) == sorted(keys(chinese)) and len(keys(english)) > 25
