//! The committed code is what `proto/inference.proto` says: `make proto` writes it.

#![allow(clippy::unwrap_used)] // helpers of tests are tests

use std::fs;
use std::path::Path;

#[path = "../examples/proto.rs"]
mod proto;

#[test]
fn the_committed_code_is_that_of_the_protocol() {
    let folder = tempfile::tempdir().unwrap();
    proto::into(folder.path()).unwrap();
    let checkout = Path::new(env!("CARGO_MANIFEST_DIR"));
    for (name, committed) in
        [("messages.rs", "src/proto/messages.rs"), ("service.rs", "../src/grpc/service.rs")]
    {
        let (generated, committed) = (
            fs::read_to_string(folder.path().join(name)).unwrap(),
            fs::read_to_string(checkout.join(committed)).unwrap(),
        );
        assert!(generated == committed, "{name} is not what the protocol says: run `make proto`");
    }
}
