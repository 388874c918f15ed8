use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpStream, UnixStream},
};

use super::*;

/// Answers every question as a control thread would.
async fn control(mut questions: mpsc::Receiver<Question>) {
    while let Some(question) = questions.recv().await {
        match question {
            Question::Health(answer) => {
                let filter = vec![Attached { interface: "eth0".into(), mode: "native".into() }];
                answer
                    .send(Health { status: "ok", workers: 2, generation: 1, pressure: "calm", filter })
                    .unwrap();
            }
            Question::Metrics(answer) => answer.send("portcullis_workers 2\n".into()).unwrap(),
            Question::Bans(answer) => answer.send(Err("no filter".into())).unwrap(),
        }
    }
}

async fn exchange(mut stream: impl AsyncRead + AsyncWrite + Unpin, request: &str) -> String {
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

fn start(address: &AdminAddress) -> Listener {
    bind(address).unwrap()
}

fn spawn(listener: Listener) {
    let (sender, receiver) = mpsc::channel(QUESTIONS_MAX);
    tokio::spawn(control(receiver));
    tokio::spawn(serve(listener, sender));
}

#[tokio::test]
async fn loopback_is_served_under_its_own_names_only() {
    let listener = start(&AdminAddress::Tcp("127.0.0.1:0".parse().unwrap()));
    let Listener::Tcp(tcp) = &listener else { panic!("TCP was asked for") };
    let address = tcp.local_addr().unwrap();
    spawn(listener);
    let get = async |target: &str, fields: &str| {
        let request = format!("GET {target} HTTP/1.1\r\nConnection: close\r\n{fields}\r\n");
        exchange(TcpStream::connect(address).await.unwrap(), &request).await
    };
    let local = format!("Host: {address}\r\n");
    let health = get("/health", &local).await;
    assert!(health.starts_with("HTTP/1.1 200"), "{health}");
    let expected = r#"{"status":"ok","workers":2,"generation":1,"pressure":"calm","filter":[{"interface":"eth0","mode":"native"}]}"#;
    assert!(health.ends_with(expected), "{health}");
    let metrics = get("/metrics", &local).await;
    assert!(metrics.starts_with("HTTP/1.1 200") && metrics.ends_with("portcullis_workers 2\n"), "{metrics}");
    let bans = get("/bans", &local).await;
    assert!(bans.starts_with("HTTP/1.1 500") && bans.ends_with("no filter\n"), "{bans}");
    assert!(get("/nothing", &local).await.starts_with("HTTP/1.1 404"));
    for fields in ["Host: attacker.example\r\n", "", "Host: localhost\r\nHost: localhost\r\n"] {
        let refused = get("/metrics", fields).await;
        assert!(refused.starts_with("HTTP/1.1 403") || refused.starts_with("HTTP/1.1 400"), "{refused}");
    }
    let absolute = get("http://attacker.example/metrics", "Host: localhost\r\n").await;
    assert!(absolute.starts_with("HTTP/1.1 403"), "{absolute}");
}

#[tokio::test]
async fn a_unix_socket_is_served_and_replaces_a_stale_one() {
    let directory = std::env::temp_dir().join(format!("portcullis-{}-admin", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let path = directory.join("admin.sock");
    let address = AdminAddress::Unix(path.clone());
    drop(start(&address));
    spawn(start(&address));
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
    let stream = UnixStream::connect(&path).await.unwrap();
    let health = exchange(stream, "GET /health HTTP/1.1\r\nHost: any\r\nConnection: close\r\n\r\n").await;
    assert!(health.starts_with("HTTP/1.1 200"), "{health}");
    assert!(bind(&address).is_err(), "somebody listens there");
    std::fs::remove_dir_all(directory).unwrap();
}

#[tokio::test]
async fn a_full_queue_is_an_answer() {
    let (sender, receiver) = mpsc::channel(1);
    sender.try_send(Question::Health(oneshot::channel().0)).unwrap();
    assert!(ask(&sender, Question::Metrics).await.is_none());
    drop(receiver);
    assert!(ask(&sender, Question::Metrics).await.is_none());
}

#[track_caller]
fn check_name(host: &str, expected: bool) {
    assert_eq!(is_loopback_name(host), expected, "{host}");
}

#[test]
fn only_loopback_has_loopback_names() {
    check_name("localhost", true);
    check_name("LocalHost:9901", true);
    check_name("127.0.0.1", true);
    check_name("127.0.0.1:9901", true);
    check_name("[::1]", true);
    check_name("[::1]:9901", true);
    check_name("", false);
    check_name("::1", false);
    check_name("[::1", false);
    check_name("[::2]", false);
    check_name("[::1]x", false);
    check_name("localhost:", false);
    check_name("localhost:x", false);
    check_name("localhost.attacker.example", false);
    check_name("127.0.0.1.attacker.example:80", false);
    check_name("127.0.0.2", false);
    check_name("attacker@localhost", false);
}
