//! Embeds the XDP object where `cargo xtask build` has made one, and says so in `cfg(nic_filter)`.
//!
//! Comes in: `PORTCULLIS_EBPF_OBJECT`, a path. Goes out: `OUT_DIR/portcullis-xdp.o`. Without it the gateway builds
//! all the same, with the stable toolchain alone, and has no filter.

use std::{env, error::Error, fs, path::Path};

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rustc-check-cfg=cfg(nic_filter)");
    println!("cargo::rerun-if-env-changed=PORTCULLIS_EBPF_OBJECT");
    println!("cargo::rerun-if-changed=build.rs");
    let Some(object) = env::var_os("PORTCULLIS_EBPF_OBJECT") else {
        return Ok(());
    };
    println!("cargo::rerun-if-changed={}", object.display());
    if Path::new(&object).is_file() {
        let out_dir = env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?;
        fs::copy(&object, Path::new(&out_dir).join("portcullis-xdp.o"))?;
        println!("cargo::rustc-cfg=nic_filter");
    }
    Ok(())
}
