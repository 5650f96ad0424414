"""The kit that checks a backend against the contract, clause by clause."""
