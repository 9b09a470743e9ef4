//! Compiles what crosses a hop and what is stored; `protox` stands in for `protoc`, so nobody has to install it.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = ["waypost/v1/hop.proto", "waypost/v1/stored.proto"];
    for file in files {
        println!("cargo::rerun-if-changed={file}");
    }
    let descriptors = protox::compile(files, ["."])?;
    prost_build::Config::new().bytes(["."]).compile_fds(descriptors)?;
    Ok(())
}
