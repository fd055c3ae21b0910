//! Writes the generated files of this crate, or with `--check` says which are stale. It renders nothing itself.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use crds::reference::{GeneratedFile, RenderError, generated_files};

/// Why the files could not be generated.
#[derive(Debug, thiserror::Error)]
enum GenerateError {
    #[error("unknown argument {0:?}; write `generate` or `generate --check`")]
    Usage(String),
    #[error(transparent)]
    Render(#[from] RenderError),
    #[error("cannot write {}", path.display())]
    Write {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
}

#[expect(clippy::print_stderr, reason = "a command line tool tells its user what it did")]
fn main() -> ExitCode {
    match run(std::env::args().skip(1).collect()) {
        Ok(stale) if stale.is_empty() => ExitCode::SUCCESS,
        Ok(stale) => {
            for path in stale {
                eprintln!("{path} is stale: run `cargo run -p crds --bin generate`");
            }
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(2)
        }
    }
}

/// Does what the arguments say and returns the paths that are stale after it.
fn run(arguments: Vec<String>) -> Result<Vec<String>, GenerateError> {
    let check = match arguments.as_slice() {
        [] => false,
        [argument] if argument == "--check" => true,
        [argument, ..] => return Err(GenerateError::Usage(argument.clone())),
    };
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut stale = Vec::new();
    for file in generated_files()? {
        let path = root.join(&file.path);
        if std::fs::read_to_string(&path).is_ok_and(|text| text == file.text) {
            continue;
        }
        if check {
            stale.push(file.path);
        } else {
            write(&path, &file)?;
        }
    }
    Ok(stale)
}

fn write(path: &Path, file: &GeneratedFile) -> Result<(), GenerateError> {
    let failed = |source| GenerateError::Write { path: path.to_owned(), source };
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).map_err(failed)?;
    }
    std::fs::write(path, &file.text).map_err(failed)
}
