"""The features service: feature views, point-in-time correct training sets, and the online store.

It owns the definitions of features, the training sets built from them and the newest values per entity. It calls
ingestion for snapshots of datasets (on behalf of its caller) and secrets for keys. It never writes to the lake, never
keeps source rows, and computes every feature by one piece of code (`point_in_time`), so that training, offline and
online values are the same bytes.
"""
