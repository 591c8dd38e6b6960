"""What the buyer owes, as pure functions: rating, verification, drawing from the wallet, status."""
