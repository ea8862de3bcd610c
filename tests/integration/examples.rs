//! Every file of `config/examples` is valid.

use std::fs;
use std::path::Path;

use crate::harness::{run_tailwater, said};

#[test]
fn every_example_passes_the_check() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/examples");
    let mut files: Vec<_> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_file()).collect();
    files.sort();
    assert!(!files.is_empty(), "{} is empty", folder.display());
    for file in files {
        let output = run_tailwater(["check".as_ref(), file.as_os_str()]);
        assert_eq!(output.status.code(), Some(0), "{}: {}", file.display(), said(&output));
    }
}
