"""Picks the next tokens of requests with different sampling, with their log-probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from traitcli.generation.live_request import LiveRequest, LogProbs
from traitcli.generation.sampling import pick

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Picked:
    """A token that was picked; NOT_FINITE if its logits were not."""

    token: int
    log_probs: LogProbs | None = None


def pick_each(
    requests: Sequence[LiveRequest], logits: Tensor, draws: Sequence[Tensor]
) -> list[Picked]:
    """Pick one token for each request, by its own sampling.

    Requests with the same temperature, top-k and top-p are sampled together.

    Args:
        requests: R of them.
        logits: [R, V].
        draws: float32 [3] of each, on the CPU.

    Returns:
        What was picked for each request.
    """
    alike: dict[tuple[float, int, float], list[int]] = {}
    for row, request in enumerate(requests):
        own = request.sampling
        alike.setdefault((own.temperature, own.top_k, own.top_p), []).append(row)

    tokens = torch.empty(len(requests), dtype=torch.int64, device=logits.device)
    for rows in alike.values():
        together = logits if len(rows) == len(requests) else logits[rows]
        numbers = torch.stack([draws[row] for row in rows]).to(logits.device)
        tokens[rows] = pick(together, numbers, requests[rows[0]].sampling)

    wanted = [row for row, request in enumerate(requests) if request.log_probs is not None]
    found = dict(zip(wanted, _log_probs(requests, wanted, logits, tokens), strict=True))
    return [Picked(token, found.get(row)) for row, token in enumerate(tokens.tolist())]


def _log_probs(
    requests: Sequence[LiveRequest], rows: Sequence[int], logits: Tensor, tokens: Tensor
) -> list[LogProbs]:
    """The log-probabilities of the requests `rows`."""
    if not rows:
        return []
    numbers = [requests[row].log_probs or 0 for row in rows]
    own = logits[rows].float()
    best = own.topk(min(max(numbers), own.shape[1]))
    # A token that is not finite is −1, and never shown.
    chosen = own.gather(1, tokens[rows].clamp(min=0)[:, None])
    values = torch.cat([chosen, best.values], 1) - own.logsumexp(-1, keepdim=True)
    result = []
    for number, (token, *others), ids in zip(
        numbers, values.tolist(), best.indices.tolist(), strict=True
    ):
        likeliest = tuple(zip(ids[:number], others[:number], strict=True))
        result.append(LogProbs(token, likeliest))
    return result
