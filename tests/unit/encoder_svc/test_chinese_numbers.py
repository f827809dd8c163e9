import pytest

from encoder_svc.lyrics import chinese_numbers


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2024年8月24日", "二零二四年八月二十四日"),
        ("98年", "九八年"),
        ("20年", "二十年"),
        ("1024年", "一千零二十四年"),
        ("8月1号", "八月一号"),
        ("12万", "十二万"),
        ("2.5亿元", "二点五亿元"),
        ("5块3毛", "五块三毛"),
        ("13812345678", "一三八一二三四五六七八"),
        ("+86 13812345678", "八六一三八一二三四五六七八"),
        ("010-12345678", "零一零一二三四五六七八"),
        ("1/3", "三分之一"),
        ("30%", "百分之三十"),
        ("0.5%", "百分之零点五"),
        ("2345只", "两千三百四十五只"),
        ("12000个", "一万两千个"),
        ("220个", "两百二十个"),
        ("20200个", "两万零二百个"),
        ("120000个", "十二万个"),
        ("100000000个", "一亿个"),
        ("10多个", "十多个"),
        ("1234", "一二三四"),
        ("123", "一百二十三"),
        ("102", "一百零二"),
        ("10", "十"),
        ("007", "零七"),
        ("0", ""),
        ("00.5", "零点五"),
        ("3.0", "三点零"),
        ("１２３", "一百二十三"),
        ("o2o和b2c", "o2o和b2c"),
        ("mp3", "mp三"),
    ],
)
def test_numbers_are_read_aloud(text, expected):
    assert chinese_numbers.spell(text) == expected


def test_every_mark_becomes_a_comma_of_its_own():
    assert chinese_numbers.clean("你好……（[verse] it's 3-5天） 😀°") == "你好,,,,verse, it,s 三,五天, 😀°"


def test_the_revised_rules_keep_tags_and_pinyin():
    assert chinese_numbers.clean("[verse]3-5天！", revised=True) == "[verse]三,五天,"
    assert chinese_numbers.clean("ni3hao3 世界 nü3, 3天", revised=True) == "ni3hao3 世界 nü3, 三天"
    assert chinese_numbers.clean("ni3hao3") == "ni三hao三"
    assert chinese_numbers.clean("b2b 4k", revised=True) == "b2b 四k"


def test_a_number_beyond_counting_is_refused():
    with pytest.raises(chinese_numbers.TooManyDigits):
        chinese_numbers.spell("9" * 2000 + "个")
