"""How long the parts of a request take, each by itself: `make bench-micro` compares with the baseline."""
