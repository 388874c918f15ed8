//! Which CPU belongs to whom, and what a proxy spent on it.
//!
//! Time comes from `/proc/PID/task/TID/schedstat`, whose first field is a task's time on a CPU in nanoseconds. It holds
//! the softirq work done in the task's context and io-wq's workers, which are tasks of the process; a kernel with
//! `CONFIG_IRQ_TIME_ACCOUNTING` keeps softirq out of it, and then [`CoreTime`] shows it as somebody else's.
//! Source: proc(5), the kernel's `Documentation/scheduler/sched-stats.rst`.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
    thread,
};

use anyhow::{Context, bail};

/// A proxy's process tree may hold so many processes; more means that this reads something else.
const PROCESSES_MAX: usize = 64;

/// One CPU for the proxy, the others for load and upstream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Cores {
    /// The CPU that every subject is held on.
    pub(super) proxy: usize,
    /// Where load and upstream run.
    pub(super) load: Vec<usize>,
}

impl Cores {
    /// Divides the CPUs that this process may run on.
    pub(super) fn divide() -> anyhow::Result<Self> {
        let mut allowed = (0..libc::CPU_SETSIZE as usize).filter(|&cpu| is_allowed(cpu));
        let proxy = allowed.next();
        let load: Vec<_> = allowed.collect();
        match proxy {
            Some(proxy) if !load.is_empty() => Ok(Self { proxy, load }),
            _ => bail!("the bench needs two CPUs: one for the proxy, one for load and upstream"),
        }
    }
}

fn is_allowed(cpu: usize) -> bool {
    // SAFETY: an all-zero cpu_set_t is a valid, empty set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: `set` outlives both calls, the size is its own, and `cpu` is below CPU_SETSIZE.
    unsafe { libc::sched_getaffinity(0, size_of_val(&set), &raw mut set) == 0 && libc::CPU_ISSET(cpu, &set) }
}

/// Runs `work` on a fresh thread that is held on `cpus`; what it starts inherits that.
pub(super) fn on<T: Send>(
    cpus: &[usize],
    work: impl FnOnce() -> anyhow::Result<T> + Send,
) -> anyhow::Result<T> {
    thread::scope(|scope| {
        let pinned = scope.spawn(|| {
            pin_calling_thread(cpus).with_context(|| format!("sched_setaffinity to {cpus:?}"))?;
            work()
        });
        pinned.join().unwrap_or_else(|payload| std::panic::resume_unwind(payload))
    })
}

/// Holds the calling thread on `cpus`.
pub(super) fn pin_calling_thread(cpus: &[usize]) -> io::Result<()> {
    // 0 is the calling thread.
    pin(0, cpus)
}

/// Holds a thread on `cpus`.
pub(super) fn pin(thread: u32, cpus: &[usize]) -> io::Result<()> {
    // SAFETY: an all-zero cpu_set_t is a valid, empty set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    for &cpu in cpus.iter().filter(|&&cpu| cpu < libc::CPU_SETSIZE as usize) {
        // SAFETY: `cpu` is below CPU_SETSIZE.
        unsafe { libc::CPU_SET(cpu, &mut set) };
    }
    // SAFETY: `set` outlives the call and the size is its own.
    let held = unsafe { libc::sched_setaffinity(thread.cast_signed(), size_of_val(&set), &raw const set) };
    if held == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Has a thread run before all others (`SCHED_FIFO`), or as others do.
pub(super) fn prioritise(thread: u32, first: bool) -> io::Result<()> {
    let (policy, sched_priority) = if first { (libc::SCHED_FIFO, 1) } else { (libc::SCHED_OTHER, 0) };
    let parameters = libc::sched_param { sched_priority };
    // SAFETY: `parameters` outlives the call.
    let set = unsafe { libc::sched_setscheduler(thread.cast_signed(), policy, &raw const parameters) };
    if set == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Time on a CPU so far, by task, of a process and all its descendants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Usage {
    task_ns: BTreeMap<u32, u64>,
}

/// What was spent between two [`Usage`]s.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Spent {
    /// Nanoseconds on a CPU.
    pub(super) cpu_ns: u64,
    /// Tasks that ended in between: what they spent at last is missing above.
    pub(super) tasks_ended: usize,
}

impl Usage {
    /// Reads it for process `pid` and its descendants.
    pub(super) fn of(pid: u32) -> anyhow::Result<Self> {
        let mut task_ns = BTreeMap::new();
        walk(pid, |_, task| {
            if let Some(ns) = read_task(&task.directory, "schedstat", parse_schedstat)? {
                task_ns.insert(task.tid, ns);
            }
            Ok(())
        })?;
        Ok(Self { task_ns })
    }

    /// What was spent since `earlier`.
    pub(super) fn since(&self, earlier: &Self) -> Spent {
        let before = |tid| earlier.task_ns.get(tid).copied().unwrap_or(0);
        let cpu_ns = self.task_ns.iter().map(|(tid, ns)| ns.saturating_sub(before(tid))).sum();
        let tasks_ended = earlier.task_ns.keys().filter(|tid| !self.task_ns.contains_key(tid)).count();
        Spent { cpu_ns, tasks_ended }
    }
}

/// A process and all its descendants.
pub(super) fn processes(pid: u32) -> anyhow::Result<BTreeSet<u32>> {
    let mut processes = BTreeSet::new();
    walk(pid, |process, _| {
        processes.insert(process);
        Ok(())
    })?;
    Ok(processes)
}

/// Shows every task of a process tree to `see`.
fn walk(pid: u32, mut see: impl FnMut(u32, &Task) -> anyhow::Result<()>) -> anyhow::Result<()> {
    let mut processes = vec![pid];
    let mut seen = 0;
    while let Some(process) = processes.pop() {
        seen += 1;
        if seen > PROCESSES_MAX {
            bail!("process {pid} has more than {PROCESSES_MAX} descendants");
        }
        for task in tasks(process).with_context(|| format!("tasks of process {process}"))? {
            see(process, &task)?;
            processes.extend(read_task(&task.directory, "children", parse_children)?.unwrap_or_default());
        }
    }
    Ok(())
}

struct Task {
    tid: u32,
    directory: PathBuf,
}

fn tasks(process: u32) -> io::Result<Vec<Task>> {
    let mut tasks = Vec::new();
    for entry in fs::read_dir(format!("/proc/{process}/task"))? {
        let entry = entry?;
        if let Some(tid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) {
            tasks.push(Task { tid, directory: entry.path() });
        }
    }
    Ok(tasks)
}

/// Reads and parses a file of a task; `None` when the task has ended meanwhile.
fn read_task<T>(directory: &Path, file: &str, parse: fn(&str) -> Option<T>) -> anyhow::Result<Option<T>> {
    let path = directory.join(file);
    match fs::read_to_string(&path) {
        Ok(text) => Ok(Some(parse(&text).with_context(|| format!("{}: {text:?}", path.display()))?)),
        Err(_) if !directory.exists() => Ok(None),
        Err(error) => Err(error).with_context(|| path.display().to_string()),
    }
}

/// `NS-ON-CPU NS-WAITING TIMESLICES`: the first.
fn parse_schedstat(text: &str) -> Option<u64> {
    let mut fields = text.split_ascii_whitespace().map(str::parse);
    match (fields.next(), fields.next(), fields.next()) {
        (Some(Ok(ns)), Some(Ok(_)), Some(Ok(_))) => Some(ns),
        _ => None,
    }
}

/// Process ids between blanks.
fn parse_children(text: &str) -> Option<Vec<u32>> {
    text.split_ascii_whitespace().map(|pid| pid.parse().ok()).collect()
}

/// What a CPU has done since boot, in clock ticks: coarse, but it sees everybody.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct CoreTime {
    taken_ticks: u64,
}

impl CoreTime {
    /// Reads it for one CPU.
    pub(super) fn of(cpu: usize) -> anyhow::Result<Self> {
        let text = fs::read_to_string("/proc/stat").context("/proc/stat")?;
        parse_stat(&text, cpu).with_context(|| format!("/proc/stat has no CPU {cpu}"))
    }

    /// Seconds since `earlier` in which it was busy or stolen by the hypervisor.
    pub(super) fn taken_s_since(self, earlier: Self) -> f64 {
        // SAFETY: sysconf(3) takes no pointer.
        let ticks_per_s = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
        let ticks = u32::try_from(self.taken_ticks.saturating_sub(earlier.taken_ticks)).unwrap_or(u32::MAX);
        f64::from(ticks) / f64::from(u32::try_from(ticks_per_s).unwrap_or(100).max(1))
    }
}

/// `cpuN user nice system idle iowait irq softirq steal …`: all but idle and iowait.
fn parse_stat(text: &str, cpu: usize) -> Option<CoreTime> {
    let name = format!("cpu{cpu}");
    let fields = text.lines().find_map(|line| line.strip_prefix(name.as_str())?.strip_prefix(' '))?;
    let ticks: Vec<u64> = fields.split_ascii_whitespace().map_while(|field| field.parse().ok()).collect();
    match ticks.as_slice() {
        [user, nice, system, _, _, irq, softirq, steal, ..] => {
            Some(CoreTime { taken_ticks: user + nice + system + irq + softirq + steal })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[track_caller]
    fn check_schedstat(text: &str, expected: Option<u64>) {
        assert_eq!(parse_schedstat(text), expected, "{text:?}");
    }

    #[test]
    fn schedstat_is_three_numbers() {
        check_schedstat("7123456789 66905 12\n", Some(7_123_456_789));
        check_schedstat("0 0 0\n", Some(0));
        check_schedstat("1 2\n", None);
        check_schedstat("1 x 3\n", None);
        check_schedstat("-1 2 3\n", None);
        check_schedstat("", None);
    }

    #[test]
    fn children_are_process_ids() {
        assert_eq!(parse_children("12 13 \n"), Some(vec![12, 13]));
        assert_eq!(parse_children(""), Some(vec![]));
        assert_eq!(parse_children("12 x"), None);
    }

    #[test]
    fn stat_counts_all_but_idleness() {
        let text =
            "cpu  1 1 1 1 1 1 1 1 0 0\ncpu1 1 2 4 1000 1000 8 16 32 0 0\ncpu10 9 9 9 9 9 9 9 9 0 0\nintr 5\n";
        assert_eq!(parse_stat(text, 1), Some(CoreTime { taken_ticks: 63 }));
        assert_eq!(parse_stat(text, 10), Some(CoreTime { taken_ticks: 54 }));
        assert_eq!(parse_stat(text, 2), None);
        assert_eq!(parse_stat("cpu1 1 2 3\n", 1), None);
    }

    fn usage(tasks: &[(u32, u64)]) -> Usage {
        Usage { task_ns: tasks.iter().copied().collect() }
    }

    #[test]
    fn born_tasks_count_and_ended_ones_are_told() {
        let before = usage(&[(1, 100), (2, 50)]);
        assert_eq!(usage(&[(1, 130), (2, 50)]).since(&before), Spent { cpu_ns: 30, tasks_ended: 0 });
        assert_eq!(usage(&[(1, 130), (2, 50), (3, 7)]).since(&before), Spent { cpu_ns: 37, tasks_ended: 0 });
        assert_eq!(usage(&[(1, 130)]).since(&before), Spent { cpu_ns: 30, tasks_ended: 1 });
    }

    #[test]
    fn a_process_and_its_children_are_read() {
        // The shell waits for its child, which waits for its standard input to end.
        let mut shell = Command::new("sh")
            .args(["-c", "cat; true"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let both = xtask::lab::wait::until(std::time::Duration::from_secs(10), || {
            Usage::of(shell.id()).ok().filter(|usage| usage.task_ns.len() == 2)
        });
        drop(shell.stdin.take());
        shell.wait().unwrap();
        assert!(both.is_some());
        assert!(Usage::of(shell.id()).is_err());
    }

    #[test]
    fn what_is_started_inherits_the_cpu() {
        let Ok(cores) = Cores::divide() else { return };
        let shown = on(&[cores.proxy], || {
            Ok(Command::new("grep").args(["Cpus_allowed_list", "/proc/self/status"]).output()?)
        });
        let shown = String::from_utf8(shown.unwrap().stdout).unwrap();
        assert_eq!(shown.split_whitespace().last(), Some(cores.proxy.to_string().as_str()));
    }
}
