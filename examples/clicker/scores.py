"""Where the clicker keeps its scores: in memory, or in a SQLite database that outlives the program."""

from __future__ import annotations

import sqlite3
import threading
from collections import Counter
from typing import Protocol


class ScoreStore(Protocol):
    """The scores of the players, by name. All methods may be called from any thread."""

    def increment(self, player: str) -> int:
        """Adds one to a player's score and returns the new one. A player not seen before has 0."""

    def top(self, count: int) -> list[tuple[str, int]]:
        """The `count` best players with their scores, the best first."""

    def close(self) -> None:
        """Gives back what the store holds. Nothing may be called afterwards."""


class MemoryScores:
    """Scores that are gone when the program ends."""

    def __init__(self) -> None:
        self._scores: Counter[str] = Counter()
        self._lock = threading.Lock()

    def increment(self, player: str) -> int:
        with self._lock:
            self._scores[player] += 1
            return self._scores[player]

    def top(self, count: int) -> list[tuple[str, int]]:
        with self._lock:
            return self._scores.most_common(count)

    def close(self) -> None:
        pass


class SqliteScores:
    """Scores in a SQLite database. Each one is on the disk soon after, and none is ever half written."""

    def __init__(self, path: str) -> None:
        self._lock = threading.Lock()
        self._database = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        # A click costs some microseconds this way: the log is synced now and then, not at each.
        self._database.execute("PRAGMA journal_mode = WAL")
        self._database.execute("PRAGMA synchronous = NORMAL")
        self._database.execute(
            "CREATE TABLE IF NOT EXISTS scores (player TEXT PRIMARY KEY, score INTEGER NOT NULL)"
        )
        self._database.execute("CREATE INDEX IF NOT EXISTS by_score ON scores (score DESC)")

    def increment(self, player: str) -> int:
        with self._lock:
            statement = (
                "INSERT INTO scores VALUES (?, 1) ON CONFLICT (player) DO UPDATE SET score = score + 1 "
                "RETURNING score"
            )
            score: int = self._database.execute(statement, (player,)).fetchall()[0][0]
            return score

    def top(self, count: int) -> list[tuple[str, int]]:
        with self._lock:
            statement = "SELECT player, score FROM scores ORDER BY score DESC LIMIT ?"
            return self._database.execute(statement, (count,)).fetchall()

    def close(self) -> None:
        with self._lock:
            self._database.close()
