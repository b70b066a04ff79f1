//! The page that operators read is the table that the code has.

#![allow(clippy::unwrap_used)]

use ployz_core::host::table::markdown;

#[test]
fn the_page_for_operators_is_the_table() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/host.md");
    let page = std::fs::read_to_string(&path).unwrap();
    let (begin, end) = ("<!-- table -->\n", "<!-- end of table -->");
    let (before, rest) = page.split_once(begin).unwrap();
    let (table, after) = rest.split_once(end).unwrap();
    if std::env::var_os("PLOYZ_BLESS").is_some() {
        std::fs::write(&path, format!("{before}{begin}{}{end}{after}", markdown())).unwrap();
        return;
    }
    assert_eq!(table, markdown(), "PLOYZ_BLESS=1 writes it");
}
