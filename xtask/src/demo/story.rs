//! The story: honest traffic all along; a guesser, a SYN flood and a packet flood one after the other.
//!
//! Comes in: the stage. Goes out: an [`Outcome`] that says whether everybody honest was served and everybody hostile
//! was stopped. It waits for events with a deadline, and every wait ends early on Ctrl-C.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::Context;
use xtask::lab::{
    flood::{Flood, from_spoofed},
    frames::Segment,
    netns::WORLD_INTERFACE,
};

use super::{
    cast::{self, GuesserTally, Honest, HonestTally, Players},
    interrupt,
    outcome::{BanOutcome, FloodOutcome, GuesserOutcome, HonestOutcome, Outcome},
    stage::{BLOCK_S, Stage},
    view::Screen,
    watch::{EndOfWatch, Watch, dropped, drops_by_reason},
};

/// Packets per second of either flood.
const FLOOD_PER_S: u64 = 100_000;
/// Sources of the SYN flood, per address family: about 200 SYNs per second each, against a limit of 10.
const SYN_SOURCES: u32 = 250;
/// Sources of the packet flood: about 4000 packets per second each, against a limit of 200.
const PACKET_SOURCES: u32 = 24;
/// Different frames of a flood.
const FLOOD_FRAMES: u32 = 2000;
/// A flood of which so many of a hundred packets were dropped is stopped: the rest is what the limits let pass.
const STOPPED_PERCENT: u64 = 75;
/// Honest clients have the stage for themselves.
const ALONE: Duration = Duration::from_secs(1);
/// Either flood takes so many tenths of the play.
const FLOOD_TENTHS: u32 = 3;
/// For the first honest answer.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(10);
/// For the guesser's block to show.
const BLOCK_TIME_MAX: Duration = Duration::from_secs(10);
/// Past the end of the block, for an answer to the guesser.
const RELEASE_TIME_MAX: Duration = Duration::from_secs(10);
/// For counters to follow what happened.
const COUNTERS_TIME_MAX: Duration = Duration::from_secs(3);
/// Guesses that must be refused where nobody can be blocked.
const LOOPBACK_GUESSES: u64 = 50;

/// Plays it from the first honest request to the last.
pub(super) fn play(stage: &Stage, seconds: u64, began: Instant, screen: Screen) -> anyhow::Result<Outcome> {
    let honest = cast::start_honest(&stage.ground.world, honest_clients(stage))?;
    let watch = Watch::default();
    thread::scope(|scope| {
        let _stops_watching = EndOfWatch(&watch);
        scope.spawn(|| watch.show(stage, &honest, began, screen));
        let (guesser, floods) = acts(stage, seconds, &honest, &watch)?;
        outcome(stage, began, &honest.tally(), &guesser, floods, &watch)
    })
}

/// One after the other; what the guesser saw, and what became of the floods.
fn acts(
    stage: &Stage,
    seconds: u64,
    honest: &Players<HonestTally>,
    watch: &Watch,
) -> anyhow::Result<(GuesserTally, Vec<FloodOutcome>)> {
    watch.act("honest clients");
    interrupt::await_event(ANSWER_TIME_MAX, || honest.tally().first_answer)?
        .with_context(|| format!("nobody honest is answered: {}", honest.tally().complaints.join(", ")))?;
    interrupt::pause(ALONE)?;

    watch.act("a guesser tries keys");
    let server = stage.ground.listener_for(stage.ground.guesser).context("a listener for the guesser")?;
    let guesser = cast::start_guesser(&stage.ground.world, stage.ground.guesser, server)?;
    if !stage.ground.filtered() {
        interrupt::await_event(BLOCK_TIME_MAX, || {
            (guesser.tally().refused >= LOOPBACK_GUESSES).then_some(())
        })?;
        interrupt::pause(ALONE)?;
        return Ok((guesser.tally(), Vec::new()));
    }
    let source = stage.ground.guesser.to_string();
    interrupt::await_event(BLOCK_TIME_MAX, || {
        if !guesser.tally().blocked {
            return None;
        }
        watch.look_at_bans(stage);
        watch.first_drop_is_known(&source).then_some(())
    })?;

    let time = Duration::from_secs(seconds) * FLOOD_TENTHS / 10;
    watch.act("a SYN flood");
    let syns = syn_flood(stage, time)?;
    watch.act("a packet flood");
    let packets = packet_flood(stage, time)?;

    watch.act("the guesser's block ends");
    let release_time_max = Duration::from_secs(BLOCK_S) + RELEASE_TIME_MAX;
    interrupt::await_event(release_time_max, || guesser.tally().answered_again.then_some(()))?;
    watch.act("honest clients");
    interrupt::pause(ALONE)?;
    Ok((guesser.tally(), vec![syns, packets]))
}

/// In turn with a key and with a token.
fn honest_clients(stage: &Stage) -> Vec<Honest> {
    let credentials =
        [("x-api-key", stage.key.clone()), ("authorization", format!("Bearer {}", stage.token))];
    let sources = stage.ground.honest.iter().zip(credentials.iter().cycle());
    sources
        .filter_map(|(source, credential)| {
            let server = stage.ground.listener_for(*source)?;
            Some(Honest { source: *source, server, credential: credential.clone() })
        })
        .collect()
}

/// SYNs from many sources of both families.
fn syn_flood(stage: &Stage, time: Duration) -> anyhow::Result<FloodOutcome> {
    let mut frames = Vec::new();
    for listener in &stage.ground.listeners {
        frames.extend(from_spoofed(*listener, SYN_SOURCES, FLOOD_FRAMES, Segment::syn)?);
    }
    flood(stage, "SYN flood", frames, time)
}

/// Acknowledgements of nothing and datagrams, in turn, from few sources that send much.
fn packet_flood(stage: &Stage, time: Duration) -> anyhow::Result<FloodOutcome> {
    let listener = *stage.ground.listeners.first().context("a listener")?;
    let frames = from_spoofed(listener, PACKET_SOURCES, FLOOD_FRAMES, |n| {
        if n % 2 == 0 { Segment::ack(n, n) } else { Segment::udp([0; 64]) }
    })?;
    flood(stage, "packet flood", frames, time)
}

fn flood(
    stage: &Stage,
    name: &'static str,
    frames: Vec<Vec<u8>>,
    time: Duration,
) -> anyhow::Result<FloodOutcome> {
    let before = dropped(&stage.gateway.metrics()?);
    let flood = Flood {
        interface: WORLD_INTERFACE.into(),
        frames,
        count_max: FLOOD_PER_S * time.as_secs().max(1) * 2,
        rate_per_s: FLOOD_PER_S,
        time_max: time,
    };
    let running = flood.start(&stage.ground.world)?;
    interrupt::pause(time)?;
    let sent = running.stop()?.frames;
    let wanted = sent * STOPPED_PERCENT / 100;
    let mut dropped_since = 0;
    interrupt::await_event(COUNTERS_TIME_MAX, || {
        let metrics = stage.gateway.metrics().ok()?;
        dropped_since = dropped(&metrics).saturating_sub(before);
        (dropped_since >= wanted).then_some(())
    })?;
    Ok(FloodOutcome { name, sent, dropped: dropped_since, stopped: sent > 0 && dropped_since >= wanted })
}

fn outcome(
    stage: &Stage,
    began: Instant,
    honest: &HonestTally,
    guesser: &GuesserTally,
    floods: Vec<FloodOutcome>,
    watch: &Watch,
) -> anyhow::Result<Outcome> {
    let filtered = stage.ground.filtered();
    watch.look_at_bans(stage);
    let bans: Vec<_> = watch.bans_seen().into_values().map(BanOutcome::from).collect();
    let banned = bans.iter().any(|ban| ban.source.starts_with(&stage.ground.guesser.to_string()));
    let blocked = guesser.blocked && banned;
    let guesser = GuesserOutcome {
        refused: guesser.refused,
        admitted: guesser.admitted,
        unanswered: guesser.unanswered,
        blocked,
        answered_again: guesser.answered_again,
        stopped: guesser.admitted == 0
            && guesser.refused > 0
            && (!filtered || (blocked && guesser.answered_again)),
    };
    let honest = HonestOutcome {
        requests: honest.requests,
        failures: honest.failures,
        first_answer_ms: honest.first_answer.map(|first| first.duration_since(began).as_millis()),
        p99_ms: honest.p99().map(|p99| p99.as_secs_f64() * 1000.0),
        complaints: honest.complaints.clone(),
    };
    let ok = honest.failures == 0
        && honest.first_answer_ms.is_some()
        && guesser.stopped
        && floods.iter().all(|flood| flood.stopped);
    let nic_drops = drops_by_reason(&stage.gateway.metrics()?);
    Ok(Outcome { ok, filtered, honest, guesser, floods, nic_drops, bans })
}
