"""The trail from the command line: verifying an export, and accepting a break.

`python -m libs.audit verify DIR --keys FILE` verifies an exported trail without any service. DIR holds
`<segment>.segment` and `<segment>.checkpoint` files, and the statements of anchors as `.anchor` files; FILE is a JSON
object from service id to base64 public keys, with those of anchors under `governance-anchors`. Exits 0 when everything
verifies, 1 when something does not, 2 when nothing could be verified.

`python -m libs.audit reanchor DIR --instance ID --identity FOLDER --reason TEXT` accepts that the chain ID in a service's
audit folder DIR is broken, see `libs.audit.reanchor`. FOLDER holds the operator's identity. Exits 0 when it is signed, 2
when not.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from hedgerow.errors import HedgerowError
from hedgerow.identity import IdentityFolder
from libs.audit.reanchor import accept_break
from libs.audit.verify import parse_keys, read_anchors, read_directory, verify_segments


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m libs.audit", description="Works on audit trails.")
    commands = parser.add_subparsers(dest="command", required=True)
    verify = commands.add_parser("verify", help="verify chains, roots, signatures and order of an export")
    verify.add_argument("directory", type=Path, help="folder with .segment, .checkpoint and .anchor files")
    verify.add_argument("--keys", type=Path, required=True, help="JSON file with the public keys by service")
    reanchor = commands.add_parser("reanchor", help="accept that a chain is broken; the next start begins a new one")
    reanchor.add_argument("directory", type=Path, help="the service's audit folder")
    reanchor.add_argument("--instance", required=True, help="the broken chain, as the failed start named it")
    reanchor.add_argument("--identity", type=Path, required=True, help="folder of the operator's identity")
    reanchor.add_argument("--reason", required=True, help="why, in one line without personal data")
    options = parser.parse_args(arguments)
    if options.command == "verify":
        return _verify(options.directory, options.keys)
    return _reanchor(options.directory / options.instance, options.identity, options.reason)


def _verify(directory: Path, keys_file: Path) -> int:
    try:
        keys = parse_keys(keys_file.read_text("utf-8"))
        segments, anchors = read_directory(directory), read_anchors(directory)
    except (OSError, ValueError) as error:
        print(f"cannot verify: {error}", file=sys.stderr)
        return 2
    if not segments:
        print(f"cannot verify: {directory} holds no .segment file", file=sys.stderr)
        return 2
    report = verify_segments(segments, keys, anchors)
    for anchor in report.anchors:
        print(f"ANCHOR {anchor}")
    for fault in report.faults:
        print(f"FAULT  {fault}")
    verdict = "verified" if report.verified else "NOT verified"
    print(f"{verdict}: {report.segment_count} segments, {report.event_count} events, {len(report.faults)} faults")
    return 0 if report.verified else 1


def _reanchor(path: Path, identity_folder: Path, reason: str) -> int:
    identity = IdentityFolder(identity_folder).load()
    if identity is None:
        print(f"cannot re-anchor: {identity_folder} holds no usable identity", file=sys.stderr)
        return 2
    try:
        statement = accept_break(path, identity, reason)
    except (HedgerowError, OSError) as error:
        print(f"cannot re-anchor: {error}", file=sys.stderr)
        return 2
    print(f"{statement.actor} accepted the break of chain {path.name}; start the service to begin a new chain.")
    print("Then verify the trail, and accept what it reports missing with CreateAuditAnchor.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
