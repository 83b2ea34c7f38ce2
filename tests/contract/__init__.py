"""The contract of an op: a row per op, what each has to give, and the tests of all of them."""
