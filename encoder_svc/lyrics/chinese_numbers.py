"""Numbers in Chinese text, as they are read aloud: dates, money, telephone numbers, fractions, percentages, amounts.

The passes and their order are those of the model's training. Every pass replaces what it finds at the first place where the same
characters stand, which need not be where they were found.
"""

import re
import string
from collections.abc import Callable, Iterator

_DIGITS = "零一二三四五六七八九"
_UNITS = ((8, "亿"), (4, "万"), (3, "千"), (2, "百"), (1, "十"))
_MAX_DIGITS = 1000
_TWO, _PAIR = "二", "两"

_MEASURE_WORDS = (
    "匹张座回场尾条个首阙阵网炮顶丘棵只支袭辆挑担颗壳窠曲墙群腔砣客贯扎捆刀令打手罗坡山岭江溪钟队单双对出口头脚板跳枝件贴"
    "针线管名位身堂课本页家户层丝毫厘分钱两斤铢石钧锱忽寸尺丈里寻常铺程撮勺合升斗盘碗碟叠桶笼盆盒杯斛锅簋篮罐瓶壶卮盏箩箱煲啖袋钵"
    "年月日季刻时周天秒旬纪岁世更夜春夏秋冬代伏辈丸泡粒幢堆根道面片块"
)
_LONG_MEASURE_WORDS = ("千克", "毫克", "微克", "千米", "分米", "厘米", "毫米", "微米")
_MEASURE = rf"(?:{'|'.join(_LONG_MEASURE_WORDS)}|[{_MEASURE_WORDS}])"
_SCALE = "(?:亿|千万|百万|万|千|百)"
_NUMBER = r"\d++(?:\.\d++)?"

_DATE = re.compile(r"(?<!\d)(?:(?:[089]\d|(?:19|20)\d\d)年(?:\d{1,2}月(?:\d{1,2}[日号])?)?|\d{1,2}月(?:\d{1,2}[日号])?)")
_MONEY = re.compile(rf"(?<!\d){_NUMBER}[多余几]?(?:{_SCALE}?[元块]|{_SCALE}|[角毛分])")
_MOBILE = re.compile(r"(?<!\d)(?:\+?86 ?)?1(?:[38]\d|5[0-35-9]|7[678]|9[89])\d{8}(?!\d)")
_LANDLINE = re.compile(r"(?<!\d)(?:0(?:10|2\d|[3-9]\d\d)-?)?[1-9]\d{6,7}(?!\d)")
_FRACTION = re.compile(r"(?<!\d)(\d++)/(\d+)")
_PERCENTAGE = re.compile(rf"(?<!\d)({_NUMBER})[%％]")
_AMOUNT = re.compile(rf"(?<!\d){_NUMBER}[多余几]?{_MEASURE}")
_CODE = re.compile(r"\d{4,32}")
_PLAIN = re.compile(_NUMBER)
_LETTER_TWO_LETTER = re.compile(r"([a-zA-Z])二(?=[a-zA-Z])")

_CHINESE_MARKS = (
    "！？｡。＂＃＄％＆＇（）＊＋，－／：；＜＝＞＠［＼］＾＿｀｛｜｝～｟｠｢｣､、〃《》「」『』【】〔〕〖〗〘〙〚〛〜〝〞〟"
    "〰〾〿–—‘’‛“”„‟…‧﹏·〈〉"
)
_PUNCTUATION = str.maketrans(dict.fromkeys(string.punctuation + _CHINESE_MARKS, ","))
_AS_IT_IS = re.compile(r"(\[[^\[\]]*\]|(?<![a-z0-9])(?:[a-zü]{1,6}[1-5])+(?![a-z0-9]))")  # "[verse]", "ni3hao3"


class TooManyDigits(ValueError):
    """A number is beyond what anyone counts."""


def clean(text: str, revised: bool = False) -> str:
    """Spell the numbers, then turn every punctuation mark into a comma.

    Args:
        text: Lower case.
        revised: Leave structure tags and pinyin as they are; the reference takes tags apart and reads tones as numbers.

    Raises:
        TooManyDigits: For a number.
    """
    if not revised:
        return spell(text).translate(_PUNCTUATION)
    pieces = _AS_IT_IS.split(text)  # every second one is left
    return "".join(piece if index % 2 else spell(piece).translate(_PUNCTUATION) for index, piece in enumerate(pieces))


def spell(text: str) -> str:
    """Spell the numbers.

    Raises:
        TooManyDigits: For a number.
    """
    text = _replace(_DATE, _read_date, text)
    text = _replace(_MONEY, _read_amounts, text)
    text = _replace(_MOBILE, _read_code, text)
    text = _replace(_LANDLINE, _read_code, text)
    text = _replace(_FRACTION, lambda match: f"{_read_number(match[2])}分之{_read_number(match[1])}", text)
    text = _replace(_PERCENTAGE, lambda match: f"百分之{_read_number(match[1])}", text)
    text = _replace(_AMOUNT, _read_amounts, text)
    text = _replace(_CODE, _read_code, text)
    text = _replace(_PLAIN, _read_amounts, text)
    return _LETTER_TWO_LETTER.sub(r"\g<1>2", text)


def _replace(pattern: re.Pattern[str], read: Callable[[re.Match[str]], str], text: str) -> str:
    for match in list(pattern.finditer(text)):
        text = text.replace(match.group(), read(match), 1)
    return text


def _read_code(match: re.Match[str]) -> str:
    """Digit by digit; a plus, a dash and blanks are not read."""
    return "".join(_DIGITS[int(character)] for character in match.group() if character.isdecimal())


def _read_amounts(match: re.Match[str]) -> str:
    return _PLAIN.sub(lambda number: _read_number(number.group()), match.group())


def _read_date(match: re.Match[str]) -> str:
    year, separator, rest = match.group().rpartition("年")
    digits = "".join(_DIGITS[int(digit)] for digit in year)
    return digits + separator + _PLAIN.sub(lambda number: _read_number(number.group()), rest)


def _read_number(number: str) -> str:
    """A cardinal, with decimals after 点. Zero alone is not read."""
    if len(number) > _MAX_DIGITS:
        raise TooManyDigits(f"a number of {len(number)} digits")
    whole, _, decimals = ("".join(str(int(digit)) if digit.isdecimal() else digit for digit in number)).partition(".")
    symbols = list(_symbols(whole))
    for index, symbol in enumerate(symbols):
        before = symbols[index - 1] if index else ""
        after = symbols[index + 1] if index + 1 < len(symbols) else ""
        if symbol == _TWO and after in ("百", "千", "万", "亿") and before in ("", "百", "千", "万", "亿"):
            symbols[index] = _PAIR
    if symbols[:2] == ["一", "十"]:
        del symbols[0]
    if decimals:
        symbols = [*(symbols or [_DIGITS[0]]), "点", *(_DIGITS[int(digit)] for digit in decimals)]
    return "".join(symbols)


def _symbols(digits: str) -> Iterator[str]:
    """Digits and units, grouped by 亿 and 万; zeros before another digit are one 零, zeros alone are nothing."""
    stripped = digits.lstrip("0")
    if not stripped:
        return
    if len(stripped) == 1:
        if len(digits) > 1:
            yield _DIGITS[0]
        yield _DIGITS[int(stripped)]
        return
    power, unit = next((power, unit) for power, unit in _UNITS if power < len(stripped))
    yield from _symbols(digits[:-power])
    yield unit
    yield from _symbols(stripped[-power:])
