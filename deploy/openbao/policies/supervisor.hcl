# The local supervisor: people, enrolment tokens and the first policy bundle. It can read no key and sign no certificate.

path "auth/userpass/users/+" { capabilities = ["create", "read", "update"] }

# Reading such a record response-wrapped makes an enrolment token; nobody else may read one.
path "kv/data/enrolment/+" { capabilities = ["create", "read", "update"] }

path "transit-signing/keys/governance-policy" { capabilities = ["create", "read", "update"] }
path "transit-signing/sign/governance-policy" { capabilities = ["update"] }

path "pki_root/issuers"  { capabilities = ["list"] }
path "pki_root/issuer/+" { capabilities = ["read"] }

path "kv/data/hedgerow/initialised" { capabilities = ["read"] }

path "auth/token/renew-self"  { capabilities = ["update"] }
path "auth/token/revoke-self" { capabilities = ["update"] }
