"""``make audit``: known vulnerabilities, insecure code, secrets, and the bill of materials, with one verdict for each."""
