//! `cargo xtask setup`: finds what building, testing and the demo need, and installs what is missing.
//!
//! Each step prints one line: what, whether it was found, installed or missing, and its version. Tools that belong to
//! this project alone (bpf-linker, cargo-deny) go into its target directory; the rest are packages of the system. It
//! asks for nothing and changes nothing that is already there.

mod clients;
mod openid;
mod peers;

use std::{
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use anyhow::{Context as _, Result, bail, ensure};

use crate::{
    apt::{self, Apt},
    process,
    project::Project,
    toolchain::{BPF_LINKER_VERSION, Compiler, LLVM_MAJORS, Toolchain, linker_root, llvm_prefix},
};

/// The release of cargo-deny that `--lint` builds.
const CARGO_DENY_VERSION: &str = "0.20.2";

/// What to look at.
#[derive(clap::Args, Clone, Copy)]
pub(crate) struct Options {
    /// Only report; fail if something needed is missing.
    #[arg(long)]
    check: bool,
    /// Also what `bench` needs, and its peers as far as they can be had.
    #[arg(long)]
    bench: bool,
    /// Also what `lint` can use: cargo-deny, which takes minutes to build.
    #[arg(long)]
    lint: bool,
}

/// Reports, installs, and fails if something needed is still missing.
pub(crate) fn run(project: &Project, options: Options) -> Result<ExitCode> {
    let mut steps = Steps::new(options.check, Box::new(io::stdout()));
    steps.toolchain(project);
    steps.programs(options.bench);
    steps.clients(project);
    steps.openid(project);
    if options.bench {
        steps.peers(project);
    }
    if options.lint {
        steps.cargo_deny(project);
    }
    steps.finish()?;
    Ok(ExitCode::SUCCESS)
}

/// The working eBPF toolchains, best first; sets one up if there is none.
pub(crate) fn toolchains(project: &Project) -> Result<Vec<Toolchain>> {
    let working = Toolchain::working(project);
    if !working.is_empty() {
        return Ok(working);
    }
    let mut steps = Steps::new(false, Box::new(io::stderr()));
    steps.toolchain(project);
    steps.finish()?;
    Ok(Toolchain::working(project))
}

/// Installs the programs that tests and the demo start, or benches too; prints nothing when all are there.
pub(crate) fn programs(for_bench: bool) -> Result<()> {
    let is_missing =
        |program: &Program| program.is_needed(for_bench) && process::find(program.name).is_none();
    if !PROGRAMS.iter().any(is_missing) {
        return Ok(());
    }
    let mut steps = Steps::new(false, Box::new(io::stderr()));
    steps.programs(for_bench);
    steps.finish()
}

/// Installs what clients in the tests are written in, and the provider where they log in; prints nothing when all is
/// there, and goes on where it can't be.
pub(crate) fn clients(project: &Project) -> Result<()> {
    if clients::are_there(project) && openid::is_there(project) {
        return Ok(());
    }
    let mut steps = Steps::new(false, Box::new(io::stderr()));
    steps.clients(project);
    steps.openid(project);
    steps.finish()
}

/// A program of the system that others of our commands start.
struct Program {
    name: &'static str,
    package: &'static str,
    version_flag: &'static str,
    need: Need,
}

#[derive(PartialEq, Eq)]
enum Need {
    /// Tests and the demo start it.
    Lab,
    /// As `Lab`, but where it cannot be installed, its tests are skipped by name.
    Wanted,
    /// Only benches start it.
    Bench,
    /// Good to have when something goes wrong.
    Optional,
}

impl Program {
    fn is_needed(&self, for_bench: bool) -> bool {
        match self.need {
            Need::Lab | Need::Wanted => true,
            Need::Bench => for_bench,
            Need::Optional => false,
        }
    }
}

const PROGRAMS: &[Program] = &[
    Program { name: "ip", package: "iproute2", version_flag: "-V", need: Need::Lab },
    Program { name: "curl", package: "curl", version_flag: "-V", need: Need::Lab },
    Program { name: "nginx", package: "nginx-light", version_flag: "-v", need: Need::Lab },
    Program { name: "g++", package: "g++", version_flag: "--version", need: Need::Lab },
    Program { name: "node", package: "nodejs", version_flag: "--version", need: Need::Lab },
    Program { name: "python3", package: "python3", version_flag: "--version", need: Need::Lab },
    Program { name: "openssl", package: "openssl", version_flag: "version", need: Need::Lab },
    Program { name: "testssl", package: "testssl.sh", version_flag: "--version", need: Need::Lab },
    Program { name: "wrk", package: "wrk", version_flag: "-v", need: Need::Lab },
    // Brings h2load as well, which tests start, too.
    Program { name: "nghttp", package: "nghttp2-client", version_flag: "--version", need: Need::Lab },
    Program { name: "h2load", package: "nghttp2-client", version_flag: "--version", need: Need::Bench },
    Program { name: "ethtool", package: "ethtool", version_flag: "--version", need: Need::Bench },
    Program { name: "npm", package: "npm", version_flag: "--version", need: Need::Wanted },
    Program { name: "chromium", package: "chromium", version_flag: "--version", need: Need::Wanted },
    Program { name: "cscli", package: "crowdsec", version_flag: "version", need: Need::Wanted },
    Program { name: "bpftool", package: "bpftool", version_flag: "version", need: Need::Optional },
];

/// How a step ended.
enum Outcome {
    Found(String),
    Installed(String),
    /// Not there, and nothing fails for it.
    Absent(String),
}

struct Steps {
    check: bool,
    /// Standard output belongs to the command that the user gave, which may be another than `setup`.
    out: Box<dyn Write>,
    apt: Apt,
    missing: Vec<String>,
}

impl Steps {
    fn new(check: bool, out: Box<dyn Write>) -> Self {
        Self { check, out, apt: Apt::new(), missing: Vec::new() }
    }

    /// Makes the first compiler that can work work.
    fn toolchain(&mut self, project: &Project) {
        let mut compilers = Compiler::present();
        if !compilers.contains(&Compiler::Debian) {
            compilers.push(Compiler::Debian);
        }
        if !compilers.iter().any(|compiler| matches!(compiler, Compiler::Nightly(_)))
            && process::find("rustup").is_some()
        {
            compilers.push(Compiler::Nightly("nightly".to_owned()));
        }
        // One that is complete spares the machine another; among equals the order stays.
        compilers.sort_by_key(|compiler| !compiler.has_core().unwrap_or(false));
        let works = compilers.into_iter().any(|compiler| self.compiler(project, compiler));
        if !works {
            self.missing.push("eBPF toolchain".to_owned());
        }
    }

    /// The four steps of one toolchain; whether it works in the end.
    fn compiler(&mut self, project: &Project, compiler: Compiler) -> bool {
        let label = compiler.label();
        let check = self.check;
        let installed =
            self.step(&format!("eBPF compiler ({label})"), |apt| core_library(&compiler, check, apt));
        let Some(version) = compiler.version().ok().filter(|_| installed) else { return false };
        self.step(&format!("LLVM {} ({label})", version.llvm), |apt| llvm(version.llvm, check, apt))
            && self.step(&format!("bpf-linker ({label})"), |_| bpf_linker(project, version.llvm, check))
            && self.step(&format!("eBPF probe ({label})"), |_| {
                Toolchain::of(project, compiler)?.probe(project)?;
                Ok(Outcome::Found("compiles, links and carries BTF".to_owned()))
            })
    }

    /// The needed programs, and those that are only good to have.
    fn programs(&mut self, for_bench: bool) {
        for program in PROGRAMS {
            if program.is_needed(for_bench) || program.need == Need::Optional {
                self.program(program);
            }
        }
    }

    fn program(&mut self, program: &Program) {
        let check = self.check;
        let ok = self.step(program.name, |apt| {
            if let Some(path) = process::find(program.name) {
                return Ok(Outcome::Found(version_of(&path, program.version_flag)));
            }
            if program.need == Need::Optional {
                return Ok(Outcome::Absent(format!("optional; {}", apt::advice(&[program.package]))));
            }
            ensure!(!check, apt::advice(&[program.package]));
            if program.package == "crowdsec" {
                keep_unregistered()?;
            }
            apt.install(&[program.package])?;
            match program.package {
                "nginx-light" => leave_stopped("nginx"),
                "crowdsec" => leave_stopped("crowdsec"),
                _ => {}
            }
            let path = process::find(program.name)
                .with_context(|| format!("package {} brought no {}", program.package, program.name))?;
            Ok(Outcome::Installed(version_of(&path, program.version_flag)))
        });
        if !ok && program.need != Need::Wanted {
            self.missing.push(program.name.to_owned());
        }
    }

    fn cargo_deny(&mut self, project: &Project) {
        let check = self.check;
        let ok = self.step("cargo-deny", |_| {
            if let Some(path) = cargo_deny(project) {
                return Ok(Outcome::Found(version_of(&path, "--version")));
            }
            let root = project.tools().join("cargo-deny");
            let mut install = cargo_install(project, "cargo-deny", CARGO_DENY_VERSION, &root);
            ensure!(!check, "run: cargo xtask setup --lint");
            process::quiet(&mut install)?;
            Ok(Outcome::Installed(version_of(&root.join("bin/cargo-deny"), "--version")))
        });
        if !ok {
            self.missing.push("cargo-deny".to_owned());
        }
    }

    /// Prints the one line of a step: its name before it starts, the outcome when it is over.
    fn step(&mut self, name: &str, perform: impl FnOnce(&mut Apt) -> Result<Outcome>) -> bool {
        // A terminal that is gone is no reason to stop installing: what can't be printed is dropped, here and below.
        let _ = write!(self.out, "{name:<26}").and_then(|()| self.out.flush());
        let outcome = perform(&mut self.apt);
        let _ = match &outcome {
            Ok(Outcome::Found(detail)) => writeln!(self.out, "found      {detail}"),
            Ok(Outcome::Installed(detail)) => writeln!(self.out, "installed  {detail}"),
            Ok(Outcome::Absent(detail)) => writeln!(self.out, "missing    {detail}"),
            Err(error) => writeln!(self.out, "missing    {error:#}"),
        };
        outcome.is_ok()
    }

    fn finish(self) -> Result<()> {
        if !self.missing.is_empty() {
            let then = if self.check {
                "run: cargo xtask setup"
            } else {
                "do what the lines above say, then repeat"
            };
            bail!("missing: {}; {then}", self.missing.join(", "));
        }
        Ok(())
    }
}

/// cargo-deny of this project, or of the system.
pub(crate) fn cargo_deny(project: &Project) -> Option<PathBuf> {
    let own = project.tools().join("cargo-deny/bin/cargo-deny");
    if own.exists() { Some(own) } else { process::find("cargo-deny") }
}

fn core_library(compiler: &Compiler, check: bool, apt: &mut Apt) -> Result<Outcome> {
    const DEBIAN_PACKAGES: [&str; 2] = ["rustc-web", "libstd-rust-web-dev-bpf"];
    if compiler.has_core().unwrap_or(false) {
        return Ok(Outcome::Found(compiler.version()?.to_string()));
    }
    match compiler {
        Compiler::Nightly(toolchain) => {
            // A toolchain that is there gets the component; one that is not comes with nothing else.
            let mut rustup = Command::new("rustup");
            if compiler.version().is_ok() {
                rustup.args(["component", "add", "rust-src", "--toolchain", toolchain]);
            } else {
                rustup.args([
                    "toolchain",
                    "install",
                    toolchain,
                    "--profile",
                    "minimal",
                    "--component",
                    "rust-src",
                ]);
            }
            ensure!(!check, "run: {}", process::display(&rustup));
            process::quiet(&mut rustup)?;
        }
        Compiler::Debian => {
            ensure!(!check, apt::advice(&DEBIAN_PACKAGES));
            apt.install(&DEBIAN_PACKAGES)?;
        }
    }
    ensure!(compiler.has_core()?, "installed, but its core library for eBPF is not where it should be");
    Ok(Outcome::Installed(compiler.version()?.to_string()))
}

fn llvm(major: u32, check: bool, apt: &mut Apt) -> Result<Outcome> {
    ensure!(LLVM_MAJORS.contains(&major), "bpf-linker {BPF_LINKER_VERSION} knows only LLVM {LLVM_MAJORS:?}");
    let prefix = llvm_prefix(major);
    let is_there = || prefix.join("lib/libLLVM.so").exists();
    if is_there() {
        return Ok(Outcome::Found(prefix.display().to_string()));
    }
    let package = format!("llvm-{major}-dev");
    ensure!(!check, "{}; or set LLVM_PREFIX", apt::advice(&[&package]));
    apt.install(&[&package])?;
    ensure!(is_there(), "{package} is installed, but {} has no lib/libLLVM.so", prefix.display());
    Ok(Outcome::Installed(prefix.display().to_string()))
}

fn bpf_linker(project: &Project, llvm: u32, check: bool) -> Result<Outcome> {
    let root = linker_root(project, llvm);
    let linker = root.join("bin/bpf-linker");
    if linker.exists() {
        return Ok(Outcome::Found(version_of(&linker, "--version")));
    }
    ensure!(!check, "run: cargo xtask setup");
    let mut install = cargo_install(project, "bpf-linker", BPF_LINKER_VERSION, &root);
    install.args(["--no-default-features", "--features", &format!("llvm-{llvm}")]);
    // Its build script looks here for libLLVM, and the binary keeps the path.
    install.env("LLVM_PREFIX", llvm_prefix(llvm));
    process::quiet(&mut install)?;
    Ok(Outcome::Installed(version_of(&linker, "--version")))
}

/// `cargo install` into the project's own tools; what it compiles on the way is thrown away at the end.
fn cargo_install(project: &Project, name: &str, version: &str, root: &Path) -> Command {
    let mut command = project.cargo("install");
    command
        .args([name, "--version", version, "--locked", "--root"])
        .arg(root)
        // A shared target directory would make the tool wait for every other build.
        .env_remove("CARGO_TARGET_DIR")
        .env_remove("RUSTFLAGS");
    command
}

/// CrowdSec's package registers the machine with the makers' own service, and fails where that can't be reached; it
/// does neither where this file has something in it.
fn keep_unregistered() -> Result<()> {
    let file = Path::new("/etc/crowdsec/online_api_credentials.yaml");
    if fs::metadata(file).is_ok_and(|metadata| metadata.len() > 0) {
        return Ok(());
    }
    fs::create_dir_all("/etc/crowdsec").context("making /etc/crowdsec")?;
    fs::write(file, "# Not registered with the central API; `cscli capi register` does it.\n")
        .with_context(|| format!("writing {}", file.display()))
}

/// A server that listens is no thing to leave behind; only its program is wanted.
fn leave_stopped(service: &str) {
    let mut command = if Path::new("/run/systemd/system").exists() {
        let mut command = Command::new("systemctl");
        command.args(["disable", "--now", service]);
        command
    } else {
        let mut command = Command::new(format!("/etc/init.d/{service}"));
        command.arg("stop");
        command
    };
    // Where there is no such service there is nothing to stop.
    let _ = process::quiet(&mut command);
}

/// The first line that names a version; some programs write it to standard error, some fail on the way.
fn version_of(program: &Path, flag: &str) -> String {
    let said = Command::new(program).arg(flag).output().map(|output| [output.stdout, output.stderr].concat());
    let said = String::from_utf8_lossy(&said.unwrap_or_default()).into_owned();
    // Colours are digits as well, but not with a dot behind them.
    let has_version =
        |line: &&str| line.as_bytes().windows(2).any(|pair| matches!(pair, [b'0'..=b'9', b'.']));
    let line = said.lines().find(has_version).unwrap_or("version unknown");
    line.chars().filter(|c| !c.is_control()).take(60).collect()
}
