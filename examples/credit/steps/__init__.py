"""The steps of the demo, in order: ingest, features, train, promote, serve, and the proofs (refusals, audit, erasure)."""
