"""Compiled by numba when first used, kept on disk afterwards: no compiler is needed on the user's machine."""
