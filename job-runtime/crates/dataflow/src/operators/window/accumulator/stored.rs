//! Accumulators as they are stored.
//!
//! Owns the layout. Under which key it is kept is `groups`' affair.
//!
//! # Stored layout, version 1 (all little endian)
//! | aggregate | bytes |
//! | --- | --- |
//! | COUNT | count i64 |
//! | SUM of integers, floats, decimals | seen u8 (0 or 1), sum i64, f64 or i128 |
//! | AVG of integers and decimals, floats | count i64, sum i128 or f64 |
//! | MIN, MAX of integers, times, booleans | seen u8, value i64 |
//! | MIN, MAX of floats, decimals | seen u8, value f64 or i128 |
//! | MIN, MAX of Utf8 and Binary | seen u8, length u32, bytes |

use super::{Accumulator, Seen};
use crate::operators::window::WindowError;

impl Accumulator {
    /// Appends one group's state in the stored layout.
    pub(in crate::operators::window) fn write(&self, group: u32, out: &mut Vec<u8>) {
        let at = group as usize;
        match self {
            Self::Count(count) => out.extend_from_slice(&count[at].to_le_bytes()),
            Self::SumInt(v) | Self::ExtremeInt(v, _) => {
                write_seen(v, at, out, |v, out| out.extend_from_slice(&v.to_le_bytes()))
            }
            Self::SumFloat(v) | Self::ExtremeFloat(v, _) => {
                write_seen(v, at, out, |v, out| out.extend_from_slice(&v.to_le_bytes()));
            }
            Self::SumDecimal(v) | Self::ExtremeDecimal(v, _) => {
                write_seen(v, at, out, |v, out| out.extend_from_slice(&v.to_le_bytes()));
            }
            Self::AvgExact(count, sum) => {
                out.extend_from_slice(&count[at].to_le_bytes());
                out.extend_from_slice(&sum[at].to_le_bytes());
            }
            Self::AvgFloat(count, sum) => {
                out.extend_from_slice(&count[at].to_le_bytes());
                out.extend_from_slice(&sum[at].to_le_bytes());
            }
            Self::ExtremeBytes(v, _) => write_seen(v, at, out, |v, out| {
                out.extend_from_slice(&(v.len() as u32).to_le_bytes());
                out.extend_from_slice(v);
            }),
        }
    }

    /// Reads one group's state; takes it off the front of `stored`.
    pub(in crate::operators::window) fn read(&mut self, group: u32, stored: &mut &[u8]) -> Result<(), WindowError> {
        let at = group as usize;
        match self {
            Self::Count(count) => count[at] = i64::from_le_bytes(take(stored)?),
            Self::SumInt(v) | Self::ExtremeInt(v, _) => read_seen(v, at, stored, |s| Ok(i64::from_le_bytes(take(s)?)))?,
            Self::SumFloat(v) | Self::ExtremeFloat(v, _) => {
                read_seen(v, at, stored, |s| Ok(f64::from_le_bytes(take(s)?)))?;
            }
            Self::SumDecimal(v) | Self::ExtremeDecimal(v, _) => {
                read_seen(v, at, stored, |s| Ok(i128::from_le_bytes(take(s)?)))?;
            }
            Self::AvgExact(count, sum) => {
                count[at] = i64::from_le_bytes(take(stored)?);
                sum[at] = i128::from_le_bytes(take(stored)?);
            }
            Self::AvgFloat(count, sum) => {
                count[at] = i64::from_le_bytes(take(stored)?);
                sum[at] = f64::from_le_bytes(take(stored)?);
            }
            Self::ExtremeBytes(v, _) => read_seen(v, at, stored, |s| {
                let length = u32::from_le_bytes(take(s)?) as usize;
                let (value, rest) = s.split_at_checked(length).ok_or_else(short)?;
                *s = rest;
                Ok(value.to_vec())
            })?,
        }
        Ok(())
    }
}

fn write_seen<T>(values: &Seen<T>, at: usize, out: &mut Vec<u8>, write: impl FnOnce(&T, &mut Vec<u8>)) {
    out.push(u8::from(values.seen[at]));
    write(&values.value[at], out);
}

fn read_seen<T>(
    values: &mut Seen<T>,
    at: usize,
    stored: &mut &[u8],
    read: impl FnOnce(&mut &[u8]) -> Result<T, WindowError>,
) -> Result<(), WindowError> {
    values.seen[at] = match take::<1>(stored)? {
        [0] => false,
        [1] => true,
        [other] => return Err(WindowError::damaged(format!("{other} is neither 0 nor 1"))),
    };
    values.value[at] = read(stored)?;
    Ok(())
}

fn take<const N: usize>(stored: &mut &[u8]) -> Result<[u8; N], WindowError> {
    let (head, tail) = stored.split_first_chunk::<N>().ok_or_else(short)?;
    *stored = tail;
    Ok(*head)
}

fn short() -> WindowError {
    WindowError::damaged("an accumulator is cut short")
}
