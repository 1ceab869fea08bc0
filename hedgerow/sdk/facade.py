"""What the clients of all services share: the stated purpose, paging, and waiting for long work."""

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from hedgerow.client import ServiceClient
from hedgerow.errors import FailedPreconditionError

READ_SECONDS = 30.0
WRITE_SECONDS = 120.0
WORK_SECONDS = 1800.0
_PAGE = 1000

Progress = Callable[[Any], None]


class Facade:
    """A client of one service on behalf of one caller with one purpose."""

    def __init__(self, client: ServiceClient, purpose: str) -> None:
        self._client = client
        self._purpose = purpose

    async def _call(self, method: str, request: Any, *, timeout: float = READ_SECONDS) -> Any:
        return await self._client.call(method, request, timeout=timeout, purpose=self._purpose)

    async def _pages(self, method: str, request: Any, field: str) -> AsyncIterator[Any]:
        """Yields the items of all pages of a List RPC, one page in memory at a time."""
        request.page_size = request.page_size or _PAGE
        while True:
            response = await self._call(method, request)
            for item in getattr(response, field):
                yield item
            if not response.next_page_token:
                return
            request.page_token = response.next_page_token

    async def _wait(
        self, method: str, request: Any, *, good: int, bad: Sequence[int], timeout: float, progress: Progress | None
    ) -> Any:
        """Follows a resource until its state is `good` and returns it.

        Raises:
            FailedPreconditionError: it ended in a `bad` state; the message says why.
        """
        last = None
        async for last in self._client.watch(
            method, request, timeout=timeout, done=(good, *bad), purpose=self._purpose
        ):
            if progress is not None:
                progress(last)
        if last is None or last.state != good:
            raise FailedPreconditionError(
                f"{request.name} did not succeed: {_why(last)}", metadata={"name": request.name}
            )
        return last


def _why(last: Any) -> str:
    """Returns why a resource ended badly: its own error, or those of its parts."""
    errors = [getattr(last, "error", "")]
    errors += [f"{part.service}, {part.store}: {part.error}" for part in getattr(last, "stores", ()) if part.error]
    found = "; ".join(error for error in errors if error)
    return found or "the server ended the stream before the work ended"
