"""What every service does to start, run and stop: identity, keys, policies, audit, telemetry, serving and draining."""

from libs.runtime.runtime import Runtime, run
from libs.runtime.secrets import Secrets, SecretsClient

__all__ = ["Runtime", "Secrets", "SecretsClient", "run"]
