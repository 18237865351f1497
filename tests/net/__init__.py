"""The library on bad networks: a relay that makes them, and what must hold on them."""
