//! Running other programs: loudly, quietly or for their output. A failure names the command and what it said.

use std::{
    env,
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Output, Stdio},
};

use anyhow::{Context as _, Result, bail};

/// How many of a failed command's last lines an error repeats.
const LINES_SHOWN_MAX: usize = 30;

/// Runs with the terminal's own input and output; returns however it ended.
pub(crate) fn status(command: &mut Command) -> Result<ExitStatus> {
    command.status().with_context(|| format!("starting {}", display(command)))
}

/// Runs with the terminal's own input and output; anything but success is an error.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = status(command)?;
    if !status.success() {
        bail!("{} ended with {status}", display(command));
    }
    Ok(())
}

/// Runs without a word; anything but success is an error that repeats the last lines.
pub(crate) fn quiet(command: &mut Command) -> Result<()> {
    finish(command).map(drop)
}

/// What the command wrote to its standard output; anything but success is an error that repeats the last lines.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let output = finish(command)?;
    String::from_utf8(output.stdout)
        .with_context(|| format!("{} wrote something else than text", display(command)))
}

/// The program's path, looked up as a shell would; `/usr/sbin` counts too, where Debian keeps nginx and ip.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain([PathBuf::from("/usr/sbin"), PathBuf::from("/sbin")])
        .map(|directory| directory.join(program))
        .find(|candidate| is_executable(candidate))
}

/// The command as one would type it, without the directory of its program.
pub(crate) fn display(command: &Command) -> String {
    let program = Path::new(command.get_program());
    let words = program.file_name().into_iter().chain(command.get_args());
    words.map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
}

fn is_executable(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    path.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}

fn finish(command: &mut Command) -> Result<Output> {
    let output =
        command.stdin(Stdio::null()).output().with_context(|| format!("starting {}", display(command)))?;
    if !output.status.success() {
        let said = [output.stdout.as_slice(), output.stderr.as_slice()].concat();
        bail!(
            "{} ended with {}:\n{}",
            display(command),
            output.status,
            last_lines(&String::from_utf8_lossy(&said))
        );
    }
    Ok(output)
}

fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text.trim_end().lines().collect();
    let first = lines.len().saturating_sub(LINES_SHOWN_MAX);
    lines.into_iter().skip(first).map(|line| format!("  {line}")).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_repeats_only_the_last_lines() {
        let script = format!("seq 1 {}; exit 3", LINES_SHOWN_MAX + 1);
        let error = quiet(Command::new("sh").args(["-c", &script])).unwrap_err().to_string();
        assert!(error.contains("exit status: 3"), "{error}");
        assert!(error.contains("\n  2\n") && !error.contains("\n  1\n"), "{error}");
    }

    #[test]
    fn a_program_is_found_by_name() {
        assert!(find("sh").is_some());
        assert_eq!(find("no-such-program-here"), None);
    }
}
