"""`python -m templora`: the command line."""

from templora.cli.main import main

main()
