//! `cargo xtask build`: the eBPF object, then the gateway with the object embedded.
//!
//! Goes out: `<target>/ebpf/portcullis-xdp.o`, which the gateway's build script finds through
//! `PORTCULLIS_EBPF_OBJECT`, and a report of the object: size, hash, instructions and what the verifier made of it.

use std::{
    error::Error,
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use anyhow::{Context as _, Result, bail, ensure};
use aya::{EbpfLoader, programs::Program};

use crate::{
    apt, object, process,
    project::{Project, write_if_changed},
    setup,
    toolchain::{TARGET, Toolchain},
};

/// The variable that tells the gateway's build script where the object lies.
pub(crate) const OBJECT_VARIABLE: &str = "PORTCULLIS_EBPF_OBJECT";

/// How to build.
#[derive(clap::Args, Clone, Copy)]
pub(crate) struct Options {
    /// Optimise the gateway; the eBPF object always is.
    #[arg(long)]
    release: bool,
}

/// Builds and reports; without an eBPF compiler it fails.
pub(crate) fn run(project: &Project, options: Options) -> Result<ExitCode> {
    setup::toolchains(project)?;
    let binary = gateway(project, options.release, &mut io::stdout())?;
    println!("gateway       {}", binary.display());
    Ok(ExitCode::SUCCESS)
}

/// Builds both halves, reports the object to `told` and returns the gateway's binary.
///
/// Who may not load a filter can do without: where no eBPF compiler can be had either, the gateway has none.
pub(crate) fn gateway(project: &Project, release: bool, told: &mut impl Write) -> Result<PathBuf> {
    let mut cargo = project.cargo("build");
    cargo.args(["--package", "portcullis", "--bin", "portcullis"]);
    match setup::toolchains(project).and_then(first) {
        Ok(toolchain) => {
            let object = embeddable(project, &ebpf(project, &toolchain)?)?;
            report(&object, &toolchain, told)?;
            cargo.env(OBJECT_VARIABLE, object);
        }
        Err(error) if apt::is_root() => return Err(error),
        Err(error) => {
            writeln!(told, "eBPF object   none, the gateway comes without the NIC filter: {error:#}")?;
        }
    }
    if release {
        cargo.arg("--release");
    }
    process::run(&mut cargo)?;
    Ok(project.target.join(if release { "release" } else { "debug" }).join("portcullis"))
}

fn first(toolchains: Vec<Toolchain>) -> Result<Toolchain> {
    toolchains.into_iter().next().context("no eBPF compiler works: run `cargo xtask setup`")
}

/// Builds the eBPF object with this toolchain, in a directory of its own, and returns its path.
pub(crate) fn ebpf(project: &Project, toolchain: &Toolchain) -> Result<PathBuf> {
    ebpf_at(&project.root, &project.ebpf().join(toolchain.compiler.label()), toolchain)
}

/// Builds the eBPF object of the workspace at `root` into `target`.
pub(crate) fn ebpf_at(root: &Path, target: &Path, toolchain: &Toolchain) -> Result<PathBuf> {
    let mut cargo = toolchain.build_command(root, target)?;
    process::run(cargo.args([
        "--package",
        "gateway-ebpf",
        "--bin",
        "portcullis-xdp",
        "--profile",
        "bpf",
        "--locked",
    ]))?;
    Ok(target.join(TARGET).join("bpf/portcullis-xdp"))
}

/// Puts the object where the gateway's build script looks, whichever compiler made it.
pub(crate) fn embeddable(project: &Project, object: &Path) -> Result<PathBuf> {
    let bytes = fs::read(object).with_context(|| format!("reading {}", object.display()))?;
    check_btf(&bytes).with_context(|| format!("checking {}", object.display()))?;
    let stable = project.ebpf().join("portcullis-xdp.o");
    write_if_changed(&stable, &bytes)?;
    Ok(stable)
}

/// An object without type information would load here and fail on the next kernel.
pub(crate) fn check_btf(elf: &[u8]) -> Result<()> {
    let sections = object::sections(elf)?;
    for name in [".BTF", ".BTF.ext"] {
        ensure!(sections.iter().any(|section| section.name == name), "the object carries no {name}");
    }
    ensure!(sections.iter().any(|section| section.instructions() > 0), "the object holds no program");
    Ok(())
}

fn report(object: &Path, toolchain: &Toolchain, told: &mut impl Write) -> Result<()> {
    let bytes = fs::read(object).with_context(|| format!("reading {}", object.display()))?;
    let sections = object::sections(&bytes)?;
    let code = sections.iter().filter(|section| section.instructions() > 0);
    let parts: Vec<_> =
        code.clone().map(|section| format!("{} {}", section.name, section.instructions())).collect();
    let total: u64 = code.map(object::Section::instructions).sum();

    writeln!(told, "eBPF object   {}", object.display())?;
    writeln!(told, "compiler      {}, {}", toolchain.compiler.label(), toolchain.version)?;
    writeln!(told, "size          {} bytes", bytes.len())?;
    writeln!(told, "sha256        {}", sha256(object)?)?;
    writeln!(told, "instructions  {total} ({})", parts.join(", "))?;
    match verify(&bytes).context("the kernel refuses the eBPF object")? {
        Some(programs) => {
            for Verified { name, instructions } in programs {
                writeln!(told, "verifier      {name}: {instructions} instructions walked")?;
            }
        }
        None => writeln!(told, "verifier      not asked: loading needs root (or CAP_BPF and CAP_NET_ADMIN)")?,
    }
    Ok(())
}

/// A program that the kernel's verifier has let in.
pub(crate) struct Verified {
    /// Its name in the object.
    pub(crate) name: String,
    /// How many instructions the verifier walked, over all paths; the kernel's limit is a million.
    pub(crate) instructions: String,
}

/// Loads every XDP program of the object, attaches none, and lets them go again. `None`: this process may not ask,
/// which in a container root may not either.
pub(crate) fn verify(object: &[u8]) -> Result<Option<Vec<Verified>>> {
    let denied = |cause: &(dyn Error + 'static)| {
        cause.downcast_ref::<io::Error>().is_some_and(|cause| cause.kind() == io::ErrorKind::PermissionDenied)
    };
    match load_all(object) {
        Err(error) if error.chain().any(denied) => Ok(None),
        loaded => loaded.map(Some),
    }
}

fn load_all(object: &[u8]) -> Result<Vec<Verified>> {
    let mut loaded = EbpfLoader::new().load(object).context("loading the object's maps")?;
    let mut verified = Vec::new();
    for (name, program) in loaded.programs_mut() {
        let Program::Xdp(program) = program else {
            bail!("program {name} is no XDP program");
        };
        program.load().with_context(|| format!("loading program {name}"))?;
        let walked = program.info()?.verified_instruction_count();
        // Kernels before 5.16 keep the figure to themselves.
        let instructions =
            walked.map_or_else(|| "an unknown number of".to_owned(), |count| count.to_string());
        verified.push(Verified { name: name.to_owned(), instructions });
    }
    Ok(verified)
}

/// The file's SHA-256, in hexadecimal.
pub(crate) fn sha256(file: &Path) -> Result<String> {
    let line = process::output(Command::new("sha256sum").arg("--").arg(file))?;
    line.split_whitespace().next().map(str::to_owned).context("sha256sum said nothing")
}
