//! The connector `filesystem`: CSV and JSON-lines files as sources and sinks.
//!
//! Owns what both directions share: paths, compression, and words for I/O errors. Reading is in `source` (with `reader` on its own
//! thread), writing in `sink`. It does not know formats beyond handing records to them.

mod position;
mod reader;
mod records;
mod sink;
mod source;
#[cfg(test)]
mod tests;
mod ticket;

use std::io;
use std::path::{Path, PathBuf};

use super::options::{self, TableOptions};
use super::registry::ConnectorContext;
use super::{ConnectorError, SinkFactory, SinkTarget, dead_letter, format_options};

pub(super) use sink::FileSinkFactory;
pub(super) use source::FileSourceFactory;

/// How a file's bytes are packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Compression {
    None,
    Gzip,
    Zstd,
}

impl Compression {
    /// By the option, or by the ending of the name.
    fn of(options: &TableOptions<'_>, name: &Path) -> Compression {
        Self::given(options).unwrap_or_else(|| Self::by_name(name))
    }

    /// What the option says; `None` leaves it to the name.
    fn given(options: &TableOptions<'_>) -> Option<Compression> {
        match options.text(&options::COMPRESSION) {
            Some("none") => Some(Compression::None),
            Some("gzip") => Some(Compression::Gzip),
            Some("zstd") => Some(Compression::Zstd),
            _ => None,
        }
    }

    fn by_name(name: &Path) -> Compression {
        match name.extension().and_then(|e| e.to_str()) {
            Some("gz" | "gzip") => Compression::Gzip,
            Some("zst" | "zstd") => Compression::Zstd,
            _ => Compression::None,
        }
    }

    fn ending(self) -> &'static str {
        match self {
            Compression::None => "",
            Compression::Gzip => ".gz",
            Compression::Zstd => ".zst",
        }
    }
}

/// The option `path`, relative to the job file.
fn path_of(options: &TableOptions<'_>, context: &ConnectorContext) -> Result<PathBuf, ConnectorError> {
    let text = options.required(&options::PATH)?;
    Ok(context.base_dir.join(text.strip_prefix("file://").unwrap_or(text)))
}

/// The file, or directory of part files, of a table's dead letters.
pub(super) fn dead_letters(
    options: &TableOptions<'_>,
    path: &str,
    context: &ConnectorContext,
) -> Result<SinkTarget, ConnectorError> {
    FileSinkFactory::dead_letters(options, &context.base_dir.join(path), context).target()
}

/// Checks all that can be checked without I/O.
pub(super) fn validate(options: &TableOptions<'_>, as_source: bool, as_sink: bool) -> Result<(), ConnectorError> {
    options.required(&options::FORMAT)?;
    let format = format_options::format(options)?;
    format_options::check(options, &format)?;
    if as_source {
        dead_letter::validate(options)?;
    }
    if as_sink {
        sink::validate(options)?;
    }
    Ok(())
}

/// An I/O error in words that say what to do.
fn explain(doing: &str, path: &Path, error: &io::Error) -> String {
    let shown = path.display();
    let advice = match error.kind() {
        io::ErrorKind::NotFound => ": there is no such file or directory; paths are relative to the job file",
        io::ErrorKind::PermissionDenied => ": permission denied; give this user the right to it",
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            ": no space left; free some and start again, the job goes on from its last commit"
        }
        io::ErrorKind::ReadOnlyFilesystem => ": the file system is read-only; choose another path",
        _ => return format!("cannot {doing} {shown}: {error}"),
    };
    format!("cannot {doing} {shown}{advice}")
}
