# An administrator of the secret server. Nothing in the suite logs in with it.
path "*" { capabilities = ["create", "read", "update", "patch", "delete", "list", "sudo"] }
