"""Step 6, last part: one client is erased, and everything that remains is searched."""

import asyncio
import re
from dataclasses import dataclass
from datetime import UTC

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from examples.credit import disk
from examples.credit.report.model import ErasureFacts, StoreFacts
from examples.credit.run import CREDIT_RISK, DemoError, Run
from hedgerow.errors import FailedPreconditionError
from hedgerow.features.v1 import features_pb2
from hedgerow.governance.v1 import governance_pb2 as pb
from hedgerow.sdk import Hedgerow
from hedgerow.sdk.features import matrix

# What an identifier of any of the example's clients looks like in clear: client id, e-mail address, national id.
IDENTIFIERS = re.compile(rb"CARD-\d\d-\d{8}|SYN-[A-Z]\d{9}|[a-z.']{2,40}\.\d{1,5}@example\.(?:com|net|org)")
_FIRST_VERSION = 1


@dataclass(frozen=True)
class Subject:
    """The client to erase: line in the source, and how each store could name it."""

    number: int
    client_id: str
    words: tuple[bytes, ...]


async def erase(run: Run, training_rows: pa.Table) -> ErasureFacts:
    """Erases one client and looks for it everywhere."""
    pia = run.caller("pia", "erasure")
    subject = await _choose(run, training_rows)
    # What the services have written of the trail so far is sealed, so that the erasure searches it too.
    await pia.governance.verify_audit_trail(seal_first=True)
    domain = run.of_kind("Dataset")[0].request.contract.pseudonym_domain
    created = await pia.governance.create_erasure_request(domain, subject.client_id)
    with run.console.status(f"  {created.name}"):
        request = await pia.governance.wait_for_erasure(created.name)
    rows = sum(store.rows_erased for store in request.stores)
    run.say(f"{request.name}: {rows} rows erased, {sum(s.objects_searched for s in request.stores):,} objects searched")
    if rows == 0:
        raise DemoError("the erasure found nothing to erase, so it proves nothing")
    await _check_online(run, subject)
    code, reason = await _open_old_version(run, request.name)
    run.say(f"the version before answers {code} {reason}")
    found = await asyncio.to_thread(disk.search, run.data_dir, IDENTIFIERS, subject.words)
    if not found.sealed:
        raise DemoError(f"the search of {run.data_dir} met no sealed file of the lake, so it proves nothing")
    run.say(
        f"{found.files:,} files searched byte by byte: {len(found.hits)} with the client, "
        f"{len(found.plaintext)} readable without a key"
    )
    for path in (*found.hits, *found.plaintext):
        run.say(f"[red]readable: {path}[/red]")
    return ErasureFacts(
        request=request.name,
        subject_hash=request.subject_hash,
        state=pb.ErasureRequest.State.Name(request.state).removeprefix("STATE_").lower(),
        stores=[_facts(store) for store in request.stores],
        receipt_verified=await _receipt_verifies(pia, request),
        old_version_code=code,
        old_version_reason=reason,
        remaining_hits=sum(store.remaining_hits for store in request.stores),
        disk_hits=len(found.hits),
        files_searched=found.files,
        bytes_searched=found.bytes,
        plaintext_files=len(found.plaintext),
    )


async def _choose(run: Run, training_rows: pa.Table) -> Subject:
    """Returns a client that no other step uses, with its pseudonym among the words to search for."""
    number = 20_000 + run.number
    client = run.records.clients.slice(number - 1, 1).to_pylist()[0]
    pseudonym = await _pseudonym(run, client["client_id"], training_rows)
    names = [client["client_id"], client["full_name"], client["email"], client["national_id"], pseudonym]
    return Subject(number, client["client_id"], tuple(name.encode() for name in names))


async def _pseudonym(run: Run, client_id: str, training_rows: pa.Table) -> str:
    """Finds the client's pseudonym: the entity of the training row that has the client's features.

    Nobody may read the pseudonym key, so the demo cannot compute it; and a search that leaves it out would prove less.
    """
    [definition] = run.of_kind("TrainingSet")
    cutoff = definition.request.training_set.cutoffs[-1].as_of_time.ToDatetime(UTC)
    service = definition.request.training_set.feature_service
    block = await run.caller("ben", CREDIT_RISK).features.get_offline_features(service, [client_id], cutoff)
    times = training_rows["as_of_time"]
    rows = training_rows.filter(pc.equal(times, pa.scalar(cutoff, times.type)))
    values = np.column_stack([rows[name].to_numpy() for name in block.feature_names])
    same = np.flatnonzero(np.isclose(values, matrix(block), rtol=0, atol=0, equal_nan=True).all(axis=1))
    if len(same) != 1:
        raise DemoError(f"{len(same)} training rows have the features of the client to erase; expected one")
    return str(rows["entity"][int(same[0])].as_py())


async def _check_online(run: Run, subject: Subject) -> None:
    service = run.name("featureServices", "credit_default")
    block = await run.caller("creditapp", CREDIT_RISK).features.get_online_features(service, [subject.client_id])
    if block.statuses[0] != features_pb2.FeatureBlock.STATUS_NOT_FOUND:
        raise DemoError("the online store still knows the erased client")


async def _open_old_version(run: Run, request: str) -> tuple[str, str]:
    """Asks for the version that named the erased files; it must be refused with the receipt."""
    dataset = run.name("datasets", "statements")
    try:
        await run.caller("ana", CREDIT_RISK).ingestion.open_snapshot(dataset, _FIRST_VERSION)
    except FailedPreconditionError as error:
        if request not in error.metadata.values():
            raise DemoError(f"the refusal of the old version does not name the receipt {request}") from None
        return error.code_name, error.reason
    raise DemoError("the version that named the erased files can still be opened")


async def _receipt_verifies(pia: Hedgerow, request: pb.ErasureRequest) -> bool:
    keys = await pia.secrets.get_verification_keys("signingKeys/governance-receipts")
    for key in keys.values():
        try:
            Ed25519PublicKey.from_public_bytes(key).verify(request.signature, request.receipt)
        except InvalidSignature:
            continue
        return True
    return False


def _facts(store: pb.StoreErasure) -> StoreFacts:
    return StoreFacts(
        f"{store.service}, {store.store}",
        store.objects_searched,
        store.objects_rewritten,
        store.objects_destroyed,
        store.rows_erased,
        store.remaining_hits,
    )
