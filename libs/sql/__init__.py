"""SQL sessions and migrations for the metadata of a service, on one of two engines that the configuration chooses.

One machine: SQLCipher (``open_database``), one encrypted file and one process per service. Replicas: PostgreSQL
(``open_postgres``), one schema per service, over verified TLS alone. Stores are written once and behave alike on both:

1. sessions of a service take turns, over all replicas, so what a session reads cannot change before it writes;
2. reading sessions see one state and never wait for writers, save while ``Database.scrub`` rewrites their table;
3. text compares by its bytes;
4. migrations run once, whole or not at all, before anything is served.
"""

from libs.sql.database import Database
from libs.sql.postgres import open_postgres
from libs.sql.sqlcipher import open_database

__all__ = ["Database", "open_database", "open_postgres"]
