"""Each tab does its task, against a real server."""

import pytest
from playwright.sync_api import expect

from tests.web.actions import (
    box,
    choose,
    choose_file,
    fill,
    make_song,
    open_tab,
    parameter_file,
    receipt,
    short_song,
    sound_file,
)


def upload(page, task: str, path) -> None:
    choose_file(page, f"#upload-{task}", path)
    page.locator(f"#wave-{task} song-player[ready]").wait_for()


def test_text_to_music_makes_the_song_of_its_settings_and_others_start_from_it(page):
    short_song(page)
    fill(page, prompt__tags="jazz, piano", prompt__lyrics="[verse]\nhello there")
    song = make_song(page)
    assert song["task"] == "text2music"
    assert (song["prompt"], song["lyrics"]) == ("jazz, piano", "[verse]\nhello there")
    assert (song["infer_step"], song["actual_seeds"], song["audio_duration"]) == (3, [7], 2)
    assert (song["use_erg_tag"], song["use_erg_lyric"], song["use_erg_diffusion"]) == (
        True,
        False,
        True,
    )  # as the reference's page has them
    page.wait_for_function("document.querySelector('#run-songs song-player').shadowRoot.querySelector('img').naturalWidth > 0")

    page.locator("#run-use-retake").click()
    expect(page.get_by_role("tab", name="Retake", exact=True)).to_have_attribute("aria-selected", "true")
    fill(page, retake__retake_variances="0.3", retake__retake_seeds="11")
    retake = make_song(page)
    assert (retake["task"], retake["retake_variance"], retake["retake_seeds"]) == ("retake", 0.3, [11])
    assert (retake["actual_seeds"], retake["prompt"]) == ([7], "jazz, piano")

    page.locator("#compare button").first.click()
    for side, text in (("compare-a", "jazz"), ("compare-b", "jazz")):
        choose(page, side, text)
    expect(page.locator("song-compare song-player[ready]")).to_have_count(2, timeout=90_000)


def test_repaint_makes_the_stretch_anew_that_was_dragged_over_the_waveform(page, tmp_path):
    short_song(page)
    open_tab(page, "Repaint")
    upload(page, "repaint", sound_file(tmp_path / "source.wav"))
    screen = page.locator("#wave-repaint .player-screen")
    screen.scroll_into_view_if_needed()
    place = screen.bounding_box()
    page.mouse.move(place["x"] + place["width"] * 0.25, place["y"] + 20)
    page.mouse.down()
    page.mouse.move(place["x"] + place["width"] * 0.75, place["y"] + 20)
    page.mouse.up()
    song = make_song(page)
    ((start, end),) = song["repaint_regions"]
    assert start == pytest.approx(0.5, abs=0.03)
    assert end == pytest.approx(1.5, abs=0.03)
    assert (song["task"], song["retake_variance"]) == ("repaint", 0.2)
    assert song["src_audio_path"].startswith("assets/")
    assert song["splice"]["kept_seconds"] if "kept_seconds" in song["splice"] else song["splice"]


def test_edit_extend_and_audio_to_audio_start_from_a_song_that_the_server_keeps(page):
    short_song(page)
    make_song(page)
    source = page.locator("#run-songs song-player").first.get_attribute("name")

    page.locator("#run-use-edit").click()
    page.locator("#wave-edit song-player[ready]").wait_for()
    fill(page, edit__target__tags="rock, guitar")
    page.locator("#edit-type label", has_text="remix").click()
    expect(box(page, "edit-edit_n_min")).to_have_value("0.2")
    edit = make_song(page)
    assert (edit["task"], edit["src_audio_path"], edit["edit_target_prompt"]) == ("edit", source, "rock, guitar")
    assert (edit["edit_n_min"], edit["edit_n_max"], edit["edit_n_avg"]) == (0.2, 0.4, 1)

    open_tab(page, "Extend")
    choose(page, "field-extend-source", "funk")
    page.locator("#wave-extend song-player[ready]").wait_for()
    fill(page, extend__right_seconds="1")
    extension = make_song(page)
    assert (extension["task"], extension["left_seconds"], extension["right_seconds"]) == ("extend", 0, 1)

    open_tab(page, "Audio to audio")
    choose(page, "field-audio_to_audio-source", "funk")
    page.locator("#wave-audio_to_audio song-player[ready]").wait_for()
    fill(page, audio_to_audio__ref_audio_strength="0.3")
    cover = make_song(page)
    assert (cover["task"], cover["ref_audio_strength"]) == ("audio2audio", 0.3)
    assert receipt(page) == cover


def test_lyrics_are_read_line_by_line(page):
    open_tab(page, "Lyrics")
    page.locator("#preview-lyrics textarea").fill("[verse]\nhello world\n[Verse 2]")
    page.locator("#preview-read").click()
    rows = page.locator("#preview-table tr")
    expect(rows).to_have_count(4)
    expect(rows.nth(2)).to_contain_text("hello world")


def test_adapters_are_loaded_unloaded_and_used(page):
    open_tab(page, "Adapters")
    expect(page.locator("#adapter-table")).to_contain_text("loud")
    choose(page, "adapter-chosen", "loud")
    page.locator("#adapter-load").click()
    expect(page.locator("#adapter-table tr", has_text="loud")).to_contain_text("in memory")
    page.locator("#adapter-use").click()
    choose(page, "adapter-chosen", "broken")
    page.locator("#adapter-load").click()
    expect(page.locator("#adapter-message [role=alert]")).to_contain_text("broken")
    choose(page, "adapter-chosen", "loud")
    page.locator("#adapter-unload").click()
    expect(page.locator("#adapter-table tr", has_text="loud")).to_contain_text("in the store")
    open_tab(page, "Text to music")
    short_song(page)
    song = make_song(page)
    assert (song["lora_name_or_path"], song["lora_weight"]) == ("loud", 1)


def test_a_parameter_file_of_the_reference_sets_every_control(page, tmp_path):
    file = parameter_file(
        tmp_path / "output_20250101000000_0_input_params.json",
        task="text2music", prompt="metal, drums", lyrics="[inst]", audio_duration=2.5, infer_step=4, guidance_scale=45.5,
        scheduler_type="heun",
        cfg_type="cfg", omega_scale=-3, guidance_interval=0.7, guidance_interval_decay=0.1, min_guidance_scale=2, use_erg_tag=False,
        use_erg_lyric=True, use_erg_diffusion=False, oss_steps=[], actual_seeds=[3, 4], guidance_scale_text=0, guidance_scale_lyric=0,
        format="flac",
        lora_name_or_path="none", lora_weight=1, timecosts={"preprocess": 1},
    )  # fmt: skip
    choose_file(page, "#load-parameters", file)
    expect(page.locator("#load-message")).to_contain_text("Settings loaded")
    expect(box(page, "text_to_music-duration_seconds")).to_have_value("2.5")
    song = make_song(page)
    expected = {
        "prompt": "metal, drums", "lyrics": "[inst]", "audio_duration": 2.5, "infer_step": 4, "guidance_scale": 45.5,
        "scheduler_type": "heun",
        "cfg_type": "cfg", "omega_scale": -3, "guidance_interval": 0.7, "guidance_interval_decay": 0.1, "min_guidance_scale": 2,
        "use_erg_tag": False,
        "use_erg_lyric": True, "use_erg_diffusion": False, "actual_seeds": [3], "format": "flac", "lyric_rules": "reference",
    }  # fmt: skip
    assert {name: song[name] for name in expected} == expected
    expect(page.locator("#run-songs song-player[ready]")).to_have_count(2)
