//! Start and end: sockets, filter, workers, control thread; then drain and go.
//!
//! Everything that can be refused is refused before the first connection is accepted, with what to do about it.

use std::{
    collections::hash_map::RandomState,
    io,
    path::Path,
    sync::{
        Arc,
        atomic::AtomicBool,
        mpsc::{Sender, channel},
    },
    thread::JoinHandle,
};

use aws_lc_rs::rand;
use core_affinity::CoreId;
use thiserror::Error;
use tokio::sync::mpsc;

use crate::{
    accept::{self, BindError},
    audit::{self, Entry},
    config::{Config, Workers},
    control::{self, Certificates, CertificatesError, Enforcement, Publisher, SnapshotError, listener_ports},
    decide::{
        Replays,
        crowd::Crowd,
        known::{self, Known},
        limit,
    },
    net::{self, RingError},
    nic::{Filter, NicError},
    serve::{self, Door},
    telemetry::{Cells, Refusals, access_log},
    tls::{self, UpstreamTlsError},
};

/// Why the gateway does not start, or ends.
#[derive(Debug, Error)]
pub enum BootError {
    /// See [`BindError`].
    #[error(transparent)]
    Bind(#[from] BindError),
    /// A listener's TLS.
    #[error(transparent)]
    Certificates(#[from] CertificatesError),
    /// An upstream's TLS.
    #[error(transparent)]
    UpstreamTls(UpstreamTlsError),
    /// The filter, and the configuration wants it.
    #[error("prefilter: {0}; `on_failure = \"continue\"` starts without the filter")]
    Filter(NicError),
    /// The configuration makes no policy.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// A CPU that `runtime.workers` names is not there.
    #[error("runtime.workers: this process may not run on CPU {0}; it may on {1:?}")]
    NoSuchCpu(usize, Vec<usize>),
    /// See [`RingError`].
    #[error(transparent)]
    Ring(#[from] RingError),
    /// A file, a socket of the admin listener, a thread.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// What `check` looks at beyond the configuration itself: TLS material that does not fit together, key stores. Goes out:
/// what is odd about them.
pub fn check(config: &Config) -> Result<Vec<String>, BootError> {
    Certificates::compile(config, None)?;
    tls::upstreams(config).map_err(BootError::UpstreamTls)?;
    Ok(control::check_stores(config)?)
}

/// Serves until SIGTERM or SIGINT, then drains. Session keys of clients' connections go to `key_log`, when given.
pub fn run(
    config_file: &Path,
    config: Config,
    enforcement: Enforcement,
    key_log: Option<&Path>,
) -> Result<(), BootError> {
    start_log(config.log.level);
    raise_descriptor_limit();
    refuse_huge_pages();
    let cpus = worker_cpus(&config.runtime.workers)?;
    if let Some(file) = key_log {
        log::warn!("TLS KEYS ARE WRITTEN TO {}: whoever reads it reads every connection", file.display());
    }
    let certificates = Certificates::compile(&config, key_log.map(tls::key_log).transpose()?)?;
    // Before the filter drops its first packet.
    enforcement.check(&config)?;
    let doors = open_doors(&config, &certificates.slots(), &cpus)?;
    let filter = open_filter(&config)?;
    let cells: Vec<Arc<Cells>> = cpus.iter().map(|_| Arc::new(Cells::default())).collect();
    let (access_ends, access) = access_log(&config.log.access, &cells)?;
    let begun = Entry::new(net::unix_s(), "started")
        .text("version", env!("CARGO_PKG_VERSION"))
        .text("enforcement", if enforcement == Enforcement::Regardless { "regardless" } else { "careful" })
        .text_if("tls_key_log", key_log.map(Path::to_string_lossy).as_deref())
        .texts("files", control::fingerprints(&config));
    let (audit, audit_writer) = audit::start(&config.log.audit, begun, net::unix_s())?;
    let limiter = Arc::new(limit::Table::new(limit::SLOTS_DEFAULT, RandomState::new()));
    let replays = Arc::new(Replays::new(RandomState::new()));
    let crowd =
        Arc::new(Crowd::new(config.runtime.connections_max.saturating_mul(cpus.len()), RandomState::new()));
    let known = Arc::new(Known::new(known::SOURCES_MAX, RandomState::new()));
    let (offence_sender, offences) = mpsc::channel(control::OFFENCES_MAX);
    let (inquiry_sender, inquiries) = mpsc::channel(control::auth::INQUIRIES_MAX);
    let draining = Arc::new(AtomicBool::new(false));
    let runtime = config.runtime.clone();
    let publisher = Publisher::new(config, enforcement)?;
    control::auth::spawn(publisher.published(), inquiries)?;
    let control = control::Thread::new()?;
    let names = control.resolve(&publisher);

    let (started_sender, started) = channel();
    let mut workers = Vec::new();
    for (index, ((&cpu, access), doors)) in cpus.iter().zip(access_ends).zip(doors).enumerate() {
        let equipment = serve::Equipment {
            index,
            snapshot: publisher.published(),
            limiter: Arc::clone(&limiter),
            replays: Arc::clone(&replays),
            crowd: Arc::clone(&crowd),
            known: Arc::clone(&known),
            cells: cells.get(index).map_or_else(Arc::default, Arc::clone),
            offences: offence_sender.clone(),
            inquiries: inquiry_sender.clone(),
            access,
            refusals: Refusals::new(audit.clone(), cells.get(index).map_or_else(Arc::default, Arc::clone)),
            id_prefix: random_u64(),
            connections_max: runtime.connections_max,
            buffer_bytes_max: runtime.buffer_bytes_max,
            draining: Arc::clone(&draining),
            drain_timeout: runtime.drain_timeout,
        };
        workers.push(spawn_worker(equipment, doors, cpu, started_sender.clone())?);
    }
    drop(offence_sender);
    drop(inquiry_sender);
    for _ in &workers {
        // Each tells once; one that could not is a thread that is no more.
        started.recv().map_err(io::Error::other)??;
    }
    log::info!("{} workers on CPUs {cpus:?}", workers.len());

    control.run(control::Equipment {
        config_file: config_file.to_owned(),
        publisher,
        filter,
        offences,
        cells,
        limiter,
        known,
        access,
        audit: audit.clone(),
        draining,
        workers,
        names,
        certificates,
    })?;
    audit.tell(Entry::new(net::unix_s(), "stopped"), net::unix_s());
    if let Some(writer) = audit_writer {
        writer.end(net::unix_s());
    }
    log::info!("drained");
    Ok(())
}

fn start_log(level: log::LevelFilter) {
    // A second start in one process (tests) keeps the first log.
    let _ = env_logger::Builder::new()
        .filter_level(level)
        .filter_module("axum", log::LevelFilter::Warn.min(level))
        .target(env_logger::Target::Stderr)
        .try_init();
}

/// Two megabytes at a time are no unit for connections of half a kilobyte: where the allocator gets huge pages, an idle
/// connection costs twice as much, and no request is served faster (`cargo xtask bench proxy`).
fn refuse_huge_pages() {
    // SAFETY: this request takes plain numbers and touches no memory. A kernel that refuses it changes nothing.
    unsafe { libc::prctl(libc::PR_SET_THP_DISABLE, 1, 0, 0, 0) };
}

/// A descriptor per client and one per server connection: as many as the hard limit allows.
fn raise_descriptor_limit() {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: both calls get a pointer to a local of the right type.
    unsafe {
        if libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) == 0 {
            limit.rlim_cur = limit.rlim_max;
            libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit);
        }
    }
}

fn worker_cpus(workers: &Workers) -> Result<Vec<usize>, BootError> {
    let allowed: Vec<usize> =
        core_affinity::get_core_ids().unwrap_or_default().into_iter().map(|core| core.id).collect();
    match workers {
        Workers::Auto => Ok(allowed),
        // More workers than CPUs share them in turn.
        Workers::Count(count) => Ok(allowed.iter().copied().cycle().take(*count).collect()),
        Workers::Cpus(cpus) => match cpus.iter().find(|cpu| !allowed.contains(cpu)) {
            Some(missing) => Err(BootError::NoSuchCpu(*missing, allowed)),
            None => Ok(cpus.clone()),
        },
    }
}

/// Per worker, its socket of every listener.
fn open_doors(
    config: &Config,
    tls: &[Option<control::Slot>],
    cpus: &[usize],
) -> Result<Vec<Vec<Door>>, BootError> {
    let mut doors: Vec<Vec<Door>> = cpus.iter().map(|_| Vec::new()).collect();
    for (settings, tls) in config.listeners.iter().zip(tls) {
        for (socket, of_worker) in accept::bind(settings.address, cpus)?.into_iter().zip(&mut doors) {
            of_worker.push(Door { socket, settings: settings.clone(), tls: tls.clone() });
        }
    }
    Ok(doors)
}

fn open_filter(config: &Config) -> Result<Option<Filter>, BootError> {
    if config.prefilter.interfaces.is_empty() {
        return Ok(None);
    }
    match Filter::open(&config.prefilter, &listener_ports(config)) {
        Ok(filter) => {
            for (interface, mode) in filter.attached() {
                log::info!("filtering on {interface} ({mode:?} mode)");
            }
            Ok(Some(filter))
        }
        Err(error) if config.prefilter.required => Err(BootError::Filter(error)),
        Err(error) => {
            log::error!("NOT FILTERING AT THE NIC: {error}");
            Ok(None)
        }
    }
}

fn spawn_worker(
    equipment: serve::Equipment,
    doors: Vec<Door>,
    cpu: usize,
    started: Sender<Result<(), RingError>>,
) -> io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name(format!("worker-{}", equipment.index)).spawn(move || {
        if !core_affinity::set_for_current(CoreId { id: cpu }) {
            log::warn!("worker {} is not pinned to CPU {cpu}", equipment.index);
        }
        let told = started.clone();
        let serving = net::run_on_ring(async move {
            // Whoever waits for this is gone only if another worker has failed already.
            let _ = told.send(Ok(()));
            drop(told);
            serve::run(equipment, doors).await;
        });
        if let Err(error) = serving {
            let _ = started.send(Err(error));
        }
    })
}

#[expect(clippy::expect_used, reason = "request ids and balancing need randomness, as TLS does")]
fn random_u64() -> u64 {
    let mut bytes = [0; 8];
    rand::fill(&mut bytes).expect("the kernel has randomness");
    u64::from_ne_bytes(bytes)
}
