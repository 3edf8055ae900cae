"""Python oracles: development only, nothing here runs inside vmoer."""
