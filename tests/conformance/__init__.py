"""HTTP/3 to the letter: the checks of h3spec, field sections, sequences of frames that are not allowed."""
