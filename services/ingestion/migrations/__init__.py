"""Schema changes of the ingestion database, in order."""
