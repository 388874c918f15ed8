//! What an operator does: watch, reload, drain, stop.

use std::{fs, time::Duration};

use xtask::lab::{client::Request, scratch::Scratch, scripted::Step, wait};

use crate::support::{Edge, HELLO, OPEN, TIME_MAX, answering, scripted};

#[test]
fn metrics_tell_answers_by_status_and_route() {
    let upstream = answering(HELLO);
    let edge = Edge::start(upstream.address(), OPEN);
    for _ in 0..3 {
        edge.get("/", &[]);
    }
    let mut client = edge.connect();
    client.send(b"garbage\r\n\r\n").unwrap();
    assert_eq!(client.receive("GET").unwrap().status, 400);
    // An answer is counted when it has been sent, which may be after it was received.
    let metrics = wait::until(TIME_MAX, || {
        let metrics = edge.gateway.metrics().unwrap();
        (metrics.sum("portcullis_responses_total", &[("status", "400")]) > 0.0).then_some(metrics)
    });
    let metrics = metrics.expect("the last answer is counted");
    let count = |name, labels: &[_]| metrics.sum(name, labels).to_string();
    assert_eq!(count("portcullis_responses_total", &[("status", "200")]), "3");
    assert_eq!(count("portcullis_responses_total", &[("status", "400")]), "1");
    assert_eq!(count("portcullis_requests_total", &[("route", "all"), ("class", "2xx")]), "3");
}

#[test]
fn the_access_log_is_json_lines_that_nobody_can_forge() {
    let upstream = answering(HELLO);
    let sections = format!("[log]\naccess = {{ file = \"access.jsonl\" }}\n{OPEN}");
    let edge = Edge::start(upstream.address(), &sections);
    let response = edge.get("/a?token=secret", &[("user-agent", "x\",\"status\":200")]);
    let file = edge.directory.path().join("access.jsonl");
    let line =
        wait::until(TIME_MAX, || fs::read_to_string(&file).ok().filter(|text| text.ends_with('\n'))).unwrap();
    let record: serde_json::Value = serde_json::from_str(line.lines().next().unwrap()).expect("JSON");
    assert_eq!(record["status"], 200);
    assert_eq!(record["method"], "GET");
    assert_eq!(record["path"], "/a");
    assert_eq!(record["request_id"].as_str(), response.header("x-request-id"));
    assert!(!line.contains("secret"), "a query may hold a token: {line}");
}

#[test]
fn sigterm_lets_an_exchange_finish_and_ends_in_order() {
    let upstream =
        scripted(&[Step::ReadHead, Step::Pause(Duration::from_millis(500)), Step::Send(HELLO.into())]);
    let mut edge = Edge::start(upstream.address(), OPEN);
    let mut idle = edge.connect();
    let mut busy = edge.connect();
    busy.send(&Request::get("/").bytes()).unwrap();
    upstream.next_head(TIME_MAX).expect("the exchange is under way");
    edge.gateway.process().signal(libc::SIGTERM).unwrap();
    let response = busy.receive("GET").unwrap();
    assert_eq!(
        (response.status, response.keep_alive),
        (200, false),
        "it finishes and says that it is the last"
    );
    idle.expect_close().unwrap();
    let status = edge.gateway.process().wait(TIME_MAX).unwrap().expect("it ends by itself");
    assert!(status.success(), "{status}");
}

/// Fault row 38.
#[test]
fn a_second_signal_ends_it_at_once_whatever_is_under_way() {
    let upstream = scripted(&[Step::ReadHead, Step::Stall]);
    let mut edge = Edge::start(upstream.address(), &format!("[runtime]\ndrain_timeout = \"1h\"\n{OPEN}"));
    let mut busy = edge.connect();
    busy.send(&Request::get("/").bytes()).unwrap();
    upstream.next_head(TIME_MAX).expect("the exchange is under way");
    edge.gateway.process().signal(libc::SIGTERM).unwrap();
    let drains = wait::until(TIME_MAX, || edge.gateway.output().contains("draining").then_some(()));
    assert!(drains.is_some(), "{}", edge.gateway.output());
    edge.gateway.process().signal(libc::SIGTERM).unwrap();
    let status = edge.gateway.process().wait(TIME_MAX).unwrap().expect("it does not wait for an hour");
    assert_eq!(status.code(), Some(1), "it did not drain");
}

/// Fault row 20.
#[test]
fn an_exchange_that_is_under_way_ends_by_the_policy_that_it_began_with() {
    let upstream =
        scripted(&[Step::ReadHead, Step::ReadUntil(b"end".to_vec()), Step::Send(HELLO.into()), Step::Stall]);
    let mut edge = Edge::start(upstream.address(), OPEN);
    let mut client = edge.connect();
    client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nbegin ").unwrap();
    upstream.next_head(TIME_MAX).expect("the exchange is under way");
    let text = fs::read_to_string(edge.gateway.config_file()).unwrap();
    let text = text
        .replace("/{*rest}", "/elsewhere")
        .replace("upstream = \"app\"", "upstream = \"app\"\nbody_size = \"1B\"");
    edge.gateway.write_config(&text).unwrap();
    edge.gateway.process().signal(libc::SIGHUP).unwrap();
    let reloaded = wait::until(TIME_MAX, || edge.gateway.output().contains("reloaded").then_some(()));
    assert!(reloaded.is_some(), "{}", edge.gateway.output());
    assert_eq!(edge.get("/", &[]).status, 404, "others go by the new one");
    client.send(b"end").unwrap();
    assert_eq!(client.receive("POST").unwrap().text(), "hello");
    assert_eq!(client.request(&Request::get("/")).unwrap().status, 404, "the next one goes by the new one");
}

#[test]
fn a_reload_changes_routes_without_losing_a_connection_and_a_bad_one_changes_nothing() {
    let upstream = answering(HELLO);
    let mut edge = Edge::start(upstream.address(), OPEN);
    let mut client = edge.connect();
    assert_eq!(client.request(&Request::get("/")).unwrap().status, 200);
    let text = fs::read_to_string(edge.gateway.config_file()).unwrap();

    edge.gateway.write_config(&text.replace("upstream = \"app\"", "upstram = \"app\"")).unwrap();
    edge.gateway.process().signal(libc::SIGHUP).unwrap();
    let told = wait::until(TIME_MAX, || edge.gateway.output().contains("did you mean").then_some(()));
    assert!(told.is_some(), "{}", edge.gateway.output());
    assert_eq!(client.request(&Request::get("/")).unwrap().status, 200, "the old policy serves on");

    let gone =
        "[routes.gone]\npath = \"/gone\"\npublic = true\nrespond = { status = 410, body = \"gone\" }\n";
    edge.gateway.write_config(&format!("{text}{gone}")).unwrap();
    edge.gateway.process().signal(libc::SIGHUP).unwrap();
    let swapped = wait::until(TIME_MAX, || {
        (client.request(&Request::get("/gone")).unwrap().status == 410).then_some(())
    });
    assert!(swapped.is_some(), "the same connection sees the new policy");
}

#[test]
fn twenty_reloads_under_load_cost_no_request() {
    let upstream = answering(HELLO);
    let mut edge = Edge::start_with(Scratch::new().unwrap(), upstream.address(), "", OPEN);
    let address = edge.address;
    let stop = std::sync::atomic::AtomicBool::new(false);
    let served = std::thread::scope(|scope| {
        let load = scope.spawn(|| {
            let mut served = 0;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                let mut client = xtask::lab::client::Connection::open(address, None, TIME_MAX).unwrap();
                for _ in 0..10 {
                    assert_eq!(client.request(&Request::get("/")).unwrap().status, 200);
                    served += 1;
                }
            }
            served
        });
        for generation in 1..=20 {
            edge.gateway.process().signal(libc::SIGHUP).unwrap();
            let reloaded = wait::until(TIME_MAX, || {
                let lines = edge.gateway.output().matches("reloaded").count();
                (lines >= generation).then_some(())
            });
            assert!(reloaded.is_some(), "reload {generation}: {}", edge.gateway.output());
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        load.join().unwrap()
    });
    assert!(served > 0);
}
