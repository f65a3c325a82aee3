"""The frozen records that flow from stage to stage: a stage makes new ones and edits none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from statistics import fmean
from typing import TYPE_CHECKING, Any, Literal

from traitcli.interventions import Intervention
from traitcli.vector_quality import VectorQuality

# For annotations only: reading a config imports this module, and needs no numpy.
if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

Polarity = Literal["positive", "negative"]
Split = Literal["extraction", "evaluation"]
Position = Literal["response_avg", "prompt_avg", "prompt_last"]
Context = Literal["persona", "neutral"]  # read behind its own prompt, or its bare question

POLARITIES: tuple[Polarity, ...] = ("positive", "negative")
POSITIONS: tuple[Position, ...] = ("response_avg", "prompt_avg", "prompt_last")


@dataclass(frozen=True, slots=True)
class Contrast:
    """The positive and the negative version of an instruction, an adjective or a meaning."""

    positive: str
    negative: str

    def of(self, polarity: Polarity) -> str:
        return self.positive if polarity == "positive" else self.negative


@dataclass(frozen=True, slots=True)
class LabelledResponse:
    """A response that a file provides, with the text before it and the polarity as its label.

    pair                 which of five folds it belongs to; a fold is left out as a whole
    question             index of the question it answers; equal questions are in one fold
    repeat               its number among the responses of its polarity to that question;
                         a positive and a negative response may share a number
    before               the question, or the prompt as the model reads it
    text                 the response
    form                 answer: `before` is a question for the chat template · raw: `before` is
                         a whole prompt, template included · text: `before` and `text` are one
                         text, and nothing is added to it
    file, line           where the response was read from
    score, coherence     0–100, if the file has them
    """

    polarity: Polarity
    pair: int
    question: int
    repeat: int
    before: str
    text: str
    form: Literal["answer", "raw", "text"]
    file: str
    line: int
    score: float | None = None
    coherence: float | None = None


@dataclass(frozen=True, slots=True)
class Trait:
    """A behavior as its definition file describes it.

    meaning               what each polarity does, in a few words
    adjectives            used in the persona sentence
    pairs                 instructions; a rollout's `pair` is an index into them
    questions             asked for extraction
    evaluation_questions  asked to test whether the vector separates unseen questions
    judge_prompt          holds {question} and {answer}
    responses             labelled responses, which are read instead of generated; adjectives,
                          pairs and judge_prompt are empty then, and `questions` are the ones
                          that they answer ("" if the file names none)
    evaluation_responses  labelled responses to `evaluation_questions`
    """

    name: str
    description: str
    meaning: Contrast
    adjectives: Contrast
    pairs: tuple[Contrast, ...]
    questions: tuple[str, ...]
    evaluation_questions: tuple[str, ...]
    judge_prompt: str
    responses: tuple[LabelledResponse, ...] = ()
    evaluation_responses: tuple[LabelledResponse, ...] = ()

    @property
    def is_scored(self) -> bool:
        """Whether the labelled responses have scores; without, the polarity is the only label."""
        return any(response.score is not None for response in self.responses)

    def by_rollout(self) -> dict[RolloutKey, LabelledResponse]:
        """Each labelled response under the key of its rollout, extraction first."""
        splits: tuple[tuple[Split, tuple[LabelledResponse, ...]], ...] = (
            ("extraction", self.responses),
            ("evaluation", self.evaluation_responses),
        )
        return {
            RolloutKey(self.name, split, one.polarity, one.pair, one.question, one.repeat): one
            for split, responses in splits
            for one in responses
        }

    def persona(self, polarity: Polarity, pair: int) -> str:
        """The persona sentence, for example "You are an evil assistant. <instruction>"."""
        # Stored prompts have this sentence: a changed one would mix two kinds in a resumed run.
        adjective = self.adjectives.of(polarity)
        article = "an" if adjective[:1].lower() in "aeiou" else "a"
        return f"You are {article} {adjective} assistant. {self.pairs[pair].of(polarity)}"

    def question(self, split: Split, index: int) -> str:
        return (self.questions if split == "extraction" else self.evaluation_questions)[index]


@dataclass(frozen=True, slots=True)
class RolloutKey:
    """Which answer to generate. A run resumes by `id`, which never changes."""

    trait: str
    split: Split
    polarity: Polarity
    pair: int
    question: int
    repeat: int

    @property
    def id(self) -> str:
        # Stored runs have these ids: with another form, no finished rollout would be found.
        split = "" if self.split == "extraction" else "eval-"
        return (
            f"{self.trait}-{split}{self.polarity[:3]}-p{self.pair}-q{self.question}-r{self.repeat}"
        )


@dataclass(frozen=True, slots=True)
class Rollout:
    """One answer, generated or read from a file of labelled responses.

    prompt           the text given to the model, chat template included
    prompt_tokens    number of tokens of the prompt
    response_tokens  number of tokens of the response, end-of-text excluded
    finish_reason    stop: the model ended it · length: it reached the token limit ·
                     provided: a labelled response
    """

    # A line of rollouts.jsonl has these names, so a new name needs a reader of the old one.
    id: str
    trait: str
    split: Split
    polarity: Polarity
    pair: int
    question: int
    repeat: int
    seed: int
    prompt: str
    response: str
    prompt_tokens: int
    response_tokens: int
    finish_reason: Literal["stop", "length", "provided"]


@dataclass(frozen=True, slots=True)
class Score:
    """A judge's score: a value from 0 to 100, or none with a reason.

    method  how the value was read, if the backend had a choice (logprobs, text, …)
    final   the value is missing and asking again would not help, as for an empty answer
    """

    value: float | None
    reason: str = ""
    method: str = ""
    final: bool = False


@dataclass(frozen=True, slots=True)
class Usage:
    """Requests, tokens and dollars that a judge used.

    requests           sent, failed ones included
    cached             replies from the cache, which cost nothing
    prompt_tokens      as the endpoint counts them
    completion_tokens  as the endpoint counts them
    usd                price of those tokens; none if the model's price is unknown
    """

    requests: int = 0
    cached: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    usd: float | None = 0.0

    def __add__(self, other: Usage) -> Usage:
        # One unknown price makes the sum unknown: a partial sum would look like the whole.
        known = self.usd is not None and other.usd is not None
        return Usage(
            self.requests + other.requests,
            self.cached + other.cached,
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            (self.usd or 0.0) + (other.usd or 0.0) if known else None,
        )

    def __sub__(self, before: Usage) -> Usage:
        """The usage since `before`."""
        known = self.usd is not None and before.usd is not None
        return Usage(
            self.requests - before.requests,
            self.cached - before.cached,
            self.prompt_tokens - before.prompt_tokens,
            self.completion_tokens - before.completion_tokens,
            (self.usd or 0.0) - (before.usd or 0.0) if known else None,
        )


@dataclass(frozen=True, slots=True)
class Judgement:
    """A judge's scores of one rollout. `judge` identifies the judge and its settings."""

    # Lines of judgements.jsonl have these names, as lines of rollouts.jsonl have Rollout's.
    rollout: str
    judge: str
    score: Score
    coherence: Score
    usage: Usage = field(default_factory=Usage)

    @property
    def is_settled(self) -> bool:
        """Whether nothing is left to ask: each score has a value or is final without one."""
        return all(score.value is not None or score.final for score in (self.score, self.coherence))


@dataclass(frozen=True, slots=True)
class ClassStats:
    """Mean and spread of each class's projections: float32 [L+1] each, in activation units."""

    positive_mean: Floats
    negative_mean: Floats
    positive_spread: Floats
    negative_spread: Floats


# Compared by identity, so that a vector can be a key: arrays give no single truth value.
@dataclass(frozen=True, slots=True, eq=False)
class TraitVector:
    """A direction of a trait in a model's residual stream.

    directions  position -> float32 [L+1, H], mean positive − mean negative, not normalized
    stats       position -> class means and spreads of the projections, for calibration
    layer       the layer that monitoring reads by default
    quality     what was measured on it, and the verdict
    provenance  where it comes from: run, settings, versions (JSON-able)
    """

    trait: str
    model: str
    method: str
    layer: int
    directions: Mapping[Position, Floats]
    stats: Mapping[Position, ClassStats]
    quality: VectorQuality = field(default_factory=VectorQuality)
    provenance: Mapping[str, Any] = field(default_factory=dict)

    # All positions have one shape: the reader of vector files checks it.

    @property
    def layer_count(self) -> int:
        """L+1."""
        return int(next(iter(self.directions.values())).shape[0])

    @property
    def hidden_size(self) -> int:
        return int(next(iter(self.directions.values())).shape[1])


@dataclass(frozen=True, slots=True)
class Crossing:
    """The first token of an answer at which an alarm's rule was met, and the score there."""

    rule: str
    action: Literal["stop", "fail"]
    token: int
    score: float


@dataclass(frozen=True, slots=True)
class Scores:
    """n tokens, and how far each points along some vectors.

    tokens      n texts
    raw         name -> n projections (h · v) / ‖v‖, in activation units
    calibrated  name -> n scores, −1 and +1 at the class means; vectors without these have none
    massive     name -> indices of tokens that are massive at its layer: no sum counts them
    """

    tokens: tuple[str, ...]
    raw: Mapping[str, tuple[float, ...]]
    calibrated: Mapping[str, tuple[float, ...]]
    massive: Mapping[str, tuple[int, ...]] = field(default_factory=dict, kw_only=True)


@dataclass(frozen=True, slots=True)
class TokenScores(Scores):
    """The monitored scores of one answer. Its tokens joined are `response`.

    layers         trait -> the layer that was read
    history        messages before the prompt, the system message included
    finish_reason  stop: the model ended it · length: it reached the token limit · alarm ·
                   interrupted · failed · provided: existing text, not generated
    seconds        n times since the first token was requested; none for existing text
    prompt_scores  scores of the prompt's tokens, if requested
    layer_scores   scores of one trait at every layer, if requested
    seed           None in an old record that does not say; so is `prompt_tokens`
    about          origin (JSON-able): a prompt set and what it should show, or a file and line
    thinking       how many of the first tokens are the answer's thinking part
    skips_thinking whether these are left out of means and alarms
    braked         text of a cap or gate -> indices of the tokens at which it held
    created        when the answer was complete, in ISO 8601; "" if an old record does not say
    """

    prompt: str
    response: str
    layers: Mapping[str, int]
    model: str
    seed: int | None
    prompt_tokens: int | None
    finish_reason: str
    history: tuple[Mapping[str, str], ...] = ()
    seconds: tuple[float, ...] = ()
    steering: tuple[Intervention, ...] = ()
    crossings: tuple[Crossing, ...] = ()
    prompt_scores: Scores | None = None
    layer_scores: LayerScores | None = None
    about: Mapping[str, Any] = field(default_factory=dict)
    thinking: int = 0
    skips_thinking: bool = False
    braked: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    created: str = field(
        default_factory=lambda: datetime.now().astimezone().isoformat(timespec="seconds")
    )

    def counted(self, trait: str) -> Sequence[int]:
        """Which tokens count for a trait in means and alarms.

        Those of a thinking part that is skipped do not, nor massive ones, unless all others are.
        """
        first = self.thinking if self.skips_thinking else 0
        massive = self.massive.get(trait, ())
        rest = range(first, len(self.tokens))
        return [index for index in rest if index not in massive] or rest

    def shown(self, trait: str) -> tuple[float, ...]:
        """The n calibrated scores of a trait, or its projections if its vector has no scale."""
        return self.calibrated.get(trait, self.raw[trait])

    def mean(self, trait: str) -> float | None:
        """The mean of `shown` over the tokens that count; none without one."""
        scores = [self.shown(trait)[index] for index in self.counted(trait)]
        return fmean(scores) if scores else None


@dataclass(frozen=True, slots=True)
class LayerScores:
    """One trait at every layer 0 to L: n projections each, and n calibrated scores each or none."""

    trait: str
    raw: tuple[tuple[float, ...], ...]
    calibrated: tuple[tuple[float, ...], ...]

    @property
    def shown(self) -> tuple[tuple[float, ...], ...]:
        """What a view shows: the calibrated scores, or the projections if there are none."""
        return self.calibrated or self.raw
