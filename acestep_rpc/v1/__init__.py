"""Version 1 of the contract, generated from protos/ by make protos. Never edited by hand."""
