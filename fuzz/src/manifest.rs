//! A manifest is read or refused in words; what is read means the same when it is written and read again.

use ployz_core::wire::v1::manifest::Manifest;

/// A document, TOML or JSON.
pub fn document(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match Manifest::from_document("shop.toml", text) {
        Err(refusal) => assert!(refusal.to_string().starts_with("shop.toml"), "{refusal}"),
        Ok(manifest) => {
            let written = serde_json::to_string(&manifest).expect("a manifest is plain data");
            let again = Manifest::from_json("again", &written).expect("what was read can be read again");
            assert_eq!(again, manifest);
            assert_eq!(again.fingerprint(), manifest.fingerprint());
        }
    }
}
