//! `portcullis doctor`: what this machine can do for the filter, and what to do about what it cannot.
//!
//! The facts are `nic::survey`'s; here they are judged, which is pure, and told.

use std::path::{Path, PathBuf};

use clap::Args;
use portcullis::{
    config::Config,
    net,
    nic::{
        features,
        survey::{self, Carried, Survey, Surveyed},
        way_out,
    },
};
use serde_json::json;

use super::{CONFIG_DEFAULT, Told, load};

#[derive(Debug, Args)]
pub(crate) struct Doctor {
    /// The configuration [default: /etc/portcullis/portcullis.toml, if it is there]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// An interface to look at, instead of those of the configuration
    #[arg(long = "interface", value_name = "NAME")]
    interfaces: Vec<String>,
    /// Attach an XDP program to each interface's driver and take it off again: some drivers drop their link for a moment
    #[arg(long = "try")]
    try_native: bool,
    /// One JSON object
    #[arg(long)]
    json: bool,
}

/// How something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum State {
    Ok,
    /// It works, but not as it could.
    Warning,
    /// The gateway does not run like this.
    Failure,
}

/// Something that was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Finding {
    check: String,
    state: State,
    found: String,
    /// What to do.
    advice: String,
}

/// Capabilities (capabilities(7)) by number. `CAP_SYS_ADMIN` stands for the first two and the third.
const NET_ADMIN: u32 = 12;
const SYS_ADMIN: u32 = 21;
const PERFMON: u32 = 38;
const BPF: u32 = 39;

/// What the gateway's rings and the program's helpers are known to need.
const KERNEL_MIN: (u32, u32) = (5, 19);
/// From here on the kernel prefers the socket of the CPU that took the interrupt, whatever the order of the sockets.
const KERNEL_STEERS: (u32, u32) = (6, 2);
/// As many as a worker asks for.
const BACKLOG: u64 = 4096;
/// A descriptor for each of 65 536 connections, and one for its server.
const DESCRIPTORS: u64 = 131_072;
/// A frame longer than this needs several buffers in most drivers.
const MTU_OF_ONE_BUFFER: u32 = 3_498;

impl Doctor {
    pub(crate) fn run(self) -> Told<()> {
        let config = match &self.config {
            Some(file) => Some(load(file)?.config),
            None if Path::new(CONFIG_DEFAULT).exists() => Some(load(Path::new(CONFIG_DEFAULT))?.config),
            None => None,
        };
        let configured =
            config.as_ref().map(|config| config.prefilter.interfaces.clone()).unwrap_or_default();
        let names = match (self.interfaces.is_empty(), configured.is_empty()) {
            (false, _) => self.interfaces,
            (true, false) => configured,
            (true, true) => survey::interfaces(),
        };
        let mut survey = survey::survey(&names, config.as_ref().map(|config| &*config.prefilter.pin_dir));
        if self.try_native {
            for interface in survey.interfaces.iter_mut().filter(|one| one.exists && one.program.is_none()) {
                interface.native = Some(survey::try_native(&interface.name));
            }
        }
        let ring = net::run_on_ring(async {}).map_err(|error| error.to_string());
        let findings = judge(&survey, &ring, config.as_ref());
        let worst = findings.iter().map(|finding| finding.state).max().unwrap_or(State::Ok);
        if self.json {
            println!("{}", to_json(&findings, worst));
        } else {
            print(&findings);
        }
        match findings.iter().filter(|finding| finding.state == State::Failure).count() {
            0 => Ok(()),
            failures => Err(format!("{failures} of {} checks failed", findings.len())),
        }
    }
}

fn judge(survey: &Survey, ring: &Result<(), String>, config: Option<&Config>) -> Vec<Finding> {
    let mut findings = vec![kernel(&survey.kernel), types(survey.has_btf)];
    findings.push(match ring {
        Ok(()) => finding("io_uring", State::Ok, "rings can be made", ""),
        Err(error) => finding("io_uring", State::Failure, error, "see above"),
    });
    findings.push(capabilities(survey.capabilities));
    findings.extend(survey.loads.as_ref().map(|loads| match loads {
        Ok(()) => finding("xdp", State::Ok, "the kernel takes XDP programs", ""),
        Err(error) => finding("xdp", State::Failure, error, "run as root, or with CAP_BPF and CAP_NET_ADMIN"),
    }));
    findings.extend(survey.pins.as_ref().map(|pins| match pins {
        Ok(dir) => finding("pins", State::Ok, &format!("{} can hold them", dir.display()), ""),
        Err(error) => finding("pins", State::Failure, error, "mount -t bpf bpf /sys/fs/bpf"),
    }));
    findings.push(descriptors(survey.descriptors_max));
    findings.extend(survey.settings.iter().filter_map(|(name, value)| setting(name, *value)));
    findings.extend(config.map(allow));
    for interface in &survey.interfaces {
        findings.extend(self::interface(interface, survey.cpus));
    }
    findings
}

fn finding(check: &str, state: State, found: &str, advice: &str) -> Finding {
    let advice = if state == State::Ok { "" } else { advice };
    Finding { check: check.to_owned(), state, found: found.to_owned(), advice: advice.to_owned() }
}

fn kernel(release: &str) -> Finding {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse().unwrap_or(0));
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    let (state, advice) = if version < KERNEL_MIN {
        (State::Failure, "Linux 5.19 or newer is needed")
    } else if version < KERNEL_STEERS {
        (State::Warning, "before Linux 6.2 connections do not land on the CPU that took the interrupt")
    } else {
        (State::Ok, "")
    };
    finding("kernel", state, release, advice)
}

fn types(has_btf: bool) -> Finding {
    if has_btf {
        finding("btf", State::Ok, "the kernel describes its types", "")
    } else {
        finding("btf", State::Warning, "the kernel does not describe its types", "CONFIG_DEBUG_INFO_BTF=y")
    }
}

fn capabilities(effective: u64) -> Finding {
    let has = |number: u32| effective >> number & 1 == 1;
    let wanted = [(NET_ADMIN, "CAP_NET_ADMIN"), (BPF, "CAP_BPF"), (PERFMON, "CAP_PERFMON")];
    let missing: Vec<&str> = wanted
        .into_iter()
        .filter(|(number, _)| !(has(*number) || *number != NET_ADMIN && has(SYS_ADMIN)))
        .map(|(_, name)| name)
        .collect();
    if missing.is_empty() {
        finding("capabilities", State::Ok, "all that the filter needs", "")
    } else {
        let found = format!("without {}", missing.join(", "));
        finding("capabilities", State::Failure, &found, "run as root, or give these to the service")
    }
}

fn descriptors(max: u64) -> Finding {
    let state = if max >= DESCRIPTORS { State::Ok } else { State::Warning };
    finding(
        "descriptors",
        state,
        &format!("{max} per process"),
        "LimitNOFILE=1048576 in the service, or `ulimit -Hn`",
    )
}

/// What a setting means for us; none: nothing.
fn setting(name: &str, value: u64) -> Option<Finding> {
    let told = |state, advice: &str| Some(finding(name, state, &value.to_string(), advice));
    match name {
        "net/core/bpf_jit_enable" if value == 0 => told(
            State::Warning,
            "sysctl net.core.bpf_jit_enable=1: the filter would be interpreted, many times slower",
        ),
        "net/core/somaxconn" if value < BACKLOG => {
            told(State::Warning, "sysctl net.core.somaxconn=4096: or connections are refused in a burst")
        }
        "net/ipv4/tcp_max_syn_backlog" if value < 1024 => {
            told(State::Warning, "sysctl net.ipv4.tcp_max_syn_backlog=4096")
        }
        "net/ipv4/tcp_syncookies" if value == 0 => {
            told(State::Warning, "sysctl net.ipv4.tcp_syncookies=1: or a SYN flood keeps everybody out")
        }
        "kernel/io_uring_disabled" if value == 0 => None,
        "kernel/io_uring_disabled" => told(State::Warning, "sysctl kernel.io_uring_disabled=0"),
        _ => told(State::Ok, ""),
    }
}

fn allow(config: &Config) -> Finding {
    match config.prefilter.allow.len() {
        0 if config.prefilter.interfaces.is_empty() => finding("allow", State::Ok, "nothing is filtered", ""),
        0 if config.prefilter.dry_run => finding(
            "allow",
            State::Warning,
            "empty, and a dry run",
            "list where you administer this host from",
        ),
        0 => finding(
            "allow",
            State::Failure,
            "empty: the filter could lock you out",
            "list where you administer this host from, or `portcullis run --yes-really`",
        ),
        count => finding("allow", State::Ok, &format!("{count} prefixes are never blocked"), ""),
    }
}

fn interface(facts: &Surveyed, cpus: usize) -> Vec<Finding> {
    let name = &facts.name;
    if !facts.exists {
        return vec![finding(name, State::Failure, "there is no such interface", "`ip link` lists them")];
    }
    let driver = facts.driver.as_deref().unwrap_or("unknown");
    let mut findings = vec![mode(facts, driver)];
    findings.extend(facts.program.as_ref().map(|program| conflict(name, program)));
    findings.push(queues(facts, cpus));
    if facts.mtu > MTU_OF_ONE_BUFFER && facts.features.is_some_and(|has| has & features::FRAGMENTS == 0) {
        findings.push(finding(
            &format!("{name} mtu"),
            State::Warning,
            &format!("{}, which its driver does not take together with XDP", facts.mtu),
            "an MTU of 3498 or less, or mode = \"generic\"",
        ));
    }
    if let Some((master, kind)) = &facts.master
        && kind == "bond"
    {
        findings.push(finding(
            &format!("{name} bond"),
            State::Warning,
            &format!("a port of {master}, whose other ports it would not filter"),
            &format!("name {master} in prefilter.interfaces"),
        ));
    }
    findings
}

/// A connection is served where its packets arrive; one queue is one CPU that all of them arrive at.
fn queues(facts: &Surveyed, cpus: usize) -> Finding {
    let state = if (facts.rx_queues as usize) < cpus { State::Warning } else { State::Ok };
    let found = format!("{} to receive, {} to send, for {cpus} CPUs", facts.rx_queues, facts.tx_queues);
    let advice = format!(
        "`ethtool -L {name} combined {cpus}`, or let other CPUs help: \
         /sys/class/net/{name}/queues/rx-0/rps_cpus; or fewer workers",
        name = facts.name
    );
    finding(&format!("{} queues", facts.name), state, &found, &advice)
}

/// Whether programs run in its driver.
fn mode(facts: &Surveyed, driver: &str) -> Finding {
    let check = format!("{} driver", facts.name);
    let generic = "it works in the generic hook (mode = \"auto\" or \"generic\"), which costs two to three times as much";
    match (&facts.native, facts.features, &facts.program) {
        (Some(Ok(())), ..) => finding(&check, State::Ok, &format!("{driver}: native, tried"), ""),
        (Some(Err(error)), ..) => {
            finding(&check, State::Warning, &format!("{driver}: not native, tried: {error}"), generic)
        }
        (None, _, Some(Carried { is_generic: false, .. })) => {
            finding(&check, State::Ok, &format!("{driver}: native, in use"), "")
        }
        (None, Some(has), _) if has & features::BASIC != 0 => {
            finding(&check, State::Ok, &format!("{driver}: native, as it says"), "")
        }
        (None, Some(_), _) => {
            finding(&check, State::Warning, &format!("{driver}: not native, as it says"), generic)
        }
        (None, None, _) => finding(
            &check,
            State::Warning,
            &format!("{driver}: whether it is native is not known"),
            "`portcullis doctor --try` tries it",
        ),
    }
}

fn conflict(name: &str, program: &Carried) -> Finding {
    let check = format!("{name} program");
    let found = format!("{:?} (id {})", program.name, program.id);
    if program.is_ours {
        finding(&check, State::Ok, &format!("{found}, pinned where the configuration says"), "")
    } else {
        finding(&check, State::Failure, &format!("{found} is in the way"), &way_out(name, &program.name))
    }
}

const fn word(state: State) -> &'static str {
    match state {
        State::Ok => "ok",
        State::Warning => "warning",
        State::Failure => "failure",
    }
}

fn to_json(findings: &[Finding], worst: State) -> serde_json::Value {
    let checks: Vec<_> = findings
        .iter()
        .map(|Finding { check, state, found, advice }| {
            json!({ "check": check, "state": word(*state), "found": found, "advice": advice })
        })
        .collect();
    json!({ "state": word(worst), "checks": checks })
}

fn print(findings: &[Finding]) {
    let width = findings.iter().map(|finding| finding.check.len()).max().unwrap_or(0);
    for Finding { check, state, found, advice } in findings {
        println!("{:<8} {check:<width$}  {found}", word(*state));
        if !advice.is_empty() {
            println!("{:<8} {:<width$}  → {advice}", "", "");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn healthy() -> Survey {
        Survey {
            kernel: "6.12.0-1-amd64".into(),
            has_btf: true,
            pins: Some(Ok("/sys/fs/bpf/portcullis".into())),
            capabilities: u64::MAX,
            loads: Some(Ok(())),
            cpus: 8,
            descriptors_max: 1 << 20,
            settings: vec![("net/ipv4/tcp_syncookies", 1), ("net/core/somaxconn", 4096)],
            interfaces: vec![eth0()],
        }
    }

    fn eth0() -> Surveyed {
        Surveyed {
            name: "eth0".into(),
            exists: true,
            driver: Some("ice".into()),
            mtu: 1500,
            rx_queues: 8,
            tx_queues: 8,
            features: Some(features::BASIC | features::FRAGMENTS),
            ..Surveyed::default()
        }
    }

    /// What is not right, and how.
    #[track_caller]
    fn check(change: impl FnOnce(&mut Survey), expected: &[(&str, State, &str)]) {
        let mut survey = healthy();
        change(&mut survey);
        let found = judge(&survey, &Ok(()), None);
        let odd: Vec<_> = found.iter().filter(|finding| finding.state != State::Ok).collect();
        assert_eq!(odd.len(), expected.len(), "{odd:?}");
        for (finding, (check, state, part)) in odd.into_iter().zip(expected) {
            assert_eq!((finding.check.as_str(), finding.state), (*check, *state), "{finding:?}");
            assert!(format!("{} {}", finding.found, finding.advice).contains(part), "{finding:?}");
        }
    }

    #[test]
    fn a_machine_is_judged_by_its_facts() {
        use State::{Failure, Warning};
        check(|_| {}, &[]);
        check(|s| s.kernel = "5.15.0".into(), &[("kernel", Failure, "5.19 or newer")]);
        check(|s| s.kernel = "6.1.0-40-amd64".into(), &[("kernel", Warning, "6.2")]);
        check(|s| s.kernel = "5.19.0".into(), &[("kernel", Warning, "")]);
        check(|s| s.has_btf = false, &[("btf", Warning, "CONFIG_DEBUG_INFO_BTF")]);
        check(|s| s.capabilities = 1 << NET_ADMIN | 1 << BPF | 1 << PERFMON, &[]);
        check(|s| s.capabilities = 1 << NET_ADMIN | 1 << SYS_ADMIN, &[]);
        check(|s| s.capabilities = 1 << SYS_ADMIN, &[("capabilities", Failure, "CAP_NET_ADMIN")]);
        check(|s| s.capabilities = 0, &[("capabilities", Failure, "CAP_NET_ADMIN, CAP_BPF, CAP_PERFMON")]);
        check(|s| s.loads = Some(Err("no".into())), &[("xdp", Failure, "CAP_BPF")]);
        check(|s| s.pins = Some(Err("no".into())), &[("pins", Failure, "mount -t bpf")]);
        check(|s| s.descriptors_max = 1024, &[("descriptors", Warning, "1024")]);
        check(
            |s| s.settings = vec![("net/ipv4/tcp_syncookies", 0)],
            &[("net/ipv4/tcp_syncookies", Warning, "=1")],
        );
        check(
            |s| s.settings = vec![("net/core/bpf_jit_enable", 0)],
            &[("net/core/bpf_jit_enable", Warning, "")],
        );
        check(
            |s| s.settings = vec![("kernel/io_uring_disabled", 2)],
            &[("kernel/io_uring_disabled", Warning, "")],
        );
        let found = judge(&healthy(), &Err("not usable here".into()), None);
        assert!(found.iter().any(|one| one.check == "io_uring" && one.state == Failure));
    }

    #[test]
    fn an_interface_is_judged_by_its_driver_and_by_what_is_on_it() {
        use State::{Failure, Warning};
        #[track_caller]
        fn check_interface(change: impl FnOnce(&mut Surveyed), expected: &[(&str, State, &str)]) {
            check(
                |survey| {
                    let mut interface = eth0();
                    change(&mut interface);
                    survey.interfaces = vec![interface];
                },
                expected,
            );
        }
        let carried =
            |name: &str, is_ours| Some(Carried { id: 7, name: name.into(), is_generic: false, is_ours });
        check_interface(|i| i.exists = false, &[("eth0", Failure, "no such interface")]);
        check_interface(|i| i.rx_queues = 1, &[("eth0 queues", Warning, "rps_cpus")]);
        check_interface(|i| i.features = Some(0), &[("eth0 driver", Warning, "generic")]);
        check_interface(|i| i.features = None, &[("eth0 driver", Warning, "--try")]);
        check_interface(|i| (i.features, i.native) = (None, Some(Ok(()))), &[]);
        check_interface(
            |i| i.native = Some(Err("EOPNOTSUPP".into())),
            &[("eth0 driver", Warning, "EOPNOTSUPP")],
        );
        check_interface(|i| i.program = carried("portcullis", true), &[]);
        check_interface(
            |i| i.program = carried("other", false),
            &[("eth0 program", Failure, "bpftool net show")],
        );
        check_interface(
            |i| i.program = carried("xdp_dispatcher", false),
            &[("eth0 program", Failure, "xdp-loader unload eth0")],
        );
        check_interface(
            |i| (i.mtu, i.features) = (9000, Some(features::BASIC)),
            &[("eth0 mtu", Warning, "9000")],
        );
        check_interface(
            |i| i.master = Some(("bond0".into(), "bond".into())),
            &[("eth0 bond", Warning, "name bond0")],
        );
        check_interface(|i| i.master = Some(("br0".into(), "bridge".into())), &[]);
    }

    #[test]
    fn json_tells_the_worst_and_every_check() {
        let findings =
            [finding("a", State::Ok, "fine", "unused"), finding("b", State::Warning, "odd", "do it")];
        let told = to_json(&findings, State::Warning);
        assert_eq!(told["state"], "warning");
        assert_eq!(told["checks"][0], json!({ "check": "a", "state": "ok", "found": "fine", "advice": "" }));
        assert_eq!(told["checks"][1]["advice"], "do it");
    }
}
