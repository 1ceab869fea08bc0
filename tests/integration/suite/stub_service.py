"""A stand-in for a service: serves a file as its health, and can have children that outlive it.

``python stub_service.py FOLDER NAME [crash|stubborn|family|late|silent]``
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

folder, name, *modes = Path(sys.argv[1]), sys.argv[2], *sys.argv[3:]


def end(*_: object) -> None:
    (folder / f"{name}.ended").touch()
    sys.exit(0)


signal.signal(signal.SIGTERM, signal.SIG_IGN if "stubborn" in modes else end)
print(f"{name} starts", flush=True)
if "crash" in modes:
    print(f"{name}: the reason", file=sys.stderr)
    sys.exit(7)
if "family" in modes:
    # As a training launcher does: a worker in a session of its own.
    worker = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"], start_new_session=True)
    (folder / f"{name}.worker").write_text(str(worker.pid))
if "late" in modes:
    time.sleep(0.5)
with (folder / "order").open("a") as order:
    order.write(f"{name}\n")
if "silent" not in modes:
    (folder / f"{name}.pid").write_text(str(os.getpid()))
while True:
    time.sleep(60)
