"""`python -m libs.audit verify DIR --keys FILE`: verifies an exported trail without any service.

DIR holds `<segment>.segment` and `<segment>.checkpoint` files; FILE is a JSON object from service id to base64 public
keys. Exits 0 when everything verifies, 1 when something does not, 2 when nothing could be verified.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from libs.audit.verify import parse_keys, read_directory, verify_segments


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m libs.audit", description="Works on an exported audit trail.")
    commands = parser.add_subparsers(dest="command", required=True)
    verify = commands.add_parser("verify", help="verify chains, roots, signatures and order")
    verify.add_argument("directory", type=Path, help="folder with .segment and .checkpoint files")
    verify.add_argument("--keys", type=Path, required=True, help="JSON file with the public keys by service")
    options = parser.parse_args(arguments)
    try:
        keys = parse_keys(options.keys.read_text("utf-8"))
        segments = read_directory(options.directory)
    except (OSError, ValueError) as error:
        print(f"cannot verify: {error}", file=sys.stderr)
        return 2
    if not segments:
        print(f"cannot verify: {options.directory} holds no .segment file", file=sys.stderr)
        return 2
    report = verify_segments(segments, keys)
    for fault in report.faults:
        print(f"FAULT  {fault}")
    verdict = "verified" if report.verified else "NOT verified"
    print(f"{verdict}: {report.segment_count} segments, {report.event_count} events, {len(report.faults)} faults")
    return 0 if report.verified else 1


if __name__ == "__main__":
    sys.exit(main())
