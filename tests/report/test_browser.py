"""The report in a real browser: it renders, needs no network, works by keyboard, and runs only its own script."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from playwright.sync_api import Browser, Page

from synthpipe.cli import main
from tests.report.conftest import FILE, NAME


@contextmanager
def opened(chromium: Browser, run: Path, **options: Any) -> Iterator[Page]:
    """Open the report of a run; any message of the browser and any request fails the test."""
    context = chromium.new_context(**options)
    page = context.new_page()
    page.set_default_timeout(20_000)
    complaints: list[str] = []
    asked: list[str] = []
    page.on("console", lambda message: complaints.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    address = (run / "report.html").as_uri()
    try:
        page.goto(address)
        yield page
        assert page.evaluate("window.hacked") is None
        assert not complaints
        assert [url for url in asked if not url.startswith("data:")] == [address]
    finally:
        context.close()


def evaluated(page: Page, script: str) -> Any:
    return page.evaluate(script)


def test_the_page_renders_and_hostile_names_are_text(chromium: Browser, run: Path) -> None:
    with opened(chromium, run) as page:
        assert page.locator("h1").inner_text() == NAME and page.title() == f"{NAME}: synthpipe report"
        assert evaluated(page, "document.querySelectorAll('script').length") == 1
        assert evaluated(page, "document.querySelectorAll('img[src=x], svg[onload], i[onclick], u').length") == 0
        pictures = evaluated(page, "[...document.images].map(image => [image.complete, image.naturalWidth])")
        assert len(pictures) > 300 and all(complete and width for complete, width in pictures)
        patch = FILE.format(name="<b>", number=0).rsplit("-", 1)[0]
        assert patch in page.locator(".card .description").first.text_content()  # type: ignore[operator]
        assert "<svg onload=window.hacked='slide'>" in page.locator("#patches").text_content()  # type: ignore[operator]
        assert "<i onclick=window.hacked=2>broken.png" in page.locator("#patches").text_content()  # type: ignore[operator]
        for strategy in ("mosaic", "bezier"):
            assert page.locator(f"#{strategy} .gallery").count() == 2
            assert page.locator(f"#{strategy} svg.chart").count() == 6  # rounds, scores, donors, slides, loss, accuracy


def test_a_composite_opens_by_click_with_recipe_and_replay_command(
    chromium: Browser, run: Path, tmp_path: Path
) -> None:
    with opened(chromium, run) as page:
        links = page.locator("#bezier .gallery .card a.open")
        links.nth(1).click()
        dialog = page.locator("dialog")
        assert dialog.is_visible() and dialog.locator(".panels figure").count() == 4
        assert [dialog.locator("figcaption").nth(n).inner_text() for n in range(3)] == ["image", "mask", "overlay"]
        title = dialog.locator("h2").text_content()
        assert title == page.locator("#bezier .gallery .card").nth(1).get_attribute("data-title")
        assert "background" in dialog.inner_text() and "foreground, inside the curve" in dialog.inner_text()
        command = shlex.split(dialog.locator("pre.command").inner_text())
        dialog.locator("button[data-go='1']").click()
        assert dialog.locator("h2").text_content() != title
        dialog.locator("button[data-go='close']").click()
        assert not dialog.is_visible()
        example = page.locator(".triple figcaption a").last
        example.click()
        assert dialog.is_visible() and dialog.locator("h2").text_content() == example.text_content()
    command[command.index("-o") + 1] = str(tmp_path / "again.png")
    result = CliRunner().invoke(main, command[1:])
    assert result.exit_code == 0 and "equal to the stored pixels" in result.output


@pytest.mark.parametrize("width", [360, 1440])
def test_pictures_are_enlarged_by_whole_numbers(chromium: Browser, run: Path, width: int) -> None:
    script = (
        "[...document.querySelectorAll('dialog .panels .photo')].map(image => [image.getBoundingClientRect().width / "
        "image.naturalWidth, image.getBoundingClientRect().height / image.naturalHeight, "
        "getComputedStyle(image).imageRendering])"
    )
    with opened(chromium, run, viewport={"width": width, "height": 900}) as page:
        page.locator(".triple a.open").first.click()
        zooms = []
        for key in (None, "+", "-", "-"):
            if key:
                page.keyboard.press(key)
            shown = evaluated(page, script)
            assert len(shown) == 4 and len({tuple(each) for each in shown}) == 1
            across, down, rendering = shown[0]
            assert across == down == int(across) and rendering == "pixelated"
            assert page.locator("dialog .zoom").inner_text() == f"{across:g}\N{MULTIPLICATION SIGN}"
            zooms.append(across)
        assert zooms[0] >= 2 and zooms[1:] == [zooms[0] + 1, zooms[0], zooms[0] - 1]
        page.locator("dialog button[data-zoom='1']").click()
        assert evaluated(page, script)[0][0] == zooms[0]
        for _ in range(60):
            page.keyboard.press("+")
        assert page.locator("dialog button[data-zoom='1']").is_disabled()
        dialog = "document.querySelector('dialog')"
        assert evaluated(page, f"{dialog}.scrollWidth <= {dialog}.clientWidth")


def test_the_keyboard_reaches_everything(chromium: Browser, run: Path) -> None:
    with opened(chromium, run) as page:
        page.keyboard.press("Tab")
        assert evaluated(page, "document.activeElement.className") == "skip"
        assert page.locator("a.skip").bounding_box()["x"] >= 0  # type: ignore[index]
        dialog = page.locator("dialog")
        links = [page.locator(f"{where} a.open").first for where in ("#mosaic .card", ".triple")]
        for link, key in product(links, ("Enter", "Space")):
            link.focus()
            assert evaluated(page, "getComputedStyle(document.activeElement).outlineStyle") == "solid"
            page.keyboard.press(key)
            assert dialog.is_visible()
            first = dialog.locator("h2").text_content()
            page.keyboard.press("ArrowRight")
            assert dialog.locator("h2").text_content() != first
            page.keyboard.press("ArrowLeft")
            assert dialog.locator("h2").text_content() == first
            page.keyboard.press("Escape")
            assert not dialog.is_visible()
            assert evaluated(page, "document.activeElement.className") == "open"
        page.locator("#see-image").focus()
        page.keyboard.press("ArrowRight")
        assert page.locator("#see-overlay").is_checked()


def test_galleries_show_image_overlay_mask_or_regions(chromium: Browser, run: Path) -> None:
    layers = {"image": ["photo"], "overlay": ["photo", "mask", "edges"], "mask": ["mask"]}
    with opened(chromium, run) as page:
        card = page.locator("#mosaic .card").first
        for view, expected in {**layers, "regions": ["photo", "borders", "numbers"]}.items():
            page.locator(f"#see-{view}").check()
            shown = [
                name
                for name in ("photo", "mask", "edges", "borders", "numbers")
                if card.locator(f".{name}").is_visible()
            ]
            assert shown == expected


def test_the_page_is_complete_without_scripts(chromium: Browser, run: Path) -> None:
    context = chromium.new_context(java_script_enabled=False)
    try:
        page = context.new_page()
        page.goto((run / "report.html").as_uri())
        card = page.locator("#mosaic .card").first
        assert card.locator(".photo").is_visible() and not card.locator(".description").is_visible()
        card.locator("summary").click()
        assert (
            card.locator(".description").is_visible()
            and "synthpipe replay" in card.locator(".description").inner_text()
        )
        row = page.locator("#mosaic .gallery").first.bounding_box()
        opened_card, photo = card.bounding_box(), card.locator(".photo").bounding_box()
        assert row and opened_card and photo and opened_card["width"] == row["width"] > 600 > 300 > photo["width"]
        page.locator("#see-mask").check()
        assert card.locator(".mask").is_visible()
    finally:
        context.close()


def test_the_page_follows_dark_mode(chromium: Browser, run: Path) -> None:
    found = {}
    for scheme in ("light", "dark"):
        with opened(chromium, run, color_scheme=scheme) as page:
            style = "(({backgroundColor, color}) => [backgroundColor, color])(getComputedStyle(document.body))"
            found[scheme] = [_brightness(color) for color in evaluated(page, style)]
    assert found["light"][0] > 200 > 60 > found["light"][1]
    assert found["dark"][0] < 60 < 200 < found["dark"][1]


def _brightness(color: str) -> float:
    numbers = color.removeprefix("rgb(").removesuffix(")").split(",")
    return sum(map(float, numbers)) / 3


@pytest.mark.parametrize("width", [320, 360, 768])
def test_a_narrow_screen_needs_no_scrolling_sideways(chromium: Browser, run: Path, width: int) -> None:
    with opened(chromium, run, viewport={"width": width, "height": 700}) as page:
        for details in page.locator("details").all()[-6:]:
            details.locator("summary").click()
        assert evaluated(page, "document.documentElement.scrollWidth") <= width
        page.locator("#mosaic .card a.open").first.click()
        box = page.locator("dialog").bounding_box()
        assert box and box["x"] >= 0 and box["x"] + box["width"] <= width
        dialog = "document.querySelector('dialog')"
        assert evaluated(page, f"{dialog}.scrollWidth <= {dialog}.clientWidth")


def test_the_page_prints(chromium: Browser, run: Path) -> None:
    with opened(chromium, run, color_scheme="dark") as page:
        assert page.locator("nav").is_visible()
        printed = page.pdf(format="A4")
        assert printed.startswith(b"%PDF") and 3 <= printed.count(b"/Type /Page\n") <= 30
        page.emulate_media(media="print")
        assert not page.locator("nav").is_visible() and not page.locator("fieldset").is_visible()
        assert page.locator(".card .photo").first.is_visible()
        assert evaluated(page, "getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"


def test_screen_readers_can_read_the_page(chromium: Browser, run: Path) -> None:
    with opened(chromium, run) as page:
        alternatives = evaluated(page, "[...document.querySelectorAll('img.photo')].map(image => image.alt)")
        assert all("%" in text or " of " in text for text in alternatives)
        assert evaluated(page, "[...document.images].every(image => image.hasAttribute('alt'))")
        assert evaluated(page, "[...document.querySelectorAll('svg.chart')].every(chart => chart.ariaLabel)")
        levels = evaluated(page, "[...document.querySelectorAll('h1,h2,h3,h4')].map(each => Number(each.tagName[1]))")
        assert levels[0] == 1 and levels.count(1) == 1
        assert all(after <= before + 1 for before, after in pairwise(levels))
        assert page.locator("main").count() == 1 and evaluated(page, "document.documentElement.lang") == "en"
        ids = evaluated(page, "[...document.querySelectorAll('[id]')].map(each => each.id)")
        assert len(ids) == len(set(ids))
        targets = evaluated(page, "[...document.querySelectorAll('a[href^=\"#\"]')].map(a => a.hash.slice(1))")
        assert set(targets) <= set(ids)


def test_the_copy_button_copies_a_command(chromium: Browser, run: Path) -> None:
    permissions = ["clipboard-read", "clipboard-write"]
    with opened(chromium, run, permissions=permissions) as page:
        button = page.locator("#origin button.copy").first
        button.click()
        page.wait_for_function("document.querySelector('#origin button.copy').textContent === 'copied'")
        copied = evaluated(page, "navigator.clipboard.readText()")
        assert copied == page.locator("#origin pre.command").first.inner_text() and "synthpipe build" in copied


@pytest.mark.parametrize("attack", ["<script>window.hacked = 1</script>", "<img src=x onerror='window.hacked = 1'>"])
def test_the_security_policy_stops_foreign_scripts(chromium: Browser, run: Path, tmp_path: Path, attack: str) -> None:
    """A script that got into the page in spite of the escaping does not run."""
    text = (run / "report.html").read_text(encoding="utf-8").replace("</main>", f"{attack}</main>")
    without = re.sub('<meta http-equiv="Content-Security-Policy"[^>]*>', "", text)
    hacked = []
    for page_text in (text, without):
        (tmp_path / "attacked.html").write_text(page_text, encoding="utf-8")
        page = chromium.new_page()
        page.goto((tmp_path / "attacked.html").as_uri())
        page.wait_for_timeout(200)
        hacked.append(page.evaluate("window.hacked"))
        page.close()
    assert hacked == [None, 1]
