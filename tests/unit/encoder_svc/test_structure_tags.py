import pytest

from encoder_svc.lyrics.structure_tags import bracketed, nearest
from encoder_svc.lyrics.vocabulary import STRUCTURE_TAGS


@pytest.mark.parametrize(
    ("tag", "expected"),
    [
        ("[Verse 1]", "[verse]"),
        ("[Final Chorus]", "[chorus]"),
        ("[Pre Chorus 2]", "[pre-chorus]"),
        ("[instrumental]", "[inst]"),
        ("[Guitar Solo]", "[solo]"),
        ("[chrous]", "[chorus]"),
        ("[whispered]", None),
        ("[1]", None),
    ],
)
def test_nearest_known_tag(tag, expected):
    assert nearest(tag, STRUCTURE_TAGS) == expected


def test_bracketed_groups_are_found_anywhere_in_a_line():
    assert list(bracketed("[a] sing [b c] [unclosed")) == ["[a]", "[b c]"]
