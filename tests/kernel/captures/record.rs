//! Makes the captures anew: `cargo xtask build`, then the test's binary with `captures::record --ignored`. Needs curl,
//! ssh, dig, ping, dropbear and a busybox with udhcpc and udhcpd; whatever is missing is told, and its file left alone.

use std::{
    io::{self, Read, Write},
    net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::AsRawFd,
    path::Path,
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use xtask::lab::{
    netns::{Lab, Namespace},
    scratch::Scratch,
    wire::{self, INTERFACE, Wire},
};

use super::skipped;

const EDGE4: &str = "198.51.100.1";
const WORLD4: &str = "198.51.100.7";
const EDGE6: &str = "2001:db8:c::1";
const WORLD6: &str = "2001:db8:c::7";
/// Kernels have fallen silent by then.
const QUIET: Duration = Duration::from_secs(3);

/// The wire, its ends up and with addresses; what they say of themselves is over.
struct Stage {
    wire: Wire,
    lab: Lab,
    scratch: Scratch,
}

impl Stage {
    fn set(tags: &'static [u16], mtu: u32) -> Self {
        let lab = Lab::new().expect("namespaces");
        let wire = Wire::between(&lab, tags).expect("a wire");
        for (namespace, v4, v6) in [(&lab.edge, EDGE4, EDGE6), (&lab.world, WORLD4, WORLD6)] {
            namespace.sysctl(&format!("net/ipv6/conf/{INTERFACE}/accept_dad"), "0").expect("a setting");
            namespace.ip(&format!("link set {INTERFACE} mtu {mtu} up")).expect("up");
            namespace.ip(&format!("address add {v4}/25 dev {INTERFACE}")).expect("an address");
            namespace.ip(&format!("address add {v6}/64 dev {INTERFACE} nodad")).expect("an address");
        }
        pause(QUIET);
        wire.take();
        let stage = Self { wire, lab, scratch: Scratch::new().expect("a directory") };
        stage.lab.edge.enter(serve).expect("servers");
        stage
    }

    /// Runs a program of the world to its end, whatever that is; its output is for who records.
    fn run(&self, program: &str, arguments: &str) -> io::Result<()> {
        run(self.lab.world.command(program), arguments)
    }

    fn save(&self, name: &str) {
        // What was sent last is under way.
        pause(Duration::from_millis(300));
        save(name, &self.wire.take());
    }
}

/// What nobody tells is waited for.
#[expect(
    clippy::disallowed_methods,
    reason = "kernels and servers do not say when they have nothing more to send"
)]
fn pause(time: Duration) {
    thread::sleep(time);
}

fn run(mut command: Command, arguments: &str) -> io::Result<()> {
    let status = command.args(arguments.split_whitespace()).stdin(Stdio::null()).status()?;
    println!("{command:?}: {status}");
    Ok(())
}

fn save(name: &str, frames: &[Vec<u8>]) {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/kernel/captures");
    let bytes = wire::to_pcap(frames);
    println!("{name}: {} frames, {} bytes", frames.len(), bytes.len());
    std::fs::write(directory.join(name).with_extension("pcap"), bytes).expect("a capture");
}

/// HTTP on 443 and DNS on 53, for as long as this process lives.
fn serve() {
    let http = TcpListener::bind((Ipv6Addr::UNSPECIFIED, 443)).expect("HTTP");
    thread::spawn(move || http.incoming().flatten().for_each(|stream| drop(answer_http(stream))));
    let dns = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 53)).expect("DNS");
    thread::spawn(move || {
        let mut message = [0; 4_096];
        while let Ok((bytes, client)) = dns.recv_from(&mut message) {
            let _ = dns.send_to(&answer_dns(&message[..bytes]), client);
        }
    });
    let dns = TcpListener::bind((Ipv6Addr::UNSPECIFIED, 53)).expect("DNS over TCP");
    thread::spawn(move || {
        for mut stream in dns.incoming().flatten() {
            let mut message = [0; 4_096];
            if let Ok(bytes) = stream.read(&mut message)
                && bytes > 2
            {
                let _ = stream.write_all(&[&message[..2], &answer_dns(&message[2..bytes])[..]].concat());
            }
        }
    });
}

fn answer_http(mut stream: TcpStream) -> io::Result<()> {
    let (mut request, mut buffer) = (Vec::new(), [0; 4_096]);
    loop {
        let bytes = stream.read(&mut buffer)?;
        request.extend(&buffer[..bytes]);
        let text = String::from_utf8_lossy(&request).to_lowercase();
        let Some((head, _)) = text.split_once("\r\n\r\n") else { continue };
        let body_bytes =
            head.split("content-length: ").nth(1).and_then(|rest| rest.lines().next()?.parse().ok());
        if bytes == 0 || request.len() >= head.len() + 4 + body_bytes.unwrap_or(0) {
            break;
        }
    }
    stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nhello\n")
}

/// RFC 1035 §4.1.1: the question comes back as an answer without records.
fn answer_dns(question: &[u8]) -> Vec<u8> {
    let mut answer = question.to_vec();
    if let Some(flags) = answer.get_mut(2) {
        *flags |= 0x80;
    }
    answer
}

#[test]
#[ignore = "writes the files that the other tests read"]
fn record() {
    if skipped("kernel::captures::record::record") {
        return;
    }
    boot();
    for (what, recorded) in [
        ("curl", curl()),
        ("ssh", ssh()),
        ("dig", dig()),
        ("ping", ping()),
        ("dhcp", dhcp()),
        ("extension headers", extension_headers()),
    ] {
        if let Err(error) = recorded {
            println!("{what}: {error}");
        }
    }
}

/// What a host says when its interface comes up: neighbour discovery, multicast listeners.
fn boot() {
    let lab = Lab::new().expect("namespaces");
    let wire = Wire::between(&lab, &[]).expect("a wire");
    for namespace in [&lab.edge, &lab.world] {
        namespace.ip(&format!("link set {INTERFACE} up")).expect("up");
    }
    lab.world.ip(&format!("address add {WORLD6}/64 dev {INTERFACE}")).expect("an address");
    pause(2 * QUIET);
    save("boot", &wire.take());
}

fn curl() -> io::Result<()> {
    let (v4, v6) = (format!("-s http://{EDGE4}:443/"), format!("-s http://[{EDGE6}]:443/"));
    for (name, tags, mtu, arguments) in [
        ("curl4", &[][..], 1_500, v4.clone()),
        ("curl6", &[], 1_500, v6.clone()),
        ("curl4_vlan", &[0x8100], 1_500, v4.clone()),
        ("curl6_qinq", &[0x88a8, 0x8100], 1_500, v6),
        ("curl4_jumbo", &[], 9_000, v4.clone()),
    ] {
        let stage = Stage::set(tags, mtu);
        let mut arguments = arguments;
        if mtu > 1_500 {
            let body = stage.scratch.write("body", vec![b'x'; 10_000]).expect("a body");
            arguments = format!("{v4} --data-binary @{}", body.display());
        }
        stage.run("curl", &arguments)?;
        stage.save(name);
    }
    let stage = Stage::set(&[], 1_500);
    for (namespace, here, there, inner) in
        [(&stage.lab.edge, EDGE4, WORLD4, 1), (&stage.lab.world, WORLD4, EDGE4, 7)]
    {
        let tunnel = format!("link add vx0 type vxlan id 7 local {here} remote {there} dstport 4789");
        namespace.ip(&tunnel).expect("a VXLAN");
        namespace.ip(&format!("address add 203.0.113.{inner}/25 dev vx0")).expect("an address");
        namespace.ip("link set vx0 up").expect("up");
    }
    stage.run("curl", "-s http://203.0.113.1:443/")?;
    stage.save("curl4_vxlan");
    Ok(())
}

fn ssh() -> io::Result<()> {
    let stage = Stage::set(&[], 1_500);
    let key = stage.scratch.path().join("key");
    run(Command::new("dropbearkey"), &format!("-t ed25519 -f {}", key.display()))?;
    let server = format!("-F -E -p {EDGE4}:22 -r {}", key.display());
    let mut server = stage.lab.edge.command("dropbear").args(server.split_whitespace()).spawn()?;
    pause(Duration::from_secs(1));
    let options = "-o BatchMode=yes -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -F /dev/null";
    let ran = stage.run("ssh", &format!("{options} nobody@{EDGE4} true"));
    stage.save("ssh");
    server.kill()?;
    server.wait()?;
    ran
}

fn dig() -> io::Result<()> {
    let stage = Stage::set(&[], 1_500);
    for server in [EDGE4, EDGE6] {
        stage.run("dig", &format!("@{server} example.test +tries=1 +time=1"))?;
    }
    stage.run("dig", &format!("@{EDGE4} example.test +tries=1 +time=1 +tcp"))?;
    stage.save("dig");
    Ok(())
}

/// Alone, with options, in fragments.
fn ping() -> io::Result<()> {
    let stage = Stage::set(&[], 1_500);
    for how in ["", "-R", "-T tsonly", "-s 3000"] {
        stage.run("ping", &format!("-c 1 -W 1 {how} {EDGE4}"))?;
    }
    stage.save("ping4");
    for how in ["", "-s 3000"] {
        stage.run("ping", &format!("-6 -c 1 -W 1 {how} {EDGE6}"))?;
    }
    stage.save("ping6");
    Ok(())
}

/// The edge as a server, and as a client.
fn dhcp() -> io::Result<()> {
    let udhcpd = |stage: &Stage, namespace: &Namespace| {
        let leases = stage.scratch.write("leases", "").expect("a file");
        let settings = format!(
            "start 198.51.100.20\nend 198.51.100.30\ninterface {INTERFACE}\nlease_file {0}\npidfile {0}.pid\n",
            leases.display()
        );
        let settings = stage.scratch.write("udhcpd.conf", settings).expect("a file");
        namespace.command("busybox").args(["udhcpd", "-f", "-S"]).arg(settings).spawn()
    };
    let client = format!("udhcpc -f -n -q -t 3 -T 1 -R -i {INTERFACE} -s /bin/true");
    for (name, edge_serves) in [("dhcp_server", true), ("dhcp_client", false)] {
        let stage = Stage::set(&[], 1_500);
        let (edge, world) = (&stage.lab.edge, &stage.lab.world);
        let (server, asks) = if edge_serves { (edge, world) } else { (world, edge) };
        let mut server = udhcpd(&stage, server)?;
        pause(Duration::from_secs(1));
        let ran = run(asks.command("busybox"), &client);
        pause(Duration::from_secs(1));
        stage.save(name);
        server.kill()?;
        server.wait()?;
        ran?;
    }
    Ok(())
}

const HOP_BY_HOP: libc::c_int = 54;
const ROUTING: libc::c_int = 57;
const DESTINATION: libc::c_int = 59;
/// Six bytes of padding (RFC 8200 §4.2).
const PADDING: [u8; 8] = [0, 0, 1, 4, 0, 0, 0, 0];

/// Sockets that ask their kernel for extension headers: TCP, UDP, and UDP in fragments.
fn extension_headers() -> io::Result<()> {
    let stage = Stage::set(&[], 1_500);
    let set = |socket: &dyn AsRawFd, option: libc::c_int, value: &[u8]| {
        // SAFETY: the kernel reads as many bytes as the slice has.
        let result = unsafe {
            let bytes = libc::socklen_t::try_from(value.len()).unwrap_or(0);
            libc::setsockopt(socket.as_raw_fd(), libc::IPPROTO_IPV6, option, value.as_ptr().cast(), bytes)
        };
        println!("option {option}: {:?}", (result < 0).then(io::Error::last_os_error));
    };
    // RFC 8754 §2: a segment routing header whose only segment is the server.
    let server: Ipv6Addr = EDGE6.parse().expect("an address");
    let routing = [&[0, 2, 4, 0, 0, 0, 0, 0][..], &server.octets()].concat();
    let of_world = stage.lab.world.enter(|| -> io::Result<()> {
        let socket = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0))?;
        for (option, value) in [(HOP_BY_HOP, &PADDING[..]), (DESTINATION, &PADDING), (ROUTING, &routing)] {
            set(&socket, option, value);
            socket.send_to(b"a question", (server, 53))?;
        }
        socket.send_to(&[7; 3_000], (server, 53))?;
        let listener = SocketAddr::from((server, 443));
        let socket = socket2::Socket::new(socket2::Domain::IPV6, socket2::Type::STREAM, None)?;
        set(&socket, HOP_BY_HOP, &PADDING);
        set(&socket, DESTINATION, &PADDING);
        socket.connect(&listener.into())?;
        let mut stream = TcpStream::from(socket);
        stream.write_all(b"GET / HTTP/1.1\r\nhost: edge\r\n\r\n")?;
        stream.read_to_end(&mut Vec::new())?;
        Ok(())
    })?;
    stage.save("extension_headers");
    of_world
}
