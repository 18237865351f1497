"""`python -m quiche_h3` is the command `quiche-h3`."""

from .cli import main

main()
