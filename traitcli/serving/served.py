"""What a server asks the model for, and what it gets back, token by token."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from traitcli.config import SamplingConfig

if TYPE_CHECKING:
    from traitcli.errors import TraitError
    from traitcli.generation.live_request import LogProbs
    from traitcli.models.chat_format import Message
    from traitcli.records import TokenScores

ServedReason = Literal["stop", "length", "alarm", "cancelled", "time", "error"]


# Compared by identity: two requests that are alike are still two.
@dataclass(frozen=True, slots=True, eq=False)
class ServedRequest:
    """One answer that a client asks for.

    prompt     a chat, which goes through the model's chat template; or a text, which is continued
               as it is
    sampling   temperature, top-k, top-p and the length limit
    seed       of its own random numbers
    stop       the answer ends before the first of these strings
    log_probs  how many of the likeliest tokens are given for each token; none: no log-probabilities
    traits     what is scored; none: all traits of the server
    steer      as `monitor --steer` takes it, in this order
    stop_on    as `monitor --stop-on` takes it, besides the rules of the server
    client     clients take turns in the queue
    about      copied into the record (JSON-able)
    is_open_ended  whether the length limit is lowered to what the prompt leaves free of a slot
    """

    prompt: tuple[Message, ...] | str
    sampling: SamplingConfig
    seed: int
    stop: tuple[str, ...] = ()
    log_probs: int | None = None
    traits: tuple[str, ...] | None = None
    steer: tuple[str, ...] = ()
    stop_on: tuple[str, ...] = ()
    client: str = ""
    about: Mapping[str, Any] = field(default_factory=dict)
    is_open_ended: bool = False


@dataclass(frozen=True, slots=True)
class ServedToken:
    """A token of an answer, with its scores.

    index   counts from 0
    text    what it adds; "" if it is part of a character that is not complete
    raw, calibrated  trait -> score; calibrated only for vectors with a scale
    counts  whether means and alarms count this token (thinking parts may not count)
    braked  the caps and gates that held at it
    """

    index: int
    token: int
    text: str
    raw: Mapping[str, float]
    calibrated: Mapping[str, float]
    counts: bool = True
    braked: tuple[str, ...] = ()
    log_probs: LogProbs | None = None


@dataclass(frozen=True, slots=True, eq=False)
class ServedEnd:
    """The last event of an answer.

    reason     why it ended; "alarm": a rule stopped it, "time": its time was up
    text       belongs to the last token: an incomplete character, as U+FFFD
    record     what `monitor` would have stored of it; crossings are its alarms
    record_id  under which the record is kept
    error      why it failed; none for another reason
    """

    reason: ServedReason
    record: TokenScores
    record_id: str
    text: str = ""
    error: TraitError | None = None


ServedEvent = ServedToken | ServedEnd
OnServed = Callable[[ServedEvent], None]
