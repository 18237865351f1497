"""Inputs that nobody meant: datagrams, frames, field sections and capsules, mutated from good and bad ones.

``python -m fuzz --help`` (in ``tests``) fuzzes for as long as it is told; `make fuzz-asan` does it under
AddressSanitizer. `test_corpus.py` replays what was found worth keeping.
"""
