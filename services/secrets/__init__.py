"""Workload identity, data keys and signatures.

Owns: the certificates and the trust bundle of the suite, the wrapping, signing and pseudonym keys. Calls: OpenBao or
HashiCorp Vault, and no service. Never: stores a key outside the secret server, logs one, or hands its Vault credential on.
"""
