"""What goes into a live batch, and what comes out of it for each request."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from traitcli.config import SamplingConfig
from traitcli.errors import LengthError, UserError
from traitcli.generation.projections import Probe
from traitcli.models.block_edit import BlockEdit
from traitcli.models.loaded import LoadedModel

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from traitcli.errors import TraitError

    Floats = NDArray[np.float32]

EndReason = Literal["stop", "length", "cancelled", "error"]

MOST_LOG_PROBS = 20
"""Likeliest tokens that a request may ask for at each step."""


# Compared by identity: two requests that are alike are still two.
@dataclass(frozen=True, slots=True, eq=False)
class LiveRequest:
    """A prompt to continue, in the request's own way.

    ids        tokens of the prompt
    seed       of its own random numbers
    sampling   temperature, top-k, top-p and the length limit
    probes     what its tokens are scored by; for `Watch.tabulate`, those of the watch
    edits      how it is steered (see `block_edits`); made for this request alone
    stop       the answer ends before the first of these strings
    log_probs  how many of the likeliest tokens are given at each step, with natural logarithms of
               their probabilities at temperature 1; none: no log-probabilities at all
    client     clients take turns in the queue
    prepare    called by the thread of the batch before the prompt is read, and may use the model,
               which is then as it is outside of the batch; if it raises, the request ends
    is_over    asked before each step, also while the request waits, and must not raise; once it is
               true, the request is cancelled
    """

    ids: tuple[int, ...]
    seed: int
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    probes: Sequence[Probe] = ()
    edits: Sequence[BlockEdit] = ()
    stop: tuple[str, ...] = ()
    log_probs: int | None = None
    client: str = ""
    prepare: Callable[[], None] | None = None
    is_over: Callable[[], bool] = lambda: False

    @property
    def most_tokens(self) -> int:
        """Tokens of the prompt and of the longest answer."""
        return len(self.ids) + self.sampling.max_new_tokens


@dataclass(frozen=True, slots=True)
class LogProbs:
    """Natural logarithms of probabilities at a step, at temperature 1.

    token     that of the token that was written
    likeliest (token, its own) of the likeliest tokens, the likeliest first
    """

    token: float
    likeliest: tuple[tuple[int, float], ...]


# Compared by identity, because comparing arrays gives no single truth value.
@dataclass(frozen=True, slots=True, eq=False)
class LiveToken:
    """A token that was written, once its hidden states were read.

    text         what it adds; "" if it is part of a character that is not complete
    projections  float32 [2P + B]: projections on the probes, in activation units, then 1 where the
                 token is massive at the probe's layer, then 1 for each cap and gate that held
    """

    token: int
    text: str
    projections: Floats
    log_probs: LogProbs | None = None


@dataclass(frozen=True, slots=True)
class LiveEnd:
    """The last thing that a request gives.

    reason  stop: end of text or a stop string; length: the length limit; cancelled; error
    tokens  how many tokens were written, those of a stop string included
    text    belongs to the last token: an incomplete character, as U+FFFD
    error   why it failed; none for another reason
    """

    reason: EndReason
    tokens: int
    text: str = ""
    error: TraitError | None = None


LiveEvent = LiveToken | LiveEnd
OnEvent = Callable[[LiveEvent], None]


def check_request(request: LiveRequest, loaded: LoadedModel, capacity: int) -> None:
    """Raise UserError for a request that no slot of `capacity` tokens can take."""
    new, prompt = request.sampling.max_new_tokens, len(request.ids)
    vocabulary = loaded.model.get_input_embeddings().num_embeddings
    if not request.ids:
        raise UserError("the prompt is empty", cause="it has no tokens", fix="give it a text")
    if (excess := request.most_tokens - capacity) > 0:
        raise LengthError(
            "the prompt is too long",
            cause=f"{prompt} prompt tokens and {new} new ones exceed the {capacity} tokens of a "
            "slot",
            fix=f"shorten it by {excess} tokens, or lower its length limit",
        )
    if not 0 <= min(request.ids) <= max(request.ids) < vocabulary:
        raise UserError(
            "the prompt has unknown tokens",
            cause=f"{loaded.name} has tokens 0 to {vocabulary - 1}",
            fix="use its own tokenizer",
        )
    if request.log_probs is not None and not 0 <= request.log_probs <= MOST_LOG_PROBS:
        raise UserError(
            f"cannot give the {request.log_probs} likeliest tokens",
            cause=f"0 to {MOST_LOG_PROBS} can be given",
            fix="ask for fewer",
        )
