"""The support matrix: what Lightning and torch can be told, by every callback and sampler of ours.

`features` says what is told, `columns` who is to work with it, `expected` what comes of it; `test_cells` and
`test_launches` run every cell and compare, and `page` writes what is expected into the docs.
"""
