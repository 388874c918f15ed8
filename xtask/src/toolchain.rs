//! The eBPF toolchain: a compiler for `bpfel-unknown-none`, the bpf-linker that matches its LLVM, and their flags.
//!
//! A compiler counts as working once it has compiled and linked a tiny program; the answer is kept beside the tools
//! until the compiler or the linker changes. Nothing is installed here: that is `setup`.

use std::{
    env, fmt, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};

use crate::{
    object, process,
    project::{self, Project, write_if_changed},
};

/// The release of bpf-linker that `setup` builds.
pub(crate) const BPF_LINKER_VERSION: &str = "0.13.0";
/// The LLVM releases that this bpf-linker can be built against.
pub(crate) const LLVM_MAJORS: [u32; 3] = [21, 22, 23];
/// Little-endian eBPF: every CPU we run on is little-endian.
pub(crate) const TARGET: &str = "bpfel-unknown-none";
/// Debian's compiler for its browsers; its package `libstd-rust-web-dev-bpf` brings `core` for eBPF.
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";

/// A compiler that may know eBPF, in the order of preference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Compiler {
    /// A nightly toolchain of rustup, by its name, that builds `core` from `rust-src`.
    Nightly(String),
    /// Debian's rustc, with a `core` that is compiled already.
    Debian,
}

impl Compiler {
    /// Those that are on this machine, whether or not they are complete.
    pub(crate) fn present() -> Vec<Self> {
        let mut found: Vec<Self> = nightly().map(Self::Nightly).into_iter().collect();
        if Path::new(DEBIAN_RUSTC).exists() {
            found.push(Self::Debian);
        }
        found
    }

    /// The name of its directory and of its lines in the output.
    pub(crate) fn label(&self) -> &'static str {
        match self {
            Self::Nightly(_) => "nightly",
            Self::Debian => "debian",
        }
    }

    /// What `rustc -vV` says.
    pub(crate) fn version(&self) -> Result<Version> {
        Version::parse(&process::output(self.rustc().arg("-vV"))?)
    }

    /// Whether the sources or the library of `core` for eBPF are there.
    pub(crate) fn has_core(&self) -> Result<bool> {
        let part = match self {
            Self::Nightly(_) => "lib/rustlib/src/rust/library/core/src/lib.rs".to_owned(),
            Self::Debian => format!("lib/rustlib/{TARGET}/lib"),
        };
        Ok(self.sysroot()?.join(part).exists())
    }

    fn sysroot(&self) -> Result<PathBuf> {
        let path = process::output(self.rustc().args(["--print", "sysroot"]))?;
        Ok(PathBuf::from(path.trim()))
    }

    fn rustc(&self) -> Command {
        match self {
            Self::Nightly(toolchain) => rustup_run(toolchain, "rustc"),
            Self::Debian => plain(Command::new(DEBIAN_RUSTC)),
        }
    }

    /// `cargo build` for eBPF.
    fn cargo_build(&self) -> Command {
        let mut command = match self {
            Self::Nightly(toolchain) => rustup_run(toolchain, "cargo"),
            // Proc macros and build scripts are compiled by the same rustc, so they fit it.
            Self::Debian => {
                let mut command = plain(Command::new(project::cargo()));
                command.env("RUSTC", DEBIAN_RUSTC).env("RUSTC_BOOTSTRAP", "1");
                command
            }
        };
        command.args(["build", "--target", TARGET]);
        if matches!(self, Self::Nightly(_)) {
            command.arg("-Zbuild-std=core");
        }
        command
    }
}

/// What is worth knowing of `rustc -vV`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Version {
    /// As `1.97.0-nightly`.
    pub(crate) release: String,
    /// As `22`; bitcode can be read by this LLVM and by later ones.
    pub(crate) llvm: u32,
    /// All of it, to notice a change.
    verbose: String,
}

impl Version {
    fn parse(verbose: &str) -> Result<Self> {
        let field = |name: &str| {
            let value = verbose.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
            value.with_context(|| format!("`rustc -vV` does not say its {name}"))
        };
        let llvm = field("LLVM version")?;
        let llvm = llvm.split('.').next().unwrap_or_default().parse();
        Ok(Self {
            release: field("release")?.to_owned(),
            llvm: llvm.context("`rustc -vV` says an LLVM version without a number")?,
            verbose: verbose.to_owned(),
        })
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, LLVM {}", self.release, self.llvm)
    }
}

/// A compiler with the linker that fits it.
pub(crate) struct Toolchain {
    /// The compiler.
    pub(crate) compiler: Compiler,
    /// What the compiler says of itself.
    pub(crate) version: Version,
    /// The linker's absolute path.
    pub(crate) linker: PathBuf,
}

impl Toolchain {
    /// Every toolchain on this machine that works, best first.
    pub(crate) fn working(project: &Project) -> Vec<Self> {
        let complete =
            Compiler::present().into_iter().filter_map(|compiler| Self::of(project, compiler).ok());
        complete.filter(|toolchain| toolchain.probe(project).is_ok()).collect()
    }

    /// Joins the compiler and its linker; an error if the linker is missing.
    pub(crate) fn of(project: &Project, compiler: Compiler) -> Result<Self> {
        let version = compiler.version()?;
        let linker = linker_root(project, version.llvm).join("bin/bpf-linker");
        ensure!(linker.exists(), "{} is missing", linker.display());
        Ok(Self { compiler, version, linker })
    }

    /// Compiles and links a tiny program unless this very pair has done so before.
    pub(crate) fn probe(&self, project: &Project) -> Result<()> {
        let directory = project.tools().join("probe").join(self.compiler.label());
        let stamp = directory.join("works");
        let subject = format!(
            "{}{}\n{BPF_LINKER_VERSION}\n{PROBE_SOURCE}",
            self.version.verbose,
            self.linker.display()
        );
        if fs::read_to_string(&stamp).is_ok_and(|held| held == subject) {
            return Ok(());
        }
        write_if_changed(&directory.join("Cargo.toml"), PROBE_MANIFEST.as_bytes())?;
        write_if_changed(&directory.join("src/main.rs"), PROBE_SOURCE.as_bytes())?;
        let target = directory.join("target");
        process::quiet(self.build_command(&directory, &target)?.arg("--release"))?;
        let object = target.join(TARGET).join("release/probe");
        let sections =
            object::sections(&fs::read(&object).with_context(|| format!("reading {}", object.display()))?)?;
        ensure!(
            sections.iter().any(|section| section.name == "xdp")
                && sections.iter().any(|section| section.name == ".BTF"),
            "the probe was built without its program or without BTF"
        );
        write_if_changed(&stamp, subject.as_bytes())
    }

    /// `cargo build` for eBPF in the workspace at `root`, into `target`, with flags that leave no path in the object.
    pub(crate) fn build_command(&self, root: &Path, target: &Path) -> Result<Command> {
        let remap = |from: &Path, to: &str| format!("--remap-path-prefix={}={to}", from.display());
        let mut flags = vec![
            format!("-Clinker={}", self.linker.display()),
            "-Clink-arg=--btf".to_owned(),
            // v3 has 32-bit arithmetic, which generic code lacks; every kernel since 5.1 takes it.
            "-Ctarget-cpu=v3".to_owned(),
            remap(root, "/portcullis"),
            remap(&self.compiler.sysroot()?, "/rust"),
        ];
        flags.extend(cargo_home().map(|home| remap(&home, "/cargo")));

        let mut command = self.compiler.cargo_build();
        command
            .current_dir(root)
            .env("CARGO_TARGET_DIR", target)
            // Unlike RUSTFLAGS, this one stands paths with spaces.
            .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"));
        Ok(command)
    }
}

/// Where `cargo install --root` puts the bpf-linker for this LLVM.
pub(crate) fn linker_root(project: &Project, llvm: u32) -> PathBuf {
    project.tools().join(format!("bpf-linker-{BPF_LINKER_VERSION}-llvm-{llvm}"))
}

/// The prefix of an LLVM with its development files: `LLVM_PREFIX`, or where Debian has it.
pub(crate) fn llvm_prefix(llvm: u32) -> PathBuf {
    env::var_os("LLVM_PREFIX").map_or_else(|| format!("/usr/lib/llvm-{llvm}").into(), PathBuf::from)
}

/// The undated nightly of rustup if there is one, otherwise any.
fn nightly() -> Option<String> {
    process::find("rustup")?;
    let list = process::output(Command::new("rustup").args(["toolchain", "list"])).ok()?;
    pick_nightly(&list).map(str::to_owned)
}

fn pick_nightly(list: &str) -> Option<&str> {
    let is_dated =
        |name: &&str| name.strip_prefix("nightly-").is_some_and(|rest| rest.starts_with(char::is_numeric));
    let names = list.lines().filter_map(|line| line.split_whitespace().next());
    names.filter(|name| name.starts_with("nightly")).min_by_key(is_dated)
}

fn rustup_run(toolchain: &str, program: &str) -> Command {
    let mut command = plain(Command::new("rustup"));
    command.args(["run", toolchain, program]);
    command
}

/// Without what the cargo that runs this tool, or its user, has set for programs of the host.
fn plain(mut command: Command) -> Command {
    const HOST_ONLY: [&str; 9] = [
        "CARGO_BUILD_TARGET",
        "CARGO_ENCODED_RUSTFLAGS",
        "CARGO_INCREMENTAL",
        "LD_LIBRARY_PATH",
        "RUSTC",
        "RUSTC_WORKSPACE_WRAPPER",
        "RUSTC_WRAPPER",
        "RUSTFLAGS",
        "RUSTUP_TOOLCHAIN",
    ];
    for name in HOST_ONLY {
        command.env_remove(name);
    }
    command
}

fn cargo_home() -> Option<PathBuf> {
    let home = || Some(PathBuf::from(env::var_os("HOME")?).join(".cargo"));
    env::var_os("CARGO_HOME").map(PathBuf::from).or_else(home)
}

const PROBE_MANIFEST: &str = r#"[package]
name = "probe"
edition = "2024"
rust-version = "1.95"

[profile.release]
debug = 2
panic = "abort"

[workspace]
"#;

const PROBE_SOURCE: &str = r#"#![no_std]
#![no_main]

#[unsafe(no_mangle)]
#[unsafe(link_section = "xdp")]
extern "C" fn probe(_context: *mut core::ffi::c_void) -> u32 {
    2
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    loop {}
}
"#;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_says_release_and_llvm() {
        let version = Version::parse("rustc 1.96.0\nrelease: 1.96.0\nLLVM version: 22.1.8\n").unwrap();
        assert_eq!((version.release.as_str(), version.llvm), ("1.96.0", 22));
        assert!(Version::parse("rustc 1.96.0\nrelease: 1.96.0\n").is_err());
        assert!(Version::parse("release: 1.96.0\nLLVM version: unknown\n").is_err());
    }

    #[test]
    fn the_undated_nightly_is_preferred() {
        #[track_caller]
        fn check(list: &str, expected: Option<&str>) {
            assert_eq!(pick_nightly(list), expected);
        }
        check("stable-x86_64-unknown-linux-gnu (active, default)\n", None);
        check("no installed toolchains\n", None);
        check("stable-x86_64\nnightly-x86_64\n", Some("nightly-x86_64"));
        check("nightly-2026-05-01-x86_64\nnightly-x86_64\n", Some("nightly-x86_64"));
        check("nightly-2026-05-01-x86_64\n", Some("nightly-2026-05-01-x86_64"));
    }
}
