"""`/v1/account…`: opening accounts, signing in, keys, balance, consents."""
