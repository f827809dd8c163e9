"""Abbreviations and symbols as words, in the languages that have them."""

import re
from types import MappingProxyType

_ABBREVIATIONS = {
    "en": "mrs misess, mr mister, dr doctor, st saint, co company, jr junior, maj major, gen general, drs doctors, rev reverend, "
    "lt lieutenant, hon honorable, sgt sergeant, capt captain, esq esquire, ltd limited, col colonel, ft fort",
    "es": "sra señora, sr señor, dr doctor, dra doctora, st santo, co compañía, jr junior, ltd limitada",
    "fr": "mme madame, mr monsieur, dr docteur, st saint, co compagnie, jr junior, ltd limitée",
    "de": "fr frau, dr doktor, st sankt, co firma, jr junior",
    "pt": "sra senhora, sr senhor, dr doutor, dra doutora, st santo, co companhia, jr júnior, ltd limitada",
    "it": "sig signore, dr dottore, st santo, co compagnia, jr junior, ltd limitata",
    "pl": "p pani, m pan, dr doktor, sw święty, jr junior",
    "cs": "dr doktor, ing inženýr, p pan",
    "nl": "dhr de heer, mevr mevrouw, dr dokter, jhr jonkheer",
    "tr": "b bay, byk büyük, dr doktor",
    "hu": "dr doktor, b bácsi, nőv nővér",
    "ru": "г-жа госпожа, г-н господин, д-р доктор",
}
_SYMBOL_ORDER = "&@%#$£°"
_SYMBOLS = {
    "en": "and/at/percent/hash/dollar/pound/degree",
    "es": "y/arroba/por ciento/numeral/dolar/libra/grados",
    "fr": "et/arobase/pour cent/dièse/dollar/livre/degrés",
    "de": "und/at/prozent/raute/dollar/pfund/grad",
    "pt": "e/arroba/por cento/cardinal/dólar/libra/graus",
    "it": "e/chiocciola/per cento/cancelletto/dollaro/sterlina/gradi",
    "pl": "i/małpa/procent/krzyżyk/dolar/funt/stopnie",
    "ar": "و/على/في المئة/رقم/دولار/جنيه/درجة",
    "zh": "和/在/百分之/号/美元/英镑/度",
    "cs": "a/na/procento/křížek/dolar/libra/stupně",
    "ru": "и/собака/процентов/номер/доллар/фунт/градус",
    "nl": "en/bij/procent/hekje/dollar/pond/graden",
    "tr": "ve/at/yüzde/diyez/dolar/sterlin/derece",
    "hu": "és/kukac/százalék/kettőskereszt/dollár/font/fok",
    "ko": "그리고/에/퍼센트/번호/달러/파운드/도",
}


def _abbreviation(language: str, short: str) -> re.Pattern[str]:
    end = r"\b" if language == "ru" else r"\."
    return re.compile(rf"\b{re.escape(short)}{end}", re.IGNORECASE)


_ABBREVIATION_PATTERNS = MappingProxyType(
    {
        language: tuple((_abbreviation(language, entry.split()[0]), entry.split(maxsplit=1)[1]) for entry in entries.split(", "))
        for language, entries in _ABBREVIATIONS.items()
    }
)
_SYMBOL_WORDS = MappingProxyType(
    {language: tuple(zip(_SYMBOL_ORDER, words.split("/"), strict=True)) for language, words in _SYMBOLS.items()}
)


def expand_abbreviations(text: str, language: str) -> str:
    """Titles and the like as words; languages without any keep the text."""
    for pattern, words in _ABBREVIATION_PATTERNS.get(language, ()):
        text = pattern.sub(words, text)
    return text


def expand_symbols(text: str, language: str) -> str:
    """Symbols as words with spaces around them."""
    for symbol, words in _SYMBOL_WORDS[language]:
        text = text.replace(symbol, f" {words} ").replace("  ", " ")
    return text.strip()
