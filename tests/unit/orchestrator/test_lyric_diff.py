import difflib
import random

from orchestrator.lyric_diff import diff_lyrics


def changes(old: str, new: str) -> list[tuple[int, list[str], int, list[str]]]:
    found = diff_lyrics(old, new)
    return [(change.old_line_number, list(change.old_lines), change.new_line_number, list(change.new_lines)) for change in found]


def test_equal_lyrics_have_no_changes_and_blanks_at_line_ends_count_nothing() -> None:
    assert changes("", "") == []
    assert changes("[verse]\nla", "[verse] \n la\n") == []


def test_replaced_added_and_removed_lines_are_told_with_their_numbers() -> None:
    old = "[verse]\nhello world\nwe sing\n[chorus]\nla la"
    new = "[verse]\nhello moon\nwe sing\nloudly\n[chorus]"
    assert changes(old, new) == [(2, ["hello world"], 2, ["hello moon"]), (4, [], 4, ["loudly"]), (5, ["la la"], 6, [])]


def test_everything_may_be_new_or_gone() -> None:
    assert changes("", "a\nb") == [(1, [], 1, ["a", "b"])]
    assert changes("a\nb", "") == [(1, ["a", "b"], 1, [])]


def test_changes_lead_from_the_old_to_the_new_and_keep_a_longest_common_part() -> None:
    rng = random.Random(0)
    for _ in range(200):
        old, new = ([rng.choice("abcd") for _ in range(rng.randrange(9))] for _ in range(2))
        result, position, kept = [], 0, 0
        for old_number, old_lines, new_number, new_lines in changes("\n".join(old), "\n".join(new)):
            kept += old_number - 1 - position
            result += old[position : old_number - 1]
            assert len(result) == new_number - 1
            assert old[old_number - 1 : old_number - 1 + len(old_lines)] == old_lines
            result += new_lines
            position = old_number - 1 + len(old_lines)
        kept += len(old) - position
        assert result + old[position:] == new
        matched = sum(block.size for block in difflib.SequenceMatcher(None, old, new, autojunk=False).get_matching_blocks())
        assert kept >= matched


def test_the_longest_lyrics_are_compared_in_a_moment() -> None:
    assert changes("\n" * 4096, "\n" * 4095) == [(4096, [""], 4096, [])]
