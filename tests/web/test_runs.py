"""Songs in the making: cancelling, loading the page anew, errors, history, downloads."""

import time

from playwright.sync_api import expect

from tests.web.actions import fill, make_song, open_tab, short_song
from tests.web.conftest import WAIT_SECONDS

CANCELLED = {"method": "Sample", "code": "CANCELLED"}


def test_cancel_stops_the_work_on_the_server(page, songs_server):
    before = songs_server.metric("acestep_requests_total", **CANCELLED)
    short_song(page, seconds=120, steps=200)
    page.locator("#make").click()
    expect(page.locator("#run-status")).to_contain_text("step", timeout=WAIT_SECONDS * 1000)
    expect(page.locator("#run-status")).to_contain_text("left")
    page.locator("#cancel").click()
    expect(page.locator("#run-status")).to_contain_text("Cancelled")
    deadline = time.monotonic() + WAIT_SECONDS
    while songs_server.metric("acestep_requests_total", **CANCELLED) == before:
        assert time.monotonic() < deadline, "the server works on"
        time.sleep(0.1)
    expect(page.locator("#make")).to_be_enabled()
    expect(page.locator("#cancel")).to_be_hidden()


def test_a_page_that_is_loaded_anew_finds_its_run_and_the_history(page):
    short_song(page, seconds=60, steps=100, seed=99)
    page.locator("#make").click()
    expect(page.locator("#run-status")).to_contain_text("step", timeout=WAIT_SECONDS * 1000)
    page.reload()
    expect(page.locator("#run-status")).to_contain_text("step", timeout=WAIT_SECONDS * 1000)
    page.locator("#cancel").click()
    expect(page.locator("#run-status")).to_contain_text("Cancelled")

    short_song(page, seed=123)
    make_song(page)
    page.reload()
    page.locator("#run-songs song-player[ready]").wait_for()  # the last song is still there
    open_tab(page, "History")
    song = page.locator("#history-songs label", has_text="seed 123").first
    song.click()
    page.locator("#history-songs ~ *, body").first.wait_for()
    page.locator("song-player[facts*='seed 123'][ready]").first.wait_for()
    page.locator("#history-load").click()
    expect(page.get_by_role("tab", name="Text to music", exact=True)).to_have_attribute("aria-selected", "true")
    expect(page.locator("#field-seeds :is(textarea, input)").first).to_have_value("123")

    open_tab(page, "History")
    count = page.locator("#history-songs label").count()
    page.locator("#history-delete").click()
    expect(page.locator("#history-message")).to_contain_text("Deleted")
    expect(page.locator("#history-songs label")).to_have_count(count - 1)


def test_errors_stand_at_the_controls_that_they_are_about(page):
    short_song(page)
    fill(page, seeds="seven")
    page.locator("#make").click()
    expect(page.locator("#field-seeds .field-error")).to_contain_text("'seven' is not allowed")
    expect(page.locator("#field-seeds :is(textarea, input)").first).to_have_attribute("aria-invalid", "true")

    fill(page, seeds="5000000000")  # what only the server refuses
    page.locator("#advanced button").first.click()
    page.locator("#field-sampling-scheduler_type label", has_text="heun").click()
    fill(page, sampling__oss_steps="4, 2")
    page.locator("#make").click()
    expect(page.locator("#field-seeds .field-error")).to_contain_text("0 to 4294967295")
    expect(page.locator("#field-sampling-oss_steps .field-error")).to_have_count(2)
    expect(page.locator("#run-status [role=alert]")).to_contain_text("OSS steps")

    fill(page, seeds="5", sampling__oss_steps="")
    make_song(page)
    expect(page.locator(".field-error")).to_have_count(0)


def test_a_song_is_downloaded_in_every_format_and_played_while_it_grows(page):
    short_song(page)
    make_song(page)
    name = page.locator("#run-songs song-player").first.get_attribute("name")
    page.locator("#run-songs .player-downloads summary").click()
    links = page.locator("#run-songs .player-downloads a")
    first_bytes = {"wav": b"RIFF", "wav24": b"RIFF", "wav32f": b"RIFF", "flac": b"fLaC", "ogg": b"OggS", "opus": b"OggS"}
    found = [link.get_attribute("href") for link in links.all()]
    assert f"/media/download/{name}" in found  # as it was made
    for format_name, begin in first_bytes.items():
        href = f"/media/download/{name}" if format_name == "wav" else f"/media/download/{name}?format={format_name}"
        assert href in found
        response = page.request.get(href)
        assert response.ok
        assert response.body().startswith(begin), format_name
    mp3 = page.request.get(f"/media/download/{name}?format=mp3").body()
    assert mp3[:3] == b"ID3" or mp3[0] == 0xFF
    part = page.request.get(f"/media/audio/{name}", headers={"Range": "bytes=0-3"})
    assert (part.status, part.body()) == (206, b"RIFF")
    run, _, index = name.removeprefix("operations/").partition("/results/")
    assert page.request.get(f"/media/runs/{run}/{index}").body() == page.request.get(f"/media/download/{name}").body()
    page.locator("#run-songs .player-play").click()
    page.wait_for_function("document.querySelector('#run-songs song-player').audio.currentTime > 0.2")


def test_the_page_fetches_nothing_from_elsewhere(open_page, ui):
    page = open_page(ui.url)
    policy = page.request.get("/").headers["content-security-policy"]
    assert "default-src 'self'" in policy
    for tab in ("Repaint", "Lyrics", "Adapters", "History"):
        open_tab(page, tab)
    page.evaluate("document.fonts.ready.then(() => null)")  # that nothing else was asked is asserted by the fixture
