"""The records that flow from stage to stage; none of them is ever edited."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

Polarity = Literal["positive", "negative"]
Split = Literal["extraction", "evaluation"]
Position = Literal["response_avg", "prompt_avg", "prompt_last"]

POLARITIES: tuple[Polarity, ...] = ("positive", "negative")
POSITIONS: tuple[Position, ...] = ("response_avg", "prompt_avg", "prompt_last")


@dataclass(frozen=True, slots=True)
class Contrast:
    """One thing said for either polarity: an instruction, an adjective, a meaning."""

    positive: str
    negative: str

    def of(self, polarity: Polarity) -> str:
        return self.positive if polarity == "positive" else self.negative


@dataclass(frozen=True, slots=True)
class LabelledResponse:
    """A response that is there already, and what stands before it.

    pair       of five folds, the one that is left out together
    question   index of what it answers; in one fold, whoever answers it
    repeat     which of the responses of its side to that question; a positive and a negative one may share a number
    before     the question, or a prompt as the model is to see it
    text       the response
    form       answer: `before` is asked through the chat template · raw: it is a prompt, template included ·
               text: `before` and `text` are one text, in which nothing is added either
    file, line where it stands
    score, coherence  0–100, where the file has them
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
    """A behaviour as its definition file describes it.

    meaning               what either polarity does, in a few words
    adjectives            used in the persona sentence
    pairs                 instructions; a rollout's `pair` is an index into them
    questions             asked for extraction
    evaluation_questions  others, asked to see whether the vector separates the unseen
    judge_prompt          holds {question} and {answer}
    responses             in place of adjectives, pairs and judge prompt, which are empty then: what is read, and
                          not generated; `questions` are what they answer, "" where that is not told
    evaluation_responses  others, for `evaluation_questions`
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
        """Whether ready responses come with scores; without, the side that they stand on is their label."""
        return any(response.score is not None for response in self.responses)

    def ready(self) -> dict[RolloutKey, LabelledResponse]:
        """Every ready response by the rollout that it becomes: extraction first."""
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
        """The sentence that tells the model how to be."""
        adjective = self.adjectives.of(polarity)
        article = "an" if adjective[:1].lower() in "aeiou" else "a"
        return f"You are {article} {adjective} assistant. {self.pairs[pair].of(polarity)}"

    def question(self, split: Split, index: int) -> str:
        return (self.questions if split == "extraction" else self.evaluation_questions)[index]


@dataclass(frozen=True, slots=True)
class RolloutKey:
    """Which answer to generate; `id` is stable and is what a run resumes by."""

    trait: str
    split: Split
    polarity: Polarity
    pair: int
    question: int
    repeat: int

    @property
    def id(self) -> str:
        split = "" if self.split == "extraction" else "eval-"
        return (
            f"{self.trait}-{split}{self.polarity[:3]}-p{self.pair}-q{self.question}-r{self.repeat}"
        )


@dataclass(frozen=True, slots=True)
class Rollout:
    """One answer, generated or ready.

    prompt           the text given to the model, chat template included
    prompt_tokens    number of tokens of the prompt
    response_tokens  number of tokens of the response, end-of-text excluded
    finish_reason    stop: the model ended it · length: the token limit did · given: it was there already
    """

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
    finish_reason: Literal["stop", "length", "given"]


@dataclass(frozen=True, slots=True)
class Score:
    """What a judge gives: a value from 0 to 100, or none with a reason.

    method  how a value came about, when the backend had a choice (logprobs, logprobs on 0_10, text, …)
    final   there is no value, and asking again would change nothing: an empty answer, say
    """

    value: float | None
    reason: str = ""
    method: str = ""
    final: bool = False


@dataclass(frozen=True, slots=True)
class Usage:
    """What asking a judge took.

    requests           sent, failed ones included
    cached             replies that were known already, and cost nothing
    prompt_tokens      read by the judge, as its endpoint counts them
    completion_tokens  written by it
    usd                the price of those tokens; none when the model's price is not known
    """

    requests: int = 0
    cached: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    usd: float | None = 0.0

    def __add__(self, other: Usage) -> Usage:
        known = self.usd is not None and other.usd is not None
        return Usage(
            self.requests + other.requests,
            self.cached + other.cached,
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            (self.usd or 0.0) + (other.usd or 0.0) if known else None,
        )

    def __sub__(self, before: Usage) -> Usage:
        """What came after `before`."""
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
    """The judge's scores of one rollout; `judge` identifies the judge and its settings."""

    rollout: str
    judge: str
    score: Score
    coherence: Score
    usage: Usage = field(default_factory=Usage)

    @property
    def is_settled(self) -> bool:
        """Whether nothing is left to ask: each score is there, or is missing for good."""
        return all(score.value is not None or score.final for score in (self.score, self.coherence))


@dataclass(frozen=True, slots=True)
class ClassStats:
    """Projections of the kept rollouts of either polarity: float32 [L+1] each, activation units."""

    positive_mean: Floats
    negative_mean: Floats
    positive_spread: Floats
    negative_spread: Floats


@dataclass(frozen=True, slots=True)
class TraitVector:
    """A direction of a trait in a model's residual stream.

    directions  position -> float32 [L+1, H], mean positive − mean negative, not normalised
    stats       position -> class means and spreads of the projections, for calibration
    layer       the row that monitoring reads unless told otherwise
    quality     plain numbers and lists: counts, contrast, held-out separation (JSON-able)
    provenance  where it comes from: run, settings, versions (JSON-able)
    """

    trait: str
    model: str
    method: str
    layer: int
    directions: Mapping[Position, Floats]
    stats: Mapping[Position, ClassStats]
    quality: Mapping[str, Any] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @property
    def layer_count(self) -> int:
        return int(next(iter(self.directions.values())).shape[0])

    @property
    def hidden_size(self) -> int:
        return int(next(iter(self.directions.values())).shape[1])


@dataclass(frozen=True, slots=True)
class Intervention:
    """A trait's vector added to the residual stream while a model writes.

    coefficient  how many times the vector, as it is stored: 1 moves by the whole difference of the classes' means
    layer        the row that is pushed, 1 to L: the output of block layer − 1
    dose         |coefficient| · ‖v‖ / ‖h‖, h being a usual state of the prompt at that row; 0 before it is measured
    """

    trait: str
    coefficient: float
    layer: int
    dose: float = 0.0


@dataclass(frozen=True, slots=True)
class Crossing:
    """An alarm's rule that was crossed: at which token, and by which score or mean."""

    rule: str
    action: Literal["stop", "fail"]
    token: int
    score: float


@dataclass(frozen=True, slots=True)
class Scores:
    """n tokens, and how far each points along some vectors.

    tokens      n texts
    raw         name -> n projections (h · v) / ‖v‖, in activation units
    calibrated  name -> n scores, −1 the mean of the negative class, +1 of the positive one;
                a vector without class means is left out
    """

    tokens: tuple[str, ...]
    raw: Mapping[str, tuple[float, ...]]
    calibrated: Mapping[str, tuple[float, ...]]


@dataclass(frozen=True, slots=True)
class TokenScores(Scores):
    """What was watched of one answer; its tokens joined are `response`.

    layers         trait -> the row that was read
    history        messages before the prompt, a system message among them
    finish_reason  stop: the model ended it · length: the token limit did · alarm · interrupted · failed ·
                   given: not generated
    seconds        n times since the first token was asked for; none where the text was there already
    prompt_scores  the same for the prompt's tokens, if asked for
    layer_scores   row -> n scores of one trait at every row, if asked for
    about          where it comes from: a prompt set and what the prompt should show, or a file and its line (JSON-able)
    created        when it was complete, in ISO 8601
    """

    prompt: str
    response: str
    layers: Mapping[str, int]
    model: str
    seed: int
    prompt_tokens: int
    finish_reason: str
    history: tuple[Mapping[str, str], ...] = ()
    seconds: tuple[float, ...] = ()
    steering: tuple[Intervention, ...] = ()
    crossings: tuple[Crossing, ...] = ()
    prompt_scores: Scores | None = None
    layer_scores: LayerScores | None = None
    about: Mapping[str, Any] = field(default_factory=dict)
    created: str = field(
        default_factory=lambda: datetime.now().astimezone().isoformat(timespec="seconds")
    )


@dataclass(frozen=True, slots=True)
class LayerScores:
    """One trait at every row, 0 to L: n projections each, and n calibrated scores each or none."""

    trait: str
    raw: tuple[tuple[float, ...], ...]
    calibrated: tuple[tuple[float, ...], ...]


@dataclass(frozen=True, slots=True)
class Report:
    """What a report shows; all of it JSON-able.

    records  monitoring records, as stored, each with a name
    sets     the trait vectors that belong together: of one model, made by one run; see `stages.report`
    runs     what was run, how long it took, what failed; see `stages.report`
    made_at  when it was gathered, in ISO 8601
    """

    records: tuple[Mapping[str, Any], ...] = ()
    sets: tuple[Mapping[str, Any], ...] = ()
    runs: tuple[Mapping[str, Any], ...] = ()
    made_at: str = ""
