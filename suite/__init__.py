"""The suite on one machine: OpenBao and the six services under one supervisor.

``python -m suite up | down | status``. It prepares the secret server, the users, the enrolment tokens and the first policy
bundle, starts everything in order, restarts what crashes, and leaves no process behind. Elsewhere (Kubernetes, Compose)
the platform does this work, and of what is here only ``suite.prepare`` runs, once. Linux only: it leans on process
descriptors, death signals and /proc.
"""
