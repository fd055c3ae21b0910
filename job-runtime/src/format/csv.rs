//! The CSV format: separated values, columns matched by the header's names or by position.
//!
//! Owns the two halves, `decode` and `encode`.

mod decode;
mod encode;
#[cfg(test)]
mod tests;

pub(super) use decode::Decoder;
pub(super) use encode::Encoder;
