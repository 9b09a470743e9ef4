//! Compiles the local API's client for the bench; `protox` stands in for `protoc`, so nobody has to install it.

const API: &str = "waypost/v1/waypost.proto";
const PROTO: &str = "../proto";

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed={PROTO}/{API}");
    let descriptors = protox::compile([API], [PROTO])?;
    tonic_prost_build::configure().build_server(false).bytes(".").btree_map(".").compile_fds(descriptors)?;
    Ok(())
}
