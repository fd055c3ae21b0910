//! What windows promise: rows, lateness, state and recovery. Does not test the worker around them.
