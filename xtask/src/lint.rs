//! `cargo xtask lint`: format, clippy, dependencies, the direction of imports and the length of files.
//!
//! It runs every check even if an earlier one fails, prints what each found and fails if any did.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use anyhow::{Context as _, Result, bail};

use crate::{
    process,
    project::Project,
    setup,
    tidy::{self, Finding, Reserved, Row},
};

/// Which module of the gateway may name which: down the way of a request, never back. `None`: all of them.
const IMPORTS: &[Row] = &[
    ("config", Some(&[])),
    ("keys", Some(&[])),
    ("tls", Some(&["config"])),
    ("net", Some(&[])),
    ("accept", Some(&["config", "net"])),
    ("codec", Some(&[])),
    ("http2", Some(&["net", "codec"])),
    ("decide", Some(&["config", "tls", "codec"])),
    ("forward", Some(&["config", "tls", "codec", "http2", "net", "decide"])),
    ("respond", Some(&["accept", "codec", "decide", "forward"])),
    (
        "serve",
        Some(&[
            "config",
            "tls",
            "net",
            "accept",
            "codec",
            "http2",
            "decide",
            "forward",
            "respond",
            "telemetry",
        ]),
    ),
    ("audit", Some(&["config"])),
    ("telemetry", Some(&["config", "decide", "respond", "audit"])),
    ("nic", Some(&["config"])),
    ("control", Some(&["config", "keys", "tls", "decide", "nic", "respond", "telemetry", "audit"])),
    ("boot", None),
    ("cli", None),
    ("main", None),
    ("lib", None),
];

/// What only some modules may name.
const RESERVED: &[Reserved] = &[
    Reserved {
        words: &["monoio"],
        applies: |module| module != "net",
        reason: "only `net` knows the runtime",
    },
    Reserved {
        words: &["Instant::now", "SystemTime", "elapsed", "clock_gettime", "sleep"],
        applies: is_pure,
        reason: "it reads no clock; take the time as an argument",
    },
    Reserved {
        words: &[
            "TcpStream",
            "TcpListener",
            "UdpSocket",
            "UnixStream",
            "UnixListener",
            "socket2",
            "libc",
            "tokio",
        ],
        applies: is_pure,
        reason: "it knows no socket; take bytes, give bytes",
    },
    Reserved { words: &["unsafe"], applies: is_pure, reason: "it has no need of it" },
];

/// Where our Rust files lie, and how long each may be.
const SOURCES: [&str; 5] = ["gateway", "gateway-ebpf", "xtask", "tests", "benches"];
const FILE_LINES_MAX: usize = 700;

fn is_pure(module: &str) -> bool {
    matches!(module, "codec" | "decide")
}

/// A check prints what it finds; its error says that it found something.
type Check = fn(&Project) -> Result<Verdict>;

/// What becomes of a check that finds nothing wrong.
enum Verdict {
    InOrder,
    /// The tool for it is not here.
    NotChecked,
}

/// Runs all checks.
pub(crate) fn run(project: &Project) -> Result<ExitCode> {
    let checks: [(&str, Check); 5] = [
        ("format", format),
        ("clippy", clippy),
        ("imports", imports),
        ("lengths", lengths),
        ("dependencies", dependencies),
    ];
    let mut failed = Vec::new();
    for (name, check) in checks {
        match check(project) {
            Ok(Verdict::InOrder) => println!("lint: {name}: in order"),
            Ok(Verdict::NotChecked) => println!("lint: {name}: NOT CHECKED"),
            Err(error) => {
                println!("lint: {name}: {error:#}");
                failed.push(name);
            }
        }
    }
    if !failed.is_empty() {
        bail!("lint found fault with: {}", failed.join(", "));
    }
    Ok(ExitCode::SUCCESS)
}

/// Names the files only: `cargo fmt --all` shows and mends the rest.
fn format(project: &Project) -> Result<Verdict> {
    process::run(project.cargo("fmt").args(["--all", "--check", "--", "--files-with-diff"]))
        .context("run: cargo fmt --all")?;
    Ok(Verdict::InOrder)
}

fn clippy(project: &Project) -> Result<Verdict> {
    process::run(project.cargo("clippy").args(["--workspace", "--all-targets", "--", "--deny", "warnings"]))?;
    Ok(Verdict::InOrder)
}

fn imports(project: &Project) -> Result<Verdict> {
    let source = project.root.join("gateway/src");
    let mut findings = Vec::new();
    for file in rust_files(&source)? {
        let relative = file.strip_prefix(&source)?.to_string_lossy().into_owned();
        // Tests that stand beside the code may name whatever they need, as those within a file may.
        if relative.ends_with("tests.rs") {
            continue;
        }
        let found = tidy::check_file(&relative, &read(&file)?, IMPORTS, RESERVED);
        findings.extend(found.iter().map(|finding| place(project, &file, finding)));
    }
    conclude(&findings)
}

fn lengths(project: &Project) -> Result<Verdict> {
    let mut findings = Vec::new();
    for directory in SOURCES {
        for file in rust_files(&project.root.join(directory))? {
            let found = tidy::check_length(&read(&file)?, FILE_LINES_MAX);
            findings.extend(found.map(|finding| place(project, &file, &finding)));
        }
    }
    conclude(&findings)
}

/// Licences, bans and sources always; advisories when their database can be had.
fn dependencies(project: &Project) -> Result<Verdict> {
    let Some(program) = setup::cargo_deny(project) else {
        println!("cargo-deny is not here, dependencies not checked; run: cargo xtask setup --lint");
        return Ok(Verdict::NotChecked);
    };
    let deny = |arguments: &[&str]| {
        let mut command = Command::new(&program);
        command.current_dir(&project.root).args(arguments);
        command
    };
    process::run(&mut deny(&["--workspace", "check", "bans", "licenses", "sources"]))?;
    if process::quiet(&mut deny(&["fetch", "db"])).is_err() {
        println!("the advisory database can't be reached: advisories not checked");
        return Ok(Verdict::InOrder);
    }
    process::run(&mut deny(&["--workspace", "check", "--disable-fetch", "advisories"]))?;
    Ok(Verdict::InOrder)
}

fn read(file: &Path) -> Result<String> {
    fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))
}

/// All `.rs` files below, in order; none if the directory does not exist.
fn rust_files(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    if !directory.exists() {
        return Ok(files);
    }
    for entry in fs::read_dir(directory).with_context(|| format!("reading {}", directory.display()))? {
        let path = entry?.path();
        if path.is_dir() && !path.ends_with("target") {
            files.extend(rust_files(&path)?);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn place(project: &Project, file: &Path, finding: &Finding) -> String {
    let file = file.strip_prefix(&project.root).unwrap_or(file);
    format!("{}:{}: {}", file.display(), finding.line, finding.what)
}

fn conclude(findings: &[String]) -> Result<Verdict> {
    if findings.is_empty() {
        return Ok(Verdict::InOrder);
    }
    bail!("{} found\n{}", findings.len(), findings.join("\n"))
}
