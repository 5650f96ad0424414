"""What a copy learns about its server while it runs: everything that is learnt lives here."""
