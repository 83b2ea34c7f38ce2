"""A random search: small cases of every op, compared with plain torch."""
