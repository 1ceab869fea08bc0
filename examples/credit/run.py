"""What every step of the demo is given: the callers, the definitions and records of this run, and where to say things."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from examples.credit import definitions
from examples.credit.records import CreditRecords, client_id
from examples.credit.report.model import StepTiming
from hedgerow.sdk import Context, Hedgerow
from hedgerow.sdk.definitions import Definition

PEOPLE = ("ana", "ben", "creditapp", "mia", "pia")
CREDIT_RISK = "credit_risk"
FAIRNESS_AUDIT = "fairness_audit"
MARKETING = "marketing"


class DemoError(Exception):
    """A step found something that is not as it must be; the message says what."""


@dataclass
class Run:
    """One run of the demo.

    Attributes:
        number: 1 for the first on this suite, 2 for the second, ….
        context: where the suite is.
        callers: a connection for each of PEOPLE.
        definitions: the example's resources, named for this run.
        records: the example's records; client ids carry the run's number.
        data_dir: everything the suite keeps on this machine, searched at the end.
        console: where people read what happens.
    """

    number: int
    context: Context
    callers: Mapping[str, Hedgerow]
    definitions: Sequence[Definition]
    records: CreditRecords
    data_dir: Path
    console: Console
    begin: float = field(default_factory=time.monotonic)
    timings: list[StepTiming] = field(default_factory=list)

    def caller(self, name: str, purpose: str = "") -> Hedgerow:
        """Returns a person's connection, with a purpose stated."""
        return self.callers[name].for_purpose(purpose)

    def of_kind(self, kind: str) -> list[Definition]:
        """Returns this run's definitions of one kind."""
        return definitions.select(self.definitions, kind)

    def name(self, collection: str, base: str) -> str:
        """Returns a resource name of this run, such as `datasets/clients_2`."""
        return f"{collection}/{base}{definitions.suffix(self.number)}"

    def clients(self, numbers: Sequence[int]) -> list[str]:
        """Returns the ids of clients by their line in the source."""
        return [client_id(id_prefix(self.number), number) for number in numbers]

    def say(self, text: str) -> None:
        """Prints one line of progress."""
        self.console.print(f"  {text}", soft_wrap=True)

    @contextmanager
    def step(self, number: int, title: str) -> Iterator[None]:
        """Times a step, or a part of one, and heads its lines."""
        self.console.print(f"\n[bold]{number}. {title}[/bold]")
        start = time.monotonic()
        try:
            yield
        except Exception as error:
            error.add_note(f"in the step “{title}”")
            raise
        seconds = time.monotonic() - start
        self.timings.append(StepTiming(title, start - self.begin, seconds))
        self.console.print(f"  [dim]{seconds:.1f} s[/dim]")


def id_prefix(run: int) -> str:
    """Returns what client ids of a run start with; the mark makes them easy to search for in raw bytes."""
    return f"CARD-{run:02d}-"
