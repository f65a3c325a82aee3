"""Answers requests of many clients side by side: between a server's HTTP and the live batch."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Self

from traitcli.errors import StorageError, UserError
from traitcli.events import Warned
from traitcli.generation.live_batch import LiveBatch, LiveCounts, LiveLimits
from traitcli.models.prompts import Prompt, conversation, raw_prompt, render
from traitcli.serving.record_store import RecordStore
from traitcli.serving.served import OnServed, ServedRequest
from traitcli.serving.served_answer import Clock, ServedAnswer, Timing
from traitcli.serving.served_traits import ServedTraits

if TYPE_CHECKING:
    from traitcli.api.model import Model
    from traitcli.api.vector_model import Watched
    from traitcli.generation.projections import Probe
    from traitcli.monitoring.watch import Watch
    from traitcli.records import TokenScores

_MOST_SEED = 2**63 - 1


class Service:
    """Writes scored and steered answers for any number of clients, from `with` to its end.

    The model belongs to the service: another use of it waits. An answer and its record are those of
    `monitor` with the same settings.

    Args:
        model: The model; its config says what requests do not: the system message, and whether
            thinking counts. Its listener gets warnings.
        traits: What requests may be scored by; none: all traits that have a vector.
        stop_on: Rules that end any answer, as `monitor --stop-on` takes them.
        records: A folder where each record gets a file; none: the last ones are in memory only.
        limits: Slots, their capacity, and the length of the queue.
        seconds: Time of a request, from `start` on; none: no limit.
        clock: Seconds since any moment.

    Raises:
        UserError: A rule is not valid, or the folder cannot be written.
        VectorError: A vector does not exist, or does not fit the model.
        ModelError: The model does not read packed tokens.

    Example:
        events = queue.SimpleQueue()
        with Service(model, traits=["evil"]) as service:
            chat = ({"role": "user", "content": "Hello!"},)
            service.start(ServedRequest(chat, SamplingConfig(), seed=0), events.put)
            while not isinstance(event := events.get(), ServedEnd):
                print(event.text, event.calibrated)
    """

    def __init__(  # noqa: PLR0913 - the options of a command
        self,
        model: Model,
        *,
        traits: Watched | None = None,
        stop_on: Sequence[str] = (),
        records: Path | None = None,
        limits: LiveLimits | None = None,
        seconds: float | None = None,
        clock: Clock = time.monotonic,
    ) -> None:
        self._model = model
        self._loaded = model.loaded
        self._traits = ServedTraits(model, traits, stop_on)
        self._records = RecordStore(records, self._warn_of_records)
        self._batch = LiveBatch(model.loaded, limits)
        self._seconds = seconds
        self._clock = clock
        # A tokenizer is changed while it encodes; decoding, which the batch does, changes nothing.
        self._rendering = threading.Lock()
        self._open = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as opened:
            opened.enter_context(self._model.held())
            # The batch ends first: its last answers still have records.
            opened.enter_context(self._records)
            opened.enter_context(self._batch)
            self._open = opened.pop_all()
        return self

    def __exit__(self, *raised: object) -> None:
        """Cancel what still runs, and write the records that are left."""
        self._open.close()

    @property
    def traits(self) -> tuple[str, ...]:
        """What requests may be scored by."""
        return self._traits.names

    @property
    def probes(self) -> Mapping[str, Probe]:
        """What requests may be scored by: trait -> its vector and layer."""
        return self._traits.probes

    @property
    def model(self) -> str:
        """The name of the model."""
        return self._loaded.name

    @property
    def counts(self) -> LiveCounts:
        """What the batch is doing now."""
        return self._batch.counts

    @property
    def lost_records(self) -> int:
        """Records that could not be written to the folder."""
        return self._records.lost

    def start(self, request: ServedRequest, on_event: OnServed) -> ServedAnswer:
        """Let a request wait for its turn; may be called from any thread.

        Args:
            request: The request.
            on_event: Gets a `ServedToken` for each token and one `ServedEnd` at last, from the
                thread of the batch. It must not wait: all requests would. If it raises, the request
                is cancelled, and its record is kept.

        Returns:
            The answer.

        Raises:
            UserError: The request is not valid, or does not fit; nothing is queued then.
            VectorError: It cannot be steered in this way.
            BusyError: The queue is full, or the service takes no more requests.
        """
        started = self._clock()
        # In a flood, requests that are refused must not cost what those that run need.
        self._batch.check_room()
        if not 0 <= request.seed <= _MOST_SEED:
            raise UserError(
                f"invalid seed {request.seed}",
                cause="a seed is an integer from 0 to 2^63 - 1",
                fix="choose another one",
            )
        watch = self._traits.watch(request)
        rendered = self._render(request, watch)
        if request.is_open_ended:
            watch = self._fitted(watch, rendered)

        deadline = None if self._seconds is None else started + self._seconds
        timing = Timing(self._clock, started, deadline)
        answer = ServedAnswer(self._loaded, request, rendered, watch, timing)
        self._batch.submit(answer.live_request(), answer.listener(on_event, self._records))
        return answer

    def record(self, record_id: str) -> TokenScores | None:
        """The record of an answer that has ended, by `ServedEnd.record_id`; or none.

        Without a folder, only the last records are known. Scores from the folder are rounded.
        """
        return self._records.find(record_id)

    def drain(self, timeout: float | None = None) -> bool:
        """Take no more requests, and wait until those that it has have ended and are recorded.

        Args:
            timeout: Seconds to wait at most.

        Returns:
            Whether all have.
        """
        end = None if timeout is None else time.monotonic() + timeout
        have_ended = self._batch.drain(timeout)
        left = None if end is None else max(0.0, end - time.monotonic())
        return self._records.flush(left) and have_ended

    def _fitted(self, watch: Watch, rendered: Prompt) -> Watch:
        """The watch, with the length limit lowered to what the prompt leaves of a slot."""
        # A prompt that leaves no room is refused later, by its own length.
        room = max(1, self._batch.counts.capacity - len(rendered.ids))
        sampling = watch.config.sampling
        most = min(sampling.max_new_tokens, room)
        sampling = sampling.model_copy(update={"max_new_tokens": most})
        return replace(watch, config=watch.config.model_copy(update={"sampling": sampling}))

    def _render(self, request: ServedRequest, watch: Watch) -> Prompt:
        tokenizer = self._loaded.tokenizer
        with self._rendering:
            if isinstance(request.prompt, str):
                return raw_prompt(tokenizer, request.prompt)
            asked = [*watch.history, request.prompt[-1]]
            messages, _ = conversation(self._loaded, watch.config.system, asked)
            return render(tokenizer, messages, self._loaded.chat)

    def _warn_of_records(self, error: StorageError) -> None:
        self._model.notify(Warned("", f"{error.problem}: {error.cause}; answers go on"))
