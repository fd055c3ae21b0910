//! Writes the generated pages of the reference, or with `--check` says which are stale. It renders nothing itself.

use std::path::Path;

use anyhow::{Context as _, bail};
use job_runtime::reference::pages;

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let check = match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [] => false,
        ["--check"] => true,
        _ => bail!("write `millstream-reference` or `millstream-reference --check`"),
    };
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut stale = Vec::new();
    for page in pages() {
        let path = root.join(page.path);
        if std::fs::read_to_string(&path).is_ok_and(|text| text == page.text) {
            continue;
        }
        if check {
            stale.push(page.path);
        } else {
            std::fs::write(&path, page.text).with_context(|| format!("cannot write {}", path.display()))?;
        }
    }
    if !stale.is_empty() {
        bail!("stale: {}; run `make generate`", stale.join(", "));
    }
    Ok(())
}
