"""The ingestion service: datasets under contracts, the encrypted lake, and quarantine.

It owns who may read the lake: a reader gets a snapshot with a grant for the keys of the columns that its purpose allows.
It calls the secrets service for keys and signatures, and governance for policies. It never stores an identifier in
clear that a contract declares for pseudonymisation, never writes a file that is not sealed, and never reads for others.
"""
