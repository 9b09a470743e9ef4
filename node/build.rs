//! Compiles the local API; `protox` stands in for `protoc`, so nobody has to install it.

use std::path::PathBuf;

use prost::Message;

const API: &str = "waypost/v1/waypost.proto";
const PROTO: &str = "../proto";

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed={PROTO}/{API}");
    let descriptors = protox::compile([API], [PROTO])?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("waypost.v1.descriptors"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure().bytes(".").btree_map(".").compile_fds(descriptors)?;
    Ok(())
}
