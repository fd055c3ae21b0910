//! Where records end in a stream of bytes: at line ends, except inside CSV quotes.
//!
//! Pure: it sees a growing buffer and remembers how far it has looked. It does not split records into fields.

use crate::format::Format;

/// The end of a record in a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RecordEnd {
    /// After its line end.
    pub(super) end: u32,
    /// How many lines it takes.
    pub(super) lines: u32,
}

/// Finds record ends.
#[derive(Clone, Debug)]
pub(super) struct Splitter {
    /// Delimiter and quote of a CSV format with quotes.
    quoting: Option<(u8, u8)>,
    comments: bool,
    /// How far the buffer has been looked at.
    at: usize,
    record_start: usize,
    in_quotes: bool,
    lines: u32,
}

impl Splitter {
    pub(super) fn new(format: &Format) -> Self {
        let (quoting, comments) = match format {
            Format::Json(_) => (None, false),
            Format::Csv(csv) => (csv.quote.map(|quote| (csv.delimiter, quote)), csv.comments),
        };
        Splitter { quoting, comments, at: 0, record_start: 0, in_quotes: false, lines: 0 }
    }

    /// Looks at what is new in `buffer` and appends the ends of the records that are whole.
    pub(super) fn scan(&mut self, buffer: &[u8], ends: &mut Vec<RecordEnd>) {
        match self.quoting {
            None => {
                for at in memchr::memchr_iter(b'\n', &buffer[self.at..]) {
                    ends.push(RecordEnd { end: position(self.at + at + 1), lines: 1 });
                }
                self.at = buffer.len();
            }
            Some((delimiter, quote)) => self.scan_quoted(buffer, delimiter, quote, ends),
        }
    }

    fn scan_quoted(&mut self, buffer: &[u8], delimiter: u8, quote: u8, ends: &mut Vec<RecordEnd>) {
        while let Some(found) = memchr::memchr2(quote, b'\n', &buffer[self.at..]) {
            let at = self.at + found;
            self.at = at + 1;
            if buffer[at] == b'\n' {
                self.lines += 1;
                if !self.in_quotes {
                    ends.push(RecordEnd { end: position(at + 1), lines: std::mem::take(&mut self.lines) });
                    self.record_start = at + 1;
                }
            } else if self.in_quotes {
                match buffer.get(at + 1) {
                    Some(&next) if next == quote => self.at = at + 2,
                    Some(_) => self.in_quotes = false,
                    // The next byte decides: look at this quote again when it is there.
                    None => {
                        self.at = at;
                        return;
                    }
                }
            } else if at == self.record_start || buffer[at - 1] == delimiter {
                self.in_quotes = !(self.comments && buffer[self.record_start] == b'#');
            }
        }
        self.at = buffer.len();
    }

    /// The first `len` bytes of the buffer, whole records, have been taken away.
    pub(super) fn taken(&mut self, len: usize) {
        self.at -= len;
        self.record_start = self.record_start.saturating_sub(len);
    }
}

/// The reader bounds its buffers far below 4 GiB (see `reader::MAX_RECORD`).
fn position(at: usize) -> u32 {
    u32::try_from(at).expect("buffers are bounded by MAX_RECORD")
}
