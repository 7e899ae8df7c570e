"""`python -m ctr` is `ctr`."""

from ctr.cli import main

main()
