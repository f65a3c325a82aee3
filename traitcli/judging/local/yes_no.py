"""Asks a model yes or no about answers, by the probabilities of the two words."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from traitcli.judging import prompts
from traitcli.judging.local.judge import EncodedQuestion, Prefixes, ProbabilityReader
from traitcli.judging.questions import Question
from traitcli.models.batch_size import shrinking
from traitcli.models.loaded import LoadedModel
from traitcli.models.memory import memory_explained
from traitcli.records import Trait

_BATCH = 32
"""Prompts read together."""
_LEAST = 1e-9
"""Instead of a probability of 0, whose logarithm is infinite."""


def ask_yes_no(
    loaded: LoadedModel,
    trait: Trait,
    answers: Sequence[tuple[str, str]],
    on_asked: Callable[[int, int], None] = lambda done, tokens: None,
    warn: Callable[[str], None] = lambda message: None,
) -> list[float | None]:
    """log P(yes) − log P(no) for each answer, after the trait's judge prompt.

    Unlike a score of the local judge, it is there also when the model would rather say something
    else: only the order of the answers counts.

    Args:
        loaded: The model that is asked.
        trait: Its judge prompt asks about the trait.
        answers: Question and response of each.
        on_asked: Receives how many answers are asked about, and the tokens of their prompts.
        warn: Receives a sentence when memory runs out and fewer prompts are read together.

    Returns:
        A finite number for each answer; None for one that is empty or does not fit the model.
    """
    reader = ProbabilityReader(loaded, shrinking(_BATCH, "prompts", warn))
    found: list[float | None] = [None] * len(answers)
    encoded: list[tuple[int, EncodedQuestion]] = []
    for index, (asked, response) in enumerate(answers):
        if text := prompts.clean_answer(response):
            question = Question(str(index), "trait", "binary", trait.judge_prompt, asked, text)
            encoded.append((index, EncodedQuestion(question, reader.encode(question))))
    # Room for the words that may begin with whitespace.
    encoded = [one for one in encoded if len(one[1].ids) <= loaded.context - 4]
    encoded.sort(key=lambda one: len(one[1].ids), reverse=True)
    done, tokens = len(answers) - len(encoded), 0
    cached: Prefixes = {}
    with memory_explained(loaded.device, "leave the question out with --no-ask"):
        prefix = reader.prefix([one for _, one in encoded], cached) if encoded else None
        while encoded and prefix:
            size = reader.batch_size(len(encoded[0][1].ids))
            batch, encoded = encoded[:size], encoded[size:]
            read = reader.probabilities([one.ids for _, one in batch], prefix, "binary")
            for (index, one), probabilities in zip(batch, read, strict=True):
                yes, no = (probabilities.get(word, 0.0) for word in ("YES", "NO"))
                found[index] = math.log(max(yes, _LEAST)) - math.log(max(no, _LEAST))
                done, tokens = done + 1, tokens + len(one.ids)
            on_asked(done, tokens)
    return found
