//! The durable note of a file sink: which part is written and how much of it is committed.
//!
//! Key: the part's worker, u32 big-endian. Value, version 1, integers big-endian: `1u8 | state u8 (0 open, 1 rolled) | number u64 | length u64`.
//! Pure; the sink acts on it.

const VERSION: u8 = 1;

/// What is committed of a worker's latest part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PartTicket {
    pub(super) worker: u32,
    /// Counts a worker's parts from 0.
    pub(super) number: u64,
    /// Committed bytes.
    pub(super) length: u64,
    /// Nothing more is written to it: it gets its final name.
    pub(super) rolled: bool,
}

impl PartTicket {
    pub(super) fn encode(&self) -> crate::connector::Ticket {
        let mut value = vec![VERSION, u8::from(self.rolled)];
        value.extend_from_slice(&self.number.to_be_bytes());
        value.extend_from_slice(&self.length.to_be_bytes());
        crate::connector::Ticket { key: self.worker.to_be_bytes().to_vec(), value }
    }

    pub(super) fn decode(ticket: &crate::connector::Ticket) -> Option<PartTicket> {
        let value: &[u8; 18] = ticket.value.as_slice().try_into().ok()?;
        let rolled = match value[..2] {
            [VERSION, 0] => false,
            [VERSION, 1] => true,
            _ => return None,
        };
        Some(PartTicket {
            worker: u32::from_be_bytes(ticket.key.as_slice().try_into().ok()?),
            number: u64::from_be_bytes(value[2..10].try_into().ok()?),
            length: u64::from_be_bytes(value[10..].try_into().ok()?),
            rolled,
        })
    }
}
