"""Whatever is pasted as lyrics is encoded or refused by its lines; nothing else happens."""

import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from acestep_rpc.errors import InvalidRequest
from encoder_svc.lyrics.languages import LANGUAGES, TRANSLITERATED, LyricRules
from encoder_svc.lyrics.lyric_tokenizer import LyricTokenizer, UnreadableLine
from tests.tiny_lyrics import MULTILINGUAL_ROWS
from training.lyric_ids import UnsupportedLanguage, training_lyric_ids

EXAMPLES = int(os.environ.get("LYRIC_FUZZ_EXAMPLES", "100"))
SCRIPTS = (
    "aZéñß ıİçœğ 09.,:%$€£°/-+'\"“”()[]<>{}⑥\n\r\t…。！？，、你好再见東京年月日块亿半さくらナイト사랑음악Привет іїشكرا ٥٠हिंदी१ไทย "
    "😀🎵\u0301\u200d\u3000\ufeff１Ａ"
)
WORDS = [
    "[verse]",
    "[Verse 1]",
    "<zh>",
    "<",
    "zh>",
    "<number>",
    "1,000",
    "12.5",
    "3rd",
    "Dr.",
    "$5",
    "20€",
    "1-2",
    "100%",
    "⑥$5000000⑥",
    "La la",
    "[lang:ja]",
    "\n[lang:el] ",
    "[lang:xx]",
    "[chrous]",
    "ni3hao3",
]
lyric_text = st.one_of(
    st.text(max_size=80),
    st.text(alphabet=SCRIPTS, max_size=80),
    st.lists(st.one_of(st.sampled_from(WORDS), st.text(alphabet=SCRIPTS, max_size=6)), max_size=20).map(" ".join),
)


@pytest.fixture(scope="module")
def tokenizer(multilingual_vocabulary):
    return LyricTokenizer(multilingual_vocabulary, MULTILINGUAL_ROWS)


@settings(max_examples=EXAMPLES, deadline=None)
@given(
    lyrics=lyric_text,
    language=st.one_of(st.none(), st.sampled_from(LANGUAGES + TRANSLITERATED)),
    rules=st.sampled_from(LyricRules),
    skip=st.booleans(),
    normalize=st.booleans(),
)
def test_every_line_is_encoded_and_reported_or_refused(tokenizer, lyrics, language, rules, skip, normalize):
    try:
        encoded = tokenizer.encode(lyrics, language, rules, skip, normalize)
    except InvalidRequest:
        assert not skip
        return
    raw = lyrics.split("\n") if lyrics else []
    assert len(encoded.lines) == len(raw)
    for text, line in zip(raw, encoded.lines, strict=True):
        assert bool(line.language) == bool(line.ids)
        if text.strip() and not line.language:
            assert (skip and line.token_count == 0) or (normalize and any("repeats" in warning for warning in line.warnings))
    assert len(encoded.ids) == bool(raw) + sum(line.token_count for line in encoded.lines)
    assert all(0 <= token_id < MULTILINGUAL_ROWS for token_id in encoded.ids)


@settings(max_examples=EXAMPLES, deadline=None)
@given(text=lyric_text.map(lambda text: text.replace("\n", " ")), language=st.sampled_from(LANGUAGES), rules=st.sampled_from(LyricRules))
def test_every_line_can_be_read_in_every_language(tokenizer, text, language, rules):
    try:
        line = tokenizer.encode_line(text, language, rules)
    except UnreadableLine:
        return
    assert all(0 <= token_id < MULTILINGUAL_ROWS for token_id in line.ids)


@settings(max_examples=EXAMPLES, deadline=None)
@given(lyrics=lyric_text, rules=st.sampled_from(LyricRules))
def test_training_ids_are_in_range_or_refused(tokenizer, lyrics, rules):
    try:
        found = training_lyric_ids(lyrics, tokenizer, rules=rules)
    except UnsupportedLanguage:
        return
    assert found.ids
    assert all(0 <= token_id < MULTILINGUAL_ROWS for token_id in found.ids)
