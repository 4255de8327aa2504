//! Writes `src/gen` anew from the contract: `cargo run -p generate`. Needs no protoc.

use std::error::Error;
use std::path::Path;

fn main() -> Result<(), Box<dyn Error>> {
    let crate_folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .ok_or("this crate lies in no folder")?;
    let protos = crate_folder.join("../../proto");
    let mut files = Vec::new();
    for entry in protos.join("embercache/v1").read_dir()? {
        let path = entry?.path();
        if path
            .extension()
            .is_some_and(|extension| extension == "proto")
        {
            files.push(path);
        }
    }
    files.sort();
    let descriptors = protox::compile(files, [protos])?;
    tonic_prost_build::configure()
        .build_server(false)
        .build_transport(false)
        .out_dir(crate_folder.join("src/gen"))
        .compile_fds(descriptors)?;
    Ok(())
}
