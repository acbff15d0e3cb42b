"""Words as BM25 counts them: the language found, its stems and stop words."""

from collections import Counter
from typing import get_args

import pytest

from pipeline.config.schema import EvaluateConfig
from pipeline.evaluation.analysis import STOP_WORDS, Analyzer, language_of, stemmer_for, words_of
from pipeline.tokenization.tokenizers import WordTokenizer

TEXTS = {
    "english": "The lift of a wing depends on the angle at which it meets the air, and on the speed of the flow.",
    "german": "Der Auftrieb eines Flügels hängt von dem Winkel ab, unter dem er auf die Luft trifft, und der Strömung.",
    "french": "La portance d'une aile dépend de l'angle sous lequel elle rencontre l'air et de la vitesse du courant.",
    "spanish": "La sustentación de un ala depende del ángulo con el que se encuentra con el aire y de la velocidad.",
    "italian": "La portanza di un'ala dipende dall'angolo con cui essa incontra l'aria e dalla velocità del flusso.",
    "portuguese": "A sustentação de uma asa depende do ângulo com que ela encontra o ar e da velocidade do fluxo.",
    "dutch": "De draagkracht van een vleugel hangt af van de hoek waaronder hij de lucht raakt en van de snelheid.",
    "swedish": "Vingens lyftkraft beror på den vinkel som den möter luften med och på hur snabbt det strömmar.",
    "russian": "Подъёмная сила крыла зависит от угла, под которым оно встречает воздух, и от скорости потока.",
    "none": "机翼的升力取决于它与空气相遇的角度和气流的速度。",
}


def words(text: str) -> list[str]:
    return words_of(WordTokenizer(lowercase=False).tokens(text))


@pytest.mark.parametrize("language", TEXTS)
def test_the_language_of_a_text(language: str) -> None:
    counts = Counter(words(TEXTS[language]))
    assert language_of(counts) == language
    assert stemmer_for("auto", "word", counts) == language
    assert stemmer_for("auto", "sentencepiece", counts) == "none"  # pieces are no words
    assert stemmer_for("french", "sentencepiece", counts) == "french"


def test_words_without_a_language() -> None:
    assert language_of({}) == "none"
    assert language_of({"flügel": 90, "und": 10}) == "none"  # too few stop words for any
    assert language_of({"flügel": 80, "und": 20}) == "german"
    assert language_of({"wing": 100}) == "english"  # plain letters, as where the stop words were taken out
    assert language_of({"wing": 97, "flügel": 3}) == "none"


def test_forms_of_a_word_are_one_term_and_stop_words_none() -> None:
    english = Analyzer("english")
    assert english.terms(words("Sorting the lists")) == english.terms(words("sort a list")) == ["sort", "list"]
    assert english.term("the") is None
    assert Analyzer("german").terms(words("die Häuser der Kinder")) == ["haus", "kind"]
    assert Analyzer("none").terms(words("Sorting the lists!")) == ["sorting", "the", "lists"]


def test_the_setting_allows_what_there_is() -> None:
    annotation = EvaluateConfig.model_fields["stemmer"].annotation
    assert {*get_args(annotation)} == {"auto", "none", *STOP_WORDS}
