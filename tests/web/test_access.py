"""The page for everybody: by keyboard, on a phone, for screen readers, in the dark, and behind a login."""

import signal

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect

from acestep_rpc.api_keys import key_digest, new_key
from tests.web.actions import make_song, open_tab, short_song
from tests.web.conftest import Page

TABS = ("Text to music", "Retake", "Repaint", "Edit", "Extend", "Audio to audio", "Lyrics", "Adapters", "History")


def serious(page) -> list[str]:
    """Serious violations of accessibility rules, with the elements that they are about."""
    found = Axe().run(page).response["violations"]
    return [
        f"{violation['id']}: {node['html'][:160]}"
        for violation in found
        if violation["impact"] in ("serious", "critical")
        for node in violation["nodes"]
    ]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_tab_has_a_serious_violation_of_accessibility_rules(open_page, ui, scheme):
    page = open_page(ui.url, scheme=scheme)
    short_song(page)
    make_song(page)
    page.locator("#advanced button").first.click()
    found = {tab: problems for tab in TABS if (open_tab(page, tab), problems := serious(page))[1]}
    assert not found


def test_nothing_is_wider_than_a_phone(open_page, ui):
    page = open_page(ui.url, width=390)
    short_song(page)
    make_song(page)
    for tab in TABS:
        open_tab(page, tab)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, tab


def test_the_song_stays_in_sight_of_the_button(page):
    page.locator("#make").scroll_into_view_if_needed()
    page.evaluate("scrollTo(0, document.body.scrollHeight)")
    assert page.evaluate("scrollY") > 0
    page.wait_for_function("document.querySelector('#result').getBoundingClientRect().top >= 0")


def test_a_song_is_made_and_played_by_keyboard_alone(page):
    def go_to(selector: str, key: str = "Tab") -> None:
        for _ in range(120):
            if page.evaluate(
                "selector => document.activeElement?.matches(selector) || !!document.activeElement?.closest(selector)", selector
            ):
                return
            page.keyboard.press(key)
        raise AssertionError(f"the keyboard does not reach {selector}")

    page.evaluate("document.activeElement.blur()")
    go_to("[role=tab]")
    page.keyboard.press("ArrowRight")
    expect(page.get_by_role("tab", name="Retake", exact=True)).to_be_focused()
    page.keyboard.press("ArrowLeft")
    go_to("[id='field-text_to_music-duration_seconds'] input[type=number]")
    page.keyboard.press("Control+A")
    page.keyboard.type("2")
    go_to("[id='field-sampling-infer_step'] input[type=number]")
    page.keyboard.press("Control+A")
    page.keyboard.type("3")
    go_to("#make")
    page.keyboard.press("Enter")
    page.locator("#run-songs song-player[ready]").wait_for()
    go_to("#run-songs song-player")
    page.keyboard.press("Enter")
    page.wait_for_function("document.querySelector('#run-songs song-player').audio.currentTime > 0.1")


def test_visitors_sign_in_where_the_server_has_tenants_and_see_their_own_songs(open_page, checkpoint, tmp_path):
    keys = {name: new_key() for name in ("ann", "ben")}
    tenants = "".join(f'{name}.keys = ["sha256:{key_digest(key)}"]\n' for name, key in keys.items())
    (tmp_path / "tenants.toml").write_text(tenants)
    own = ["--checkpoint_path", str(checkpoint), "--tenants", str(tmp_path / "tenants.toml"), "--data", str(tmp_path / "data")]
    ui = Page([*own, "--bf16", "false", "--threads", "1"], tmp_path)
    try:
        page = open_page(ui.url, wait="#key")
        page.locator("#key").fill("acestep_wrong")
        page.get_by_role("button", name="Sign in").click()
        expect(page.locator("[role=alert]")).to_contain_text("credentials")
        assert not serious(page)
        assert page.request.get("/media/audio/operations/x/results/0").status == 401
        page.locator("#key").fill(keys["ann"])
        page.get_by_role("button", name="Sign in").click()
        short_song(page)
        make_song(page)
        name = page.locator("#run-songs song-player").first.get_attribute("name")
        other = open_page(ui.url, wait="#key")
        other.locator("#key").fill(keys["ben"])
        other.get_by_role("button", name="Sign in").click()
        other.locator("#make").wait_for()
        assert other.request.get(f"/media/audio/{name}").status == 404
        page.get_by_role("link", name="Sign out").click()
        page.locator("#key").wait_for()
    finally:
        assert ui.stop() in (0, -signal.SIGTERM)
