"""Which brake halves a trait under positive personas, and what does it cost?

    python -m benchmarks.brakes [-c default] [--traits evil,sycophantic] [--questions 20]

Runs on the config's model with its vectors, on the evaluation questions, from which no vector was
built. Each way of steering answers each question once under a positive persona, the five pairs in
turn, with the same random numbers. The likelihood-ratio judge scores the answers (0–100, 50 is
neutral) by other pairs than the one that was used; it reads without steering.

removed     share of what the persona adds to the score that is gone: 0 % is the unsteered answer
            under the persona, 100 % the answer to the bare question
wrong way   share of the questions whose score rises
perplexity  of the unsteered model behind the bare question
repetition  share of three-token sequences that occurred before in the answer
held        share of the tokens at which a cap or a gate held

In brackets: the standard error over questions. There is one seed, and nothing is chosen by its
result.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np

from benchmarks.case import prompt_ids
from benchmarks.traits import OneModel, judge_texts, persona_request, print_table
from traitcli.config import Config, load_config
from traitcli.generation.decode import decode
from traitcli.generation.detokenize import token_texts
from traitcli.generation.projections import ProjectionReader, make_probes
from traitcli.generation.request import Request
from traitcli.interventions import Intervention
from traitcli.judging.likelihood import LikelihoodJudge
from traitcli.models.batch_size import BatchSize
from traitcli.models.load import load_model
from traitcli.models.loaded import LoadedModel
from traitcli.models.prompts import encode_response
from traitcli.models.read_texts import Text, log_probabilities
from traitcli.records import Trait, TraitVector
from traitcli.steering.dose_response import repetition
from traitcli.steering.interventions import prepare_interventions, steered, typical_norms
from traitcli.steering.parse import parse_interventions
from traitcli.traits.definitions import find_traits, load_trait
from traitcli.vectors.files import load_vectors

DOSES = (0.2, 0.4, 0.6)
"""Of the pushes; the gated one has the second."""
CAPS = (1.0, 0.0, -1.0)
"""Calibrated scores."""
PAIRS = 2
"""Other pairs by which the judge scores an answer."""


@dataclass(frozen=True)
class Answers:
    """The answers under one way of steering, one for each question.

    label  the way, as a user types it
    held   share of the tokens at which a cap or a gate held; none: the way has neither
    """

    label: str
    texts: tuple[str, ...]
    held: float | None


@dataclass(frozen=True)
class Way:
    """What answers are like: scores of 0–100, perplexity, and the share of repetitions."""

    answers: Answers
    scores: tuple[float, ...]
    perplexity: float
    repeated: float


def answer(
    loaded: LoadedModel,
    vectors: dict[str, TraitVector],
    requests: Sequence[Request],
    label: str,
    steering: Sequence[Intervention],
    config: Config,
) -> Answers:
    """Answer all requests in one batch, steered."""
    prepared = prepare_interventions(steering, vectors, loaded, config.vector.position)
    active = steered(loaded, prepared)
    tokens: dict[int, list[int]] = {index: [] for index in range(len(requests))}
    # The probe is not needed; where brakes held comes with its scores.
    [probe] = make_probes([next(iter(vectors.values()))], loaded, config.vector.position).values()
    reader = ProjectionReader([probe], loaded, more=active)
    with active:
        for step in decode(loaded, requests, config.extract.sampling, len(requests), reader):
            for index, token in step.written:
                tokens[index].append(token)

    held = [row[1:].any() for text in reader.finished.values() for row in text.response]
    texts = tuple("".join(token_texts(loaded.tokenizer, ids)) for ids in tokens.values())
    return Answers(label, texts, fmean(held) if active.width else None)


def measure(
    loaded: LoadedModel,
    judge: LikelihoodJudge,
    trait: Trait,
    questions: Sequence[str],
    found: Sequence[Answers],
) -> list[Way]:
    """Score the answers of all ways, and measure what they cost."""
    # All at once: the answers to a question share what is read before them.
    asked = [question for _ in found for question in questions]
    texts = [text for answers in found for text in answers.texts]
    scores = np.array(judge_texts(judge, trait, asked, texts)).reshape(len(found), -1)
    encoded = [
        Text(prompt_ids(loaded, question), tuple(encode_response(loaded.tokenizer, text)))
        for question, text in zip(asked, texts, strict=True)
    ]
    readable = [index for index, text in enumerate(encoded) if text.response]
    read = dict(log_probabilities(loaded, [encoded[i] for i in readable], BatchSize(64)))
    likelihood = {readable[index]: float(numbers.mean()) for index, numbers in read.items()}

    ways = []
    for number, answers in enumerate(found):
        own = [i for i in readable if i // len(questions) == number]
        perplexity = math.exp(-fmean(likelihood[i] for i in own))
        repeated = fmean(repetition(encoded[i].response) for i in own)
        ways.append(Way(answers, tuple(scores[number]), perplexity, repeated))
    return ways


def ways_of(loaded: LoadedModel, trait: Trait, vector: TraitVector, config: Config) -> list[str]:
    """What is tried, as a user types it."""
    prompts = [prompt_ids(loaded, question) for question in trait.evaluation_questions[:8]]
    norm = typical_norms(loaded, {vector.layer}, prompts)[vector.layer]
    length = float(np.linalg.norm(vector.directions[config.vector.position][vector.layer]))
    name, unit = trait.name, norm / length
    pushes = [f"{name}={-dose * unit:.2f}" for dose in DOSES]
    return [
        *pushes,
        f"{name}=ablate",
        f"{name}=ablate@all",
        *(f"{name}<={score:g}" for score in CAPS),
        f"{pushes[1]} if {name}>0",
    ]


def row_of(way: Way, bare: Way, persona: Way) -> str:
    """A line of the table."""
    differences = np.subtract(way.scores, persona.scores)
    error = differences.std(ddof=1) / math.sqrt(len(differences))
    rise = fmean(persona.scores) - fmean(bare.scores)
    removed = (fmean(persona.scores) - fmean(way.scores)) / rise
    is_steered = way is not persona and way is not bare
    cells = [
        way.answers.label,
        f"{fmean(way.scores):.0f}",
        f"{differences.mean():+.0f} ({error:.0f})" if way is not persona else "",
        f"{removed:.0%}" if is_steered else "",
        f"{(differences > 0).mean():.0%}" if is_steered else "",
        f"{way.perplexity:.1f}",
        f"{way.repeated:.0%}",
        "" if way.answers.held is None else f"{way.answers.held:.0%}",
    ]
    return f"| {' | '.join(cells)} |"


def main() -> int:
    """Measure and print a table in Markdown for each trait."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("-c", "--config", default="default")
    parser.add_argument("--traits", default="evil,sycophantic")
    parser.add_argument("--questions", type=int, default=20)
    parser.add_argument("--tokens", type=int, default=40)
    parser.add_argument("--show", action="store_true", help="print an answer of each way")
    options = parser.parse_args()

    config = load_config(options.config, [f"extract.sampling.max_new_tokens={options.tokens}"])
    loaded = load_model(config.model)
    judge_config = config.judge.likelihood.model_copy(update={"pairs": PAIRS})
    judge = LikelihoodJudge(judge_config, OneModel(config.model, loaded))
    vectors = load_vectors(config)
    for name in options.traits.split(","):
        trait = load_trait(find_traits(config.paths.traits)[name])
        questions = trait.evaluation_questions[: options.questions]
        asked = [
            persona_request(loaded, trait, "positive", number, question, config)
            for number, question in enumerate(questions)
        ]
        plain = [
            Request(prompt_ids(loaded, question), request.seed)
            for question, request in zip(questions, asked, strict=True)
        ]
        found = [
            answer(loaded, vectors, plain, "bare question", (), config),
            answer(loaded, vectors, asked, "persona alone", (), config),
        ]
        for text in ways_of(loaded, trait, vectors[name], config):
            steering = parse_interventions(text, vectors)
            found.append(answer(loaded, vectors, asked, f"`{text}`", steering, config))
            if options.show:
                print(f"{text}: {found[-1].texts[0]!r}", file=sys.stderr)

        bare, persona, *others = measure(loaded, judge, trait, questions, found)
        rows = [row_of(way, bare, persona) for way in (bare, persona, *others)]
        print(f"\n{name}, layer {vectors[name].layer}\n")
        header = "| way | score | change | removed | wrong way | perplexity | repetition | held |"
        print_table(header, rows)
        sys.stdout.flush()  # a whole run takes minutes
    return 0


if __name__ == "__main__":
    sys.exit(main())
