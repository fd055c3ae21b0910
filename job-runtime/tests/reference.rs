//! The generated pages of the book are those that the program's definitions give now. It needs no server.

use std::path::Path;

use job_runtime::reference::pages;

#[test]
fn no_page_of_the_reference_is_stale() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    for page in pages() {
        let text = std::fs::read_to_string(root.join(page.path)).unwrap_or_default();
        assert!(text == page.text, "{} is stale: run `make generate`", page.path);
    }
}
