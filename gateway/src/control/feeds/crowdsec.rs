//! A CrowdSec engine, asked as its bouncers do: first for everything, then for what has changed.
//!
//! Comes in: where it is. Goes out: its answers, to the keeper. Whatever goes wrong, the next question is for everything
//! again, since the engine forgets what it has answered once; meanwhile its decisions hold until they end. The key goes
//! into one header field and nowhere else.

use std::{
    io,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use http_body_util::Full;
use hyper::{Request, StatusCode, body::Bytes, header::HeaderValue};
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, sleep},
};

use super::{Answer, Order, Tally};
use crate::{
    config::{CrowdSec, Feed},
    control::client::{Bounds, Client},
};

/// What an answer may take, some million decisions at the most.
const ANSWER: Bounds = Bounds { time_max: Duration::from_mins(1), bytes_max: 256 << 20 };
/// Everything is asked for again so often, in case that we have lost each other's track.
const WHOLE_EVERY: Duration = Duration::from_hours(1);
/// After failures in a row the pause doubles, up to this.
const PAUSE_MAX: Duration = Duration::from_mins(5);

/// Asks until it is aborted.
pub(super) async fn follow(feed: Feed, crowdsec: CrowdSec, orders: mpsc::Sender<Order>, tally: Arc<Tally>) {
    let mut whole_at = Instant::now();
    let mut failures = 0;
    loop {
        let is_whole = failures > 0 || Instant::now() >= whole_at;
        match ask_and_hand_over(&feed, &crowdsec, is_whole, &orders).await {
            Ok(()) => {
                if failures > 0 {
                    log::info!("feed {}: the engine answers again", feed.name);
                }
                failures = 0;
                if is_whole {
                    whole_at = Instant::now() + WHOLE_EVERY;
                }
            }
            Err(problem) => {
                tally.failed.fetch_add(1, Relaxed);
                failures += 1;
                let message = format!("feed {}: {problem}; its decisions hold until they end", feed.name);
                log::log!(if failures == 1 { log::Level::Warn } else { log::Level::Debug }, "{message}");
            }
        }
        sleep(pause(feed.refresh, failures)).await;
    }
}

fn pause(refresh: Duration, failures: u32) -> Duration {
    let longer = refresh.saturating_mul(1 << failures.min(16));
    longer.min(PAUSE_MAX.max(refresh))
}

async fn ask_and_hand_over(
    feed: &Feed,
    crowdsec: &CrowdSec,
    is_whole: bool,
    orders: &mpsc::Sender<Order>,
) -> Result<(), String> {
    let body = ask(crowdsec, is_whole).await.map_err(|error| error.to_string())?;
    let (taken, hear) = oneshot::channel();
    let answer = Answer { feed: Arc::clone(&feed.name), body, is_whole, taken };
    let gone = |_| "the thread that keeps the feeds has ended".to_owned();
    orders.send(Order::Answer(answer)).await.map_err(|error| gone(error.to_string()))?;
    hear.await.map_err(|error| gone(error.to_string()))?
}

async fn ask(crowdsec: &CrowdSec, is_whole: bool) -> io::Result<Bytes> {
    let mut key = HeaderValue::from_bytes(&crowdsec.key.0).map_err(io::Error::other)?;
    key.set_sensitive(true);
    let request =
        Request::get("/").header("x-api-key", key).body(Full::default()).map_err(io::Error::other)?;
    let target = format!("{}v1/decisions/stream?startup={is_whole}", crowdsec.at.url.target);
    let response = Client::new(&crowdsec.at)?.ask(&target, request, ANSWER).await?;
    match response.status() {
        StatusCode::OK => Ok(response.into_body()),
        StatusCode::FORBIDDEN | StatusCode::UNAUTHORIZED => {
            Err(io::Error::other("the engine does not know the key in `api_key_file`"))
        }
        status => Err(io::Error::other(format!("the engine answers {status}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_bound() {
        let refresh = Duration::from_secs(10);
        let pauses = [0, 1, 2, 4, 5, 16, u32::MAX].map(|failures| pause(refresh, failures).as_secs());
        assert_eq!(pauses, [10, 20, 40, 160, 300, 300, 300]);
        assert_eq!(pause(Duration::from_hours(1), 3), Duration::from_hours(1));
    }
}
