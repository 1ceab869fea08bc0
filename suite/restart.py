"""When a crashed process is started again: at once, then with growing pauses, and in the end not any more. Pure.

Rules:
1. The first restart is immediate; later ones within ``WINDOW_SECONDS`` pause longer, never above ``MAX_DELAY``.
2. A crash that lies further back than the window is forgotten.
3. ``MAX_CRASHES`` within the window mean failure; before a process has ever served, ``MAX_FIRST_CRASHES`` do.
4. An exit with the code of a configuration fault means failure at once: another start would end the same.
"""

from __future__ import annotations

from collections import deque

WINDOW_SECONDS = 60.0
DELAYS = (0.0, 0.25, 0.5, 1.0)
MAX_DELAY = 2.0
MAX_CRASHES = 12
MAX_FIRST_CRASHES = 3
EXIT_CONFIGURATION = 2


class RestartPolicy:
    """Decides for one process."""

    def __init__(self) -> None:
        self._crashes: deque[float] = deque()
        self._has_served = False
        self.restarts = 0

    def served(self) -> None:
        """Note that the process has become healthy."""
        self._has_served = True

    def crashed(self, now: float, exit_code: int) -> float | None:
        """Note a crash and return the pause before the next start in seconds, or None to give up.

        Args:
            now: seconds, monotonic.
            exit_code: as ``subprocess`` gives it; negative for a signal.
        """
        self._crashes.append(now)
        while now - self._crashes[0] > WINDOW_SECONDS:
            self._crashes.popleft()
        limit = MAX_CRASHES if self._has_served else MAX_FIRST_CRASHES
        if exit_code == EXIT_CONFIGURATION or len(self._crashes) >= limit:
            return None
        self.restarts += 1
        index = len(self._crashes) - 1
        return DELAYS[index] if index < len(DELAYS) else MAX_DELAY
