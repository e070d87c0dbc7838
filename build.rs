//! Generates the gRPC code from `proto/`, with a compiler written in Rust, so that no `protoc` is needed.

use std::path::PathBuf;

const FILES: [&str; 3] = [
    "siltstone/v1/common.proto",
    "siltstone/v1/log.proto",
    "siltstone/v1/admin.proto",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=proto");
    let has = |feature: &str| std::env::var_os(format!("CARGO_FEATURE_{feature}")).is_some();
    let descriptors = protox::compile(FILES, ["proto"])?;
    let out = PathBuf::from(std::env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?);
    std::fs::write(
        out.join("siltstone.bin"),
        prost::Message::encode_to_vec(&descriptors),
    )?;
    tonic_prost_build::configure()
        .bytes(".")
        .build_client(has("CLIENT"))
        .build_server(has("SERVER"))
        .compile_fds(descriptors)?;
    Ok(())
}
