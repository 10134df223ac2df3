"""`python -m api.cli`, as `order-ledger`."""

from api.cli import main

main()
