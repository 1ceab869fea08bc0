"""What two or more services need. Services import from here; nothing here imports a service."""
