//! Calls of gRPC (gRPC over HTTP/2): messages pass as bytes, what ends a call is always a status of gRPC.

use bytes::Bytes;
use h2::{Reason, RecvStream};
use http::{HeaderMap, Request, Response};

use super::either::{Speaks::Http2, edge_to};
use crate::{
    h2_peer::{self, Answer, Client, Exchange, Server, run},
    support::Edge,
};

/// A call of `method` as clients begin it.
fn call(method: &str) -> Request<()> {
    Request::post(format!("http://edge.example/test.Service/{method}"))
        .header("content-type", "application/grpc+proto")
        .header("te", "trailers")
        .header("grpc-encoding", "identity")
        .header("user-agent", "grpc-test/1")
        .body(())
        .unwrap()
}

/// A message with its prefix: not compressed, so many bytes.
fn message(bytes: &[u8]) -> Vec<u8> {
    [&[0], &u32::try_from(bytes.len()).unwrap().to_be_bytes()[..], bytes].concat()
}

/// The messages in a body.
fn messages(mut bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    while let Some((prefix, rest)) = bytes.split_at_checked(5) {
        let length = u32::from_be_bytes(prefix[1..].try_into().unwrap()) as usize;
        all.push(rest[..length].to_vec());
        bytes = &rest[length..];
    }
    assert!(bytes.is_empty(), "half a message");
    all
}

fn status(code: u32) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", code.into());
    trailers.insert("grpc-message", "as%20told".parse().unwrap());
    trailers
}

/// A service by the last part of its path.
async fn serve(mut exchange: Exchange) {
    let path = exchange.request.uri.path().to_owned();
    let te = exchange.request.headers.get("te").map(|te| te.as_bytes().to_vec());
    assert_eq!(te.as_deref(), Some(&b"trailers"[..]), "servers want to hear it");
    let head = Response::builder().header("content-type", "application/grpc+proto").body(()).unwrap();
    match path.rsplit('/').next().unwrap() {
        "Unary" => {
            let (body, _) = h2_peer::whole(&mut exchange.body).await.unwrap();
            let mut stream = exchange.begin(head);
            h2_peer::send(&mut stream, body, false).await.unwrap();
            stream.send_trailers(status(0)).unwrap();
        }
        "Talk" => {
            let mut stream = exchange.begin(head);
            while let Some(Ok(bytes)) = h2_peer::data(&mut exchange.body).await {
                h2_peer::send(&mut stream, bytes.to_vec(), false).await.unwrap();
            }
            stream.send_trailers(status(0)).unwrap();
        }
        "Many" => {
            let mut stream = exchange.begin(head);
            for n in 0..1000_u32 {
                h2_peer::send(&mut stream, message(&n.to_be_bytes()), false).await.unwrap();
            }
            stream.send_trailers(status(0)).unwrap();
        }
        "Fails" => {
            let mut head = head;
            head.headers_mut().extend(status(5));
            exchange.respond.send_response(head, true).unwrap();
        }
        "Hang" => {
            exchange.say("begun");
            let timeout = exchange.request.headers.get("grpc-timeout").cloned();
            let reason = std::future::poll_fn(|context| exchange.respond.poll_reset(context)).await;
            exchange.say(format!("{:?} {timeout:?}", reason.unwrap()));
        }
        other => panic!("{other}"),
    }
}

async fn unary(client: &mut Client, request: Request<()>) -> Answer {
    client.post(request, message(b"hello"), HeaderMap::new()).await.unwrap()
}

#[track_caller]
fn ended_with(answer: &Answer, code: &str) {
    let fields = if answer.fields.contains_key("grpc-status") { &answer.fields } else { &answer.trailers };
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(fields.get("grpc-status").map(|code| code.to_str().unwrap()), Some(code), "{answer:?}");
}

#[test]
fn a_unary_call_ends_with_its_status_in_the_trailers() {
    let server = Server::start(serve);
    let edge = edge_to(Http2, server.address(), "", "", "");
    run(async {
        let mut client = Client::open(edge.address).await;
        let answer = unary(&mut client, call("Unary")).await;
        ended_with(&answer, "0");
        assert_eq!(answer.fields["content-type"], "application/grpc+proto");
        assert_eq!(messages(&answer.body), [b"hello"]);
        assert!(!answer.fields.contains_key("grpc-status") && !answer.fields.contains_key("content-length"));
        assert_eq!(answer.trailers["grpc-message"], "as%20told");
    });
}

async fn take(body: &mut RecvStream, bytes: usize) -> Vec<u8> {
    let mut taken = Vec::new();
    while taken.len() < bytes {
        taken.extend_from_slice(&h2_peer::data(body).await.expect("more").unwrap());
    }
    taken
}

#[test]
fn messages_of_a_stream_pass_one_by_one_in_both_directions() {
    let server = Server::start(serve);
    let edge = edge_to(Http2, server.address(), "", "", "");
    run(async {
        let mut client = Client::open(edge.address).await;
        let (response, mut stream) = client.begin(call("Talk"), false).await.unwrap();
        // The head comes before the first message is asked for.
        let (response, _) = h2_peer::head(response).await.unwrap();
        let mut body = response.into_body();
        for n in 0..100_u32 {
            let said = message(&n.to_be_bytes());
            h2_peer::send(&mut stream, said.clone(), false).await.unwrap();
            assert_eq!(take(&mut body, said.len()).await, said, "before the next is sent");
        }
        stream.send_data(Bytes::new(), true).unwrap();
        let (rest, trailers) = h2_peer::whole(&mut body).await.unwrap();
        assert_eq!((rest.len(), &trailers["grpc-status"]), (0, &"0".parse().unwrap()));

        let answer = unary(&mut client, call("Many")).await;
        ended_with(&answer, "0");
        let expected: Vec<_> = (0..1000_u32).map(|n| n.to_be_bytes().to_vec()).collect();
        assert_eq!(messages(&answer.body), expected);
    });
}

#[test]
fn a_status_without_messages_stays_in_the_head() {
    let server = Server::start(serve);
    let edge = edge_to(Http2, server.address(), "", "", "");
    run(async {
        let mut client = Client::open(edge.address).await;
        let answer = unary(&mut client, call("Fails")).await;
        ended_with(&answer, "5");
        assert!(answer.ended_with_head, "{answer:?}");
        assert_eq!(answer.fields["grpc-message"], "as%20told");
    });
}

#[test]
fn a_call_takes_no_longer_than_its_client_waits() {
    let server = Server::start(serve);
    let edge = edge_to(Http2, server.address(), "", "", "");
    run(async {
        let mut client = Client::open(edge.address).await;
        let mut request = call("Hang");
        request.headers_mut().insert("grpc-timeout", "300m".parse().unwrap());
        let answer = unary(&mut client, request).await;
        ended_with(&answer, "4");
        assert!(answer.ended_with_head, "{answer:?}");
        assert_eq!(server.next().await, "begun");
        assert_eq!(server.next().await, "CANCEL Some(\"300m\")", "the server hears of it, and of the time");
    });
}

#[test]
fn a_call_that_its_client_cancels_is_cancelled_at_the_server() {
    let server = Server::start(serve);
    let edge = edge_to(Http2, server.address(), "", "", "");
    run(async {
        let mut client = Client::open(edge.address).await;
        let (response, mut stream) = client.begin(call("Hang"), false).await.unwrap();
        h2_peer::send(&mut stream, message(b"hello"), true).await.unwrap();
        assert_eq!(server.next().await, "begun");
        stream.send_reset(Reason::CANCEL);
        drop(response);
        assert_eq!(server.next().await, "CANCEL None");
    });
}

/// What only a status of HTTP would say is said as one of gRPC.
#[test]
fn refusals_of_the_gateway_are_statuses_of_grpc() {
    let server = Server::start(serve);
    let more = "[auth.keys]\nkind = \"api_key\"\nstore = \"keys.db\"\n\
        [limits.few]\nper = \"route\"\nrate = \"1/d\"\nburst = 1\n\
        [routes.guarded]\npath = \"/guarded/{*rest}\"\nupstream = \"app\"\nauth = [\"keys\"]\n\
        [routes.limited]\npath = \"/limited/{*rest}\"\nupstream = \"app\"\npublic = true\nlimits = [\"few\"]\n\
        [routes.small]\npath = \"/small/{*rest}\"\nupstream = \"app\"\npublic = true\nbody_size = \"16B\"\n";
    let sections =
        super::either::sections(Http2, "", more).replace("path = \"/{*rest}\"", "path = \"/open/{*rest}\"");
    let directory = xtask::lab::scratch::Scratch::new().unwrap();
    let store = directory.path().join("keys.db");
    xtask::lab::gateway::create_key(std::path::Path::new(crate::support::BINARY), &store, "acme", "r")
        .unwrap();
    let edge = Edge::start_with(
        directory,
        server.address(),
        "",
        &format!("{sections}[roles.r]\npermissions = [\"x\"]\n"),
    );
    run(async {
        let mut client = Client::open(edge.address).await;
        let at = |path: &str| {
            let mut request = call("Unary");
            *request.uri_mut() = format!("http://edge.example{path}/Unary").parse().unwrap();
            request
        };
        ended_with(&unary(&mut client, at("/nowhere")).await, "12");
        ended_with(&unary(&mut client, at("/guarded")).await, "16");
        ended_with(&unary(&mut client, at("/open")).await, "0");
        ended_with(&unary(&mut client, at("/limited")).await, "0");
        let limited = unary(&mut client, at("/limited")).await;
        ended_with(&limited, "14");
        assert!(limited.ended_with_head, "{limited:?}");
        let large = message(&[b'x'; 100]);
        let refused = client.post(at("/small"), large, HeaderMap::new()).await.unwrap();
        ended_with(&refused, "8");
    });
}

#[test]
fn servers_that_cannot_be_reached_are_unavailable() {
    let edge = edge_to(Http2, crate::support::free_address(), "", "", "");
    run(async {
        let mut client = Client::open(edge.address).await;
        ended_with(&unary(&mut client, call("Unary")).await, "14");
    });
}
