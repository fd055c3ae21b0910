//! What the file connector promises.

mod sinks;
mod sources;
