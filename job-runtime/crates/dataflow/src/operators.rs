//! The stream operators: what happens to rows inside one worker.
//!
//! Owns calculation and windows. An operator knows neither queues nor barriers' alignment (`worker`), nor any connector.

pub mod calc;
pub mod window;
