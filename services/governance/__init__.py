"""Governance: policies, the audit trail and erasure.

Owns the signed policy bundles, the sealed audit segments of every service with an index over their events, and the
erasure requests with their receipts. Calls the secrets service for keys and signatures, and ingestion and features, as an
ordinary client, to erase. Never stores or logs the raw identifier of a subject, and never rewrites a segment.
"""
