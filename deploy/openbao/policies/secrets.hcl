# The secrets service: the only holder of this policy at run time.

# Certificates: its own roles, signing, revocation. No issuer can be made, changed or deleted.
path "pki_int/roles/+"           { capabilities = ["create", "read", "update"] }
path "pki_int/sign/+"            { capabilities = ["update"] }
path "pki_int/revoke"            { capabilities = ["update"] }
path "pki_int/cert/+"            { capabilities = ["read"] }
path "pki_int/certs/revoked"     { capabilities = ["list"] }
path "pki_int/config/crl"        { capabilities = ["create", "read", "update"] }
path "pki_int/config/auto-tidy"  { capabilities = ["create", "read", "update"] }
path "pki_root/issuers"          { capabilities = ["list"] }
path "pki_root/issuer/+"         { capabilities = ["read"] }

# Keys: made at first use, never exported, never deleted.
path "transit-keys/keys/+"    { capabilities = ["read"] }
path "transit-keys/encrypt/+" { capabilities = ["create", "update"] }
path "transit-keys/decrypt/+" { capabilities = ["update"] }
path "transit-signing/keys/+" { capabilities = ["create", "read", "update"] }
path "transit-signing/sign/+" { capabilities = ["update"] }

# A pseudonym key is created once and never overwritten: no "update".
path "kv/data/pseudonym/+" { capabilities = ["create", "read"] }
path "kv/data/trust/+"     { capabilities = ["create", "read", "update"] }

# Enrolment tokens are spent here; their origin is proven by the path that made them.
path "sys/wrapping/lookup" { capabilities = ["update"] }
path "sys/wrapping/unwrap" { capabilities = ["update"] }

# Whether a person who renews still exists.
path "auth/userpass/users/+" { capabilities = ["read"] }

path "auth/token/renew-self"  { capabilities = ["update"] }
path "auth/token/revoke-self" { capabilities = ["update"] }
