"""The statistical language identifier: py3langid's naive Bayes model of 97 languages, loaded on first use."""

from functools import cache, lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from encoder_svc.lyrics.libraries import load

CACHED_TEXTS = 4096
SCORE_DECIMALS = 3


@lru_cache(maxsize=CACHED_TEXTS)
def identify(text: str) -> tuple[str, float]:
    """The most probable of all languages, and its probability to three decimals."""
    try:
        language, share = _model().classify(text)
    except OverflowError:  # it counts in 16 bits, which a long repetitive text exceeds
        language, share = _model().classify(text, datatype=np.uint32)
    return language, round(float(share), SCORE_DECIMALS)


def log_probabilities(text: str) -> NDArray[np.float64]:
    """For every language, up to a constant: log of its probability given the text. In the order of `languages`."""
    model = _model()
    features = model.instance2fv(text, datatype=np.uint32)
    present = features.nonzero()[0]  # a line has some dozens of 7480 features
    scores: NDArray[np.float64] = features[present] @ model.nb_ptc[present] + model.nb_pc
    return scores


def languages() -> tuple[str, ...]:
    """Codes of all languages in alphabetical order."""
    return tuple(_model().nb_classes)


@cache
def _model() -> Any:
    langid = load("py3langid.langid", "every language but English")
    return langid.LanguageIdentifier.from_pickled_model(langid.MODEL_FILE, norm_probs=True)
