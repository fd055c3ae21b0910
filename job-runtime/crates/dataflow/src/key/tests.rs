//! What keys, hashes and key groups promise. Does not test stream operators.
