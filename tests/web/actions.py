"""What a user does at the page."""

import json
import re
import struct
import wave
from pathlib import Path

from playwright.sync_api import Locator, Page, expect


def box(page: Page, field: str) -> Locator:
    """Where the value of a control is typed."""
    return page.locator(f'[id="field-{field}"] :is(textarea, input:not([type=range]))').first


def fill(page: Page, **fields: object) -> None:
    """Type into controls; their names have __ for dots."""
    for field, value in fields.items():
        target = box(page, field.replace("__", "-"))
        target.fill(str(value))
        target.press("Tab")


def short_song(page: Page, seconds: float = 2, steps: int = 3, seed: int = 7) -> None:
    """Settings of a song that is made at once."""
    fill(page, text_to_music__duration_seconds=seconds, sampling__infer_step=steps, seeds=seed)


def open_tab(page: Page, name: str) -> None:
    """Choose a tab, out of the menu of those that have no room where it is there."""
    tab = page.get_by_role("tab", name=name, exact=True)
    if not tab.is_visible():
        page.locator(".overflow-menu > button").click()
        tab = page.locator(".overflow-dropdown button", has_text=re.compile(f"^{name}$"))
    tab.click()


def make_song(page: Page) -> dict:
    """Press the button, wait for the song; its receipt."""
    player = page.locator("#run-songs song-player").first
    before = player.get_attribute("name") if player.count() else ""
    page.locator("#make").click()
    page.wait_for_function(
        "before => { const player = document.querySelector('#run-songs song-player[ready]'); "
        "const name = player?.getAttribute('name'); return name && name !== before; }",
        arg=before or "",
    )
    expect(page.locator("#make")).to_be_enabled()
    return receipt(page)


def receipt(page: Page) -> dict:
    """Of the song that is shown."""
    name = page.locator("#run-songs song-player").first.get_attribute("name")
    return page.request.get(f"/media/receipt/{name}").json()


def choose_file(page: Page, button: str, path: Path) -> None:
    """Press a button and take a file in the browser's dialog."""
    with page.expect_file_chooser() as dialog:
        page.locator(button).click()
    dialog.value.set_files(path)


def choose(page: Page, dropdown: str, text: str) -> None:
    """Choose what begins so from a drop-down."""
    page.locator(f"#{dropdown} input").click()
    page.locator(f"#{dropdown} [role=option], [role=listbox] [role=option]", has_text=text).first.click()


def sound_file(path: Path, seconds: float = 2.0) -> Path:
    """A wav with a quiet ramp in it."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(2)
        file.setsampwidth(2)
        file.setframerate(48000)
        file.writeframes(b"".join(struct.pack("<hh", n % 2000, -(n % 2000)) for n in range(int(seconds * 48000))))
    return path


def parameter_file(path: Path, **fields: object) -> Path:
    """A JSON file."""
    path.write_text(json.dumps(fields))
    return path
