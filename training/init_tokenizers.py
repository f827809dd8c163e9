"""The two tokenizers of a fresh checkpoint, made from words and lines of our own.

`tags_tokenizer` has the form of UMT5's: Unigram, padding 0, end 1 appended, unknown 2; a character that it does not know falls back to
bytes, so every text has tokens. `lyric_vocabulary` has the form of the official lyric vocabulary: BPE behind a whitespace split, with the
same special tokens at the same ids. Pieces and merges are our own.
"""

import json
import unicodedata
from collections.abc import Sequence
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

MAX_TAG_TOKENS = 512

TAG_WORDS = (
    # genres
    "acoustic ambient anthem ballad bass blues bossa bluegrass choir cinematic classical country dance dark deep disco drum dub "
    "dubstep edm electric electro electronic epic experimental folk funk fusion garage gospel grunge hard hip hop house indie "
    "industrial jazz jungle latin lofi lounge metal minimal modern new nova orchestral pop progressive psychedelic punk rap reggae "
    "reggaeton retro rock roll salsa samba ska smooth soft soul soundtrack step swing synthwave techno trance trap tribal trip "
    "vaporwave vintage wave world "
    # instruments
    "accordion banjo bell bongo brass cello clap clarinet conga drums fiddle flute guitar hihat harmonica harp harpsichord horn "
    "kick keys mandolin marimba oboe organ pad percussion piano pluck rhodes sax saxophone sitar snare steel strings synth "
    "synthesizer tabla tambourine trombone trumpet tuba turntable ukulele vibraphone viola violin whistle 808 909 "
    # voices
    "adlib autotune breathy chant child chorus clear deep duet falsetto female harmony high husky instrumental lead low male "
    "melodic mumble powerful rapper raspy screaming singer singing soprano spoken tenor vocal vocals voice warm whisper "
    # moods and sound
    "aggressive angry atmospheric bouncy bright bpm calm catchy chill cold dreamy driving emotional energetic fast fun gentle "
    "glitch groovy happy heavy hopeful hypnotic intense joyful light live lonely loop loud major melancholic mellow minor mono "
    "mysterious night nostalgic peaceful playful punchy quiet raw relaxed reverb rhythm romantic sad sensual serene simple slow "
    "solo spacious stereo summer sweet tense tempo triumphant uplifting upbeat winter "
)

LYRIC_LINES = """
the morning opens like a window over the water
and every street is humming with the sound of running feet
i kept a letter in my pocket all the winter
with your name in faded ink and a corner for the rain
hold on to me when the lights are going down
hold on to me there is music in the ground
we were dancing on the rooftop when the city lost its power
and the only thing that mattered was the rhythm of the hour
hello world hello stranger hello stars above the bay
tell me something i can carry when the summer goes away
oh the river does not hurry and the river does not wait
it is singing to the mountain it is knocking at the gate
give me one more song before the night is over
give me one more reason not to fall asleep
love is louder than the thunder love is softer than the snow
it is everything i wanted it is everything i know
na na na na na yeah yeah yeah oh oh oh la la la
turn it up and let the bass run through the floor
nobody here is thinking of tomorrow anymore
clap your hands and stamp your feet and move it side to side
there is nothing to be sorry for and nothing left to hide
in the quiet of the evening i can hear you breathing slow
and the dreams that we were dreaming are the only place to go
"""

SPECIAL_IDS = {"[STOP]": 0, "[UNK]": 1, "[SPACE]": 2, "[START]": 261}
# fmt: off
LANGUAGE_IDS = {
    "[en]": 259, "[de]": 260, "[fr]": 262, "[ru]": 267, "[es]": 284, "[it]": 285, "[pt]": 286, "[cs]": 293, "[pl]": 294, "[tr]": 295,
    "[nl]": 297, "[ar]": 5022, "[zh-cn]": 5023, "[ja]": 5412, "[hu]": 5753, "[ko]": 6152, "[hi]": 6680,
}
STRUCTURE_IDS = {
    "[start]": 6681, "[intro]": 6682, "[verse]": 6683, "[chorus]": 6684, "[bridge]": 6685, "[outro]": 6686, "[end]": 6687, "[inst]": 6688,
    "[solo]": 6689, "[hook]": 6690, "[pre-chorus]": 6691, "[break]": 6692,
}
# fmt: on
LYRIC_VOCABULARY_SIZE = 6693

# Code points whose letters, marks, digits and punctuation get a token: Latin with its accents, Cyrillic, Arabic, Devanagari.
_ALPHABETS = (range(0x21, 0x7F), range(0xA1, 0x180), range(0x400, 0x460), range(0x60C, 0x66A), range(0x901, 0x970))


def _alphabet() -> list[str]:
    return [chr(code) for block in _ALPHABETS for code in block if unicodedata.category(chr(code))[0] in "LMNPS"]


def tags_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer of UMT5's form; `save_pretrained` writes its files."""
    vocabulary: dict[str, float] = {"<pad>": 0.0, "</s>": 0.0, "<unk>": -12.0}
    vocabulary |= {f"<0x{byte:02X}>": -11.0 for byte in range(256)}
    # A word costs less than its letters: the best segmentation takes the longest known pieces.
    vocabulary |= dict.fromkeys(("▁", *_alphabet()), -10.0)
    for word in dict.fromkeys(TAG_WORDS.split()):
        vocabulary |= {f"▁{word}": -6.0, word: -7.0}
    tokenizer = Tokenizer(models.Unigram(list(vocabulary.items()), unk_id=2, byte_fallback=True))
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace(replacement="▁", prepend_scheme="always")])
    return _umt5_form(tokenizer)


def tag_list_tokenizer(tags: Sequence[str]) -> PreTrainedTokenizerFast:
    """A tokenizer for prompts that are lists of known tags, "rock, 129 bpm, C minor": each tag is one token, commas are none.

    A tag that it does not know is spelt in known tags, characters and bytes; case and the space around commas are ignored.

    Args:
        tags: The known ones.
    """
    vocabulary: dict[str, float] = {"<pad>": 0.0, "</s>": 0.0, "<unk>": -12.0}
    vocabulary |= {f"<0x{byte:02X}>": -11.0 for byte in range(256)}
    vocabulary |= dict.fromkeys((" ", *(chr(code) for code in range(0x21, 0x7F))), -10.0)
    vocabulary |= {tag.lower(): -1.0 for tag in tags}
    tokenizer = Tokenizer(models.Unigram(list(vocabulary.items()), unk_id=2, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase(), normalizers.Strip()])
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"\s*,\s*"), "removed")
    tokenizer.decoder = decoders.ByteFallback()
    return _umt5_form(tokenizer)


def _umt5_form(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        pad_token="<pad>",  # noqa: S106
        eos_token="</s>",  # noqa: S106
        unk_token="<unk>",  # noqa: S106
        model_max_length=MAX_TAG_TOKENS,
    )


def lyric_vocabulary(lines: str = LYRIC_LINES) -> str:
    """A `tokenizers` JSON file: BPE merges of lines of lyrics, every id below LYRIC_VOCABULARY_SIZE."""
    trained = Tokenizer(models.BPE(unk_token="[UNK]"))  # noqa: S106
    trained.pre_tokenizer = pre_tokenizers.Whitespace()
    alphabet = _alphabet()
    trainer = trainers.BpeTrainer(min_frequency=2, initial_alphabet=alphabet, limit_alphabet=len(alphabet), show_progress=False)
    trained.train_from_iterator(lines.splitlines(), trainer)
    document: dict[str, Any] = json.loads(trained.to_str())

    special = SPECIAL_IDS | LANGUAGE_IDS | STRUCTURE_IDS
    taken = set(special.values())
    free = (index for index in range(LYRIC_VOCABULARY_SIZE) if index not in taken)
    learned = sorted(document["model"]["vocab"], key=document["model"]["vocab"].__getitem__)
    # The special tokens have fixed ids far apart, so the map has holes: rows of the embedding that no text reaches.
    document["model"]["vocab"] = special | dict(zip(learned, free, strict=False))
    document["added_tokens"] = [
        {"id": index, "content": token, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
        for token, index in sorted(special.items(), key=lambda item: item[1])
    ]
    return json.dumps(document, ensure_ascii=False, indent=1)
