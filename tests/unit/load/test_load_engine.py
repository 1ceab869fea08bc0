"""Users, arrivals, retries and refusals, without a server; LOC-01 and LOC-05 at the level of the engine."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import pytest

from hedgerow.errors import HedgerowError, InternalError, PermissionDeniedError, UnavailableError
from loadtests.engine import Engine, Operation, Send, Sizes, UserKind, Watch, arrive
from loadtests.ledger import Ledger, Result


def answering(results: list[object]) -> Callable[[], Send]:
    """Return what raises or returns one after the other, the last one for ever."""

    async def send(timeout: float) -> Sizes:
        outcome = results.pop(0) if len(results) > 1 else results[0]
        if isinstance(outcome, HedgerowError):
            raise outcome
        return 3, 5

    return lambda: send


async def test_a_call_is_counted_with_its_sizes() -> None:
    result = await Operation("a", "Call", answering([None])).run()
    assert (result.sent, result.received, result.error, result.attempts) == (3, 5, "", 1)


async def test_a_service_that_was_away_is_asked_again() -> None:
    result = await Operation("a", "Call", answering([UnavailableError("away"), None])).run()
    assert (result.error, result.attempts) == ("", 2)
    assert result.seconds > 0


async def test_a_service_that_stays_away_is_a_failure_at_the_deadline() -> None:
    result = await Operation("a", "Call", answering([UnavailableError("away")]), deadline=0.3).run()
    assert result.error == "UNAVAILABLE DEPENDENCY_UNAVAILABLE"
    assert result.attempts > 1


async def test_nothing_is_sent_twice_where_that_is_not_wanted() -> None:
    result = await Operation("a", "Call", answering([UnavailableError("away"), None]), retry=False).run()
    assert (result.error[:11], result.attempts) == ("UNAVAILABLE", 1)


async def test_a_wrong_answer_is_not_tried_again() -> None:
    result = await Operation("a", "Call", answering([InternalError("broken"), None])).run()
    assert result.error.startswith("INTERNAL")


async def test_a_refusal_that_must_come_is_good_and_an_answer_in_its_place_is_not() -> None:
    refused = Operation("a", "Call", answering([PermissionDeniedError("no")]), refusal="PERMISSION_DENIED")
    assert (await refused.run()).error == ""
    answered = Operation("a", "Call", answering([None]), refusal="PERMISSION_DENIED")
    assert (await answered.run()).error == "OK instead of PERMISSION_DENIED"


async def test_users_overlap_and_end() -> None:
    """LOC-01: fifty users are in their calls at once, where a blocking generator would have one."""
    together, gate = 0, asyncio.Event()

    async def send(timeout: float) -> Sizes:
        nonlocal together
        together += 1
        if together == 50:
            gate.set()
        await gate.wait()
        return 1, 1

    results: list[Result] = []
    engine = Engine({"all": UserKind([Operation("a", "Call", lambda: send)], 0.01)}, results.append)
    for _ in range(50):
        engine.start("all")
    async with asyncio.timeout(30):
        await gate.wait()
    assert (engine.users, engine.most_in_flight) == (50, 50)
    engine.stop("all")
    assert engine.users == 49
    await engine.close()
    assert engine.in_flight == 0


async def test_a_call_under_way_at_the_end_does_not_count() -> None:
    """LOC-02 at the level of the engine: what never answers cannot hold up the end."""
    entered = asyncio.Event()

    async def send(timeout: float) -> Sizes:
        entered.set()
        await asyncio.Event().wait()
        return 0, 0

    results: list[Result] = []
    engine = Engine({"all": UserKind([Operation("a", "Call", lambda: send)], 0.0)}, results.append)
    engine.start("all")
    async with asyncio.timeout(30):
        await entered.wait()
        await engine.close()
    assert results == []


async def test_arrivals_do_not_wait_for_answers() -> None:
    waiting, gate = 0, asyncio.Event()

    async def send(timeout: float) -> Sizes:
        nonlocal waiting
        waiting += 1
        if waiting == 60:
            gate.set()
        await gate.wait()
        return 1, 1

    results: list[Result] = []
    async with asyncio.timeout(30):
        unsent = await arrive(Operation("a", "Call", lambda: send), 1000.0, 0.2, results.append)
    assert unsent == 0
    # About 200 are due; the first sixty could only be there together.
    assert len(results) > 120
    assert max(each.seconds for each in results) > min(each.seconds for each in results)


async def fail(timeout: float) -> Sizes:
    raise ZeroDivisionError("in the sending")


def fail_early() -> Send:
    raise ZeroDivisionError("in the making")


async def give_up(timeout: float) -> Sizes:
    # As gRPC does for a call of a channel that was closed.
    raise asyncio.CancelledError


FAULTS = [(fail_early, "ZeroDivisionError"), (lambda: fail, "ZeroDivisionError"), (lambda: give_up, "CancelledError")]


@pytest.mark.parametrize(("prepare", "kind"), FAULTS)
async def test_a_user_outlives_a_fault_of_the_generator_and_it_is_counted(
    prepare: Callable[[], Send], kind: str
) -> None:
    results: list[Result] = []
    enough = asyncio.Event()

    def record(result: Result) -> None:
        results.append(result)
        if len(results) == 3:
            enough.set()

    engine = Engine({"all": UserKind([Operation("a", "Call", prepare)], 0.0)}, record)
    engine.start("all")
    async with asyncio.timeout(30):
        await enough.wait()
        await engine.close()
    assert {(each.error, each.attempts) for each in results} == {(f"CLIENT {kind}", 1)}
    assert engine.in_flight == 0


@pytest.mark.parametrize(("prepare", "kind"), FAULTS)
async def test_arrivals_that_meet_a_fault_of_the_generator_are_counted(prepare: Callable[[], Send], kind: str) -> None:
    results: list[Result] = []
    async with asyncio.timeout(30):
        assert await arrive(Operation("a", "Call", prepare), 200.0, 0.2, results.append) == 0
    assert len(results) > 10
    assert {each.error for each in results} == {f"CLIENT {kind}"}


async def test_a_user_who_is_taken_away_goes_whatever_the_call_makes_of_it() -> None:
    entered = asyncio.Event()

    async def send(timeout: float) -> Sizes:
        entered.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise InternalError("the call was cancelled") from None
        return 0, 0

    results: list[Result] = []
    engine = Engine({"all": UserKind([Operation("a", "Call", lambda: send)], 0.0)}, results.append)
    engine.start("all")
    async with asyncio.timeout(30):
        await entered.wait()
        await engine.close()
    assert results == []


async def test_what_ends_a_user_is_raised_at_the_end() -> None:
    ended = asyncio.Event()

    def record(result: Result) -> None:
        ended.set()
        raise OSError("nowhere to write it")

    engine = Engine({"all": UserKind([Operation("a", "Call", answering([None]))], 0.0)}, record)
    engine.start("all")
    async with asyncio.timeout(30):
        await ended.wait()
        with pytest.raises(OSError, match="nowhere"):
            await engine.close()


async def test_a_blocked_generator_shows_in_its_lag() -> None:
    """LOC-05: building large messages on the loop is seen as lag, which voids a run (test_load_verdict)."""
    watch, ledger = Watch(), Ledger()
    task = asyncio.create_task(watch.run())
    await asyncio.sleep(0)
    for _ in range(5):
        time.sleep(0.3)
        await asyncio.sleep(0.05)
    task.cancel()
    ledger.add_generator("one", *watch.take())
    assert ledger.lag.percentile_ms(0.99) > 250
