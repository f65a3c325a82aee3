"""Cache the replies of endpoints on disk, so that no question is paid for twice."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from traitcli.caches import cache_folder
from traitcli.errors import TraitError
from traitcli.judging.openai.replies import Reply

T = TypeVar("T")

_FORMAT = 1
"""Part of every key. A new number makes all stored replies unreachable, and users pay again."""


class ReplyCache:
    """Replies by the content of their request, in an SQLite file that processes can share.

    After `put` returns, the reply survives a kill of the process.
    """

    def __init__(self, path: Path, lock_timeout: float = 30.0) -> None:
        """Open the file, or create it. Raises TraitError if it cannot be used.

        `lock_timeout` is how many seconds to wait while another process writes.
        """
        self._path = path
        self._lock_timeout = lock_timeout
        self._guard(self._open)

    def get(self, key: str) -> Reply | None:
        """Return the reply stored under a key, or None."""
        return self._guard(lambda: self._find(key))

    def put(self, key: str, reply: Reply) -> None:
        """Store a reply, unless the key has one already."""
        text = json.dumps(asdict(reply), ensure_ascii=False)
        insert = "INSERT OR IGNORE INTO replies VALUES (?, ?)"
        self._guard(lambda: self._db.execute(insert, (key, text)))

    def close(self) -> None:
        self._db.close()

    def _find(self, key: str) -> Reply | None:
        select = "SELECT reply FROM replies WHERE key = ?"
        found = self._db.execute(select, (key,)).fetchone()
        return Reply(**json.loads(found[0])) if found else None

    def _open(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        # Without an isolation level each statement commits, so each reply is on disk at once.
        # The database is opened in one thread and used in the thread of the event loop.
        self._db = sqlite3.connect(
            self._path, timeout=self._lock_timeout, isolation_level=None, check_same_thread=False
        )
        self._db.execute("PRAGMA journal_mode = WAL")
        # NORMAL survives a kill of the process; a power cut may lose the last replies.
        self._db.execute("PRAGMA synchronous = NORMAL")
        columns = "key TEXT PRIMARY KEY, reply TEXT NOT NULL"
        self._db.execute(f"CREATE TABLE IF NOT EXISTS replies ({columns}) WITHOUT ROWID")

    def _guard(self, act: Callable[[], T]) -> T:
        # ValueError and TypeError come from a stored reply that is damaged.
        try:
            return act()
        except (sqlite3.Error, OSError, ValueError, TypeError) as error:
            raise TraitError(
                f"cannot use the cache of judge replies, {self._path}",
                cause=str(error),
                fix="free space, delete that file, or judge with --no-cache",
            ) from None


def default_cache_path() -> Path:
    """Return the file that all commands of a user share."""
    return cache_folder() / "judge-replies.sqlite"


def cache_key(url: str, body: Mapping[str, Any], sample: int) -> str:
    """Return the key of a request: a digest of the endpoint, the body and the sample number.

    The API key is not part of it, so a new API key finds the old replies.
    """
    # This text must not change: users have paid for the replies under these keys.
    content = {"format": _FORMAT, "url": url.rstrip("/"), "body": body, "sample": sample}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
