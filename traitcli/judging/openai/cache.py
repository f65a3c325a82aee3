"""Keep the replies of endpoints, so that the same question is never paid for twice, whoever asks it."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from traitcli.errors import TraitError
from traitcli.judging.openai.replies import Reply

_FORMAT = 1
_PATIENCE = 30.0
"""Seconds to wait for another process that is writing."""


class ReplyCache:
    """Replies by the content of their request, in an SQLite file that several processes may share.

    A reply is there as soon as `put` returns, also if the process is killed right after.
    """

    def __init__(self, path: Path) -> None:
        """Open the file, making it if it is not there. Raises TraitError when it cannot be used."""
        self._path = path
        self._guard(self._open)

    def get(self, key: str) -> Reply | None:
        """The reply kept under a key, if any."""
        found: Reply | None = self._guard(lambda: self._find(key))
        return found

    def put(self, key: str, reply: Reply) -> None:
        """Keep a reply; one that is there already stays."""
        text = json.dumps(asdict(reply), ensure_ascii=False)
        self._guard(
            lambda: self._db.execute("INSERT OR IGNORE INTO replies VALUES (?, ?)", (key, text))
        )

    def close(self) -> None:
        self._db.close()

    def _find(self, key: str) -> Reply | None:
        row = self._db.execute("SELECT reply FROM replies WHERE key = ?", (key,)).fetchone()
        return Reply(**json.loads(row[0])) if row else None

    def _open(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        # In autocommit, so that each reply is a transaction of its own.
        self._db = sqlite3.connect(
            self._path, timeout=_PATIENCE, isolation_level=None, check_same_thread=False
        )
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute(
            "PRAGMA synchronous = NORMAL"
        )  # safe from kills; a power cut may cost the last replies
        self._db.execute(
            "CREATE TABLE IF NOT EXISTS replies (key TEXT PRIMARY KEY, reply TEXT NOT NULL) WITHOUT ROWID"
        )

    def _guard(self, act: Callable[[], Any]) -> Any:
        try:
            return act()
        except (
            sqlite3.Error,
            OSError,
            ValueError,
            TypeError,
        ) as error:  # the last two: a damaged row
            raise TraitError(
                f"cannot use the cache of judge replies, {self._path}",
                cause=str(error),
                fix="free space, delete that file, or judge with --no-cache",
            ) from None


def cache_key(url: str, body: Mapping[str, Any], sample: int) -> str:
    """What a reply is kept under: the endpoint, everything sent to it, and which of several draws it is.

    The key to the endpoint is no part of it.
    """
    content = {"format": _FORMAT, "url": url.rstrip("/"), "body": body, "sample": sample}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
