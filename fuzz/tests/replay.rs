//! Everything that the fuzzer once found, and the seeds it begins with.

use std::path::Path;

#[test]
fn the_corpus_of_every_target_holds() {
    for (name, check) in ployz_fuzz::TARGETS {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(name);
        let mut seen = 0;
        for entry in std::fs::read_dir(&directory).expect("a corpus") {
            let path = entry.expect("an entry").path();
            let data = std::fs::read(&path).expect("a seed");
            let held = std::panic::catch_unwind(|| check(&data));
            assert!(held.is_ok(), "{}", path.display());
            seen += 1;
        }
        assert!(seen > 0, "{name} has no seeds");
    }
}
